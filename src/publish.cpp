// Publishing to a topic, and reading it without a subscription.
#include "log.hpp"
#include "message.hpp"
#include "payload.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace pgjobs {

static const Topic *open_topic(const char *name, const char *verb) {
    pg::require_writable(verb);
    const Topic *topic = get_topic(name);
    require_right(topic, Right::publish);
    log::lock_topic(topic);
    return topic;
}

static Datum key_datum(Datum key) { return CStringGetTextDatum(checked_key(key, "key")); }

// pgjobs.publish(topic, payload, key, headers) -> bigint
PGJOBS_FUNCTION(publish) {
    char *name = pg::required_string(fcinfo, 0, "topic");
    log::Draft draft{};
    draft.payload = checked_json(pg::required(fcinfo, 1, "payload"), "payload");
    if (pg::given(fcinfo, 2))
        draft.key = key_datum(PG_GETARG_DATUM(2));
    if (pg::given(fcinfo, 3))
        draft.headers = checked_headers(PG_GETARG_DATUM(3));
    int64 position;
    log::append(open_topic(name, "pgjobs.publish()"), &draft, 1, &position);
    PG_RETURN_INT64(position);
}

// pgjobs.publish_many(topic, payloads[], keys[], headers[]) -> bigint[]
PGJOBS_FUNCTION(publish_many) {
    char *name = pg::required_string(fcinfo, 0, "topic");
    pg::Elements payloads = pg::required_elements(fcinfo, 1, "payloads", JSONBOID);
    pg::Elements keys = pg::elements(fcinfo, 2, "keys", TEXTOID, pg::Nulls::allowed);
    pg::check_lengths(payloads, "payloads", keys, "keys");
    pg::Elements headers = pg::elements(fcinfo, 3, "headers", JSONBOID, pg::Nulls::allowed);
    pg::check_lengths(payloads, "payloads", headers, "headers");
    auto count = static_cast<Size>(payloads.count);
    auto *drafts = static_cast<log::Draft *>(
        palloc_extended(sizeof(log::Draft) * (count + 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    auto *positions =
        static_cast<int64 *>(palloc_extended(sizeof(int64) * (count + 1), MCXT_ALLOC_HUGE));
    for (int i = 0; i < payloads.count; i++) {
        drafts[i].payload = checked_json(payloads.data[i], "payload");
        if (keys.data != nullptr && !keys.nulls[i])
            drafts[i].key = key_datum(keys.data[i]);
        if (headers.data != nullptr && !headers.nulls[i])
            drafts[i].headers = checked_headers(headers.data[i]);
    }
    log::append(open_topic(name, "pgjobs.publish_many()"), drafts, payloads.count, positions);
    PG_RETURN_DATUM(pg::int64_array(positions, payloads.count));
}

// pgjobs.read(topic, after, max_messages) -> SETOF message
PGJOBS_FUNCTION(read) {
    char *name = pg::required_string(fcinfo, 0, "topic");
    int64 after = pg::ranged(pg::required_int64(fcinfo, 1, "after"), "after", 0, PG_INT64_MAX);
    int64 most = message::required_maximum(fcinfo, 2);
    const Topic *topic = get_topic(name);
    require_right(topic, subscribe);
    InitMaterializedSRF(fcinfo, 0);
    int64 count = 0;
    log::scan(topic, after == 0 ? topic->pruned_to : after, nullptr,
              [&](const log::Message &message) {
                  message::return_one(fcinfo, topic, message, 0);
                  return ++count < most;
              });
    PG_RETURN_NULL();
}

} // namespace pgjobs

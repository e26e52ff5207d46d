// What can be wrong with topics: nothing can be read behind a publisher that does not end, and who
// falls behind retention loses messages.
#include "acl.hpp"
#include "health.hpp"
#include "log_end.hpp"
#include "readers.hpp"
#include "settings.hpp"

namespace pgjobs::health {

constexpr int64 long_published = USECS_PER_MINUTE; // transactions end sooner
constexpr int64 late = 5 * USECS_PER_SEC;          // messages have their jobs by then

static const char *holder(TransactionId xid) {
    TransactionId top = SubTransGetTopmostTransaction(xid);
    int pid = BackendXidGetPid(top);
    return pid != 0 ? psprintf("process %d", pid)
                    : psprintf("transaction %u, probably a prepared one,", top);
}

static void check_publishers(FunctionCallInfo fcinfo, const acl::Visible &topics, TimestampTz now) {
    const char *detail = nullptr;
    int placeless = 0;
    for (int i = 0; i < topics.count; i++) {
        const Topic *topic = find_topic(topics.ids[i]);
        if (topic == nullptr)
            continue;
        if (!log_end::has_place(topic)) {
            placeless++;
            continue;
        }
        log::Reached reached = log::settle(topic);
        if (TransactionIdIsValid(reached.holder) && now - reached.held_since > long_published &&
            detail == nullptr)
            detail =
                psprintf("%s has published to topic \"%s\" %s ago and not ended: nobody reads "
                         "what came after",
                         holder(reached.holder), topic->name, in_words(now - reached.held_since));
    }
    if (placeless > 0)
        detail = psprintf("%d topics have no place in shared memory and cannot be used; raise "
                          "pgjobs.max_topics",
                          placeless);
    report(fcinfo, "topics", detail == nullptr,
           detail != nullptr ? detail : psprintf("%d, none is held back", topics.count));
}

static const char *fault_of(const readers::Reader &reader, TimestampTz now) {
    const char *what = reader.queue ? "queue" : "subscription";
    if (reader.position < reader.topic->pruned_to)
        return psprintf("%s \"%s\" has not read messages of topic \"%s\" that were dropped; see "
                        "pgjobs.seek()",
                        what, reader.name, reader.topic->name);
    if (!reader.queue || !reader.topic->home || !log_end::has_place(reader.topic))
        return nullptr;
    log::Lag lag = log::lag_of(reader.topic, reader.position);
    if (lag.messages == 0 || now - lag.since < late)
        return nullptr;
    return psprintf("queue \"%s\" waits for its jobs from topic \"%s\" since %s; see the server's "
                    "log",
                    reader.name, reader.topic->name, in_words(now - lag.since));
}

static void check_readers(FunctionCallInfo fcinfo, TimestampTz now) {
    readers::Readers readers = readers::all();
    const char *fault = nullptr;
    for (int i = 0; i < readers.count && fault == nullptr; i++)
        fault = fault_of(readers.list[i], now);
    report(fcinfo, "subscriptions", fault == nullptr,
           fault != nullptr ? fault : psprintf("%d, none has missed a message", readers.count));
}

void check_topics(FunctionCallInfo fcinfo, TimestampTz now) {
    if (RecoveryInProgress())
        return; // topics are not read there
    check_publishers(fcinfo, acl::visible_topics(), now);
    check_readers(fcinfo, now);
}

} // namespace pgjobs::health

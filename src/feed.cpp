#include "feed.hpp"

#include "changes.hpp"
#include "duty.hpp"
#include "inject.hpp"
#include "life.hpp"
#include "log.hpp"
#include "log_end.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "setback.hpp"
#include "shared.hpp"

namespace pgjobs::feed {

constexpr int batch = 500;        // messages of a feed in one go
constexpr int64 turn = 10 * 1000; // microseconds of a transaction, or one batch
constexpr int most_feeds = setback::batch;

// ---- which messages ----

// LIKE raises for a pattern that ends with an escape, but only once a key comes that far.
static void check_pattern(const char *pattern) {
    pg::check_text(pattern, "key_pattern", 255);
    size_t escapes = 0;
    for (size_t i = strlen(pattern); i > 0 && pattern[i - 1] == '\\'; i--)
        escapes++;
    if (escapes % 2 == 1)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"key_pattern\" ends with an escape"),
                errhint("It is a LIKE pattern: write \\\\ for a backslash."));
}

static bool matches(Datum key, Datum pattern) {
    return pattern == 0 ||
           (key != 0 &&
            DatumGetBool(DirectFunctionCall2Coll(textlike, C_COLLATION_OID, key, pattern)));
}

// ---- subscribe_queue ----

static constinit pg::Statement upsert_feed{
    "INSERT INTO pgjobs.feed AS f (id, queue_id, topic_id, position, key_pattern, stage, "
    "created_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.clock_timestamp()) "
    "ON CONFLICT (queue_id, topic_id) DO UPDATE SET key_pattern = excluded.key_pattern, "
    "stage = excluded.stage",
    {INT4OID, INT4OID, INT4OID, INT8OID, TEXTOID, INT2OID},
    nullptr};
static constinit pg::Statement delete_feed{
    "DELETE FROM pgjobs.feed WHERE queue_id = $1 AND topic_id = $2", {INT4OID, INT4OID}, nullptr};

struct Ends {
    const Queue *queue;
    const Topic *topic;
};
static Ends open_ends(FunctionCallInfo fcinfo, const char *verb) {
    char *queue = pg::required_string(fcinfo, 0, "queue");
    char *topic = pg::required_string(fcinfo, 1, "topic");
    pg::require_writable(verb);
    Ends ends = {get_queue(queue), get_topic(topic)};
    require_right(ends.queue, produce);
    require_right(ends.topic, subscribe);
    return ends;
}

// pgjobs.subscribe_queue(queue, topic, key_pattern, stage) -> void
PGJOBS_FUNCTION(subscribe_queue) {
    Ends ends = open_ends(fcinfo, "pgjobs.subscribe_queue()");
    char *pattern = pg::optional_string(fcinfo, 2);
    if (pattern != nullptr)
        check_pattern(pattern);
    char *stage = pg::optional_string(fcinfo, 3);
    int16 number = stage == nullptr ? 1 : stage_number(ends.queue, stage);
    life::lock_queue(ends.queue);
    log::lock_topic(ends.topic);
    log_end::set_fed(ends.topic); // before the place is looked up: whoever commits behind it calls
    int64 place = log::settle(ends.topic).position;
    auto id =
        static_cast<int32>(store::next_id(get_relname_relid("feed_id_seq", relations()->schema)));
    pg::as_owner([&] {
        pg::run(&upsert_feed, pg::value(id), pg::value(ends.queue->id), pg::value(ends.topic->id),
                pg::value(place), pg::value(pattern), pg::value(number));
    });
    changes::published(ends.topic->id);
    PG_RETURN_VOID();
}

// pgjobs.unsubscribe_queue(queue, topic) -> void
PGJOBS_FUNCTION(unsubscribe_queue) {
    Ends ends = open_ends(fcinfo, "pgjobs.unsubscribe_queue()");
    bool done = pg::as_owner([&] {
        return pg::run(&delete_feed, pg::value(ends.queue->id), pg::value(ends.topic->id)) > 0;
    });
    if (!done)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("queue \"%s\" does not subscribe to topic \"%s\"", ends.queue->name,
                       ends.topic->name),
                errhint("The view pgjobs.subscriptions lists the topics of each queue."));
    PG_RETURN_VOID();
}

// ---- the duty ----

struct Feed {
    int32 id;
    int32 queue;
    int32 topic;
};
// What it is to do; under the lock of its row, so that no message is taken by a pattern that was
// changed before it was published.
struct Order {
    int64 position;
    Datum pattern; // 0 without
    int16 stage;
};

static constinit pg::Statement select_feeds{
    "SELECT f.id, f.queue_id, f.topic_id FROM pgjobs.feed f "
    "JOIN pgjobs.queue q ON q.id = f.queue_id JOIN pgjobs.topic t ON t.id = f.topic_id "
    "WHERE EXISTS (SELECT FROM pgjobs.home h WHERE h.id = q.home AND h.database = $1) "
    "AND EXISTS (SELECT FROM pgjobs.home h WHERE h.id = t.home AND h.database = $1) "
    "AND ($2 = 0 OR f.id = $2) ORDER BY f.id <= $3, f.id LIMIT $4",
    {OIDOID, INT4OID, INT4OID, INT8OID},
    nullptr};

struct Feeds {
    Feed *list;
    int count;
};

// Those behind `last` first: each has its turn.
static Feeds read_feeds(int32 last) {
    MemoryContext caller = CurrentMemoryContext;
    Feeds feeds{};
    pg::as_owner([&] {
        uint64 count = pg::run(&select_feeds, pg::oid_value(MyDatabaseId),
                               pg::value(static_cast<int32>(setback::only())), pg::value(last),
                               pg::value(int64{most_feeds}));
        pg::in_context(caller, [&] {
            feeds.list = static_cast<Feed *>(palloc0(sizeof(Feed) * (count + 1)));
            feeds.count = static_cast<int>(count);
            for (uint64 i = 0; i < count; i++)
                feeds.list[i] = {pg::int32_at(i, 1), pg::int32_at(i, 2), pg::int32_at(i, 3)};
        });
    });
    return feeds;
}

static constinit pg::Statement lock_feed{
    "SELECT f.position, f.key_pattern, f.stage FROM pgjobs.feed f WHERE f.id = $1 "
    "FOR NO KEY UPDATE SKIP LOCKED",
    {INT4OID},
    nullptr};

// False if it is gone, or somebody has it.
static bool lock_order(const Feed &feed, Order *order) {
    MemoryContext caller = CurrentMemoryContext;
    return pg::as_owner([&] {
        if (pg::run(&lock_feed, pg::value(feed.id)) == 0)
            return false;
        order->position = pg::int64_at(0, 1);
        if (!pg::is_null(0, 2))
            order->pattern = pg::in_context(
                caller, [&] { return PointerGetDatum(PG_DETOAST_DATUM_COPY(pg::datum_at(0, 2))); });
        order->stage = pg::int16_at(0, 3);
        return true;
    });
}

static void push(JsonbParseState **state, const char *key, JsonbValue value) {
    JsonbValue name{};
    name.type = jbvString;
    name.val.string.val = const_cast<char *>(key);
    name.val.string.len = static_cast<int>(strlen(key));
    pushJsonbValue(state, WJB_KEY, &name);
    pushJsonbValue(state, WJB_VALUE, &value);
}

static JsonbValue string_value(const char *text, int length) {
    JsonbValue value{};
    value.type = jbvString;
    value.val.string.val = const_cast<char *>(text);
    value.val.string.len = length;
    return value;
}

// {"message": {"topic", "position", "key", "published_at"}}
static Datum make_origin(const Topic *topic, const log::Message &message) {
    JsonbParseState *state = nullptr;
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    JsonbValue name = string_value("message", 7);
    pushJsonbValue(&state, WJB_KEY, &name);
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    push(&state, "topic", string_value(topic->name, static_cast<int>(strlen(topic->name))));
    JsonbValue position{};
    position.type = jbvNumeric;
    position.val.numeric = int64_to_numeric(message.position);
    push(&state, "position", position);
    if (message.key != 0) {
        text *key = DatumGetTextPP(message.key); // long ones are stored compressed
        push(&state, "key",
             string_value(VARDATA_ANY(key), static_cast<int>(VARSIZE_ANY_EXHDR(key))));
    }
    char at[MAXDATELEN + 1];
    int zone = 0;
    JsonEncodeDateTime(at, TimestampTzGetDatum(message.published_at), TIMESTAMPTZOID, &zone);
    push(&state, "published_at", string_value(at, static_cast<int>(strlen(at))));
    pushJsonbValue(&state, WJB_END_OBJECT, nullptr);
    return PointerGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr)));
}

static Datum make_headers(const Topic *topic, const log::Message &message) {
    Datum origin = make_origin(topic, message);
    return message.headers == 0 ? origin
                                : DirectFunctionCall2(jsonb_concat, message.headers, origin);
}

static constinit pg::Statement update_feed{
    "UPDATE pgjobs.feed SET position = $2 WHERE id = $1", {INT4OID, INT8OID}, nullptr};

struct Delivered {
    int64 jobs;
    bool more;
    bool held; // somebody changes it
};

// The jobs and the new place are of one transaction: each message becomes a job once.
static Delivered deliver_one(const Feed &feed, TimestampTz now) {
    const Queue *queue = find_queue(feed.queue);
    const Topic *topic = find_topic(feed.topic);
    Delivered delivered{};
    if (queue == nullptr || topic == nullptr)
        return delivered;
    life::lock_queue(queue);
    Order order{};
    if (!lock_order(feed, &order)) {
        delivered.held = true;
        return delivered;
    }
    log_end::set_fed(topic); // a prepared transaction may have subscribed before the server's start
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs message", ALLOCSET_DEFAULT_SIZES);
    int visited = 0;
    log::Reached reached = store::with_jobs([&](store::Table *jobs) {
        return log::scan(topic, order.position, log::raise_gap, [&](const log::Message &message) {
            if (matches(message.key, order.pattern)) {
                pg::in_context(scratch, [&] {
                    life::NewJob job{queue,
                                     order.stage,
                                     0,
                                     queue->max_attempts,
                                     now,
                                     never,
                                     message.payload,
                                     make_headers(topic, message),
                                     nullptr};
                    life::add(jobs, job, now);
                });
                MemoryContextReset(scratch);
                delivered.jobs++;
            }
            return ++visited < batch;
        });
    });
    MemoryContextDelete(scratch);
    delivered.more = visited == batch;
    PGJOBS_POINT("deliver-added");
    if (reached.position > order.position)
        pg::as_owner(
            [&] { pg::run(&update_feed, pg::value(feed.id), pg::value(reached.position)); });
    return delivered;
}

int64 deliver(TimestampTz now, bool *more, TimestampTz *next) {
    static int32 last; // the feed that had its turn last
    // One at a time. Not a lock of the table: a busy worker would keep VACUUM away from it.
    LockDatabaseObject(get_relname_relid("feed", relations()->schema), InvalidOid, 0,
                       ExclusiveLock);
    Feeds feeds = read_feeds(last);
    int64 ids[most_feeds];
    for (int i = 0; i < feeds.count; i++)
        ids[i] = feeds.list[i].id;
    setback::announce(ids, feeds.count);
    TimestampTz end = GetCurrentTimestamp() + turn;
    int64 jobs = 0;
    for (int i = 0; i < feeds.count; i++) {
        if (!setback::comes_to(feeds.list[i].id))
            continue;
        Delivered delivered = deliver_one(feeds.list[i], now);
        jobs += delivered.jobs;
        *more |= delivered.more;
        if (delivered.held) // a rollback tells nobody
            *next = Min(*next, now + USECS_PER_SEC);
        last = feeds.list[i].id;
        CHECK_FOR_INTERRUPTS();
        if (GetCurrentTimestamp() > end && i + 1 < feeds.count) {
            *more = true;
            break;
        }
    }
    return jobs;
}

// pgjobs._deliver(now timestamptz) -> bigint
PGJOBS_FUNCTION(_deliver) {
    PG_RETURN_INT64(duty::run_by_hand(fcinfo, "pgjobs._deliver()", deliver));
}

} // namespace pgjobs::feed

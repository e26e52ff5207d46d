// Subscriptions: a place in the log of a topic that one reader at a time moves on.
#include "changes.hpp"
#include "inject.hpp"
#include "life.hpp"
#include "log.hpp"
#include "log_end.hpp"
#include "message.hpp"
#include "payload.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "shared.hpp"
#include "spot.hpp"
#include "wait.hpp"

namespace pgjobs::subscription {

constexpr int64 shortest_lease = 1000; // microseconds

struct Subscription {
    int32 id;
    int32 topic;
    int64 position;
    int64 sent_to;
    int64 token;      // 0 without
    int64 done_token; // 0 without
    TimestampTz lease_expires_at;
    char name[core::longest_name + 1];
};

// ---- the row ----

#define COLUMNS                                                                                    \
    "SELECT s.id, s.topic_id, s.position, s.sent_to, COALESCE(s.token, 0), "                       \
    "COALESCE(s.done_token, 0), COALESCE(s.lease_expires_at, 'infinity'), s.ctid "                 \
    "FROM pgjobs.subscription s "

static constinit pg::Statement select_at_spot{
    COLUMNS "WHERE s.ctid = $2 AND s.name = $1", {TEXTOID, TIDOID}, nullptr};
static constinit pg::Statement select_by_name{COLUMNS "WHERE s.name = $1", {TEXTOID}, nullptr};

static spot::Row row_of(const char *name) {
    return {
        get_relname_relid("subscription", relations()->schema),
        hash_bytes(reinterpret_cast<const unsigned char *>(name), static_cast<int>(strlen(name)))};
}

// The row as it was committed last; false without.
static bool select(const char *name, Subscription *found) {
    return pg::as_owner([&] {
        pg::avoid_scans();
        pg::Value key = pg::value(name);
        if (pg::run(&select_at_spot, key, spot::known(row_of(name))) == 0 &&
            pg::run(&select_by_name, key) == 0)
            return false;
        *found = {pg::int32_at(0, 1), pg::int32_at(0, 2), pg::int64_at(0, 3), pg::int64_at(0, 4),
                  pg::int64_at(0, 5), pg::int64_at(0, 6), pg::int64_at(0, 7), {}};
        strlcpy(found->name, name, sizeof(found->name));
        spot::note(row_of(name), 8);
        return true;
    });
}

// Changes the row, which select() has found; nobody else does meanwhile but by plain SQL. The
// statement's first two arguments are id and ctid, and it returns the new ctid.
template <class... V>
static void update(pg::Statement *statement, const Subscription &changed, V... values) {
    pg::as_owner([&] {
        pg::avoid_scans();
        spot::Row row = row_of(changed.name);
        pg::Value key = pg::value(changed.name);
        pg::Value spot = spot::known(row);
        while (pg::run(statement, pg::value(changed.id), spot, values...) == 0) {
            if (pg::run(&select_by_name, key) == 0)
                return;
            spot = spot::note(row, 8);
        }
        spot::note(row, 1);
    });
}
#define UPDATE(changes)                                                                            \
    "UPDATE pgjobs.subscription s SET " changes " WHERE s.id = $1 AND s.ctid = $2 RETURNING "      \
    "s.ctid"

[[noreturn]] static void no_such(const char *name) {
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("subscription \"%s\" does not exist", pg::shown(name)),
            errhint("Check the name in the view pgjobs.subscriptions; pgjobs.subscribe() makes a "
                    "new subscription."));
    pg_unreachable();
}

// The subscription that the first argument names, and its topic; the current user may use it.
struct Use {
    Subscription subscription;
    const Topic *topic;
};
static Use use(FunctionCallInfo fcinfo) {
    char *name = pg::required_string(fcinfo, 0, "subscription");
    AcceptInvalidationMessages();
    Use use{};
    if (!core::is_name(name) || !select(name, &use.subscription))
        no_such(name);
    use.topic = find_topic(use.subscription.topic);
    if (use.topic == nullptr)
        no_such(name);
    require_right(use.topic, subscribe);
    return use;
}

// ---- the lock: one transaction at a time has a subscription in its hands ----

static LOCKTAG tag_of(int32 id) {
    LOCKTAG tag;
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, get_relname_relid("subscription", relations()->schema),
                       static_cast<Oid>(id), 0);
    return tag;
}

// Reads the row again: who had the lock may have changed it. False: somebody has it, or it is gone.
static bool lock(Use *use, bool wait) {
    LOCKTAG tag = tag_of(use->subscription.id);
    if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
        return false;
    AcceptInvalidationMessages();
    char name[core::longest_name + 1];
    strlcpy(name, use->subscription.name, sizeof(name));
    int32 id = use->subscription.id;
    if (!select(name, &use->subscription) || use->subscription.id != id)
        return false;
    use->topic = find_topic(use->subscription.topic);
    return use->topic != nullptr;
}

static void unlock(const Use &use) {
    LOCKTAG tag = tag_of(use.subscription.id);
    LockRelease(&tag, ExclusiveLock, false);
}

static bool is_locked(int32 id) {
    LOCKTAG tag = tag_of(id);
    int count;
    GetLockConflicts(&tag, ExclusiveLock, &count);
    return count > 0;
}

static void lock_or_fail(Use *use) {
    char *name = pstrdup(use->subscription.name);
    if (!lock(use, true))
        no_such(name);
}

static bool is_leased(const Subscription &subscription, TimestampTz now) {
    return subscription.token != 0 && subscription.lease_expires_at > now;
}

// ---- subscribe ----

static void check_one(bool position, bool time, const char *a, const char *b) {
    if (position && time)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"%s\" and \"%s\" exclude each other", a, b),
                errhint("Give the position or the time, not both."));
}

// The place before the message at `position`.
static int64 place_before(const Topic *topic, int64 position) {
    if (position <= 1)
        return topic->pruned_to;
    if (position <= topic->pruned_to)
        ereport(
            ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("position " INT64_FORMAT " of topic \"%s\" is not kept any more", position,
                   topic->name),
            errdetail("Messages up to position " INT64_FORMAT " were dropped.", topic->pruned_to),
            errhint("Give 0 for the oldest message kept."));
    return position - 1;
}

static int64 wanted_place(FunctionCallInfo fcinfo, int argument, const Topic *topic,
                          const char *position_name, const char *time_name) {
    check_one(pg::given(fcinfo, argument), pg::given(fcinfo, argument + 1), position_name,
              time_name);
    if (pg::given(fcinfo, argument))
        return place_before(topic,
                            pg::ranged(PG_GETARG_INT64(argument), position_name, 0, PG_INT64_MAX));
    if (pg::given(fcinfo, argument + 1))
        return log::place_before(topic, pg::finite(PG_GETARG_TIMESTAMPTZ(argument + 1), time_name));
    return log::settle(topic).position;
}

static constinit pg::Statement insert_subscription{
    "INSERT INTO pgjobs.subscription (id, topic_id, name, position, sent_to, created_at) "
    "VALUES ($1, $2, $3, $4, $4, pg_catalog.clock_timestamp()) ON CONFLICT (name) DO NOTHING",
    {INT4OID, INT4OID, TEXTOID, INT8OID},
    nullptr};

// pgjobs.subscribe(subscription, topic, from_position, from_time) -> void
PGJOBS_FUNCTION(subscribe) {
    char *name = pg::required_string(fcinfo, 0, "subscription");
    check_name(name, "subscription");
    char *topic_name = pg::required_string(fcinfo, 1, "topic");
    pg::require_writable("pgjobs.subscribe()");
    const Topic *topic = get_topic(topic_name);
    require_right(topic, Right::subscribe);
    log::lock_topic(topic);
    int64 place = wanted_place(fcinfo, 2, topic, "from_position", "from_time");
    auto id = static_cast<int32>(
        store::next_id(get_relname_relid("subscription_id_seq", relations()->schema)));
    bool made = pg::as_owner([&] {
        return pg::run(&insert_subscription, pg::value(id), pg::value(topic->id), pg::value(name),
                       pg::value(place)) == 1;
    });
    if (!made)
        ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT),
                errmsg("subscription \"%s\" already exists", name),
                errhint("Move it with pgjobs.seek(), or drop it with pgjobs.unsubscribe()."));
    PG_RETURN_VOID();
}

static constinit pg::Statement delete_subscription{
    "DELETE FROM pgjobs.subscription WHERE id = $1", {INT4OID}, nullptr};

// pgjobs.unsubscribe(subscription) -> void
PGJOBS_FUNCTION(unsubscribe) {
    pg::required(fcinfo, 0, "subscription");
    pg::require_writable("pgjobs.unsubscribe()");
    Use subscription = use(fcinfo);
    lock_or_fail(&subscription);
    pg::as_owner([&] { pg::run(&delete_subscription, pg::value(subscription.subscription.id)); });
    changes::published(subscription.topic->id); // who waits learns that it is gone
    PG_RETURN_VOID();
}

// ---- receive, ack, seek ----

static constinit pg::Statement update_leased{
    UPDATE("token = $3, lease_expires_at = $4, sent_to = $5, "
           "reader = pg_catalog.current_setting('application_name')"),
    {INT4OID, TIDOID, INT8OID, TIMESTAMPTZOID, INT8OID},
    nullptr};

// As with jobs, a lease that is lost in a crash does no harm: nobody need wait for the disk.
static void write_lease(const Use &use, int64 token, TimestampTz end, int64 sent_to) {
    changes::published(use.topic->id);
    changes::begin_claim(false);
    update(&update_leased, use.subscription, pg::value(token), pg::value(end), pg::value(sent_to));
    changes::end_claim();
}

[[noreturn]] static void lease_lost(const char *name) {
    ereport(ERROR, errcode(errcode_lease_lost),
            errmsg("the lease on subscription \"%s\" is lost", name),
            errdetail("It ended and somebody else has received since then, or the subscription "
                      "was moved."),
            errhint("Receive again; whatever this transaction did is rolled back."));
    pg_unreachable();
}

// Under which lease a call receives, and behind which position.
struct Turn {
    bool mine;
    int64 token;
    int64 after;
    TimestampTz lasts; // a heartbeat shortens no lease

    TimestampTz end_with(int64 lease) const { return Max(lasts, GetCurrentTimestamp() + lease); }
};

// `token`: of the lease that the caller has, 0 without. One that his own ack has ended does as well
// as none.
static Turn turn_of(const Subscription &place, int64 token) {
    if (token != 0 && place.token == token)
        return {true, token, place.sent_to, place.lease_expires_at};
    bool leased = is_leased(place, GetCurrentTimestamp());
    if (token != 0 && (leased || place.done_token != token))
        lease_lost(place.name);
    return {!leased, life::random_token(), place.position, 0};
}

// pgjobs.receive(subscription, max_messages, lease, token) -> SETOF message
PGJOBS_FUNCTION(receive) {
    pg::required(fcinfo, 0, "subscription");
    int64 most = message::required_maximum(fcinfo, 1);
    int64 lease = pg::required_interval(fcinfo, 2, "lease", shortest_lease);
    int64 held =
        pg::given(fcinfo, 3) ? pg::ranged(PG_GETARG_INT64(3), "token", 1, PG_INT64_MAX) : 0;
    pg::require_writable("pgjobs.receive()");
    Use reader = use(fcinfo);
    require_home(reader.topic);
    InitMaterializedSRF(fcinfo, 0);
    if (!settings::execute)
        PG_RETURN_NULL();
    if (held != 0)
        lock_or_fail(&reader);
    else if (!lock(&reader, false))
        PG_RETURN_NULL();
    Turn turn = turn_of(reader.subscription, held);
    int64 last = 0;
    int64 count = 0;
    if (turn.mine)
        log::scan(reader.topic, turn.after, {false, reader.subscription.name},
                  [&](const log::Message &message) {
                      message::return_one(fcinfo, reader.topic, message, turn.token);
                      last = message.position;
                      return ++count < most;
                  });
    if (last == 0 && turn.token == held)
        last = turn.after; // nothing new, but the lease goes on
    if (last == 0)
        unlock(reader);
    else
        write_lease(reader, turn.token, turn.end_with(lease), last);
    PGJOBS_POINT("receive-leased");
    PG_RETURN_NULL();
}

static constinit pg::Statement update_done{
    UPDATE("position = $3, token = NULL, lease_expires_at = NULL, done_token = $4"),
    {INT4OID, TIDOID, INT8OID, INT8OID},
    nullptr};
static constinit pg::Statement update_position{
    UPDATE("position = $3"), {INT4OID, TIDOID, INT8OID}, nullptr};

// pgjobs.ack(subscription, token, up_to) -> void
PGJOBS_FUNCTION(ack) {
    pg::required(fcinfo, 0, "subscription");
    int64 token = pg::required_int64(fcinfo, 1, "token");
    int64 up_to = pg::required_int64(fcinfo, 2, "up_to");
    pg::require_writable("pgjobs.ack()");
    Use reader = use(fcinfo);
    lock_or_fail(&reader);
    const Subscription &place = reader.subscription;
    if ((token == 0 || place.token != token) && !mutant(12)) {
        if (token == 0 || place.done_token != token || up_to > place.position)
            lease_lost(place.name);
        PG_RETURN_VOID(); // repeated
    }
    if (up_to > place.sent_to)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("position " INT64_FORMAT " was not received", up_to),
                errdetail("The last message under this lease has position " INT64_FORMAT ".",
                          place.sent_to),
                errhint("Acknowledge up to the position of a message that receive() returned."));
    if (up_to <= place.position)
        PG_RETURN_VOID();
    changes::published(reader.topic->id); // somebody may wait for what comes next
    if (up_to == place.sent_to)
        update(&update_done, place, pg::value(up_to), pg::value(token));
    else
        update(&update_position, place, pg::value(up_to));
    PGJOBS_POINT("ack-moved");
    PG_RETURN_VOID();
}

static constinit pg::Statement update_moved{
    UPDATE("position = $3, sent_to = $3, token = NULL, lease_expires_at = NULL, done_token = NULL"),
    {INT4OID, TIDOID, INT8OID},
    nullptr};

// pgjobs.seek(subscription, to_position, to_time) -> void
PGJOBS_FUNCTION(seek) {
    pg::required(fcinfo, 0, "subscription");
    if (!pg::given(fcinfo, 1) && !pg::given(fcinfo, 2))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("nowhere to move the subscription to"),
                errhint("Give to_position or to_time."));
    pg::require_writable("pgjobs.seek()");
    Use moved = use(fcinfo);
    lock_or_fail(&moved);
    int64 place = wanted_place(fcinfo, 1, moved.topic, "to_position", "to_time");
    changes::published(moved.topic->id);
    update(&update_moved, moved.subscription, pg::value(place));
    PG_RETURN_VOID();
}

// ---- wait_message ----

static bool has_message(const Subscription &awaited) {
    AcceptInvalidationMessages(); // the transaction began before the sleep, not after it
    Subscription subscription;
    bool found = select(awaited.name, &subscription) && subscription.id == awaited.id;
    const Topic *topic = found ? find_topic(subscription.topic) : nullptr;
    if (topic == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("the subscription was dropped while waiting"),
                errhint("Stop the reader, or subscribe again."));
    require_home(topic);
    if (!settings::execute)
        return false;
    TimestampTz now = GetCurrentTimestamp();
    if (is_leased(subscription, now)) {
        wait::look_again_in(subscription.lease_expires_at - now);
        return false;
    }
    if (is_locked(awaited.id)) {
        wait::look_again_in(wait::doubt);
        return false;
    }
    bool any = false;
    log::scan(topic, subscription.position, {false, subscription.name}, [&](const log::Message &) {
        any = true;
        return false;
    });
    return any;
}

// pgjobs.wait_message(subscription, timeout, INOUT ready)
PGJOBS_FUNCTION(wait_message) {
    pg::required(fcinfo, 0, "subscription");
    int64 deadline = wait::deadline_of(fcinfo, 1);
    wait::refuse_inside_transaction(fcinfo, "pgjobs.wait_message");
    PreventCommandDuringRecovery("CALL pgjobs.wait_message");
    Use reader = use(fcinfo);
    Purpose purpose{};
    purpose.topic = reader.topic->id;
    purpose.subscription = reader.subscription.id;
    bool ready = wait::until(purpose, deadline, [&] { return has_message(reader.subscription); });
    Datum value = BoolGetDatum(ready);
    bool null = false;
    PG_RETURN_DATUM(wait::return_record(fcinfo, &value, &null));
}

// ---- for the view ----

// pgjobs._lag(topic_id, place, OUT messages, OUT since)
PGJOBS_FUNCTION(_lag) {
    const Topic *topic = find_topic(DatumGetInt32(pg::required(fcinfo, 0, "topic_id")));
    int64 place = pg::required_int64(fcinfo, 1, "place");
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    Datum values[2] = {};
    bool nulls[2] = {true, true};
    if (topic != nullptr && !RecoveryInProgress() &&
        has_right(topic, monitor | Right::subscribe | own) && log_end::has_place(topic)) {
        log::Lag lag = log::lag_of(topic, place);
        values[0] = Int64GetDatum(lag.messages);
        values[1] = TimestampTzGetDatum(lag.since);
        nulls[0] = false;
        nulls[1] = lag.messages == 0;
    }
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

} // namespace pgjobs::subscription

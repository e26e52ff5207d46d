#include "topic.hpp"

#include "acl.hpp"
#include "changes.hpp"
#include "home.hpp"
#include "inject.hpp"
#include "log.hpp"
#include "log_end.hpp"
#include "payload.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "segment.hpp"
#include "shared.hpp"
#include "store.hpp"

namespace pgjobs::topic {

// ---- sequences ----

static Oid sequence_of(int32 topic) {
    char name[NAMEDATALEN];
    log_end::sequence_name(topic, name);
    return get_relname_relid(name, relations()->schema);
}

// It goes with the extension's table. Other than ALTER SEQUENCE OWNED BY, this takes no lock.
static void own_sequence(Oid sequence) {
    Oid table;
    int32 column;
    if (!OidIsValid(sequence) || sequenceIsOwned(sequence, DEPENDENCY_AUTO, &table, &column))
        return;
    ObjectAddress depender;
    ObjectAddress referenced;
    ObjectAddressSet(depender, RelationRelationId, sequence);
    ObjectAddressSubSet(referenced, RelationRelationId, relations()->log,
                        static_cast<int>(store::Line::position));
    recordDependencyOn(&depender, &referenced, DEPENDENCY_AUTO);
}

static void make_sequence(int32 topic) {
    char name[NAMEDATALEN];
    log_end::sequence_name(topic, name);
    pg::run_utility(
        psprintf("CREATE SEQUENCE pgjobs.%s INCREMENT BY " INT64_FORMAT, name, log_end::block));
    own_sequence(sequence_of(topic));
}

// A restore without data leaves tables and sequences whose ids are to be had again.
static int32 free_id(const char *sequence, Oid (*owner)(int32)) {
    Oid ids = get_relname_relid(sequence, relations()->schema);
    int32 id;
    do
        id = static_cast<int32>(store::next_id(ids));
    while (OidIsValid(owner(id)));
    return id;
}

static constinit pg::Statement select_sequences{
    "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relkind = 'S' "
    "AND c.relname ~ '^position_[0-9]+_seq$'",
    {OIDOID},
    nullptr};
static constinit pg::Statement select_at_home{
    "SELECT t.id FROM pgjobs.topic t JOIN pgjobs.home h ON h.id = t.home AND h.database = $1 "
    "ORDER BY t.id",
    {OIDOID},
    nullptr};

struct Ids {
    int32 *ids;
    int count;
};

static Ids read_ids(uint64 count) {
    Ids ids = {static_cast<int32 *>(palloc(sizeof(int32) * (count + 1))), static_cast<int>(count)};
    for (uint64 i = 0; i < count; i++)
        ids.ids[i] = pg::int32_at(i, 1);
    return ids;
}

void own_sequences() {
    pg::as_owner([] {
        uint64 count = pg::run(&select_sequences, pg::oid_value(relations()->schema));
        List *sequences = NIL; // read before another statement replaces the result
        for (uint64 i = 0; i < count; i++)
            sequences = lappend_oid(sequences, DatumGetObjectId(pg::datum_at(i, 1)));
        ListCell *cell;
        foreach (cell, sequences)
            own_sequence(lfirst_oid(cell));
    });
    CommandCounterIncrement(); // whatever is dropped next sees it
}

// ---- segments ----

static constinit pg::Statement close_segment{
    "UPDATE pgjobs.segment SET closed_at = $2 WHERE topic_id = $1 AND closed_at IS NULL",
    {INT4OID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement insert_segment{
    "INSERT INTO pgjobs.segment (id, topic_id, floor, opened_at) VALUES ($1, $2, $3, $4)",
    {INT4OID, INT4OID, INT8OID, TIMESTAMPTZOID},
    nullptr};

// ATTACH takes SHARE UPDATE EXCLUSIVE on the parent: neither readers nor writers wait. Taken first,
// it also keeps two makers apart. Rows are never updated, so pages are filled and there is nothing
// to vacuum.
static Oid make_table(int32 segment) {
    LockRelationOid(relations()->log, ShareUpdateExclusiveLock);
    char name[NAMEDATALEN];
    segment::name_of(segment, name);
    pg::use_default_storage();
    pg::run_utility(psprintf("CREATE TABLE pgjobs.%s (LIKE pgjobs.log INCLUDING DEFAULTS) "
                             "WITH (vacuum_truncate = off, toast.vacuum_truncate = off, "
                             "autovacuum_vacuum_insert_threshold = -1, "
                             "toast.autovacuum_vacuum_insert_threshold = -1)",
                             name));
    pg::run_utility(psprintf("CREATE INDEX %s_position ON pgjobs.%s (position)", name, name));
    pg::run_utility(psprintf("ALTER TABLE pgjobs.log ATTACH PARTITION pgjobs.%s "
                             "FOR VALUES IN (%d)",
                             name, segment));
    return get_relname_relid(name, relations()->schema);
}

// From the commit on, messages go to it.
static void make_segment(int32 topic, int64 retention, int64 floor, TimestampTz now) {
    LockRelationOid(relations()->log, ShareUpdateExclusiveLock); // ids rise as they commit
    int32 id = free_id("segment_id_seq", segment::table_of);
    Oid leaf = make_table(id);
    pg::run(&close_segment, pg::value(topic), pg::value(now));
    PGJOBS_POINT("segment-made");
    pg::run(&insert_segment, pg::value(id), pg::value(topic), pg::value(floor), pg::value(now));
    changes::segment_made(topic, id, leaf, log_end::span_of(retention));
}

// ---- create, alter, drop ----

static constinit pg::Statement insert_topic{
    "INSERT INTO pgjobs.topic (id, name, home, retention, pruned_to, created_at) "
    "VALUES ($1, $2, $3, $4, 0, pg_catalog.clock_timestamp())",
    {INT4OID, TEXTOID, INT8OID, INTERVALOID},
    nullptr};
static constinit pg::Statement update_topic{
    "UPDATE pgjobs.topic SET retention = COALESCE($2, retention) WHERE id = $1",
    {INT4OID, INTERVALOID},
    nullptr};

constexpr int64 shortest_retention = USECS_PER_SEC;

static int64 checked_retention(FunctionCallInfo fcinfo) {
    int64 retention = pg::required_interval(fcinfo, 1, "retention", 0);
    if (retention < shortest_retention)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("argument \"retention\" is out of range"),
                errhint("Give an interval of at least one second."));
    return retention;
}

// pgjobs.create_topic(name, retention) -> void
PGJOBS_FUNCTION(create_topic) {
    char *name = pg::required_string(fcinfo, 0, "name");
    check_name(name, "topic");
    int64 retention = checked_retention(fcinfo);
    pg::require_writable("pgjobs.create_topic()");
    int32 id = free_id("topic_id_seq", sequence_of);
    Oid creator = GetUserId();
    pg::as_owner([&] {
        int64 home = home::of_new();
        if (find_topic(name) != nullptr)
            ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT),
                    errmsg("topic \"%s\" already exists", name),
                    errhint("Take another name, or drop the topic with pgjobs.drop_topic()."));
        pg::run(&insert_topic, pg::value(id), pg::value(name), pg::value(home),
                pg::value(PG_GETARG_DATUM(1)));
        make_sequence(id);
        changes::topic_made(id);
        make_segment(id, retention, 1, GetCurrentTimestamp());
        log::last_position(find_topic(id)); // there must be a place for it
        acl::grant(acl::topics, id, creator, all_topic_rights);
    });
    PG_RETURN_VOID();
}

static const Topic *owned_topic(FunctionCallInfo fcinfo, const char *verb) {
    char *name = pg::required_string(fcinfo, 0, "name");
    pg::require_writable(verb);
    const Topic *topic = get_topic(name);
    require_right(topic, own);
    return topic;
}

// pgjobs.alter_topic(name, retention) -> void
PGJOBS_FUNCTION(alter_topic) {
    pg::required(fcinfo, 0, "name");
    int64 retention = pg::given(fcinfo, 1) ? checked_retention(fcinfo) : 0;
    const Topic *topic = owned_topic(fcinfo, "pgjobs.alter_topic()");
    if (retention == 0)
        PG_RETURN_VOID();
    pg::as_owner(
        [&] { pg::run(&update_topic, pg::value(topic->id), pg::value(PG_GETARG_DATUM(1))); });
    const Segment &newest = topic->segments[topic->segment_count - 1];
    changes::segment_made(topic->id, newest.id, InvalidOid, log_end::span_of(retention));
    changes::due_at(GetCurrentTimestamp());
    PG_RETURN_VOID();
}

static constinit pg::Statement select_event_source{
    "SELECT q.name FROM pgjobs.queue q WHERE q.events_topic = $1 ORDER BY q.name LIMIT 1",
    {INT4OID},
    nullptr};
static constinit pg::Statement delete_subscriptions{
    "DELETE FROM pgjobs.subscription WHERE topic_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_feeds{
    "DELETE FROM pgjobs.feed WHERE topic_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_segments{
    "DELETE FROM pgjobs.segment WHERE topic_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_acl{
    "DELETE FROM pgjobs.topic_acl WHERE topic_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_topic{
    "DELETE FROM pgjobs.topic WHERE id = $1", {INT4OID}, nullptr};

static void drop_relation(const char *kind, const char *name) {
    if (OidIsValid(get_relname_relid(name, relations()->schema)))
        pg::run_utility(psprintf("DROP %s pgjobs.%s", kind, quote_identifier(name)));
}

static void drop_log(const Topic *topic) {
    char name[NAMEDATALEN];
    for (int i = 0; i < topic->segment_count; i++) {
        segment::name_of(topic->segments[i].id, name);
        drop_relation("TABLE", name);
    }
    log_end::sequence_name(topic->id, name);
    drop_relation("SEQUENCE", name);
}

// pgjobs.drop_topic(name) -> boolean
PGJOBS_FUNCTION(drop_topic) {
    const Topic *topic = owned_topic(fcinfo, "pgjobs.drop_topic()");
    // Waits for transactions that have published; see log::lock_topic.
    LockDatabaseObject(relations()->topic, static_cast<Oid>(topic->id), 0, AccessExclusiveLock);
    topic = owned_topic(fcinfo, "pgjobs.drop_topic()");
    pg::as_owner([&] {
        pg::Value id = pg::value(topic->id);
        if (pg::run(&select_event_source, id) > 0)
            ereport(ERROR, errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                    errmsg("topic \"%s\" takes the events of queue \"%s\"", topic->name,
                           TextDatumGetCString(pg::datum_at(0, 1))),
                    errhint("Change that queue first: pgjobs.alter_queue(..., "
                            "events_topic => '')."));
        drop_log(topic);
        pg::run(&delete_subscriptions, id);
        pg::run(&delete_feeds, id);
        pg::run(&delete_segments, id);
        pg::run(&delete_acl, id);
        pg::run(&delete_topic, id);
    });
    changes::published(topic->id); // who waits learns that it is gone
    changes::segment_made(topic->id, 0, InvalidOid, 0);
    PG_RETURN_BOOL(true);
}

// ---- the duty ----

static constinit pg::Statement select_closed{
    "SELECT s.id, s.closed_at FROM pgjobs.segment s WHERE s.topic_id = $1 "
    "AND s.closed_at IS NOT NULL ORDER BY s.id",
    {INT4OID},
    nullptr};
static constinit pg::Statement select_slowest{
    "SELECT COALESCE(pg_catalog.min(f.position), $2) FROM pgjobs.feed f WHERE f.topic_id = $1",
    {INT4OID, INT8OID},
    nullptr};
static constinit pg::Statement delete_segment{
    "DELETE FROM pgjobs.segment WHERE id = $1", {INT4OID}, nullptr};
static constinit pg::Statement raise_pruned{
    "UPDATE pgjobs.topic SET pruned_to = $2 WHERE id = $1 AND pruned_to < $2",
    {INT4OID, INT8OID},
    nullptr};

// Only readers can be in the way, and then it is tried again: nobody ever waits behind us. What a
// queue subscribes to is kept until it has its jobs. False: later.
static bool drop_segment(const Topic *topic, int32 segment) {
    char name[NAMEDATALEN];
    segment::name_of(segment, name);
    Oid leaf = get_relname_relid(name, relations()->schema);
    if (log_end::is_current(topic, segment))
        return false;
    if (OidIsValid(leaf)) {
        if (!ConditionalLockRelationOid(relations()->log, AccessExclusiveLock))
            return false;
        if (!ConditionalLockRelationOid(leaf, AccessExclusiveLock)) {
            UnlockRelationOid(relations()->log, AccessExclusiveLock);
            return false;
        }
        int64 last = segment::last_in(segment);
        pg::run(&select_slowest, pg::value(topic->id), pg::value(last));
        if (pg::int64_at(0, 1) < last) {
            UnlockRelationOid(leaf, AccessExclusiveLock);
            UnlockRelationOid(relations()->log, AccessExclusiveLock);
            return false;
        }
        pg::run(&raise_pruned, pg::value(topic->id), pg::value(last));
        PGJOBS_POINT("segment-locked");
        drop_relation("TABLE", name);
        PGJOBS_POINT("segment-dropped");
    }
    pg::run(&delete_segment, pg::value(segment));
    return true;
}

struct Closed {
    int32 id;
    TimestampTz at;
};

// In order: what is kept is always the end of the log.
static int64 drop_old(const Topic *topic, TimestampTz now, TimestampTz *next) {
    uint64 count = pg::run(&select_closed, pg::value(topic->id));
    auto *closed = static_cast<Closed *>(palloc(sizeof(Closed) * (count + 1)));
    for (uint64 i = 0; i < count; i++)
        closed[i] = {pg::int32_at(i, 1), pg::int64_at(i, 2)};
    int64 dropped = 0;
    for (uint64 i = 0; i < count; i++) {
        TimestampTz end = closed[i].at + topic->retention;
        if (end > now) {
            *next = Min(*next, end);
            break;
        }
        if (!drop_segment(topic, closed[i].id)) {
            *next = Min(*next, now + Min(USECS_PER_MINUTE, topic->retention));
            break;
        }
        dropped++;
    }
    return dropped;
}

// Publishers go to the newest segment as soon as who made it has committed. It cannot have a
// successor before: in between, they would write above that one's floor, two segments back.
static void rotate(const Topic *topic, TimestampTz now, TimestampTz *next) {
    TimestampTz rotate_at = log_end::rotation_time(topic);
    if (rotate_at == never ||
        !log_end::is_current(topic, topic->segments[topic->segment_count - 1].id))
        return;
    if (rotate_at > now) {
        *next = Min(*next, rotate_at);
        return;
    }
    make_segment(topic->id, topic->retention, log_end::next_position(topic), now);
    *next = Min(*next, now + topic->retention);
}

int64 keep(TimestampTz now, TimestampTz *next) {
    Ids topics = read_ids(pg::run(&select_at_home, pg::oid_value(MyDatabaseId)));
    int64 dropped = 0;
    for (int i = 0; i < topics.count; i++) {
        const Topic *topic = find_topic(topics.ids[i]);
        if (topic == nullptr || !log_end::has_place(topic))
            continue; // health() says so
        own_sequence(sequence_of(topic->id));
        rotate(topic, now, next);
        dropped += drop_old(topic, now, next);
        CHECK_FOR_INTERRUPTS();
    }
    return dropped;
}

// pgjobs._keep_topics(now timestamptz) -> bigint
PGJOBS_FUNCTION(_keep_topics) {
    pg::require_writable("pgjobs._keep_topics()");
    require_administrator("run pgjobs' duties");
    TimestampTz now = pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 0, "now")), "now");
    TimestampTz next = never;
    int64 dropped = pg::as_owner([&] { return keep(now, &next); });
    PG_RETURN_INT64(dropped);
}

// ---- for the view ----

// pgjobs._topic_figures(topic_id, OUT last_position, first_position, first_published_at)
PGJOBS_FUNCTION(_topic_figures) {
    const Topic *topic = find_topic(DatumGetInt32(pg::required(fcinfo, 0, "topic_id")));
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    Datum values[3] = {};
    bool nulls[3] = {true, true, true};
    if (topic != nullptr && !RecoveryInProgress() && has_right(topic, monitor | subscribe | own) &&
        log_end::has_place(topic)) {
        values[0] = Int64GetDatum(log::last_position(topic));
        nulls[0] = false;
        log::scan(topic, 0, log::pass_gap, [&](const log::Message &first) {
            values[1] = Int64GetDatum(first.position);
            values[2] = TimestampTzGetDatum(first.published_at);
            nulls[1] = nulls[2] = false;
            return false;
        });
    }
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

} // namespace pgjobs::topic

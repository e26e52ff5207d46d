// Queues: create, alter, drop, pause, resume, purge.
#include "acl.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "history.hpp"
#include "home.hpp"
#include "life.hpp"
#include "log.hpp"
#include "payload.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "shared.hpp"

namespace pgjobs {

using store::Col;

constexpr int most_stages = 100;
constexpr int64 shortest_lease = 1000;

// ---- options ----

// The options of create_queue and alter_queue, checked; absent ones are NULL.
struct Options {
    pg::Elements stages;
    pg::Value lease, max_attempts, backoff, backoff_max, retention, dead_retention, notify,
        durable_claims;
    char *events_topic;
    char *dead_letter;
};

static pg::Value checked_interval(FunctionCallInfo fcinfo, int i, const char *name, int64 low) {
    if (!pg::given(fcinfo, i))
        return {};
    pg::microseconds(PG_GETARG_INTERVAL_P(i), name, low);
    return pg::value(PG_GETARG_DATUM(i));
}

static char *stage_at(const pg::Elements &stages, int i) {
    return TextDatumGetCString(stages.data[i]);
}

static void check_stages(const pg::Elements &stages) {
    if (stages.data == nullptr)
        return;
    if (stages.count < 1 || stages.count > most_stages)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("a queue cannot have %d stages", stages.count),
                errhint("Name 1 to %d stages, or leave the argument out for one.", most_stages));
    for (int i = 0; i < stages.count; i++) {
        check_name(stage_at(stages, i), "stage");
        for (int j = 0; j < i; j++)
            if (strcmp(stage_at(stages, i), stage_at(stages, j)) == 0)
                ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("stage \"%s\" is named twice", stage_at(stages, i)),
                        errhint("Give each stage a name of its own."));
    }
}

static pg::Value checked_notify(FunctionCallInfo fcinfo, int i) {
    if (!pg::given(fcinfo, i))
        return {};
    char *value = TextDatumGetCString(PG_GETARG_DATUM(i));
    if (strcmp(value, "off") != 0 && strcmp(value, "wakeup") != 0 && strcmp(value, "events") != 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"%s\" is not a value for \"notify\"", pg::shown(value)),
                errhint("Use off, wakeup or events."));
    return pg::value(PG_GETARG_DATUM(i));
}

// Both functions have the same arguments in the same places.
static Options read_options(FunctionCallInfo fcinfo) {
    Options options{};
    options.stages = pg::elements(fcinfo, 1, "stages", TEXTOID, pg::Nulls::refused);
    check_stages(options.stages);
    options.lease = checked_interval(fcinfo, 2, "lease", shortest_lease);
    if (pg::given(fcinfo, 3))
        options.max_attempts = pg::value(
            static_cast<int32>(pg::ranged(PG_GETARG_INT64(3), "max_attempts", 1, PG_INT32_MAX)));
    options.backoff = checked_interval(fcinfo, 4, "backoff", 0);
    options.backoff_max = checked_interval(fcinfo, 5, "backoff_max", 0);
    options.retention = checked_interval(fcinfo, 6, "retention", 0);
    options.dead_retention = checked_interval(fcinfo, 7, "dead_retention", 0);
    options.notify = checked_notify(fcinfo, 8);
    options.events_topic = pg::optional_string(fcinfo, 9);
    options.dead_letter = pg::optional_string(fcinfo, 10);
    if (pg::given(fcinfo, 11))
        options.durable_claims = pg::value(PG_GETARG_BOOL(11));
    return options;
}

// A NULL for what create_queue has a default for.
static void require_options(FunctionCallInfo fcinfo) {
    static const char *const names[] = {"lease",     "max_attempts",   "backoff", "backoff_max",
                                        "retention", "dead_retention", "notify"};
    for (int i = 0; i < static_cast<int>(lengthof(names)); i++)
        pg::required(fcinfo, i + 2, names[i]);
    pg::required(fcinfo, 11, "durable_claims");
}

static constinit pg::Statement select_letters{
    "WITH RECURSIVE chain (id) AS (SELECT $1::integer UNION "
    "SELECT q.dead_letter FROM chain c JOIN pgjobs.queue q ON q.id = c.id "
    "WHERE q.dead_letter IS NOT NULL) SELECT 1 FROM chain c WHERE c.id = $2",
    {INT4OID, INT4OID},
    nullptr};

// The id of the dead-letter queue of queue `id`; letters must not go round in circles.
static int32 dead_letter_id(const char *name, int32 id) {
    const Queue *target = get_queue(name);
    require_right(target, produce);
    bool circle = pg::as_owner(
        [&] { return pg::run(&select_letters, pg::value(target->id), pg::value(id)) > 0; });
    if (circle)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("dead letters of queue \"%s\" would come back to it", name),
                errhint("Name a queue that does not lead back here."));
    return target->id;
}

// The id of the topic that state changes of jobs are published to; keeps it from being dropped.
static int32 events_topic_id(const char *name) {
    const Topic *topic = get_topic(name);
    require_right(topic, publish);
    log::lock_topic(topic);
    return topic->id;
}

// ---- create, alter ----

// Both statements take the id and the options first, in the same order.
#define OPTION_TYPES                                                                               \
    INT4OID, INTERVALOID, INT4OID, INTERVALOID, INTERVALOID, INTERVALOID, INTERVALOID, TEXTOID,    \
        INT4OID, BOOLOID, INT4OID
struct Row {
    pg::Value values[13];
};
static Row row_of(int32 id, const Options &options, pg::Value letter, pg::Value events) {
    return {{pg::value(id), options.lease, options.max_attempts, options.backoff,
             options.backoff_max, options.retention, options.dead_retention, options.notify, letter,
             options.durable_claims, events}};
}

static constinit pg::Statement insert_queue{
    "INSERT INTO pgjobs.queue (id, lease, max_attempts, backoff, backoff_max, retention, "
    "dead_retention, notify, dead_letter, durable_claims, events_topic, name, home, paused, "
    "created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, false, "
    "pg_catalog.clock_timestamp())",
    {OPTION_TYPES, TEXTOID, INT8OID},
    nullptr};
static constinit pg::Statement insert_stage{
    "INSERT INTO pgjobs.stage (queue_id, number, name) VALUES ($1, $2, $3)",
    {INT4OID, INT2OID, TEXTOID},
    nullptr};

static void insert_stages(int32 queue, const pg::Elements &stages, int from) {
    for (int i = from; i < stages.count; i++)
        pg::run(&insert_stage, pg::value(queue), pg::value(static_cast<int16>(i + 1)),
                pg::value(stages.data[i]));
}

static void prepare_history(FunctionCallInfo fcinfo, int retention_argument, TimestampTz now) {
    if (pg::given(fcinfo, retention_argument))
        history::prepare_partitions(
            pg::microseconds(PG_GETARG_INTERVAL_P(retention_argument), "retention", 0), now);
}

// pgjobs.create_queue(name, stages, lease, max_attempts, backoff, backoff_max, retention,
// dead_retention, notify, events_topic, dead_letter, durable_claims) -> void
PGJOBS_FUNCTION(create_queue) {
    char *name = pg::required_string(fcinfo, 0, "name");
    check_name(name, "queue");
    require_options(fcinfo);
    Options options = read_options(fcinfo);
    pg::require_writable("pgjobs.create_queue()");
    auto id = static_cast<int32>(store::next_id(relations()->queue_id_seq));
    pg::Value letter{};
    if (options.dead_letter != nullptr)
        letter = pg::value(dead_letter_id(options.dead_letter, id));
    pg::Value events{};
    if (options.events_topic != nullptr)
        events = pg::value(events_topic_id(options.events_topic));
    Oid creator = GetUserId();
    pg::as_owner([&] {
        int64 home = home::of_new();
        if (find_queue(name) != nullptr)
            ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT),
                    errmsg("queue \"%s\" already exists", name),
                    errhint("Change it with pgjobs.alter_queue()."));
        Row row = row_of(id, options, letter, events);
        row.values[11] = pg::value(name);
        row.values[12] = pg::value(home);
        pg::run(&insert_queue, static_cast<const pg::Value *>(row.values));
        if (options.stages.data == nullptr)
            pg::run(&insert_stage, pg::value(id), pg::value(static_cast<int16>(1)),
                    pg::value("work"));
        insert_stages(id, options.stages, 0);
        acl::grant(acl::queues, id, creator, all_rights);
        TimestampTz now = GetCurrentTimestamp();
        prepare_history(fcinfo, 6, now);
        prepare_history(fcinfo, 7, now);
    });
    changes::stages_made(id, 1, static_cast<int16>(Max(options.stages.count, 1)));
    PG_RETURN_VOID();
}

static constinit pg::Statement update_queue{
    "UPDATE pgjobs.queue SET lease = COALESCE($2, lease), "
    "max_attempts = COALESCE($3, max_attempts), backoff = COALESCE($4, backoff), "
    "backoff_max = COALESCE($5, backoff_max), retention = COALESCE($6, retention), "
    "dead_retention = COALESCE($7, dead_retention), notify = COALESCE($8, notify), "
    "dead_letter = CASE WHEN $9 IS NULL THEN dead_letter WHEN $9 = 0 THEN NULL ELSE $9 END, "
    "durable_claims = COALESCE($10, durable_claims), "
    "events_topic = CASE WHEN $11 IS NULL THEN events_topic WHEN $11 = 0 THEN NULL ELSE $11 END "
    "WHERE id = $1",
    {OPTION_TYPES},
    nullptr};

// Jobs carry the numbers of stages: the ones that are there stay where they are.
static void check_appended(const Queue *queue, const pg::Elements &stages) {
    if (stages.data == nullptr)
        return;
    bool kept = stages.count >= queue->stage_count;
    for (int i = 0; kept && i < queue->stage_count; i++)
        kept = strcmp(queue->stages[i], stage_at(stages, i)) == 0;
    if (!kept)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("the stages of queue \"%s\" can only be appended to", queue->name),
                errhint("Give the present stages in their order, and new ones behind them."));
}

static const Queue *owned_queue(FunctionCallInfo fcinfo, Right right, const char *verb) {
    char *name = pg::required_string(fcinfo, 0, "name");
    pg::require_writable(verb);
    const Queue *queue = get_queue(name);
    require_right(queue, right);
    return queue;
}

// pgjobs.alter_queue(name, the options of create_queue) -> void
PGJOBS_FUNCTION(alter_queue) {
    pg::required(fcinfo, 0, "name");
    Options options = read_options(fcinfo);
    const Queue *queue = owned_queue(fcinfo, own, "pgjobs.alter_queue()");
    check_appended(queue, options.stages);
    int32 id = queue->id;
    int16 old_count = queue->stage_count;
    pg::Value letter{};
    if (options.dead_letter != nullptr)
        letter = pg::value(
            options.dead_letter[0] == '\0' ? 0 : dead_letter_id(options.dead_letter, queue->id));
    pg::Value events{};
    if (options.events_topic != nullptr)
        events =
            pg::value(options.events_topic[0] == '\0' ? 0 : events_topic_id(options.events_topic));
    pg::as_owner([&] {
        const Row row = row_of(queue->id, options, letter, events);
        pg::run(&update_queue, row.values);
        insert_stages(queue->id, options.stages, queue->stage_count);
        TimestampTz now = GetCurrentTimestamp();
        prepare_history(fcinfo, 6, now);
        prepare_history(fcinfo, 7, now);
    });
    if (options.stages.count > old_count)
        changes::stages_made(id, static_cast<int16>(old_count + 1),
                             static_cast<int16>(options.stages.count));
    PG_RETURN_VOID();
}

// ---- pause, resume ----

static constinit pg::Statement update_paused{
    "UPDATE pgjobs.queue SET paused = $2 WHERE id = $1 AND paused <> $2",
    {INT4OID, BOOLOID},
    nullptr};

static void set_paused(const Queue *queue, bool paused) {
    pg::as_owner([&] { pg::run(&update_paused, pg::value(queue->id), pg::value(paused)); });
    if (!paused)
        changes::wake_queue(queue->id);
}

// pgjobs.pause_queue(name) -> void
PGJOBS_FUNCTION(pause_queue) {
    set_paused(owned_queue(fcinfo, operate, "pgjobs.pause_queue()"), true);
    PG_RETURN_VOID();
}

// pgjobs.resume_queue(name) -> void
PGJOBS_FUNCTION(resume_queue) {
    set_paused(owned_queue(fcinfo, operate, "pgjobs.resume_queue()"), false);
    PG_RETURN_VOID();
}

// ---- purge, drop ----

static constinit pg::Statement select_open{
    "SELECT j.id FROM pgjobs.job j WHERE j.queue_id = $1 AND j.id > $2 AND "
    "($3 OR j.waiting <> 0 OR j.token IS NULL) ORDER BY j.id LIMIT 1000",
    {INT4OID, INT8OID, BOOLOID},
    nullptr};

struct IdBatch {
    int64 ids[1000];
    uint64 count;
};

static IdBatch *list_open(int32 queue, int64 after, bool running) {
    auto *list = static_cast<IdBatch *>(palloc0(sizeof(IdBatch)));
    pg::as_owner([&] {
        pg::avoid_sorts();
        list->count = pg::run(&select_open, pg::value(queue), pg::value(after), pg::value(running));
        for (uint64 i = 0; i < list->count; i++)
            list->ids[i] = pg::int64_at(i, 1);
    });
    return list;
}

// Removes the open jobs of a queue without a trace; the running ones too if `running`.
static int64 remove_open(int32 queue, bool running) {
    int64 removed = 0;
    int64 after = 0;
    uint64 count;
    do {
        IdBatch *list = list_open(queue, after, running);
        count = list->count;
        changes::final_state = core::State::ready; // removed, not finished: nothing to count
        removed += store::with_jobs([&](store::Table *jobs) {
            int64 gone = 0;
            for (uint64 i = 0; i < list->count; i++) {
                CHECK_FOR_INTERRUPTS();
                after = list->ids[i];
                if (!store::find(jobs, after, LockWaitBlock) ||
                    (!running && store::has(jobs, Col::token)))
                    continue;
                store::remove(jobs);
                gone++;
            }
            return gone;
        });
        pfree(list);
    } while (count == lengthof(IdBatch::ids));
    return removed;
}

// pgjobs.purge_queue(name) -> bigint
PGJOBS_FUNCTION(purge_queue) {
    const Queue *queue = owned_queue(fcinfo, operate, "pgjobs.purge_queue()");
    PG_RETURN_INT64(remove_open(queue->id, false));
}

static constinit pg::Statement select_feeders{
    "SELECT q.name FROM pgjobs.queue q WHERE q.dead_letter = $1 AND q.id <> $1 "
    "ORDER BY q.name LIMIT 1",
    {INT4OID},
    nullptr};
static constinit pg::Statement clear_feeders{
    "UPDATE pgjobs.queue SET dead_letter = NULL WHERE dead_letter = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_history{
    "DELETE FROM pgjobs.history WHERE queue_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_acl{
    "DELETE FROM pgjobs.acl WHERE queue_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_stages{
    "DELETE FROM pgjobs.stage WHERE queue_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_feeds{
    "DELETE FROM pgjobs.feed WHERE queue_id = $1", {INT4OID}, nullptr};
static constinit pg::Statement delete_queue{
    "DELETE FROM pgjobs.queue WHERE id = $1", {INT4OID}, nullptr};

static void check_droppable(const Queue *queue) {
    IdBatch *open = list_open(queue->id, 0, true);
    if (open->count > 0)
        ereport(ERROR, errcode(ERRCODE_OBJECT_IN_USE),
                errmsg("queue \"%s\" has open jobs", queue->name),
                errdetail("Job " INT64_FORMAT " is one of them.", open->ids[0]),
                errhint("Let them finish, or call pgjobs.drop_queue(..., force => true) to drop "
                        "them too."));
    pfree(open);
    pg::as_owner([&] {
        if (pg::run(&select_feeders, pg::value(queue->id)) > 0)
            ereport(ERROR, errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                    errmsg("queue \"%s\" takes the dead letters of queue \"%s\"", queue->name,
                           TextDatumGetCString(pg::datum_at(0, 1))),
                    errhint("Change that queue first, or drop this one with force => true."));
    });
}

// pgjobs.drop_queue(name, force) -> boolean
PGJOBS_FUNCTION(drop_queue) {
    pg::required(fcinfo, 0, "name");
    bool force = pg::required_bool(fcinfo, 1, "force");
    const Queue *queue = owned_queue(fcinfo, own, "pgjobs.drop_queue()");
    // Waits for transactions that are adding jobs; see life::lock_queue.
    LockDatabaseObject(relations()->queue, static_cast<Oid>(queue->id), 0, AccessExclusiveLock);
    queue = owned_queue(fcinfo, own, "pgjobs.drop_queue()");
    if (!force)
        check_droppable(queue);
    remove_open(queue->id, true);
    pg::as_owner([&] {
        pg::Value id = pg::value(queue->id);
        pg::run(&clear_feeders, id);
        pg::run(&delete_history, id);
        pg::run(&delete_acl, id);
        pg::run(&delete_stages, id);
        pg::run(&delete_feeds, id);
        pg::run(&delete_queue, id);
    });
    changes::queue_dropped(queue->id); // who waits learns that it is gone
    PG_RETURN_BOOL(true);
}

} // namespace pgjobs

// Managing: cancel, retry, redrive, reschedule, reprioritize, and looking at one job.
#include "inject.hpp"
#include "life.hpp"
#include "lookup.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace pgjobs {

using core::State;
using store::Col;

// Runs `step(jobs, queue, now)` on the open job, locked, and returns what it returns; false if
// there is no such open job. Needs the right to operate the queue.
template <class F> static bool on_open_job(int64 id, F step) {
    return store::with_jobs([&](store::Table *jobs) {
        if (!store::find(jobs, id, LockWaitBlock))
            return false;
        const Queue *queue = find_queue(store::get_int32(jobs, Col::queue_id));
        if (queue == nullptr)
            return false;
        require_right(queue, operate);
        return step(jobs, queue, GetCurrentTimestamp());
    });
}

// pgjobs.cancel(id) -> boolean
PGJOBS_FUNCTION(cancel) {
    int64 id = pg::required_int64(fcinfo, 0, "id");
    pg::require_writable("pgjobs.cancel()");
    PG_RETURN_BOOL(on_open_job(id, [](store::Table *jobs, const Queue *queue, TimestampTz now) {
        history::Archive archive{};
        life::cancel(jobs, &archive, queue, nullptr, now);
        history::close(&archive);
        return true;
    }));
}

// pgjobs.reschedule(id, run_at) -> boolean
PGJOBS_FUNCTION(reschedule) {
    int64 id = pg::required_int64(fcinfo, 0, "id");
    TimestampTz run_at =
        pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 1, "run_at")), "run_at");
    pg::require_writable("pgjobs.reschedule()");
    PG_RETURN_BOOL(on_open_job(id, [&](store::Table *jobs, const Queue *, TimestampTz now) {
        State state = life::state_of(jobs);
        if (state != State::ready && state != State::scheduled)
            return false;
        store::start_row(jobs);
        store::set(jobs, Col::rev, Int32GetDatum(store::get_int32(jobs, Col::rev) + 1));
        store::set(jobs, Col::due_at, TimestampTzGetDatum(run_at));
        store::set(jobs, Col::waiting, Int16GetDatum(run_at > now ? 1 : 0));
        store::update(jobs);
        return true;
    }));
}

// pgjobs.reprioritize(id, priority) -> boolean
PGJOBS_FUNCTION(reprioritize) {
    int64 id = pg::required_int64(fcinfo, 0, "id");
    int64 priority = pg::ranged(pg::required_int64(fcinfo, 1, "priority"), "priority", PG_INT16_MIN,
                                PG_INT16_MAX);
    pg::require_writable("pgjobs.reprioritize()");
    PG_RETURN_BOOL(on_open_job(id, [&](store::Table *jobs, const Queue *, TimestampTz) {
        store::start_row(jobs);
        store::set(jobs, Col::priority, Int16GetDatum(static_cast<int16>(priority)));
        store::update(jobs);
        return true;
    }));
}

// ---- from history back to life ----

#define FINISHED "SELECT h.id, h.queue_id, h.tableoid, h.ctid, h.unique_key FROM pgjobs.history h "

static constinit pg::Statement select_finished{
    FINISHED "WHERE h.id = $1 AND h.payload IS NOT NULL", {INT8OID}, nullptr};
static constinit pg::Statement select_dead{
    FINISHED "WHERE h.queue_id = $1 AND h.state = 1 AND h.payload IS NOT NULL AND h.id > $2 "
             "ORDER BY h.id",
    {INT4OID, INT8OID},
    nullptr};

// A completed job begins at the first stage, without a result, its last attempt with the others; a
// dead or cancelled one goes on where it stopped.
static constinit pg::Statement revive_one{
    "WITH added AS (INSERT INTO pgjobs.job (id, due_at, enqueued_at, queue_id, attempt, "
    "max_attempts, rev, stage, priority, waiting, payload, headers, result, group_key, "
    "unique_key, error, attempts) "
    "SELECT h.id, pg_catalog.clock_timestamp(), h.enqueued_at, h.queue_id, 0, h.max_attempts, "
    "h.rev + 1, CASE WHEN h.state = 0 THEN 1 ELSE h.stage END, h.priority, 0, h.payload, "
    "h.headers, CASE WHEN h.state = 0 THEN NULL ELSE h.result END, h.group_key, h.unique_key, "
    "h.error, CASE WHEN h.state = 0 THEN COALESCE(h.attempts, '[]') || "
    "pg_catalog.jsonb_build_object('stage', s.name, 'attempt', h.attempt, 'worker', h.worker, "
    "'started_at', h.started_at, 'finished_at', h.finished_at, 'outcome', 'completed', "
    "'error', NULL) ELSE h.attempts END FROM pgjobs.history h "
    "JOIN pgjobs.stage s ON s.queue_id = h.queue_id AND s.number = h.stage "
    "WHERE h.id = $1 AND h.payload IS NOT NULL "
    "ON CONFLICT (queue_id, unique_key) WHERE unique_key IS NOT NULL DO NOTHING RETURNING id) "
    "DELETE FROM pgjobs.history h USING added a WHERE h.id = a.id AND h.payload IS NOT NULL",
    {INT8OID},
    nullptr};

struct Finished {
    int64 id;
    int32 queue;
    Oid leaf;
    ItemPointerData tid;
    char *key; // nullptr without
};

// Row `row` of the last result. The key is copied to `caller`.
static Finished finished_at(uint64 row, MemoryContext caller) {
    Finished job{};
    job.id = pg::int64_at(row, 1);
    job.queue = pg::int32_at(row, 2);
    job.leaf = DatumGetObjectId(pg::datum_at(row, 3));
    job.tid = *reinterpret_cast<ItemPointer>(DatumGetPointer(pg::datum_at(row, 4)));
    if (!pg::is_null(row, 5))
        job.key = pg::in_context(caller, [&] { return TextDatumGetCString(pg::datum_at(row, 5)); });
    return job;
}

enum class Revival { done, gone, key_taken };

// The row is locked and the key looked up first: the statement then meets nobody, so that it raises
// no 40001 in any isolation level.
static Revival revive(const Finished &job) {
    if (!history::lock(job.leaf, job.tid))
        return Revival::gone;
    PGJOBS_POINT("retry-locked");
    if (job.key != nullptr && store::holder_of(job.queue, job.key) != 0)
        return Revival::key_taken;
    bool done = pg::as_owner([&] {
        pg::avoid_scans();
        return pg::run(&revive_one, pg::value(job.id)) == 1;
    });
    return done ? Revival::done : Revival::key_taken;
}

// pgjobs.retry(id) -> boolean
PGJOBS_FUNCTION(retry) {
    int64 id = pg::required_int64(fcinfo, 0, "id");
    pg::require_writable("pgjobs.retry()");
    MemoryContext caller = CurrentMemoryContext;
    Finished job = pg::as_owner([&] {
        return pg::run(&select_finished, pg::value(id)) == 0 ? Finished{} : finished_at(0, caller);
    });
    const Queue *queue = job.id != 0 ? find_queue(job.queue) : nullptr;
    if (queue == nullptr)
        PG_RETURN_BOOL(false);
    require_right(queue, operate);
    life::lock_queue(queue);
    Revival revival = revive(job);
    if (revival == Revival::key_taken)
        ereport(ERROR, errcode(ERRCODE_UNIQUE_VIOLATION),
                errmsg("another open job has the unique key of job " INT64_FORMAT, id),
                errhint("Retry it when that job is finished."));
    PG_RETURN_BOOL(revival == Revival::done);
}

struct Dead {
    Finished *jobs;
    uint64 count;
};

static Dead list_dead(int32 queue, int64 after, uint64 most) {
    MemoryContext caller = CurrentMemoryContext;
    return pg::as_owner([&] {
        pg::avoid_sorts();
        const pg::Value values[] = {pg::value(queue), pg::value(after)};
        Dead dead{};
        dead.count = pg::run(&select_dead, values, most);
        dead.jobs = static_cast<Finished *>(
            MemoryContextAlloc(caller, sizeof(Finished) * Max(dead.count, uint64{1})));
        for (uint64 i = 0; i < dead.count; i++)
            dead.jobs[i] = finished_at(i, caller);
        return dead;
    });
}

// pgjobs.redrive(queue, max_jobs) -> bigint
PGJOBS_FUNCTION(redrive) {
    char *name = pg::required_string(fcinfo, 0, "queue");
    int64 most = pg::given(fcinfo, 1) ? pg::ranged(PG_GETARG_INT64(1), "max_jobs", 1, PG_INT64_MAX)
                                      : PG_INT64_MAX;
    pg::require_writable("pgjobs.redrive()");
    const Queue *queue = get_queue(name);
    require_right(queue, operate);
    life::lock_queue(queue);
    int64 revived = 0;
    int64 after = 0;
    uint64 count;
    do {
        Dead dead = list_dead(queue->id, after, 1000);
        count = dead.count;
        for (uint64 i = 0; i < count && revived < most; i++) {
            after = dead.jobs[i].id;
            if (revive(dead.jobs[i]) == Revival::done)
                revived++;
            CHECK_FOR_INTERRUPTS();
        }
        pfree(dead.jobs);
    } while (count == 1000 && revived < most);
    PG_RETURN_INT64(revived);
}

// ---- looking ----

#define JOB_COLUMNS                                                                                \
    "SELECT j.id, q.name, s.name, CASE WHEN j.waiting = 2 THEN 'blocked' "                         \
    "WHEN j.waiting = 1 THEN 'scheduled' WHEN j.token IS NULL THEN 'ready' ELSE 'running' END, "   \
    "j.priority::integer, j.attempt, j.max_attempts, "                                             \
    "CASE WHEN $2 THEN j.payload END, CASE WHEN $2 THEN j.headers END, "                           \
    "CASE WHEN $2 THEN j.result END, CASE WHEN $2 THEN j.error END, "                              \
    "CASE WHEN $2 THEN j.group_key END, CASE WHEN $2 THEN j.unique_key END, j.due_at, "            \
    "j.enqueued_at, j.started_at, NULL::timestamptz, j.expires_at, j.worker, "                     \
    "pgjobs._lease_end(j.id, j.lease_expires_at), j.hold_session IS NOT NULL, j.fraction, "        \
    "CASE WHEN $2 THEN j.note END, j.rev, "

// Without the right to read, the attempts come without their errors.
#define ATTEMPTS(row, last)                                                                        \
    "(SELECT pg_catalog.jsonb_agg(CASE WHEN $2 THEN e.a ELSE e.a - 'error' END ORDER BY e.n) "     \
    "FROM (SELECT a, n FROM pg_catalog.jsonb_array_elements(" row                                  \
    ".attempts) WITH ORDINALITY AS x (a, n) UNION ALL SELECT " last ") e) "

static constinit pg::Statement select_open{
    JOB_COLUMNS ATTEMPTS(
        "j",
        "pg_catalog.jsonb_build_object('stage', s.name, 'attempt', j.attempt, 'worker', j.worker, "
        "'started_at', j.started_at, 'finished_at', NULL, 'outcome', NULL, 'error', NULL), "
        "1000 WHERE j.token IS NOT NULL") "FROM pgjobs.job j "
                                          "JOIN pgjobs.queue q ON q.id = j.queue_id "
                                          "JOIN pgjobs.stage s ON s.queue_id = j.queue_id AND "
                                          "s.number = j.stage WHERE j.id = $1",
    {INT8OID, BOOLOID},
    nullptr};

static constinit pg::Statement select_past{
    "SELECT j.id, q.name, s.name, (ARRAY['completed', 'dead', 'cancelled'])[j.state + 1], "
    "j.priority::integer, j.attempt, j.max_attempts, "
    "CASE WHEN $2 THEN j.payload END, CASE WHEN $2 THEN j.headers END, "
    "CASE WHEN $2 THEN j.result END, CASE WHEN $2 THEN j.error END, "
    "CASE WHEN $2 THEN j.group_key END, CASE WHEN $2 THEN j.unique_key END, j.due_at, "
    "j.enqueued_at, j.started_at, j.finished_at, NULL::timestamptz, j.worker, "
    "NULL::timestamptz, false, NULL::double precision, NULL::text, j.rev, " ATTEMPTS(
        "j",
        "pg_catalog.jsonb_build_object('stage', s.name, 'attempt', j.attempt, 'worker', j.worker, "
        "'started_at', j.started_at, 'finished_at', j.finished_at, 'outcome', 'completed', "
        "'error', NULL), 1000 WHERE j.state = 0") "FROM pgjobs.history j "
                                                  "JOIN pgjobs.queue q ON q.id = j.queue_id "
                                                  "JOIN pgjobs.stage s ON s.queue_id = j.queue_id "
                                                  "AND s.number = j.stage "
                                                  "WHERE j.id = $1 AND j.payload IS NOT NULL",
    {INT8OID, BOOLOID},
    nullptr};

constexpr int detail_columns = 25;

// The first row of the last result as a row of `shape`, in the memory of `caller`.
static Datum details(TupleDesc shape, MemoryContext caller) {
    Datum values[detail_columns];
    bool nulls[detail_columns];
    for (int i = 0; i < detail_columns; i++)
        values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &nulls[i]);
    return pg::in_context(caller,
                          [&] { return HeapTupleGetDatum(heap_form_tuple(shape, values, nulls)); });
}

// pgjobs.job(id) -> job_details
PGJOBS_FUNCTION(job) {
    int64 id = pg::required_int64(fcinfo, 0, "id");
    const Queue *queue = visible_queue_of(id, monitor | operate | own);
    if (queue == nullptr)
        PG_RETURN_NULL();
    bool readable = has_right(queue, operate | own);
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    shape = BlessTupleDesc(shape);
    MemoryContext caller = CurrentMemoryContext;
    Datum row = pg::as_owner([&]() -> Datum {
        if (pg::run(&select_open, pg::value(id), pg::value(readable)) > 0 ||
            pg::run(&select_past, pg::value(id), pg::value(readable)) > 0)
            return details(shape, caller);
        return 0;
    });
    if (row == 0)
        PG_RETURN_NULL();
    PG_RETURN_DATUM(row);
}

static char *time_text(TimestampTz at) { return pstrdup(timestamptz_to_str(at)); }

static const char *why_ready(const Queue *queue, TimestampTz expires_at, TimestampTz now) {
    if (!queue->home)
        return "It is ready, but the queue is quarantined: this database is a restored or copied "
               "one. pgjobs.resume() lets it run here.";
    if (queue->paused)
        return "It is ready, but the queue is paused. pgjobs.resume_queue() ends that.";
    if (!settings::execute)
        return "It is ready, but this server hands out no jobs: pgjobs.execute is off.";
    if (expires_at <= now)
        return "It was not started before its expires_at and is about to be cancelled.";
    return "It is ready and waits for a worker that claims from its stage.";
}

static constinit pg::Statement select_why{
    "SELECT 0, j.waiting, j.token IS NOT NULL, j.due_at, "
    "CASE WHEN j.started_at IS NULL THEN COALESCE(j.expires_at, 'infinity') ELSE 'infinity' END, "
    "COALESCE(j.worker, '?'), COALESCE(pgjobs._lease_end(j.id, j.lease_expires_at), 'infinity'), "
    "j.attempt, j.stage "
    "FROM pgjobs.job j WHERE j.id = $1 UNION ALL "
    "SELECT 1, h.state, false, h.finished_at, 'infinity', COALESCE(h.worker, '?'), 'infinity', "
    "h.attempt, h.stage FROM pgjobs.history h WHERE h.id = $1 AND h.payload IS NOT NULL",
    {INT8OID},
    nullptr};

static const char *explain_finished(int16 state, TimestampTz at, int32 attempt) {
    if (state == core::history_code(State::completed))
        return psprintf("It was completed at %s.", time_text(at));
    if (state == core::history_code(State::dead))
        return psprintf("It is dead since %s, after attempt %d. pgjobs.retry() gives it new "
                        "attempts.",
                        time_text(at), attempt);
    return psprintf("It was cancelled at %s.", time_text(at));
}

// The row of select_why in words.
static const char *explain(const Queue *queue) {
    int16 code = pg::int16_at(0, 2);
    TimestampTz at = pg::int64_at(0, 4);
    int32 attempt = pg::int32_at(0, 8);
    if (pg::int32_at(0, 1) == 1)
        return explain_finished(code, at, attempt);
    const char *stage = stage_name(queue, pg::int16_at(0, 9));
    switch (core::open_state(static_cast<core::Waiting>(code), pg::bool_at(0, 3))) {
    case State::running: {
        TimestampTz lease = pg::int64_at(0, 7);
        const char *worker = TextDatumGetCString(pg::datum_at(0, 6));
        if (TIMESTAMP_IS_NOEND(lease))
            return psprintf("It is running: worker \"%s\" has it in stage \"%s\" until its session "
                            "ends.",
                            worker, stage);
        return psprintf("It is running: worker \"%s\" has it in stage \"%s\" until %s.", worker,
                        stage, time_text(lease));
    }
    case State::scheduled:
        return psprintf(attempt > 0 ? "It waits until %s, after attempt %d." : "It waits until %s.",
                        time_text(at), attempt);
    case State::blocked:
        return "It is blocked until other jobs are done.";
    default:
        return why_ready(queue, pg::int64_at(0, 5), GetCurrentTimestamp());
    }
}

// pgjobs.why(id) -> text
PGJOBS_FUNCTION(why) {
    int64 id = pg::required_int64(fcinfo, 0, "id");
    const Queue *queue = visible_queue_of(id, monitor | operate | own);
    if (queue == nullptr)
        no_such_job(id);
    text *answer = nullptr;
    MemoryContext caller = CurrentMemoryContext;
    pg::as_owner([&] {
        const char *sentence = pg::run(&select_why, pg::value(id)) > 0 ? explain(queue) : "";
        answer = pg::in_context(caller, [&] { return cstring_to_text(sentence); });
    });
    PG_RETURN_TEXT_P(answer);
}

} // namespace pgjobs

#include "count.hpp"

#include "catalog.hpp"
#include "changes.hpp"
#include "direct.hpp"
#include "frontier.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "store.hpp"

namespace pgjobs::count {

using core::Depth;
using core::State;

// ---- at commit ----

bool charge(Oid database, Oid jobs, int32 queue, int16 stage, const Depth &change) {
    StageHints *place = frontier::lock_place(database, jobs, queue, stage);
    if (place == nullptr)
        return true;
    core::add(&place->depth, change);
    core::add(&place->since, change);
    bool counted = place->counted;
    SpinLockRelease(&place->lock);
    return counted;
}

static void forget_place(StageHints *place) {
    place->counted = false;
    place->counting = 0;
}

void forget(Oid database, Oid jobs, int32 queue, int16 stage) {
    StageHints *place = frontier::lock_place(database, jobs, queue, stage);
    if (place == nullptr)
        return;
    forget_place(place);
    SpinLockRelease(&place->lock);
}

// ---- places ----

void make_place(Oid jobs, int32 queue, int16 stage) {
    frontier::find_or_take_place(jobs, queue, stage);
}

// While every change is noted, which the lock keeps so until the end of the transaction.
static bool changes_are_noted() {
    if (!extension_exists() || !ConditionalLockRelationOid(relations()->job, RowExclusiveLock))
        return false;
    Relation jobs = try_relation_open(relations()->job, NoLock);
    if (jobs == nullptr)
        return false;
    bool noted = direct::layout_of(jobs, direct::Kind::jobs)->announced;
    relation_close(jobs, NoLock);
    return noted;
}

void begin_stages(int32 queue, int16 from, int16 to) {
    if (!changes_are_noted())
        return;
    Oid jobs = relations()->job;
    for (int16 stage = from; stage <= to; stage++) {
        frontier::find_or_take_place(jobs, queue, stage);
        StageHints *place = frontier::lock_place(MyDatabaseId, jobs, queue, stage);
        if (place == nullptr)
            return;
        place->depth = {};
        place->counted = true;
        SpinLockRelease(&place->lock);
    }
}

// ---- reading ----

bool depth_of(int32 queue, int16 stage, Depth *depth) {
    StageHints *place = frontier::lock_place(MyDatabaseId, relations()->job, queue, stage);
    if (place == nullptr)
        return false;
    bool counted = place->counted;
    *depth = place->depth;
    SpinLockRelease(&place->lock);
    core::add(depth, changes::own_depth(queue, stage));
    return counted && changes::notes_all();
}

// Calls `body(place)` for each place of the table, with its lock held.
template <class F> static void for_each_place(Oid jobs, F body) {
    for (int i = 0; i < settings::max_queues; i++) {
        StageHints *place = &stage_hints[i];
        SpinLockAcquire(&place->lock);
        if (place->database == MyDatabaseId && place->jobs == jobs)
            body(place);
        SpinLockRelease(&place->lock);
    }
}

static bool has_negative(const Depth &depth) {
    return depth.of[0] < 0 || depth.of[1] < 0 || depth.of[2] < 0 || depth.of[3] < 0;
}

Overview overview() {
    Overview result{};
    for_each_place(relations()->job, [&](const StageHints *place) {
        result.counted += place->counted;
        result.wrong += place->counted && has_negative(place->depth);
    });
    return result;
}

// ---- counting ----

static int32 myself() { return pg::my_procno() + 1; }

static constinit pg::Statement select_stages{
    "SELECT s.queue_id, s.number FROM pgjobs.stage s", {}, nullptr};

static void make_places() {
    uint64 count = pg::run(&select_stages);
    for (uint64 i = 0; i < count; i++)
        frontier::find_or_take_place(relations()->job, pg::int32_at(i, 1), pg::int16_at(i, 2));
}

static void set_for_now(const char *name, const char *value) {
    set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

// Takes the lock. Whoever wants to change jobs waits behind us meanwhile, so not for long.
static void stop_changes(Oid jobs, int patience) {
    if (ConditionalLockRelationOid(jobs, ShareLock))
        return;
    int level = NewGUCNestLevel();
    set_for_now("lock_timeout", psprintf("%dms", patience));
    pg::bounded(patience + 100, [&] { LockRelationOid(jobs, ShareLock); });
    AtEOXact_GUC(false, level);
}

// Begins to count; the snapshot shows what is there then. False if changes are not noted, or this
// transaction's are not: it cannot tell its own rows from those that are there whatever it does.
static bool begin(Oid jobs, int patience) {
    stop_changes(jobs, patience);
    Relation relation = try_relation_open(jobs, NoLock);
    bool noted = relation != nullptr &&
                 direct::layout_of(relation, direct::Kind::jobs)->announced && changes::notes_all();
    if (relation != nullptr)
        relation_close(relation, NoLock);
    if (noted) {
        for_each_place(jobs, [](StageHints *place) {
            place->counting = myself();
            place->since = {};
        });
        PushActiveSnapshot(GetLatestSnapshot());
    }
    UnlockRelationOid(jobs, ShareLock);
    return noted;
}

static constexpr const char *grouped_jobs =
    "SELECT j.queue_id, j.stage, pg_catalog.count(*) FILTER (WHERE j.waiting = 2), "
    "pg_catalog.count(*) FILTER (WHERE j.waiting = 1), "
    "pg_catalog.count(*) FILTER (WHERE j.waiting = 0 AND j.token IS NULL), "
    "pg_catalog.count(*) FILTER (WHERE j.waiting = 0 AND j.token IS NOT NULL) "
    "FROM pgjobs.job j GROUP BY j.queue_id, j.stage";
static constinit pg::Statement count_jobs{grouped_jobs, {}, nullptr};

struct Counted {
    int32 queue;
    int16 stage;
    Depth depth;
};

static Counted counted_at(uint64 row) {
    Counted counted = {pg::int32_at(row, 1), pg::int16_at(row, 2), {}};
    for (int i = 0; i < core::open_states; i++)
        counted.depth.of[i] = pg::int64_at(row, i + 3);
    return counted;
}

// What the snapshot has shown and what was told since then is the truth, apart from what this
// transaction has not told yet.
static int settle(StageHints *place, Depth depth, const Depth &own) {
    if (place->counting != myself())
        return 0; // forgotten meanwhile, or somebody else has begun behind us
    core::add(&depth, place->since);
    core::subtract(&depth, own);
    int wrong = place->counted ? core::differences(place->depth, depth) : 0;
    place->depth = depth;
    place->counted = true;
    place->counting = 0;
    return wrong;
}

static int64 settle_stage(Oid jobs, int32 queue, int16 stage, const Depth &depth) {
    Depth own = changes::own_depth(queue, stage);
    StageHints *place = frontier::lock_place(MyDatabaseId, jobs, queue, stage);
    if (place == nullptr)
        return 0;
    int wrong = settle(place, depth, own);
    SpinLockRelease(&place->lock);
    return wrong;
}

struct Stage {
    int32 queue;
    int16 number;
};

// The stages that have no jobs.
static int64 settle_others(Oid jobs) {
    auto *stages = static_cast<Stage *>(palloc(sizeof(Stage) * settings::max_queues));
    int count = 0;
    for_each_place(jobs, [&](const StageHints *place) {
        if (place->counting == myself())
            stages[count++] = {place->queue, place->stage};
    });
    int64 wrong = 0;
    for (int i = 0; i < count; i++)
        wrong += settle_stage(jobs, stages[i].queue, stages[i].number, {});
    pfree(stages);
    return wrong;
}

int64 recount(int patience) {
    Oid jobs = relations()->job;
    make_places();
    if (!begin(jobs, patience))
        return 0;
    uint64 rows = pg::run_as_seen(&count_jobs);
    int64 wrong = 0;
    for (uint64 i = 0; i < rows; i++) {
        Counted counted = counted_at(i);
        wrong += settle_stage(jobs, counted.queue, counted.stage, counted.depth);
    }
    wrong += settle_others(jobs);
    PopActiveSnapshot();
    return wrong;
}

// pgjobs._recount() -> bigint
PGJOBS_FUNCTION(_recount) {
    pg::require_writable("pgjobs._recount()");
    require_administrator("count pgjobs' jobs");
    constexpr int patience = 5000; // milliseconds
    PG_RETURN_INT64(pg::as_owner([] { return recount(patience); }));
}

// ---- for the views ----

// All jobs, counted in the table when the first stage without figures was asked for; kept for the
// rest of the query.
struct Table {
    bool filled;
    uint64 count;
    Counted *stages;
};

static void fill(Table *table, MemoryContext context) {
    pg::as_owner([&] {
        table->count = pg::run(&count_jobs);
        table->stages = static_cast<Counted *>(
            MemoryContextAllocHuge(context, sizeof(Counted) * (table->count + 1)));
        for (uint64 i = 0; i < table->count; i++)
            table->stages[i] = counted_at(i);
    });
    table->filled = true;
}

static Depth counted_depth(FmgrInfo *function, int32 queue, int16 stage) {
    if (function->fn_extra == nullptr)
        function->fn_extra = MemoryContextAllocZero(function->fn_mcxt, sizeof(Table));
    auto *table = static_cast<Table *>(function->fn_extra);
    if (!table->filled)
        fill(table, function->fn_mcxt);
    for (uint64 i = 0; i < table->count; i++)
        if (table->stages[i].queue == queue && table->stages[i].stage == stage)
            return table->stages[i].depth;
    return {};
}

Figures figures_of(FmgrInfo *function, int32 queue, int16 stage) {
    Figures figures = {{}, never, true};
    if (!depth_of(queue, stage, &figures.depth)) {
        figures.depth = counted_depth(function, queue, stage);
        figures.counted = false;
    }
    if (figures.depth[State::ready] > 0)
        figures.oldest = store::oldest_ready(queue, stage);
    return figures;
}

static void join(Figures *figures, const Figures &others) {
    core::add(&figures->depth, others.depth);
    figures->oldest = Min(figures->oldest, others.oldest);
    figures->counted &= others.counted;
}

// pgjobs._figures(queue_id, stage, OUT blocked, scheduled, ready, running, oldest_ready_at,
// counted)
PGJOBS_FUNCTION(_figures) {
    int32 number = DatumGetInt32(pg::required(fcinfo, 0, "queue_id"));
    const Queue *queue = find_queue(number);
    Figures figures = {{}, never, true};
    if (queue != nullptr && has_right(queue, monitor | operate | own)) {
        int16 stage = pg::given(fcinfo, 1) ? PG_GETARG_INT16(1) : int16{0};
        int16 last = stage != 0 ? stage : queue->stage_count;
        for (int16 i = stage != 0 ? stage : int16{1}; i <= last; i++)
            join(&figures, figures_of(fcinfo->flinfo, number, i));
    }
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    constexpr int columns = core::open_states + 2;
    Datum values[columns];
    bool nulls[columns] = {};
    for (int i = 0; i < core::open_states; i++)
        values[i] = Int64GetDatum(figures.depth.of[i]);
    values[core::open_states] = TimestampTzGetDatum(figures.oldest);
    nulls[core::open_states] = figures.oldest == never;
    values[core::open_states + 1] = BoolGetDatum(figures.counted);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

} // namespace pgjobs::count

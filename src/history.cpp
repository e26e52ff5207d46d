#include "history.hpp"

#include "changes.hpp"
#include "inject.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace pgjobs::history {

using store::Col;
using store::Past;

constexpr int64 day = USECS_PER_DAY;
constexpr TimestampTz first_day = -730119 * day; // 0001-01-01
constexpr TimestampTz last_day = 2848892 * day;  // 9800-01-01

static TimestampTz day_of(TimestampTz at) {
    int64 days = at / day - (at % day < 0 ? 1 : 0);
    return days * day;
}

// Days before year 1 or after 9999 do not occur: times are checked, and an interval is at most a
// hundred years.
static void format_day(TimestampTz start, char *text, size_t size, const char *format) {
    int year;
    int month;
    int mday;
    j2date(static_cast<int>(start / day) + POSTGRES_EPOCH_JDATE, &year, &month, &mday);
    snprintf(text, size, format, year, month, mday);
}

static void leaf_name(TimestampTz start, char *name) {
    format_day(start, name, NAMEDATALEN, "history_%04d%02d%02d");
}

static Oid leaf_oid(TimestampTz start) {
    char name[NAMEDATALEN];
    leaf_name(start, name);
    return get_relname_relid(name, relations()->schema);
}

// ATTACH takes SHARE UPDATE EXCLUSIVE on the parent: neither readers nor writers wait. Taken first,
// it also keeps two makers of one partition apart. Inside as_owner.
static void make_partition(TimestampTz start) {
    PGJOBS_POINT("partition-wanted");
    LockRelationOid(relations()->history, ShareUpdateExclusiveLock);
    if (OidIsValid(leaf_oid(start)))
        return;
    char name[NAMEDATALEN];
    char from[64];
    char to[64];
    leaf_name(start, name);
    format_day(start, from, sizeof(from), "%04d-%02d-%02d 00:00:00+00");
    format_day(start + day, to, sizeof(to), "%04d-%02d-%02d 00:00:00+00");
    pg::use_default_storage();
    pg::run_utility(psprintf("CREATE TABLE pgjobs.%s (LIKE pgjobs.history INCLUDING DEFAULTS "
                             "INCLUDING GENERATED INCLUDING CONSTRAINTS) "
                             "WITH (vacuum_truncate = off, toast.vacuum_truncate = off)",
                             name));
    // One finds a finished job, the other the dead ones of a queue.
    pg::run_utility(psprintf("CREATE INDEX %s_id ON pgjobs.%s (id)", name, name));
    pg::run_utility(
        psprintf("CREATE INDEX %s_dead ON pgjobs.%s (queue_id, id) WHERE state = 1", name, name));
    pg::run_utility(psprintf("ALTER TABLE pgjobs.%s ADD CONSTRAINT %s_day CHECK "
                             "(keep_until IS NOT NULL AND keep_until >= '%s' AND "
                             "keep_until < '%s')",
                             name, name, from, to));
    PGJOBS_POINT("partition-made");
    pg::run_utility(psprintf("ALTER TABLE pgjobs.history ATTACH PARTITION pgjobs.%s "
                             "FOR VALUES FROM ('%s') TO ('%s')",
                             name, from, to));
}

void prepare_partitions(int64 retention, TimestampTz now) {
    TimestampTz first = day_of(now + Max(retention, shortest_keep));
    for (int i = 0; i < 8; i++)
        if (!OidIsValid(leaf_oid(first + i * day)))
            make_partition(first + i * day);
}

// ---- moving ----

// Made if it is missing. Whoever waited for the lock may have waited for a drop: after a clock that
// was wrong for a while, a leaf that is needed may have been taken for an old one.
static Oid lock_leaf(TimestampTz start) {
    Oid leaf = leaf_oid(start);
    for (;;) {
        if (OidIsValid(leaf))
            LockRelationOid(leaf, RowExclusiveLock);
        else
            pg::as_owner([&] { make_partition(start); });
        Oid found = leaf_oid(start);
        if (found == leaf && OidIsValid(leaf))
            return leaf;
        leaf = found;
    }
}

// The leaf stays open from job to job: it lives as long as the table of jobs does.
static void open_leaf(Archive *archive, store::Table *jobs, TimestampTz keep_until) {
    TimestampTz start = day_of(keep_until);
    if (archive->leaf != nullptr && archive->leaf_start == start)
        return;
    if (archive->leaf != nullptr)
        store::close(archive->leaf);
    archive->leaf = nullptr;
    Oid leaf = lock_leaf(start);
    archive->leaf =
        pg::in_context(jobs->context, [&] { return store::open(leaf, store::Kind::history); });
    archive->leaf_start = start;
}

void close(Archive *archive) {
    if (archive->receipts != nullptr)
        receipt::write(archive->receipts);
    if (archive->leaf != nullptr)
        store::close(archive->leaf);
    archive->leaf = nullptr;
}

static void copy(store::Table *jobs, Col from, store::Table *leaf, Past to) {
    bool null;
    Datum datum = store::get(jobs, from, &null);
    if (!null)
        store::set(leaf, to, datum);
}

// What a repeated call needs, and all that a queue leaves that keeps nothing.
static void write_frame(store::Table *jobs, store::Table *leaf, TimestampTz keep_until,
                        const Ending &ending) {
    store::set(leaf, Past::keep_until, TimestampTzGetDatum(keep_until));
    store::set(leaf, Past::finished_at, TimestampTzGetDatum(ending.at));
    store::set(leaf, Past::state, Int16GetDatum(core::history_code(ending.state)));
    store::set(leaf, Past::rev, Int32GetDatum(store::get_int32(jobs, Col::rev) + 1));
    copy(jobs, Col::id, leaf, Past::id);
    copy(jobs, Col::due_at, leaf, Past::due_at);
    copy(jobs, Col::enqueued_at, leaf, Past::enqueued_at);
    copy(jobs, Col::started_at, leaf, Past::started_at);
    copy(jobs, Col::queue_id, leaf, Past::queue_id);
    copy(jobs, Col::attempt, leaf, Past::attempt);
    copy(jobs, Col::max_attempts, leaf, Past::max_attempts);
    copy(jobs, Col::stage, leaf, Past::stage);
    copy(jobs, Col::priority, leaf, Past::priority);
    copy(jobs, Col::done_token, leaf, Past::done_token);
    if (ending.done_token != 0)
        store::set(leaf, Past::done_token, Int64GetDatum(ending.done_token));
}

// TOAST pointers lead into the live table's TOAST: the insert fetches what is behind them.
static void write_contents(store::Table *jobs, store::Table *leaf, const Ending &ending) {
    copy(jobs, Col::payload, leaf, Past::payload);
    copy(jobs, Col::headers, leaf, Past::headers);
    copy(jobs, Col::group_key, leaf, Past::group_key);
    copy(jobs, Col::unique_key, leaf, Past::unique_key);
    copy(jobs, Col::worker, leaf, Past::worker);
    if (!ending.has_result)
        copy(jobs, Col::result, leaf, Past::result);
    else if (!ending.result_null)
        store::set(leaf, Past::result, ending.result);
    if (ending.keeps_error)
        copy(jobs, Col::error, leaf, Past::error);
    else if (ending.error != nullptr)
        store::set(leaf, Past::error, CStringGetTextDatum(ending.error));
    if (ending.attempts == 0)
        copy(jobs, Col::attempts, leaf, Past::attempts);
    else
        store::set(leaf, Past::attempts, ending.attempts);
}

static void give_receipt(Archive *archive, store::Table *jobs, const Queue *queue, int64 token) {
    if (archive->receipts == nullptr)
        archive->receipts = static_cast<receipt::Pad *>(
            MemoryContextAllocZero(jobs->context, sizeof(receipt::Pad)));
    receipt::add(archive->receipts, queue->id, {store::get_int64(jobs, Col::id, 0), token});
}

static void write(Archive *archive, store::Table *jobs, const Ending &ending, int64 kept) {
    TimestampTz keep_until = ending.at + Max(kept, shortest_keep);
    open_leaf(archive, jobs, keep_until);
    store::start_row(archive->leaf);
    write_frame(jobs, archive->leaf, keep_until, ending);
    if (kept > 0)
        write_contents(jobs, archive->leaf, ending);
    store::insert(archive->leaf);
}

bool finish(Archive *archive, store::Table *jobs, const Queue *queue, const Ending &ending) {
    changes::final_state = ending.state;
    if (!store::remove_if_current(jobs))
        return false;
    PGJOBS_POINT("finish-removed");
    int64 kept = ending.state == core::State::dead ? queue->dead_retention : queue->retention;
    if (kept == 0 && ending.state == core::State::completed)
        give_receipt(archive, jobs, queue, ending.done_token);
    else
        write(archive, jobs, ending, kept);
    return true;
}

bool lock(Oid leaf, ItemPointerData tid) {
    Relation relation = table_open(leaf, RowExclusiveLock);
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    TM_FailureData failure;
    TM_Result result = table_tuple_lock(relation, &tid, GetActiveSnapshot(), slot,
                                        GetCurrentCommandId(true), LockTupleExclusive,
                                        LockWaitBlock, TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
    ExecDropSingleTupleTableSlot(slot);
    table_close(relation, NoLock);
    return result == TM_Ok;
}

// ---- the duty ----

static constinit pg::Statement select_retentions{
    "SELECT DISTINCT pg_catalog.unnest(ARRAY[q.retention, q.dead_retention]) FROM pgjobs.queue q "
    "JOIN pgjobs.home h ON h.id = q.home AND h.database = $1",
    {OIDOID},
    nullptr};

static constinit pg::Statement select_leaves{
    "SELECT c.relname::text FROM pg_catalog.pg_inherits i "
    "JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = $1 AND c.relname ~ '^history_[0-9]{8}$' ORDER BY c.relname",
    {OIDOID},
    nullptr};

static void make_all(TimestampTz now) {
    uint64 count = pg::run(&select_retentions, pg::oid_value(MyDatabaseId));
    auto *retentions = static_cast<int64 *>(palloc(sizeof(int64) * (count + 1)));
    for (uint64 i = 0; i < count; i++)
        retentions[i] = pg::microseconds(DatumGetIntervalP(pg::datum_at(i, 1)), "retention", 0);
    for (uint64 i = 0; i < count; i++)
        prepare_partitions(retentions[i], now);
}

// Only readers can be in the way, and then it is tried again: nobody ever waits behind us.
static bool drop_partition(const char *name) {
    Oid leaf = get_relname_relid(name, relations()->schema);
    if (!OidIsValid(leaf))
        return true;
    if (!ConditionalLockRelationOid(relations()->history, AccessExclusiveLock))
        return false;
    if (!ConditionalLockRelationOid(leaf, AccessExclusiveLock)) {
        UnlockRelationOid(relations()->history, AccessExclusiveLock);
        return false;
    }
    PGJOBS_POINT("partition-locked");
    pg::run_utility(psprintf("DROP TABLE pgjobs.%s", quote_identifier(name)));
    PGJOBS_POINT("partition-dropped");
    return true;
}

static TimestampTz end_of_leaf(const char *name) {
    int number = atoi(name + strlen("history_"));
    int julian = date2j(number / 10000, number / 100 % 100, number % 100);
    return (static_cast<int64>(julian) - POSTGRES_EPOCH_JDATE + 1) * day;
}

static int64 drop_old(TimestampTz now, TimestampTz *next) {
    uint64 count = pg::run(&select_leaves, pg::oid_value(relations()->history));
    auto *names = static_cast<char **>(palloc(sizeof(char *) * (count + 1)));
    for (uint64 i = 0; i < count; i++)
        names[i] = TextDatumGetCString(pg::datum_at(i, 1));
    int64 dropped = 0;
    for (uint64 i = 0; i < count; i++) {
        TimestampTz end = end_of_leaf(names[i]);
        if (end > now)
            *next = Min(*next, end);
        else if (drop_partition(names[i]))
            dropped++;
        else
            *next = Min(*next, now + USECS_PER_MINUTE);
    }
    return dropped;
}

int64 keep(TimestampTz now, TimestampTz *next) {
    return pg::as_owner([&] {
        make_all(now);
        return drop_old(now, next);
    });
}

// pgjobs._keep_history(now timestamptz) -> bigint
PGJOBS_FUNCTION(_keep_history) {
    pg::require_writable("pgjobs._keep_history()");
    require_administrator("run pgjobs' duties");
    TimestampTz now = pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 0, "now")), "now");
    if (now < first_day || now >= last_day)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("argument \"now\" must be between the years 1 and 9800"),
                errhint("Give the time as of which partitions are made and dropped."));
    TimestampTz next = PG_INT64_MAX;
    PG_RETURN_INT64(keep(now, &next));
}

} // namespace pgjobs::history

#include "receipt.hpp"

#include "catalog.hpp"
#include "changes.hpp"
#include "direct.hpp"
#include "inject.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace pgjobs::receipt {

constexpr int tables = 3;
constexpr int64 turn = 15 * USECS_PER_MINUTE;
constexpr int64 widest = 8192; // ids between the first and the last of a row

enum class Col : int { last_id = 1, first_id, queue_id, done };
constexpr int columns = static_cast<int>(Col::done);

static int64 turn_of(TimestampTz at) { return Max(at, 0) / turn; }

// What each table and its index are, as long as the server does not say that they have changed.
struct Known {
    Oid table;
    Oid index;
};
static Known known[tables];

void forget(Oid relation) {
    for (Known &k : known)
        if (relation == InvalidOid || relation == k.table || relation == k.index)
            k = {};
}

static Oid table_of(int64 number) {
    Known *k = &known[number % tables];
    if (OidIsValid(k->table))
        return k->table;
    char name[NAMEDATALEN];
    snprintf(name, sizeof(name), "receipt_%d", static_cast<int>(number % tables));
    return get_relname_relid(name, relations()->schema);
}

// ---- writing ----

static int compare(const void *a, const void *b) {
    int64 x = static_cast<const Done *>(a)->job;
    int64 y = static_cast<const Done *>(b)->job;
    return x < y ? -1 : x > y ? 1 : 0;
}

static HeapTuple make_row(Relation table, int32 queue, const Done *done, int count) {
    Size size = sizeof(Done) * static_cast<Size>(count) + VARHDRSZ;
    auto *bytes = static_cast<bytea *>(palloc(size));
    SET_VARSIZE(bytes, size);
    memcpy(VARDATA(bytes), done, size - VARHDRSZ);
    Datum values[columns] = {Int64GetDatum(done[count - 1].job), Int64GetDatum(done[0].job),
                             Int32GetDatum(queue), PointerGetDatum(bytes)};
    bool nulls[columns] = {};
    return heap_form_tuple(RelationGetDescr(table), values, nulls);
}

static void write_row(Relation table, Relation index, int32 queue, const Done *done, int count) {
    HeapTuple tuple = make_row(table, queue, done, count);
    heap_insert(table, tuple, GetCurrentCommandId(true), 0, nullptr);
    Datum last = Int64GetDatum(done[count - 1].job);
    bool null = false;
    direct::enter(index, table, &last, &null, &tuple->t_self, false);
    heap_freetuple(tuple);
}

static Relation open_index(Relation table) {
    return direct::open_index(table, static_cast<AttrNumber>(Col::last_id), "receipts");
}

// While the table is locked, its indexes stay.
static Relation open_known_index(int64 number, Relation table) {
    Known *k = &known[number % tables];
    if (k->table == RelationGetRelid(table))
        return index_open(k->index, AccessShareLock);
    Relation index = open_index(table);
    *k = {RelationGetRelid(table), RelationGetRelid(index)};
    return index;
}

void write(Pad *pad) {
    if (pad->count == 0)
        return;
    PGJOBS_POINT("receipt-before");
    qsort(pad->done, static_cast<size_t>(pad->count), sizeof(Done), compare);
    TimestampTz now = GetCurrentTimestamp();
    int64 turn_number = turn_of(now);
    Relation table = table_open(table_of(turn_number), RowExclusiveLock);
    Relation index = open_known_index(turn_number, table);
    int start = 0;
    for (int i = 1; i <= pad->count; i++)
        if (i == pad->count || pad->done[i].job - pad->done[start].job > widest) {
            write_row(table, index, pad->queue, &pad->done[start], i - start);
            start = i;
        }
    index_close(index, NoLock);
    table_close(table, NoLock);
    pad->count = 0;
    changes::due_at((turn_number + 1) * turn);
}

void add(Pad *pad, int32 queue, const Done &done) {
    if (pad->count == most_together || (pad->count > 0 && pad->queue != queue))
        write(pad);
    pad->queue = queue;
    pad->done[pad->count++] = done;
}

// ---- reading ----

static bool names(TupleTableSlot *slot, const Done &wanted) {
    bool null;
    auto *bytes = DatumGetByteaPP(slot_getattr(slot, static_cast<int>(Col::done), &null));
    auto count = static_cast<int>(VARSIZE_ANY_EXHDR(bytes) / sizeof(Done));
    for (int i = 0; i < count; i++) {
        Done done;
        memcpy(&done, VARDATA_ANY(bytes) + sizeof(Done) * static_cast<size_t>(i), sizeof(Done));
        if (done.job == wanted.job && (wanted.token == 0 || done.token == wanted.token))
            return true;
    }
    return false;
}

static int32 search(Oid oid, const Done &wanted) {
    Relation table = table_open(oid, AccessShareLock);
    Relation index = open_index(table);
    TupleTableSlot *slot = table_slot_create(table, nullptr);
    ScanKeyData keys[2];
    int64 end = wanted.job > PG_INT64_MAX - widest ? PG_INT64_MAX : wanted.job + widest;
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(wanted.job));
    ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(end));
    IndexScanDesc scan = pg::begin_index_scan(table, index, SnapshotSelf, 2);
    index_rescan(scan, keys, 2, nullptr, 0);
    int32 queue = 0;
    while (queue == 0 && index_getnext_slot(scan, ForwardScanDirection, slot)) {
        bool null;
        CHECK_FOR_INTERRUPTS();
        if (names(slot, wanted))
            queue = DatumGetInt32(slot_getattr(slot, static_cast<int>(Col::queue_id), &null));
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
    table_close(table, AccessShareLock);
    return queue;
}

int32 find(int64 job, int64 token) {
    bool pushed = !ActiveSnapshotSet();
    if (pushed)
        PushActiveSnapshot(GetTransactionSnapshot());
    int32 queue = 0;
    for (int i = 0; i < tables && queue == 0; i++)
        queue = search(table_of(i), {job, token});
    if (pushed)
        PopActiveSnapshot();
    return queue;
}

// ---- the duty ----

static bool is_empty(Oid oid) {
    Relation table = table_open(oid, AccessShareLock);
    bool empty = RelationGetNumberOfBlocks(table) == 0;
    table_close(table, AccessShareLock);
    return empty;
}

void rotate(TimestampTz now, TimestampTz *next) {
    int64 number = turn_of(now) + 1;
    Oid oid = table_of(number);
    if (!is_empty(oid)) {
        if (ConditionalLockRelationOid(oid, AccessExclusiveLock))
            pg::run_utility(
                psprintf("TRUNCATE pgjobs.receipt_%d", static_cast<int>(number % tables)));
        else
            *next = Min(*next, now + USECS_PER_MINUTE);
    }
    for (int i = 0; i < tables; i++)
        if (!is_empty(table_of(i)))
            *next = Min(*next, number * turn);
}

// pgjobs._rotate_receipts(now timestamptz) -> void
PGJOBS_FUNCTION(_rotate_receipts) {
    pg::require_writable("pgjobs._rotate_receipts()");
    require_administrator("run pgjobs' duties");
    TimestampTz now = pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 0, "now")), "now");
    TimestampTz next = PG_INT64_MAX;
    pg::as_owner([&] { rotate(now, &next); });
    PG_RETURN_VOID();
}

} // namespace pgjobs::receipt

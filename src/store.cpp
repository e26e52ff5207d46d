#include "store.hpp"

#include "catalog.hpp"
#include "changes.hpp"

namespace pgjobs::store {

// ---- opening ----

static bool push_snapshot() {
    if (ActiveSnapshotSet())
        return false;
    PushActiveSnapshot(GetTransactionSnapshot());
    return true;
}

// What a plan's ModifyTable would have set up (after create_edata_for_relation in the server's
// logical replication worker).
static void set_up_execution(Table *table) {
    EState *estate = table->estate;
    RangeTblEntry *rte = makeNode(RangeTblEntry);
    rte->rtekind = RTE_RELATION;
    rte->relid = RelationGetRelid(table->relation);
    rte->relkind = table->relation->rd_rel->relkind;
    rte->rellockmode = RowExclusiveLock;
    pg::init_range_table(estate, rte);
    estate->es_snapshot = GetActiveSnapshot();
    estate->es_output_cid = GetCurrentCommandId(true);
    table->info = makeNode(ResultRelInfo);
    InitResultRelInfo(table->info, table->relation, 1, nullptr, 0);
    estate->es_opened_result_relations = lappend(estate->es_opened_result_relations, table->info);
    ExecOpenIndices(table->info, false);
    AfterTriggerBeginQuery();
}

// Whoever waited for the lock may have waited for DROP EXTENSION.
static Relation open_relation(Oid oid, LOCKMODE mode) {
    Relation relation = try_table_open(oid, mode);
    if (relation == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("extension \"pgjobs\" was dropped meanwhile"),
                errhint("Run CREATE EXTENSION pgjobs."));
    return relation;
}

Table *open(Oid relation) {
    bool pushed = push_snapshot();
    Relation opened = open_relation(relation, RowExclusiveLock);
    EState *estate = CreateExecutorState();
    return pg::in_context(estate->es_query_cxt, [&]() -> Table * {
        auto *table = static_cast<Table *>(palloc0(sizeof(Table)));
        table->relation = opened;
        table->snapshot = pushed;
        table->estate = estate;
        set_up_execution(table);
        table->found = table_slot_create(opened, &estate->es_tupleTable);
        table->next = ExecInitExtraTupleSlot(estate, RelationGetDescr(opened), &TTSOpsHeapTuple);
        int count = RelationGetNumberOfAttributes(opened);
        table->values = static_cast<Datum *>(palloc0(sizeof(Datum) * count));
        table->nulls = static_cast<bool *>(palloc0(sizeof(bool) * count));
        table->replace = static_cast<bool *>(palloc0(sizeof(bool) * count));
        return table;
    });
}

void close(Table *table) {
    EState *estate = table->estate;
    Relation relation = table->relation;
    bool pushed = table->snapshot;
    bool written = table->written;
    ExecClearTuple(table->found);
    AfterTriggerEndQuery(estate);
    ExecResetTupleTable(estate->es_tupleTable, false);
    ExecCloseResultRelations(estate); // closes the indexes and what triggers opened
    FreeExecutorState(estate);
    table_close(relation, NoLock);
    if (pushed)
        PopActiveSnapshot();
    if (written)
        CommandCounterIncrement();
}

Table *open_jobs() {
    Table *jobs = open(relations()->job);
    if (RelationGetNumberOfAttributes(jobs->relation) < job_columns)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("the installed version of extension \"pgjobs\" is too old for its library"),
                errhint("Run ALTER EXTENSION pgjobs UPDATE."));
    return jobs;
}

// ---- rows ----

static Datum attribute(Table *table, int column, bool *null) {
    return slot_getattr(table->found, column, null);
}

Datum get(Table *jobs, Col column, bool *null) {
    return attribute(jobs, static_cast<int>(column), null);
}

int64 get_int64(Table *jobs, Col column, int64 absent) {
    bool null;
    Datum datum = get(jobs, column, &null);
    return null ? absent : DatumGetInt64(datum);
}

int32 get_int32(Table *jobs, Col column) {
    bool null;
    return DatumGetInt32(get(jobs, column, &null));
}

int16 get_int16(Table *jobs, Col column) {
    bool null;
    return DatumGetInt16(get(jobs, column, &null));
}

bool has(Table *jobs, Col column) {
    bool null;
    get(jobs, column, &null);
    return !null;
}

void start_row(Table *table) {
    int count = RelationGetNumberOfAttributes(table->relation);
    memset(table->values, 0, sizeof(Datum) * count);
    memset(table->nulls, true, sizeof(bool) * count);
    memset(table->replace, 0, sizeof(bool) * count);
}

void set(Table *table, int column, Datum value) {
    table->values[column - 1] = value;
    table->nulls[column - 1] = false;
    table->replace[column - 1] = true;
}

void set_null(Table *table, int column) {
    table->nulls[column - 1] = true;
    table->replace[column - 1] = true;
}

void insert(Table *table) {
    HeapTuple tuple =
        heap_form_tuple(RelationGetDescr(table->relation), table->values, table->nulls);
    ExecForceStoreHeapTuple(tuple, table->next, false);
    ExecSimpleRelationInsert(table->info, table->estate, table->next);
    ExecClearTuple(table->next);
    heap_freetuple(tuple);
    ResetPerTupleExprContext(table->estate);
    table->written = true;
}

// TOAST pointers of columns that were not set go through untouched.
void update(Table *table) {
    HeapTuple old = ExecFetchSlotHeapTuple(table->found, false, nullptr);
    HeapTuple tuple = heap_modify_tuple(old, RelationGetDescr(table->relation), table->values,
                                        table->nulls, table->replace);
    ExecForceStoreHeapTuple(tuple, table->next, false);
    EPQState epq;
    pg::init_epq(&epq, table->estate);
    EvalPlanQualSetSlot(&epq, table->found);
    ExecSimpleRelationUpdate(table->info, table->estate, &epq, table->found, table->next);
    EvalPlanQualEnd(&epq);
    ExecClearTuple(table->next);
    heap_freetuple(tuple);
    ResetPerTupleExprContext(table->estate);
    table->written = true;
}

void remove(Table *table) {
    EPQState epq;
    pg::init_epq(&epq, table->estate);
    EvalPlanQualSetSlot(&epq, table->found);
    ExecSimpleRelationDelete(table->info, table->estate, &epq, table->found);
    EvalPlanQualEnd(&epq);
    ResetPerTupleExprContext(table->estate);
    table->written = true;
}

// ---- finding ----

// A ready row is noted before it is locked: an error in between must find it noted.
static void note_touch(Table *jobs) {
    if (get_int16(jobs, Col::waiting) == 0 && !has(jobs, Col::token))
        changes::touching(get_int32(jobs, Col::queue_id), get_int16(jobs, Col::stage));
}

// Locks the newest version of the row in `found`.
static TM_Result lock_newest(Table *jobs, LockWaitPolicy policy) {
    note_touch(jobs);
    TM_FailureData failure;
    ItemPointerData tid = jobs->found->tts_tid;
    return table_tuple_lock(jobs->relation, &tid, GetActiveSnapshot(), jobs->found,
                            GetCurrentCommandId(true), LockTupleNoKeyExclusive, policy,
                            TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
}

bool lock_visited(Table *jobs) { return lock_newest(jobs, LockWaitSkip) == TM_Ok; }

enum class Seen { nothing, row, uncommitted };

static IndexScanDesc begin_id_scan(Table *jobs, Relation index, int64 id, Snapshot snapshot) {
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
    IndexScanDesc scan = pg::begin_index_scan(jobs->relation, index, snapshot, 1);
    index_rescan(scan, &key, 1, nullptr, 0);
    return scan;
}

// One look through the primary key. A version whose inserter is still running counts only if no
// other is there: it may be the new half of an update.
static Seen look(Table *jobs, Relation index, int64 id, TransactionId *inserter) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    IndexScanDesc scan = begin_id_scan(jobs, index, id, &dirty);
    Seen seen = Seen::nothing;
    while (seen != Seen::row && index_getnext_slot(scan, ForwardScanDirection, jobs->found)) {
        if (TransactionIdIsValid(dirty.xmin)) {
            seen = Seen::uncommitted;
            *inserter = dirty.xmin;
        } else {
            ExecMaterializeSlot(jobs->found);
            seen = Seen::row;
        }
    }
    index_endscan(scan);
    return seen;
}

// A look can miss a row: it reads the index page, an update commits with a new index entry, and the
// version behind the old entry is dead. A snapshot does not: whatever it shows as gone is gone.
static bool is_gone(Table *jobs, Relation index, int64 id) {
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    IndexScanDesc scan = begin_id_scan(jobs, index, id, snapshot);
    bool gone = !index_getnext_slot(scan, ForwardScanDirection, jobs->found);
    index_endscan(scan);
    UnregisterSnapshot(snapshot);
    return gone;
}

bool find(Table *jobs, int64 id, LockWaitPolicy policy) {
    Relation index = index_open(pg::primary_key_index(jobs->relation), AccessShareLock);
    bool found = false;
    jobs->busy = false;
    for (int looks = 1;; looks++) {
        TransactionId inserter = InvalidTransactionId;
        Seen seen = look(jobs, index, id, &inserter);
        if (seen == Seen::row) {
            TM_Result result = lock_newest(jobs, policy);
            found = result == TM_Ok;
            jobs->busy = result == TM_WouldBlock;
            break;
        }
        if (seen == Seen::nothing) {
            // Also the end of it: this command itself has removed the row.
            if (looks == 100 || is_gone(jobs, index, id))
                break;
            CHECK_FOR_INTERRUPTS();
            continue;
        }
        jobs->busy = policy != LockWaitBlock;
        if (jobs->busy)
            break;
        XactLockTableWait(inserter, jobs->relation, nullptr, XLTW_None);
    }
    index_close(index, AccessShareLock);
    if (!found)
        ExecClearTuple(jobs->found);
    return found;
}

// The valid index on these columns.
static Relation open_index(Relation relation, const AttrNumber *columns, int count,
                           const char *what) {
    List *indexes = RelationGetIndexList(relation);
    ListCell *cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        Form_pg_index form = index->rd_index;
        if (form->indisvalid && form->indnkeyatts == count &&
            memcmp(form->indkey.values, columns, sizeof(AttrNumber) * count) == 0)
            return index;
        index_close(index, AccessShareLock);
    }
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("the index of %s is missing or invalid", what),
            errhint("Run REINDEX TABLE pgjobs.job."));
    pg_unreachable();
}

// The index (queue_id, stage, priority, due_at, id) WHERE waiting = 0. An index that REINDEX marked
// indcheckxmin serves too: only newest versions are asked for.
static Relation open_due_index(Relation relation) {
    constexpr AttrNumber columns[] = {
        static_cast<AttrNumber>(Col::queue_id), static_cast<AttrNumber>(Col::stage),
        static_cast<AttrNumber>(Col::priority), static_cast<AttrNumber>(Col::due_at),
        static_cast<AttrNumber>(Col::id)};
    return open_index(relation, columns, lengthof(columns), "due jobs");
}

static IndexScanDesc begin_due_scan(Relation relation, Relation index, Snapshot snapshot,
                                    int32 queue, int16 stage) {
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(stage));
    IndexScanDesc scan = pg::begin_index_scan(relation, index, snapshot, 2);
    index_rescan(scan, keys, 2, nullptr, 0);
    return scan;
}

bool scan_due(Table *jobs, int32 queue, int16 stage, bool (*visit)(Table *, void *),
              void *argument) {
    Relation index = open_due_index(jobs->relation);
    IndexScanDesc scan = begin_due_scan(jobs->relation, index, SnapshotSelf, queue, stage);
    bool more = true;
    while (more && index_getnext_slot(scan, ForwardScanDirection, jobs->found)) {
        CHECK_FOR_INTERRUPTS();
        more = visit(jobs, argument);
    }
    index_endscan(scan);
    index_close(index, AccessShareLock);
    return more;
}

static bool is_running(TransactionId xid) {
    return !TransactionIdIsCurrentTransactionId(xid) && TransactionIdIsInProgress(xid);
}

// Whether another transaction has the row locked so that no claim gets it, without changing it.
static bool is_locked(TupleTableSlot *slot) {
    auto *buffered = reinterpret_cast<BufferHeapTupleTableSlot *>(slot);
    LockBuffer(buffered->buffer, BUFFER_LOCK_SHARE);
    uint16 mask = buffered->base.tuple->t_data->t_infomask;
    TransactionId locker = HeapTupleHeaderGetRawXmax(buffered->base.tuple->t_data);
    LockBuffer(buffered->buffer, BUFFER_LOCK_UNLOCK);
    if ((mask & HEAP_XMAX_INVALID) != 0 || !HEAP_XMAX_IS_LOCKED_ONLY(mask) ||
        HEAP_XMAX_IS_KEYSHR_LOCKED(mask)) // what a foreign key takes does not hinder a claim
        return false;
    if ((mask & HEAP_XMAX_IS_MULTI) == 0)
        return is_running(locker);
    MultiXactMember *members;
    int count = GetMultiXactIdMembers(locker, &members, false, true);
    for (int i = 0; i < count; i++)
        if (members[i].status != MultiXactStatusForKeyShare && is_running(members[i].xid))
            return true;
    return false;
}

static bool is_takeable(TupleTableSlot *slot, const SnapshotData *dirty, TimestampTz now) {
    if (TransactionIdIsValid(dirty->xmin) || TransactionIdIsValid(dirty->xmax))
        return false;
    bool null;
    slot_getattr(slot, static_cast<int>(Col::token), &null);
    if (!null || is_locked(slot))
        return false;
    Datum expires = slot_getattr(slot, static_cast<int>(Col::expires_at), &null);
    if (null || DatumGetTimestampTz(expires) > now)
        return true;
    slot_getattr(slot, static_cast<int>(Col::started_at), &null);
    return !null; // it has started in time
}

bool any_ready(int32 queue, int16 stage, TimestampTz now) {
    bool pushed = push_snapshot();
    Relation relation = open_relation(relations()->job, AccessShareLock);
    Relation index = open_due_index(relation);
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    IndexScanDesc scan = begin_due_scan(relation, index, &dirty, queue, stage);
    bool ready = false;
    while (!ready && index_getnext_slot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        ready = is_takeable(slot, &dirty, now);
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
    table_close(relation, AccessShareLock);
    if (pushed)
        PopActiveSnapshot();
    return ready;
}

// One look through the index (queue_id, unique_key); as in look(), an uncommitted version counts
// only if no other is there.
static Seen look_for_key(Relation relation, Relation index, int32 queue, const char *key, int64 *id,
                         TransactionId *inserter) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue));
    ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
                           index->rd_indcollation[1], F_TEXTEQ, CStringGetTextDatum(key));
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    IndexScanDesc scan = pg::begin_index_scan(relation, index, &dirty, 2);
    index_rescan(scan, keys, 2, nullptr, 0);
    Seen seen = Seen::nothing;
    while (seen != Seen::row && index_getnext_slot(scan, ForwardScanDirection, slot)) {
        bool null;
        *id = DatumGetInt64(slot_getattr(slot, static_cast<int>(Col::id), &null));
        *inserter = dirty.xmin;
        seen = TransactionIdIsValid(dirty.xmin) ? Seen::uncommitted : Seen::row;
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    return seen;
}

// Not by a query: that would see no newer rows than its snapshot, and in SERIALIZABLE it would lock
// the pages where every producer inserts.
int64 holder_of(int32 queue, const char *key) {
    constexpr AttrNumber columns[] = {static_cast<AttrNumber>(Col::queue_id),
                                      static_cast<AttrNumber>(Col::unique_key)};
    bool pushed = push_snapshot();
    Relation relation = open_relation(relations()->job, AccessShareLock);
    Relation index = open_index(relation, columns, lengthof(columns), "unique keys");
    int64 id = 0;
    TransactionId inserter = InvalidTransactionId;
    Seen seen;
    while ((seen = look_for_key(relation, index, queue, key, &id, &inserter)) == Seen::uncommitted)
        XactLockTableWait(inserter, relation, nullptr, XLTW_None);
    index_close(index, AccessShareLock);
    table_close(relation, AccessShareLock);
    if (pushed)
        PopActiveSnapshot();
    return seen == Seen::row ? id : 0;
}

int64 next_id(Oid sequence) { return nextval_internal(sequence, false); }

} // namespace pgjobs::store

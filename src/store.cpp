#include "store.hpp"

#include "catalog.hpp"
#include "shared.hpp"

namespace pgjobs::store {

using direct::By;

constexpr int most_added = 256; // rows written together

// ---- opening ----

static bool push_snapshot() {
    if (ActiveSnapshotSet())
        return false;
    PushActiveSnapshot(GetTransactionSnapshot());
    return true;
}

// What a plan's ModifyTable would have set up (after create_edata_for_relation in the server's
// logical replication worker).
static void set_up_executor(Table *table) {
    EState *estate = CreateExecutorState();
    table->estate = estate;
    pg::in_context(estate->es_query_cxt, [&] {
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
        estate->es_opened_result_relations =
            lappend(estate->es_opened_result_relations, table->info);
        ExecOpenIndices(table->info, false);
    });
    AfterTriggerBeginQuery();
}

static void end_executor(Table *table) {
    AfterTriggerEndQuery(table->estate);
    ExecCloseResultRelations(table->estate); // closes the indexes and what triggers opened
    ExecResetTupleTable(table->estate->es_tupleTable, false); // the slots of triggers
    FreeExecutorState(table->estate);
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

Table *open(Oid oid) {
    bool pushed = push_snapshot();
    Relation relation = open_relation(oid, RowExclusiveLock);
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs table", ALLOCSET_DEFAULT_SIZES);
    return pg::in_context(context, [&]() -> Table * {
        auto *table = static_cast<Table *>(palloc0(sizeof(Table)));
        table->relation = relation;
        table->context = context;
        table->snapshot = pushed;
        table->is_jobs = oid == relations()->job;
        const direct::Layout *layout =
            table->is_jobs ? direct::layout_of_jobs(relation) : direct::layout_of_leaf(relation);
        if (layout->direct)
            table->layout = layout;
        else
            set_up_executor(table);
        TupleDesc shape = RelationGetDescr(relation);
        table->found = MakeSingleTupleTableSlot(shape, &TTSOpsBufferHeapTuple);
        table->newest = MakeSingleTupleTableSlot(shape, &TTSOpsBufferHeapTuple);
        table->next = MakeSingleTupleTableSlot(shape, &TTSOpsHeapTuple);
        auto count = static_cast<Size>(shape->natts);
        table->values = static_cast<Datum *>(palloc0((sizeof(Datum) + 2 * sizeof(bool)) * count));
        table->nulls = reinterpret_cast<bool *>(table->values + count);
        table->replace = table->nulls + count;
        return table;
    });
}

static void write_added(Table *table);

void close(Table *table) {
    write_added(table);
    if (table->layout == nullptr)
        end_executor(table);
    if (table->id_scan != nullptr)
        index_endscan(table->id_scan);
    ExecDropSingleTupleTableSlot(table->found);
    ExecDropSingleTupleTableSlot(table->newest);
    ExecDropSingleTupleTableSlot(table->next);
    for (Relation index : table->indexes)
        if (index != nullptr)
            index_close(index, NoLock);
    table_close(table->relation, NoLock);
    bool written = table->written;
    if (table->snapshot)
        PopActiveSnapshot();
    MemoryContextDelete(table->context);
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

static Relation index_at(Table *table, int i) {
    if (table->indexes[i] == nullptr)
        table->indexes[i] = index_open(table->layout->indexes[i], RowExclusiveLock);
    return table->indexes[i];
}

static Relation index_by(Table *jobs, By by) { return index_at(jobs, static_cast<int>(by)); }

// ---- rows ----

Datum get(Table *jobs, Col column, bool *null) {
    return slot_getattr(jobs->found, static_cast<int>(column), null);
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

bool has(Table *jobs, Col column) { return !slot_attisnull(jobs->found, static_cast<int>(column)); }

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

template <class T> static T column_of(TupleTableSlot *slot, Col column, T absent) {
    bool null;
    Datum datum = slot_getattr(slot, static_cast<int>(column), &null);
    return null ? absent : static_cast<T>(datum);
}

changes::Facts facts_of(TupleTableSlot *slot) {
    changes::Facts facts;
    facts.id = column_of<int64>(slot, Col::id, 0);
    facts.due_at = column_of<int64>(slot, Col::due_at, 0);
    facts.queue = column_of<int32>(slot, Col::queue_id, 0);
    facts.stage = column_of<int16>(slot, Col::stage, 0);
    facts.priority = column_of<int16>(slot, Col::priority, 0);
    facts.attempt = column_of<int32>(slot, Col::attempt, 0);
    facts.rev = column_of<int32>(slot, Col::rev, 0);
    facts.lease_expires_at = column_of<int64>(slot, Col::lease_expires_at, never);
    facts.hold_session = column_of<int64>(slot, Col::hold_session, 0);
    facts.expires_at = column_of<int64>(slot, Col::expires_at, never);
    auto waiting = static_cast<core::Waiting>(column_of<int16>(slot, Col::waiting, 0));
    bool running = !slot_attisnull(slot, static_cast<int>(Col::token));
    facts.state = core::open_state(waiting, running);
    return facts;
}

const changes::Facts &facts(Table *jobs) {
    if (!jobs->facts_known)
        jobs->facts = facts_of(jobs->found);
    jobs->facts_known = true;
    return jobs->facts;
}

template <class T> static T column_set(Table *jobs, Col column, T as_before, T absent) {
    int i = static_cast<int>(column) - 1;
    if (!jobs->replace[i])
        return as_before;
    return jobs->nulls[i] ? absent : static_cast<T>(jobs->values[i]);
}

// Of the row under construction, which was `before`.
static changes::Facts facts_set(Table *jobs, const changes::Facts &before) {
    changes::Facts facts = before;
    facts.due_at = column_set(jobs, Col::due_at, before.due_at, int64{0});
    facts.stage = column_set(jobs, Col::stage, before.stage, int16{0});
    facts.priority = column_set(jobs, Col::priority, before.priority, int16{0});
    facts.attempt = column_set(jobs, Col::attempt, before.attempt, int32{0});
    facts.rev = column_set(jobs, Col::rev, before.rev, int32{0});
    facts.lease_expires_at =
        column_set(jobs, Col::lease_expires_at, before.lease_expires_at, int64{never});
    facts.hold_session = column_set(jobs, Col::hold_session, before.hold_session, int64{0});
    facts.expires_at = column_set(jobs, Col::expires_at, before.expires_at, int64{never});
    auto was_waiting = before.state == core::State::blocked     ? core::Waiting::blocked
                       : before.state == core::State::scheduled ? core::Waiting::scheduled
                                                                : core::Waiting::due;
    auto waiting = static_cast<core::Waiting>(
        column_set(jobs, Col::waiting, static_cast<int16>(was_waiting), int16{0}));
    bool running =
        column_set(jobs, Col::token, int64{before.state == core::State::running}, int64{0}) != 0;
    facts.state = core::open_state(waiting, running);
    return facts;
}

core::Place place_of(const changes::Facts &facts) {
    return {facts.priority, {facts.due_at, facts.id}};
}

// ---- writing, directly ----

static Datum value_at(Table *table, HeapTuple tuple, int column, bool *null) {
    return heap_getattr(tuple, column, RelationGetDescr(table->relation), null);
}

// The entries of a job are few: those of its state, and of what it has. `key`: its unique key.
static void enter_job(Table *jobs, ItemPointer tid, const changes::Facts &facts, Datum key,
                      bool no_key, By by) {
    Datum values[5] = {};
    bool nulls[5] = {};
    switch (by) {
    case By::id:
        values[0] = Int64GetDatum(facts.id);
        break;
    case By::due:
        if (facts.state != core::State::ready && facts.state != core::State::running)
            return;
        values[0] = Int32GetDatum(facts.queue);
        values[1] = Int16GetDatum(facts.stage);
        values[2] = Int16GetDatum(facts.priority);
        values[3] = TimestampTzGetDatum(facts.due_at);
        values[4] = Int64GetDatum(facts.id);
        break;
    case By::scheduled:
        if (facts.state != core::State::scheduled)
            return;
        values[0] = TimestampTzGetDatum(facts.due_at);
        values[1] = Int64GetDatum(facts.id);
        break;
    case By::expires:
        if (facts.expires_at == never)
            return;
        values[0] = TimestampTzGetDatum(facts.expires_at);
        break;
    case By::unique_key:
        if (no_key)
            return;
        values[0] = Int32GetDatum(facts.queue);
        values[1] = key;
        break;
    }
    direct::enter(index_by(jobs, by), jobs->relation, values, nulls, tid,
                  by == By::id || by == By::unique_key);
}

static void enter_finished(Table *leaf, HeapTuple tuple, int i) {
    bool nulls[2] = {};
    Datum id = value_at(leaf, tuple, static_cast<int>(Past::id), &nulls[0]);
    Relation index = index_at(leaf, i);
    if (index->rd_index->indnkeyatts == 1) {
        direct::enter(index, leaf->relation, &id, nulls, &tuple->t_self, false);
        return;
    }
    Datum state = value_at(leaf, tuple, static_cast<int>(Past::state), &nulls[0]);
    if (DatumGetInt16(state) != core::history_code(core::State::dead))
        return;
    Datum values[2] = {value_at(leaf, tuple, static_cast<int>(Past::queue_id), &nulls[0]), id};
    direct::enter(index, leaf->relation, values, nulls, &tuple->t_self, false);
}

// What heap_multi_insert() looks at in a slot that holds a heap tuple; anything more would cost as
// much as the insert.
static void make_slots(Table *table) {
    if (table->slots != nullptr)
        return;
    auto *slots =
        static_cast<HeapTupleTableSlot *>(palloc0(sizeof(HeapTupleTableSlot) * most_added));
    table->slots = static_cast<TupleTableSlot **>(palloc(sizeof(TupleTableSlot *) * most_added));
    for (int i = 0; i < most_added; i++) {
        slots[i].base.type = T_TupleTableSlot;
        *const_cast<const TupleTableSlotOps **>(&slots[i].base.tts_ops) = &TTSOpsHeapTuple;
        slots[i].base.tts_mcxt = table->context;
        table->slots[i] = &slots[i].base;
    }
}

static void write_together(Table *table) {
    make_slots(table);
    for (int i = 0; i < table->added_count; i++)
        reinterpret_cast<HeapTupleTableSlot *>(table->slots[i])->tuple = table->added[i].tuple;
    heap_multi_insert(table->relation, table->slots, table->added_count, GetCurrentCommandId(true),
                      0, nullptr);
    for (int i = 0; i < table->added_count; i++)
        table->added[i].tuple->t_self = table->slots[i]->tts_tid;
}

// Entries of new rows belong at the right end of most indexes. A small index would be searched from
// its root for each of them.
static void aim_at_end(Table *table, int i) {
    constexpr int worth_it = 4;
    if (table->added_count >= worth_it)
        direct::aim_at_end(index_at(table, i));
}

// Writes the rows, then index by index their entries.
static void write_added(Table *table) {
    if (table->added_count == 0)
        return;
    pg::in_context(table->context, [&] {
        if (table->added_count == 1)
            heap_insert(table->relation, table->added[0].tuple, GetCurrentCommandId(true), 0,
                        nullptr);
        else
            write_together(table);
    });
    for (int i = 0; i < table->layout->index_count; i++) {
        if (!table->is_jobs || i == static_cast<int>(By::id) || i == static_cast<int>(By::due))
            aim_at_end(table, i);
        for (int row = 0; row < table->added_count; row++) {
            const Added *added = &table->added[row];
            if (table->is_jobs)
                enter_job(table, &added->tuple->t_self, added->facts, added->key, added->key == 0,
                          static_cast<By>(i));
            else
                enter_finished(table, added->tuple, i);
        }
    }
    for (int i = 0; i < table->added_count; i++)
        heap_freetuple(table->added[i].tuple);
    table->added_count = 0;
    table->written = true;
}

static changes::Facts facts_new(Table *jobs) {
    changes::Facts nothing{};
    nothing.lease_expires_at = nothing.expires_at = never;
    changes::Facts facts = facts_set(jobs, nothing);
    facts.id = column_set(jobs, Col::id, int64{0}, int64{0});
    facts.queue = column_set(jobs, Col::queue_id, int32{0}, int32{0});
    return facts;
}

static void add(Table *table, HeapTuple tuple) {
    if (table->added == nullptr)
        table->added =
            static_cast<Added *>(MemoryContextAlloc(table->context, sizeof(Added) * most_added));
    Added *added = &table->added[table->added_count++];
    added->tuple = tuple;
    if (table->is_jobs) {
        bool no_key;
        added->facts = facts_new(table);
        added->key = value_at(table, tuple, static_cast<int>(Col::unique_key), &no_key);
        changes::added(added->facts);
    }
    if (table->added_count == most_added)
        write_added(table);
}

static TM_Result update_directly(Table *jobs, bool wait) {
    const changes::Facts &before = facts(jobs);
    changes::Facts after = facts_set(jobs, before);
    LockTupleMode mode;
    bool enter_all;
    TM_FailureData failure;
    TM_Result result =
        pg::update_tuple(jobs->relation, &jobs->found->tts_tid, jobs->next,
                         GetCurrentCommandId(true), wait, &failure, &mode, &enter_all);
    if (result != TM_Ok)
        return result;
    if (enter_all) {
        bool no_key;
        Datum key = slot_getattr(jobs->next, static_cast<int>(Col::unique_key), &no_key);
        for (int i = 0; i < direct::job_indexes; i++)
            enter_job(jobs, &jobs->next->tts_tid, after, key, no_key, static_cast<By>(i));
    }
    changes::changed(before, after);
    return TM_Ok;
}

static TM_Result remove_directly(Table *table) {
    if (table->is_jobs)
        facts(table);
    ItemPointerData tid = table->found->tts_tid;
    TM_FailureData failure;
    TM_Result result = table_tuple_delete(table->relation, &tid, GetCurrentCommandId(true),
                                          InvalidSnapshot, InvalidSnapshot, true, &failure, false);
    if (result == TM_Ok && table->is_jobs)
        changes::removed(table->facts, changes::final_state);
    return result;
}

// ---- writing ----

// A job is not what the caller was told: better an error.
[[noreturn]] static void suppressed(Table *table) {
    ereport(ERROR, errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
            errmsg("a trigger on table \"%s\" has suppressed a change of pgjobs",
                   RelationGetRelationName(table->relation)),
            errhint("A BEFORE trigger there must return a row."));
    pg_unreachable();
}

static bool is_written(TupleTableSlot *slot) { return ItemPointerIsValid(&slot->tts_tid); }

static bool is_deleted(TupleTableSlot *slot) {
    auto *buffered = reinterpret_cast<BufferHeapTupleTableSlot *>(slot);
    LockBuffer(buffered->buffer, BUFFER_LOCK_SHARE);
    uint16 mask = buffered->base.tuple->t_data->t_infomask;
    LockBuffer(buffered->buffer, BUFFER_LOCK_UNLOCK);
    return (mask & HEAP_XMAX_INVALID) == 0 && !HEAP_XMAX_IS_LOCKED_ONLY(mask);
}

// What the planner would have done for a statement that does not name a column.
static void set_defaults(Table *table) {
    TupleDesc shape = RelationGetDescr(table->relation);
    for (int i = 0; i < shape->natts; i++) {
        Form_pg_attribute column = TupleDescAttr(shape, i);
        if (table->replace[i] || column->attisdropped || column->attgenerated != '\0')
            continue;
        Node *given = build_column_default(table->relation, i + 1);
        if (given == nullptr)
            continue;
        ExprState *state = ExecPrepareExpr(reinterpret_cast<Expr *>(given), table->estate);
        table->values[i] = ExecEvalExprSwitchContext(state, GetPerTupleExprContext(table->estate),
                                                     &table->nulls[i]);
    }
}

void insert(Table *table) {
    if (table->layout == nullptr)
        set_defaults(table);
    HeapTuple tuple = pg::in_context(table->context, [&] {
        return heap_form_tuple(RelationGetDescr(table->relation), table->values, table->nulls);
    });
    table->written = true;
    if (table->layout != nullptr) {
        add(table, tuple);
        return;
    }
    ExecForceStoreHeapTuple(tuple, table->next, false);
    ExecSimpleRelationInsert(table->info, table->estate, table->next);
    if (!is_written(table->next))
        suppressed(table);
    ExecClearTuple(table->next);
    heap_freetuple(tuple);
    ResetPerTupleExprContext(table->estate);
}

[[noreturn]] static void lost_a_lock() {
    elog(ERROR, "a row that this transaction has locked was changed by another");
    pg_unreachable();
}

static void update_by_executor(Table *table) {
    EPQState epq;
    pg::init_epq(&epq, table->estate);
    EvalPlanQualSetSlot(&epq, table->found);
    ExecSimpleRelationUpdate(table->info, table->estate, &epq, table->found, table->next);
    EvalPlanQualEnd(&epq);
    if (!is_written(table->next))
        suppressed(table);
    ResetPerTupleExprContext(table->estate);
}

// Puts the row under construction, with what was not set as in `found`, into `next`. TOAST pointers
// go through untouched.
static void form_next(Table *table) {
    slot_getallattrs(table->found);
    for (int i = 0; i < RelationGetNumberOfAttributes(table->relation); i++)
        if (!table->replace[i]) {
            table->values[i] = table->found->tts_values[i];
            table->nulls[i] = table->found->tts_isnull[i];
        }
    HeapTuple tuple = pg::in_context(table->context, [&] {
        return heap_form_tuple(RelationGetDescr(table->relation), table->values, table->nulls);
    });
    tuple->t_tableOid = RelationGetRelid(table->relation);
    ExecForceStoreHeapTuple(tuple, table->next, true); // which frees it
}

void update(Table *table) {
    form_next(table);
    table->written = true;
    if (table->layout == nullptr)
        update_by_executor(table);
    else if (update_directly(table, true) != TM_Ok)
        lost_a_lock();
    ExecClearTuple(table->next);
}

// Such a row may even be of the command that is running: heap_update() would call it invisible.
static bool is_our_own(Table *jobs) {
    HeapTupleHeader header = ExecFetchSlotHeapTuple(jobs->found, false, nullptr)->t_data;
    return !HeapTupleHeaderXminCommitted(header) &&
           TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmin(header));
}

bool update_if_free(Table *jobs) {
    if (jobs->layout == nullptr || !pg::can_update_without_waiting || is_our_own(jobs))
        return false;
    form_next(jobs);
    jobs->written = true;
    bool done = update_directly(jobs, false) == TM_Ok;
    if (!done)
        ExecClearTuple(jobs->next);
    return done;
}

bool update_if_current(Table *jobs) {
    if (jobs->locked) {
        update(jobs);
        return true;
    }
    form_next(jobs);
    jobs->written = true;
    bool done = update_directly(jobs, true) == TM_Ok;
    ExecClearTuple(jobs->next);
    return done;
}

static void remove_by_executor(Table *table) {
    EPQState epq;
    pg::init_epq(&epq, table->estate);
    EvalPlanQualSetSlot(&epq, table->found);
    ExecSimpleRelationDelete(table->info, table->estate, &epq, table->found);
    EvalPlanQualEnd(&epq);
    if (!is_deleted(table->found))
        suppressed(table);
    ResetPerTupleExprContext(table->estate);
}

void remove(Table *table) {
    table->written = true;
    if (table->layout == nullptr)
        remove_by_executor(table);
    else if (remove_directly(table) != TM_Ok)
        lost_a_lock();
}

bool remove_if_current(Table *jobs) {
    if (jobs->locked) {
        remove(jobs);
        return true;
    }
    jobs->written = true;
    return remove_directly(jobs) == TM_Ok;
}

// ---- finding ----

// A ready row is noted before it is locked: an error in between must find it noted. `may_stay`: it
// may be left as it is.
static void note_touch(Table *jobs, bool may_stay) {
    if (get_int16(jobs, Col::waiting) != 0 || has(jobs, Col::token))
        return;
    frontier::will_announce();
    const changes::Facts &row = facts(jobs);
    changes::touching(row);
    if (may_stay)
        changes::left_ready(row);
}

// Locks the newest version of the row in `found`. That is most often the version which is there
// already: then `found` stays as it is.
static TM_Result lock_newest(Table *jobs, LockWaitPolicy policy, uint8 flags) {
    TM_FailureData failure;
    ItemPointerData tid = jobs->found->tts_tid;
    TM_Result result = table_tuple_lock(jobs->relation, &tid, GetActiveSnapshot(), jobs->newest,
                                        GetCurrentCommandId(true), LockTupleNoKeyExclusive, policy,
                                        flags, &failure);
    jobs->locked = result == TM_Ok;
    if (result == TM_Ok && !ItemPointerEquals(&jobs->newest->tts_tid, &jobs->found->tts_tid)) {
        TupleTableSlot *older = jobs->found;
        jobs->found = jobs->newest;
        jobs->newest = older;
        jobs->facts_known = false;
        note_touch(jobs, true); // it may be ready, or elsewhere, only now
    }
    return result;
}

// Whether everybody who has this version of a row in his hands will announce it.
static bool is_held_by_announcers(Relation relation, ItemPointerData tid) {
    Buffer buffer = ReadBuffer(relation, ItemPointerGetBlockNumber(&tid));
    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    Page page = BufferGetPage(buffer);
    uint16 mask = HEAP_XMAX_INVALID;
    TransactionId holder = InvalidTransactionId;
    ItemId item = ItemPointerGetOffsetNumber(&tid) <= PageGetMaxOffsetNumber(page)
                      ? PageGetItemId(page, ItemPointerGetOffsetNumber(&tid))
                      : nullptr;
    if (item != nullptr && ItemIdIsNormal(item)) {
        auto *tuple = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
        mask = tuple->t_infomask;
        holder = HeapTupleHeaderGetRawXmax(tuple);
    }
    UnlockReleaseBuffer(buffer);
    if ((mask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) != 0)
        return false; // has just ended, or are several: no need to know
    return frontier::is_announced_by(SubTransGetTopmostTransaction(holder));
}

void note_visited(Table *jobs) { note_touch(jobs, false); }

Grip lock_visited(Table *jobs) {
    ItemPointerData tid = jobs->found->tts_tid;
    switch (lock_newest(jobs, LockWaitSkip, TUPLE_LOCK_FLAG_FIND_LAST_VERSION)) {
    case TM_Ok:
        return Grip::locked;
    case TM_WouldBlock:
        return is_held_by_announcers(jobs->relation, tid) ? Grip::passed : Grip::blocked;
    default:
        return Grip::passed;
    }
}

enum class Seen { nothing, row, uncommitted };

static void seek_id(IndexScanDesc scan, int64 id) {
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
    index_rescan(scan, &key, 1, nullptr, 0);
}

// One look through the primary key. A version whose inserter is still running counts only if no
// other is there: it may be the new half of an update.
static Seen look(Table *jobs, Relation index, int64 id, TransactionId *inserter, bool *held) {
    if (jobs->id_scan == nullptr)
        jobs->id_scan = pg::in_context(jobs->context, [&] {
            InitDirtySnapshot(jobs->dirty);
            return pg::begin_index_scan(jobs->relation, index, &jobs->dirty, 1);
        });
    seek_id(jobs->id_scan, id);
    Seen seen = Seen::nothing;
    jobs->facts_known = false;
    while (seen != Seen::row &&
           index_getnext_slot(jobs->id_scan, ForwardScanDirection, jobs->found)) {
        if (TransactionIdIsValid(jobs->dirty.xmin)) {
            seen = Seen::uncommitted;
            *inserter = jobs->dirty.xmin;
        } else {
            *held = TransactionIdIsValid(jobs->dirty.xmax);
            seen = Seen::row;
        }
    }
    return seen;
}

// A look can miss a row: it reads the index page, an update commits with a new index entry, and the
// version behind the old entry is dead. A snapshot does not: whatever it shows as gone is gone.
static bool is_gone(Table *jobs, Relation index, int64 id) {
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    IndexScanDesc scan = pg::begin_index_scan(jobs->relation, index, snapshot, 1);
    seek_id(scan, id);
    bool gone = !index_getnext_slot(scan, ForwardScanDirection, jobs->found);
    index_endscan(scan);
    UnregisterSnapshot(snapshot);
    return gone;
}

// Where this process has put jobs that it claimed: most often it is the one who completes them, and
// then no index is asked. A hint: what is found there may be anything.
struct Recent {
    int64 id;
    ItemPointerData tid;
};
constexpr int64 most_recent = 8192;
static Recent *recent;

void remember(Table *jobs) {
    if (recent == nullptr)
        recent = static_cast<Recent *>(
            MemoryContextAllocZero(TopMemoryContext, sizeof(Recent) * most_recent));
    int64 id = facts(jobs).id;
    recent[static_cast<uint64>(id) % most_recent] = {id, jobs->next->tts_tid};
}

// A page that is there stays, as long as the table is open.
static bool has_block(Table *jobs, BlockNumber block) {
    if (block >= jobs->blocks)
        jobs->blocks = RelationGetNumberOfBlocks(jobs->relation);
    return block < jobs->blocks;
}

static bool look_where_it_was(Table *jobs, int64 id, bool *held) {
    if (recent == nullptr || recent[static_cast<uint64>(id) % most_recent].id != id)
        return false;
    ItemPointerData tid = recent[static_cast<uint64>(id) % most_recent].tid;
    if (!has_block(jobs, ItemPointerGetBlockNumber(&tid)))
        return false;
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    jobs->facts_known = false;
    if (!table_tuple_fetch_row_version(jobs->relation, &tid, &dirty, jobs->found))
        return false;
    *held = TransactionIdIsValid(dirty.xmax);
    return !TransactionIdIsValid(dirty.xmin) && get_int64(jobs, Col::id, 0) == id;
}

static Relation id_index(Table *jobs) {
    constexpr int place = static_cast<int>(By::id);
    if (jobs->layout == nullptr && jobs->indexes[place] == nullptr)
        jobs->indexes[place] = index_open(pg::primary_key_index(jobs->relation), RowExclusiveLock);
    return index_by(jobs, By::id);
}

static bool find(Table *jobs, int64 id, LockWaitPolicy policy, bool lock) {
    write_added(jobs);
    bool found = false;
    bool held;
    jobs->busy = jobs->locked = false;
    if (!lock && look_where_it_was(jobs, id, &held) && !held)
        return true;
    Relation index = id_index(jobs);
    for (int looks = 1;; looks++) {
        TransactionId inserter = InvalidTransactionId;
        held = false;
        Seen seen = look(jobs, index, id, &inserter, &held);
        if (seen == Seen::row && !lock && !held) {
            found = true;
            break;
        }
        if (seen == Seen::row) {
            note_touch(jobs, true);
            TM_Result result = lock_newest(jobs, policy, TUPLE_LOCK_FLAG_FIND_LAST_VERSION);
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
    if (!found)
        ExecClearTuple(jobs->found);
    return found;
}

bool find(Table *jobs, int64 id, LockWaitPolicy policy) { return find(jobs, id, policy, true); }

// The executor's functions need the lock.
bool find_unlocked(Table *jobs, int64 id) {
    return find(jobs, id, LockWaitBlock, jobs->layout == nullptr);
}

bool lock_found(Table *jobs) {
    if (jobs->locked)
        return true;
    note_touch(jobs, true);
    return lock_newest(jobs, LockWaitBlock, 0) == TM_Ok;
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
    Relation index = direct::open_index(relation, columns, lengthof(columns), "unique keys");
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

// The store's writing: rows and their index entries, directly or through the executor.
#include "catalog.hpp"
#include "inject.hpp"
#include "shared.hpp"
#include "store_parts.hpp"

namespace pgjobs::store {

using direct::By;

constexpr int most_added = 256; // rows written together

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

static void enter_message(Table *leaf, HeapTuple tuple) {
    bool null;
    Datum position = value_at(leaf, tuple, static_cast<int>(Line::position), &null);
    direct::enter(index_at(leaf, 0), leaf->relation, &position, &null, &tuple->t_self, false);
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
void flush(Table *table) {
    if (table->added_count == 0)
        return;
    PGJOBS_POINT("insert-before");
    pg::in_context(table->context, [&] {
        if (table->added_count == 1)
            heap_insert(table->relation, table->added[0].tuple, GetCurrentCommandId(true), 0,
                        nullptr);
        else
            write_together(table);
    });
    PGJOBS_POINT("insert-without-entries");
    for (int i = 0; i < table->layout->index_count; i++) {
        if (table->kind != Kind::jobs || i == static_cast<int>(By::id) ||
            i == static_cast<int>(By::due))
            aim_at_end(table, i);
        for (int row = 0; row < table->added_count; row++) {
            const Added *added = &table->added[row];
            switch (table->kind) {
            case Kind::jobs:
                enter_job(table, &added->tuple->t_self, added->facts, added->key, added->key == 0,
                          static_cast<By>(i));
                break;
            case Kind::history:
                enter_finished(table, added->tuple, i);
                break;
            case Kind::log:
                enter_message(table, added->tuple);
                break;
            }
        }
    }
    for (int i = 0; i < table->added_count; i++)
        heap_freetuple(table->added[i].tuple);
    table->added_count = 0;
    table->written = true;
}

static void add(Table *table, HeapTuple tuple) {
    if (table->added == nullptr)
        table->added =
            static_cast<Added *>(MemoryContextAlloc(table->context, sizeof(Added) * most_added));
    Added *added = &table->added[table->added_count++];
    added->tuple = tuple;
    if (table->kind == Kind::jobs) {
        bool no_key;
        added->facts = facts_new(table);
        added->key = value_at(table, tuple, static_cast<int>(Col::unique_key), &no_key);
        changes::added(added->facts, nullptr);
    }
    if (table->added_count == most_added)
        flush(table);
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
    PGJOBS_POINT("update-not-noted");
    if (enter_all) {
        bool no_key;
        Datum key = slot_getattr(jobs->next, static_cast<int>(Col::unique_key), &no_key);
        for (int i = 0; i < direct::job_indexes; i++)
            enter_job(jobs, &jobs->next->tts_tid, after, key, no_key, static_cast<By>(i));
    }
    changes::changed(before, after, jobs->next);
    return TM_Ok;
}

static TM_Result remove_directly(Table *table) {
    if (table->kind == Kind::jobs)
        facts(table);
    ItemPointerData tid = table->found->tts_tid;
    TM_FailureData failure;
    TM_Result result = table_tuple_delete(table->relation, &tid, GetCurrentCommandId(true),
                                          InvalidSnapshot, InvalidSnapshot, true, &failure, false);
    PGJOBS_POINT("delete-not-noted");
    if (result == TM_Ok && table->kind == Kind::jobs)
        changes::removed(table->facts, changes::final_state, table->found);
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

// The row under construction. A job's ends at its last value.
static HeapTuple form(Table *table) {
    TupleDesc shape = RelationGetDescr(table->relation);
    if (table->layout != nullptr && table->kind == Kind::jobs) {
        int count = shape->natts;
        while (table->nulls[count - 1])
            count--;
        shape = direct::shape_of_jobs(table->relation, count);
    }
    return heap_form_tuple(shape, table->values, table->nulls);
}

void insert(Table *table) {
    if (table->layout == nullptr)
        set_defaults(table);
    HeapTuple tuple = pg::in_context(table->context, [&] { return form(table); });
    table->written = true;
    if (table->layout != nullptr) {
        add(table, tuple);
        return;
    }
    need_next(table);
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
    HeapTuple tuple = pg::in_context(table->context, [&] { return form(table); });
    tuple->t_tableOid = RelationGetRelid(table->relation);
    need_next(table);
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

} // namespace pgjobs::store

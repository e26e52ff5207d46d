#include "store.hpp"

#include "catalog.hpp"
#include "shared.hpp"
#include "store_parts.hpp"

namespace pgjobs::store {

// ---- opening ----

bool push_snapshot() {
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
Relation open_relation(Oid oid, LOCKMODE mode) {
    Relation relation = try_table_open(oid, mode);
    if (relation == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("extension \"pgjobs\" was dropped meanwhile"),
                errhint("Run CREATE EXTENSION pgjobs."));
    return relation;
}

Table *open(Oid oid, Kind kind) {
    bool pushed = push_snapshot();
    Relation relation = open_relation(oid, RowExclusiveLock);
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs table", ALLOCSET_DEFAULT_SIZES);
    return pg::in_context(context, [&]() -> Table * {
        auto *table = static_cast<Table *>(palloc0(sizeof(Table)));
        table->relation = relation;
        table->context = context;
        table->snapshot = pushed;
        table->kind = kind;
        const direct::Layout *layout = direct::layout_of(relation, kind);
        table->known = *layout;
        if (layout->direct)
            table->layout = &table->known;
        else
            set_up_executor(table);
        TupleDesc shape = RelationGetDescr(relation);
        table->found = MakeSingleTupleTableSlot(shape, &TTSOpsBufferHeapTuple);
        auto count = static_cast<Size>(shape->natts);
        table->values = static_cast<Datum *>(palloc0((sizeof(Datum) + 2 * sizeof(bool)) * count));
        table->nulls = reinterpret_cast<bool *>(table->values + count);
        table->replace = table->nulls + count;
        return table;
    });
}

void close(Table *table) {
    flush(table);
    if (table->layout == nullptr)
        end_executor(table);
    if (table->id_scan != nullptr)
        index_endscan(table->id_scan);
    ExecDropSingleTupleTableSlot(table->found);
    for (TupleTableSlot *slot : {table->newest, table->next})
        if (slot != nullptr)
            ExecDropSingleTupleTableSlot(slot);
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
    Table *jobs = open(relations()->job, Kind::jobs);
    if (RelationGetNumberOfAttributes(jobs->relation) < job_columns)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("the installed version of extension \"pgjobs\" is too old for its library"),
                errhint("Run ALTER EXTENSION pgjobs UPDATE."));
    return jobs;
}

static TupleTableSlot *make_slot(Table *table, const TupleTableSlotOps *kind) {
    return pg::in_context(table->context, [&] {
        return MakeSingleTupleTableSlot(RelationGetDescr(table->relation), kind);
    });
}

void need_newest(Table *table) {
    if (table->newest == nullptr)
        table->newest = make_slot(table, &TTSOpsBufferHeapTuple);
}

void need_next(Table *table) {
    if (table->next == nullptr)
        table->next = make_slot(table, &TTSOpsHeapTuple);
}

Relation index_at(Table *table, int i) {
    if (table->indexes[i] == nullptr)
        table->indexes[i] = index_open(table->layout->indexes[i], RowExclusiveLock);
    return table->indexes[i];
}

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
changes::Facts facts_set(Table *jobs, const changes::Facts &before) {
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

changes::Facts facts_new(Table *jobs) {
    changes::Facts nothing{};
    nothing.lease_expires_at = nothing.expires_at = never;
    changes::Facts facts = facts_set(jobs, nothing);
    facts.id = column_set(jobs, Col::id, int64{0}, int64{0});
    facts.queue = column_set(jobs, Col::queue_id, int32{0}, int32{0});
    return facts;
}

core::Place place_of(const changes::Facts &facts) {
    return {facts.priority, {facts.due_at, facts.id}};
}

} // namespace pgjobs::store

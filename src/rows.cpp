#include "rows.hpp"

#include "catalog.hpp"
#include "inject.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "store.hpp"
#include "wait.hpp"

namespace pgjobs::rows {

constexpr int64 most_claimed = 10000;
constexpr int64 most_looked_at = 1000; // rows that others have, by one who waits
constexpr int64 spare = 16;            // looked at besides those that are wanted

// ---- statements ----

enum Kind { lock_waiting, take, finish, finished, look, lock_working, give_back, see_working };

// A statement of this session on a stage of a table. Its text names everything in full, so it does
// not matter with which search_path it is planned.
struct PlanKey {
    Oid table;
    int32 stage;
    int32 kind;
};
struct Plan {
    PlanKey key;
    char *sql;
    SPIPlanPtr plan;
};

static HTAB *plans;

static SPIPlanPtr prepare(const char *sql, int count, Oid *types) {
    SPIPlanPtr plan = SPI_prepare_cursor(sql, count, types, CURSOR_OPT_GENERIC_PLAN);
    if (plan == nullptr)
        elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
    if (SPI_keepplan(plan) != 0)
        elog(ERROR, "SPI_keepplan failed");
    return plan;
}

// The plan for a text; kept as long as the text stays the same.
static SPIPlanPtr plan_of(const PlanKey &key, const char *sql, int count, Oid *types) {
    if (plans == nullptr) {
        HASHCTL control{};
        control.keysize = sizeof(PlanKey);
        control.entrysize = sizeof(Plan);
        plans = hash_create("pgjobs plans for rows", 32, &control, HASH_ELEM | HASH_BLOBS);
    }
    bool found;
    auto *entry = static_cast<Plan *>(hash_search(plans, &key, HASH_ENTER, &found));
    if (found && entry->plan != nullptr && strcmp(entry->sql, sql) == 0)
        return entry->plan;
    if (found && entry->plan != nullptr) {
        SPI_freeplan(entry->plan);
        pfree(entry->sql);
    }
    entry->plan = nullptr;
    SPIPlanPtr plan = prepare(sql, count, types);
    entry->sql = MemoryContextStrdup(TopMemoryContext, sql);
    entry->plan = plan;
    return plan;
}

// How a statement finds its rows.
enum class By {
    index, // of waiting rows, in the order of claims
    place, // ctid
    key    // the primary key
};

// Makes the plan, if there is none or the old one is not good any more: whatever the statistics
// say, for they may be of a time when all rows waited, or none was there. For the index of waiting
// rows pages cost nothing and comparing much: it is the one that makes comparisons needless. What
// is executed then has the session's settings: they are its triggers', too.
static void make_plan(SPIPlanPtr plan, By by) {
    struct {
        By by;
        const char *name;
        const char *value;
    } static constexpr settings[] = {{By::index, "seq_page_cost", "0"},
                                     {By::index, "random_page_cost", "0"},
                                     {By::index, "cpu_operator_cost", "1"},
                                     {By::place, "enable_indexscan", "off"},
                                     {By::key, "enable_seqscan", "off"},
                                     {By::key, "enable_bitmapscan", "off"},
                                     {By::key, "jit", "off"}};
    int level = NewGUCNestLevel();
    for (const auto &setting : settings)
        if (setting.by == by || setting.by == By::key) // those are for all
            set_config_option(setting.name, setting.value, PGC_USERSET, PGC_S_SESSION,
                              GUC_ACTION_SAVE, true, 0, false);
    ReleaseCachedPlan(SPI_plan_get_cached_plan(plan), CurrentResourceOwner);
    AtEOXact_GUC(false, level);
}

// Like pgjobs' own statements, these see rows as committed now, in every isolation level.
static uint64 run(SPIPlanPtr plan, By by, Datum *values, const char *nulls) {
    make_plan(plan, by);
    bool read_only = by == By::index;
    int code = SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot,
                                    read_only, true, 0);
    if (code < 0)
        elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(code));
    return SPI_processed;
}

// ---- pieces of text ----

static const char *source(const Attachment *attachment) {
    return psprintf("%s%s AS pgjobs_row", attachment->partitioned ? "" : "ONLY ", attachment->name);
}

static const char *column(const char *name) {
    return psprintf("pgjobs_row.%s", quote_identifier(name));
}

static const char *status_is(const Attachment *attachment, int state) {
    return psprintf("%s OPERATOR(pg_catalog.=) %s", column(attachment->status),
                    state_literal(attachment, state));
}

// What the index of waiting rows says of each of its rows, too: of no use but to the planner, who
// sees that this index makes the comparison needless.
static const char *waits(const Attachment *attachment, int state) {
    StringInfoData states;
    initStringInfo(&states);
    for (int i = 0; i < attachment->stage_count; i++)
        appendStringInfo(&states, "%s%s", i > 0 ? ", " : "",
                         state_literal(attachment, attachment->stages[i].waiting));
    return psprintf("%s AND %s OPERATOR(pg_catalog.=) ANY (ARRAY[%s])",
                    status_is(attachment, state), column(attachment->status), states.data);
}

// The order of claims.
static const char *order(const Attachment *attachment) {
    StringInfoData text;
    initStringInfo(&text);
    if (attachment->priority != nullptr)
        appendStringInfo(&text, "%s, ", column(attachment->priority));
    for (int i = 0; i < attachment->key_count; i++)
        appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", column(attachment->keys[i]));
    return text.data;
}

// The row with the key $1, $2, ...
static const char *key_matches(const Attachment *attachment) {
    StringInfoData text;
    initStringInfo(&text);
    for (int i = 0; i < attachment->key_count; i++) {
        if (i > 0)
            appendStringInfoString(&text, " AND ");
        generate_operator_clause(&text, column(attachment->keys[i]), attachment->key_types[i],
                                 attachment->key_equals[i], psprintf("$%d", i + 1),
                                 attachment->key_types[i]);
    }
    return text.data;
}

// ---- claim_row ----

static Oid table_of_argument(FunctionCallInfo fcinfo) {
    Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);
    Oid table = OidIsValid(type) ? get_typ_typrelid(type) : InvalidOid;
    char kind = OidIsValid(table) ? get_rel_relkind(table) : '\0';
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("the first argument of pgjobs.claim_row() has no row type of a table"),
                errhint("Write NULL::my_table to say which table is meant."));
    return table;
}

// The places of the first rows that wait, in the order of claims, whoever has them. A query that
// locks rows would not see that the index of waiting rows makes a comparison needless.
static uint64 find_rows(const Attachment *attachment, int stage, int64 most) {
    const char *sql = psprintf(
        "SELECT pgjobs_row.ctid, pgjobs_row.tableoid FROM %s WHERE %s ORDER BY %s LIMIT $1",
        source(attachment), waits(attachment, attachment->stages[stage].waiting),
        order(attachment));
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(most)};
    return run(plan_of({attachment->table, stage, look}, sql, 1, types), By::index, values,
               nullptr);
}

// A row at one of the places $1; of partitions, those of $2.
static const char *at_places(const Attachment *attachment) {
    return psprintf("pgjobs_row.ctid OPERATOR(pg_catalog.=) ANY ($1)%s",
                    attachment->partitioned
                        ? " AND EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest($1), "
                          "pg_catalog.unnest($2)) AS place (row, of) "
                          "WHERE place.row OPERATOR(pg_catalog.=) pgjobs_row.ctid "
                          "AND place.of OPERATOR(pg_catalog.=) pgjobs_row.tableoid)"
                        : "");
}

static Datum array_at(uint64 count, int column, Oid type, int length, bool by_value, char align) {
    auto *data = static_cast<Datum *>(palloc(sizeof(Datum) * count));
    for (uint64 i = 0; i < count; i++)
        data[i] = pg::datum_at(i, column);
    return PointerGetDatum(
        construct_array(data, static_cast<int>(count), type, length, by_value, align));
}

static void read_places(uint64 count, Datum *values) {
    values[0] = array_at(count, 1, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT);
    values[1] = array_at(count, 2, OIDOID, sizeof(Oid), true, TYPALIGN_INT);
}

// Locks the first of those that were found and that nobody has.
static uint64 lock_found(const Attachment *attachment, int stage, uint64 count, int64 most) {
    const char *sql = psprintf(
        "SELECT pgjobs_row.ctid, pgjobs_row.tableoid FROM %s WHERE %s AND %s ORDER BY %s LIMIT $3 "
        "FOR NO KEY UPDATE SKIP LOCKED",
        source(attachment), at_places(attachment),
        status_is(attachment, attachment->stages[stage].waiting), order(attachment));
    Oid types[] = {TIDARRAYOID, OIDARRAYOID, INT8OID};
    Datum values[] = {0, 0, Int64GetDatum(most)};
    read_places(count, values);
    return run(plan_of({attachment->table, stage, lock_waiting}, sql, 3, types), By::place, values,
               nullptr);
}

// Locks the first rows that wait and that nobody has: among a few more than are wanted, and among
// more and more while others have them.
static uint64 lock_rows(const Attachment *attachment, int stage, int64 most) {
    for (int64 look_at = most + spare;; look_at *= 8) {
        uint64 found = find_rows(attachment, stage, look_at);
        uint64 locked = found > 0 ? lock_found(attachment, stage, found, most) : 0;
        if (static_cast<int64>(locked) == most || static_cast<int64>(found) < look_at)
            return locked;
    }
}

// Moves the rows whose places are $1 (and $2, for the partitions) on; they are locked.
static const char *take_sql(const Attachment *attachment, int stage) {
    const RowStage *moves = &attachment->stages[stage];
    const char *changed = order(attachment);
    // Without names, for they might be those of others: columns of the list below.
    StringInfoData places;
    initStringInfo(&places);
    int count = attachment->key_count + (attachment->priority != nullptr ? 1 : 0);
    for (int i = 0; i < count; i++)
        appendStringInfo(&places, "%s%d", i > 0 ? ", " : "", i + 2);
    return psprintf("WITH taken AS (UPDATE %s SET %s = %s "
                    "WHERE %s AND %s "
                    "RETURNING %s, %s) SELECT * FROM taken ORDER BY %s",
                    source(attachment), quote_identifier(attachment->status),
                    state_literal(attachment, moves->working), at_places(attachment),
                    status_is(attachment, moves->waiting), whole_row(attachment), changed,
                    places.data);
}

static uint64 take_rows(const Attachment *attachment, int stage, uint64 count) {
    Oid types[] = {TIDARRAYOID, OIDARRAYOID};
    Datum values[2];
    read_places(count, values);
    SPIPlanPtr plan =
        plan_of({attachment->table, stage, take}, take_sql(attachment, stage), 2, types);
    return run(plan, By::place, values, nullptr);
}

static void return_taken(FunctionCallInfo fcinfo, uint64 count) {
    auto *set = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    for (uint64 i = 0; i < count; i++) {
        HeapTupleHeader row = DatumGetHeapTupleHeader(pg::datum_at(i, 1));
        HeapTupleData tuple{};
        tuple.t_len = HeapTupleHeaderGetDatumLength(row);
        tuple.t_data = row;
        tuplestore_puttuple(set->setResult, &tuple);
    }
}

// pgjobs.claim_row(of anyelement, stage, max_rows) -> setof anyelement
PGJOBS_FUNCTION(claim_row) {
    Oid table = table_of_argument(fcinfo);
    char *name = pg::required_string(fcinfo, 1, "stage");
    int64 most = pg::ranged(pg::required_int64(fcinfo, 2, "max_rows"), "max_rows", 1, most_claimed);
    pg::require_writable("pgjobs.claim_row()");
    InitMaterializedSRF(fcinfo, 0);
    const Attachment *attachment = get_attachment(table);
    int stage = get_row_stage(attachment, name);
    require_home(attachment);
    if (!settings::execute)
        PG_RETURN_NULL();
    SPI_connect();
    uint64 count = lock_rows(attachment, stage, most);
    PGJOBS_POINT("rows-locked");
    if (count > 0)
        return_taken(fcinfo, take_rows(attachment, stage, count));
    SPI_finish();
    PG_RETURN_NULL();
}

// ---- finish_row ----

// What a finish compares, and the statements' parameters behind the key.
struct Fence {
    pg::Value token;
    pg::Value changed_at; // of the column's type
};

static const char *fence_matches(const Attachment *attachment) {
    StringInfoData text;
    initStringInfo(&text);
    int next = attachment->key_count + 1;
    if (attachment->token != nullptr)
        appendStringInfo(&text, " AND ($%d IS NULL OR %s OPERATOR(pg_catalog.=) $%d)", next,
                         column(attachment->token), next);
    if (attachment->changed_at != nullptr)
        appendStringInfo(&text, " AND ($%d IS NULL OR %s OPERATOR(pg_catalog.=) $%d)", next + 1,
                         column(attachment->changed_at), next + 1);
    return text.data;
}

static void check_column(const Attachment *attachment, const pg::Value &value, const char *argument,
                         const char *column) {
    if (value.present && column == nullptr)
        ereport(
            ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("table \"%s\" has no column for argument \"%s\"", attachment->relname, argument),
            errhint("Name one in pgjobs.attach_table(), or leave the argument out."));
}

static Fence read_fence(FunctionCallInfo fcinfo, const Attachment *attachment) {
    Fence fence{};
    if (pg::given(fcinfo, 4))
        fence.token = pg::value(PG_GETARG_INT64(4));
    if (pg::given(fcinfo, 5))
        fence.changed_at = pg::value(PG_GETARG_DATUM(5));
    check_column(attachment, fence.token, "token", attachment->token);
    check_column(attachment, fence.changed_at, "changed_at", attachment->changed_at);
    // As the session has read it.
    if (fence.changed_at.present && attachment->changed_at_type == TIMESTAMPOID)
        fence.changed_at.datum = DirectFunctionCall1(timestamptz_timestamp, fence.changed_at.datum);
    return fence;
}

static uint64 run_on_key(const Attachment *attachment, int stage, Kind kind, const char *sql,
                         const Key &key, const Fence &fence) {
    Oid types[INDEX_MAX_KEYS + 2];
    Datum values[INDEX_MAX_KEYS + 2];
    char nulls[INDEX_MAX_KEYS + 3];
    int count = attachment->key_count;
    memcpy(values, key.values, sizeof(Datum) * static_cast<size_t>(count));
    memcpy(types, attachment->key_types, sizeof(Oid) * static_cast<size_t>(count));
    memset(nulls, ' ', static_cast<size_t>(count));
    for (const pg::Value &value : {fence.token, fence.changed_at}) {
        values[count] = value.datum;
        nulls[count++] = value.present ? ' ' : 'n';
    }
    types[count - 2] = INT8OID;
    types[count - 1] =
        OidIsValid(attachment->changed_at_type) ? attachment->changed_at_type : Oid{TIMESTAMPTZOID};
    return run(plan_of({attachment->table, stage, kind}, sql, count, types), By::key, values,
               nulls);
}

static bool move_on(const Attachment *attachment, int stage, int from, int to, Kind kind,
                    const Key &key, const Fence &fence) {
    const char *sql =
        psprintf("UPDATE %s SET %s = %s WHERE %s AND %s%s", source(attachment),
                 quote_identifier(attachment->status), state_literal(attachment, to),
                 key_matches(attachment), status_is(attachment, from), fence_matches(attachment));
    return run_on_key(attachment, stage, kind, sql, key, fence) > 0;
}

// A client may repeat a call whose answer it has not got: its token is the row's until somebody
// claims it again.
static bool was_finished(const Attachment *attachment, int stage, int state, const Key &key,
                         const Fence &fence) {
    if (!fence.token.present || fence.changed_at.present)
        return false;
    const char *sql =
        psprintf("SELECT FROM %s WHERE %s AND %s%s", source(attachment), key_matches(attachment),
                 status_is(attachment, state), fence_matches(attachment));
    return run_on_key(attachment, stage, finished, sql, key, fence) > 0;
}

[[noreturn]] static void lost(const Attachment *attachment, const char *key, const char *stage) {
    ereport(
        ERROR, errcode(errcode_lease_lost),
        errmsg("row %s of table \"%s\" is not yours any more", pg::shown(key), attachment->relname),
        errdetail("It is not in stage \"%s\" with what you have given, or you may not see it.",
                  stage),
        errhint("Drop the work, and claim another row."));
    pg_unreachable();
}

// pgjobs.finish_row(target, key, stage, ok, token, changed_at) -> boolean
PGJOBS_FUNCTION(finish_row) {
    Oid table = DatumGetObjectId(pg::required(fcinfo, 0, "target"));
    char *key = pg::required_string(fcinfo, 1, "key");
    char *name = pg::required_string(fcinfo, 2, "stage");
    bool ok = pg::required_bool(fcinfo, 3, "ok");
    pg::require_writable("pgjobs.finish_row()");
    const Attachment *attachment = get_attachment(table);
    int number = get_row_stage(attachment, name);
    const RowStage *stage = &attachment->stages[number];
    int to = ok ? stage->done : stage->failed;
    if (to < 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("stage \"%s\" of table \"%s\" has no state \"failed\"", name,
                       attachment->relname),
                errhint("Name one in pgjobs.attach_table()."));
    Fence fence = read_fence(fcinfo, attachment);
    // The plans of the two ends stand side by side.
    int place = number * 2 + (ok ? 1 : 0);
    Key values = read_key(attachment, key);
    SPI_connect();
    bool moved = move_on(attachment, place, stage->working, to, finish, values, fence);
    bool accepted = moved || was_finished(attachment, place, to, values, fence);
    SPI_finish();
    if (!accepted && (fence.token.present || fence.changed_at.present))
        lost(attachment, key, name);
    PG_RETURN_BOOL(accepted);
}

// ---- for the reaper ----

bool lock_working_row(const Attachment *attachment, int stage, const Key &key) {
    const char *sql =
        psprintf("SELECT FROM %s WHERE %s AND %s FOR NO KEY UPDATE SKIP LOCKED", source(attachment),
                 key_matches(attachment), status_is(attachment, attachment->stages[stage].working));
    return run_on_key(attachment, stage, lock_working, sql, key, {}) > 0;
}

bool give_row_back(const Attachment *attachment, int stage, const Key &key) {
    const RowStage *moves = &attachment->stages[stage];
    return move_on(attachment, stage, moves->working, moves->waiting, give_back, key, {});
}

bool is_row_working(const Attachment *attachment, int stage, const Key &key) {
    const char *sql =
        psprintf("SELECT FROM %s WHERE %s AND %s", source(attachment), key_matches(attachment),
                 status_is(attachment, attachment->stages[stage].working));
    return run_on_key(attachment, stage, see_working, sql, key, {}) > 0;
}

// ---- wait_row ----

// Whether a transaction that is under way has this row in its hands.
static bool is_held(Oid table, ItemPointer place) {
    Relation relation = try_table_open(table, AccessShareLock);
    if (relation == nullptr)
        return true;
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    bool held = true; // or gone
    if (table_tuple_fetch_row_version(relation, place, &dirty, slot))
        held = TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax) ||
               (TTS_IS_BUFFERTUPLE(slot) && TransactionIdIsValid(store::locker_of(slot)));
    ExecDropSingleTupleTableSlot(slot);
    table_close(relation, NoLock);
    return held;
}

// Whether a claim would find a row.
static bool look_for_rows(Oid table, const char *stage_name) {
    const Attachment *attachment = get_attachment(table);
    int stage = get_row_stage(attachment, stage_name);
    require_home(attachment);
    if (!settings::execute)
        return false;
    uint64 count = find_rows(attachment, stage, most_looked_at);
    for (uint64 i = 0; i < count; i++)
        if (!is_held(DatumGetObjectId(pg::datum_at(i, 2)),
                     reinterpret_cast<ItemPointer>(DatumGetPointer(pg::datum_at(i, 1)))))
            return true;
    if (count > 0)
        wait::look_again_in(wait::doubt);
    return false;
}

static bool has_rows(Oid table, const char *stage_name) {
    AcceptInvalidationMessages(); // the transaction began before the sleep, not after it
    bool pushed = !ActiveSnapshotSet();
    if (pushed)
        PushActiveSnapshot(GetTransactionSnapshot());
    bool found = look_for_rows(table, stage_name);
    if (pushed)
        PopActiveSnapshot();
    return found;
}

// pgjobs.wait_row(target, stage, timeout, INOUT ready)
PGJOBS_FUNCTION(wait_row) {
    Oid table = DatumGetObjectId(pg::required(fcinfo, 0, "target"));
    char *stage = pg::required_string(fcinfo, 1, "stage");
    int64 deadline = wait::deadline_of(fcinfo, 2);
    wait::refuse_inside_transaction(fcinfo, "pgjobs.wait_row");
    PreventCommandDuringRecovery("CALL pgjobs.wait_row");
    Purpose purpose{};
    purpose.table = table;
    purpose.stage = static_cast<int16>(get_row_stage(get_attachment(table), stage) + 1);
    bool ready = wait::until(purpose, deadline, [&] { return has_rows(table, stage); });

    Datum value = BoolGetDatum(ready);
    bool null = false;
    PG_RETURN_DATUM(wait::return_record(fcinfo, &value, &null));
}

} // namespace pgjobs::rows

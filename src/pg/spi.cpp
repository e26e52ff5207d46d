#include "pg/spi.hpp"

#include "pg/relations.hpp"

namespace pgjobs::pg {

Value value(const char *text) {
    if (text == nullptr)
        return {};
    return value(CStringGetTextDatum(text));
}

static void prepare(Statement *statement) {
    int count = 0;
    while (statement->types[count] != InvalidOid)
        count++;
    SPIPlanPtr plan = SPI_prepare(statement->sql, count, statement->types);
    if (plan == nullptr)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    if (SPI_keepplan(plan) != 0)
        elog(ERROR, "SPI_keepplan failed");
    statement->plan = plan;
}

uint64 run(Statement *statement, const Value *values, uint64 most) {
    if (statement->plan == nullptr)
        prepare(statement);
    Datum datums[lengthof(statement->types)];
    char nulls[lengthof(statement->types)];
    for (int i = 0; statement->types[i] != InvalidOid; i++) {
        datums[i] = values[i].datum;
        nulls[i] = values[i].present ? ' ' : 'n';
    }
    // In a parallel query only what it reads is possible, with the query's own snapshot.
    bool parallel = IsInParallelMode();
    int code = SPI_execute_snapshot(statement->plan, datums, nulls,
                                    parallel ? InvalidSnapshot : GetLatestSnapshot(),
                                    InvalidSnapshot, parallel, true, static_cast<long>(most));
    if (code < 0)
        elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(code));
    return SPI_processed;
}

uint64 run_as_seen(Statement *statement) {
    if (statement->plan == nullptr)
        prepare(statement);
    int code = SPI_execute_snapshot(statement->plan, nullptr, nullptr, GetActiveSnapshot(),
                                    InvalidSnapshot, true, false, 0);
    if (code < 0)
        elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(code));
    return SPI_processed;
}

void run_utility(const char *sql) {
    int code = SPI_execute(sql, false, 0);
    if (code < 0)
        elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(code));
}

static void set_for_now(const char *name, const char *value) {
    set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void use_default_storage() {
    set_for_now("default_tablespace", "");
    set_for_now("default_table_access_method", "heap");
}

void avoid_scans() { set_for_now("enable_seqscan", "off"); }

void avoid_sorts() {
    avoid_scans();
    set_for_now("enable_sort", "off");
}

bool is_null(uint64 row, int column) {
    bool null;
    SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);
    return null;
}

Datum datum_at(uint64 row, int column) {
    bool null;
    Datum datum = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);
    if (null)
        elog(ERROR, "unexpected NULL in column %d", column);
    return datum;
}

OwnerScope enter_owner() {
    OwnerScope scope;
    Oid owner = relations()->owner;
    scope.snapshot = !ActiveSnapshotSet();
    if (scope.snapshot)
        PushActiveSnapshot(GetTransactionSnapshot());
    GetUserIdAndSecContext(&scope.user, &scope.context);
    scope.guc_level = NewGUCNestLevel();
    set_for_now("search_path", "pg_catalog, pg_temp");
    if (jit_enabled) // for a plan that looks dear, half a second of each call
        set_for_now("jit", "off");
    SetUserIdAndSecContext(owner, scope.context | SECURITY_LOCAL_USERID_CHANGE);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    return scope;
}

OwnerScope enter_table_owner(Oid owner, int context) {
    OwnerScope scope{};
    GetUserIdAndSecContext(&scope.user, &scope.context);
    scope.guc_level = NewGUCNestLevel();
    if (scope.user != owner)
        context |= SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION;
    SetUserIdAndSecContext(owner, scope.context | context);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    return scope;
}

void leave_owner(const OwnerScope &scope) {
    SPI_finish();
    AtEOXact_GUC(false, scope.guc_level);
    SetUserIdAndSecContext(scope.user, scope.context);
    if (scope.snapshot)
        PopActiveSnapshot();
}

} // namespace pgjobs::pg

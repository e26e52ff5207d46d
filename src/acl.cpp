#include "acl.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace pgjobs::acl {

static constinit pg::Statement upsert{
    "INSERT INTO pgjobs.acl AS a (queue_id, role, role_name, rights, system) "
    "SELECT $1, r.oid, r.rolname, $3, $4 FROM pg_catalog.pg_roles r WHERE r.oid = $2 "
    "ON CONFLICT (queue_id, role) DO UPDATE SET rights = a.rights | excluded.rights, "
    "role_name = excluded.role_name, system = excluded.system",
    {INT4OID, OIDOID, INT4OID, INT8OID},
    nullptr};
static constinit pg::Statement take{
    "UPDATE pgjobs.acl SET rights = rights & ~$3 WHERE queue_id = $1 AND role = $2",
    {INT4OID, OIDOID, INT4OID},
    nullptr};
static constinit pg::Statement tidy{
    "DELETE FROM pgjobs.acl a WHERE a.rights = 0 OR "
    "NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.role)",
    {},
    nullptr};

// What a role must be allowed to call to use its rights on any queue.
static const char *functions_for(Right right) {
    switch (right) {
    case produce:
        return "'enqueue', 'enqueue_many', 'enqueue_batch', 'await', 'version'";
    case work:
        return "'claim', 'wait', 'complete', 'complete_many', 'complete_and_claim', 'fail', "
               "'fail_many', 'release', "
               "'snooze', 'extend', 'extend_many', 'progress', 'version'";
    case operate:
        return "'cancel', 'retry', 'redrive', 'reschedule', 'reprioritize', 'pause_queue', "
               "'resume_queue', 'purge_queue', 'job', 'why', 'await', 'version', "
               "'health', 'metrics', '_visible_queues', '_queue_counters', '_lease_end', "
               "'_figures'";
    case monitor:
        return "'job', 'why', 'await', 'version', 'health', 'metrics', '_visible_queues', "
               "'_queue_counters', '_lease_end', '_figures'";
    default:
        return "'alter_queue', 'drop_queue', 'grant_queue', 'revoke_queue', 'job', 'why', "
               "'await', 'version', 'health', 'metrics', '_visible_queues', '_queue_counters', "
               "'_lease_end', '_figures'";
    }
}

// Only what is missing is granted: most calls then change no catalog row.
static void run_grants(const char *query, const char *role) {
    int code = SPI_execute(query, false, 0);
    if (code != SPI_OK_SELECT)
        elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(code));
    uint64 count = SPI_processed;
    SPITupleTable *table = SPI_tuptable;
    for (uint64 i = 0; i < count; i++) {
        char *grant = SPI_getvalue(table->vals[i], table->tupdesc, 1);
        pg::run_utility(psprintf("GRANT %s TO %s", grant, quote_identifier(role)));
    }
}

static void allow_functions(const char *role, Oid oid, Right right) {
    run_grants(psprintf("SELECT 'EXECUTE ON ROUTINE ' || p.oid::pg_catalog.regprocedure::text "
                        "FROM pg_catalog.pg_proc p WHERE p.pronamespace = %u "
                        "AND p.proname IN (%s) "
                        "AND NOT pg_catalog.has_function_privilege(%u::oid, p.oid, 'EXECUTE') "
                        "ORDER BY p.oid",
                        relations()->schema, functions_for(right), oid),
               role);
}

static void allow_calls(Oid oid, int32 rights) {
    char *role = GetUserNameFromId(oid, false);
    run_grants(psprintf("SELECT 'USAGE ON SCHEMA pgjobs' "
                        "WHERE NOT pg_catalog.has_schema_privilege(%u::oid, %u::oid, 'USAGE')",
                        oid, relations()->schema),
               role);
    for (Right right : {produce, work, operate, monitor, own})
        if ((rights & right) != 0)
            allow_functions(role, oid, right);
    if ((rights & (operate | monitor | own)) != 0)
        run_grants(psprintf("SELECT 'SELECT ON pgjobs.' || c.relname "
                            "FROM pg_catalog.pg_class c WHERE c.relnamespace = %u "
                            "AND c.relkind = 'v' AND "
                            "NOT pg_catalog.has_table_privilege(%u::oid, c.oid, 'SELECT') "
                            "ORDER BY c.oid",
                            relations()->schema, oid),
                   role);
}

static pg::Value this_cluster() { return pg::value(static_cast<int64>(GetSystemIdentifier())); }

void grant(int32 queue, Oid role, int32 rights) {
    LockRelationOid(get_relname_relid("acl", relations()->schema), ShareRowExclusiveLock);
    pg::run(&tidy);
    pg::run(&upsert, pg::value(queue), pg::oid_value(role), pg::value(rights), this_cluster());
    if (!superuser_arg(role))
        allow_calls(role, rights);
}

// In the cluster of the grant an oid is the role's for ever: a new role of the old name gets
// nothing.
static constinit pg::Statement select_renamed{
    "SELECT a.queue_id, r.oid, a.rights FROM pgjobs.acl a JOIN pg_catalog.pg_roles r "
    "ON CASE WHEN a.system = $1 THEN r.oid = a.role ELSE r.rolname = a.role_name END",
    {INT8OID},
    nullptr};
static constinit pg::Statement clear{"DELETE FROM pgjobs.acl", {}, nullptr};

void find_roles_again() {
    uint64 count = pg::run(&select_renamed, this_cluster());
    SPITupleTable *table = SPI_tuptable;
    pg::run(&clear);
    for (uint64 i = 0; i < count; i++) {
        bool null;
        int32 queue = DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 1, &null));
        Oid role = DatumGetObjectId(SPI_getbinval(table->vals[i], table->tupdesc, 2, &null));
        int32 rights = DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 3, &null));
        grant(queue, role, rights);
    }
}

static int32 parse_rights(FunctionCallInfo fcinfo, int argument) {
    pg::Elements names = pg::required_elements(fcinfo, argument, "privileges", TEXTOID);
    int32 rights = 0;
    for (int i = 0; i < names.count; i++) {
        char *name = TextDatumGetCString(names.data[i]);
        int32 found = 0;
        for (Right right : {produce, work, operate, monitor, own})
            if (strcmp(name, right_name(right)) == 0)
                found = right;
        if (found == 0)
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("\"%s\" is not a privilege on a queue", pg::shown(name)),
                    errhint("Use produce, work, operate, monitor or own."));
        rights |= found;
    }
    if (rights == 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no privilege is named"),
                errhint("Use produce, work, operate, monitor or own."));
    return rights;
}

struct Request {
    const Queue *queue;
    Oid role;
    int32 rights;
};

static Request read_request(FunctionCallInfo fcinfo, const char *verb) {
    Request request{};
    char *name = pg::required_string(fcinfo, 0, "queue");
    char *role = NameStr(*DatumGetName(pg::required(fcinfo, 1, "role")));
    request.rights = parse_rights(fcinfo, 2);
    pg::require_writable(verb);
    request.queue = get_queue(name);
    require_right(request.queue, own);
    request.role = get_role_oid(role, true);
    if (!OidIsValid(request.role))
        ereport(
            ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("role \"%s\" does not exist", role),
            errhint("Name a role that exists; for many users, make a group role and grant it."));
    return request;
}

// pgjobs.grant_queue(queue, role, privileges[]) -> void
PGJOBS_FUNCTION(grant_queue) {
    Request request = read_request(fcinfo, "pgjobs.grant_queue()");
    pg::as_owner([&] { grant(request.queue->id, request.role, request.rights); });
    PG_RETURN_VOID();
}

// pgjobs.revoke_queue(queue, role, privileges[]) -> void
PGJOBS_FUNCTION(revoke_queue) {
    Request request = read_request(fcinfo, "pgjobs.revoke_queue()");
    pg::as_owner([&] {
        pg::run(&take, pg::value(request.queue->id), pg::oid_value(request.role),
                pg::value(request.rights));
        pg::run(&tidy);
    });
    PG_RETURN_VOID();
}

static constinit pg::Statement select_ids{
    "SELECT q.id FROM pgjobs.queue q ORDER BY q.id", {}, nullptr};

Visible visible_queues(int32 rights) {
    MemoryContext caller = CurrentMemoryContext;
    uint64 count = 0;
    Visible visible{};
    pg::as_owner([&] {
        count = pg::run(&select_ids);
        visible.ids = static_cast<int32 *>(MemoryContextAlloc(caller, sizeof(int32) * (count + 1)));
        for (uint64 i = 0; i < count; i++)
            visible.ids[i] = pg::int32_at(i, 1);
    });
    for (uint64 i = 0; i < count; i++) {
        const Queue *queue = find_queue(visible.ids[i]);
        if (queue != nullptr && has_right(queue, rights))
            visible.ids[visible.count++] = visible.ids[i];
    }
    return visible;
}

void require_monitor(const char *what) {
    if (is_administrator() || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
        visible_queues(monitor | operate | own).count > 0)
        return;
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied to %s", what),
            errhint("The right to monitor a queue is enough, and so is membership in "
                    "pg_monitor."));
}

// pgjobs._visible_queues(privilege text) -> integer[]
PGJOBS_FUNCTION(_visible_queues) {
    char *privilege = pg::required_string(fcinfo, 0, "privilege");
    Visible visible =
        visible_queues(strcmp(privilege, "operate") == 0 ? operate | own : monitor | operate | own);
    auto *ids = static_cast<Datum *>(palloc(sizeof(Datum) * (visible.count + 1)));
    for (int i = 0; i < visible.count; i++)
        ids[i] = Int32GetDatum(visible.ids[i]);
    PG_RETURN_ARRAYTYPE_P(
        construct_array(ids, visible.count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

} // namespace pgjobs::acl

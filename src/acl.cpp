#include "acl.hpp"

#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace pgjobs::acl {

// The statements are the same for both tables.
#define UPSERT(acl, key)                                                                           \
    "INSERT INTO " acl " AS a (" key ", role, role_name, rights, system) "                         \
    "SELECT $1, r.oid, r.rolname, $3, $4 FROM pg_catalog.pg_roles r WHERE r.oid = $2 "             \
    "ON CONFLICT (" key ", role) DO UPDATE SET rights = a.rights | excluded.rights, "              \
    "role_name = excluded.role_name, system = excluded.system"
#define TAKE(acl, key) "UPDATE " acl " SET rights = rights & ~$3 WHERE " key " = $1 AND role = $2"
#define TIDY(acl)                                                                                  \
    "DELETE FROM " acl " a WHERE a.rights = 0 OR "                                                 \
    "NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.role)"
// In the cluster of the grant an oid is the role's for ever: a new role of the old name gets
// nothing.
#define SELECT_RENAMED(acl, key)                                                                   \
    "SELECT a." key ", r.oid, a.rights FROM " acl " a JOIN pg_catalog.pg_roles r "                 \
    "ON CASE WHEN a.system = $1 THEN r.oid = a.role ELSE r.rolname = a.role_name END"

struct Subject {
    const char *what;
    const char *table; // in schema pgjobs
    int32 rights;      // that there are on it
    pg::Statement upsert, take, tidy, select_renamed, clear;
};
constinit Subject queues = {
    "queue",
    "acl",
    all_rights,
    {UPSERT("pgjobs.acl", "queue_id"), {INT4OID, OIDOID, INT4OID, INT8OID}, nullptr},
    {TAKE("pgjobs.acl", "queue_id"), {INT4OID, OIDOID, INT4OID}, nullptr},
    {TIDY("pgjobs.acl"), {}, nullptr},
    {SELECT_RENAMED("pgjobs.acl", "queue_id"), {INT8OID}, nullptr},
    {"DELETE FROM pgjobs.acl", {}, nullptr}};
constinit Subject topics = {
    "topic",
    "topic_acl",
    all_topic_rights,
    {UPSERT("pgjobs.topic_acl", "topic_id"), {INT4OID, OIDOID, INT4OID, INT8OID}, nullptr},
    {TAKE("pgjobs.topic_acl", "topic_id"), {INT4OID, OIDOID, INT4OID}, nullptr},
    {TIDY("pgjobs.topic_acl"), {}, nullptr},
    {SELECT_RENAMED("pgjobs.topic_acl", "topic_id"), {INT8OID}, nullptr},
    {"DELETE FROM pgjobs.topic_acl", {}, nullptr}};

constexpr Right every_right[] = {produce, work, operate, monitor, own, publish, subscribe};

// What a role must be allowed to call to use its rights on any queue or topic.
static const char *functions_for(const Subject *subject, Right right) {
    bool topic = subject == &topics;
    switch (right) {
    case produce:
        return "'enqueue', 'enqueue_many', 'enqueue_batch', 'await', 'subscribe_queue', "
               "'unsubscribe_queue', 'version'";
    case work:
        return "'claim', 'wait', 'complete', 'complete_many', 'complete_and_claim', 'fail', "
               "'fail_many', 'release', "
               "'snooze', 'extend', 'extend_many', 'progress', 'version'";
    case operate:
        return "'cancel', 'retry', 'redrive', 'reschedule', 'reprioritize', 'pause_queue', "
               "'resume_queue', 'purge_queue', 'job', 'why', 'await', 'version', "
               "'health', 'metrics', '_visible_queues', '_queue_counters', '_lease_end', "
               "'_figures', '_visible_topics', '_topic_figures', '_lag', '_attached_tables'";
    case publish:
        return "'publish', 'publish_many', 'version'";
    case subscribe:
        return "'read', 'subscribe', 'unsubscribe', 'receive', 'ack', 'seek', 'wait_message', "
               "'subscribe_queue', 'unsubscribe_queue', 'version', '_visible_topics', "
               "'_topic_figures', '_lag', '_attached_tables'";
    case monitor:
        return topic ? "'version', 'health', 'metrics', '_visible_topics', '_topic_figures', "
                       "'_lag', '_attached_tables', '_visible_queues', '_queue_counters', "
                       "'_lease_end', '_figures'"
                     : "'job', 'why', 'await', 'version', 'health', 'metrics', '_visible_queues', "
                       "'_queue_counters', '_lease_end', '_figures', '_visible_topics', "
                       "'_topic_figures', '_lag', '_attached_tables'";
    default:
        return topic ? "'alter_topic', 'drop_topic', 'grant_topic', 'revoke_topic', 'version', "
                       "'health', 'metrics', '_visible_topics', '_topic_figures', '_lag', "
                       "'_attached_tables', "
                       "'_visible_queues', '_queue_counters', '_lease_end', '_figures'"
                     : "'alter_queue', 'drop_queue', 'grant_queue', 'revoke_queue', 'job', 'why', "
                       "'await', 'version', 'health', 'metrics', '_visible_queues', "
                       "'_queue_counters', '_lease_end', '_figures', '_visible_topics', "
                       "'_topic_figures', '_lag', '_attached_tables'";
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

static void allow_functions(const Subject *subject, const char *role, Oid oid, Right right) {
    run_grants(psprintf("SELECT 'EXECUTE ON ROUTINE ' || p.oid::pg_catalog.regprocedure::text "
                        "FROM pg_catalog.pg_proc p WHERE p.pronamespace = %u "
                        "AND p.proname IN (%s) "
                        "AND NOT pg_catalog.has_function_privilege(%u::oid, p.oid, 'EXECUTE') "
                        "ORDER BY p.oid",
                        relations()->schema, functions_for(subject, right), oid),
               role);
}

static void allow_calls(const Subject *subject, Oid oid, int32 rights) {
    char *role = GetUserNameFromId(oid, false);
    run_grants(psprintf("SELECT 'USAGE ON SCHEMA pgjobs' "
                        "WHERE NOT pg_catalog.has_schema_privilege(%u::oid, %u::oid, 'USAGE')",
                        oid, relations()->schema),
               role);
    for (Right right : every_right)
        if ((rights & right) != 0)
            allow_functions(subject, role, oid, right);
    if ((rights & (operate | monitor | own | subscribe)) != 0)
        run_grants(psprintf("SELECT 'SELECT ON pgjobs.' || c.relname "
                            "FROM pg_catalog.pg_class c WHERE c.relnamespace = %u "
                            "AND c.relkind = 'v' AND "
                            "NOT pg_catalog.has_table_privilege(%u::oid, c.oid, 'SELECT') "
                            "ORDER BY c.oid",
                            relations()->schema, oid),
                   role);
}

static pg::Value this_cluster() { return pg::value(static_cast<int64>(GetSystemIdentifier())); }

void grant(Subject &subject, int32 id, Oid role, int32 rights) {
    LockRelationOid(get_relname_relid(subject.table, relations()->schema), ShareRowExclusiveLock);
    pg::run(&subject.tidy);
    pg::run(&subject.upsert, pg::value(id), pg::oid_value(role), pg::value(rights), this_cluster());
    if (!superuser_arg(role))
        allow_calls(&subject, role, rights);
}

static void find_again(Subject &subject) {
    uint64 count = pg::run(&subject.select_renamed, this_cluster());
    SPITupleTable *table = SPI_tuptable;
    pg::run(&subject.clear);
    for (uint64 i = 0; i < count; i++) {
        bool null;
        int32 id = DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 1, &null));
        Oid role = DatumGetObjectId(SPI_getbinval(table->vals[i], table->tupdesc, 2, &null));
        int32 rights = DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 3, &null));
        grant(subject, id, role, rights);
    }
}

void find_roles_again() {
    find_again(queues);
    find_again(topics);
}

static const char *names_of(int32 rights) {
    StringInfoData names;
    initStringInfo(&names);
    for (Right right : every_right)
        if ((rights & right) != 0) {
            rights &= ~right;
            appendStringInfo(&names, "%s%s",
                             names.len == 0 ? ""
                             : rights == 0  ? " or "
                                            : ", ",
                             right_name(right));
        }
    return names.data;
}

static int32 parse_rights(FunctionCallInfo fcinfo, const Subject &subject) {
    pg::Elements names = pg::required_elements(fcinfo, 2, "privileges", TEXTOID);
    int32 rights = 0;
    for (int i = 0; i < names.count; i++) {
        char *name = TextDatumGetCString(names.data[i]);
        int32 found = 0;
        for (Right right : every_right)
            if ((subject.rights & right) != 0 && strcmp(name, right_name(right)) == 0)
                found = right;
        if (found == 0)
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("\"%s\" is not a privilege on a %s", pg::shown(name), subject.what),
                    errhint("Use %s.", names_of(subject.rights)));
        rights |= found;
    }
    if (rights == 0)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no privilege is named"),
                errhint("Use %s.", names_of(subject.rights)));
    return rights;
}

struct Request {
    int32 id;
    Oid role;
    int32 rights;
};

static int32 owned(const Queue *queue) {
    require_right(queue, own);
    return queue->id;
}

static int32 owned(const Topic *topic) {
    require_right(topic, own);
    return topic->id;
}

static Request read_request(FunctionCallInfo fcinfo, const Subject &subject, const char *verb) {
    Request request{};
    char *name = pg::required_string(fcinfo, 0, subject.what);
    char *role = NameStr(*DatumGetName(pg::required(fcinfo, 1, "role")));
    request.rights = parse_rights(fcinfo, subject);
    pg::require_writable(verb);
    request.id = &subject == &topics ? owned(get_topic(name)) : owned(get_queue(name));
    request.role = get_role_oid(role, true);
    if (!OidIsValid(request.role))
        ereport(
            ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("role \"%s\" does not exist", role),
            errhint("Name a role that exists; for many users, make a group role and grant it."));
    return request;
}

static void grant(FunctionCallInfo fcinfo, Subject &subject, const char *verb) {
    Request request = read_request(fcinfo, subject, verb);
    pg::as_owner([&] { grant(subject, request.id, request.role, request.rights); });
}

static void revoke(FunctionCallInfo fcinfo, Subject &subject, const char *verb) {
    Request request = read_request(fcinfo, subject, verb);
    pg::as_owner([&] {
        pg::run(&subject.take, pg::value(request.id), pg::oid_value(request.role),
                pg::value(request.rights));
        pg::run(&subject.tidy);
    });
}

// pgjobs.grant_queue(queue, role, privileges[]) -> void
PGJOBS_FUNCTION(grant_queue) {
    grant(fcinfo, queues, "pgjobs.grant_queue()");
    PG_RETURN_VOID();
}

// pgjobs.revoke_queue(queue, role, privileges[]) -> void
PGJOBS_FUNCTION(revoke_queue) {
    revoke(fcinfo, queues, "pgjobs.revoke_queue()");
    PG_RETURN_VOID();
}

// pgjobs.grant_topic(topic, role, privileges[]) -> void
PGJOBS_FUNCTION(grant_topic) {
    grant(fcinfo, topics, "pgjobs.grant_topic()");
    PG_RETURN_VOID();
}

// pgjobs.revoke_topic(topic, role, privileges[]) -> void
PGJOBS_FUNCTION(revoke_topic) {
    revoke(fcinfo, topics, "pgjobs.revoke_topic()");
    PG_RETURN_VOID();
}

static constinit pg::Statement select_queues{
    "SELECT q.id FROM pgjobs.queue q ORDER BY q.id", {}, nullptr};
static constinit pg::Statement select_topics{
    "SELECT t.id FROM pgjobs.topic t ORDER BY t.id", {}, nullptr};

// `find` is find_queue or find_topic.
template <class T>
static Visible visible(pg::Statement *statement, const T *(*find)(int32), int32 rights) {
    MemoryContext caller = CurrentMemoryContext;
    uint64 count = 0;
    Visible visible{};
    pg::as_owner([&] {
        count = pg::run(statement);
        visible.ids = static_cast<int32 *>(MemoryContextAlloc(caller, sizeof(int32) * (count + 1)));
        for (uint64 i = 0; i < count; i++)
            visible.ids[i] = pg::int32_at(i, 1);
    });
    for (uint64 i = 0; i < count; i++) {
        const T *object = find(visible.ids[i]);
        if (object != nullptr && has_right(object, rights))
            visible.ids[visible.count++] = visible.ids[i];
    }
    return visible;
}

Visible visible_queues(int32 rights) { return visible<Queue>(&select_queues, find_queue, rights); }

Visible visible_topics() {
    return visible<Topic>(&select_topics, find_topic, monitor | subscribe | own);
}

void require_monitor(const char *what) {
    if (is_administrator() || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
        visible_queues(monitor | operate | own).count > 0 ||
        visible<Topic>(&select_topics, find_topic, monitor | own).count > 0)
        return;
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied to %s", what),
            errhint("The right to monitor a queue is enough, and so is membership in "
                    "pg_monitor."));
}

static Datum as_array(const Visible &visible) {
    auto *ids = static_cast<Datum *>(palloc(sizeof(Datum) * (visible.count + 1)));
    for (int i = 0; i < visible.count; i++)
        ids[i] = Int32GetDatum(visible.ids[i]);
    return PointerGetDatum(
        construct_array(ids, visible.count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

// pgjobs._visible_queues(privilege text) -> integer[]
PGJOBS_FUNCTION(_visible_queues) {
    char *privilege = pg::required_string(fcinfo, 0, "privilege");
    PG_RETURN_DATUM(as_array(visible_queues(
        strcmp(privilege, "operate") == 0 ? operate | own : monitor | operate | own)));
}

// pgjobs._visible_topics() -> integer[]
PGJOBS_FUNCTION(_visible_topics) { PG_RETURN_DATUM(as_array(visible_topics())); }

} // namespace pgjobs::acl

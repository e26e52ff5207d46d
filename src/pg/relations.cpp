#include "pg/relations.hpp"

namespace pgjobs {

static Relations known;
static bool relations_known;

bool extension_exists() {
    if (relations_known)
        return true;
    Oid schema = get_namespace_oid("pgjobs", true);
    if (!OidIsValid(schema))
        return false;
    Oid extension = get_extension_oid("pgjobs", true);
    if (!OidIsValid(extension))
        return false; // somebody's own schema of that name
    Relations r{};
    r.schema = schema;
    r.job = get_relname_relid("job", schema);
    r.history = get_relname_relid("history", schema);
    r.queue = get_relname_relid("queue", schema);
    r.topic = get_relname_relid("topic", schema);
    r.log = get_relname_relid("log", schema);
    r.job_id_seq = get_relname_relid("job_id_seq", schema);
    r.queue_id_seq = get_relname_relid("queue_id_seq", schema);
    r.working_row = get_relname_relid("working_row", schema);
    r.row_changed =
        GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("_row_changed"),
                        PointerGetDatum(buildoidvector(nullptr, 0)), ObjectIdGetDatum(schema));
    if (!OidIsValid(r.job) || !OidIsValid(r.history) || !OidIsValid(r.queue) ||
        !OidIsValid(r.topic) || !OidIsValid(r.log) || !OidIsValid(r.row_changed))
        return false;
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(r.job));
    if (!HeapTupleIsValid(tuple))
        return false;
    r.owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    known = r;
    relations_known = true;
    return true;
}

const Relations *relations() {
    if (!extension_exists())
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("extension \"pgjobs\" is not installed in this database"),
                errhint("Run CREATE EXTENSION pgjobs."));
    return &known;
}

bool forget_relations(Oid relation) {
    if (relations_known && relation != known.queue && relation != known.job &&
        relation != known.history && relation != known.topic && relation != known.log &&
        relation != InvalidOid)
        return false;
    relations_known = false;
    return true;
}

} // namespace pgjobs

// Attaching tables and detaching them: what is checked, and what is made.
#include "attachment.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "home.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "row_index.hpp"
#include "row_records.hpp"
#include "row_settings.hpp"
#include "row_triggers.hpp"
#include "stale.hpp"

namespace pgjobs::attach {

using row_settings::add_word;

// ---- the table and its columns ----

static void check_table(Relation table) {
    Oid oid = RelationGetRelid(table);
    char kind = table->rd_rel->relkind;
    const char *name = RelationGetRelationName(table);
    if (!pg::owns_table(oid))
        aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(kind), name);
    if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
        ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
                errmsg("\"%s\" is not an ordinary or partitioned table", name),
                errhint("Name a table."));
    if (IsCatalogRelation(table) || RelationGetNamespace(table) == relations()->schema ||
        RelationUsesLocalBuffers(table))
        ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
                errmsg("table \"%s\" cannot be attached", name),
                errdetail("It is a temporary table, or belongs to the server or to pgjobs."),
                errhint("Name a table of yours that all sessions see."));
    RelationGetIndexList(table); // finds the primary key, too
    if (!OidIsValid(pg::primary_key_index(table)))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" has no primary key", name),
                errhint("Add one: ALTER TABLE ... ADD PRIMARY KEY."));
}

static bool has_our_triggers(Relation table) {
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (is_row_trigger(&triggers->triggers[i]))
            return true;
    return false;
}

static void check_not_attached(Relation table) {
    if (has_our_triggers(table))
        ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT),
                errmsg("table \"%s\" is attached already", RelationGetRelationName(table)),
                errhint("To change its stages, call pgjobs.detach_table() first, in the same "
                        "transaction; a partition is attached with its table."));
}

// Its type.
static Oid check_column(Relation table, const char *column) {
    AttrNumber number = get_attnum(RelationGetRelid(table), column);
    if (number <= 0)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_COLUMN),
                errmsg("table \"%s\" has no column \"%s\"", RelationGetRelationName(table), column),
                errhint("Name a column of the table."));
    return TupleDescAttr(RelationGetDescr(table), number - 1)->atttypid;
}

[[noreturn]] static void wrong_type(const char *column, Oid type, const char *hint) {
    ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
            errmsg("column \"%s\" has the wrong type", column),
            errdetail("It is of type %s.", format_type_be(type)), errhint("%s", hint));
    pg_unreachable();
}

// A column that is written must not be computed by the server.
static void check_written(Relation table, const char *column) {
    AttrNumber number = get_attnum(RelationGetRelid(table), column);
    if (TupleDescAttr(RelationGetDescr(table), number - 1)->attgenerated != '\0')
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("column \"%s\" is generated", column),
                errhint("Name a column that can be written."));
}

struct Columns {
    const char *status;
    const char *changed_at;
    const char *token;
    const char *priority;
    Oid status_type;
};

static const char *optional_name(FunctionCallInfo fcinfo, int i) {
    return pg::given(fcinfo, i) ? NameStr(*PG_GETARG_NAME(i)) : nullptr;
}

static void check_columns(Relation table, Columns *columns) {
    Oid type = columns->status_type = check_column(table, columns->status);
    check_written(table, columns->status);
    if (type != TEXTOID && type != VARCHAROID && get_typtype(type) != TYPTYPE_ENUM)
        wrong_type(columns->status, type, "A status is an enum, text or varchar.");
    if (columns->changed_at != nullptr) {
        type = check_column(table, columns->changed_at);
        check_written(table, columns->changed_at);
        if (type != TIMESTAMPTZOID && type != TIMESTAMPOID)
            wrong_type(columns->changed_at, type,
                       "A time of change is a timestamp, best one with time zone.");
    }
    if (columns->token != nullptr) {
        type = check_column(table, columns->token);
        check_written(table, columns->token);
        if (type != INT8OID)
            wrong_type(columns->token, type, "A token is a bigint.");
    }
    if (columns->priority != nullptr) {
        type = check_column(table, columns->priority);
        TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_LT_OPR);
        if (!OidIsValid(entry->lt_opr))
            wrong_type(columns->priority, type, "A priority has an order.");
    }
}

// ---- attach_table ----

// A process that cannot be connected as the owner takes stale rows back where nothing may be
// deferred.
static void warn_of_deferred(Relation table) {
    HeapTuple role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(table->rd_rel->relowner));
    bool login =
        HeapTupleIsValid(role) && reinterpret_cast<Form_pg_authid>(GETSTRUCT(role))->rolcanlogin;
    if (HeapTupleIsValid(role))
        ReleaseSysCache(role);
    const TriggerDesc *triggers = table->trigdesc;
    if (login || pg::connect_without_login != 0 || triggers == nullptr)
        return;
    for (int i = 0; i < triggers->numtriggers; i++)
        if (triggers->triggers[i].tginitdeferred)
            ereport(WARNING, errcode(ERRCODE_WARNING),
                    errmsg("stale rows of table \"%s\" cannot be taken back",
                           RelationGetRelationName(table)),
                    errdetail("It has the deferred trigger \"%s\", and its owner may not log in.",
                              triggers->triggers[i].tgname),
                    errhint("Give the owner LOGIN, without a password, or make the trigger "
                            "immediate."));
}

// Each column once, in the words with all that it is for.
static List *add_column(List **columns, List *words, const Columns &all, const char *column) {
    ListCell *cell;
    foreach (cell, *columns)
        if (strcmp(static_cast<char *>(lfirst(cell)), column) == 0)
            return words;
    *columns = add_word(*columns, column);
    StringInfoData roles;
    initStringInfo(&roles);
    struct {
        const char *role;
        const char *name;
    } const known[] = {{"status", all.status},
                       {"changed_at", all.changed_at},
                       {"token", all.token},
                       {"priority", all.priority}};
    for (const auto &one : known)
        if (one.name != nullptr && strcmp(one.name, column) == 0)
            appendStringInfo(&roles, "%s%s", roles.len > 0 ? " " : "", one.role);
    return add_word(add_word(words, "column"), roles.data);
}

static void check_different(const Columns &columns) {
    const char *written[] = {columns.status, columns.changed_at, columns.token};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < i; j++)
            if (written[i] != nullptr && written[j] != nullptr &&
                strcmp(written[i], written[j]) == 0)
                ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("column \"%s\" is named twice", written[i]),
                        errhint("Status, time of change and token are columns of their own."));
}

static void make_triggers(Oid table, const Columns &columns, List *words) {
    List *names = NIL;
    for (const char *column : {columns.status, columns.changed_at, columns.token, columns.priority})
        if (column != nullptr)
            words = add_column(&names, words, columns, column);
    row_triggers::make(table, home::of_new(), names, words, columns.status);
}

// The table is locked. No command below works on a table that is open here.
static Relation open_to_change(FunctionCallInfo fcinfo) {
    Oid oid = DatumGetObjectId(pg::required(fcinfo, 0, "target"));
    Relation table = try_relation_open(oid, NoLock);
    if (table == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                errmsg("table with oid %u does not exist", oid),
                errhint("Name a table that is there."));
    // Not to be in the way of others before we know that the caller may.
    if (!pg::owns_table(oid))
        aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(table->rd_rel->relkind),
                       RelationGetRelationName(table));
    relation_close(table, NoLock);
    table = try_relation_open(oid, ShareRowExclusiveLock);
    if (table == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("the table was dropped meanwhile"),
                errhint("Name a table that is there."));
    return table;
}

// pgjobs.attach_table(target, status, stages, changed_at, token, priority, channel, topic,
// transitions) -> void
PGJOBS_FUNCTION(attach_table) {
    Columns columns{};
    pg::required(fcinfo, 0, "target");
    columns.status = NameStr(*DatumGetName(pg::required(fcinfo, 1, "status")));
    Jsonb *stages = DatumGetJsonbP(pg::required(fcinfo, 2, "stages"));
    columns.changed_at = optional_name(fcinfo, 3);
    columns.token = optional_name(fcinfo, 4);
    columns.priority = optional_name(fcinfo, 5);
    char *channel = pg::optional_string(fcinfo, 6);
    Jsonb *transitions = pg::given(fcinfo, 8) ? PG_GETARG_JSONB_P(8) : nullptr;
    pg::require_writable("pgjobs.attach_table()");
    Relation table = open_to_change(fcinfo);
    check_table(table);
    check_not_attached(table);
    check_different(columns);
    check_columns(table, &columns);
    List *words = row_settings::add_stages(NIL, stages, columns.status_type);
    words = row_settings::add_transitions(words, transitions, columns.status_type);
    if (channel != nullptr) {
        row_settings::check_channel(channel);
        words = add_word(add_word(words, "channel"), channel);
    }
    if (pg::given(fcinfo, 7)) {
        const Topic *topic = get_topic(pg::optional_string(fcinfo, 7));
        require_right(topic, publish);
        words = add_word(add_word(words, "topic"), topic->name);
    }
    warn_of_deferred(table);
    Oid oid = RelationGetRelid(table);
    relation_close(table, NoLock);
    pg::as_owner([&] {
        make_triggers(oid, columns, words);
        stale::forget_table(oid); // one that had this oid before
        row_index::ensure(oid);
        row_records::make(oid);
    });
    changes::rules_changed();
    PG_RETURN_VOID();
}

// ---- detach_table ----

// pgjobs.detach_table(target) -> void
PGJOBS_FUNCTION(detach_table) {
    pg::required(fcinfo, 0, "target");
    pg::require_writable("pgjobs.detach_table()");
    Relation table = open_to_change(fcinfo);
    Oid oid = RelationGetRelid(table);
    const List *triggers = row_triggers::names(table);
    if (triggers == NIL)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" is not attached to pgjobs", RelationGetRelationName(table)),
                errhint("The view pgjobs.attached_tables lists those that are."));
    relation_close(table, NoLock);
    pg::as_owner([&] {
        row_triggers::drop(oid, triggers);
        row_index::drop(oid);
        stale::forget_table(oid);
    });
    changes::rules_changed();
    PG_RETURN_VOID();
}

} // namespace pgjobs::attach

#include "attach.hpp"

#include "catalog.hpp"
#include "changes.hpp"
#include "home.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "row_changes.hpp"
#include "row_settings.hpp"
#include "stale.hpp"

namespace pgjobs::attach {

using row_settings::add_word;

constexpr int fetched = 1000; // rows at a time

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

// ---- triggers ----

constexpr const char *settings_trigger = "pgjobs_settings";
constexpr int row_triggers = 4; // with that one

static const char *name_of(Oid table) {
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
                                      get_rel_name(table));
}

static const char *quoted_words(const List *words) {
    StringInfoData text;
    initStringInfo(&text);
    ListCell *cell;
    foreach (cell, words)
        appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "",
                         quote_literal_cstr(static_cast<char *>(lfirst(cell))));
    return text.data;
}

static void make_trigger(Oid table, const char *trigger, const char *when) {
    const char *name = quote_identifier(trigger);
    pg::run_utility(psprintf("CREATE OR REPLACE TRIGGER %s %s", name, when));
    pg::run_utility(
        psprintf("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION pgjobs", name, name_of(table)));
}

// The trigger whose columns and arguments are the settings. The server keeps their names and their
// order through renames and dumps.
static void make_settings_trigger(Oid table, const char *trigger, const List *columns,
                                  const List *words) {
    StringInfoData names;
    initStringInfo(&names);
    ListCell *cell;
    foreach (cell, columns)
        appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
                         quote_identifier(static_cast<char *>(lfirst(cell))));
    make_trigger(table, trigger,
                 psprintf("BEFORE UPDATE OF %s ON %s FOR EACH STATEMENT "
                          "EXECUTE FUNCTION pgjobs._row_changed(%s)",
                          names.data, name_of(table), quoted_words(words)));
}

static void make_row_triggers(Oid table, const char *status) {
    const char *name = name_of(table);
    const char *column = quote_identifier(status);
    const char *when = psprintf("ON %s FOR EACH ROW WHEN (OLD.%s IS DISTINCT FROM NEW.%s) "
                                "EXECUTE FUNCTION pgjobs._row_changed()",
                                name, column, column);
    make_trigger(table, "pgjobs_changing", psprintf("BEFORE UPDATE %s", when));
    make_trigger(table, "pgjobs_changed", psprintf("AFTER UPDATE %s", when));
    make_trigger(
        table, "pgjobs_added",
        psprintf("AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION pgjobs._row_changed()", name));
    // What replication applies is announced, too, though not judged.
    pg::run_utility(psprintf("ALTER TABLE %s%s ENABLE ALWAYS TRIGGER pgjobs_changed, "
                             "ENABLE ALWAYS TRIGGER pgjobs_added",
                             get_rel_relkind(table) == RELKIND_RELATION ? "ONLY " : "", name));
}

// ---- the index ----

// Whether the server can use a partial index to find rows of a status.
static bool implies(Relation table, Relation index, AttrNumber status, Oid type, Datum state) {
    List *predicate = RelationGetIndexPredicate(index);
    if (predicate == NIL)
        return true;
    Form_pg_attribute column = TupleDescAttr(RelationGetDescr(table), status - 1);
    Oid compared = type == VARCHAROID ? Oid{TEXTOID} : type;
    auto *left = reinterpret_cast<Expr *>(
        makeVar(1, status, type, column->atttypmod, column->attcollation, 0));
    if (compared != type)
        left = reinterpret_cast<Expr *>(
            makeRelabelType(left, compared, -1, column->attcollation, COERCE_IMPLICIT_CAST));
    int16 length;
    bool by_value;
    get_typlenbyval(compared, &length, &by_value);
    auto *right = reinterpret_cast<Expr *>(
        makeConst(compared, -1, column->attcollation, length, state, false, by_value));
    Oid equal = lookup_type_cache(compared, TYPECACHE_EQ_OPR)->eq_opr;
    Expr *clause =
        make_opclause(equal, BOOLOID, false, left, right, InvalidOid, column->attcollation);
    set_opfuncid(reinterpret_cast<OpExpr *>(clause));
    return predicate_implied_by(predicate, list_make1(clause), false);
}

// Whether the columns of the index, behind a leading status, are those by which claims order.
static bool is_ordered(Relation index, AttrNumber status, const AttrNumber *order, int count) {
    const FormData_pg_index *form = index->rd_index;
    bool leads = form->indkey.values[0] == status;
    int first = leads ? 1 : 0;
    if ((!leads && RelationGetIndexPredicate(index) == NIL) || form->indnkeyatts < first + count)
        return false;
    for (int i = 0; i < count; i++)
        if (form->indkey.values[first + i] != order[i] || index->rd_indoption[first + i] != 0)
            return false;
    return true;
}

static Datum value_of(const Attachment *attachment, int state) {
    return OidIsValid(attachment->labels[state]) ? ObjectIdGetDatum(attachment->labels[state])
                                                 : CStringGetTextDatum(attachment->states[state]);
}

static int order_of(Relation table, const Attachment *attachment, AttrNumber *order) {
    int count = 0;
    if (attachment->priority != nullptr)
        order[count++] = get_attnum(RelationGetRelid(table), attachment->priority);
    for (int i = 0; i < attachment->key_count; i++)
        order[count++] = get_attnum(RelationGetRelid(table), attachment->keys[i]);
    return count;
}

static bool serves(Relation table, Oid oid, const Attachment *attachment, int state) {
    AttrNumber order[INDEX_MAX_KEYS + 1];
    int count = order_of(table, attachment, order);
    Relation index = index_open(oid, AccessShareLock);
    AttrNumber status = get_attnum(RelationGetRelid(table), attachment->status);
    bool good = index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indisvalid &&
                is_ordered(index, status, order, count) &&
                implies(table, index, status, attachment->status_type, value_of(attachment, state));
    index_close(index, NoLock);
    return good;
}

static bool is_served(Oid oid) {
    Relation table = relation_open(oid, NoLock);
    const Attachment *attachment = find_attachment(table);
    List *indexes = RelationGetIndexList(table);
    bool all = true;
    for (int i = 0; i < attachment->stage_count; i++) {
        bool found = false;
        ListCell *cell;
        foreach (cell, indexes)
            found =
                found || serves(table, lfirst_oid(cell), attachment, attachment->stages[i].waiting);
        all &= found;
    }
    relation_close(table, NoLock);
    return all;
}

static void make_index(const Attachment *attachment) {
    StringInfoData columns;
    StringInfoData states;
    initStringInfo(&columns);
    initStringInfo(&states);
    appendStringInfoString(&columns, quote_identifier(attachment->status));
    if (attachment->priority != nullptr)
        appendStringInfo(&columns, ", %s", quote_identifier(attachment->priority));
    for (int i = 0; i < attachment->key_count; i++)
        appendStringInfo(&columns, ", %s", quote_identifier(attachment->keys[i]));
    for (int i = 0; i < attachment->stage_count; i++)
        appendStringInfo(&states, "%s%s", i > 0 ? ", " : "",
                         state_literal(attachment, attachment->stages[i].waiting));
    Oid schema = get_rel_namespace(attachment->table);
    char *index = ChooseRelationName(attachment->relname, nullptr, "pgjobs_waiting", schema, false);
    pg::run_utility(psprintf("CREATE INDEX %s ON %s (%s) WHERE %s IN (%s)", quote_identifier(index),
                             attachment->name, columns.data, quote_identifier(attachment->status),
                             states.data));
    pg::run_utility(psprintf("ALTER INDEX %s DEPENDS ON EXTENSION pgjobs",
                             quote_qualified_identifier(get_namespace_name(schema), index)));
}

// ---- rows that are being worked on already ----

// The TimeZone that a session has which asks for none.
static constinit pg::Statement select_time_zone{
    "SELECT COALESCE((SELECT pg_catalog.substr(s.setting, 10) "
    "FROM pg_catalog.pg_db_role_setting r, pg_catalog.unnest(r.setconfig) AS s (setting) "
    "WHERE r.setdatabase = $1 AND r.setrole = 0 "
    "AND pg_catalog.lower(pg_catalog.substr(s.setting, 1, 9)) = 'timezone='), "
    "(SELECT f.setting FROM pg_catalog.pg_file_settings f "
    "WHERE pg_catalog.lower(f.name) = 'timezone' AND f.applied LIMIT 1), 'GMT')",
    {OIDOID},
    nullptr};

// Since when a row has its status, as far as its column says that.
static TimestampTz since(const RowShape *shape, TupleTableSlot *row, Datum zone, TimestampTz now) {
    if (shape->changed_at == 0)
        return now;
    bool null;
    Datum at = slot_getattr(row, shape->changed_at, &null);
    if (null || TIMESTAMP_NOT_FINITE(DatumGetTimestamp(at)))
        return now;
    if (shape->attachment->changed_at_type == TIMESTAMPOID)
        at = DirectFunctionCall2(timestamp_zone, zone, at);
    return Min(DatumGetTimestampTz(at), now);
}

static const char *working_rows(const Attachment *attachment) {
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text, "SELECT pgjobs_row FROM %s%s AS pgjobs_row WHERE pgjobs_row.%s IN (",
                     attachment->partitioned ? "" : "ONLY ", attachment->name,
                     quote_identifier(attachment->status));
    bool any = false;
    for (int i = 0; i < attachment->state_count; i++)
        if ((attachment->timed & (UINT64CONST(1) << i)) != 0) {
            appendStringInfo(&text, "%s%s", any ? ", " : "", state_literal(attachment, i));
            any = true;
        }
    appendStringInfoChar(&text, ')');
    return text.data;
}

static void note_rows(const RowShape *shape, TupleTableSlot *row, Datum zone) {
    TimestampTz now = GetCurrentTimestamp();
    for (uint64 i = 0; i < SPI_processed; i++) {
        HeapTupleHeader header = DatumGetHeapTupleHeader(pg::datum_at(i, 1));
        HeapTupleData tuple{};
        tuple.t_len = HeapTupleHeaderGetDatumLength(header);
        tuple.t_data = header;
        ExecStoreHeapTuple(&tuple, row, false);
        bool null;
        Datum status = slot_getattr(row, shape->status, &null);
        row_changes::note_working(shape, row, state_of(shape->attachment, status, null),
                                  since(shape, row, zone, now));
    }
}

static void record_rows_of(Relation table, const RowShape *shape) {
    pg::run(&select_time_zone, pg::oid_value(MyDatabaseId));
    Datum zone = PointerGetDatum(PG_DETOAST_DATUM_COPY(pg::datum_at(0, 1)));
    TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsHeapTuple);
    SPIPlanPtr plan = SPI_prepare(working_rows(shape->attachment), 0, nullptr);
    if (plan == nullptr)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    Portal portal = SPI_cursor_open(nullptr, plan, nullptr, nullptr, false);
    do {
        SPI_cursor_fetch(portal, true, fetched);
        note_rows(shape, row, zone);
        SPI_freetuptable(SPI_tuptable);
    } while (SPI_processed > 0);
    SPI_cursor_close(portal);
    ExecDropSingleTupleTableSlot(row);
    row_changes::write_records();
}

static constinit pg::Statement adopt_records{
    "UPDATE pgjobs.working_row SET home = $2 WHERE target = $1", {OIDOID, INT8OID}, nullptr};

// Records those that have no record, so that they become stale, too. Inside as_owner.
static void record_working_rows(Oid oid) {
    Relation table = relation_open(oid, NoLock);
    const RowShape *shape = find_shape(table);
    pg::run(&adopt_records, pg::oid_value(oid), pg::value(shape->attachment->home));
    if (shape->attachment->timed != 0)
        record_rows_of(table, shape);
    relation_close(table, NoLock);
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

// They come first.
static List *home_words(int64 home) {
    return add_word(add_word(NIL, "home"), psprintf(INT64_FORMAT, home));
}

static void make(Oid table, const Columns &columns, List *words) {
    List *names = NIL;
    for (const char *column : {columns.status, columns.changed_at, columns.token, columns.priority})
        if (column != nullptr)
            words = add_column(&names, words, columns, column);
    make_settings_trigger(table, settings_trigger, names, words);
    make_row_triggers(table, columns.status);
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
        make(oid, columns, list_concat(home_words(home::of_new()), words));
        stale::forget_table(oid); // one that had this oid before
        if (!is_served(oid))
            make_index(find_attachment(oid));
        record_working_rows(oid);
    });
    changes::rules_changed();
    PG_RETURN_VOID();
}

// ---- detach_table ----

static constinit pg::Statement select_indexes{
    "SELECT d.objid FROM pg_catalog.pg_depend d "
    "JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgjobs' "
    "JOIN pg_catalog.pg_index i ON i.indexrelid = d.objid AND i.indrelid = $1 "
    "WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'x' "
    "AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass",
    {OIDOID},
    nullptr};

static List *our_triggers(Relation table) {
    List *names = NIL;
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (is_row_trigger(&triggers->triggers[i]) && !triggers->triggers[i].tgisclone)
            names = add_word(names, pstrdup(triggers->triggers[i].tgname));
    return names;
}

static void drop_triggers(Oid table, const List *names) {
    ListCell *cell;
    foreach (cell, names)
        pg::run_utility(psprintf("DROP TRIGGER %s ON %s",
                                 quote_identifier(static_cast<char *>(lfirst(cell))),
                                 name_of(table)));
}

static void drop_indexes(Oid table) {
    uint64 count = pg::run(&select_indexes, pg::oid_value(table));
    List *names = NIL;
    for (uint64 i = 0; i < count; i++) {
        Oid index = DatumGetObjectId(pg::datum_at(i, 1));
        names =
            add_word(names, quote_qualified_identifier(get_namespace_name(get_rel_namespace(index)),
                                                       get_rel_name(index)));
    }
    ListCell *cell;
    foreach (cell, names)
        pg::run_utility(psprintf("DROP INDEX %s", static_cast<char *>(lfirst(cell))));
}

// pgjobs.detach_table(target) -> void
PGJOBS_FUNCTION(detach_table) {
    pg::required(fcinfo, 0, "target");
    pg::require_writable("pgjobs.detach_table()");
    Relation table = open_to_change(fcinfo);
    Oid oid = RelationGetRelid(table);
    const List *triggers = our_triggers(table);
    if (triggers == NIL)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" is not attached to pgjobs", RelationGetRelationName(table)),
                errhint("The view pgjobs.attached_tables lists those that are."));
    relation_close(table, NoLock);
    pg::as_owner([&] {
        drop_triggers(oid, triggers);
        drop_indexes(oid);
        stale::forget_table(oid);
    });
    changes::rules_changed();
    PG_RETURN_VOID();
}

// ---- is all there? ----

const char *fault_of(Oid oid) {
    Relation table = try_relation_open(oid, AccessShareLock);
    if (table == nullptr)
        return nullptr; // dropped just now
    int firing = 0;
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        firing += is_row_trigger(&triggers->triggers[i]) &&
                  triggers->triggers[i].tgenabled != TRIGGER_DISABLED;
    const Attachment *attachment = find_attachment(table);
    const char *fault = attachment == nullptr        ? "has lost the trigger with its settings"
                        : firing < row_triggers      ? "lacks a trigger of pgjobs, or it is off"
                        : attachment->key_count == 0 ? "has no primary key any more"
                        : attachment->topic != nullptr && find_topic(attachment->topic) == nullptr
                            ? "publishes to a topic that is gone"
                            : nullptr;
    relation_close(table, NoLock);
    return fault;
}

// ---- the view ----

static bool may_see(Oid table) {
    return pg::may_select(table) || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
           is_administrator();
}

static Datum text_or_null(const char *text, bool *null) {
    *null = text == nullptr;
    return *null ? 0 : CStringGetTextDatum(text);
}

static Datum name_or_null(const char *name, bool *null) {
    *null = name == nullptr;
    return *null ? 0 : DirectFunctionCall1(namein, CStringGetDatum(name));
}

static Datum interval_or_null(int64 microseconds, bool *null) {
    *null = microseconds == 0;
    auto *interval = static_cast<Interval *>(palloc0(sizeof(Interval)));
    interval->time = microseconds;
    return IntervalPGetDatum(interval);
}

static void return_stage(FunctionCallInfo fcinfo, const Attachment *attachment, int number,
                         bool enabled) {
    const RowStage *stage = &attachment->stages[number];
    bool nulls[16] = {};
    auto state = [&](int one, int column) {
        return text_or_null(one < 0 ? nullptr : attachment->states[one], &nulls[column]);
    };
    Datum values[] = {ObjectIdGetDatum(attachment->table),
                      CStringGetTextDatum(stage->name),
                      Int32GetDatum(number + 1),
                      name_or_null(attachment->status, &nulls[3]),
                      state(stage->waiting, 4),
                      state(stage->working, 5),
                      state(stage->done, 6),
                      state(stage->failed, 7),
                      interval_or_null(stage->stale_after, &nulls[8]),
                      name_or_null(attachment->changed_at, &nulls[9]),
                      name_or_null(attachment->token, &nulls[10]),
                      name_or_null(attachment->priority, &nulls[11]),
                      text_or_null(attachment->channel, &nulls[12]),
                      text_or_null(attachment->topic, &nulls[13]),
                      BoolGetDatum(!attachment->at_home),
                      BoolGetDatum(enabled)};
    static_assert(lengthof(values) == lengthof(nulls));
    pg::return_row(fcinfo, values, nulls);
}

// pgjobs._attached_tables() -> setof (...)
PGJOBS_FUNCTION(_attached_tables) {
    InitMaterializedSRF(fcinfo, 0);
    List *tables = pg::as_owner(
        [] { return pg::in_context(TopTransactionContext, [] { return attached_tables(); }); });
    ListCell *cell;
    foreach (cell, tables) {
        const Attachment *attachment =
            may_see(lfirst_oid(cell)) ? find_attachment(lfirst_oid(cell)) : nullptr;
        for (int i = 0; attachment != nullptr && i < attachment->stage_count; i++)
            return_stage(fcinfo, attachment, i, fault_of(attachment->table) == nullptr);
    }
    PG_RETURN_NULL();
}

// ---- after a restore ----

static const Trigger *settings_of(Relation table) {
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (has_settings(&triggers->triggers[i]))
            return &triggers->triggers[i];
    return nullptr;
}

static void adopt_table(Oid oid, int64 home) {
    Relation table = relation_open(oid, NoLock);
    const Trigger *settings = settings_of(table);
    List *columns = NIL;
    List *words = home_words(home);
    for (int i = 0; i < settings->tgnattr; i++)
        columns = add_word(
            columns,
            pstrdup(
                NameStr(TupleDescAttr(RelationGetDescr(table), settings->tgattr[i] - 1)->attname)));
    for (int i = 2; i < settings->tgnargs; i++)
        words = add_word(words, pstrdup(settings->tgargs[i]));
    const char *name = pstrdup(settings->tgname);
    relation_close(table, NoLock);
    make_settings_trigger(oid, name, columns, words);
    record_working_rows(oid);
}

void adopt(int64 home) {
    ListCell *cell;
    foreach (cell, attached_tables()) {
        Oid table = lfirst_oid(cell);
        LockRelationOid(table, ShareRowExclusiveLock);
        const Attachment *attachment = find_attachment(table); // nullptr: dropped meanwhile
        if (attachment != nullptr && attachment->home != home)
            adopt_table(table, home);
    }
}

} // namespace pgjobs::attach

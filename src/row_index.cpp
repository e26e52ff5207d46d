#include "row_index.hpp"

#include "pg/spi.hpp"
#include "row_settings.hpp"

namespace pgjobs::row_index {

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

void ensure(Oid oid) {
    const Attachment *attachment = find_attachment(oid);
    if (!pg::as_table_owner(attachment->owner, pg::Policies::hold, [&] { return is_served(oid); }))
        make_index(attachment);
}

static constinit pg::Statement select_indexes{
    "SELECT d.objid FROM pg_catalog.pg_depend d "
    "JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgjobs' "
    "JOIN pg_catalog.pg_index i ON i.indexrelid = d.objid AND i.indrelid = $1 "
    "WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'x' "
    "AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass",
    {OIDOID},
    nullptr};

void drop(Oid table) {
    uint64 count = pg::run(&select_indexes, pg::oid_value(table));
    List *names = NIL;
    for (uint64 i = 0; i < count; i++) {
        Oid index = DatumGetObjectId(pg::datum_at(i, 1));
        names = row_settings::add_word(
            names, quote_qualified_identifier(get_namespace_name(get_rel_namespace(index)),
                                              get_rel_name(index)));
    }
    ListCell *cell;
    foreach (cell, names)
        pg::run_utility(psprintf("DROP INDEX %s", static_cast<char *>(lfirst(cell))));
}

} // namespace pgjobs::row_index

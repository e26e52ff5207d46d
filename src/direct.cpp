#include "direct.hpp"

#include "pg/relations.hpp"
#include "store.hpp"

namespace pgjobs::direct {

using store::Col;
using store::Line;
using store::Past;

// ---- what a table looks like ----

// An index: its columns, and which rows it has: all, those in which `where` is `value`, or those in
// which it is not NULL.
struct Shape {
    AttrNumber columns[5];
    int count;
    AttrNumber where = InvalidAttrNumber;
    int value = 0;
};
constexpr int not_null = -1;

constexpr AttrNumber col(Col column) { return static_cast<AttrNumber>(column); }
constexpr AttrNumber col(Past column) { return static_cast<AttrNumber>(column); }
constexpr AttrNumber col(Line column) { return static_cast<AttrNumber>(column); }

// By By.
constexpr Shape job_shapes[job_indexes] = {
    {{col(Col::queue_id), col(Col::stage), col(Col::priority), col(Col::due_at), col(Col::id)},
     5,
     col(Col::waiting),
     0},
    {{col(Col::id)}, 1},
    {{col(Col::due_at), col(Col::id)}, 2, col(Col::waiting), 1},
    {{col(Col::expires_at)}, 1, col(Col::expires_at), not_null},
    {{col(Col::queue_id), col(Col::unique_key)}, 2, col(Col::unique_key), not_null},
};
constexpr Shape history_shapes[] = {
    {{col(Past::id)}, 1},
    {{col(Past::queue_id), col(Past::id)}, 2, col(Past::state), 1},
};
constexpr Shape log_shapes[] = {{{col(Line::position)}, 1}};

static bool is_column(const void *node, AttrNumber column) {
    return IsA(node, Var) && static_cast<const Var *>(node)->varattno == column;
}

// Whether a condition is the one that makes such a shape partial, as the server has read it.
static bool is_where(const void *node, const Shape &shape) {
    if (shape.value == not_null) {
        auto *test = static_cast<const NullTest *>(node);
        return IsA(node, NullTest) && test->nulltesttype == IS_NOT_NULL &&
               is_column(test->arg, shape.where);
    }
    auto *comparison = static_cast<const OpExpr *>(node);
    if (!IsA(node, OpExpr) || comparison->opfuncid != F_INT24EQ ||
        !is_column(linitial(comparison->args), shape.where) ||
        !IsA(lsecond(comparison->args), Const))
        return false;
    return DatumGetInt32(lsecond_node(Const, comparison->args)->constvalue) == shape.value;
}

static bool has_rows(Relation index, const Shape &shape) {
    List *conditions = RelationGetIndexPredicate(index);
    if (shape.where == InvalidAttrNumber || conditions == NIL)
        return shape.where == InvalidAttrNumber && conditions == NIL;
    return list_length(conditions) == 1 && is_where(linitial(conditions), shape);
}

static bool has_columns_of(Relation index, const Shape &shape) {
    Form_pg_index form = index->rd_index;
    if (form->indnkeyatts != shape.count || form->indnatts != shape.count)
        return false;
    for (int i = 0; i < shape.count; i++) {
        TypeCacheEntry *type = lookup_type_cache(
            TupleDescAttr(RelationGetDescr(index), i)->atttypid, TYPECACHE_BTREE_OPFAMILY);
        if (form->indkey.values[i] != shape.columns[i] || index->rd_indoption[i] != 0 ||
            index->rd_opfamily[i] != type->btree_opf)
            return false;
    }
    return true;
}

// Somebody may have made an index on the same columns for another purpose.
static bool has_shape(Relation index, const Shape &shape) {
    return index->rd_rel->relam == BTREE_AM_OID && has_columns_of(index, shape) &&
           has_rows(index, shape);
}

// Whether the table has exactly these indexes. An index that REINDEX marked indcheckxmin serves
// too: only newest versions are asked for.
static bool find_indexes(Relation table, const Shape *shapes, int count, Layout *layout) {
    List *list = RelationGetIndexList(table);
    bool all = list_length(list) == count;
    ListCell *cell;
    foreach (cell, list) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        bool known = false;
        for (int i = 0; i < count; i++)
            if (index->rd_index->indisvalid && index->rd_index->indisready &&
                !OidIsValid(layout->indexes[i]) && has_shape(index, shapes[i])) {
                layout->indexes[i] = RelationGetRelid(index);
                known = true;
                break;
            }
        all &= known;
        index_close(index, AccessShareLock);
    }
    list_free(list);
    layout->index_count = count;
    return all;
}

// Columns that a user has added and dropped again stay, empty.
static bool has_columns(Relation table, int count) {
    int all = RelationGetNumberOfAttributes(table);
    for (int i = 0; i < all; i++)
        if (TupleDescAttr(RelationGetDescr(table), i)->attisdropped != (i >= count))
            return false;
    return all >= count;
}

static int count_not_null(Relation table) {
    int count = 0;
    for (int i = 0; i < RelationGetNumberOfAttributes(table); i++)
        count += TupleDescAttr(RelationGetDescr(table), i)->attnotnull;
    return count;
}

// `not_null`, `checks`: how many such constraints are ours.
static bool is_plain(Relation table, int columns, int not_null, int checks) {
    TupleConstr *constraints = RelationGetDescr(table)->constr;
    return table->rd_tableam == GetHeapamTableAmRoutine() && has_columns(table, columns) &&
           count_not_null(table) == not_null && !table->rd_rel->relrowsecurity &&
           (constraints == nullptr ||
            (constraints->num_check <= checks && !constraints->has_generated_stored &&
             constraints->num_defval == 0));
}

static bool is_ours(const Trigger &trigger, const char *name) {
    return strcmp(trigger.tgname, name) == 0 && trigger.tgenabled == TRIGGER_FIRES_ALWAYS;
}

static Layout look_at_jobs(Relation jobs) {
    Layout layout{};
    const TriggerDesc *triggers = jobs->trigdesc;
    int ours = 0;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        ours += is_ours(triggers->triggers[i], "changed") ||
                is_ours(triggers->triggers[i], "changing") ||
                is_ours(triggers->triggers[i], "truncated");
    layout.announced = ours == 3;
    layout.direct = find_indexes(jobs, job_shapes, job_indexes, &layout) &&
                    is_plain(jobs, store::job_columns, store::job_not_null, 0) &&
                    layout.announced && triggers->numtriggers == ours;
    return layout;
}

// Of a partition: nothing hangs on it.
struct Leaf {
    int columns;
    int not_null;
    int checks; // the one that ATTACH looks at
    const Shape *shapes;
    int shape_count;
};
constexpr Leaf history_leaf = {store::history_columns, store::history_not_null, 1, history_shapes,
                               lengthof(history_shapes)};
constexpr Leaf log_leaf = {store::log_columns, store::log_not_null, 0, log_shapes,
                           lengthof(log_shapes)};

static Layout look_at_leaf(Relation leaf, const Leaf &form) {
    Layout layout{};
    layout.direct = leaf->trigdesc == nullptr &&
                    is_plain(leaf, form.columns, form.not_null, form.checks) &&
                    find_indexes(leaf, form.shapes, form.shape_count, &layout);
    return layout;
}

static Layout jobs_layout;
static Layout leaf_layouts[16]; // of those that were used last, places by oid
static uint32 forgotten;        // counts calls of forget()

const Layout *layout_of(Relation table, Kind kind) {
    Layout *place = kind == Kind::jobs
                        ? &jobs_layout
                        : &leaf_layouts[RelationGetRelid(table) % lengthof(leaf_layouts)];
    if (place->table == RelationGetRelid(table))
        return place;
    uint32 before = forgotten;
    Layout layout = kind == Kind::jobs
                        ? look_at_jobs(table)
                        : look_at_leaf(table, kind == Kind::history ? history_leaf : log_leaf);
    layout.table = before == forgotten ? RelationGetRelid(table) : InvalidOid;
    *place = layout;
    return place;
}

// By number of columns, made as needed.
static TupleDesc job_shapes_cut[store::job_columns + 1];
static MemoryContext shapes_context;
static uint32 shapes_age; // `forgotten` when they were made

// A column that was added with a default is not NULL where it is missing.
static bool has_missing_values(TupleDesc shape) {
    return shape->constr != nullptr && shape->constr->missing != nullptr;
}

TupleDesc shape_of_jobs(Relation jobs, int columns) {
    TupleDesc whole = RelationGetDescr(jobs);
    if (columns > store::job_columns || has_missing_values(whole))
        return whole;
    if (shapes_context == nullptr)
        shapes_context =
            AllocSetContextCreate(CacheMemoryContext, "pgjobs shapes", ALLOCSET_DEFAULT_SIZES);
    if (shapes_age != forgotten) {
        MemoryContextReset(shapes_context);
        memset(job_shapes_cut, 0, sizeof(job_shapes_cut));
        shapes_age = forgotten;
    }
    if (job_shapes_cut[columns] == nullptr)
        job_shapes_cut[columns] =
            pg::in_context(shapes_context, [&] { return pg::first_columns(whole, columns); });
    return job_shapes_cut[columns];
}

static void forget_if(Layout *layout, Oid relation) {
    bool concerns = relation == InvalidOid || layout->table == relation;
    for (Oid index : layout->indexes)
        concerns |= index == relation;
    if (concerns)
        layout->table = InvalidOid;
}

void forget(Oid relation) {
    forgotten++;
    forget_if(&jobs_layout, relation);
    for (Layout &layout : leaf_layouts)
        forget_if(&layout, relation);
}

[[noreturn]] static void raise_missing(Relation table, const char *what) {
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("the index of %s is missing or invalid", what),
            errhint("Run REINDEX TABLE pgjobs.%s.", RelationGetRelationName(table)));
    pg_unreachable();
}

Relation open_index(Relation table, AttrNumber column, const char *what) {
    List *indexes = RelationGetIndexList(table);
    ListCell *cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        if (index->rd_index->indisvalid && has_shape(index, {{column}, 1}))
            return index;
        index_close(index, AccessShareLock);
    }
    raise_missing(table, what);
}

Relation open_job_index(Relation jobs, By by, const char *what) {
    Oid index = layout_of(jobs, Kind::jobs)->indexes[static_cast<int>(by)];
    if (!OidIsValid(index))
        raise_missing(jobs, what);
    return index_open(index, AccessShareLock);
}

// ---- index entries ----

void aim_at_end(Relation index) {
    Buffer buffer = pg::last_leaf(index);
    if (!BufferIsValid(buffer))
        return;
    RelationSetTargetBlock(index, BufferGetBlockNumber(buffer));
    UnlockReleaseBuffer(buffer);
}

void enter(Relation index, Relation table, Datum *values, bool *nulls, ItemPointer tid,
           bool unique) {
    static IndexInfo *info; // a btree asks it nothing
    if (info == nullptr)
        info = pg::in_context(TopMemoryContext, [] { return makeNode(IndexInfo); });
    index_insert(index, values, nulls, tid, table, unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
                 false, info);
}

} // namespace pgjobs::direct

#include "attachment.hpp"

#include "catalog.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace pgjobs {

// ---- triggers ----

bool is_row_trigger(const Trigger *trigger) {
    return extension_exists() && trigger->tgfoid == relations()->row_changed;
}

bool has_settings(const Trigger *trigger) {
    return trigger->tgnargs > 0 && !TRIGGER_FOR_ROW(trigger->tgtype) && is_row_trigger(trigger);
}

static const Trigger *settings_of(Relation relation) {
    const TriggerDesc *triggers = relation->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        if (has_settings(&triggers->triggers[i]))
            return &triggers->triggers[i];
    return nullptr;
}

// ---- reading the settings ----

// A trigger made by hand, or dumped from a version that is yet to come.
[[noreturn]] static void bad_settings(const Attachment *attachment) {
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("table \"%s\" has settings of pgjobs that this version does not know",
                   attachment->relname),
            errdetail("They are the arguments of one of its triggers."),
            errhint("Call pgjobs.detach_table() and attach it again."));
    pg_unreachable();
}

static void set_column(Attachment *attachment, const char *roles, const char *name) {
    struct {
        const char *role;
        const char **where;
    } const columns[] = {{"status", &attachment->status},
                         {"changed_at", &attachment->changed_at},
                         {"token", &attachment->token},
                         {"priority", &attachment->priority}};
    for (const auto &column : columns)
        if (strstr(roles, column.role) != nullptr)
            *column.where = name;
}

static int number_of(Attachment *attachment, const char *state) {
    if (state[0] == '\0')
        return -1;
    for (int i = 0; i < attachment->state_count; i++)
        if (strcmp(attachment->states[i], state) == 0)
            return i;
    if (attachment->state_count == most_states)
        bad_settings(attachment);
    attachment->states[attachment->state_count] = pstrdup(state);
    return attachment->state_count++;
}

static uint64 bit(int state) { return UINT64CONST(1) << state; }

static void allow(Attachment *attachment, int from, int to) {
    if (from >= 0 && to >= 0)
        attachment->allowed[from] |= bit(to);
}

// Name, the four states, and after how many microseconds a row is stale.
static void add_stage(Attachment *attachment, char *const *words) {
    if (attachment->stage_count == most_stages)
        bad_settings(attachment);
    RowStage *stage = &attachment->stages[attachment->stage_count++];
    strlcpy(stage->name, words[0], sizeof(stage->name));
    stage->waiting = number_of(attachment, words[1]);
    stage->working = number_of(attachment, words[2]);
    stage->done = number_of(attachment, words[3]);
    stage->failed = number_of(attachment, words[4]);
    stage->stale_after = strtoll(words[5], nullptr, 10);
    if (stage->waiting < 0 || stage->working < 0 || stage->done < 0)
        bad_settings(attachment);
    allow(attachment, stage->waiting, stage->working);
    allow(attachment, stage->working, stage->done);
    allow(attachment, stage->working, stage->failed);
    allow(attachment, stage->working, stage->waiting); // given back
    attachment->waiting |= bit(stage->waiting);
    if (stage->stale_after > 0)
        attachment->timed |= bit(stage->working);
}

// The words are those that attach_table has written.
static void read_settings(Attachment *attachment, Relation table, const Trigger *trigger) {
    int columns = 0;
    int count = trigger->tgnargs;
    char **words = trigger->tgargs;
    for (int i = 0; i + 1 < count; i += 2) {
        const char *word = words[i];
        char *value = words[i + 1];
        if (strcmp(word, "home") == 0) {
            attachment->home = strtoll(value, nullptr, 10);
        } else if (strcmp(word, "channel") == 0) {
            attachment->channel = pstrdup(value);
        } else if (strcmp(word, "topic") == 0) {
            attachment->topic = pstrdup(value);
        } else if (strcmp(word, "column") == 0 && columns < trigger->tgnattr) {
            AttrNumber number = trigger->tgattr[columns++];
            set_column(attachment, value,
                       pstrdup(NameStr(TupleDescAttr(table->rd_att, number - 1)->attname)));
        } else if (strcmp(word, "stage") == 0 && i + 6 < count) {
            add_stage(attachment, words + i + 1);
            i += 5;
        } else if (strcmp(word, "transition") == 0 && i + 2 < count) {
            int from = number_of(attachment, value);
            allow(attachment, from, number_of(attachment, words[i + 2]));
            i += 1;
        } else {
            bad_settings(attachment);
        }
    }
    if (attachment->status == nullptr)
        bad_settings(attachment);
}

// ---- reading the rest from the catalogs ----

static Oid label_of(Oid type, const char *state) {
    return GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid, ObjectIdGetDatum(type),
                           CStringGetDatum(state));
}

static void read_types(Attachment *attachment) {
    Oid table = attachment->table;
    attachment->status_type = get_atttype(table, get_attnum(table, attachment->status));
    if (attachment->changed_at != nullptr)
        attachment->changed_at_type = get_atttype(table, get_attnum(table, attachment->changed_at));
    if (get_typtype(attachment->status_type) == TYPTYPE_ENUM)
        for (int i = 0; i < attachment->state_count; i++)
            attachment->labels[i] = label_of(attachment->status_type, attachment->states[i]);
}

static void read_primary_key(Attachment *attachment, Relation table, MemoryContext context) {
    RelationGetIndexList(table); // finds the primary key, too
    Oid oid = pg::primary_key_index(table);
    if (!OidIsValid(oid))
        return;
    Relation index = index_open(oid, AccessShareLock);
    int count = IndexRelationGetNumberOfKeyAttributes(index);
    for (int i = 0; i < count; i++) {
        Form_pg_attribute column =
            TupleDescAttr(table->rd_att, index->rd_index->indkey.values[i] - 1);
        attachment->keys[i] = pstrdup(NameStr(column->attname));
        attachment->key_types[i] = column->atttypid;
        attachment->key_typmods[i] = column->atttypmod;
        attachment->key_equals[i] =
            get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
                                index->rd_opcintype[i], BTEqualStrategyNumber);
        Oid output;
        bool varlena;
        getTypeOutputInfo(column->atttypid, &output, &varlena);
        fmgr_info_cxt(output, &attachment->key_outputs[i], context);
    }
    attachment->key_count = count;
    index_close(index, AccessShareLock);
}

static AttrNumber column_in(Oid relation, const char *name) {
    return name != nullptr ? get_attnum(relation, name) : static_cast<AttrNumber>(0);
}

static void read_shape(RowShape *shape, const Attachment *attachment, Oid relation) {
    shape->relation = relation;
    shape->attachment = attachment;
    shape->status = column_in(relation, attachment->status);
    shape->changed_at = column_in(relation, attachment->changed_at);
    shape->token = column_in(relation, attachment->token);
    for (int i = 0; i < attachment->key_count; i++)
        shape->keys[i] = column_in(relation, attachment->keys[i]);
}

static bool splits_by(Relation table, const char *column) {
    PartitionKey key = RelationGetPartitionKey(table);
    for (int i = 0; key != nullptr && i < key->partnatts; i++)
        if (key->partattrs[i] != 0 &&
            strcmp(NameStr(TupleDescAttr(table->rd_att, key->partattrs[i] - 1)->attname), column) ==
                0)
            return true;
    return false;
}

static constinit pg::Statement select_home{
    "SELECT FROM pgjobs.home h WHERE h.id = $1 AND h.database = $2", {INT8OID, OIDOID}, nullptr};

static bool is_at_home(int64 home) {
    return pg::as_owner(
        [&] { return pg::run(&select_home, pg::value(home), pg::oid_value(MyDatabaseId)) > 0; });
}

static Attachment *read_attachment(Relation table, const Trigger *settings, MemoryContext context) {
    auto *attachment = static_cast<Attachment *>(palloc0(sizeof(Attachment)));
    attachment->table = RelationGetRelid(table);
    attachment->owner = table->rd_rel->relowner;
    attachment->partitioned = table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
    attachment->relname = pstrdup(RelationGetRelationName(table));
    attachment->name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(table)),
                                                  attachment->relname);
    read_settings(attachment, table, settings);
    read_types(attachment);
    read_primary_key(attachment, table, context);
    attachment->status_moves = splits_by(table, attachment->status);
    return attachment;
}

// The nearest table above a partition that is attached; its lock is kept as that of the partition.
static Attachment *read_ancestor(Relation relation, MemoryContext context) {
    bool moves = false;
    ListCell *cell;
    foreach (cell, get_partition_ancestors(RelationGetRelid(relation))) {
        Relation ancestor = table_open(lfirst_oid(cell), AccessShareLock);
        const Trigger *settings = settings_of(ancestor);
        Attachment *attachment = nullptr;
        if (settings != nullptr)
            attachment = read_attachment(ancestor, settings, context);
        table_close(ancestor, NoLock);
        if (attachment != nullptr) {
            attachment->status_moves |= moves;
            return attachment;
        }
        moves = true; // partitions of partitions: anything may decide
    }
    return nullptr;
}

static const RowShape *read_relation(Relation relation, MemoryContext context) {
    const Trigger *settings = settings_of(relation);
    Attachment *attachment = settings != nullptr ? read_attachment(relation, settings, context)
                             : relation->rd_rel->relispartition ? read_ancestor(relation, context)
                                                                : nullptr;
    if (attachment == nullptr)
        return nullptr;
    attachment->at_home = is_at_home(attachment->home);
    read_shape(&attachment->shape, attachment, RelationGetRelid(relation));
    return &attachment->shape;
}

// ---- the cache ----

struct Known {
    Oid relation;
    const RowShape *shape; // nullptr: known not to be attached
};

static MemoryContext known_context; // holds the table and all that it points to
static HTAB *known;
static bool known_stale;

// What was handed out stays until the end of the transaction, whatever is invalidated meanwhile.
static void prepare_table() {
    if (known_stale && known_context != nullptr) {
        MemoryContextSetParent(known_context, TopTransactionContext);
        known_context = nullptr;
    }
    known_stale = false;
    if (known_context != nullptr)
        return;
    MemoryContext context =
        AllocSetContextCreate(CacheMemoryContext, "pgjobs attached tables", ALLOCSET_DEFAULT_SIZES);
    HASHCTL control{};
    control.hcxt = context;
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(Known);
    known =
        hash_create("pgjobs attached tables", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    known_context = context;
}

void forget_attachments(Oid relation) {
    if (known_context == nullptr || known_stale)
        return;
    if (!OidIsValid(relation) || hash_search(known, &relation, HASH_FIND, nullptr) != nullptr)
        known_stale = true;
}

const RowShape *find_shape(Relation relation) {
    prepare_table();
    Oid oid = RelationGetRelid(relation);
    auto *entry = static_cast<Known *>(hash_search(known, &oid, HASH_FIND, nullptr));
    if (entry != nullptr)
        return entry->shape;
    // Whatever becomes stale while this reads is read again the next time.
    MemoryContext context = known_context;
    HTAB *table = known;
    const RowShape *shape =
        pg::in_context(context, [&] { return read_relation(relation, context); });
    static_cast<Known *>(hash_search(table, &oid, HASH_ENTER, nullptr))->shape = shape;
    return shape;
}

const Attachment *find_attachment(Oid table) {
    Relation relation = try_relation_open(table, AccessShareLock);
    if (relation == nullptr)
        return nullptr;
    const RowShape *shape = find_shape(relation);
    relation_close(relation, NoLock);
    return shape != nullptr && shape->attachment->table == table ? shape->attachment : nullptr;
}

const Attachment *get_attachment(Oid table) {
    const Attachment *attachment = find_attachment(table);
    const char *name = get_rel_name(table);
    if (name == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                errmsg("table with oid %u does not exist", table),
                errhint("Name a table that is there."));
    if (attachment == nullptr)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" is not attached to pgjobs", name),
                errhint("Call pgjobs.attach_table(); for a partition, name the table to which it "
                        "belongs."));
    if (attachment->key_count == 0)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("table \"%s\" has no primary key any more", name),
                errhint("Add one: ALTER TABLE ... ADD PRIMARY KEY."));
    return attachment;
}

void require_home(const Attachment *attachment) {
    if (!attachment->at_home)
        ereport(ERROR, errcode(errcode_quarantined),
                errmsg("table \"%s\" is quarantined", attachment->relname),
                errdetail("This database is a restored or copied one."),
                errhint("If its rows are to be worked on here, call pgjobs.resume()."));
}

// ---- stages and states ----

static bool is_enum(const Attachment *attachment) {
    return attachment->status_type != TEXTOID && attachment->status_type != VARCHAROID;
}

static void check_label(const Attachment *attachment, int state) {
    if (state < 0 || !is_enum(attachment) || OidIsValid(attachment->labels[state]))
        return;
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("\"%s\" is not a value of type %s any more", attachment->states[state],
                   format_type_be(attachment->status_type)),
            errhint("Call pgjobs.detach_table(), then pgjobs.attach_table() with the new names."));
}

int get_row_stage(const Attachment *attachment, const char *stage) {
    for (int i = 0; i < attachment->stage_count; i++) {
        const RowStage *found = &attachment->stages[i];
        if (strcmp(found->name, stage) != 0)
            continue;
        for (int state : {found->waiting, found->working, found->done, found->failed})
            check_label(attachment, state);
        return i;
    }
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("table \"%s\" has no stage \"%s\"", attachment->relname, pg::shown(stage)),
            errhint("The view pgjobs.attached_tables lists the stages of each table."));
    pg_unreachable();
}

static int state_of_text(const Attachment *attachment, Datum status) {
    const text *value = DatumGetTextPP(status);
    const char *data = VARDATA_ANY(value);
    auto length = static_cast<size_t>(VARSIZE_ANY_EXHDR(value));
    for (int i = 0; i < attachment->state_count; i++)
        if (strncmp(attachment->states[i], data, length) == 0 &&
            attachment->states[i][length] == '\0')
            return i;
    return -1;
}

int state_of(const Attachment *attachment, Datum status, bool null) {
    if (null)
        return -1;
    if (!is_enum(attachment))
        return state_of_text(attachment, status);
    for (int i = 0; i < attachment->state_count; i++)
        if (attachment->labels[i] == DatumGetObjectId(status))
            return i;
    return -1;
}

const char *state_literal(const Attachment *attachment, int state) {
    const char *value = quote_literal_cstr(attachment->states[state]);
    return psprintf("%s::%s", value,
                    format_type_extended(attachment->status_type, -1, FORMAT_TYPE_FORCE_QUALIFY));
}

const char *whole_row(const Attachment *attachment) {
    return psprintf("pgjobs_row.*::%s", attachment->name);
}

const RowStage *working_stage(const Attachment *attachment, int state) {
    for (int i = 0; state >= 0 && i < attachment->stage_count; i++)
        if (attachment->stages[i].working == state)
            return &attachment->stages[i];
    return nullptr;
}

// ---- keys ----

// Values whose text depends on settings of the session have one form here: it is compared.
static char *key_part(const Attachment *attachment, int i, Datum value) {
    Oid type = attachment->key_types[i];
    if (type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID) {
        auto *buffer = static_cast<char *>(palloc(MAXDATELEN + 1));
        int zone = 0;
        return JsonEncodeDateTime(buffer, value, type, &zone);
    }
    if (type == BYTEAOID) {
        const bytea *bytes = DatumGetByteaPP(value);
        size_t length = VARSIZE_ANY_EXHDR(bytes);
        auto *buffer = static_cast<char *>(palloc(2 * length + 3));
        buffer[0] = '\\';
        buffer[1] = 'x';
        hex_encode(VARDATA_ANY(bytes), length, buffer + 2);
        buffer[2 * length + 2] = '\0';
        return buffer;
    }
    return OutputFunctionCall(const_cast<FmgrInfo *>(&attachment->key_outputs[i]), value);
}

char *key_of_row(const RowShape *shape, TupleTableSlot *row) {
    const Attachment *attachment = shape->attachment;
    bool null;
    if (attachment->key_count == 1)
        return key_part(attachment, 0, slot_getattr(row, shape->keys[0], &null));
    StringInfoData key;
    initStringInfo(&key);
    for (int i = 0; i < attachment->key_count; i++) {
        const char *part = key_part(attachment, i, slot_getattr(row, shape->keys[i], &null));
        Oid type = attachment->key_types[i];
        appendStringInfoString(&key, i == 0 ? "[" : ", ");
        if (type == INT2OID || type == INT4OID || type == INT8OID)
            appendStringInfoString(&key, part);
        else
            escape_json(&key, part);
    }
    appendStringInfoChar(&key, ']');
    return key.data;
}

[[noreturn]] static void bad_key(const Attachment *attachment) {
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("argument \"key\" is not a key of table \"%s\"", attachment->relname),
            errdetail("Its primary key has %d columns.", attachment->key_count),
            errhint("Give a JSON array with a value for each of them, in their order."));
    pg_unreachable();
}

static char *text_of_element(const JsonbValue *element) {
    if (element != nullptr && element->type == jbvString)
        return pnstrdup(element->val.string.val, static_cast<Size>(element->val.string.len));
    if (element != nullptr && element->type == jbvNumeric)
        return DatumGetCString(
            DirectFunctionCall1(numeric_out, NumericGetDatum(element->val.numeric)));
    if (element != nullptr && element->type == jbvBool)
        return pstrdup(element->val.boolean ? "true" : "false");
    return nullptr;
}

static Datum part_from_text(const Attachment *attachment, int i, char *text) {
    Oid input;
    Oid parameter;
    getTypeInputInfo(attachment->key_types[i], &input, &parameter);
    return OidInputFunctionCall(input, text, parameter, attachment->key_typmods[i]);
}

Key read_key(const Attachment *attachment, const char *key) {
    if (attachment->key_count == 1)
        return {{part_from_text(attachment, 0, pstrdup(key))}};
    Key parts{};
    Jsonb *array = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(key)));
    if (!JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array) ||
        JB_ROOT_COUNT(array) != static_cast<uint32>(attachment->key_count))
        bad_key(attachment);
    for (int i = 0; i < attachment->key_count; i++) {
        char *text =
            text_of_element(getIthJsonbValueFromContainer(&array->root, static_cast<uint32>(i)));
        if (text == nullptr)
            bad_key(attachment);
        parts.values[i] = part_from_text(attachment, i, text);
    }
    return parts;
}

// ---- all of them ----

static constinit pg::Statement select_tables{
    "SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_depend d "
    "JOIN pg_catalog.pg_trigger t ON t.oid = d.objid "
    "WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid = $1 "
    "AND d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND t.tgparentid = 0 "
    "ORDER BY t.tgrelid",
    {OIDOID},
    nullptr};

List *attached_tables() {
    MemoryContext caller = CurrentMemoryContext;
    List *tables = NIL;
    uint64 count = pg::run(&select_tables, pg::oid_value(relations()->row_changed));
    for (uint64 i = 0; i < count; i++) {
        Oid table = DatumGetObjectId(pg::datum_at(i, 1));
        tables = pg::in_context(caller, [&] { return lappend_oid(tables, table); });
    }
    return tables;
}

} // namespace pgjobs

#include "row_changes.hpp"

#include "announce.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "entries.hpp"
#include "outbox.hpp"
#include "pg/spi.hpp"
#include "shared.hpp"
#include "wait.hpp"

namespace pgjobs::row_changes {

// How many rows came to wait for a stage, and how many left.
struct StageTally {
    int level;
    Oid table;
    int16 stage; // from 1
    int64 came;
    int64 left;
};
// A row is, or is no longer, in a state in which it becomes stale. Of several records that the
// table has of one row, the last counts: a row that was deleted may have left some.
struct Record {
    int level;
    int number; // order
    bool left;  // there may be a record of the state before
    bool found; // was in this state already: a record that it has stays
    Oid table;
    int64 home;
    char *key;
    const char *stage; // nullptr: no longer
    TimestampTz since;
    TimestampTz due_at;
};
struct Announcement {
    int level;
    announce::Text text;
};
// More happened to the table than is announced row by row.
struct Resync {
    int level;
    Oid table;
    announce::Text text;
};

constexpr int most_announcements = 1000; // of a transaction; then a resync of each table
constexpr int most_records = 1000;       // per savepoint; then they are written
constexpr int together = 100;            // of them at a time
constexpr int bulk = 200;                // so many are recorded in one row

static struct {
    bool any;
    Database *database; // nullptr: no place is left for it
    MemoryContext records_context;
    int next_number;
    Entries<StageTally> stages;
    Entries<Record> records;
    Entries<Announcement> announcements;
    Entries<Resync> resyncs;
} pending;

static void forget() { pending = {}; }

static void begin() {
    if (pending.any)
        return;
    forget();
    pending.any = true;
    pending.database = this_database();
    changes::rows_touched();
}

// ---- taking notes ----

static StageTally *find_tally(Oid table, int stage, int level, int before) {
    for (int i = before; i > 0 && pending.stages.data[i - 1].level >= level; i--) {
        StageTally *tally = &pending.stages.data[i - 1];
        if (tally->level == level && tally->table == table && tally->stage == stage)
            return tally;
    }
    return nullptr;
}

static StageTally *tally_of(Oid table, int stage) {
    StageTally *tally =
        find_tally(table, stage, GetCurrentTransactionNestLevel(), pending.stages.count);
    if (tally == nullptr) {
        tally = append(&pending.stages);
        tally->table = table;
        tally->stage = static_cast<int16>(stage);
    }
    return tally;
}

static bool among(uint64 states, int state) {
    return state >= 0 && (states & (UINT64CONST(1) << state)) != 0;
}

static void note_waiting(const Attachment *attachment, int from, int to) {
    if (!among(attachment->waiting, from) && !among(attachment->waiting, to))
        return;
    for (int i = 0; i < attachment->stage_count; i++) {
        int waiting = attachment->stages[i].waiting;
        if (waiting == to)
            tally_of(attachment->table, i + 1)->came++;
        if (waiting == from)
            tally_of(attachment->table, i + 1)->left++;
    }
}

// Where the records of a level are many, they are written: those of the levels above stay, for
// this one may be undone.
static void make_room() {
    int level = GetCurrentTransactionNestLevel();
    int first = pending.records.count - most_records;
    if (first >= 0 && pending.records.data[first].level >= level)
        write_records();
}

static Record *add_record(const RowShape *shape, TupleTableSlot *row) {
    const Attachment *attachment = shape->attachment;
    make_room();
    if (pending.records_context == nullptr)
        pending.records_context = AllocSetContextCreate(
            TopTransactionContext, "pgjobs rows under way", ALLOCSET_DEFAULT_SIZES);
    char *key = pg::in_context(pending.records_context, [&] { return key_of_row(shape, row); });
    Record *record = append(&pending.records);
    record->number = pending.next_number++;
    record->table = attachment->table;
    record->home = attachment->home;
    record->key = key;
    return record;
}

static void begin_stage(Record *record, const RowStage *stage, TimestampTz since) {
    record->stage = stage->name;
    record->since = since;
    record->due_at = since + stage->stale_after;
    changes::row_due_at(record->due_at);
}

static void note_timed(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    const Attachment *attachment = shape->attachment;
    bool comes = among(attachment->timed, move.to);
    bool left = among(attachment->timed, move.from) || (move.added && attachment->status_moves);
    if ((!comes && !left) || attachment->key_count == 0)
        return;
    Record *record = add_record(shape, row);
    record->left = left;
    if (comes)
        begin_stage(record, working_stage(attachment, move.to), GetCurrentTimestamp());
}

void note_working(const RowShape *shape, TupleTableSlot *row, int state, TimestampTz since) {
    begin();
    Record *record = add_record(shape, row);
    record->found = true;
    begin_stage(record, working_stage(shape->attachment, state), since);
}

// ---- announcements ----

static announce::Text text_of(const char *channel, const char *payload) {
    size_t first = strlen(channel) + 1;
    size_t second = strlen(payload) + 1;
    auto *data = static_cast<char *>(MemoryContextAlloc(TopTransactionContext, first + second));
    memcpy(data, channel, first);
    memcpy(data + first, payload, second);
    return {data, first + second};
}

static void append_member(StringInfo payload, const char *name, const char *value) {
    appendStringInfo(payload, "%s\"%s\": ", payload->len > 1 ? ", " : "", name);
    if (value != nullptr)
        escape_json(payload, value);
    else
        appendStringInfoString(payload, "null");
}

static char *payload_of(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    StringInfoData payload;
    initStringInfo(&payload);
    appendStringInfoChar(&payload, '{');
    append_member(&payload, "table", shape->attachment->name);
    append_member(&payload, "key", key_of_row(shape, row));
    append_member(&payload, "from", move.from_text);
    append_member(&payload, "to", move.to_text);
    char at[MAXDATELEN + 1];
    int zone = 0;
    JsonEncodeDateTime(at, TimestampTzGetDatum(GetCurrentTimestamp()), TIMESTAMPTZOID, &zone);
    append_member(&payload, "at", at);
    appendStringInfoChar(&payload, '}');
    return payload.data;
}

static bool has_resync(Oid table) {
    for (int i = 0; i < pending.resyncs.count; i++)
        if (pending.resyncs.data[i].table == table)
            return true;
    return false;
}

static void note_resync(const Attachment *attachment) {
    announce::Text text = text_of(attachment->channel, announce::resync_of(attachment->name));
    Resync *resync = append(&pending.resyncs);
    resync->table = attachment->table;
    resync->text = text;
}

static void note_message(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    const Attachment *attachment = shape->attachment;
    const Topic *topic = find_topic(attachment->topic);
    if (topic != nullptr && topic->home && attachment->key_count > 0)
        outbox::add(topic->id, key_of_row(shape, row), payload_of(shape, row, move));
}

static void note_announcement(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    const Attachment *attachment = shape->attachment;
    if (has_resync(attachment->table))
        return;
    if (attachment->key_count == 0 || pending.announcements.count >= most_announcements) {
        note_resync(attachment);
        return;
    }
    announce::Text text = text_of(attachment->channel, payload_of(shape, row, move));
    if (text.length > announce::longest_text)
        note_resync(attachment); // a key of that length
    else
        append(&pending.announcements)->text = text;
}

void note(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    begin();
    note_waiting(shape->attachment, move.from, move.to);
    if (shape->attachment->timed != 0)
        note_timed(shape, row, move);
    if (!shape->attachment->at_home)
        return;
    if (shape->attachment->channel != nullptr)
        note_announcement(shape, row, move);
    if (shape->attachment->topic != nullptr)
        note_message(shape, row, move);
}

// ---- writing records ----

static constinit pg::Statement delete_records{
    "DELETE FROM pgjobs.working_row w USING ROWS FROM (pg_catalog.unnest($1), "
    "pg_catalog.unnest($2)) AS k (target, key) WHERE w.target = k.target AND w.key = k.key",
    {OIDARRAYOID, TEXTARRAYOID},
    nullptr};
static constinit pg::Statement insert_if_missing{
    "INSERT INTO pgjobs.working_row (since, due_at, home, target, key, stage) "
    "SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT FROM pgjobs.working_row w "
    "WHERE w.target = $4 AND w.key = $5)",
    {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, OIDOID, TEXTOID, TEXTOID},
    nullptr};

static int compare(const void *a, const void *b) {
    auto *x = *static_cast<const Record *const *>(a);
    auto *y = *static_cast<const Record *const *>(b);
    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    int keys = strcmp(x->key, y->key);
    return keys != 0 ? keys : x->number < y->number ? -1 : 1;
}

static bool is_same_row(const Record *a, const Record *b) {
    return a->table == b->table && strcmp(a->key, b->key) == 0;
}

static bool is_written(const Record *record) { return record->stage != nullptr && !record->found; }

// Of one row the last record counts.
static bool is_last(const Record *const *record, const Record *const *end) {
    return record + 1 == end || !is_same_row(record[0], record[1]);
}

static pg::Value array_of(Datum *data, int count, Oid type) {
    int16 length;
    bool by_value;
    char align;
    get_typlenbyvalalign(type, &length, &by_value, &align);
    return pg::value(PointerGetDatum(construct_array(data, count, type, length, by_value, align)));
}

// The plans are made while the table is empty, and kept: they must be good when it is not.
static void look_up_by_index() {
    for (const char *setting : {"enable_seqscan", "enable_hashjoin", "enable_mergejoin"})
        set_config_option(setting, "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                          false);
}

static void remove_old(const Record *const *first, const Record *const *end) {
    auto size = static_cast<size_t>(end - first) * sizeof(Datum);
    auto *tables = static_cast<Datum *>(palloc(size));
    auto *keys = static_cast<Datum *>(palloc(size));
    int count = 0;
    for (const Record *const *record = first; record < end; record++)
        if ((*record)->left) {
            tables[count] = ObjectIdGetDatum((*record)->table);
            keys[count++] = CStringGetTextDatum((*record)->key);
        }
    if (count > 0)
        pg::run(&delete_records, array_of(tables, count, OIDOID), array_of(keys, count, TEXTOID));
}

static void fill(TupleTableSlot *slot, const Record *record) {
    const Datum values[] = {TimestampTzGetDatum(record->since), TimestampTzGetDatum(record->due_at),
                            Int64GetDatum(record->home),        ObjectIdGetDatum(record->table),
                            CStringGetTextDatum(record->stage), CStringGetTextDatum(record->key)};
    ExecClearTuple(slot);
    memcpy(slot->tts_values, values, sizeof(values));
    memset(slot->tts_isnull, true,
           sizeof(bool) * static_cast<size_t>(slot->tts_tupleDescriptor->natts));
    memset(slot->tts_isnull, false, sizeof(bool) * lengthof(values));
    ExecStoreVirtualTuple(slot);
}

static constinit pg::Statement insert_bulk{
    "INSERT INTO pgjobs.working_row (since, due_at, home, target, stage, keys, first_key, "
    "last_key) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, OIDOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID},
    nullptr};

// How many records of one table and stage there are from here on.
static int run_length(const Record *const *first, const Record *const *end) {
    const Record *const *record = first;
    while (record < end && (*record)->table == (*first)->table &&
           (*record)->stage == (*first)->stage)
        record++;
    return static_cast<int>(record - first);
}

// Many rows in one: it costs next to nothing, also to leave. Who takes stale rows back finds out
// which of them have left.
static void insert_together(const Record *const *first, int count) {
    auto *keys = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(count)));
    TimestampTz since = 0;
    for (int i = 0; i < count; i++) {
        keys[i] = CStringGetTextDatum(first[i]->key);
        since = Max(since, first[i]->since);
    }
    const Record *one = first[0];
    TimestampTz due_at = since + (one->due_at - one->since);
    pg::run(&insert_bulk, pg::value(since), pg::value(due_at), pg::value(one->home),
            pg::oid_value(one->table), pg::value(one->stage), array_of(keys, count, TEXTOID),
            pg::value(one->key), pg::value(first[count - 1]->key));
}

// Those that are to be written, the last of each row; returns how many.
static int select_new(const Record *const *first, const Record *const *end, const Record **result) {
    int count = 0;
    for (const Record *const *record = first; record < end; record++)
        if (is_written(*record) && is_last(record, end))
            result[count++] = *record;
    return count;
}

// Some at once, as the server does it with rows of its catalogs.
static void insert_singly(const Record *const *first, int total) {
    Relation table = table_open(relations()->working_row, RowExclusiveLock);
    CatalogIndexState indexes = CatalogOpenIndexes(table);
    TupleTableSlot *slots[together] = {};
    for (int done = 0; done < total;) {
        int count = 0;
        for (; count < together && done < total; count++) {
            if (slots[count] == nullptr)
                slots[count] = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsHeapTuple);
            fill(slots[count], first[done++]);
        }
        CatalogTuplesMultiInsertWithInfo(table, slots, count, indexes);
    }
    for (TupleTableSlot *slot : slots)
        if (slot != nullptr)
            ExecDropSingleTupleTableSlot(slot);
    CatalogCloseIndexes(indexes);
    table_close(table, NoLock);
    CommandCounterIncrement();
}

static void insert_new(const Record *const *first, const Record *const *end) {
    auto **records =
        static_cast<const Record **>(palloc(sizeof(Record *) * static_cast<size_t>(end - first)));
    const Record **last = records + select_new(first, end, records);
    for (const Record **record = records; record < last;) {
        int count = run_length(record, last);
        if (count >= bulk)
            insert_together(record, count);
        else
            insert_singly(record, count);
        record += count;
    }
}

void insert_missing(const Working &row) {
    pg::run(&insert_if_missing, pg::value(row.since), pg::value(row.due_at), pg::value(row.home),
            pg::oid_value(row.table), pg::value(row.key), pg::value(row.stage));
}

static void insert_found(const Record *const *first, const Record *const *end) {
    for (const Record *const *record = first; record < end; record++) {
        const Record &one = **record;
        if (one.found)
            insert_missing({one.table, one.home, one.key, one.stage, one.since, one.due_at});
    }
}

// Those of this level of subtransactions.
void write_records() {
    int level = GetCurrentTransactionNestLevel();
    int begin = pending.records.count;
    while (begin > 0 && pending.records.data[begin - 1].level >= level)
        begin--;
    int count = pending.records.count - begin;
    if (count == 0)
        return;
    pg::as_owner([&] {
        look_up_by_index();
        auto **first =
            static_cast<const Record **>(palloc(sizeof(Record *) * static_cast<size_t>(count)));
        for (int i = 0; i < count; i++)
            first[i] = &pending.records.data[begin + i];
        qsort(first, static_cast<size_t>(count), sizeof(Record *), compare);
        remove_old(first, first + count);
        insert_new(first, first + count);
        insert_found(first, first + count);
    });
    pending.records.count = begin;
    if (begin == 0)
        MemoryContextReset(pending.records_context);
}

// ---- telling ----

// Those of a committed subtransaction join their parent's, so that loops of savepoints stay small.
static void merge_tallies(int level) {
    int kept = pending.stages.count;
    while (kept > 0 && pending.stages.data[kept - 1].level >= level)
        kept--;
    for (int i = kept; i < pending.stages.count; i++) {
        StageTally child = pending.stages.data[i];
        StageTally *parent = find_tally(child.table, child.stage, level - 1, kept);
        if (parent != nullptr) {
            parent->came += child.came;
            parent->left += child.left;
        } else {
            child.level = level - 1;
            pending.stages.data[kept++] = child;
        }
    }
    pending.stages.count = kept;
}

static void tell_waiters() {
    pg_memory_barrier(); // our rows are visible; now see who waits
    if (pg_atomic_read_u32(&pending.database->waiters) == 0)
        return;
    for (int i = 0; i < pending.stages.count; i++) {
        const StageTally *tally = &pending.stages.data[i];
        if (tally->came > 0)
            wait::wake_rows(pending.database->oid, tally->table, tally->stage, tally->came);
    }
}

static void tell_listeners() {
    if (pending.announcements.count + pending.resyncs.count == 0)
        return;
    LWLockAcquire(shared->events_lock, LW_EXCLUSIVE);
    for (int i = 0; i < pending.announcements.count; i++)
        announce::put(pending.database, pending.announcements.data[i].text);
    for (int i = 0; i < pending.resyncs.count; i++)
        announce::put(pending.database, pending.resyncs.data[i].text);
    LWLockRelease(shared->events_lock);
    request_work(pending.database, work_notify);
}

// What is undone from this level on leaves rows waiting that others have passed.
static void tell_undone(int level) {
    if (pending.database == nullptr || pg_atomic_read_u32(&pending.database->waiters) == 0)
        return;
    for (int i = pending.stages.count; i > 0 && pending.stages.data[i - 1].level >= level; i--) {
        const StageTally *tally = &pending.stages.data[i - 1];
        if (tally->left > 0)
            wait::wake_rows(pending.database->oid, tally->table, tally->stage, tally->left);
    }
}

static void at_transaction(XactEvent event, void *) {
    if (!pending.any)
        return;
    switch (event) {
    case XACT_EVENT_PRE_COMMIT:
    case XACT_EVENT_PRE_PREPARE:
        write_records();
        break;
    case XACT_EVENT_COMMIT:
        if (pending.database != nullptr) {
            tell_waiters();
            tell_listeners();
        }
        forget();
        break;
    case XACT_EVENT_PREPARE: // the pin speaks for it
        forget();
        break;
    case XACT_EVENT_ABORT:
        tell_undone(1);
        forget();
        break;
    default:
        break;
    }
}

static void at_subtransaction(SubXactEvent event, SubTransactionId, SubTransactionId, void *) {
    if (!pending.any)
        return;
    int level = GetCurrentTransactionNestLevel();
    if (event == SUBXACT_EVENT_ABORT_SUB) {
        tell_undone(level);
        cut(&pending.stages, level);
        cut(&pending.records, level);
        cut(&pending.announcements, level);
        cut(&pending.resyncs, level);
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        merge_tallies(level);
        hand_up(&pending.records, level);
        hand_up(&pending.announcements, level);
        hand_up(&pending.resyncs, level);
    }
}

void watch_transactions() {
    RegisterXactCallback(at_transaction, nullptr);
    RegisterSubXactCallback(at_subtransaction, nullptr);
}

} // namespace pgjobs::row_changes

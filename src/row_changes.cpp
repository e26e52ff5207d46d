#include "row_changes.hpp"

#include "announce.hpp"
#include "changes.hpp"
#include "entries.hpp"
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
// A row is, or is no longer, in a state in which it becomes stale.
struct Record {
    int level;
    int number; // order
    bool found; // there already: a record that it has stays
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

static void add_record(const RowShape *shape, TupleTableSlot *row, const RowStage *stage,
                       TimestampTz since, bool found) {
    const Attachment *attachment = shape->attachment;
    if (attachment->key_count == 0)
        return;
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
    record->found = found;
    if (stage == nullptr)
        return;
    record->stage = stage->name;
    record->since = since;
    record->due_at = since + stage->stale_after;
    changes::due_at(record->due_at);
}

static void note_timed(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    const Attachment *attachment = shape->attachment;
    if (among(attachment->timed, move.to))
        add_record(shape, row, working_stage(attachment, move.to), GetCurrentTimestamp(), false);
    else if (among(attachment->timed, move.from) ||
             (move.added && attachment->status_moves && attachment->timed != 0))
        add_record(shape, row, nullptr, 0, false);
}

void note_working(const RowShape *shape, TupleTableSlot *row, int state, TimestampTz since) {
    begin();
    add_record(shape, row, working_stage(shape->attachment, state), since, true);
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

static void note_announcement(const RowShape *shape, TupleTableSlot *row, const Move &move) {
    const Attachment *attachment = shape->attachment;
    if (attachment->channel == nullptr || !attachment->at_home || has_resync(attachment->table))
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
    note_announcement(shape, row, move);
}

// ---- writing records ----

static constinit pg::Statement delete_records{
    "DELETE FROM pgjobs.working_row w USING ROWS FROM (pg_catalog.unnest($1), "
    "pg_catalog.unnest($2)) AS k (target, key) WHERE w.target = k.target AND w.key = k.key",
    {OIDARRAYOID, TEXTARRAYOID},
    nullptr};
#define INSERT_RECORDS                                                                             \
    "INSERT INTO pgjobs.working_row AS w (since, due_at, home, target, key, stage) "               \
    "SELECT k.since, k.due_at, k.home, k.target, k.key, k.stage FROM ROWS FROM ("                  \
    "pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), "                        \
    "pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6)) "                        \
    "AS k (target, key, stage, since, due_at, home) "                                              \
    "ON CONFLICT (target, key) DO UPDATE SET home = excluded.home"
static constinit pg::Statement upsert_records{
    INSERT_RECORDS ", since = excluded.since, due_at = excluded.due_at, stage = excluded.stage",
    {OIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
     INT8ARRAYOID},
    nullptr};
static constinit pg::Statement complete_records{
    INSERT_RECORDS,
    {OIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
     INT8ARRAYOID},
    nullptr};

static int compare(const void *a, const void *b) {
    auto *x = *static_cast<const Record *const *>(a);
    auto *y = *static_cast<const Record *const *>(b);
    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    int keys = strcmp(x->key, y->key);
    return keys != 0 ? keys : x->number < y->number ? -1 : 1;
}

static pg::Value array_of(Datum *data, int count, Oid type) {
    int16 length;
    bool by_value;
    char align;
    get_typlenbyvalalign(type, &length, &by_value, &align);
    return pg::value(
        PointerGetDatum(construct_array(data, count, type, length, by_value, align)));
}

// Columns of the statements above.
struct Columns {
    Datum *values[6];
    int count;
};

static Columns new_columns(int space) {
    Columns columns{};
    for (Datum *&values : columns.values)
        values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(space)));
    return columns;
}

static void add(Columns *columns, const Record *record) {
    int i = columns->count++;
    columns->values[0][i] = ObjectIdGetDatum(record->table);
    columns->values[1][i] = CStringGetTextDatum(record->key);
    if (record->stage == nullptr)
        return;
    columns->values[2][i] = CStringGetTextDatum(record->stage);
    columns->values[3][i] = TimestampTzGetDatum(record->since);
    columns->values[4][i] = TimestampTzGetDatum(record->due_at);
    columns->values[5][i] = Int64GetDatum(record->home);
}

static void remove(const Columns &columns) {
    if (columns.count > 0)
        pg::run(&delete_records, array_of(columns.values[0], columns.count, OIDOID),
                array_of(columns.values[1], columns.count, TEXTOID));
}

static void insert(pg::Statement *statement, const Columns &columns) {
    int count = columns.count;
    if (count > 0)
        pg::run(statement, array_of(columns.values[0], count, OIDOID),
                array_of(columns.values[1], count, TEXTOID),
                array_of(columns.values[2], count, TEXTOID),
                array_of(columns.values[3], count, TIMESTAMPTZOID),
                array_of(columns.values[4], count, TIMESTAMPTZOID),
                array_of(columns.values[5], count, INT8OID));
}

// Those of this level of subtransactions; the last word on each row counts.
void write_records() {
    int level = GetCurrentTransactionNestLevel();
    int first = pending.records.count;
    while (first > 0 && pending.records.data[first - 1].level >= level)
        first--;
    int count = pending.records.count - first;
    if (count == 0)
        return;
    pg::as_owner([&] {
        auto **sorted = static_cast<const Record **>(palloc(sizeof(Record *) * static_cast<size_t>(count)));
        for (int i = 0; i < count; i++)
            sorted[i] = &pending.records.data[first + i];
        qsort(sorted, static_cast<size_t>(count), sizeof(Record *), compare);
        Columns gone = new_columns(count);
        Columns come = new_columns(count);
        Columns found = new_columns(count);
        for (int i = 0; i < count; i++) {
            const Record *record = sorted[i];
            bool last = i + 1 == count || sorted[i + 1]->table != record->table ||
                        strcmp(sorted[i + 1]->key, record->key) != 0;
            if (last)
                add(record->stage == nullptr ? &gone : record->found ? &found : &come, record);
        }
        remove(gone);
        insert(&upsert_records, come);
        insert(&complete_records, found);
    });
    pending.records.count = first;
    if (first == 0)
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

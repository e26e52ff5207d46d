#include "log.hpp"

#include "changes.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "shared.hpp"
#include "store_parts.hpp"

namespace pgjobs::log {

using store::Line;

// ---- rows ----

void segment_name(int32 segment, char *name) { snprintf(name, NAMEDATALEN, "log_%d", segment); }

static Oid leaf_of(int32 segment) {
    char name[NAMEDATALEN];
    segment_name(segment, name);
    return get_relname_relid(name, relations()->schema);
}

static Datum column(TupleTableSlot *slot, Line line) {
    bool null;
    Datum datum = slot_getattr(slot, static_cast<int>(line), &null);
    return null ? 0 : datum;
}

static int64 position_of(TupleTableSlot *slot) {
    return DatumGetInt64(column(slot, Line::position));
}

// A scan of one segment by position.
struct Segments {
    Relation leaf;
    Relation index;
    TupleTableSlot *slot;
    IndexScanDesc scan;
};

// False if the segment was dropped.
static bool begin(Segments *s, int32 segment, Snapshot snapshot) {
    *s = {};
    Oid oid = leaf_of(segment);
    s->leaf = OidIsValid(oid) ? try_table_open(oid, AccessShareLock) : nullptr;
    if (s->leaf == nullptr)
        return false;
    constexpr AttrNumber columns[] = {static_cast<AttrNumber>(Line::position)};
    s->index = direct::open_index(s->leaf, columns, 1, "messages");
    s->slot = table_slot_create(s->leaf, nullptr);
    s->scan = pg::begin_index_scan(s->leaf, s->index, snapshot, 2);
    return true;
}

static void seek(Segments *s, int64 from, int64 to) {
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
    ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(to));
    index_rescan(s->scan, keys, 2, nullptr, 0);
}

static bool next(Segments *s, ScanDirection direction) {
    return index_getnext_slot(s->scan, direction, s->slot);
}

// A writer keeps his lock until his transaction ends, a reader need not.
static void end(Segments *s) {
    index_endscan(s->scan);
    ExecDropSingleTupleTableSlot(s->slot);
    index_close(s->index, AccessShareLock);
    table_close(s->leaf, AccessShareLock);
}

// The first row at or behind `from`, or with a backward scan the last one, dead or alive.
struct Row {
    bool found;
    int64 position;
    TimestampTz published_at;
};
static Row any_row(int32 segment, int64 from, ScanDirection direction) {
    Row row{};
    Segments s;
    bool pushed = store::push_snapshot();
    if (begin(&s, segment, SnapshotAny)) {
        seek(&s, from, PG_INT64_MAX);
        row.found = next(&s, direction);
        if (row.found) {
            row.position = position_of(s.slot);
            row.published_at = DatumGetTimestampTz(column(s.slot, Line::published_at));
        }
        end(&s);
    }
    if (pushed)
        PopActiveSnapshot();
    return row;
}

// ---- places in shared memory ----

int64 span_of(int64 retention) {
    return Max(Min(retention / 8, USECS_PER_DAY), USECS_PER_SEC / 10);
}

static bool is_place_of(const TopicEnd *place, Oid log, int32 topic) {
    return place->topic == topic && place->database == MyDatabaseId && place->log == log;
}

// Under the topics lock.
static TopicEnd *search(Oid log, int32 topic) {
    for (int i = 0; i < settings::max_topics; i++)
        if (is_place_of(&topic_ends[i], log, topic))
            return &topic_ends[i];
    return nullptr;
}

// The place with its lock held, or nullptr. A place that was found once is probably still there.
static TopicEnd *lock_place(int32 topic) {
    static TopicEnd *last;
    Oid log = relations()->log;
    if (last == nullptr || last->topic != topic)
        last = pg::locked(shared->topics_lock, LW_SHARED, [&] { return search(log, topic); });
    if (last == nullptr)
        return nullptr;
    SpinLockAcquire(&last->lock);
    if (is_place_of(last, log, topic))
        return last;
    SpinLockRelease(&last->lock);
    last = nullptr;
    return nullptr;
}

static void unlock(TopicEnd *place) { SpinLockRelease(&place->lock); }

static constinit pg::Statement select_prepared{
    "SELECT FROM pg_catalog.pg_prepared_xacts p "
    "WHERE p.database = pg_catalog.current_database() LIMIT 1",
    {},
    nullptr};

// Rows from before the server's start are final, but for those of prepared transactions.
static bool has_prepared() {
    return max_prepared_xacts > 0 && pg::as_owner([] { return pg::run(&select_prepared) > 0; });
}

static constinit pg::Statement select_feed{
    "SELECT FROM pgjobs.feed f WHERE f.topic_id = $1 LIMIT 1", {INT4OID}, nullptr};

static bool has_feed(int32 topic) {
    return pg::as_owner([&] { return pg::run(&select_feed, pg::value(topic)) > 0; });
}

// What the log says of its end, dead or alive.
static TopicEnd read_end(const Topic *topic) {
    TopicEnd end{};
    end.topic = topic->id;
    end.database = MyDatabaseId;
    end.log = relations()->log;
    int64 next = topic->pruned_to + 1;
    end.rotate_at = never;
    end.span = span_of(topic->retention);
    end.fed = has_feed(topic->id);
    for (int i = topic->segment_count - 1; i >= 0; i--) {
        Row row = any_row(topic->segments[i].id, 0, BackwardScanDirection);
        bool newest = i == topic->segment_count - 1;
        if (newest) {
            end.segment = topic->segments[i].id;
            end.leaf = leaf_of(end.segment);
            next = Max(next, topic->segments[i].floor);
        }
        if (!row.found)
            continue;
        next = Max(next, row.position + 1);
        end.latest = row.published_at;
        if (newest) // it may have been written to since long
            end.rotate_at = any_row(end.segment, 0, ForwardScanDirection).published_at + end.span;
        break;
    }
    end.positions = {next, next};
    end.settled = has_prepared() ? 0 : next - 1;
    return end;
}

static void take_place(TopicEnd *place, const TopicEnd &end) {
    SpinLockAcquire(&place->lock);
    slock_t lock = place->lock;
    *place = end;
    place->lock = lock;
    SpinLockRelease(&place->lock);
}

[[noreturn]] static void no_place(const Topic *topic) {
    ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
            errmsg("no place is left in shared memory for topic \"%s\"", topic->name),
            errdetail("pgjobs.max_topics is %d, over all databases.", settings::max_topics),
            errhint("Raise pgjobs.max_topics and restart the server."));
    pg_unreachable();
}

static void refuse_on_standby() {
    if (RecoveryInProgress())
        ereport(ERROR, errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
                errmsg("topics cannot be read on a standby"),
                errdetail("Who publishes is known on the primary only: here a message could be "
                          "seen before one with a lower position."),
                errhint("Read on the primary, or query the table pgjobs.log as its owner."));
}

// The place, made if need be, with its lock held; nullptr if all are taken.
static TopicEnd *try_lock_place(const Topic *topic) {
    refuse_on_standby();
    for (;;) {
        TopicEnd *place = lock_place(topic->id);
        if (place != nullptr)
            return place;
        TopicEnd end = read_end(topic);
        bool made = pg::locked(shared->topics_lock, LW_EXCLUSIVE, [&] {
            if (search(end.log, topic->id) != nullptr)
                return true;
            for (int i = 0; i < settings::max_topics; i++)
                if (topic_ends[i].database == InvalidOid) {
                    take_place(&topic_ends[i], end);
                    return true;
                }
            return false;
        });
        if (!made)
            return nullptr;
    }
}

static TopicEnd *lock_or_make_place(const Topic *topic) {
    TopicEnd *place = try_lock_place(topic);
    if (place == nullptr)
        no_place(topic);
    return place;
}

bool has_place(const Topic *topic) {
    TopicEnd *place = try_lock_place(topic);
    if (place != nullptr)
        unlock(place);
    return place != nullptr;
}

// ---- registering ----

static Publisher *mine() { return &publishers[pg::my_procno()]; }
static int level_of_mine; // nesting level of the subtransaction that writes

void leave(int level) {
    Publisher *me = mine();
    if (me->place == 0 || level_of_mine < level)
        return;
    TopicEnd *place = &topic_ends[me->place - 1];
    SpinLockAcquire(&place->lock);
    place->publishers--;
    me->place = 0;
    SpinLockRelease(&place->lock);
}

struct Range {
    int64 first;
    TimestampTz at;
    TimestampTz rotate_at;
    int32 segment;
    Oid leaf;
};

// Positions for `count` messages, registered; false if a new block is needed. `place` is locked.
static bool take(TopicEnd *place, int count, TimestampTz now, Range *range) {
    int64_t first;
    if (!core::take(&place->positions, count, &first))
        return false;
    place->latest = Max(place->latest, now);
    if (place->rotate_at == never)
        place->rotate_at = place->latest + place->span;
    *range = {first, place->latest, place->rotate_at, place->segment, place->leaf};
    place->publishers++;
    *mine() = {static_cast<int32>(place - topic_ends) + 1, range->first};
    return true;
}

void sequence_name(int32 topic, char *name) {
    snprintf(name, NAMEDATALEN, "position_%d_seq", topic);
}

// Where the log of the server must have reached the disk for the sequence to be there.
static XLogRecPtr end_of_sequence(Oid oid) {
    Relation sequence = relation_open(oid, AccessShareLock);
    Buffer buffer = ReadBuffer(sequence, 0);
    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    XLogRecPtr end = BufferGetLSNAtomic(buffer);
    UnlockReleaseBuffer(buffer);
    relation_close(sequence, NoLock);
    return end;
}

// A position that somebody has seen must never be given out again, be its transaction lost with the
// server: so a block counts once the disk has it.
static int64 next_block(const Topic *topic) {
    char name[NAMEDATALEN];
    sequence_name(topic->id, name);
    Oid sequence = get_relname_relid(name, relations()->schema);
    int64 first = store::next_id(sequence);
    XLogFlush(end_of_sequence(sequence));
    return first;
}

static Range take_positions(const Topic *topic, int count) {
    if (mine()->place != 0)
        ereport(ERROR, errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
                errmsg("cannot publish while a message is being written"),
                errhint("A trigger on a partition of pgjobs.log must not publish."));
    level_of_mine = GetCurrentTransactionNestLevel();
    TimestampTz now = GetCurrentTimestamp();
    Range range;
    for (;;) {
        TopicEnd *place = lock_or_make_place(topic);
        bool taken = take(place, count, now, &range);
        unlock(place);
        if (taken)
            return range;
        int64 first = next_block(topic);
        place = lock_or_make_place(topic);
        core::add_block(&place->positions, first, block);
        unlock(place);
    }
}

// ---- writing ----

void lock_topic(const Topic *topic) {
    LockDatabaseObject(relations()->topic, static_cast<Oid>(topic->id), 0, RowExclusiveLock);
    if (find_topic(topic->id) == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("topic \"%s\" does not exist", topic->name),
                errdetail("It has just been dropped."),
                errhint("Create it with pgjobs.create_topic()."));
}

static void write(const Range &range, const Draft *drafts, int count) {
    store::Table *leaf = store::open(range.leaf, store::Kind::log);
    for (int i = 0; i < count; i++) {
        store::start_row(leaf);
        store::set(leaf, Line::position, Int64GetDatum(range.first + i));
        store::set(leaf, Line::published_at, TimestampTzGetDatum(range.at));
        store::set(leaf, Line::segment, Int32GetDatum(range.segment));
        store::set(leaf, Line::payload, drafts[i].payload);
        if (drafts[i].key != 0)
            store::set(leaf, Line::key, drafts[i].key);
        if (drafts[i].headers != 0)
            store::set(leaf, Line::headers, drafts[i].headers);
        store::insert(leaf);
    }
    store::close(leaf);
}

void append(const Topic *topic, const Draft *drafts, int count, int64 *positions) {
    changes::published(topic->id); // whoever is held up by us must be told, whatever happens here
    for (int done = 0; done < count;) {
        int batch = Min(count - done, most_together);
        Range range = take_positions(topic, batch);
        write(range, drafts + done, batch);
        leave(level_of_mine);
        changes::due_at(range.rotate_at);
        for (int i = 0; i < batch; i++)
            positions[done + i] = range.first + i;
        done += batch;
        CHECK_FOR_INTERRUPTS();
    }
}

// ---- reading ----

// Every position up to here has its row, or never will. `place` is locked.
static int64 limit_of(TopicEnd *place) {
    auto number = static_cast<int32>(place - topic_ends) + 1;
    return core::limit_of(place->positions, place->publishers > 0 ? shared->procs : 0, [&](int i) {
        return publishers[i].place == number ? publishers[i].lowest : PG_INT64_MAX;
    });
}

struct Limit {
    int64 position;
    int64 settled;
    int32 segment; // the newest, as the publishers know it
};

static Limit look_at_end(const Topic *topic) {
    TopicEnd *place = lock_or_make_place(topic);
    Limit limit = {limit_of(place), place->settled, place->segment};
    unlock(place);
    return limit;
}

int64 last_position(const Topic *topic) { return look_at_end(topic).position; }

int64 next_position(const Topic *topic) {
    TopicEnd *place = lock_or_make_place(topic);
    int64 next = place->positions.next;
    unlock(place);
    return next;
}

static void require_kept(const Topic *topic, int64 after, const char *subscription) {
    if (after >= topic->pruned_to)
        return;
    const char *where = subscription != nullptr ? psprintf("subscription \"%s\"", subscription)
                                                : psprintf("topic \"%s\"", topic->name);
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("%s: messages were dropped before they were read", where),
            errdetail("Behind position " INT64_FORMAT ", all messages up to position " INT64_FORMAT
                      " are past the retention of the topic.",
                      after, topic->pruned_to),
            subscription != nullptr
                ? errhint("To go on with the oldest message kept, call pgjobs.seek('%s', "
                          "to_position => 0).",
                          subscription)
                : errhint("Read after position 0 for the oldest message kept."));
}

// The topic as it is now: a segment has come or gone.
static const Topic *look_again(const Topic *topic) {
    forget_catalog();
    const Topic *now = find_topic(topic->id);
    if (now == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("topic \"%s\" was dropped meanwhile", topic->name),
                errhint("Stop the reader, or create the topic again."));
    return now;
}

static int first_segment(const Topic *topic, int64 after) {
    return core::first_segment(topic->segment_count, after,
                               [&](int i) { return topic->segments[i].floor; });
}

static bool is_under_way(TupleTableSlot *slot, const SnapshotData &dirty) {
    if (TransactionIdIsValid(dirty.xmin))
        return true;
    HeapTupleHeader header = ExecFetchSlotHeapTuple(slot, false, nullptr)->t_data;
    return !HeapTupleHeaderXminCommitted(header) &&
           TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmin(header));
}

static Message message_in(TupleTableSlot *slot) {
    return {position_of(slot), DatumGetTimestampTz(column(slot, Line::published_at)),
            column(slot, Line::payload), column(slot, Line::key), column(slot, Line::headers)};
}

struct Walk {
    int64 after; // visited up to here
    int64 limit;
    TransactionId holder;
    TimestampTz held_since;
    bool stopped;
    bool (*visit)(const Message &, void *);
    void *argument;
};

// False if the segment was dropped.
static bool walk_segment(Walk *walk, int32 segment) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    Segments s;
    if (!begin(&s, segment, &dirty))
        return false;
    seek(&s, walk->after + 1, walk->limit);
    while (!walk->stopped && next(&s, ForwardScanDirection)) {
        CHECK_FOR_INTERRUPTS();
        if (is_under_way(s.slot, dirty)) {
            walk->holder = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : GetTopTransactionId();
            walk->held_since = DatumGetTimestampTz(column(s.slot, Line::published_at));
            walk->limit = position_of(s.slot) - 1;
            walk->stopped = true;
            break;
        }
        Message message = message_in(s.slot);
        walk->after = message.position;
        if (!walk->visit(message, walk->argument)) {
            walk->limit = message.position;
            walk->stopped = true;
        }
    }
    end(&s);
    return true;
}

static void note_settled(const Topic *topic, int64 from, int64 position) {
    TopicEnd *place = lock_or_make_place(topic);
    if (from <= place->settled)
        place->settled = Max(place->settled, position);
    unlock(place);
}

Reached scan(const Topic *topic, int64 after, const char *subscription,
             bool (*visit)(const Message &, void *), void *argument) {
    Limit limit = look_at_end(topic);
    if (limit.segment > topic->segments[topic->segment_count - 1].id)
        topic = look_again(topic);
    require_kept(topic, after, subscription);
    bool pushed = store::push_snapshot();
    Walk walk = {after, limit.position, InvalidTransactionId, 0, false, visit, argument};
    for (int i = first_segment(topic, after); !walk.stopped && i < topic->segment_count; i++)
        if (walk.after < walk.limit && !walk_segment(&walk, topic->segments[i].id)) {
            topic = look_again(topic);
            require_kept(topic, walk.after, subscription);
            i = first_segment(topic, walk.after) - 1;
        }
    if (pushed)
        PopActiveSnapshot();
    Reached reached = {Max(walk.limit, after), walk.holder, walk.held_since};
    note_settled(topic, after, reached.position);
    return reached;
}

Reached settle(const Topic *topic) {
    int64 from = Max(look_at_end(topic).settled, topic->pruned_to);
    return scan(topic, from, nullptr, [](const Message &) { return true; });
}

Lag lag_of(const Topic *topic, int64 place) {
    Lag lag{};
    bool any = false;
    scan(topic, Max(place, topic->pruned_to), nullptr, [&](const Message &first) {
        lag.since = first.published_at;
        any = true;
        return false;
    });
    if (any)
        lag.messages = last_position(topic) - place;
    return lag;
}

// ---- reading by time ----

static Row row_behind(const Topic *topic, int64 position) {
    Row row{};
    for (int i = first_segment(topic, position); !row.found && i < topic->segment_count; i++)
        row = any_row(topic->segments[i].id, position, ForwardScanDirection);
    return row;
}

// Times rise with positions.
int64 place_before(const Topic *topic, TimestampTz at) {
    int64 low = topic->pruned_to + 1;
    int64 high = look_at_end(topic).position + 1;
    while (low < high) {
        int64 middle = low + (high - low) / 2;
        Row row = row_behind(topic, middle);
        if (!row.found || row.published_at >= at)
            high = middle;
        else
            low = row.position + 1;
    }
    return low - 1;
}

// ---- segments ----

bool is_written(const Topic *topic, TimestampTz *rotate_at) {
    TopicEnd *place = lock_or_make_place(topic);
    *rotate_at = place->rotate_at;
    unlock(place);
    return *rotate_at != never;
}

bool is_current(const Topic *topic, int32 segment) {
    TopicEnd *place = lock_or_make_place(topic);
    bool current = place->segment == segment;
    unlock(place);
    return current;
}

int64 last_in(int32 segment) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    Segments s;
    if (!begin(&s, segment, &dirty))
        return 0;
    seek(&s, 0, PG_INT64_MAX);
    int64 last = next(&s, BackwardScanDirection) ? position_of(s.slot) : 0;
    end(&s);
    return last;
}

void set_fed(const Topic *topic) {
    TopicEnd *place = lock_or_make_place(topic);
    place->fed = true;
    unlock(place);
}

// ---- for callbacks ----

// The extension's tables may not be known any more: any log of the database will do.
template <class F> static void for_places(Oid database, int32 topic, F body) {
    for (int i = 0; i < settings::max_topics; i++) {
        TopicEnd *place = &topic_ends[i];
        if (place->database != database || (topic != 0 && place->topic != topic))
            continue;
        SpinLockAcquire(&place->lock);
        if (place->database == database && (topic == 0 || place->topic == topic))
            body(place);
        SpinLockRelease(&place->lock);
    }
}

bool is_fed(int32 topic) {
    bool fed = false;
    for_places(MyDatabaseId, topic, [&](TopicEnd *place) { fed |= place->fed; });
    return fed;
}

void move_to(int32 topic, int32 segment, Oid leaf, int64 span) {
    for_places(MyDatabaseId, topic, [&](TopicEnd *place) {
        place->span = span;
        if (segment <= place->segment)
            return;
        place->segment = segment;
        place->leaf = leaf;
        place->rotate_at = never;
    });
}

void drop(Oid database, int32 topic) {
    for_places(database, topic, [](TopicEnd *place) { place->database = InvalidOid; });
}

} // namespace pgjobs::log

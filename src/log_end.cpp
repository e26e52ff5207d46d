#include "log_end.hpp"

#include "inject.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "segment.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace pgjobs::log_end {

// ---- places ----

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
static LogEnd read_end(const Topic *topic) {
    LogEnd end{};
    end.topic = topic->id;
    end.database = MyDatabaseId;
    end.log = relations()->log;
    int64 next = topic->pruned_to + 1;
    end.rotate_at = never;
    end.span = span_of(topic->retention);
    end.fed = has_feed(topic->id);
    for (int i = topic->segment_count - 1; i >= 0; i--) {
        segment::Row row = segment::any_row(topic->segments[i].id, 0, BackwardScanDirection);
        bool newest = i == topic->segment_count - 1;
        if (newest) {
            end.segment = topic->segments[i].id;
            end.leaf = segment::table_of(end.segment);
            next = Max(next, topic->segments[i].floor);
        }
        if (!row.found)
            continue;
        next = Max(next, row.position + 1);
        end.latest = row.published_at;
        if (newest) // it may have been written to since long
            end.rotate_at =
                segment::any_row(end.segment, 0, ForwardScanDirection).published_at + end.span;
        break;
    }
    end.positions = {next, next};
    end.settled = has_prepared() ? 0 : next - 1;
    return end;
}

static void take_place(TopicEnd *place, const LogEnd &end) {
    SpinLockAcquire(&place->lock);
    static_cast<LogEnd &>(*place) = end;
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

static constinit pg::Statement select_topic{
    "SELECT FROM pgjobs.topic t WHERE t.id = $1", {INT4OID}, nullptr};

static bool is_there(int32 topic) {
    return pg::as_owner([&] { return pg::run(&select_topic, pg::value(topic)) > 0; });
}

// The place, made if need be, with its lock held; nullptr if all are taken or the topic is gone.
static TopicEnd *try_lock_place(const Topic *topic) {
    refuse_on_standby();
    PGJOBS_POINT("place-sought");
    for (;;) {
        TopicEnd *place = lock_place(topic->id);
        if (place != nullptr)
            return place;
        LogEnd end = read_end(topic);
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
        // Who drops a topic gives up the place that is there then. This one may have come too late.
        if (!is_there(topic->id)) {
            drop(MyDatabaseId, topic->id);
            return nullptr;
        }
    }
}

static TopicEnd *lock_or_make_place(const Topic *topic) {
    TopicEnd *place = try_lock_place(topic);
    if (place == nullptr && !is_there(topic->id))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("topic \"%s\" was dropped", topic->name),
                errhint("Stop the reader, or create the topic again."));
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

// ---- publishing ----

static Publisher *mine() { return &publishers[pg::my_procno()]; }
static int level_of_mine; // nesting level of the subtransaction that writes

void leave() {
    Publisher *me = mine();
    TopicEnd *place = &topic_ends[me->place - 1];
    SpinLockAcquire(&place->lock);
    place->publishers--;
    me->place = 0;
    SpinLockRelease(&place->lock);
}

void leave_undone(int level) {
    if (mine()->place != 0 && level_of_mine >= level)
        leave();
}

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

Range take_positions(const Topic *topic, int count) {
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
        CHECK_FOR_INTERRUPTS();
        int64 first = next_block(topic);
        place = lock_or_make_place(topic);
        core::add_block(&place->positions, first, block);
        unlock(place);
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

Limit look(const Topic *topic) {
    TopicEnd *place = lock_or_make_place(topic);
    Limit limit = {limit_of(place), place->settled, place->segment};
    unlock(place);
    return limit;
}

void note_settled(const Topic *topic, int64 from, int64 position) {
    TopicEnd *place = lock_place(topic->id);
    if (place == nullptr) // the topic was dropped meanwhile
        return;
    if (from <= Max(place->settled, topic->pruned_to))
        place->settled = Max(place->settled, position);
    unlock(place);
}

int64 next_position(const Topic *topic) {
    TopicEnd *place = lock_or_make_place(topic);
    int64 next = place->positions.next;
    unlock(place);
    return next;
}

// ---- segments and feeds ----

TimestampTz rotation_time(const Topic *topic) {
    TopicEnd *place = lock_or_make_place(topic);
    TimestampTz rotate_at = place->rotate_at;
    unlock(place);
    return rotate_at;
}

bool is_current(const Topic *topic, int32 segment) {
    TopicEnd *place = lock_or_make_place(topic);
    bool current = place->segment == segment;
    unlock(place);
    return current;
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

TimestampTz first_rotation(Oid database) {
    TimestampTz first = never;
    for_places(database, 0, [&](TopicEnd *place) { first = Min(first, place->rotate_at); });
    return first;
}

bool is_fed(int32 topic) {
    bool fed = false;
    for_places(MyDatabaseId, topic, [&](TopicEnd *place) { fed |= place->fed; });
    return fed;
}

void move_to(int32 topic, int32 segment, Oid leaf, int64 span) {
    for_places(MyDatabaseId, topic, [&](TopicEnd *place) {
        if (place->rotate_at != never)
            place->rotate_at += span - place->span;
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

} // namespace pgjobs::log_end

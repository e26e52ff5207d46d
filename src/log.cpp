#include "log.hpp"

#include "changes.hpp"
#include "inject.hpp"
#include "log_end.hpp"
#include "segment.hpp"
#include "store_parts.hpp"

namespace pgjobs::log {

using store::Line;

// ---- writing ----

bool lock_topic_if_there(const Topic *topic) {
    LockDatabaseObject(relations()->topic, static_cast<Oid>(topic->id), 0, RowExclusiveLock);
    return find_topic(topic->id) != nullptr;
}

void lock_topic(const Topic *topic) {
    if (!lock_topic_if_there(topic))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("topic \"%s\" does not exist", topic->name),
                errdetail("It has just been dropped."),
                errhint("Create it with pgjobs.create_topic()."));
}

static void write(const log_end::Range &range, const Draft *drafts, int count) {
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
        log_end::Range range = log_end::take_positions(topic, batch);
        PGJOBS_POINT("publish-registered");
        write(range, drafts + done, batch);
        PGJOBS_POINT("publish-inserted");
        log_end::leave();
        changes::due_at(range.rotate_at);
        for (int i = 0; i < batch; i++)
            positions[done + i] = range.first + i;
        done += batch;
        CHECK_FOR_INTERRUPTS();
    }
}

// ---- reading ----

int64 last_position(const Topic *topic) { return log_end::look(topic).position; }

[[noreturn]] static void raise_dropped(const Topic *topic, int64 after, const char *subscription) {
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
    pg_unreachable();
}

// Where a reader who has come to `after` goes on.
static int64 kept_behind(const Topic *topic, int64 after, const Gap &gap) {
    if (after < topic->pruned_to && !gap.passed)
        raise_dropped(topic, after, gap.subscription);
    return Max(after, topic->pruned_to);
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
    return {segment::position_of(slot),
            DatumGetTimestampTz(segment::column(slot, Line::published_at)),
            segment::column(slot, Line::payload), segment::column(slot, Line::key),
            segment::column(slot, Line::headers)};
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
static bool walk_segment(Walk *walk, int32 number) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    segment::Scan s;
    if (!segment::begin(&s, number, &dirty))
        return false;
    segment::seek(&s, walk->after + 1, walk->limit);
    while (!walk->stopped && segment::next(&s, ForwardScanDirection)) {
        CHECK_FOR_INTERRUPTS();
        if (is_under_way(s.slot, dirty)) {
            if (mutant(11))
                continue;
            walk->holder = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : GetTopTransactionId();
            walk->held_since = DatumGetTimestampTz(segment::column(s.slot, Line::published_at));
            walk->limit = segment::position_of(s.slot) - 1;
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
    segment::end(&s);
    return true;
}

Reached scan(const Topic *topic, int64 after, const Gap &gap,
             bool (*visit)(const Message &, void *), void *argument) {
    log_end::Limit limit = log_end::look(topic);
    if (limit.segment > topic->segments[topic->segment_count - 1].id)
        topic = look_again(topic);
    after = kept_behind(topic, after, gap);
    bool pushed = store::push_snapshot();
    Walk walk = {after, limit.position, InvalidTransactionId, 0, false, visit, argument};
    for (int i = first_segment(topic, after); !walk.stopped && i < topic->segment_count; i++)
        if (walk.after < walk.limit && !walk_segment(&walk, topic->segments[i].id)) {
            topic = look_again(topic);
            walk.after = kept_behind(topic, walk.after, gap);
            i = first_segment(topic, walk.after) - 1;
        }
    if (pushed)
        PopActiveSnapshot();
    Reached reached = {Max(walk.limit, after), walk.holder, walk.held_since};
    log_end::note_settled(topic, after, reached.position);
    return reached;
}

Reached settle(const Topic *topic) {
    return scan(topic, log_end::look(topic).settled, pass_gap,
                [](const Message &) { return true; });
}

Lag lag_of(const Topic *topic, int64 place) {
    Lag lag{};
    bool any = false;
    scan(topic, place, pass_gap, [&](const Message &first) {
        lag.since = first.published_at;
        any = true;
        return false;
    });
    if (any)
        lag.messages = last_position(topic) - place;
    return lag;
}

// ---- reading by time ----

static segment::Row row_behind(const Topic *topic, int64 position) {
    segment::Row row{};
    for (int i = first_segment(topic, position); !row.found && i < topic->segment_count; i++)
        row = segment::any_row(topic->segments[i].id, position, ForwardScanDirection);
    return row;
}

// Times rise with positions.
int64 place_before(const Topic *topic, TimestampTz at) {
    int64 low = topic->pruned_to + 1;
    int64 high = log_end::look(topic).position + 1;
    while (low < high) {
        int64 middle = low + (high - low) / 2;
        segment::Row row = row_behind(topic, middle);
        if (!row.found || row.published_at >= at)
            high = middle;
        else
            low = row.position + 1;
    }
    return low - 1;
}

} // namespace pgjobs::log

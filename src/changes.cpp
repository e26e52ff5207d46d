#include "changes.hpp"

#include "catalog.hpp"
#include "count.hpp"
#include "inject.hpp"
#include "outbox.hpp"
#include "pending.hpp"

namespace pgjobs::changes {

core::State final_state = State::ready;
const char *error;

Pending pending;

static void clear() {
    pending = {};
    pending.next_due = pending.rows_due = never;
}

void forget() {
    clear();
    final_state = State::ready;
    error = nullptr;
}

void begin() {
    if (!pending.any) {
        clear();
        pending.any = true;
    }
    if (pending.database == nullptr)
        pending.database = this_database();
    if (pending.jobs == InvalidOid && extension_exists())
        pending.jobs = relations()->job;
}

static void set(Mark *mark) {
    if (mark->level == 0)
        mark->level = GetCurrentTransactionNestLevel();
}

static QueueTally *find_tally(int32 queue, int16 stage, int16 priority, int level, int before) {
    for (int i = before; i > 0; i--) {
        QueueTally *tally = &pending.queues.data[i - 1];
        if (tally->level < level)
            break;
        if (tally->queue == queue && tally->stage == stage && tally->priority == priority &&
            tally->level == level)
            return tally;
    }
    return nullptr;
}

static QueueTally *tally_of(int32 queue, int16 stage, int16 priority) {
    QueueTally *tally =
        find_tally(queue, stage, priority, GetCurrentTransactionNestLevel(), pending.queues.count);
    if (tally == nullptr) {
        tally = append(&pending.queues);
        tally->queue = queue;
        tally->stage = stage;
        tally->priority = priority;
        if (stage != 0)
            count::make_place(pending.jobs, queue, stage);
    }
    return tally;
}

static QueueTally *tally_of(const Facts &job) {
    return tally_of(job.queue, job.stage, job.priority);
}

static core::Key key_of(const Facts &job) { return {job.due_at, job.id}; }

// Tallies of a committed subtransaction join their parent's, so that loops of savepoints stay
// small.
void merge_tallies(int level) {
    int kept = pending.queues.count;
    while (kept > 0 && pending.queues.data[kept - 1].level >= level)
        kept--;
    for (int i = kept; i < pending.queues.count; i++) {
        QueueTally child = pending.queues.data[i];
        QueueTally *parent = find_tally(child.queue, child.stage, child.priority, level - 1, kept);
        if (parent == nullptr) {
            child.level = level - 1;
            pending.queues.data[kept++] = child;
            continue;
        }
        parent->touched |= child.touched;
        parent->resync |= child.resync;
        parent->events += child.events;
        parent->ready += child.ready;
        parent->locked += child.locked;
        parent->freed += child.freed;
        core::add(&parent->depth, child.depth);
        parent->enqueued += child.enqueued;
        parent->claimed += child.claimed;
        parent->completed += child.completed;
        parent->dead += child.dead;
        parent->cancelled += child.cancelled;
        parent->own = parent->if_committed.count == 0 ? child.own
                      : child.if_committed.count == 0 ? parent->own
                                                      : core::lesser(parent->own, child.own);
        frontier::join(&parent->if_committed, child.if_committed);
        frontier::join(&parent->if_undone, child.if_undone);
    }
    pending.queues.count = kept;
}

// ---- taking notes ----

static Event event_of(const Facts &facts, State state) {
    return {facts.id,      GetCurrentTimestamp(), facts.queue, facts.rev,
            facts.attempt, facts.stage,           state};
}

static void note_due(TimestampTz at) { pending.next_due = Min(pending.next_due, at); }

// The job of `facts` has come into `state`; `from` is what it was before, nullptr for a new one.
static void note_event(const Facts &facts, const State *from, State state, TupleTableSlot *row) {
    const Queue *queue = find_queue(facts.queue);
    if (queue == nullptr || !queue->home)
        return;
    if (queue->events_topic != 0)
        outbox::add_event(queue->events_topic, event_of(facts, state), from, row);
    if (queue->notify == Notify::off)
        return;
    QueueTally *tally = tally_of(facts);
    tally->touched |= queue->notify == Notify::wakeup && state == State::ready;
    if (queue->notify != Notify::events || tally->resync)
        return;
    if (++tally->events > most_events) {
        tally->resync = true;
        return;
    }
    append(&pending.events)->event = event_of(facts, state);
}

// `rev` is the job's after the change.
static void note_lease(const Facts &facts, int32 rev, bool ended) {
    if (pending.leases.count >= most_leases) {
        pending.leases_lost = true;
        return;
    }
    LeaseEntry *entry = append(&pending.leases);
    entry->ended = ended;
    entry->lease = {
        {facts.id, MyDatabaseId, 0}, facts.lease_expires_at, facts.hold_session, rev, 0};
}

// A job that is, or stays, ready for this transaction too.
static void note_ready(QueueTally *tally, const Facts &job) {
    core::Key key = key_of(job);
    tally->own = tally->if_committed.count == 0 ? key : core::lesser(tally->own, key);
    frontier::note(&tally->if_committed, key);
}

// What holds for a row whichever way it got there. `tally` is its own; it is needed for a ready
// one.
static void note_state(QueueTally *tally, const Facts &now) {
    if (now.state == State::ready) {
        tally->ready++;
        note_ready(tally, now);
    }
    if (now.state == State::scheduled)
        note_due(now.due_at);
    if (now.state != State::running)
        note_due(now.expires_at);
    if (now.state == State::running) {
        note_lease(now, now.rev, false);
        note_due(now.lease_expires_at);
    }
}

void added(const Facts &now, TupleTableSlot *row) {
    begin();
    QueueTally *tally = tally_of(now);
    tally->enqueued++;
    tally->depth[now.state]++;
    note_state(tally, now);
    note_event(now, nullptr, now.state, row);
}

// The row has left the state and, perhaps, the stage. Returns its tally.
static QueueTally *note_left(const Facts &before) {
    QueueTally *tally = tally_of(before);
    tally->depth[before.state]--;
    if (before.state == State::ready) {
        tally->freed++;
        frontier::note(&tally->if_undone, key_of(before));
    }
    return tally;
}

static bool is_same_run(const Facts &a, const Facts &b) {
    return a.queue == b.queue && a.stage == b.stage && a.priority == b.priority;
}

void changed(const Facts &before, const Facts &now, TupleTableSlot *row) {
    begin();
    if (before.state == State::running && now.state != State::running)
        note_lease(before, now.rev, true);
    // A row that stays ready is told too: whoever passed it while it was locked must look again.
    bool same = is_same_run(before, now);
    QueueTally *tally = nullptr;
    if (!same || before.state != now.state || now.state == State::ready) {
        tally = note_left(before);
        if (!same)
            tally = tally_of(now);
        tally->depth[now.state]++;
        tally->claimed += before.state == State::ready && now.state == State::running;
    }
    note_state(tally, now);
    if (before.rev != now.rev)
        note_event(now, &before.state, now.state, row);
}

static void note_finished(const Facts &before) {
    if (pending.finished.count >= most_finished) {
        pending.finished_lost = true;
        return;
    }
    FinishedEntry *entry = append(&pending.finished);
    entry->queue = before.queue;
    entry->job = before.id;
}

void removed(const Facts &before, State final, TupleTableSlot *row) {
    begin();
    if (before.state == State::running)
        note_lease(before, before.rev + 1, true);
    QueueTally *tally = note_left(before);
    if (!core::is_final(final)) {
        tally->resync = true;
        note_finished(before); // whoever awaits it learns that it is gone
        return;
    }
    tally->completed += final == State::completed;
    tally->dead += final == State::dead;
    tally->cancelled += final == State::cancelled;
    note_finished(before);
    Facts now = before;
    now.rev++;
    note_event(now, &before.state, final, row);
}

void touching(const Facts &row) {
    begin();
    QueueTally *tally = tally_of(row);
    tally->locked++;
    frontier::note(&tally->if_undone, key_of(row));
}

void left_ready(const Facts &row) {
    begin();
    note_ready(tally_of(row), row);
}

core::Place own_place(int32 queue, int16 stage, int32 last) {
    core::Place own = core::last_place;
    for (int i = 0; pending.any && i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        if (tally->queue != queue || tally->stage != stage || tally->priority <= last)
            continue;
        if (tally->if_committed.count > 0 && core::before(tally->own, core::highest_key))
            own = core::lesser(own, {tally->priority, tally->own});
    }
    return own;
}

void own_reached(int32 queue, int16 stage, int32 from, const core::Place &reached) {
    for (int i = 0; pending.any && i < pending.queues.count; i++) {
        QueueTally *tally = &pending.queues.data[i];
        if (tally->queue != queue || tally->stage != stage || tally->priority < from ||
            tally->priority > reached.priority)
            continue;
        tally->own = tally->priority < reached.priority ? core::highest_key
                                                        : core::greater(tally->own, reached.key);
    }
}

// What a savepoint undid may be ready again.
void forget_own_reached() {
    for (int i = 0; i < pending.queues.count; i++)
        pending.queues.data[i].own = pending.queues.data[i].if_committed.least;
}

core::Depth own_depth(int32 queue, int16 stage) {
    core::Depth depth{};
    for (int i = 0; pending.any && i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        if (tally->queue == queue && tally->stage == stage)
            core::add(&depth, tally->depth);
    }
    return depth;
}

bool notes_all() { return !pending.any || pending.everything.level == 0; }

void due_at(TimestampTz at) {
    begin();
    note_due(at);
}

void row_due_at(TimestampTz at) {
    due_at(at);
    pending.rows_due = Min(pending.rows_due, at);
}

void everything_changed() {
    begin();
    set(&pending.everything);
}

void statement_begins() {
    begin();
    pending.plain = GetCurrentTransactionNestLevel();
}

bool may_all_change() { return pending.any && pending.everything.level > 0; }

void wake_queue(int32 queue) {
    begin();
    tally_of(queue, 0, 0)->ready += shared->procs;
}

void queue_dropped(int32 queue) {
    begin();
    tally_of(queue, 0, 0)->resync = true; // the worker finds no queue and drops its hints
    wake_queue(queue);
    append(&pending.stages)->queue = queue;
}

void stages_made(int32 queue, int16 from, int16 to) {
    begin();
    StagesEntry *entry = append(&pending.stages);
    entry->queue = queue;
    entry->from = from;
    entry->to = to;
}

void published(int32 topic) {
    begin();
    int level = GetCurrentTransactionNestLevel();
    for (int i = pending.topics.count; i > 0 && pending.topics.data[i - 1].level == level; i--)
        if (pending.topics.data[i - 1].topic == topic)
            return;
    append(&pending.topics)->topic = topic;
}

void topic_made(int32 topic) {
    begin();
    SegmentEntry *entry = append(&pending.segments);
    entry->topic = topic;
    entry->first = true;
}

void segment_made(int32 topic, int32 segment, Oid leaf, int64 span) {
    begin();
    SegmentEntry *entry = append(&pending.segments);
    entry->topic = topic;
    entry->segment = segment;
    entry->leaf = leaf;
    entry->span = span;
}

void holds_session_lease() {
    begin();
    set(&pending.holds);
}

void rescan_databases() {
    begin();
    set(&pending.rescan);
}

void rules_changed() {
    begin();
    set(&pending.rules);
}

void rows_touched() { begin(); }

void extension_dropped() {
    begin();
    set(&pending.dropped);
}

void extension_installed() {
    begin();
    set(&pending.installed);
}

void database_dropped(Oid database) {
    begin();
    pending.dropped_database = database;
}

// ---- claims that do not wait for the disk ----

void begin_claim(bool durable) {
    begin();
    // Written already, and not by claims alone: this commit is as durable as the session says.
    if (XactLastRecEnd != 0 && (!pending.claimed || XactLastRecEnd != pending.claims_end))
        pending.durable = true;
    pending.claimed = true;
    pending.durable |= durable;
}

void end_claim() { pending.claims_end = XactLastRecEnd; }

// Whether the transaction wrote only claims is known here and not before: a pipeline or a statement
// around the claim can write after it.
void relax_commit() {
    bool claims_only = pending.claimed && !pending.durable && XactLastRecEnd == pending.claims_end;
    if ((claims_only || mutant(6)) && synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
        set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
                          true, 0, false);
}

} // namespace pgjobs::changes

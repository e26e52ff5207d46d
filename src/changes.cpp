#include "changes.hpp"

#include "catalog.hpp"
#include "count.hpp"
#include "frontier.hpp"
#include "lease.hpp"
#include "notify.hpp"
#include "prepared.hpp"
#include "presence.hpp"
#include "shared.hpp"
#include "wait.hpp"

namespace pgjobs::changes {

using core::State;

core::State final_state = State::ready;

// ---- what is kept ----
// Entries carry the nesting level of the subtransaction that made them. Those of a level stand
// together at the end, so that its abort cuts them off and its commit hands them to its parent.

struct QueueTally {
    int level;
    int32 queue;
    int16 stage;
    int16 priority;
    bool touched; // something happened that a listener wants to know
    bool resync;  // more happened than can be told
    int64 ready, enqueued, claimed, completed, dead, cancelled;
    core::Depth depth;           // how the numbers of jobs change
    int events;                  // told one by one, so far
    int64 locked;                // ready rows that were about to be locked
    int64 freed;                 // rows that were ready before: they are again if this is undone
    frontier::Keys if_committed; // jobs that are ready then
    core::Key own;               // from here on there may be some that this transaction can claim
    frontier::Keys if_undone;
};
struct EventEntry {
    int level;
    Event event;
};
struct LeaseEntry {
    int level;
    bool ended;
    Lease lease;
};
struct FinishedEntry {
    int level;
    int32 queue;
    int64 job;
};
struct StagesEntry { // new, or gone with their queue
    int level;
    int32 queue;
    int16 from;
    int16 to; // 0: gone
};

// A growing array in TopTransactionContext.
template <class T> struct Entries {
    T *data;
    int count;
    int space;
};

// Something that happened, by the level of the subtransaction in which it did; 0: it did not.
struct Mark {
    int level;
};

constexpr int most_events = 1000;  // per savepoint, queue, stage and priority; then a resync
constexpr int most_leases = 20000; // then the worker looks at the table
constexpr int most_finished = 256; // then everybody who awaits is woken

struct Pending {
    bool any;
    Mark everything; // may have changed
    Mark holds;      // a session lease was taken
    Mark dropped;    // the extension was
    Mark installed;  // the extension was
    Mark rescan;     // databases came or went
    int plain; // level of the last statement that changes rows and tells us when it ends; 0 without
    bool finished_lost; // finished does not list all
    bool leases_lost;   // leases does not list all
    Oid dropped_database;
    TimestampTz next_due;
    Database *database;
    Oid jobs; // the table
    Entries<QueueTally> queues;
    Entries<EventEntry> events;
    Entries<LeaseEntry> leases;
    Entries<FinishedEntry> finished;
    Entries<StagesEntry> stages;
    // Claims that need not wait for the disk.
    bool claimed;
    bool durable;
    XLogRecPtr claims_end;
};
static Pending pending;

static void forget() {
    pending = {};
    pending.next_due = never;
    final_state = State::ready;
}

static void begin() {
    if (!pending.any) {
        forget();
        pending.any = true;
    }
    if (pending.database == nullptr)
        pending.database = this_database();
    if (pending.jobs == InvalidOid && extension_exists())
        pending.jobs = relations()->job;
}

template <class T> static T *append(Entries<T> *entries) {
    if (entries->count == entries->space) {
        int space = entries->space == 0 ? 16 : entries->space * 2;
        Size size = sizeof(T) * space;
        entries->data = static_cast<T *>(entries->data == nullptr
                                             ? MemoryContextAllocHuge(TopTransactionContext, size)
                                             : repalloc_huge(entries->data, size));
        entries->space = space;
    }
    T *entry = &entries->data[entries->count++];
    *entry = {};
    entry->level = GetCurrentTransactionNestLevel();
    return entry;
}

template <class T> static void cut(Entries<T> *entries, int level) {
    while (entries->count > 0 && entries->data[entries->count - 1].level >= level)
        entries->count--;
}

template <class T> static void hand_up(Entries<T> *entries, int level) {
    for (int i = entries->count; i > 0 && entries->data[i - 1].level >= level; i--)
        entries->data[i - 1].level = level - 1;
}

static void set(Mark *mark) {
    if (mark->level == 0)
        mark->level = GetCurrentTransactionNestLevel();
}

static Mark *const marks[] = {&pending.everything, &pending.holds, &pending.dropped,
                              &pending.installed, &pending.rescan};

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
static void merge_tallies(int level) {
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

static void note_due(TimestampTz at) { pending.next_due = Min(pending.next_due, at); }

static void note_event(const Facts &facts, State state) {
    const Queue *queue = find_queue(facts.queue);
    if (queue == nullptr || !queue->home || queue->notify == Notify::off)
        return;
    QueueTally *tally = tally_of(facts);
    tally->touched |= queue->notify == Notify::wakeup && state == State::ready;
    if (queue->notify != Notify::events || tally->resync)
        return;
    if (++tally->events > most_events) {
        tally->resync = true;
        return;
    }
    EventEntry *entry = append(&pending.events);
    entry->event = {facts.id,      GetCurrentTimestamp(), facts.queue, facts.rev,
                    facts.attempt, facts.stage,           state};
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

void added(const Facts &now) {
    begin();
    QueueTally *tally = tally_of(now);
    tally->enqueued++;
    tally->depth[now.state]++;
    note_state(tally, now);
    note_event(now, now.state);
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

void changed(const Facts &before, const Facts &now) {
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
        note_event(now, now.state);
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

void removed(const Facts &before, State final) {
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
    note_event(now, final);
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
static void forget_own_reached() {
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

void holds_session_lease() {
    begin();
    set(&pending.holds);
}

void rescan_databases() {
    begin();
    set(&pending.rescan);
}

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
static void relax_commit() {
    if (pending.claimed && !pending.durable && XactLastRecEnd == pending.claims_end &&
        synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
        set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
                          true, 0, false);
}

// ---- telling ----

static void tell_leases(Database *database) {
    if (pending.leases_lost || pending.everything.level > 0) {
        pg_atomic_write_u32(&database->leases_lost, 1);
        request_work(database, work_rescan);
        return;
    }
    if (pending.leases.count == 0)
        return;
    bool complete = true;
    bool held = false;
    LWLockAcquire(shared->leases_lock, LW_EXCLUSIVE);
    for (int i = 0; i < pending.leases.count; i++) {
        const LeaseEntry *entry = &pending.leases.data[i];
        held |= !entry->ended && entry->lease.session != 0;
        if (entry->ended)
            lease::forget(entry->lease.key, entry->lease.rev);
        else if (!lease::remember(entry->lease))
            complete = false;
    }
    LWLockRelease(shared->leases_lock);
    if (!complete)
        pg_atomic_write_u32(&database->leases_lost, 1);
    if (held && pg_atomic_read_u32(&database->worker) == 0)
        request_work(database, work_due); // it stays as long as the session holds the job
}

static void tell_queues(Database *database) {
    bool send = false;
    LWLockAcquire(shared->events_lock, LW_EXCLUSIVE);
    for (int i = 0; i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        QueueHints *hints = notify::hints_of(database->oid, tally->queue);
        if (hints == nullptr) {
            pg_atomic_write_u32(&database->notify_all, 1);
            send = true;
            continue;
        }
        hints->wakeup |= tally->touched;
        hints->resync |= tally->resync;
        hints->enqueued += tally->enqueued;
        hints->claimed += tally->claimed;
        hints->completed += tally->completed;
        hints->dead += tally->dead;
        hints->cancelled += tally->cancelled;
        send |= tally->touched || tally->resync;
    }
    for (int i = 0; i < pending.events.count; i++)
        notify::put_event(database, pending.events.data[i].event);
    LWLockRelease(shared->events_lock);
    if (send || pending.events.count > 0)
        request_work(database, work_notify);
}

static void tell_waiters(Database *database) {
    pg_memory_barrier(); // our rows are visible; now see who waits
    if (pg_atomic_read_u32(&database->waiters) == 0)
        return;
    if (pending.everything.level > 0 || pending.finished_lost) {
        wait::wake_all(database->oid);
        return;
    }
    for (int i = 0; i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        int64 left_as_they_were = Max(tally->locked - tally->freed, 0);
        if (tally->ready + left_as_they_were > 0)
            wait::wake_some(database->oid, tally->queue, tally->stage,
                            tally->ready + left_as_they_were);
    }
    for (int i = 0; i < pending.finished.count; i++)
        wait::wake_awaiting(database->oid, pending.finished.data[i].job);
}

// Claims pass a row that a transaction has in its hands if that transaction announces what it
// touches. One that does may have locked others of which we were not told: SELECT FOR UPDATE says
// nothing at all, and a statement that fails never comes to its row triggers.
static bool has_locked_rows() {
    return frontier::is_announcing() && pg::holds_relation_lock(pending.jobs, RowShareLock);
}

static bool has_changed_rows(int level) {
    return frontier::is_announcing() && pending.plain >= level;
}

static void tell_frontier(int level, bool committed, bool hidden) {
    for (int i = pending.queues.count; i > 0 && pending.queues.data[i - 1].level >= level; i--) {
        const QueueTally *tally = &pending.queues.data[i - 1];
        frontier::announce(MyDatabaseId, pending.jobs, tally->queue, tally->stage, tally->priority,
                           committed ? tally->if_committed : tally->if_undone, hidden);
    }
}

// What nobody has counted yet, the worker counts; once it knows, it is not told again.
static void ask_for_count(Database *database) {
    uint32 none = 0;
    pg_atomic_compare_exchange_u32(&database->uncounted, &none, 1);
    if (pg_atomic_read_u32(&database->uncounted) == 1 &&
        (pg_atomic_read_u32(&database->work) & work_count) == 0)
        request_work(database, work_count);
}

static void tell_figures(Database *database) {
    bool counted = pending.everything.level == 0;
    for (int i = 0; i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        if (!core::is_zero(tally->depth))
            counted &=
                count::charge(MyDatabaseId, pending.jobs, tally->queue, tally->stage, tally->depth);
    }
    if (!counted && database != nullptr)
        ask_for_count(database);
    for (int i = 0; i < pending.stages.count; i++)
        if (pending.stages.data[i].to == 0)
            frontier::drop_queue(MyDatabaseId, pending.jobs, pending.stages.data[i].queue);
}

// Only those who have changed jobs know how, and the prepared transaction does not tell.
static void forget_figures() {
    for (int i = 0; i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        if (!core::is_zero(tally->depth))
            count::forget(MyDatabaseId, pending.jobs, tally->queue, tally->stage);
    }
    if (pending.database != nullptr)
        pg_atomic_write_u32(&pending.database->uncounted, 1);
}

// Nobody else has seen the new stages yet.
static void begin_stages() {
    for (int i = 0; i < pending.stages.count; i++) {
        const StagesEntry *entry = &pending.stages.data[i];
        if (entry->to != 0)
            count::begin_stages(entry->queue, entry->from, entry->to);
    }
}

// What is undone from this level on leaves ready jobs ready. Whoever passed them while they were
// locked must look again.
static void tell_undone(int level) {
    frontier::leave();
    if (has_locked_rows() || has_changed_rows(level))
        frontier::forget_all(MyDatabaseId);
    else
        tell_frontier(level, false, false);
    Database *database = pending.database;
    if (database == nullptr || pg_atomic_read_u32(&database->waiters) == 0)
        return;
    for (int i = pending.queues.count; i > 0 && pending.queues.data[i - 1].level >= level; i--) {
        const QueueTally *tally = &pending.queues.data[i - 1];
        int64 count = Max(tally->locked, tally->freed);
        if (count > 0)
            wait::wake_some(database->oid, tally->queue, tally->stage, count);
    }
}

// Queues, or where they run, have changed. Other sessions learn that by invalidation messages,
// which are sent after the commit callback: who is woken there may still look with old eyes, so
// everybody is told again behind them.
static Database *rules_changed_in;
static bool home_changed;

static void note_rules() {
    bool changed = pending.everything.level > 0;
    for (int i = 0; i < pending.queues.count; i++)
        changed |= pending.queues.data[i].stage == 0 && pending.queues.data[i].ready > 0;
    rules_changed_in = changed ? pending.database : nullptr;
    home_changed = pending.everything.level > 0;
}

static void after_locks(ResourceReleasePhase phase, bool commit, bool top, void *) {
    if (rules_changed_in == nullptr || phase != RESOURCE_RELEASE_AFTER_LOCKS || !top)
        return;
    Database *database = rules_changed_in;
    rules_changed_in = nullptr;
    if (!commit)
        return;
    wait::wake_all(database->oid);
    if (home_changed) {
        pg_atomic_write_u32(&database->leases_lost, 1);
        pg_atomic_write_u32(&database->notify_all, 1);
        request_work(database, work_notify | work_rescan);
    }
}

static void tell_catalog(Database *database) {
    if (pending.dropped_database != InvalidOid)
        presence::database_gone(pending.dropped_database);
    if (pending.dropped.level > 0 && database != nullptr)
        presence::extension_gone(database);
    if (pending.installed.level > 0 && database != nullptr)
        presence::extension_came(database);
    bool homeless = pending.installed.level > 0 && database == nullptr; // no place was left
    if (homeless || pending.rescan.level > 0 || pending.installed.level > 0) {
        pg_atomic_fetch_or_u32(&shared->rescan, homeless ? rescan_all : rescan_new);
        wake_process(pg_atomic_read_u32(&shared->launcher));
    }
}

static void tell() {
    // The launcher gives up the place of a database that had no extension when it looked.
    if (pending.database != nullptr && pending.database->oid != MyDatabaseId)
        pending.database = this_database();
    Database *database = pending.database;
    if (pending.everything.level > 0 || has_locked_rows())
        frontier::forget_all(MyDatabaseId);
    else
        tell_frontier(1, true, false); // before anybody is woken
    tell_figures(database);
    tell_catalog(database);
    if (database == nullptr)
        return; // no place in shared memory: pgjobs.max_databases
    tell_leases(database);
    tell_waiters(database); // who is woken may run before this process goes on
    tell_queues(database);
    if (pending.everything.level > 0) {
        pg_atomic_write_u32(&database->notify_all, 1);
        request_work(database, work_notify | work_rescan);
    }
    if (pending.next_due != never)
        lower_next_due(database, pending.next_due);
}

// ---- callbacks ----

// Bounds stay before what the transaction has touched until it has ended.
static void pin() {
    Pin pin{};
    for (int i = 0; i < pending.queues.count; i++) {
        const QueueTally *tally = &pending.queues.data[i];
        for (const frontier::Keys *keys : {&tally->if_committed, &tally->if_undone})
            if (keys->count > 0 && pin.run_count <= most_pinned_runs) {
                if (pin.run_count < most_pinned_runs)
                    pin.runs[pin.run_count] = {
                        tally->queue, tally->stage, {tally->priority, keys->least}};
                pin.run_count++;
            }
    }
    bool all = pending.everything.level > 0 || has_locked_rows();
    if (all)
        pin.run_count = most_pinned_runs + 1;
    prepared::pin(pending.database, pin);
    forget_figures();
    if (all)
        frontier::forget_all(MyDatabaseId);
    tell_frontier(1, true, true);
    tell_frontier(1, false, true);
}

static void at_transaction(XactEvent event, void *) {
    if (event == XACT_EVENT_ABORT) {
        wait::leave();
        frontier::leave();
    }
    if (!pending.any) {
        if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
            presence::release();
        return;
    }
    switch (event) {
    case XACT_EVENT_PRE_COMMIT:
        begin_stages();
        relax_commit();
        break;
    case XACT_EVENT_PRE_PREPARE:
        if (pending.holds.level > 0)
            ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot prepare a transaction that holds jobs for this session"),
                    errhint("Claim with a lease instead of hold => true."));
        pin(); // before COMMIT PREPARED can be
        break;
    case XACT_EVENT_PREPARE:
        frontier::announced();
        forget(); // the pin speaks for it
        break;
    case XACT_EVENT_COMMIT:
        tell();
        lease::reaped();
        note_rules();
        frontier::announced();
        presence::release();
        forget();
        break;
    case XACT_EVENT_ABORT:
        tell_undone(1);
        lease::reaped();
        frontier::announced();
        presence::release();
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
    if (event == SUBXACT_EVENT_ABORT_SUB)
        tell_undone(level);
    if (event == SUBXACT_EVENT_ABORT_SUB || event == SUBXACT_EVENT_COMMIT_SUB)
        pending.plain = Min(pending.plain, level - 1); // one may be under way there
    if (event == SUBXACT_EVENT_ABORT_SUB) {
        cut(&pending.queues, level);
        cut(&pending.events, level);
        cut(&pending.leases, level);
        cut(&pending.finished, level);
        cut(&pending.stages, level);
        for (Mark *mark : marks)
            if (mark->level >= level)
                mark->level = 0;
        forget_own_reached();
        final_state = State::ready;
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        merge_tallies(level);
        hand_up(&pending.events, level);
        hand_up(&pending.leases, level);
        hand_up(&pending.finished, level);
        hand_up(&pending.stages, level);
        for (Mark *mark : marks)
            if (mark->level >= level)
                mark->level = level - 1;
    }
}

void watch_transactions() {
    RegisterXactCallback(at_transaction, nullptr);
    RegisterSubXactCallback(at_subtransaction, nullptr);
    RegisterResourceReleaseCallback(after_locks, nullptr);
}

} // namespace pgjobs::changes

// The ends of transactions: what was noted is told to shared memory.
#include "catalog.hpp"
#include "count.hpp"
#include "frontier.hpp"
#include "inject.hpp"
#include "lease.hpp"
#include "log_end.hpp"
#include "notify.hpp"
#include "outbox.hpp"
#include "pending.hpp"
#include "prepared.hpp"
#include "presence.hpp"
#include "shared.hpp"
#include "wait.hpp"

namespace pgjobs::changes {

static Mark *const marks[] = {&pending.everything, &pending.holds,  &pending.dropped,
                              &pending.installed,  &pending.rescan, &pending.rules};

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
    if (pending.queues.count == 0 && pending.events.count == 0)
        return;
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
    if (pg_atomic_read_u32(&database->waiters) == 0 || mutant(9))
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

// Readers were held up before our messages; now they may go on, or over the holes that we leave.
static void tell_readers(Database *database, int level) {
    bool fed = false;
    for (int i = pending.topics.count; i > 0 && pending.topics.data[i - 1].level >= level; i--) {
        int32 topic = pending.topics.data[i - 1].topic;
        if (pg_atomic_read_u32(&database->waiters) != 0)
            wait::wake_readers(database->oid, topic);
        fed |= log_end::is_fed(topic);
    }
    if (fed)
        request_work(database, work_deliver);
}

static void tell_segments(Database *database) {
    for (int i = 0; i < pending.segments.count; i++) {
        const SegmentEntry *entry = &pending.segments.data[i];
        if (entry->first)
            continue;
        if (entry->segment == 0)
            log_end::drop(MyDatabaseId, entry->topic);
        else
            log_end::move_to(entry->topic, entry->segment, entry->leaf, entry->span);
    }
    if (pending.segments.count > 0 && database != nullptr)
        request_work(database, work_topics);
}

// Topics that never were: this transaction may have published to them.
static void forget_new_topics(int level) {
    for (int i = pending.segments.count; i > 0 && pending.segments.data[i - 1].level >= level; i--)
        if (pending.segments.data[i - 1].first)
            log_end::drop(MyDatabaseId, pending.segments.data[i - 1].topic);
}

// What is undone from this level on leaves ready jobs ready. Whoever passed them while they were
// locked must look again.
static void tell_undone(int level) {
    frontier::leave();
    log_end::leave_undone(level);
    forget_new_topics(level);
    if (has_locked_rows() || has_changed_rows(level))
        frontier::forget_all(MyDatabaseId);
    else if (!mutant(7))
        tell_frontier(level, false, false);
    Database *database = pending.database;
    if (database == nullptr)
        return;
    pg_memory_barrier(); // our messages are holes; now see who waits
    tell_readers(database, level);
    if (pg_atomic_read_u32(&database->waiters) == 0)
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
    bool changed =
        pending.everything.level > 0 || pending.segments.count > 0 || pending.rules.level > 0;
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
    tell_segments(database);
    tell_catalog(database);
    if (database == nullptr)
        return; // no place in shared memory: pgjobs.max_databases
    PGJOBS_QUIET_POINT("commit-half-told");
    tell_leases(database);
    tell_waiters(database); // who is woken may run before this process goes on
    tell_readers(database, 1);
    tell_queues(database);
    if (pending.everything.level > 0) {
        pg_atomic_write_u32(&database->notify_all, 1);
        request_work(database, work_notify | work_rescan | work_deliver);
    }
    lower_rows_due(database, pending.everything.level > 0 ? 0 : pending.rows_due);
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
        outbox::publish_all();
        begin_stages();
        relax_commit();
        PGJOBS_POINT("commit-before");
        break;
    case XACT_EVENT_PRE_PREPARE:
        if (pending.holds.level > 0)
            ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("cannot prepare a transaction that holds jobs for this session"),
                    errhint("Claim with a lease instead of hold => true."));
        if (pending.segments.count > 0) // COMMIT PREPARED would not tell where messages go now
            ereport(
                ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                errmsg("cannot prepare a transaction that has created, altered or dropped a topic"),
                errhint("Commit it, or do that in a transaction of its own."));
        outbox::publish_all();
        pin(); // before COMMIT PREPARED can be
        PGJOBS_POINT("prepare-pinned");
        break;
    case XACT_EVENT_PREPARE:
        PGJOBS_QUIET_POINT("prepare-done");
        frontier::announced();
        forget(); // the pin speaks for it
        break;
    case XACT_EVENT_COMMIT:
        PGJOBS_QUIET_POINT("commit-untold");
        tell();
        PGJOBS_QUIET_POINT("commit-told");
        lease::reaped();
        note_rules();
        frontier::announced();
        presence::release();
        forget();
        break;
    case XACT_EVENT_ABORT:
        PGJOBS_QUIET_POINT("abort-untold");
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
        cut(&pending.topics, level);
        cut(&pending.segments, level);
        cut(&pending.outbox, level);
        for (Mark *mark : marks)
            if (mark->level >= level)
                mark->level = 0;
        forget_own_reached();
        final_state = State::ready;
        error = nullptr;
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        merge_tallies(level);
        hand_up(&pending.events, level);
        hand_up(&pending.leases, level);
        hand_up(&pending.finished, level);
        hand_up(&pending.stages, level);
        hand_up(&pending.topics, level);
        hand_up(&pending.segments, level);
        hand_up(&pending.outbox, level);
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

// A turn of the worker: what is due, and what others have asked for.
#include "catalog.hpp"
#include "check.hpp"
#include "clock.hpp"
#include "count.hpp"
#include "duty.hpp"
#include "feed.hpp"
#include "history.hpp"
#include "inject.hpp"
#include "lease.hpp"
#include "log_end.hpp"
#include "notify.hpp"
#include "pg/spi.hpp"
#include "prepared.hpp"
#include "receipt.hpp"
#include "settings.hpp"
#include "stale.hpp"
#include "topic.hpp"
#include "wait.hpp"
#include "worker.hpp"

namespace pgjobs::process {

constexpr int64 notify_pause = 10 * 1000; // between two times: every listener wakes up for each
constexpr int64 between_checks = 60 * USECS_PER_SEC; // of the frontier
constexpr int64 between_looks = 600 * USECS_PER_SEC; // at the table, whether the lease list is
                                                     // right: that reads every open job

// ---- notifications ----

// What could not be sent is not known any more: database->notify_all says to send to everybody.
void send_notifications(Worker *worker) {
    Database *database = worker->database;
    TimestampTz now = GetCurrentTimestamp();
    if (worker->notify_due == 0 && now < worker->notified_at + notify_pause)
        worker->notify_due = worker->notified_at + notify_pause;
    if (worker->notify_due > now)
        return;
    bool more = true;
    while (more) {
        more = false;
        bool sent = duty(&worker->notify_backoff, "pgjobs: notifying", [&] {
            if (worker->notify_backoff > 0) // it failed, maybe for lack of room
                notify::make_room();
            more = notify::send(database);
        });
        worker->notify_due = sent ? 0 : GetCurrentTimestamp() + worker->notify_backoff;
        if (!sent)
            return;
        worker->notify_backoff = 0;
        worker->notified_at = GetCurrentTimestamp();
        uint32 under_way = 2; // unless something was lost meanwhile
        pg_atomic_compare_exchange_u32(&database->notify_all, &under_way, 0);
        check_for_end();
    }
}

// ---- duties ----

static setback::Jobs setbacks[4]; // large: not on the stack
static const JobDuty reaping = {"pgjobs: reaping", "job", lease::reap, &setbacks[0]};
static const JobDuty promoting = {"pgjobs: promoting", "job", duty::promote, &setbacks[1]};
static const JobDuty expiring = {"pgjobs: expiring", "job", duty::expire, &setbacks[2]};
static const JobDuty delivering = {"pgjobs: delivering messages of", "feed", feed::deliver,
                                   &setbacks[3]};

void forget_setbacks() {
    for (setback::Jobs &jobs : setbacks)
        jobs.failed.count = 0;
}

static bool keep_history(Worker *worker) {
    TimestampTz now = GetCurrentTimestamp();
    if (now < worker->history_due)
        return true;
    TimestampTz next = now + USECS_PER_DAY; // new partitions
    bool done =
        duty(&worker->backoff, "pgjobs: keeping history", [&] { history::keep(now, &next); });
    worker->history_due = done ? next : GetCurrentTimestamp() + worker->backoff;
    return done;
}

// The time at which a segment is full is known where it is published to.
static TimestampTz topics_due(const Worker *worker) {
    return Min(worker->topics_due, log_end::first_rotation(worker->database->oid));
}

static bool keep_topics(Worker *worker) {
    TimestampTz now = GetCurrentTimestamp();
    if (now < topics_due(worker))
        return true;
    TimestampTz next = never;
    bool done = duty(&worker->backoff, "pgjobs: keeping topics",
                     [&] { pg::as_owner([&] { topic::keep(now, &next); }); });
    worker->topics_due = done ? next : GetCurrentTimestamp() + worker->backoff;
    return done;
}

static void deliver(Worker *worker) {
    TimestampTz next = never;
    worker->deliver_due = never;
    if (!in_batches(worker, delivering, &next))
        next = GetCurrentTimestamp() + worker->backoff;
    worker->deliver_due = next;
}

// Only if something was claimed since the last time, and seldom if it takes long: a snapshot that
// somebody keeps open makes it walk over dead rows. Nobody is woken for it.
static bool check_frontier(Worker *worker) {
    constexpr int64 share = 200; // of the worker's time
    TimestampTz now = GetCurrentTimestamp();
    if (now < worker->check_due || pg_atomic_exchange_u32(&worker->database->claimed, 0) == 0)
        return true;
    bool done = duty(&worker->backoff, "pgjobs: checking the frontier", check::check_frontier);
    TimestampTz end = GetCurrentTimestamp();
    worker->check_due = end + Max(between_checks, share * (end - now));
    return done;
}

static bool rotate_receipts(Worker *worker) {
    TimestampTz now = GetCurrentTimestamp();
    if (now < worker->receipts_looked + USECS_PER_MINUTE && now < worker->receipts_due)
        return true;
    TimestampTz next = never;
    bool done = duty(&worker->backoff, "pgjobs: rotating receipts",
                     [&] { pg::as_owner([&] { receipt::rotate(now, &next); }); });
    worker->receipts_looked = now;
    worker->receipts_due = next;
    return done;
}

// Until all are known, claims go no further than they must.
static void look_for_prepared(Worker *worker) {
    pg_atomic_uint32 *lost = &worker->database->prepared_lost;
    if (pg_atomic_read_u32(lost) == 0)
        return;
    pg_atomic_write_u32(lost, 2);
    uint32 looking = 2;
    if (duty(&worker->backoff, "pgjobs: looking at prepared transactions",
             [] { pg::as_owner([] { prepared::find_old_ones(); }); }))
        pg_atomic_compare_exchange_u32(lost, &looking, 0);
    else
        pg_atomic_write_u32(lost, 1);
}

// Stages without figures get them as soon as nobody is in the middle of changing jobs, or of a
// VACUUM. Whoever wants to begin that waits behind us, so each try is short.
static void count_jobs(Worker *worker) {
    constexpr int patience = 20; // milliseconds
    pg_atomic_uint32 *uncounted = &worker->database->uncounted;
    uint32 wanted = pg_atomic_read_u32(uncounted);
    if (wanted == 0 || (wanted == 2 && GetCurrentTimestamp() < worker->count_due))
        return;
    pg_atomic_write_u32(uncounted, 0);
    pg::Failure failure;
    constexpr const char *activity = "pgjobs: counting jobs";
    if (attempt(activity, &failure, [] { pg::as_owner([] { count::recount(patience); }); })) {
        worker->count_due = worker->count_backoff = 0;
        return;
    }
    if (failure.sqlstate == ERRCODE_LOCK_NOT_AVAILABLE)
        worker->count_backoff =
            Min(Max(worker->count_backoff * 2, USECS_PER_SEC / 10), 10 * USECS_PER_SEC);
    else
        note_failure(&worker->count_backoff, activity, failure);
    worker->count_due = GetCurrentTimestamp() + worker->count_backoff;
    uint32 none = 0;
    pg_atomic_compare_exchange_u32(uncounted, &none, 2);
}

// Everything that can be due. What commits meanwhile lowers next_due again.
static void run_duties(Worker *worker) {
    Database *database = worker->database;
    pg_atomic_exchange_u64(&database->next_due, static_cast<uint64>(never));
    TimestampTz now = GetCurrentTimestamp();
    if (now >= worker->leases_due) {
        pg_atomic_write_u32(&database->leases_lost, 1);
        worker->leases_due = now + between_looks;
    }
    PGJOBS_POINT("worker-turn");
    look_for_prepared(worker);

    TimestampTz next = never;
    bool done = true;
    if (now < worker->truce_until)
        next = worker->truce_until;
    else
        done = in_batches(worker, reaping, &next);
    if (!done)
        pg_atomic_write_u32(&database->leases_lost, 1);
    done &= in_batches(worker, promoting, &next);
    done &= in_batches(worker, expiring, &next);
    stale::look(database, &next);
    done &= keep_history(worker);
    done &= rotate_receipts(worker);
    done &= keep_topics(worker);
    done &= check_frontier(worker);
    next = Min(next, Min(worker->receipts_due, topics_due(worker)));
    if (done)
        worker->backoff = 0;
    else
        next = Min(next, GetCurrentTimestamp() + worker->backoff);
    keep_next_due(database, Min(next, worker->history_due));
}

static bool is_due(const Worker *worker, uint32 work) {
    auto next = static_cast<TimestampTz>(pg_atomic_read_u64(&worker->database->next_due));
    return (work & (work_rescan | work_sessions | work_topics)) != 0 ||
           next <= GetCurrentTimestamp();
}

// ---- the clock ----

// Everybody looks again: what they wait for is in wall time.
static void forget_times(Worker *worker) {
    Database *database = worker->database;
    TimestampTz now = GetCurrentTimestamp();
    worker->history_due = worker->topics_due = worker->check_due = worker->leases_due = 0;
    worker->receipts_looked = worker->receipts_due = worker->notified_at = 0;
    worker->notify_due = Min(worker->notify_due, now);
    worker->count_due = Min(worker->count_due, now);
    worker->deliver_due = now;
    worker->truce_until = 0;
    worker->busy_until = now + settings::idle_exit * USECS_PER_SEC;
    forget_setbacks();
    lower_rows_due(database, 0);
    keep_next_due(database, now);
    wait::wake_all(database->oid);
}

static void look_at_clock(Worker *worker) {
    int64 jump = clock::take_jump(worker->database);
    if (jump == 0)
        return;
    forget_times(worker);
    TimestampTz now = GetCurrentTimestamp();
    if (jump < 0) {
        duty(&worker->backoff, "pgjobs: moving leases", [&] { clock::move_leases(jump, now); });
    } else {
        duty(&worker->backoff, "pgjobs: looking for the longest lease",
             [&] { worker->truce_until = clock::end_of_truce(jump, now); });
    }
    ereport(LOG,
            errmsg("pgjobs: the clock was set %s by " INT64_FORMAT " ms",
                   jump < 0 ? "back" : "forward", (jump < 0 ? -jump : jump) / 1000),
            jump < 0 ? errdetail("Leases end as much sooner.")
                     : errdetail("No lease is taken to be over for " INT64_FORMAT " ms.",
                                 Max(worker->truce_until - now, int64{0}) / 1000));
}

// ---- all of it ----

void turn(Worker *worker, bool *pins_left) {
    Database *database = worker->database;
    look_at_clock(worker);
    // While sending has to wait, its bit stays: nobody wakes this process for it meanwhile.
    uint32 waits = worker->notify_due > GetCurrentTimestamp() ? uint32{work_notify} : 0;
    uint32 work = pg_atomic_fetch_and_u32(&database->work, waits) & ~waits;
    *pins_left = false;
    pg::Failure failure;
    if (prepared::any(database->oid))
        pg::try_transaction(
            "pgjobs: prepared transactions", [&] { *pins_left = prepared::resolve(); }, &failure);
    if ((work & work_notify) != 0 || worker->notify_due != 0 ||
        pg_atomic_read_u32(&database->notify_all) != 0)
        send_notifications(worker);
    if ((work & work_topics) != 0)
        worker->topics_due = 0;
    if ((work & (work_deliver | work_rescan)) != 0 || worker->deliver_due <= GetCurrentTimestamp())
        deliver(worker);
    if (is_due(worker, work))
        run_duties(worker);
    count_jobs(worker);
    if (work != 0)
        worker->busy_until = GetCurrentTimestamp() + settings::idle_exit * USECS_PER_SEC;
}

} // namespace pgjobs::process

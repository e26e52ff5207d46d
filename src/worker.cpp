// The worker of one database: reaps, promotes, expires, keeps the history, sends notifications. It
// sleeps until exactly the next thing is due and exits when there is nothing to stay for.
#include "catalog.hpp"
#include "check.hpp"
#include "count.hpp"
#include "duty.hpp"
#include "feed.hpp"
#include "history.hpp"
#include "inject.hpp"
#include "lease.hpp"
#include "notify.hpp"
#include "pg/spi.hpp"
#include "prepared.hpp"
#include "process.hpp"
#include "receipt.hpp"
#include "setback.hpp"
#include "settings.hpp"
#include "shared.hpp"
#include "stale.hpp"
#include "topic.hpp"

namespace pgjobs::process {

constexpr int64 longest_backoff = 60 * USECS_PER_SEC;
constexpr int64 longest_singly = USECS_PER_SEC; // jobs of a batch that failed, in one go
constexpr int most_logged = 10;                 // of them, by name
constexpr int64 notify_pause = 10 * 1000; // between two times: every listener wakes up for each
constexpr int64 between_checks = 60 * USECS_PER_SEC; // of the frontier
constexpr int64 between_looks = 600 * USECS_PER_SEC; // at the table, whether the lease list is
                                                     // right: that reads every open job

struct Worker {
    Database *database;
    uint32 epoch;                // of the extension when this worker began
    TimestampTz history_due;     // when the partitions are looked at next
    TimestampTz topics_looked;   // when the topics were looked at last
    TimestampTz topics_due;      // when they are to be looked at next
    TimestampTz deliver_due;     // when messages are to be delivered; never: when somebody calls
    TimestampTz check_due;       // when the frontier may be checked next
    TimestampTz receipts_looked; // when the receipts were looked at last
    TimestampTz receipts_due;    // when they are to be looked at next
    TimestampTz leases_due;      // when the lease list is checked next
    TimestampTz busy_until;      // stay at least until then
    int64 backoff;               // after an error; 0 without
    int64 notify_backoff;        // the same for notifications
    TimestampTz notify_due;      // sending has to wait until then; 0 otherwise
    TimestampTz notified_at;     // when notifications were sent last
    int64 count_backoff;         // the same for counting jobs
    TimestampTz count_due;       // it was not possible: tried again then; 0 otherwise
};

// ---- coming and going ----

static Database *my_database; // whose place this process has taken
static bool in_the_middle;    // of its duties: whoever ends it now leaves something undone

// Runs after this process has left the process array: who waits for that may go on. What it had
// taken on and not finished, the next worker looks for.
static void leave(int, Datum) {
    if (my_database == nullptr)
        return;
    if (in_the_middle) {
        pg_atomic_write_u32(&my_database->leases_lost, 1);
        pg_atomic_write_u32(&my_database->prepared_lost, 1);
        pg_atomic_write_u32(&my_database->uncounted, 1);
        keep_next_due(my_database, GetCurrentTimestamp());
        pg_atomic_fetch_or_u32(&my_database->work, work_notify | work_rescan | work_deliver);
    }
    pg_atomic_write_u32(&my_database->worker, 0);
    pg_atomic_write_u32(&my_database->worker_pid, 0);
    pg_atomic_fetch_add_u32(&shared->exits, 1);
    wake_process(pg_atomic_read_u32(&shared->launcher));
}

// False: there is a worker already, or somebody needs the database for himself.
static bool take_place(Oid oid) {
    Database *database = find_database(oid);
    if (database == nullptr)
        return false;
    bool taken = pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        if (database->oid != oid || database->held_by != 0 ||
            pg_atomic_read_u32(&database->worker_pid) != 0)
            return false;
        pg_atomic_write_u32(&database->worker_pid, static_cast<uint32>(MyProcPid));
        return true;
    });
    if (taken)
        my_database = database;
    return taken;
}

// Whatever the database's or role's settings are, the duties go on.
// The lock timeout is well below deadlock_timeout: DROP EXTENSION must not be the one to give way.
static void settle_settings() {
    static const char *const values[][2] = {{"statement_timeout", "0"},
                                            {"lock_timeout", "100ms"},
                                            {"idle_in_transaction_session_timeout", "0"},
                                            {"default_transaction_isolation", "read committed"},
                                            {"default_transaction_deferrable", "off"},
                                            {"synchronous_commit", "off"},
                                            {"row_security", "on"},
                                            {"jit", "off"},
                                            {"application_name", "pgjobs worker"}};
    for (const auto &value : values)
        SetConfigOption(value[0], value[1], PGC_SUSET, PGC_S_OVERRIDE);
    pg::disable_transaction_timeout();
}

// False: it could not be found out.
static bool look_for_extension(bool *here) {
    pg::Failure failure;
    bool done = pg::try_transaction(
        "pgjobs: looking for the extension", [&] { *here = extension_exists(); }, &failure);
    if (!done)
        ereport(LOG, errmsg("pgjobs could not look for its extension: %s", failure.message));
    return done;
}

// The epoch moves when a DROP EXTENSION commits, and that is told before the invalidation messages
// are out, so that the worker may still see the extension. But its locks are held until they are.
static bool look_after_drop(bool *here) {
    pg::Failure failure;
    return pg::try_transaction(
        "pgjobs: looking for the extension",
        [&] {
            if (extension_exists())
                LockRelationOid(relations()->job, AccessShareLock);
            *here = extension_exists();
        },
        &failure);
}

// Whether the extension was dropped under our feet: this process will see that and leave.
static bool extension_gone() {
    bool here = true;
    return look_for_extension(&here) && !here;
}

// Runs `body` in a transaction as the extension's owner, restricted.
template <class F> static bool attempt(const char *activity, pg::Failure *failure, F body) {
    return pg::try_transaction(
        activity,
        [&] {
            SetUserIdAndSecContext(relations()->owner,
                                   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
            body();
            SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
        },
        failure);
}

static void note_failure(int64 *backoff, const char *activity, const pg::Failure &failure) {
    *backoff = *backoff == 0 ? USECS_PER_SEC / 10 : Min(*backoff * 2, longest_backoff);
    if (extension_gone())
        return;
    ereport(LOG, errmsg("%s failed: %s", activity, failure.message),
            errdetail("SQLSTATE %s; tried again in " INT64_FORMAT " ms.",
                      unpack_sql_state(failure.sqlstate), *backoff / 1000));
}

// The same as attempt(); logs what goes wrong.
template <class F> static bool duty(int64 *backoff, const char *activity, F body) {
    pg::Failure failure;
    bool done = attempt(activity, &failure, body);
    if (!done)
        note_failure(backoff, activity, failure);
    return done;
}

// Ends this process if somebody asked for that. A cancel has nothing to cancel between
// transactions.
static void check_for_end() {
    QueryCancelPending = false;
    CHECK_FOR_INTERRUPTS();
}

// `arrivals` is from before the look: an extension that came since then is not told to be absent.
static void tell_presence(Database *database, bool here, uint32 arrivals) {
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        if (!here && database->arrivals != arrivals)
            return;
        database->installed = here;
        database->probed = true;
        database->failures = 0;
        database->retry_at = 0;
    });
    wake_process(pg_atomic_read_u32(&shared->launcher)); // the next database's turn
}

// ---- duties ----

// What could not be sent is not known any more: database->notify_all says to send to everybody.
static void send_notifications(Worker *worker) {
    Database *database = worker->database;
    TimestampTz now = GetCurrentTimestamp();
    if (worker->notify_due == 0 && now < worker->notified_at + notify_pause)
        worker->notify_due = worker->notified_at + notify_pause;
    if (worker->notify_due > now)
        return;
    bool more = true;
    while (more) {
        more = false;
        bool sent = duty(&worker->notify_backoff, "pgjobs: notifying",
                         [&] { more = notify::send(database); });
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

// ---- jobs that fail ----

// A duty that works off jobs, or something like them, in batches. `step` has the contract of
// duty::promote.
struct JobDuty {
    const char *activity;
    const char *thing; // what it works off
    int64 (*step)(TimestampTz now, bool *more, TimestampTz *next);
    setback::Jobs *jobs;
};

// One transaction of the duty: a batch, or the job `only`. `done` is how many jobs it changed.
static bool try_step(const JobDuty &duty, int64 only, bool *more, TimestampTz *next, int64 *done,
                     pg::Failure *failure) {
    *more = false;
    *done = 0;
    setback::begin(duty.jobs, only);
    bool good = attempt(duty.activity, failure, [&] {
        // Not long: others are waiting, and this job is tried again.
        if (only != 0)
            set_config_option("lock_timeout", "10ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
                              true, 0, false);
        *done = duty.step(GetCurrentTimestamp(), more, next);
    });
    setback::end();
    return good;
}

static void serve_between(Worker *worker) {
    if ((pg_atomic_fetch_and_u32(&worker->database->work, ~uint32{work_notify}) & work_notify) != 0)
        send_notifications(worker);
    check_for_end();
}

static void log_failed(const JobDuty &duty, int64 job, const pg::Failure &failure) {
    ereport(LOG,
            errmsg("%s %s " INT64_FORMAT " failed: %s", duty.activity, duty.thing, job,
                   failure.message),
            errdetail("SQLSTATE %s; the %s is passed over and tried again, at least once a minute.",
                      unpack_sql_state(failure.sqlstate), duty.thing));
}

// The jobs of a batch that failed, each in a transaction of its own: those that fail alone too are
// passed over from now on. Not for longer than a second: the other duties wait. False if that has
// changed nothing.
static bool one_by_one(Worker *worker, const JobDuty &duty, TimestampTz *next) {
    int count = duty.jobs->count;
    if (count == 0 || extension_gone())
        return false;
    auto *jobs = static_cast<int64 *>(palloc(sizeof(int64) * count));
    memcpy(jobs, duty.jobs->suspects, sizeof(int64) * count);
    TimestampTz end = GetCurrentTimestamp() + longest_singly;
    bool changed = false;
    int failures = 0;
    for (int i = 0; i < count && GetCurrentTimestamp() < end; i++) {
        if (duty.jobs->failed.has(jobs[i])) // twice among the suspects
            continue;
        pg::Failure failure;
        bool more;
        int64 done;
        if (try_step(duty, jobs[i], &more, next, &done, &failure)) {
            changed |= done > 0;
        } else if (duty.jobs->failed.note(jobs[i], GetCurrentTimestamp())) {
            changed = true;
            if (++failures <= most_logged)
                log_failed(duty, jobs[i], failure);
        }
        serve_between(worker);
    }
    if (failures > most_logged)
        ereport(LOG, errmsg("%s failed for %d more %ss", duty.activity, failures - most_logged,
                            duty.thing));
    return changed;
}

// Jobs that have failed and whose time has come: those that succeed are no special ones any more.
static void try_again(Worker *worker, const JobDuty &duty, TimestampTz *next) {
    core::Setbacks *failed = &duty.jobs->failed;
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz end = now + longest_singly;
    for (int i = 0; i < failed->count && GetCurrentTimestamp() < end;) {
        int64 job = failed->list[i].job;
        if (failed->list[i].again > now) {
            i++;
            continue;
        }
        pg::Failure failure;
        bool more;
        int64 done;
        if (try_step(duty, job, &more, next, &done, &failure))
            failed->forget(job);
        else
            failed->note(job, GetCurrentTimestamp());
        serve_between(worker);
    }
    *next = Min(*next, failed->next(never));
}

// Repeats a batched duty until nothing is due, with notifications in between.
static bool in_batches(Worker *worker, const JobDuty &duty, TimestampTz *next) {
    bool more = true;
    while (more) {
        pg::Failure failure;
        int64 done;
        if (!try_step(duty, 0, &more, next, &done, &failure)) {
            if (!one_by_one(worker, duty, next)) {
                note_failure(&worker->backoff, duty.activity, failure);
                return false;
            }
            more = false;
            *next = GetCurrentTimestamp(); // go on, but after the other duties
        }
        serve_between(worker);
    }
    try_again(worker, duty, next);
    return true;
}

static setback::Jobs setbacks[4]; // large: not on the stack
static const JobDuty reaping = {"pgjobs: reaping", "job", lease::reap, &setbacks[0]};
static const JobDuty promoting = {"pgjobs: promoting", "job", duty::promote, &setbacks[1]};
static const JobDuty expiring = {"pgjobs: expiring", "job", duty::expire, &setbacks[2]};
static const JobDuty delivering = {"pgjobs: delivering messages of", "feed", feed::deliver,
                                   &setbacks[3]};

// ---- all of them ----

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

// A segment that is written to the first time is due later; how much, the publisher says.
static bool keep_topics(Worker *worker) {
    TimestampTz now = GetCurrentTimestamp();
    if (now < worker->topics_due && now < worker->topics_looked + USECS_PER_SEC) {
        worker->topics_due = Min(worker->topics_due, worker->topics_looked + USECS_PER_SEC);
        return true;
    }
    TimestampTz next = never;
    bool done = duty(&worker->backoff, "pgjobs: keeping topics",
                     [&] { pg::as_owner([&] { topic::keep(now, &next); }); });
    worker->topics_looked = now;
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
    bool done = in_batches(worker, reaping, &next);
    if (!done)
        pg_atomic_write_u32(&database->leases_lost, 1);
    done &= in_batches(worker, promoting, &next);
    done &= in_batches(worker, expiring, &next);
    stale::look(database, &next);
    done &= keep_history(worker);
    done &= rotate_receipts(worker);
    done &= keep_topics(worker);
    done &= check_frontier(worker);
    next = Min(next, Min(worker->receipts_due, worker->topics_due));
    if (done)
        worker->backoff = 0;
    else
        next = Min(next, GetCurrentTimestamp() + worker->backoff);
    keep_next_due(database, Min(next, worker->history_due));
}

static bool is_due(const Worker *worker, uint32 work) {
    auto next = static_cast<TimestampTz>(pg_atomic_read_u64(&worker->database->next_due));
    return (work & (work_rescan | work_sessions)) != 0 || next <= GetCurrentTimestamp();
}

// ---- staying ----

static bool holds_leases(Oid database) {
    bool held = false;
    LWLockAcquire(shared->leases_lock, LW_SHARED);
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, leases);
    while (auto *lease = static_cast<Lease *>(hash_seq_search(&scan)))
        held |= lease->key.database == database && lease->session != 0;
    LWLockRelease(shared->leases_lock);
    return held;
}

static bool may_leave(const Worker *worker, TimestampTz now) {
    Database *database = worker->database;
    int64 idle = settings::idle_exit * USECS_PER_SEC;
    auto next = static_cast<TimestampTz>(pg_atomic_read_u64(&database->next_due));
    return now >= worker->busy_until && worker->notify_due == 0 && worker->count_due == 0 &&
           worker->deliver_due == never && pg_atomic_read_u32(&database->waiters) == 0 &&
           (next == never || next - now > idle) && !holds_leases(database->oid);
}

// Gives up the place; false if work has come in the same moment.
static bool give_up_place(Database *database) {
    pg_atomic_write_u32(&database->worker, 0);
    pg_memory_barrier(); // from here on, request_work wakes the launcher
    if (pg_atomic_read_u32(&database->work) == 0)
        return true;
    pg_atomic_write_u32(&database->worker, static_cast<uint32>(pg::my_procno()) + 1);
    return false;
}

// How long to sleep, in milliseconds; -1 without an end.
static long time_to_sleep(const Worker *worker, bool pins_left) {
    TimestampTz now = GetCurrentTimestamp();
    auto next = static_cast<TimestampTz>(pg_atomic_read_u64(&worker->database->next_due));
    TimestampTz until = Min(next, Max(worker->busy_until, now + USECS_PER_SEC));
    if (now >= worker->busy_until && !may_leave(worker, now))
        until = next; // whoever keeps us here will wake us
    if (pins_left)
        until = Min(until, now + USECS_PER_SEC);
    if (worker->notify_due != 0)
        until = Min(until, worker->notify_due);
    if (worker->count_due != 0)
        until = Min(until, worker->count_due);
    until = Min(until, worker->deliver_due);
    if (until == never)
        return -1;
    // Rounded up: waking a moment too early would only mean to wait once more.
    return Min(TimestampDifferenceMilliseconds(now, until), 3600 * 1000L);
}

static void sleep_until_due(const Worker *worker, bool pins_left) {
    long wait = time_to_sleep(worker, pins_left);
    int flags = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait >= 0 ? WL_TIMEOUT : 0);
    WaitLatch(MyLatch, flags, wait, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    check_for_end();
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
    }
}

static void turn(Worker *worker, bool *pins_left) {
    Database *database = worker->database;
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
    if ((work & (work_deliver | work_rescan)) != 0 || worker->deliver_due <= GetCurrentTimestamp())
        deliver(worker);
    if (is_due(worker, work))
        run_duties(worker);
    count_jobs(worker);
    if (work != 0)
        worker->busy_until = GetCurrentTimestamp() + settings::idle_exit * USECS_PER_SEC;
}

// Somebody has frozen this database: nothing is written until that ends.
static bool is_read_only(Database *database) {
    if (!DefaultXactReadOnly)
        return false;
    pg::locked(shared->databases_lock, LW_EXCLUSIVE,
               [&] { database->retry_at = GetCurrentTimestamp() + 60 * USECS_PER_SEC; });
    return true;
}

static void work_until_idle(Worker *worker) {
    Database *database = worker->database;
    MemoryContext context =
        AllocSetContextCreate(TopMemoryContext, "pgjobs worker", ALLOCSET_DEFAULT_SIZES);
    for (;;) {
        MemoryContextSwitchTo(context);
        uint32 epoch = pg_atomic_read_u32(&database->epoch);
        bool here = true;
        if (epoch != worker->epoch && look_after_drop(&here)) {
            worker->epoch = epoch;
            for (setback::Jobs &jobs : setbacks)
                jobs.failed.count = 0; // another extension, other jobs
        }
        if (!here || !database->listed)
            return;
        bool pins_left;
        turn(worker, &pins_left);
        MemoryContextReset(context);
        if (!pins_left && may_leave(worker, GetCurrentTimestamp()) && give_up_place(database))
            return;
        sleep_until_due(worker, pins_left);
    }
}

} // namespace pgjobs::process

extern "C" PGDLLEXPORT void pgjobs_worker_main(Datum argument);

void pgjobs_worker_main(Datum argument) {
    using namespace pgjobs; // the server calls this by name, outside of any namespace
    Oid oid = DatumGetObjectId(argument);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    // Before the connection, so that it runs after the connection has ended.
    on_shmem_exit(process::leave, 0);
    if (!process::take_place(oid))
        proc_exit(0);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
    process::settle_settings();

    Database *database = process::my_database;
    process::Worker worker{};
    worker.database = database;
    worker.epoch = pg_atomic_read_u32(&database->epoch);
    uint32 arrivals =
        pg::locked(shared->databases_lock, LW_SHARED, [&] { return database->arrivals; });
    bool here = false;
    if (!process::look_for_extension(&here))
        proc_exit(0); // the launcher tries again
    process::tell_presence(database, here, arrivals);
    if (!here || process::is_read_only(database))
        proc_exit(0);
    // What was due before this process came is looked at now.
    keep_next_due(database, GetCurrentTimestamp());
    pg_atomic_write_u32(&database->worker, static_cast<uint32>(pg::my_procno()) + 1);
    pg_memory_barrier();
    process::in_the_middle = true;
    process::work_until_idle(&worker);
    process::in_the_middle = false;
    proc_exit(0);
}

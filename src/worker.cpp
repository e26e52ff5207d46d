// The worker of one database: its process. It sleeps until exactly the next thing is due and exits
// when there is nothing to stay for.
#include "worker.hpp"

#include "clock.hpp"
#include "process.hpp"
#include "settings.hpp"

namespace pgjobs::process {

constexpr int64 longest_backoff = 60 * USECS_PER_SEC;

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
        lower_rows_due(my_database, 0);
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

// ---- for duties ----

bool extension_gone() {
    bool here = true;
    return look_for_extension(&here) && !here;
}

void note_failure(int64 *backoff, const char *activity, const pg::Failure &failure) {
    *backoff = *backoff == 0 ? USECS_PER_SEC / 10 : Min(*backoff * 2, longest_backoff);
    if (extension_gone())
        return;
    ereport(LOG, errmsg("%s failed: %s", activity, failure.message),
            errdetail("SQLSTATE %s; tried again in " INT64_FORMAT " ms.",
                      unpack_sql_state(failure.sqlstate), *backoff / 1000));
}

void check_for_end() {
    QueryCancelPending = false;
    CHECK_FOR_INTERRUPTS();
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

constexpr long long_sleep = 1000; // ms

static void sleep_until_due(const Worker *worker, bool pins_left) {
    long time = time_to_sleep(worker, pins_left);
    if (time < 0 || time >= long_sleep) // autovacuum goes by what the last batch has changed, too
        pg::report_statistics();
    clock::sleep(time);
    ResetLatch(MyLatch);
    check_for_end();
    settings::reload_if_told();
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
            forget_setbacks();
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

// The launcher: learns which databases have the extension and starts a worker where something is
// due. It connects to the shared catalogs only and runs no SQL.
#include "clock.hpp"
#include "core/version.hpp"
#include "inject.hpp"
#include "process.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace pgjobs::process {

constexpr TimestampTz head_start = USECS_PER_SEC; // a worker starts this long before it is needed
constexpr int64 longest_retry = 60 * USECS_PER_SEC;

// ---- databases ----

static bool is_listed(const char *name) {
    if (settings::databases == nullptr || settings::databases[0] == '\0')
        return true;
    char *raw = pstrdup(settings::databases);
    List *names;
    if (!SplitIdentifierString(raw, ',', &names))
        return false;
    ListCell *cell;
    foreach (cell, names)
        if (strcmp(static_cast<char *>(lfirst(cell)), name) == 0)
            return true;
    return false;
}

static void take_listing(List *present, List *listed) {
    for (int i = 0; i < settings::max_databases; i++) {
        Database *database = &databases[i];
        Oid oid = database->oid;
        bool is_there = list_member_oid(present, oid);
        bool is_wanted = list_member_oid(listed, oid);
        bool unwanted = pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
            if (database->oid != oid)
                return false;
            if (!is_there)
                database->oid = InvalidOid;
            bool was_wanted = database->listed;
            database->listed = is_wanted;
            return was_wanted && !is_wanted;
        });
        if (unwanted) // its worker may have read the configuration before this process, and sleep
            wake_process(pg_atomic_read_u32(&database->worker));
    }
}

// Databases in which a worker found no extension: they need no place, and one that gets the
// extension takes one itself. And whether some database still waits for a place.
static List *absent;
static bool short_of_places;

// Gives up the place of a database without the extension, if nobody uses it; its oid.
static Oid free_place(Database *database) {
    return pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&]() -> Oid {
        Oid oid = database->oid;
        if (!OidIsValid(oid) || !database->probed || database->installed ||
            database->held_by != 0 || pg_atomic_read_u32(&database->worker_pid) != 0 ||
            pg_atomic_read_u32(&database->waiters) != 0)
            return InvalidOid;
        database->oid = InvalidOid;
        return oid;
    });
}

static void free_places() {
    for (int i = 0; i < settings::max_databases; i++) {
        Oid oid = free_place(&databases[i]);
        if (!OidIsValid(oid))
            continue;
        pg::in_context(TopMemoryContext, [&] { absent = list_append_unique_oid(absent, oid); });
        if (short_of_places)
            pg_atomic_fetch_or_u32(&shared->rescan, rescan_new);
    }
}

static bool all_places_needed() {
    return pg::locked(shared->databases_lock, LW_SHARED, [] {
        for (int i = 0; i < settings::max_databases; i++)
            if (!databases[i].installed)
                return false;
        return true;
    });
}

// What a worker has to look into; those that find no place wait until others have been looked into.
static void give_places(List *listed) {
    short_of_places = false;
    ListCell *cell;
    foreach (cell, listed) {
        Oid oid = lfirst_oid(cell);
        if (list_member_oid(absent, oid) && find_database(oid) == nullptr)
            continue;
        absent = list_delete_oid(absent, oid);
        short_of_places |= find_or_add_database(oid) == nullptr;
    }
    if (short_of_places && all_places_needed())
        ereport(
            LOG,
            errmsg("pgjobs looks after %d databases and cannot take more", settings::max_databases),
            errhint("Raise pgjobs.max_databases or list databases in pgjobs.databases."));
}

static void forget_dropped(List *present) {
    List *kept = NIL;
    ListCell *cell;
    foreach (cell, absent)
        if (list_member_oid(present, lfirst_oid(cell)))
            kept = pg::in_context(TopMemoryContext,
                                  [&] { return lappend_oid(kept, lfirst_oid(cell)); });
    list_free(absent);
    absent = kept;
}

// Gives every wanted database a place; a worker will look into the new ones.
static void list_databases() {
    List *present = NIL;
    List *listed = NIL;
    Relation relation = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
    while (HeapTuple tuple = heap_getnext(scan, ForwardScanDirection)) {
        auto *row = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
        present = lappend_oid(present, row->oid);
        if (row->datallowconn && !row->datistemplate && is_listed(NameStr(row->datname)))
            listed = lappend_oid(listed, row->oid);
    }
    table_endscan(scan);
    table_close(relation, AccessShareLock);
    forget_dropped(present);
    give_places(listed);
    take_listing(present, listed);
}

// ---- starting workers ----

static bool start_worker(const Database *database) {
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_main_arg = ObjectIdGetDatum(database->oid);
    worker.bgw_notify_pid = MyProcPid;
    strlcpy(worker.bgw_library_name, "pgjobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "pgjobs_worker_main", sizeof(worker.bgw_function_name));
    snprintf(worker.bgw_name, BGW_MAXLEN, "pgjobs worker for database %u", database->oid);
    strlcpy(worker.bgw_type, "pgjobs worker", sizeof(worker.bgw_type));
    return RegisterDynamicBackgroundWorker(&worker, nullptr);
}

// Each start that comes to nothing doubles the wait before the next.
static TimestampTz retry_time(int failures, TimestampTz now) {
    int64 wait = 100 * 1000;
    for (int i = 0; i < failures && wait < longest_retry; i++)
        wait *= 2;
    return now + Min(wait, longest_retry);
}

static bool needs_worker(const Database *database, TimestampTz now, TimestampTz *next) {
    if (!OidIsValid(database->oid) || !database->listed || database->held_by != 0 ||
        (database->probed && !database->installed) ||
        pg_atomic_read_u32(const_cast<pg_atomic_uint32 *>(&database->worker_pid)) != 0)
        return false;
    auto due = static_cast<TimestampTz>(
        pg_atomic_read_u64(const_cast<pg_atomic_uint64 *>(&database->next_due)));
    bool wanted = !database->probed || due - head_start <= now ||
                  (due != never && clock::has_jumped(database)) ||
                  pg_atomic_read_u32(const_cast<pg_atomic_uint32 *>(&database->work)) != 0;
    if (!wanted) {
        *next = due == never ? *next : Min(*next, due - head_start);
        return false;
    }
    if (database->retry_at > now && database->retry_at <= now + longest_retry) {
        *next = Min(*next, database->retry_at);
        return false;
    }
    return true;
}

static void log_refusal(TimestampTz now) {
    static TimestampTz last;
    if (now - last < 60 * USECS_PER_SEC)
        return;
    last = now;
    ereport(LOG, errmsg("pgjobs could not start a worker: all background worker slots are in use"),
            errhint("Raise max_worker_processes."));
}

// Those that found no free slot need not wait out their back-off when one of our workers has left.
static void forgive_refused() {
    static uint32 seen;
    uint32 exits = pg_atomic_read_u32(&shared->exits);
    if (exits == seen)
        return;
    seen = exits;
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [] {
        for (int i = 0; i < settings::max_databases; i++)
            if (databases[i].refused) {
                databases[i].refused = false;
                databases[i].failures = 0;
                databases[i].retry_at = 0;
            }
    });
}

static void note_refusal(Database *database) {
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] { database->refused = true; });
    log_refusal(GetCurrentTimestamp());
}

// Starts what is needed; returns when to look again. A start that has not shown up by retry_at is
// tried again. Databases that nobody has looked into yet come one at a time.
static TimestampTz start_workers(TimestampTz now) {
    TimestampTz next = never;
    bool probing = false;
    forgive_refused();
    for (int i = 0; i < settings::max_databases; i++) {
        Database *database = &databases[i];
        bool start = pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
            if (!needs_worker(database, now, &next) || (probing && !database->probed))
                return false;
            probing |= !database->probed;
            database->refused = false;
            database->retry_at = retry_time(database->failures++, now);
            next = Min(next, database->retry_at);
            return true;
        });
        if (!start)
            continue;
        PGJOBS_POINT("launcher-start");
        if (!start_worker(database))
            note_refusal(database);
    }
    return next;
}

// ---- the loop ----

static void leave(int, Datum) { pg_atomic_write_u32(&shared->launcher, 0); }

static TimestampTz turn() {
    free_places();
    // Again, if that gave new places.
    while (uint32 rescan = pg_atomic_exchange_u32(&shared->rescan, 0)) {
        if ((rescan & rescan_all) != 0) {
            list_free(absent);
            absent = NIL;
        }
        pg::Failure failure;
        if (!pg::try_transaction(
                "pgjobs: listing databases", [] { list_databases(); }, &failure)) {
            ereport(LOG, errmsg("pgjobs could not list databases: %s", failure.message));
            pg_atomic_fetch_or_u32(&shared->rescan, rescan_new);
            return GetCurrentTimestamp() + USECS_PER_SEC;
        }
    }
    return start_workers(GetCurrentTimestamp());
}

static void check_server_version() {
    const char *version = GetConfigOption("server_version_num", false, false);
    if (!core::has_notify_repairs(static_cast<int32>(strtol(version, nullptr, 10))))
        ereport(LOG, errmsg("this minor release of the server has known faults in NOTIFY"),
                errhint("Update to the newest minor release of your version."));
}

} // namespace pgjobs::process

extern "C" PGDLLEXPORT void pgjobs_launcher_main(Datum);

void pgjobs_launcher_main(Datum) {
    using namespace pgjobs; // the server calls this by name, outside of any namespace
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    pqsignal(SIGINT, SIG_IGN); // it runs nothing that could be cancelled
    BackgroundWorkerUnblockSignals();
    on_shmem_exit(process::leave, 0);
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
    uint64 never_before = 0;
    pg_atomic_compare_exchange_u64(&shared->writable_since, &never_before,
                                   static_cast<uint64>(GetCurrentTimestamp()));
    pg_atomic_write_u32(&shared->launcher, static_cast<uint32>(pg::my_procno()) + 1);
    pg_atomic_fetch_or_u32(&shared->rescan, rescan_new);
    process::check_server_version();
    MemoryContext context =
        AllocSetContextCreate(TopMemoryContext, "pgjobs launcher", ALLOCSET_DEFAULT_SIZES);
    for (;;) {
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
        if (settings::reload_if_told()) // pgjobs.databases may have changed
            pg_atomic_fetch_or_u32(&shared->rescan, rescan_new);
        MemoryContextSwitchTo(context);
        TimestampTz next = process::turn();
        MemoryContextReset(context);
        clock::sleep(
            next == never
                ? -1
                : Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next), 3600 * 1000L));
    }
}

namespace pgjobs::process {

void register_launcher() {
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = 1; // second
    strlcpy(worker.bgw_library_name, "pgjobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "pgjobs_launcher_main", sizeof(worker.bgw_function_name));
    strlcpy(worker.bgw_name, "pgjobs launcher", sizeof(worker.bgw_name));
    strlcpy(worker.bgw_type, "pgjobs launcher", sizeof(worker.bgw_type));
    RegisterBackgroundWorker(&worker);
}

} // namespace pgjobs::process

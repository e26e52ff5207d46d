#include "shared.hpp"

#include "settings.hpp"

namespace pgjobs {

Shared *shared;
Database *databases;
Event *events;
char *announcements;
QueueHints *queue_hints;
StageHints *stage_hints;
StageScan *stage_scans;
TopicEnd *topic_ends;
Publisher *publishers;
pg_atomic_uint32 *announcers;
pg_atomic_uint32 *reapers;
HTAB *leases;
Waiter *waiters;
pg_atomic_uint64 *holders;
Pin *pins;

static shmem_request_hook_type previous_request;
static shmem_startup_hook_type previous_startup;

static int process_count() { return MaxBackends + NUM_AUXILIARY_PROCS; }
static int pin_count() { return max_prepared_xacts; }

static Size bytes(Size size, int count) { return mul_size(size, Max(count, 1)); }

static void request() {
    if (previous_request)
        previous_request();
    RequestAddinShmemSpace(MAXALIGN(sizeof(Shared)));
    RequestAddinShmemSpace(bytes(sizeof(Database), settings::max_databases));
    RequestAddinShmemSpace(bytes(sizeof(Event) * settings::event_buffer, settings::max_databases));
    RequestAddinShmemSpace(
        bytes(size_t{bytes_per_text} * settings::event_buffer, settings::max_databases));
    RequestAddinShmemSpace(bytes(sizeof(QueueHints), settings::max_queues));
    RequestAddinShmemSpace(bytes(sizeof(StageHints), settings::max_queues));
    RequestAddinShmemSpace(bytes(sizeof(StageScan), process_count()));
    RequestAddinShmemSpace(bytes(sizeof(TopicEnd), settings::max_topics));
    RequestAddinShmemSpace(bytes(sizeof(Publisher), process_count()));
    RequestAddinShmemSpace(bytes(sizeof(pg_atomic_uint32), process_count()));
    RequestAddinShmemSpace(bytes(sizeof(pg_atomic_uint32), process_count()));
    RequestAddinShmemSpace(hash_estimate_size(settings::max_leases, sizeof(Lease)));
    RequestAddinShmemSpace(bytes(sizeof(Waiter), process_count()));
    RequestAddinShmemSpace(bytes(sizeof(pg_atomic_uint64), process_count()));
    RequestAddinShmemSpace(bytes(sizeof(Pin), pin_count()));
    RequestNamedLWLockTranche("pgjobs", 6);
}

static void set_up_databases() {
    for (int i = 0; i < settings::max_databases; i++) {
        Database *database = &databases[i];
        memset(database, 0, sizeof(Database));
        pg_atomic_init_u32(&database->worker, 0);
        pg_atomic_init_u32(&database->worker_pid, 0);
        pg_atomic_init_u32(&database->work, 0);
        pg_atomic_init_u64(&database->next_due, never);
        pg_atomic_init_u32(&database->waiters, 0);
        pg_atomic_init_u32(&database->epoch, 0);
        pg_atomic_init_u32(&database->leases_lost, 1);
        pg_atomic_init_u32(&database->prepared_lost, 1);
        pg_atomic_init_u32(&database->claimed, 0);
        pg_atomic_init_u32(&database->notify_all, 1); // whoever listened before must look once
        pg_atomic_init_u32(&database->uncounted, 1);
        pg_atomic_init_u64(&database->rows_due, 0);
        pg_atomic_init_u32(&database->row_reaper, 0);
        pg_atomic_init_u64(&database->looked_wall, 0);
        pg_atomic_init_u64(&database->looked_at, 0);
    }
}

static void set_up_shared() {
    LWLockPadded *tranche = GetNamedLWLockTranche("pgjobs");
    shared->databases_lock = &tranche[0].lock;
    shared->events_lock = &tranche[1].lock;
    shared->leases_lock = &tranche[2].lock;
    shared->waiters_lock = &tranche[3].lock;
    shared->stages_lock = &tranche[4].lock;
    shared->topics_lock = &tranche[5].lock;
    pg_atomic_init_u32(&shared->pins_used, 0);
    if (!pg_strong_random(&shared->epoch, sizeof(shared->epoch)))
        elog(FATAL, "pgjobs could not get random bytes");
    pg_atomic_init_u32(&shared->launcher, 0);
    pg_atomic_init_u32(&shared->rescan, rescan_new);
    pg_atomic_init_u32(&shared->exits, 0);
    pg_atomic_init_u64(&shared->sessions, 0);
    pg_atomic_init_u64(&shared->tickets, 0);
    pg_atomic_init_u64(&shared->writable_since, 0);
    for (pg_atomic_uint64 &spot : shared->spots)
        pg_atomic_init_u64(&spot, 0);
    shared->pins = pin_count();
    shared->procs = process_count();
}

template <class T> static T *array(const char *name, Size size, int count, bool *found) {
    T *memory = static_cast<T *>(ShmemInitStruct(name, bytes(size, count), found));
    if (!*found)
        memset(static_cast<void *>(memory), 0, bytes(size, count));
    return memory;
}

static void startup() {
    if (previous_startup)
        previous_startup();
    bool found;
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    shared = array<Shared>("pgjobs", sizeof(Shared), 1, &found);
    if (!found)
        set_up_shared();
    databases =
        array<Database>("pgjobs databases", sizeof(Database), settings::max_databases, &found);
    if (!found)
        set_up_databases();
    events = array<Event>("pgjobs events", sizeof(Event) * settings::event_buffer,
                          settings::max_databases, &found);
    announcements =
        array<char>("pgjobs announcements", size_t{bytes_per_text} * settings::event_buffer,
                    settings::max_databases, &found);
    queue_hints =
        array<QueueHints>("pgjobs queues", sizeof(QueueHints), settings::max_queues, &found);
    waiters = array<Waiter>("pgjobs waiters", sizeof(Waiter), process_count(), &found);
    holders = array<pg_atomic_uint64>("pgjobs holders", sizeof(pg_atomic_uint64), process_count(),
                                      &found);
    if (!found)
        for (int i = 0; i < process_count(); i++)
            pg_atomic_init_u64(&holders[i], 0);
    stage_hints =
        array<StageHints>("pgjobs stages", sizeof(StageHints), settings::max_queues, &found);
    if (!found)
        for (int i = 0; i < settings::max_queues; i++)
            SpinLockInit(&stage_hints[i].lock);
    stage_scans = array<StageScan>("pgjobs scans", sizeof(StageScan), process_count(), &found);
    topic_ends = array<TopicEnd>("pgjobs topics", sizeof(TopicEnd), settings::max_topics, &found);
    if (!found)
        for (int i = 0; i < settings::max_topics; i++)
            SpinLockInit(&topic_ends[i].lock);
    publishers = array<Publisher>("pgjobs publishers", sizeof(Publisher), process_count(), &found);
    announcers = array<pg_atomic_uint32>("pgjobs announcers", sizeof(pg_atomic_uint32),
                                         process_count(), &found);
    if (!found)
        for (int i = 0; i < process_count(); i++)
            pg_atomic_init_u32(&announcers[i], 0);
    reapers = array<pg_atomic_uint32>("pgjobs reapers", sizeof(pg_atomic_uint32), process_count(),
                                      &found);
    if (!found)
        for (int i = 0; i < process_count(); i++)
            pg_atomic_init_u32(&reapers[i], 0);
    pins = array<Pin>("pgjobs pins", sizeof(Pin), pin_count(), &found);

    HASHCTL control{};
    control.keysize = sizeof(LeaseKey);
    control.entrysize = sizeof(Lease);
    leases = ShmemInitHash("pgjobs leases", settings::max_leases, settings::max_leases, &control,
                           HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
    LWLockRelease(AddinShmemInitLock);
}

void share_memory() {
    previous_request = shmem_request_hook;
    shmem_request_hook = request;
    previous_startup = shmem_startup_hook;
    shmem_startup_hook = startup;
}

static Database *search(Oid oid) {
    for (int i = 0; i < settings::max_databases; i++)
        if (databases[i].oid == oid)
            return &databases[i];
    return nullptr;
}

Database *find_database(Oid oid) {
    return pg::locked(shared->databases_lock, LW_SHARED, [&] { return search(oid); });
}

// A fresh place knows nothing: everything is looked up in the tables once.
static void take_place(Database *database, Oid oid) {
    database->listed = database->installed = database->probed = false;
    database->held_by = 0;
    database->retry_at = 0;
    database->refused = false;
    database->failures = 0;
    pg_atomic_write_u32(&database->work, 0);
    pg_atomic_write_u64(&database->next_due, never);
    pg_atomic_write_u64(&database->rows_due, 0);
    pg_atomic_write_u64(&database->looked_at, 0);
    pg_atomic_write_u32(&database->leases_lost, 1);
    pg_atomic_write_u32(&database->prepared_lost, 1);
    pg_atomic_write_u32(&database->notify_all, 1);
    pg_atomic_write_u32(&database->uncounted, 1);
    database->oid = oid;
    pg_atomic_fetch_or_u32(&shared->rescan,
                           rescan_new); // the launcher decides whether it is to be looked after
}

Database *find_or_add_database(Oid oid) {
    return pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&]() -> Database * {
        Database *database = search(oid);
        if (database == nullptr && (database = search(InvalidOid)) != nullptr)
            take_place(database, oid);
        return database;
    });
}

Database *this_database() {
    static Database *mine;
    if (mine == nullptr || mine->oid != MyDatabaseId)
        mine = find_or_add_database(MyDatabaseId);
    return mine;
}

void wake_process(uint32 procno_plus_one) {
    if (procno_plus_one > 0)
        SetLatch(&ProcGlobal->allProcs[procno_plus_one - 1].procLatch);
}

void request_work(Database *database, uint32 bits) {
    // A full barrier: set before the worker is read. Bits that it has not taken yet have woken it.
    if ((pg_atomic_fetch_or_u32(&database->work, bits) & bits) == bits)
        return;
    uint32 worker = pg_atomic_read_u32(&database->worker);
    wake_process(worker > 0 ? worker : pg_atomic_read_u32(&shared->launcher));
}

static bool lower(pg_atomic_uint64 *time, TimestampTz at) {
    uint64 before = pg_atomic_read_u64(time);
    while (at < static_cast<TimestampTz>(before))
        if (pg_atomic_compare_exchange_u64(time, &before, static_cast<uint64>(at)))
            return true;
    return false;
}

bool keep_next_due(Database *database, TimestampTz at) { return lower(&database->next_due, at); }

void lower_rows_due(Database *database, TimestampTz at) { lower(&database->rows_due, at); }

void lower_next_due(Database *database, TimestampTz at) {
    if (keep_next_due(database, at))
        request_work(database, work_due);
}

} // namespace pgjobs

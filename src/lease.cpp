#include "lease.hpp"

#include "changes.hpp"
#include "core/patience.hpp"
#include "inject.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "setback.hpp"

namespace pgjobs::lease {

using store::Col;

constexpr int batch = 500;

// ---- the list ----

bool remember(const Lease &lease) {
    bool found;
    auto *entry = static_cast<Lease *>(hash_search(leases, &lease.key, HASH_ENTER_NULL, &found));
    if (entry == nullptr)
        return false;
    if (found && entry->rev > lease.rev)
        return true;
    // The list may be ahead of the row. But a session lease may be given an end.
    TimestampTz ahead = found && entry->rev == lease.rev && entry->expires_at != never && !mutant(3)
                            ? entry->expires_at
                            : lease.expires_at;
    *entry = lease;
    entry->expires_at = Max(ahead, lease.expires_at);
    return true;
}

void forget(const LeaseKey &key, int32 rev) {
    auto *entry = static_cast<Lease *>(hash_search(leases, &key, HASH_FIND, nullptr));
    if (entry != nullptr && entry->rev <= rev)
        hash_search(leases, &key, HASH_REMOVE, nullptr);
}

void forget_all(Oid database) {
    LWLockAcquire(shared->leases_lock, LW_EXCLUSIVE);
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, leases);
    while (auto *lease = static_cast<Lease *>(hash_seq_search(&scan)))
        if (lease->key.database == database)
            hash_search(leases, &lease->key, HASH_REMOVE, nullptr);
    LWLockRelease(shared->leases_lock);
}

// ---- sessions that hold jobs ----

static bool exit_watched;

// Runs after the rollback of whatever was open, so that the rows are free when the worker looks.
static void session_ends(int, Datum) {
    PGJOBS_QUIET_POINT("session-ends");
    pg_atomic_write_u64(&holders[pg::my_procno()], 0);
    Database *database = this_database();
    if (database != nullptr)
        request_work(database, work_sessions);
}

int64 this_session() {
    pg_atomic_uint64 *holder = &holders[pg::my_procno()];
    if (pg_atomic_read_u64(holder) == 0)
        pg_atomic_write_u64(holder, pg_atomic_fetch_add_u64(&shared->sessions, 1) + 1);
    if (!exit_watched) {
        on_shmem_exit(session_ends, 0);
        exit_watched = true;
    }
    return static_cast<int64>(pg_atomic_read_u64(holder));
}

void end_session() {
    if (exit_watched && pg_atomic_read_u64(&holders[pg::my_procno()]) != 0)
        session_ends(0, 0);
}

int64 this_epoch() { return shared->epoch; }

static bool is_alive(int64 session) {
    for (int i = 0; i < shared->procs; i++)
        if (static_cast<int64>(pg_atomic_read_u64(&holders[i])) == session)
            return true;
    return false;
}

static bool is_gone(int64 hold_epoch, int64 hold_session) {
    return hold_session != 0 && (hold_epoch != this_epoch() || !is_alive(hold_session));
}

// ---- heartbeats ----

// Heartbeats that were in the list alone are lost with the server's memory. So after a start every
// older lease lasts at least once more as long as a heartbeat of that kind gives.
static int64 longest_in_list(const Held &held) {
    return Min(held.queue_lease, held.expires_at - held.started_at);
}

static TimestampTz end_by_row(const Held &held) {
    auto since = static_cast<TimestampTz>(pg_atomic_read_u64(&shared->writable_since));
    if (since == 0)
        since = GetCurrentTimestamp(); // right after the start
    if (held.expires_at == never || held.started_at >= since)
        return held.expires_at;
    return Max(held.expires_at, since + longest_in_list(held));
}

static bool is_being_reaped(const Lease *entry) {
    return entry->reaper != 0 && pg_atomic_read_u32(&reapers[entry->reaper - 1]) != 0;
}

static Lease *find_entry(int64 job) {
    LeaseKey key = {job, MyDatabaseId, 0};
    return static_cast<Lease *>(hash_search(leases, &key, HASH_FIND, nullptr));
}

TimestampTz extend(const Held &held, TimestampTz wanted, TimestampTz now) {
    if (held.expires_at == never || wanted - now > longest_in_list(held))
        return 0;
    return pg::locked(shared->leases_lock, LW_EXCLUSIVE, [&]() -> TimestampTz {
        Lease *entry = find_entry(held.job);
        if (entry == nullptr || entry->rev != held.rev || is_being_reaped(entry))
            return 0;
        entry->expires_at =
            mutant(8) ? wanted : Max(Max(entry->expires_at, held.expires_at), wanted);
        return entry->expires_at;
    });
}

TimestampTz end_of(int64 job, TimestampTz expires_at) {
    return pg::locked(shared->leases_lock, LW_SHARED, [&] {
        Lease *entry = find_entry(job);
        bool ahead = entry != nullptr && entry->expires_at != never;
        return ahead ? Max(entry->expires_at, expires_at) : expires_at;
    });
}

// pgjobs._lease_end(id, lease_expires_at) -> timestamptz
PGJOBS_FUNCTION(_lease_end) {
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(end_of(PG_GETARG_INT64(0), PG_GETARG_TIMESTAMPTZ(1)));
}

// ---- taking back ----

static bool reaping; // this transaction has taken jobs back

void reaped() {
    if (!reaping)
        return;
    reaping = false;
    pg_atomic_write_u32(&reapers[pg::my_procno()], 0);
}

// Whether the lease is over; if so, no heartbeat saves it any more. The row is locked.
static bool take_from_holder(const Held &held, bool gone, TimestampTz now) {
    reaping = true;
    pg_atomic_write_u32(&reapers[pg::my_procno()], 1);
    return pg::locked(shared->leases_lock, LW_EXCLUSIVE, [&] {
        Lease *entry = find_entry(held.job);
        if (entry != nullptr && entry->rev != held.rev)
            entry = nullptr;
        TimestampTz end = end_by_row(held);
        if (entry != nullptr && entry->expires_at != never)
            end = Max(end, entry->expires_at);
        if (!gone && end > now)
            return false;
        if (entry != nullptr)
            entry->reaper = pg::my_procno() + 1;
        return true;
    });
}

// ---- finding ----

struct Candidate {
    int64 id;
    int32 rev;
};
// All that are over, not a batch of them: those that somebody has locked must not hide the others.
struct Candidates {
    Candidate *jobs;
    uint64 count;
    uint64 space;
    bool more; // there was no space for all
};

static void make_space(Candidates *found, MemoryContext context, uint64 space) {
    found->space = Max(space, uint64{1});
    found->jobs =
        static_cast<Candidate *>(MemoryContextAllocHuge(context, sizeof(Candidate) * found->space));
}

static void add(Candidates *found, int64 id, int32 rev) {
    if (found->count == found->space)
        found->more = true;
    else
        found->jobs[found->count++] = {id, rev};
}

static int compare_ids(const void *a, const void *b) {
    int64 x = static_cast<const Candidate *>(a)->id;
    int64 y = static_cast<const Candidate *>(b)->id;
    return x < y ? -1 : x > y ? 1 : 0;
}

// Calls `body(lease, over)` for each entry of this database, with the lock held.
template <class F> static void for_each_lease(TimestampTz now, F body) {
    LWLockAcquire(shared->leases_lock, LW_SHARED);
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, leases);
    while (auto *lease = static_cast<Lease *>(hash_seq_search(&scan)))
        if (lease->key.database == MyDatabaseId)
            body(lease,
                 lease->expires_at <= now || (lease->session != 0 && !is_alive(lease->session)));
    LWLockRelease(shared->leases_lock);
}

// From the list: no row is read that need not be. Counted first: nothing is allocated under a lock.
static void find_in_list(Candidates *found, TimestampTz now, TimestampTz *next) {
    uint64 count = 0;
    for_each_lease(now, [&](const Lease *, bool over) { count += over; });
    make_space(found, CurrentMemoryContext, count + batch);
    for_each_lease(now, [&](const Lease *lease, bool over) {
        if (!over)
            *next = Min(*next, lease->expires_at);
        else
            add(found, lease->key.job, lease->rev);
    });
}

static constinit pg::Statement select_running{
    "SELECT j.id, j.lease_expires_at, j.hold_epoch, j.hold_session, j.rev, j.started_at, "
    "j.queue_id FROM pgjobs.job j JOIN pgjobs.queue q ON q.id = j.queue_id "
    "JOIN pgjobs.home h ON h.id = q.home AND h.database = $1 "
    "WHERE j.waiting = 0 AND j.token IS NOT NULL",
    {OIDOID},
    nullptr};

static int64 optional_at(uint64 row, int column, int64 absent) {
    return pg::is_null(row, column) ? absent : pg::int64_at(row, column);
}

struct Running {
    Held held;
    int64 epoch;
    int64 session;
    int32 queue;
};

static Running *read_running(uint64 *count) {
    MemoryContext caller = CurrentMemoryContext;
    return pg::as_owner([&] {
        *count = pg::run(&select_running, pg::oid_value(MyDatabaseId));
        auto *rows =
            static_cast<Running *>(MemoryContextAllocHuge(caller, sizeof(Running) * (*count + 1)));
        for (uint64 i = 0; i < *count; i++) {
            rows[i].held = {pg::int64_at(i, 1), pg::int32_at(i, 5), optional_at(i, 6, 0),
                            optional_at(i, 2, never), 0};
            rows[i].epoch = optional_at(i, 3, 0);
            rows[i].session = optional_at(i, 4, 0);
            rows[i].queue = pg::int32_at(i, 7);
        }
        return rows;
    });
}

// From the table: every running job, wherever it is. Fills the list again on the way, with those
// too that are over: somebody may have them locked.
static void find_in_table(Candidates *found, TimestampTz now, TimestampTz *next, bool *complete) {
    uint64 count;
    Running *rows = read_running(&count);
    make_space(found, CurrentMemoryContext, count);
    for (uint64 i = 0; i < count; i++) {
        Running *row = &rows[i];
        const Queue *queue = find_queue(row->queue);
        row->held.queue_lease = queue != nullptr ? queue->lease : 0;
        TimestampTz end = end_of(row->held.job, end_by_row(row->held));
        if (end <= now || is_gone(row->epoch, row->session)) {
            add(found, row->held.job, row->held.rev);
            end = Min(end, now);
        } else {
            *next = Min(*next, end);
        }
        Lease lease = {{row->held.job, MyDatabaseId, 0}, end, row->session, row->held.rev, 0};
        *complete &= pg::locked(shared->leases_lock, LW_EXCLUSIVE, [&] { return remember(lease); });
    }
    pfree(rows);
}

// ---- reaping ----

static void drop_entry(const Candidate &job) {
    LeaseKey key = {job.id, MyDatabaseId, 0};
    pg::locked(shared->leases_lock, LW_EXCLUSIVE, [&] { forget(key, job.rev); });
}

// The list may name a job that is not running any more, or whose lease was renewed.
static void correct_entry(store::Table *jobs, int64 id) {
    int32 rev = store::get_int32(jobs, Col::rev);
    if (!store::has(jobs, Col::token)) {
        drop_entry({id, rev});
        return;
    }
    Lease lease = {{id, MyDatabaseId, 0},
                   store::get_int64(jobs, Col::lease_expires_at, never),
                   store::get_int64(jobs, Col::hold_session, 0),
                   rev,
                   0};
    pg::locked(shared->leases_lock, LW_EXCLUSIVE, [&] { remember(lease); });
}

static Held held_by_row(store::Table *jobs, const Queue *queue) {
    return {store::get_int64(jobs, Col::id, 0), store::get_int32(jobs, Col::rev),
            store::get_int64(jobs, Col::started_at, 0),
            store::get_int64(jobs, Col::lease_expires_at, never), queue->lease};
}

static bool reap_row(store::Table *jobs, history::Archive *archive, const Candidate &job,
                     TimestampTz now) {
    const Queue *queue = find_queue(store::get_int32(jobs, Col::queue_id));
    if (queue == nullptr || !queue->home) {
        drop_entry(job);
        return false;
    }
    bool gone = is_gone(store::get_int64(jobs, Col::hold_epoch, 0),
                        store::get_int64(jobs, Col::hold_session, 0));
    if (!store::has(jobs, Col::token) || !take_from_holder(held_by_row(jobs, queue), gone, now)) {
        correct_entry(jobs, job.id);
        return false;
    }
    PGJOBS_POINT("reap-taken");
    setback::takes(job.id);
    life::Failure failure{};
    failure.outcome = "expired";
    failure.error = gone ? "the session of the worker ended" : "the lease expired";
    failure.retry = true;
    life::fail(jobs, archive, queue, failure, now);
    PGJOBS_POINT("reap-done");
    return true;
}

// What the reaper comes to next.
static void announce(const Candidates *found, uint64 from) {
    int64 ids[batch];
    int count = 0;
    for (uint64 i = from; i < found->count && count < batch; i++)
        ids[count++] = found->jobs[i].id;
    setback::announce(ids, count);
}

// A batch of them. Rows that somebody has locked are passed over and left for another time.
static int64 reap_rows(Candidates *found, TimestampTz now, bool *more, TimestampTz *next) {
    static core::Patience patience;
    *more = false;
    if (found->count == 0)
        return 0;
    qsort(found->jobs, found->count, sizeof(Candidate), compare_ids); // one order of locks
    PGJOBS_POINT("reap-found");
    return store::with_jobs([&](store::Table *jobs) {
        history::Archive archive{};
        int64 reaped = 0;
        bool busy = false;
        uint64 i = 0;
        for (; i < found->count && reaped < batch; i++) {
            const Candidate &job = found->jobs[i];
            CHECK_FOR_INTERRUPTS();
            if (i % batch == 0)
                announce(found, i);
            if (!setback::comes_to(job.id))
                continue;
            if (store::find(jobs, job.id, LockWaitSkip))
                reaped += reap_row(jobs, &archive, job, now);
            else if (jobs->busy)
                busy = true;
            else
                drop_entry(job);
        }
        history::close(&archive);
        *more = i < found->count || (found->more && reaped > 0);
        if (int64 wait = patience.after(busy); wait > 0)
            *next = Min(*next, GetCurrentTimestamp() + wait);
        return reaped;
    });
}

int64 reap(TimestampTz now, bool *more, TimestampTz *next) {
    Database *database = this_database();
    Candidates found{};
    if (setback::only() != 0) {
        make_space(&found, CurrentMemoryContext, 1);
        add(&found, setback::only(), PG_INT32_MAX);
        return reap_rows(&found, now, more, next);
    }
    bool scan = database == nullptr || pg_atomic_exchange_u32(&database->leases_lost, 0) != 0;
    if (scan) {
        bool complete = true;
        find_in_table(&found, now, next, &complete);
        if (database != nullptr && !complete)
            pg_atomic_write_u32(&database->leases_lost, 1);
    } else {
        find_in_list(&found, now, next);
    }
    return reap_rows(&found, now, more, next);
}

// pgjobs._reap(now timestamptz) -> bigint
PGJOBS_FUNCTION(_reap) {
    pg::require_writable("pgjobs._reap()");
    require_administrator("run pgjobs' duties");
    TimestampTz now = pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 0, "now")), "now");
    int64 total = 0;
    bool more = true;
    while (more) {
        // Exact, with what this transaction did: from the table.
        Candidates found{};
        TimestampTz next = never;
        bool complete = true;
        find_in_table(&found, now, &next, &complete);
        total += reap_rows(&found, now, &more, &next);
        pfree(found.jobs);
    }
    PG_RETURN_INT64(total);
}

static bool is_listed(int64 id) {
    LeaseKey key = {id, MyDatabaseId, 0};
    return pg::locked(shared->leases_lock, LW_SHARED,
                      [&] { return hash_search(leases, &key, HASH_FIND, nullptr) != nullptr; });
}

// pgjobs._check_leases() -> bigint
PGJOBS_FUNCTION(_check_leases) {
    require_administrator("check pgjobs' leases");
    PG_RETURN_INT64(pg::as_owner([] {
        int64 missing = 0;
        uint64 count = pg::run(&select_running, pg::oid_value(MyDatabaseId));
        for (uint64 i = 0; i < count; i++)
            missing += !is_listed(pg::int64_at(i, 1));
        return missing;
    }));
}

} // namespace pgjobs::lease

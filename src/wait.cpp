#include "wait.hpp"

#include "catalog.hpp"
#include "core/clock.hpp"
#include "inject.hpp"
#include "lookup.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "receipt.hpp"
#include "settings.hpp"
#include "shared.hpp"
#include "store.hpp"

namespace pgjobs::wait {

// After a waiter was called, or has told its client that there is work, the next one looks again
// after this time: a process that stands still and a client that does not claim strand nothing.
constexpr int64 baton = 50 * 1000;

// ---- waking; under the waiters lock ----

// Whether the waiter waits for such a thing. What is 0 in it may be anything.
static bool matches(const Waiter *waiter, Oid database, const Purpose &thing) {
    const Purpose &purpose = waiter->purpose;
    return waiter->database == database && purpose.job == thing.job &&
           purpose.queue == thing.queue && purpose.topic == thing.topic &&
           purpose.table == thing.table &&
           (thing.stage == 0 || purpose.stage == 0 || purpose.stage == thing.stage) &&
           (thing.subscription == 0 || purpose.subscription == thing.subscription);
}

static void set_latch(const Waiter *waiter) {
    wake_process(static_cast<uint32>(waiter - waiters) + 1);
}

static void wake(Waiter *waiter) {
    waiter->woken = true;
    if (!PGJOBS_LOST("wake-lost"))
        set_latch(waiter);
}

// The longest waiting one that has not been woken yet, or nullptr.
static Waiter *next_waiter(Oid database, const Purpose &thing) {
    Waiter *next = nullptr;
    for (int i = 0; i < shared->procs; i++) {
        Waiter *waiter = &waiters[i];
        if (matches(waiter, database, thing) && !waiter->woken &&
            (next == nullptr || waiter->ticket < next->ticket))
            next = waiter;
    }
    return next;
}

// Hands the baton to the next one, who sees after a while whether there is still work.
static void pass_baton(Oid database, const Purpose &thing) {
    Waiter *next = next_waiter(database, thing);
    int64 at = core::monotonic() + baton;
    if (next == nullptr || next->check <= at)
        return;
    next->check = at;
    set_latch(next);
}

static void call(Oid database, const Purpose &thing, int64 count) {
    for (; count > 0; count--) {
        Waiter *waiter = next_waiter(database, thing);
        if (waiter == nullptr)
            return;
        wake(waiter);
    }
    pass_baton(database, thing);
}

static void wake_some(Oid database, const Purpose &thing, int64 count) {
    LWLockAcquire(shared->waiters_lock, LW_EXCLUSIVE);
    call(database, thing, count);
    LWLockRelease(shared->waiters_lock);
}

void wake_some(Oid database, int32 queue, int16 stage, int64 count) {
    Purpose thing{};
    thing.queue = queue;
    thing.stage = stage;
    wake_some(database, thing, count);
}

void wake_rows(Oid database, Oid table, int16 stage, int64 count) {
    Purpose thing{};
    thing.table = table;
    thing.stage = stage;
    wake_some(database, thing, count);
}

// Whether nobody has been woken for the same thing, and nobody has waited longer for it.
static bool is_first(const Waiter *waiter) {
    for (int i = 0; i < shared->procs; i++) {
        const Waiter *other = &waiters[i];
        if (other != waiter && matches(other, waiter->database, waiter->purpose) &&
            (other->woken || other->ticket < waiter->ticket))
            return false;
    }
    return true;
}

void wake_readers(Oid database, int32 topic) {
    Purpose thing{};
    thing.topic = topic;
    LWLockAcquire(shared->waiters_lock, LW_EXCLUSIVE);
    for (int i = 0; i < shared->procs; i++)
        if (matches(&waiters[i], database, thing) && !waiters[i].woken && is_first(&waiters[i])) {
            wake(&waiters[i]);
            pass_baton(database, waiters[i].purpose);
        }
    LWLockRelease(shared->waiters_lock);
}

void wake_awaiting(Oid database, int64 job) {
    LWLockAcquire(shared->waiters_lock, LW_EXCLUSIVE);
    for (int i = 0; i < shared->procs; i++)
        if (waiters[i].database == database && waiters[i].purpose.job == job)
            wake(&waiters[i]);
    LWLockRelease(shared->waiters_lock);
}

void wake_all(Oid database) {
    LWLockAcquire(shared->waiters_lock, LW_EXCLUSIVE);
    for (int i = 0; i < shared->procs; i++)
        if (waiters[i].database == database)
            wake(&waiters[i]);
    LWLockRelease(shared->waiters_lock);
}

// ---- this session as a waiter ----

static Database *waiting_in; // nullptr: not waiting
static bool exit_watched;

static Waiter *mine() { return &waiters[pg::my_procno()]; }

static void leave_at_exit(int, Datum) { leave(); }

static void enter(const Purpose &purpose) {
    Database *database = this_database();
    if (database == nullptr)
        ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                errmsg("too many databases have pgjobs"),
                errhint("Raise pgjobs.max_databases and restart the server."));
    if (!exit_watched) {
        on_shmem_exit(leave_at_exit, 0);
        exit_watched = true;
    }
    uint64 ticket = pg_atomic_fetch_add_u64(&shared->tickets, 1);
    pg::locked(shared->waiters_lock, LW_EXCLUSIVE, [&] {
        *mine() = {database->oid, purpose, false, ticket, never};
    });
    waiting_in = database;
    pg_atomic_fetch_add_u32(&database->waiters, 1);
}

// A call that nobody answered goes to the next waiter.
void leave() {
    if (waiting_in == nullptr)
        return;
    LWLockAcquire(shared->waiters_lock, LW_EXCLUSIVE);
    Waiter *waiter = mine();
    if (waiter->woken && waiter->purpose.job == 0)
        call(waiter->database, waiter->purpose, 1);
    waiter->database = InvalidOid;
    LWLockRelease(shared->waiters_lock);
    if (pg_atomic_sub_fetch_u32(&waiting_in->waiters, 1) == 0)
        wake_process(pg_atomic_read_u32(&waiting_in->worker)); // nobody keeps it any more
    waiting_in = nullptr;
}

// The client will be told that there is work. If it takes none, the next waiter finds out.
static void pass_baton() {
    LWLockAcquire(shared->waiters_lock, LW_EXCLUSIVE);
    Waiter *waiter = mine();
    bool woken = waiter->woken;
    waiter->woken = true; // not itself
    pass_baton(waiter->database, waiter->purpose);
    waiter->woken = woken;
    LWLockRelease(shared->waiters_lock);
}

// Whether it is time to look, and if not, when. Taking a call means to look now.
static bool take_call(int64 *check) {
    return pg::locked(shared->waiters_lock, LW_EXCLUSIVE, [&] {
        Waiter *waiter = mine();
        *check = waiter->check;
        bool called = waiter->woken || waiter->check <= core::monotonic();
        if (called) {
            waiter->woken = false;
            waiter->check = never;
        }
        return called;
    });
}

static void check_extension(const Database *database, uint32 epoch) {
    if (pg_atomic_read_u32(const_cast<pg_atomic_uint32 *>(&database->epoch)) != epoch)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("extension \"pgjobs\" was dropped while waiting"),
                errhint("Stop the worker, or create the extension again."));
}

// Sleeps on the latch, at most `milliseconds`. A client that closes its end ends the session.
static void nap(long milliseconds) {
    int wanted = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
    int events = 0;
    if (MyProcPort != nullptr && WaitEventSetCanReportClosed())
        events = WaitLatchOrSocket(MyLatch, wanted | WL_SOCKET_CLOSED, MyProcPort->sock,
                                   milliseconds, PG_WAIT_EXTENSION);
    else
        events = WaitLatch(MyLatch, wanted, milliseconds, PG_WAIT_EXTENSION);
    if (events & WL_LATCH_SET)
        ResetLatch(MyLatch);
    if (events & WL_SOCKET_CLOSED) {
        ClientConnectionLost = true;
        InterruptPending = true;
    }
}

// Sleeps until called or until `deadline`; false when that has come. Holds no snapshot and no lock:
// the transaction that looked has ended.
static bool sleep_until_called(const Database *database, uint32 epoch, int64 deadline) {
    SPI_commit();
    PGJOBS_POINT("wait-entered");
    for (;;) {
        int64 check;
        CHECK_FOR_INTERRUPTS();
        check_extension(database, epoch);
        if (settings::reload_if_told() || take_call(&check)) // pgjobs.execute may have changed
            return true;
        int64 now = core::monotonic();
        if (now >= deadline)
            return false;
        int64 left = Max(Min(deadline, check) - now, 0);
        nap(Min((left + 999) / 1000, 3600 * 1000L));
    }
}

// These procedures commit, then sleep: they must not commit anybody's work.
void refuse_inside_transaction(FunctionCallInfo fcinfo, const char *procedure) {
    auto *context = reinterpret_cast<CallContext *>(fcinfo->context);
    bool atomic = context == nullptr || !IsA(context, CallContext) || context->atomic;
    if (atomic)
        ereport(ERROR, errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                errmsg("CALL %s cannot run inside a transaction block", procedure),
                errhint("Call it on its own, with autocommit on, and not from a function."));
    if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
        ereport(ERROR, errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                errmsg("CALL %s cannot run after other work in the same transaction", procedure),
                errdetail("It would commit that work."), errhint("Commit your work first."));
}

int64 deadline_of(FunctionCallInfo fcinfo, int argument) {
    return core::monotonic() + pg::required_interval(fcinfo, argument, "timeout", 0);
}

Datum return_record(FunctionCallInfo fcinfo, Datum *values, bool *nulls) {
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls));
}

// If the client has gone, somebody else must take the work.
static void check_client() {
    if (MyProcPort == nullptr || pq_check_connection())
        return;
    pg::locked(shared->waiters_lock, LW_EXCLUSIVE, [] { mine()->woken = true; });
    ereport(ERROR, errcode(ERRCODE_CONNECTION_FAILURE), errmsg("the client has gone"));
}

void look_again_in(int64 time) {
    int64 at = core::monotonic() + Max(time, 0);
    pg::locked(shared->waiters_lock, LW_EXCLUSIVE, [&] { mine()->check = Min(mine()->check, at); });
}

bool until(const Purpose &purpose, int64 deadline, bool (*look)(void *), void *argument) {
    SPI_connect_ext(SPI_OPT_NONATOMIC);
    enter(purpose);
    const Database *database = waiting_in;
    uint32 epoch = pg_atomic_read_u32(const_cast<pg_atomic_uint32 *>(&database->epoch));
    bool ready = look(argument);
    while (!ready && sleep_until_called(database, epoch, deadline))
        ready = look(argument);
    if (!ready)
        ready = look(argument); // what came in the last moment
    if (ready && purpose.job == 0) {
        PGJOBS_POINT("wait-answered");
        check_client();
        pass_baton();
    }
    leave();
    SPI_finish();
    return ready;
}

// ---- wait ----

static bool queue_has_work(int32 id, int16 stage) {
    AcceptInvalidationMessages(); // the transaction began before the sleep, not after it
    const Queue *queue = find_queue(id);
    if (queue == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("the queue was dropped while waiting"),
                errhint("Stop the worker, or create the queue again."));
    require_home(queue);
    if (queue->paused || !settings::execute)
        return false;
    TimestampTz now = GetCurrentTimestamp();
    bool held = false;
    for (int16 s = queue->stage_count; s >= 1; s--)
        if ((stage == 0 || stage == s) && store::any_ready(id, s, now, &held))
            return true;
    if (held)
        look_again_in(doubt);
    return false;
}

// pgjobs.wait(queue, timeout, INOUT ready, stage)
PGJOBS_FUNCTION(wait) {
    char *name = pg::required_string(fcinfo, 0, "queue");
    int64 deadline = deadline_of(fcinfo, 1);
    char *stage = pg::optional_string(fcinfo, 3);
    refuse_inside_transaction(fcinfo, "pgjobs.wait");
    PreventCommandDuringRecovery("CALL pgjobs.wait");
    const Queue *queue = get_queue(name);
    require_right(queue, work);
    int16 number = stage_number(queue, stage);
    int32 id = queue->id;

    Purpose purpose{};
    purpose.queue = id;
    purpose.stage = number;
    bool ready = until(purpose, deadline, [&] { return queue_has_work(id, number); });

    Datum value = BoolGetDatum(ready);
    bool null = false;
    PG_RETURN_DATUM(return_record(fcinfo, &value, &null));
}

// ---- await ----

static constinit pg::Statement select_state{
    "SELECT (ARRAY['completed', 'dead', 'cancelled'])[h.state + 1], "
    "CASE WHEN h.state = 0 THEN h.result END, true "
    "FROM pgjobs.history h WHERE h.id = $1 UNION ALL "
    "SELECT CASE WHEN j.waiting = 2 THEN 'blocked' WHEN j.waiting = 1 THEN 'scheduled' "
    "WHEN j.token IS NULL THEN 'ready' ELSE 'running' END, NULL, false "
    "FROM pgjobs.job j WHERE j.id = $1",
    {INT8OID},
    nullptr};

struct Finish {
    Datum values[2]; // state, result
    bool nulls[2];
    bool finished;
};

// Copies live in `caller`.
static Finish look(int64 job, bool readable, MemoryContext caller) {
    return pg::as_owner([&] {
        Finish finish{};
        if (pg::run(&select_state, pg::value(job)) == 0) {
            if (receipt::find(job, 0) == 0)
                no_such_job(job);
            finish.finished = finish.nulls[1] = true;
            pg::in_context(caller, [&] { finish.values[0] = CStringGetTextDatum("completed"); });
            return finish;
        }
        finish.finished = pg::bool_at(0, 3);
        finish.nulls[1] = !readable || pg::is_null(0, 2);
        pg::in_context(caller, [&] {
            finish.values[0] = datumCopy(pg::datum_at(0, 1), false, -1);
            if (!finish.nulls[1])
                finish.values[1] = PointerGetDatum(PG_DETOAST_DATUM_COPY(pg::datum_at(0, 2)));
        });
        return finish;
    });
}

// pgjobs.await(id, timeout, INOUT state, INOUT result)
PGJOBS_FUNCTION(await) {
    int64 job = pg::required_int64(fcinfo, 0, "id");
    int64 deadline = deadline_of(fcinfo, 1);
    refuse_inside_transaction(fcinfo, "pgjobs.await");
    PreventCommandDuringRecovery("CALL pgjobs.await");
    const Queue *queue = visible_queue_of(job, produce | monitor | operate | own);
    if (queue == nullptr)
        no_such_job(job);
    bool readable = has_right(queue, produce | operate | own); // a monitor learns the state only

    MemoryContext caller = CurrentMemoryContext;
    Purpose purpose{};
    purpose.job = job;
    Finish finish{};
    until(purpose, deadline, [&] {
        finish = look(job, readable, caller);
        return finish.finished;
    });
    PG_RETURN_DATUM(return_record(fcinfo, finish.values, finish.nulls));
}

} // namespace pgjobs::wait

#include "pg/scope.hpp"

#include <csignal>
#include <ctime>

namespace pgjobs::pg {

// No local is changed after the setjmp: results leave through `failure`.
[[gnu::noinline]] static bool guarded(void (*body)(void *), void *argument, Failure *failure,
                                      MemoryContext caller) {
    PG_TRY();
    {
        StartTransactionCommand();
        PushActiveSnapshot(GetTransactionSnapshot());
        body(argument);
        PopActiveSnapshot();
        CommitTransactionCommand();
    }
    PG_CATCH();
    {
        HOLD_INTERRUPTS();
        MemoryContextSwitchTo(caller);
        ErrorData *error = CopyErrorData();
        FlushErrorState();
        AbortCurrentTransaction();
        MemoryContextSwitchTo(caller);
        failure->sqlstate = error->sqlerrcode;
        failure->message = error->message;
        RESUME_INTERRUPTS();
    }
    PG_END_TRY();
    return failure->sqlstate == 0;
}

// It sends what pg_cancel_backend() sends.
static bool set_timer(timer_t *timer, int milliseconds) {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGINT;
    itimerspec at{};
    at.it_value.tv_sec = milliseconds / 1000;
    at.it_value.tv_nsec = milliseconds % 1000 * 1000000L;
    return timer_create(CLOCK_MONOTONIC, &event, timer) == 0 &&
           timer_settime(*timer, 0, &at, nullptr) == 0;
}

[[gnu::noinline]] void bounded(int milliseconds, void (*body)(void *), void *argument) {
    timer_t timer{};
    bool set = set_timer(&timer, milliseconds);
    PG_TRY();
    { body(argument); }
    PG_FINALLY();
    {
        if (set)
            timer_delete(timer);
    }
    PG_END_TRY();
}

void report_statistics() { pgstat_report_stat(true); }

bool try_transaction(const char *activity, void (*body)(void *), void *argument, Failure *failure) {
    MemoryContext caller = CurrentMemoryContext;
    *failure = {};
    SetCurrentStatementStartTimestamp();
    pgstat_report_activity(STATE_RUNNING, activity);
    bool done = guarded(body, argument, failure, caller);
    MemoryContextSwitchTo(caller);
    pgstat_report_stat(false);
    pgstat_report_activity(STATE_IDLE, nullptr);
    return done;
}

} // namespace pgjobs::pg

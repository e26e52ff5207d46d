#include "pg/scope.hpp"

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

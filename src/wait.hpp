// Sessions that wait in the server: for work (CALL pgjobs.wait), a job's end (await), a message
// (wait_message), a row of an attached table (wait_row); and waking them.
#pragma once

#include "pg/scope.hpp"
#include "shared.hpp"

namespace pgjobs::wait {

// ---- for transaction callbacks: these raise nothing and allocate nothing ----

// `count` jobs of the stage became ready: wakes as many of those who wait for it, the longest
// waiting first. Stage 0 is any.
void wake_some(Oid database, int32 queue, int16 stage, int64 count);

// The same for rows of an attached table; its stages are numbered from 1.
void wake_rows(Oid database, Oid table, int16 stage, int64 count);

// The job is finished: wakes those who await it.
void wake_awaiting(Oid database, int64 job);

// There may be messages in the topic: wakes one of those who wait for each of its subscriptions.
void wake_readers(Oid database, int32 topic);

// Wakes everybody in the database.
void wake_all(Oid database);

// This session waits no more; if it was woken and did not say so to its client, the next is.
void leave();

// ---- for procedures that wait ----

// They commit, then sleep, and must not commit anybody's work: 25001 inside a transaction block or
// after other work. `procedure` is named.
void refuse_inside_transaction(FunctionCallInfo fcinfo, const char *procedure);

// The end of the time that the argument "timeout" gives, by core::monotonic(): it does not matter
// who sets the clock meanwhile.
int64 deadline_of(FunctionCallInfo fcinfo, int argument);

// Looks, and sleeps until somebody calls for the purpose, until `look` says yes or `deadline` has
// come; whether it said yes. Each look has a transaction, and no snapshot is held in between.
bool until(const Purpose &purpose, int64 deadline, bool (*look)(void *), void *argument);
template <class F> bool until(const Purpose &purpose, int64 deadline, F look) {
    static_assert(pg::plain_body<F>);
    return until(
        purpose, deadline, [](void *argument) { return (*static_cast<F *>(argument))(); }, &look);
}

// For a look: look again after this time, microseconds, if nobody calls before.
constexpr int64 doubt = USECS_PER_SEC; // where somebody may give back without a word
void look_again_in(int64 time);

// The INOUT arguments as the procedure returns them.
Datum return_record(FunctionCallInfo fcinfo, Datum *values, bool *nulls);

} // namespace pgjobs::wait

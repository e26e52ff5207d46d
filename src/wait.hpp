// Sessions that wait for work (CALL pgjobs.wait, wait_row) or for a job's end (CALL pgjobs.await), and
// waking them. The functions here raise nothing and allocate nothing: they serve transaction callbacks.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::wait {

// `count` jobs of the stage became ready: wakes as many of those who wait for it, the longest
// waiting first. Stage 0 is any.
void wake_some(Oid database, int32 queue, int16 stage, int64 count);

// The same for rows of an attached table; its stages are numbered from 1.
void wake_rows(Oid database, Oid table, int16 stage, int64 count);

// The job is finished: wakes those who await it.
void wake_awaiting(Oid database, int64 job);

// Wakes everybody in the database.
void wake_all(Oid database);

// This session waits no more; if it was woken and did not say so to its client, the next is.
void leave();

// ---- for procedures that wait ----

// Refuses (25001) to commit anybody's work.
void refuse_inside_transaction(FunctionCallInfo fcinfo, const char *procedure);
TimestampTz deadline_of(FunctionCallInfo fcinfo, int argument);

// For what a session waits: a stage of a queue, the end of a job, or a stage of an attached table.
struct Wish {
    int32 queue;
    int16 stage; // 0: any
    int64 job;   // 0: none
    Oid table;   // InvalidOid: none
};

// Registers this session, asks `ready` at once and whenever it is called, and sleeps meanwhile,
// without a snapshot or a lock; false at the deadline. With SPI connected, non-atomic. What it
// answers goes to the client: if the client has gone, or takes no work, the next waiter is told.
bool wait_for(const Wish &wish, TimestampTz deadline, bool (*ready)(void *), void *argument);
template <class F> bool wait_for(const Wish &wish, TimestampTz deadline, F ready) {
    return wait_for(
        wish, deadline, [](void *argument) { return (*static_cast<F *>(argument))(); }, &ready);
}

// Somebody has what is wanted and may give it back without a word: this session looks again soon.
void look_again_soon();

// The result of a procedure with INOUT arguments.
Datum return_record(FunctionCallInfo fcinfo, Datum *values, bool *nulls);

} // namespace pgjobs::wait

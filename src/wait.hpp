// Sessions that wait for work (CALL pgjobs.wait) or for a job's end (CALL pgjobs.await), and waking
// them. The functions here raise nothing and allocate nothing: they serve transaction callbacks.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::wait {

// `count` jobs of the stage became ready: wakes as many of those who wait for it, the longest
// waiting first. Stage 0 is any.
void wake_some(Oid database, int32 queue, int16 stage, int64 count);

// The job is finished: wakes those who await it.
void wake_awaiting(Oid database, int64 job);

// Wakes everybody in the database.
void wake_all(Oid database);

// This session waits no more; if it was woken and did not say so to its client, the next is.
void leave();

} // namespace pgjobs::wait

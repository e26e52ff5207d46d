// Leases: the list of running jobs in shared memory, the sessions that hold jobs, and the reaper.
#pragma once

#include "shared.hpp"

namespace pgjobs::lease {

// Adds or renews an entry, unless a newer one is there; false if the list is full. Under the leases
// lock; raises nothing.
bool remember(const Lease &lease);

// Drops the entry of a lease that ended with revision `rev` of its job, unless it is of a newer
// lease. Under the leases lock; raises nothing.
void forget(const LeaseKey &key, int32 rev);

// Drops the entries of a database. Raises nothing.
void forget_all(Oid database);

// The number by which jobs name the current session; made on first use.
int64 this_session();

// The session gives up its jobs; the worker takes them back.
void end_session();

// The number of the server's start; session numbers are good only with it.
int64 this_epoch();

// Whether the job's lease is over at `now`: by time, or because its session is gone.
bool is_over(TimestampTz lease_expires_at, int64 hold_epoch, int64 hold_session, TimestampTz now);

// Takes back jobs whose lease is over, in batches; returns how many. `more` is set while there may
// be others, `next` lowered to the next end of a lease. In a worker's transaction.
int64 reap(TimestampTz now, bool *more, TimestampTz *next);

} // namespace pgjobs::lease

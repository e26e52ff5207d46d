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

// The lease of a running job, as its row has it.
struct Held {
    int64 job;
    int32 rev;
    TimestampTz started_at;
    TimestampTz expires_at; // never: no end
    int64 queue_lease;      // of its queue, microseconds
};

// A heartbeat: makes the lease last until `wanted` at least, in the list alone. Returns its end; 0
// if the list does not do: the job is not there, is being taken back, or is to last longer from now
// on than a restart of the server, which loses the list, allows for. Then the row must be written.
TimestampTz extend(const Held &held, TimestampTz wanted, TimestampTz now);

// The end of the job's lease: the later one of the row's and the list's.
TimestampTz end_of(int64 job, TimestampTz expires_at);

// The transaction has ended that took jobs back. For callbacks.
void reaped();

// Takes back jobs whose lease is over, in batches; returns how many. `more` is set while there may
// be others, `next` lowered to the next end of a lease. In a worker's transaction.
int64 reap(TimestampTz now, bool *more, TimestampTz *next);

} // namespace pgjobs::lease

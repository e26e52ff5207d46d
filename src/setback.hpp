// One row that raises must not stop the others. A duty says which jobs it takes on; if its
// transaction fails, the worker has it take them on again one by one, and those that fail alone are
// passed over for a while. In a session that calls a duty, none of this is in effect.
#pragma once

#include "core/setbacks.hpp"
#include "pg/server.hpp"

namespace pgjobs::setback {

constexpr int batch = 500; // no duty changes more in a transaction

// What the worker knows of the jobs of one duty.
struct Jobs {
    core::Setbacks failed;         // passed over
    int64 only;                    // the one that the transaction is for; 0: all that are due
    int64 suspects[2 * batch + 1]; // any of them may be why the last transaction failed
    int count;
    int64 current;       // the job that the duty came to last
    int64 coming[batch]; // what it will come to next, unless it is through
    int coming_count;
};

// ---- for the duties ----

// The job that this transaction is for; 0: all that are due.
int64 only();

// The duty will come to these jobs next, at most a batch of them.
void announce(const int64 *jobs, int count);

// The duty comes to a job: false if it is to pass it over. Before the row is touched.
bool comes_to(int64 job);

// The row is locked and will be changed; for a duty that announces more than once before it closes
// the table, which is when the last triggers fire.
void takes(int64 job);

// ---- for the worker ----

// The next transaction is for these jobs, or for one of them.
void begin(Jobs *jobs, int64 only);

// It has ended; `suspects` are complete.
void end();

} // namespace pgjobs::setback

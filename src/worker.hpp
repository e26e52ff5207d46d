// What the worker of a database is made of: its process (worker.cpp), what it does each time that
// it wakes up (turn.cpp), and duties that work off jobs in batches (batches.cpp).
#pragma once

#include "pg/relations.hpp"
#include "pg/scope.hpp"
#include "setback.hpp"
#include "shared.hpp"

namespace pgjobs::process {

struct Worker {
    Database *database;
    uint32 epoch;                // of the extension when this worker began
    TimestampTz history_due;     // when the partitions are looked at next
    TimestampTz topics_due;      // when they are to be looked at next
    TimestampTz deliver_due;     // when messages are to be delivered; never: when somebody calls
    TimestampTz check_due;       // when the frontier may be checked next
    TimestampTz receipts_looked; // when the receipts were looked at last
    TimestampTz receipts_due;    // when they are to be looked at next
    TimestampTz leases_due;      // when the lease list is checked next
    TimestampTz busy_until;      // stay at least until then
    TimestampTz truce_until;     // nothing is taken back before: the clock was set, see clock.hpp
    int64 backoff;               // after an error; 0 without
    int64 notify_backoff;        // the same for notifications
    TimestampTz notify_due;      // sending has to wait until then; 0 otherwise
    TimestampTz notified_at;     // when notifications were sent last
    int64 count_backoff;         // the same for counting jobs
    TimestampTz count_due;       // it was not possible: tried again then; 0 otherwise
};

// ---- for duties ----

// Runs `body` in a transaction as the extension's owner, restricted.
template <class F> bool attempt(const char *activity, pg::Failure *failure, F body) {
    return pg::try_transaction(
        activity,
        [&] {
            SetUserIdAndSecContext(relations()->owner,
                                   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
            body();
            SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
        },
        failure);
}

// Logs it, unless the extension has gone, and doubles the time until the next try.
void note_failure(int64 *backoff, const char *activity, const pg::Failure &failure);

// The same as attempt(); logs what goes wrong.
template <class F> bool duty(int64 *backoff, const char *activity, F body) {
    pg::Failure failure;
    bool done = attempt(activity, &failure, body);
    if (!done)
        note_failure(backoff, activity, failure);
    return done;
}

// Whether the extension was dropped under our feet: this process will see that and leave.
bool extension_gone();

// Ends this process if somebody asked for that. A cancel has nothing to cancel between
// transactions.
void check_for_end();

// ---- in batches ----

// A duty that works off jobs, or something like them. `step` has the contract of duty::promote.
struct JobDuty {
    const char *activity;
    const char *thing; // what it works off
    int64 (*step)(TimestampTz now, bool *more, TimestampTz *next);
    setback::Jobs *jobs;
};

// Repeats a duty until nothing is due, with notifications in between, but not for long: others have
// their turn, too, and then `next` is now. False if it failed; that was logged.
bool in_batches(Worker *worker, const JobDuty &duty, TimestampTz *next);

// ---- a turn ----

void send_notifications(Worker *worker);

// Does what is due and what others have asked for. `pins_left`: prepared transactions are to be
// looked at again soon.
void turn(Worker *worker, bool *pins_left);

// Another extension, other jobs: nothing is known of those that failed.
void forget_setbacks();

} // namespace pgjobs::process

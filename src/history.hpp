// Finished jobs: daily partitions by the time until which they are kept.
#pragma once

#include "catalog.hpp"
#include "receipt.hpp"
#include "store.hpp"

namespace pgjobs::history {

// A finished job is kept this long at least, so that a repeated call is understood; one that was
// completed in a queue without history leaves a receipt only.
constexpr int64 shortest_keep = 10 * USECS_PER_MINUTE;

// Moves finished jobs out of the live table. Keeps the partition open that it wrote to last.
struct Archive {
    store::Table *leaf;
    TimestampTz leaf_start; // of the open leaf
    receipt::Pad *receipts; // nullptr without
};

// How a job ended.
struct Ending {
    core::State state;
    TimestampTz at;
    bool has_result; // false: the result of the stage before stays
    bool result_null;
    Datum result;
    bool keeps_error;  // the error of the last attempt stays
    const char *error; // else this one; nullptr without
    Datum attempts;    // 0: as they are
    int64 done_token;  // 0: as it is
};

// Removes the job `found` from the live table and writes it into history as ended. False, with
// nothing done, if it was found without a lock and has changed since. Open the archive with {} and
// close it after the last job, before the table of jobs.
bool finish(Archive *archive, store::Table *jobs, const Queue *queue, const Ending &ending);
void close(Archive *archive);

// Locks a finished job, found by a query of this transaction, for whoever brings it back; false if
// somebody else has done that. Waits for him.
bool lock(Oid leaf, ItemPointerData tid);

// Makes the partitions that jobs of this retention need within a week. Inside as_owner.
void prepare_partitions(int64 retention, TimestampTz now);

// The worker's duty: makes partitions for all queues of this home, drops those whose day has passed
// where nobody reads them. `next` is lowered to when it should run again.
int64 keep(TimestampTz now, TimestampTz *next);

} // namespace pgjobs::history

// The fence: every verb after the claim needs the job's current token.
#pragma once

#include "catalog.hpp"
#include "history.hpp"
#include "store.hpp"

namespace pgjobs {

// What to do about a lost lease.
enum class OnLost { skip, error };
OnLost parse_on_lost(const char *text); // 22023 for another word

// Finds the job and makes sure that the token is the current one and the right is there. The queue;
// nullptr for a lost lease where that is to be skipped, else PJ001. The row is not locked.
const Queue *look_at_fence(store::Table *jobs, int64 id, int64 token, OnLost on_lost);

// The same, and locks the job.
const Queue *hold_fence(store::Table *jobs, int64 id, int64 token, OnLost on_lost);

struct OneJob {
    int64 id;
    int64 token;
};

// Whether a lost lease is one whose complete was accepted before, and what that answered. After
// look_at_fence: `found` is the open job, if there is one.
bool was_completed(store::Table *jobs, const OneJob &job, core::State *state);

// The jobs of a _many call.
struct ManyJobs {
    struct Item {
        int64 id;
        int64 token;
        int place; // in the arguments
    };
    // By id: one order of locks, no deadlocks. Each pair once: another token of the same job is
    // judged by the fence like any other.
    Item *items;
    int count;
    OnLost on_lost;
    int64 *done; // ids, ascending
    int done_count;
};

// Reads the arrays at `ids_argument` and behind it.
ManyJobs many_jobs(FunctionCallInfo fcinfo, int ids_argument, int on_lost_argument,
                   const char *verb);

// Runs `step(jobs, archive, queue, place, now)` on each job whose lease is held; it returns false
// if the job was not locked and has changed. `locked`: the step needs the lock. `repeatable` counts
// those too whose complete was accepted before.
template <class F> void for_each_fenced(ManyJobs *many, bool locked, bool repeatable, F step) {
    store::with_jobs([&](store::Table *jobs) {
        history::Archive archive{};
        MemoryContext per_job =
            AllocSetContextCreate(CurrentMemoryContext, "pgjobs job", ALLOCSET_DEFAULT_SIZES);
        for (int i = 0; i < many->count;) {
            const ManyJobs::Item &item = many->items[i];
            auto look = locked ? hold_fence : look_at_fence;
            const Queue *queue = look(jobs, item.id, item.token, OnLost::skip);
            core::State state;
            bool repeated = queue == nullptr && repeatable &&
                            was_completed(jobs, {item.id, item.token}, &state);
            if (queue == nullptr && !repeated && many->on_lost == OnLost::error)
                look_at_fence(jobs, item.id, item.token, OnLost::error);
            bool done = queue == nullptr || pg::in_context(per_job, [&] {
                            return step(jobs, &archive, queue, item.place, GetCurrentTimestamp());
                        });
            MemoryContextReset(per_job);
            if (!done)
                continue;
            if (queue != nullptr || repeated)
                many->done[many->done_count++] = item.id;
            i++;
        }
        MemoryContextDelete(per_job);
        history::close(&archive);
    });
}

} // namespace pgjobs

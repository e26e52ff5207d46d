#include "fence.hpp"

#include "inject.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "receipt.hpp"
#include "shared.hpp"

namespace pgjobs {

using core::State;
using store::Col;

OnLost parse_on_lost(const char *text) {
    if (strcmp(text, "skip") == 0)
        return OnLost::skip;
    if (strcmp(text, "error") == 0)
        return OnLost::error;
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("\"%s\" is not a value for \"on_lost\"", pg::shown(text)),
            errhint("Use skip or error."));
    pg_unreachable();
}

[[noreturn]] static void lease_lost(int64 id, const char *detail) {
    ereport(ERROR, errcode(errcode_lease_lost),
            errmsg("the lease of job " INT64_FORMAT " is lost", id), errdetail("%s", detail),
            errhint("Stop working on the job; whatever this transaction did is rolled back."));
    pg_unreachable();
}

static const char *why_lost(store::Table *jobs) {
    switch (life::state_of(jobs)) {
    case State::running:
        return "The job is running under another token: this one is wrong, or the job has been "
               "claimed again.";
    case State::ready:
        return "The job is ready again: its lease ended, it was given back, or it was completed "
               "into its next stage.";
    default:
        return "The job is scheduled: its lease ended or it was given back.";
    }
}

static bool is_current(store::Table *jobs, int64 token) {
    if (mutant(1))
        return store::has(jobs, Col::token);
    return store::get_int64(jobs, Col::token, 0) == token && token != 0;
}

// Finds the job and makes sure that the token is the current one and the right is there. The queue;
// nullptr for a lost lease where that is to be skipped.
const Queue *look_at_fence(store::Table *jobs, int64 id, int64 token, OnLost on_lost) {
    bool found = store::find_unlocked(jobs, id);
    const Queue *queue = found ? find_queue(store::get_int32(jobs, Col::queue_id)) : nullptr;
    if (queue != nullptr)
        require_right(queue, work);
    if (queue != nullptr && is_current(jobs, token)) {
        PGJOBS_POINT("fence-passed");
        return queue;
    }
    if (on_lost == OnLost::error)
        lease_lost(id, queue != nullptr
                           ? why_lost(jobs)
                           : "There is no such open job: it was finished, cancelled or removed. "
                             "Arguments are the id, then the token.");
    return nullptr;
}

// The same, and locks the job.
const Queue *hold_fence(store::Table *jobs, int64 id, int64 token, OnLost on_lost) {
    for (;;) {
        const Queue *queue = look_at_fence(jobs, id, token, on_lost);
        if (queue == nullptr || store::lock_found(jobs)) {
            PGJOBS_POINT("fence-locked");
            return queue;
        }
        CHECK_FOR_INTERRUPTS(); // it has changed meanwhile: judge it anew
    }
}

// ---- many ----

static int compare_items(const void *a, const void *b) {
    auto x = static_cast<const ManyJobs::Item *>(a);
    auto y = static_cast<const ManyJobs::Item *>(b);
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

static bool same_lease(const ManyJobs::Item &a, const ManyJobs::Item &b) {
    return a.id == b.id && a.token == b.token;
}

ManyJobs many_jobs(FunctionCallInfo fcinfo, int ids_argument, int on_lost_argument,
                   const char *verb) {
    pg::Elements ids = pg::required_elements(fcinfo, ids_argument, "ids", INT8OID);
    pg::Elements tokens = pg::required_elements(fcinfo, ids_argument + 1, "tokens", INT8OID);
    pg::check_lengths(ids, "ids", tokens, "tokens");
    ManyJobs many{};
    many.on_lost = parse_on_lost(pg::required_string(fcinfo, on_lost_argument, "on_lost"));
    pg::require_writable(verb);
    many.items = static_cast<ManyJobs::Item *>(palloc(sizeof(ManyJobs::Item) * Max(ids.count, 1)));
    many.done = static_cast<int64 *>(palloc(sizeof(int64) * Max(ids.count, 1)));
    for (int i = 0; i < ids.count; i++)
        many.items[i] = {DatumGetInt64(ids.data[i]), DatumGetInt64(tokens.data[i]), i};
    qsort(many.items, ids.count, sizeof(ManyJobs::Item), compare_items);
    for (int i = 0; i < ids.count; i++)
        if (many.count == 0 || !same_lease(many.items[many.count - 1], many.items[i]))
            many.items[many.count++] = many.items[i];
    return many;
}

// ---- repeated calls ----

static constinit pg::Statement select_receipt{
    "SELECT h.queue_id, h.state FROM pgjobs.history h WHERE h.id = $1 AND h.done_token = $2",
    {INT8OID, INT8OID},
    nullptr};

// The queue in whose history the job was completed with this token; 0 without. `state` is what that
// complete answered: a job that died or was cancelled afterwards had gone to its next stage.
static int32 receipt_of(const OneJob &job, State *state) {
    *state = State::completed;
    if (int32 queue = receipt::find(job.id, job.token); queue != 0)
        return queue;
    return pg::as_owner([&]() -> int32 {
        if (pg::run(&select_receipt, pg::value(job.id), pg::value(job.token)) == 0)
            return 0;
        bool finished = pg::int16_at(0, 2) == core::history_code(State::completed);
        *state = finished ? State::completed : State::ready;
        return pg::int32_at(0, 1);
    });
}

bool was_completed(store::Table *jobs, const OneJob &job, State *state) {
    if (!TTS_EMPTY(jobs->found)) {
        *state = State::ready;
        return job.token != 0 && store::get_int64(jobs, Col::done_token, 0) == job.token;
    }
    int32 id = receipt_of(job, state);
    const Queue *queue = id != 0 ? find_queue(id) : nullptr;
    if (queue != nullptr)
        require_right(queue, work);
    return queue != nullptr;
}

} // namespace pgjobs

// What a worker says after its claim: done, failed, given back, still at it.
#include "claim.hpp"
#include "core/backoff.hpp"
#include "fence.hpp"
#include "inject.hpp"
#include "lease.hpp"
#include "life.hpp"
#include "payload.hpp"
#include "pg/function.hpp"
#include "shared.hpp"

namespace pgjobs {

using core::State;
using store::Col;

static Datum done_of(const ManyJobs &many) { return pg::int64_array(many.done, many.done_count); }

// ---- one job ----

static OneJob one_job(FunctionCallInfo fcinfo, const char *verb) {
    OneJob job = {pg::required_int64(fcinfo, 0, "id"), pg::required_int64(fcinfo, 1, "token")};
    pg::require_writable(verb);
    return job;
}

// Runs `step(jobs, queue, now)` on the fenced job.
template <class F> static auto fenced(const OneJob &job, F step) {
    return store::with_jobs([&](store::Table *jobs) {
        const Queue *queue = hold_fence(jobs, job.id, job.token, OnLost::error);
        return step(jobs, queue, GetCurrentTimestamp());
    });
}

// ---- complete ----

static int16 next_of(const Queue *queue, int16 stage, const char *next_stage) {
    if (next_stage != nullptr)
        return stage_number(queue, next_stage);
    return stage < queue->stage_count ? static_cast<int16>(stage + 1) : 0;
}

// pgjobs.complete(id, token, result, next_stage) -> text
PGJOBS_FUNCTION(complete) {
    OneJob job = one_job(fcinfo, "pgjobs.complete()");
    bool result_null = !pg::given(fcinfo, 2);
    Datum result = result_null ? 0 : checked_json(PG_GETARG_DATUM(2), "result");
    char *next_stage = pg::optional_string(fcinfo, 3);
    State state = store::with_jobs([&](store::Table *jobs) {
        for (;;) {
            const Queue *queue = look_at_fence(jobs, job.id, job.token, OnLost::skip);
            State answer;
            if (queue == nullptr && was_completed(jobs, job, &answer))
                return answer;
            if (queue == nullptr) {
                look_at_fence(jobs, job.id, job.token, OnLost::error);
                continue; // not lost after all
            }
            life::Completion completion{};
            completion.stage = next_of(queue, store::get_int16(jobs, Col::stage), next_stage);
            completion.result_null = result_null;
            completion.result = result;
            history::Archive archive{};
            bool done = life::complete(jobs, &archive, queue, &completion, GetCurrentTimestamp());
            history::close(&archive);
            if (done)
                return completion.state;
            CHECK_FOR_INTERRUPTS();
        }
    });
    PG_RETURN_TEXT_P(cstring_to_text(core::name_of(state)));
}

// Completes what `many` names; results are those of argument `i`, in the places of the ids.
static void complete_all(ManyJobs *many, FunctionCallInfo fcinfo, int i) {
    pg::Elements results = pg::elements(fcinfo, i, "results", JSONBOID, pg::Nulls::allowed);
    pg::Elements ids = pg::required_elements(fcinfo, i - 2, "ids", INT8OID);
    pg::check_lengths(ids, "ids", results, "results");
    auto step = [&](store::Table *jobs, history::Archive *archive, const Queue *queue, int place,
                    TimestampTz now) {
        life::Completion completion{};
        completion.result_null = results.data == nullptr || results.nulls[place];
        if (!completion.result_null)
            completion.result = checked_json(results.data[place], "result");
        completion.stage = next_of(queue, store::get_int16(jobs, Col::stage), nullptr);
        return life::complete(jobs, archive, queue, &completion, now);
    };
    for_each_fenced(many, false, true, step);
}

// pgjobs.complete_many(ids, tokens, results, on_lost) -> bigint[]
PGJOBS_FUNCTION(complete_many) {
    ManyJobs many = many_jobs(fcinfo, 0, 3, "pgjobs.complete_many()");
    complete_all(&many, fcinfo, 2);
    PG_RETURN_DATUM(done_of(many));
}

// pgjobs.complete_and_claim(queue, ids, tokens, results, max_jobs, stage, lease, hold, worker,
// on_lost) -> setof claimed_job
PGJOBS_FUNCTION(complete_and_claim) {
    claim::Request request = claim::read(fcinfo, 4, "pgjobs.complete_and_claim()");
    ManyJobs many = many_jobs(fcinfo, 1, 9, "pgjobs.complete_and_claim()");
    if (many.count > 0)
        complete_all(&many, fcinfo, 3);
    claim::run(request);
    PG_RETURN_NULL();
}

// ---- fail ----

static char *clipped_error(Datum given) {
    char *error = TextDatumGetCString(given);
    auto length = static_cast<int>(strlen(error));
    error[pg_mbcliplen(error, length, life::longest_error)] = '\0';
    return error;
}

static TimestampTz retry_time(store::Table *jobs, const Queue *queue, int64 retry_in,
                              TimestampTz now) {
    if (retry_in >= 0)
        return now + retry_in;
    double random = pg_prng_double(&pg_global_prng_state);
    return now + core::backoff(queue->backoff, queue->backoff_max,
                               store::get_int32(jobs, Col::attempt), random);
}

// pgjobs.fail(id, token, error, retry, retry_in) -> text
PGJOBS_FUNCTION(fail) {
    OneJob job = one_job(fcinfo, "pgjobs.fail()");
    life::Failure failure{};
    failure.outcome = "failed";
    failure.error = pg::given(fcinfo, 2) ? clipped_error(PG_GETARG_DATUM(2)) : nullptr;
    failure.retry = pg::required_bool(fcinfo, 3, "retry");
    int64 retry_in = pg::optional_interval(fcinfo, 4, "retry_in", 0, -1);
    State state = fenced(job, [&](store::Table *jobs, const Queue *queue, TimestampTz now) {
        history::Archive archive{};
        failure.due_at = retry_time(jobs, queue, retry_in, now);
        State result = life::fail(jobs, &archive, queue, failure, now);
        history::close(&archive);
        return result;
    });
    PG_RETURN_TEXT_P(cstring_to_text(core::name_of(state)));
}

// pgjobs.fail_many(ids, tokens, errors, retry, on_lost) -> bigint[]
PGJOBS_FUNCTION(fail_many) {
    ManyJobs many = many_jobs(fcinfo, 0, 4, "pgjobs.fail_many()");
    pg::Elements errors = pg::elements(fcinfo, 2, "errors", TEXTOID, pg::Nulls::allowed);
    pg::Elements ids = pg::required_elements(fcinfo, 0, "ids", INT8OID);
    pg::check_lengths(ids, "ids", errors, "errors");
    bool retry = pg::required_bool(fcinfo, 3, "retry");
    auto step = [&](store::Table *jobs, history::Archive *archive, const Queue *queue, int place,
                    TimestampTz now) {
        bool null = errors.data == nullptr || errors.nulls[place];
        life::Failure failure{};
        failure.outcome = "failed";
        failure.error = null ? nullptr : clipped_error(errors.data[place]);
        failure.retry = retry;
        failure.due_at = retry_time(jobs, queue, -1, now);
        life::fail(jobs, archive, queue, failure, now);
        return true;
    };
    for_each_fenced(&many, true, false, step);
    PG_RETURN_DATUM(done_of(many));
}

// ---- giving back ----

// pgjobs.release(id, token) -> void
PGJOBS_FUNCTION(release) {
    OneJob job = one_job(fcinfo, "pgjobs.release()");
    fenced(job, [](store::Table *jobs, const Queue *, TimestampTz) { life::give_back(jobs); });
    PG_RETURN_VOID();
}

// pgjobs.snooze(id, token, delay) -> void
PGJOBS_FUNCTION(snooze) {
    OneJob job = one_job(fcinfo, "pgjobs.snooze()");
    int64 delay = pg::required_interval(fcinfo, 2, "delay", 0);
    fenced(job, [&](store::Table *jobs, const Queue *, TimestampTz now) {
        life::postpone(jobs, now + delay, now);
    });
    PG_RETURN_VOID();
}

// ---- heartbeats ----

// The new end of the lease, never less than before; never for a session lease without an end.
// False: the job has changed since it was found.
static bool extend_lease(store::Table *jobs, const Queue *queue, int64 lease, TimestampTz now,
                         TimestampTz *end) {
    const changes::Facts &job = store::facts(jobs);
    *end = never;
    if (job.lease_expires_at == never && lease == 0)
        return true;
    TimestampTz wanted = now + (lease > 0 ? lease : queue->lease);
    lease::Held held = {job.id, job.rev, store::get_int64(jobs, Col::started_at, 0),
                        job.lease_expires_at, queue->lease};
    if ((*end = lease::extend(held, wanted, now)) != 0) {
        PGJOBS_POINT("extend-in-list");
        return true;
    }
    PGJOBS_POINT("extend-in-row");
    if (!store::lock_found(jobs))
        return false;
    TimestampTz before =
        job.lease_expires_at == never ? wanted : lease::end_of(job.id, job.lease_expires_at);
    *end = Max(before, wanted);
    store::start_row(jobs);
    store::set(jobs, Col::lease_expires_at, TimestampTzGetDatum(*end));
    store::update(jobs);
    return true;
}

// pgjobs.extend(id, token, lease) -> timestamptz
PGJOBS_FUNCTION(extend) {
    OneJob job = one_job(fcinfo, "pgjobs.extend()");
    int64 lease = pg::optional_interval(fcinfo, 2, "lease", claim::shortest_lease, 0);
    TimestampTz end = store::with_jobs([&](store::Table *jobs) {
        if (mutant(2) && store::find_unlocked(jobs, job.id))
            job.token = store::get_int64(jobs, Col::token, job.token);
        for (;;) {
            const Queue *queue = look_at_fence(jobs, job.id, job.token, OnLost::error);
            TimestampTz until;
            if (extend_lease(jobs, queue, lease, GetCurrentTimestamp(), &until))
                return until;
            CHECK_FOR_INTERRUPTS();
        }
    });
    if (end == never)
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(end);
}

// pgjobs.extend_many(ids, tokens, lease, on_lost) -> bigint[]
PGJOBS_FUNCTION(extend_many) {
    ManyJobs many = many_jobs(fcinfo, 0, 3, "pgjobs.extend_many()");
    int64 lease = pg::optional_interval(fcinfo, 2, "lease", claim::shortest_lease, 0);
    auto step = [&](store::Table *jobs, history::Archive *, const Queue *queue, int,
                    TimestampTz now) {
        TimestampTz end;
        return extend_lease(jobs, queue, lease, now, &end);
    };
    for_each_fenced(&many, false, false, step);
    PG_RETURN_DATUM(done_of(many));
}

// pgjobs.progress(id, token, fraction, note) -> void
PGJOBS_FUNCTION(progress) {
    OneJob job = one_job(fcinfo, "pgjobs.progress()");
    double fraction = DatumGetFloat8(pg::required(fcinfo, 2, "fraction"));
    if (!(fraction >= 0 && fraction <= 1)) // NaN too
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("argument \"fraction\" is out of range"),
                errhint("Give a number from 0 to 1."));
    char *note = pg::optional_string(fcinfo, 3);
    if (note != nullptr)
        pg::check_text(note, "note", 1000);
    fenced(job, [&](store::Table *jobs, const Queue *, TimestampTz) {
        store::start_row(jobs);
        store::set(jobs, Col::fraction, Float8GetDatum(fraction));
        if (note != nullptr)
            store::set(jobs, Col::note, CStringGetTextDatum(note));
        store::update(jobs);
    });
    PG_RETURN_VOID();
}

} // namespace pgjobs

// Working: claim, and what a worker says afterwards. Every verb but claim is fenced by the token.
#include "changes.hpp"
#include "core/backoff.hpp"
#include "lease.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace pgjobs {

using core::State;
using store::Col;

constexpr int64 most_jobs = 10000; // of one claim
constexpr int64 shortest_lease = 1000;

// ---- claim ----

struct ClaimRequest {
    const Queue *queue;
    int64 max_jobs;
    int64 lease; // 0: a session lease without an end
    bool hold;
    Datum worker;
    Datum queue_name;
    Datum *stage_names;
    FunctionCallInfo fcinfo;
};

static const char *usual_worker() {
    if (application_name != nullptr && application_name[0] != '\0')
        return application_name;
    return psprintf("pid %d", MyProcPid);
}

static Datum detoasted(store::Table *jobs, Col column, bool *null) {
    Datum datum = store::get(jobs, column, null);
    return *null ? datum : PointerGetDatum(PG_DETOAST_DATUM_PACKED(datum));
}

static void return_claimed(store::Table *jobs, const ClaimRequest &request,
                           const life::Claim &claim) {
    Datum values[12] = {};
    bool nulls[12] = {};
    values[0] = Int64GetDatum(store::facts(jobs).id);
    values[1] = Int64GetDatum(claim.token);
    values[2] = request.queue_name;
    values[3] = request.stage_names[store::facts(jobs).stage - 1];
    values[4] = Int32GetDatum(claim.attempt);
    values[5] = Int32GetDatum(store::get_int32(jobs, Col::max_attempts));
    values[6] = detoasted(jobs, Col::payload, &nulls[6]);
    values[7] = detoasted(jobs, Col::headers, &nulls[7]);
    values[8] = detoasted(jobs, Col::result, &nulls[8]);
    values[9] = detoasted(jobs, Col::group_key, &nulls[9]);
    values[10] = store::get(jobs, Col::enqueued_at, &nulls[10]);
    values[11] = TimestampTzGetDatum(claim.lease_expires_at);
    nulls[11] = claim.lease_expires_at == never;
    pg::return_row(request.fcinfo, values, nulls);
}

static bool is_ready(store::Table *jobs, TimestampTz now) {
    return store::get_int16(jobs, Col::waiting) == 0 && !store::has(jobs, Col::token) &&
           (store::has(jobs, Col::started_at) ||
            store::get_int64(jobs, Col::expires_at, never) > now);
}

static life::Claim new_claim(const ClaimRequest &request, TimestampTz now) {
    life::Claim claim{};
    claim.token = life::random_token();
    claim.lease_expires_at = request.lease == 0 ? never : now + request.lease;
    claim.worker = request.worker;
    if (request.hold) {
        claim.hold_epoch = lease::this_epoch();
        claim.hold_session = lease::this_session();
    }
    return claim;
}

// A claim at work in one stage.
struct Claiming {
    const ClaimRequest *request;
    store::Table *jobs;
    MemoryContext per_job;
    frontier::Walk walk;
    int64 left;          // jobs that may still be taken
    core::Place reached; // no job that this claim could take stands before it
    bool stopped;        // a ready job was left, and nobody will announce it
};

static bool is_of(const Claiming &claiming, const changes::Facts &job) {
    return job.queue == claiming.walk.queue && job.stage == claiming.walk.stage;
}

// The job may not be passed by other claims on the word of this one.
static void stop_at(Claiming *claiming, const core::Place &place) {
    if (!claiming->stopped)
        claiming->reached = place;
    claiming->stopped = true;
}

static bool take(Claiming *claiming, TimestampTz now) {
    bool taken = pg::in_context(claiming->per_job, [&] {
        life::Claim claim = new_claim(*claiming->request, now);
        if (!life::start(claiming->jobs, &claim, now))
            return false;
        return_claimed(claiming->jobs, *claiming->request, claim);
        return true;
    });
    MemoryContextReset(claiming->per_job);
    claiming->left -= taken;
    return taken;
}

// Takes the visited job if it can. What the scan shows may be older than what the lock finds: both
// are looked at. True if other claims may pass it.
static bool try_to_take(Claiming *claiming) {
    store::Table *jobs = claiming->jobs;
    TimestampTz now = GetCurrentTimestamp();
    if (store::has(jobs, Col::token) || store::get_int16(jobs, Col::waiting) != 0)
        return true;
    if (!is_ready(jobs, now))
        return false; // its time is over: it is left to the worker
    store::note_visited(jobs);
    if (take(claiming, now)) // nobody was in the way: no lock is needed
        return true;
    store::Grip grip = store::lock_visited(jobs);
    if (grip != store::Grip::locked)
        return grip == store::Grip::passed;
    const changes::Facts &job = store::facts(jobs);
    if (is_ready(jobs, now) && is_of(*claiming, job))
        take(claiming, now);
    else if (job.state == State::ready)
        changes::left_ready(job);
    return true;
}

static void look_at_strays(Claiming *claiming, const frontier::Stretch &stretch) {
    store::Range range = {
        claiming->walk.queue, claiming->walk.stage, stretch.scan.from, stretch.scan.to, {}, true};
    for (int i = 0; i < stretch.stray_count && claiming->left > 0; i++) {
        range.first = stretch.strays[i].key;
        bool passed = store::scan_due(claiming->jobs, range,
                                      [&](store::Table *) { return try_to_take(claiming); });
        if (passed)
            frontier::drop_stray(claiming->walk, stretch, stretch.strays[i]);
    }
}

static void look_from_first(Claiming *claiming, const frontier::Stretch &stretch) {
    store::Range range = {claiming->walk.queue, claiming->walk.stage, stretch.scan.from,
                          stretch.scan.to,      stretch.first,        false};
    bool all = store::scan_due(claiming->jobs, range, [&](store::Table *jobs) {
        core::Place place = store::place_of(store::facts(jobs));
        if (!try_to_take(claiming))
            stop_at(claiming, place);
        else if (!claiming->stopped)
            claiming->reached = {place.priority, core::next_key(place.key)};
        return claiming->left > 0;
    });
    if (all && !claiming->stopped)
        claiming->reached = {stretch.scan.to + 1, core::lowest_key};
}

// Takes ready jobs of one stage; returns how many.
static int64 claim_stage(store::Table *jobs, const ClaimRequest &request, int16 stage, int64 most) {
    Claiming claiming{};
    claiming.request = &request;
    claiming.jobs = jobs;
    claiming.left = most;
    claiming.per_job =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs claim", ALLOCSET_DEFAULT_SIZES);
    claiming.walk = {nullptr, request.queue->id, stage, core::lowest_priority - 1, false};
    if (direct::layout_of_jobs(jobs->relation)->announced && !changes::may_all_change())
        claiming.walk = frontier::walk(RelationGetRelid(jobs->relation), request.queue->id, stage);
    auto own = [&] { return changes::own_place(request.queue->id, stage, claiming.walk.last); };
    frontier::Stretch stretch;
    while (claiming.left > 0 && frontier::next(&claiming.walk, own(), true, &stretch)) {
        claiming.reached = {stretch.scan.from, stretch.first};
        claiming.stopped = false;
        look_at_strays(&claiming, stretch);
        if (claiming.left > 0 && !core::same(stretch.first, core::highest_key))
            look_from_first(&claiming, stretch);
        frontier::done(&claiming.walk, stretch, claiming.reached);
    }
    MemoryContextDelete(claiming.per_job);
    return most - claiming.left;
}

static void claim_jobs(ClaimRequest request, int16 stage) {
    request.queue_name = CStringGetTextDatum(request.queue->name);
    request.stage_names = static_cast<Datum *>(palloc(sizeof(Datum) * request.queue->stage_count));
    for (int i = 0; i < request.queue->stage_count; i++)
        request.stage_names[i] = CStringGetTextDatum(request.queue->stages[i]);
    changes::begin_claim(request.queue->durable_claims);
    if (request.hold)
        changes::holds_session_lease();
    store::with_jobs([&](store::Table *jobs) {
        int64 left = request.max_jobs;
        if (stage > 0) {
            claim_stage(jobs, request, stage, left);
            return;
        }
        for (int16 s = request.queue->stage_count; s >= 1 && left > 0; s--)
            left -= claim_stage(jobs, request, s, left);
    });
    changes::end_claim();
}

// pgjobs.claim(queue, max_jobs, stage, lease, hold, worker) -> setof claimed_job
PGJOBS_FUNCTION(claim) {
    ClaimRequest request{};
    char *name = pg::required_string(fcinfo, 0, "queue");
    request.max_jobs =
        pg::ranged(pg::required_int64(fcinfo, 1, "max_jobs"), "max_jobs", 1, most_jobs);
    char *stage = pg::optional_string(fcinfo, 2);
    request.lease = pg::optional_interval(fcinfo, 3, "lease", shortest_lease, 0);
    request.hold = pg::required_bool(fcinfo, 4, "hold");
    char *worker = pg::optional_string(fcinfo, 5);
    if (worker != nullptr)
        pg::check_text(worker, "worker", 255);
    pg::require_writable("pgjobs.claim()");
    request.queue = get_queue(name);
    require_right(request.queue, work);
    int16 number = stage_number(request.queue, stage);
    require_home(request.queue);
    request.worker = CStringGetTextDatum(worker != nullptr ? worker : usual_worker());
    if (request.lease == 0 && !request.hold)
        request.lease = request.queue->lease;
    request.fcinfo = fcinfo;
    InitMaterializedSRF(fcinfo, 0);
    if (!request.queue->paused && settings::execute)
        claim_jobs(request, number);
    PG_RETURN_NULL();
}

// ---- the fence ----

enum class OnLost { skip, error };

static OnLost parse_on_lost(const char *text) {
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

// Finds the job and makes sure that the token is the current one and the right is there. The queue;
// nullptr for a lost lease where that is to be skipped.
static const Queue *look_at_fence(store::Table *jobs, int64 id, int64 token, OnLost on_lost) {
    bool found = store::find_unlocked(jobs, id);
    const Queue *queue = found ? find_queue(store::get_int32(jobs, Col::queue_id)) : nullptr;
    if (queue != nullptr)
        require_right(queue, work);
    if (queue != nullptr && store::get_int64(jobs, Col::token, 0) == token && token != 0)
        return queue;
    if (on_lost == OnLost::error)
        lease_lost(id, queue != nullptr
                           ? why_lost(jobs)
                           : "There is no such open job: it was finished, cancelled or removed. "
                             "Arguments are the id, then the token.");
    return nullptr;
}

// The same, and locks the job.
static const Queue *hold_fence(store::Table *jobs, int64 id, int64 token, OnLost on_lost) {
    for (;;) {
        const Queue *queue = look_at_fence(jobs, id, token, on_lost);
        if (queue == nullptr || store::lock_found(jobs))
            return queue;
        CHECK_FOR_INTERRUPTS(); // it has changed meanwhile: judge it anew
    }
}

// The common arguments of the verbs on one job.
struct OneJob {
    int64 id;
    int64 token;
};

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

// ---- many ----

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

static ManyJobs many_jobs(FunctionCallInfo fcinfo, int on_lost_argument, const char *verb) {
    pg::Elements ids = pg::required_elements(fcinfo, 0, "ids", INT8OID);
    pg::Elements tokens = pg::required_elements(fcinfo, 1, "tokens", INT8OID);
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

// Whether a lost lease is one whose complete was accepted before, and what that answered. After
// hold_fence: `found` is the open job, if there is one.
static bool was_completed(store::Table *jobs, const OneJob &job, State *state) {
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

// Runs `step(jobs, archive, queue, place, now)` on each job whose lease is held; it returns false
// if the job was not locked and has changed. `locked`: the step needs the lock. `repeatable` counts
// those too whose complete was accepted before.
template <class F>
static Datum for_each_fenced(ManyJobs *many, bool locked, bool repeatable, F step) {
    store::with_jobs([&](store::Table *jobs) {
        history::Archive archive{};
        MemoryContext per_job =
            AllocSetContextCreate(CurrentMemoryContext, "pgjobs job", ALLOCSET_DEFAULT_SIZES);
        for (int i = 0; i < many->count;) {
            const ManyJobs::Item &item = many->items[i];
            auto look = locked ? hold_fence : look_at_fence;
            const Queue *queue = look(jobs, item.id, item.token, OnLost::skip);
            State state;
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
    return pg::int64_array(many->done, many->done_count);
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
    Datum result = result_null ? 0 : life::checked_json(PG_GETARG_DATUM(2), "result");
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

// pgjobs.complete_many(ids, tokens, results, on_lost) -> bigint[]
PGJOBS_FUNCTION(complete_many) {
    ManyJobs many = many_jobs(fcinfo, 3, "pgjobs.complete_many()");
    pg::Elements results = pg::elements(fcinfo, 2, "results", JSONBOID, pg::Nulls::allowed);
    pg::Elements ids = pg::required_elements(fcinfo, 0, "ids", INT8OID);
    pg::check_lengths(ids, "ids", results, "results");
    auto step = [&](store::Table *jobs, history::Archive *archive, const Queue *queue, int place,
                    TimestampTz now) {
        life::Completion completion{};
        completion.result_null = results.data == nullptr || results.nulls[place];
        if (!completion.result_null)
            completion.result = life::checked_json(results.data[place], "result");
        completion.stage = next_of(queue, store::get_int16(jobs, Col::stage), nullptr);
        return life::complete(jobs, archive, queue, &completion, now);
    };
    PG_RETURN_DATUM(for_each_fenced(&many, false, true, step));
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
    ManyJobs many = many_jobs(fcinfo, 4, "pgjobs.fail_many()");
    pg::Elements errors = pg::elements(fcinfo, 2, "errors", TEXTOID, pg::Nulls::allowed);
    pg::Elements ids = pg::required_elements(fcinfo, 0, "ids", INT8OID);
    pg::check_lengths(ids, "ids", errors, "errors");
    bool retry = pg::required_bool(fcinfo, 3, "retry");
    PG_RETURN_DATUM(for_each_fenced(&many, true, false,
                                    [&](store::Table *jobs, history::Archive *archive,
                                        const Queue *queue, int place, TimestampTz now) {
                                        bool null = errors.data == nullptr || errors.nulls[place];
                                        life::Failure failure{};
                                        failure.outcome = "failed";
                                        failure.error =
                                            null ? nullptr : clipped_error(errors.data[place]);
                                        failure.retry = retry;
                                        failure.due_at = retry_time(jobs, queue, -1, now);
                                        life::fail(jobs, archive, queue, failure, now);
                                        return true;
                                    }));
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
static TimestampTz extend_lease(store::Table *jobs, const Queue *queue, int64 lease,
                                TimestampTz now) {
    TimestampTz before = store::get_int64(jobs, Col::lease_expires_at, never);
    if (before == never && lease == 0)
        return never;
    TimestampTz wanted = now + (lease > 0 ? lease : queue->lease);
    TimestampTz after = before == never ? wanted : Max(before, wanted);
    store::start_row(jobs);
    store::set(jobs, Col::lease_expires_at, TimestampTzGetDatum(after));
    store::update(jobs);
    return after;
}

// pgjobs.extend(id, token, lease) -> timestamptz
PGJOBS_FUNCTION(extend) {
    OneJob job = one_job(fcinfo, "pgjobs.extend()");
    int64 lease = pg::optional_interval(fcinfo, 2, "lease", shortest_lease, 0);
    TimestampTz end = fenced(job, [&](store::Table *jobs, const Queue *queue, TimestampTz now) {
        return extend_lease(jobs, queue, lease, now);
    });
    if (end == never)
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(end);
}

// pgjobs.extend_many(ids, tokens, lease, on_lost) -> bigint[]
PGJOBS_FUNCTION(extend_many) {
    ManyJobs many = many_jobs(fcinfo, 3, "pgjobs.extend_many()");
    int64 lease = pg::optional_interval(fcinfo, 2, "lease", shortest_lease, 0);
    PG_RETURN_DATUM(for_each_fenced(
        &many, true, false,
        [&](store::Table *jobs, history::Archive *, const Queue *queue, int, TimestampTz now) {
            extend_lease(jobs, queue, lease, now);
            return true;
        }));
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

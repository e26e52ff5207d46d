#include "claim.hpp"

#include "changes.hpp"
#include "inject.hpp"
#include "lease.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace pgjobs::claim {

using core::State;
using store::Col;

static const char *usual_worker() {
    if (application_name != nullptr && application_name[0] != '\0')
        return application_name;
    return psprintf("pid %d", MyProcPid);
}

static Datum detoasted(store::Table *jobs, Col column, bool *null) {
    Datum datum = store::get(jobs, column, null);
    return *null ? datum : PointerGetDatum(PG_DETOAST_DATUM_PACKED(datum));
}

static void return_claimed(store::Table *jobs, const Request &request, const life::Claim &claim) {
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

static life::Claim new_claim(const Request &request, TimestampTz now) {
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
    const Request *request;
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
        if (mutant(4))
            claim.token = store::facts(claiming->jobs).id * 100 +
                          store::get_int32(claiming->jobs, Col::attempt) + 1;
        if (!life::start(claiming->jobs, &claim, now))
            return false;
        PGJOBS_POINT("claim-updated");
        return_claimed(claiming->jobs, *claiming->request, claim);
        return true;
    });
    MemoryContextReset(claiming->per_job);
    claiming->left -= taken;
    return taken;
}

static TimestampTz current_time() {
    return mutant(13) ? GetCurrentTransactionStartTimestamp() : GetCurrentTimestamp();
}

// Takes the visited job if it can. What the scan shows may be older than what the lock finds: both
// are looked at. True if other claims may pass it.
static bool try_to_take(Claiming *claiming) {
    store::Table *jobs = claiming->jobs;
    TimestampTz now = current_time();
    if (store::has(jobs, Col::token) || store::get_int16(jobs, Col::waiting) != 0)
        return true;
    if (!is_ready(jobs, now))
        return false; // its time is over: it is left to the worker
    store::note_visited(jobs);
    PGJOBS_POINT("claim-visited");
    if (take(claiming, now)) // nobody was in the way: no lock is needed
        return true;
    store::Grip grip = store::lock_visited(jobs);
    if (grip != store::Grip::locked)
        return grip == store::Grip::passed;
    PGJOBS_POINT("claim-locked");
    now = current_time(); // others may have had it since: this lease begins behind theirs
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
static int64 claim_stage(store::Table *jobs, const Request &request, int16 stage, int64 most) {
    Claiming claiming{};
    claiming.request = &request;
    claiming.jobs = jobs;
    claiming.left = most;
    claiming.per_job =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs claim", ALLOCSET_DEFAULT_SIZES);
    claiming.walk = {nullptr, request.queue->id, stage, core::lowest_priority - 1, false};
    if (direct::layout_of(jobs->relation, direct::Kind::jobs)->announced &&
        !changes::may_all_change())
        claiming.walk = frontier::walk(RelationGetRelid(jobs->relation), request.queue->id, stage);
    auto own = [&] { return changes::own_place(request.queue->id, stage, claiming.walk.last); };
    frontier::Stretch stretch;
    while (claiming.left > 0 && frontier::next(&claiming.walk, own(), true, &stretch)) {
        claiming.reached = {stretch.scan.from, stretch.first};
        claiming.stopped = false;
        PGJOBS_POINT("claim-registered");
        look_at_strays(&claiming, stretch);
        if (claiming.left > 0 && !core::same(stretch.first, core::highest_key))
            look_from_first(&claiming, stretch);
        changes::own_reached(request.queue->id, stage, stretch.scan.from, claiming.reached);
        PGJOBS_POINT("claim-before-raise");
        frontier::done(&claiming.walk, stretch, claiming.reached);
    }
    MemoryContextDelete(claiming.per_job);
    return most - claiming.left;
}

static void claim_jobs(Request request) {
    request.worker =
        CStringGetTextDatum(request.worker_name != nullptr ? request.worker_name : usual_worker());
    request.queue_name = CStringGetTextDatum(request.queue->name);
    request.stage_names = static_cast<Datum *>(palloc(sizeof(Datum) * request.queue->stage_count));
    for (int i = 0; i < request.queue->stage_count; i++)
        request.stage_names[i] = CStringGetTextDatum(request.queue->stages[i]);
    changes::begin_claim(request.queue->durable_claims);
    if (Database *database = this_database(); database != nullptr)
        pg_atomic_write_u32(&database->claimed, 1);
    if (request.hold)
        changes::holds_session_lease();
    store::with_jobs([&](store::Table *jobs) {
        int64 left = request.max_jobs + mutant(5);
        if (request.stage > 0) {
            claim_stage(jobs, request, request.stage, left);
            return;
        }
        for (int16 s = request.queue->stage_count; s >= 1 && left > 0; s--)
            left -= claim_stage(jobs, request, s, left);
    });
    changes::end_claim();
    PGJOBS_POINT("claim-done");
}

Request read(FunctionCallInfo fcinfo, int first, const char *verb) {
    Request request{};
    char *name = pg::required_string(fcinfo, 0, "queue");
    request.max_jobs =
        pg::ranged(pg::required_int64(fcinfo, first, "max_jobs"), "max_jobs", 1, most_jobs);
    char *stage = pg::optional_string(fcinfo, first + 1);
    request.lease = pg::optional_interval(fcinfo, first + 2, "lease", shortest_lease, 0);
    request.hold = pg::required_bool(fcinfo, first + 3, "hold");
    request.worker_name = pg::optional_string(fcinfo, first + 4);
    if (request.worker_name != nullptr)
        pg::check_text(request.worker_name, "worker", 255);
    pg::require_writable(verb);
    request.queue = get_queue(name);
    require_right(request.queue, work);
    request.stage = stage_number(request.queue, stage);
    require_home(request.queue);
    if (request.lease == 0 && !request.hold)
        request.lease = request.queue->lease;
    request.fcinfo = fcinfo;
    InitMaterializedSRF(fcinfo, 0);
    return request;
}

void run(const Request &request) {
    if (!request.queue->paused && settings::execute)
        claim_jobs(request);
}

} // namespace pgjobs::claim

namespace pgjobs {

// pgjobs.claim(queue, max_jobs, stage, lease, hold, worker) -> setof claimed_job
PGJOBS_FUNCTION(claim) {
    claim::run(claim::read(fcinfo, 1, "pgjobs.claim()"));
    PG_RETURN_NULL();
}

} // namespace pgjobs

// Duties that work off jobs in batches, and the jobs that fail.
#include "worker.hpp"

namespace pgjobs::process {

constexpr int64 longest_turn = 100 * 1000;      // of a duty that finds more and more to do
constexpr int64 longest_singly = USECS_PER_SEC; // jobs of a batch that failed, in one go
constexpr int most_logged = 10;                 // of them, by name

// One transaction of the duty: a batch, or the job `only`. `done` is how many jobs it changed.
static bool try_step(const JobDuty &duty, int64 only, bool *more, TimestampTz *next, int64 *done,
                     pg::Failure *failure) {
    *more = false;
    *done = 0;
    setback::begin(duty.jobs, only);
    bool good = attempt(duty.activity, failure, [&] {
        // Not long: others are waiting, and this job is tried again.
        if (only != 0)
            set_config_option("lock_timeout", "10ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
                              true, 0, false);
        *done = duty.step(GetCurrentTimestamp(), more, next);
    });
    setback::end();
    return good;
}

static void serve_between(Worker *worker) {
    if ((pg_atomic_fetch_and_u32(&worker->database->work, ~uint32{work_notify}) & work_notify) != 0)
        send_notifications(worker);
    check_for_end();
}

static void log_failed(const JobDuty &duty, int64 job, const pg::Failure &failure) {
    ereport(LOG,
            errmsg("%s %s " INT64_FORMAT " failed: %s", duty.activity, duty.thing, job,
                   failure.message),
            errdetail("SQLSTATE %s; the %s is passed over and tried again, at least once a minute.",
                      unpack_sql_state(failure.sqlstate), duty.thing));
}

// The jobs of a batch that failed, each in a transaction of its own: those that fail alone too are
// passed over from now on. Not for longer than a second: the other duties wait. False if that has
// changed nothing.
static bool one_by_one(Worker *worker, const JobDuty &duty, TimestampTz *next) {
    int count = duty.jobs->count;
    if (count == 0 || extension_gone())
        return false;
    auto *jobs = static_cast<int64 *>(palloc(sizeof(int64) * count));
    memcpy(jobs, duty.jobs->suspects, sizeof(int64) * count);
    TimestampTz end = GetCurrentTimestamp() + longest_singly;
    bool changed = false;
    int failures = 0;
    for (int i = 0; i < count && GetCurrentTimestamp() < end; i++) {
        if (duty.jobs->failed.has(jobs[i])) // twice among the suspects
            continue;
        pg::Failure failure;
        bool more;
        int64 done;
        if (try_step(duty, jobs[i], &more, next, &done, &failure)) {
            changed |= done > 0;
        } else if (duty.jobs->failed.note(jobs[i], GetCurrentTimestamp())) {
            changed = true;
            if (++failures <= most_logged)
                log_failed(duty, jobs[i], failure);
        }
        serve_between(worker);
    }
    if (failures > most_logged)
        ereport(LOG, errmsg("%s failed for %d more %ss", duty.activity, failures - most_logged,
                            duty.thing));
    return changed;
}

// Jobs that have failed and whose time has come: those that succeed are no special ones any more.
static void try_again(Worker *worker, const JobDuty &duty, TimestampTz *next) {
    core::Setbacks *failed = &duty.jobs->failed;
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz end = now + longest_singly;
    for (int i = 0; i < failed->count && GetCurrentTimestamp() < end;) {
        int64 job = failed->list[i].job;
        if (failed->list[i].again > now) {
            i++;
            continue;
        }
        pg::Failure failure;
        bool more;
        int64 done;
        if (try_step(duty, job, &more, next, &done, &failure))
            failed->forget(job);
        else
            failed->note(job, GetCurrentTimestamp());
        serve_between(worker);
    }
    *next = Min(*next, failed->next(never));
}

bool in_batches(Worker *worker, const JobDuty &duty, TimestampTz *next) {
    TimestampTz end = GetCurrentTimestamp() + longest_turn;
    bool more = true;
    while (more) {
        pg::Failure failure;
        int64 done;
        if (!try_step(duty, 0, &more, next, &done, &failure)) {
            if (!one_by_one(worker, duty, next)) {
                note_failure(&worker->backoff, duty.activity, failure);
                return false;
            }
            more = true;
            end = 0;
        }
        serve_between(worker);
        if (more && GetCurrentTimestamp() >= end) {
            *next = GetCurrentTimestamp(); // go on, but after the other duties
            break;
        }
    }
    try_again(worker, duty, next);
    return true;
}

} // namespace pgjobs::process

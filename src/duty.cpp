#include "duty.hpp"

#include "catalog.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "shared.hpp"

namespace pgjobs::duty {

using store::Col;

constexpr int64 batch = 500;

// Only queues that are at home here.
#define AT_HOME                                                                                    \
    "EXISTS (SELECT FROM pgjobs.queue q JOIN pgjobs.home h ON h.id = q.home AND h.database = $2 "  \
    "WHERE q.id = j.queue_id)"

static constinit pg::Statement select_scheduled{
    "SELECT j.id, j.due_at FROM pgjobs.job j WHERE j.waiting = 1 AND " AT_HOME
    " ORDER BY j.due_at, j.id LIMIT $1",
    {INT8OID, OIDOID},
    nullptr};

static constinit pg::Statement select_expiring{
    "SELECT j.id, j.expires_at FROM pgjobs.job j WHERE j.expires_at IS NOT NULL AND " AT_HOME
    " AND j.started_at IS NULL ORDER BY j.expires_at LIMIT $1",
    {INT8OID, OIDOID},
    nullptr};

struct Due {
    int64 ids[batch];
    int count;
};

static int compare_ids(const void *a, const void *b) {
    int64 x = *static_cast<const int64 *>(a);
    int64 y = *static_cast<const int64 *>(b);
    return x < y ? -1 : x > y ? 1 : 0;
}

// The first rows in order of time: those that are due, and the time of the next one.
static Due *find_due(pg::Statement *statement, TimestampTz now, bool *more, TimestampTz *next) {
    auto *due = static_cast<Due *>(palloc0(sizeof(Due)));
    pg::as_owner([&] {
        uint64 count = pg::run(statement, pg::value(batch + 1), pg::oid_value(MyDatabaseId));
        for (uint64 i = 0; i < count; i++) {
            if (pg::int64_at(i, 2) > now) {
                *next = Min(*next, pg::int64_at(i, 2));
                break;
            }
            if (due->count == batch)
                *more = true;
            else
                due->ids[due->count++] = pg::int64_at(i, 1);
        }
    });
    qsort(due->ids, due->count, sizeof(int64), compare_ids); // one order of locks
    return due;
}

// Runs `step(jobs, archive)` on each due row that nobody else has; it returns whether it did
// something. Rows that somebody has are looked at again soon.
template <class F> static int64 for_each_due(const Due &due, TimestampTz *next, F step) {
    if (due.count == 0)
        return 0;
    return store::with_jobs([&](store::Table *jobs) {
        history::Archive archive{};
        int64 done = 0;
        for (int i = 0; i < due.count; i++) {
            if (store::find(jobs, due.ids[i], LockWaitSkip))
                done += step(jobs, &archive);
            else if (jobs->busy)
                *next = Min(*next, GetCurrentTimestamp() + 20 * 1000);
        }
        history::close(&archive);
        return done;
    });
}

int64 promote(TimestampTz now, bool *more, TimestampTz *next) {
    Due *due = find_due(&select_scheduled, now, more, next);
    int64 done = for_each_due(*due, next, [&](store::Table *jobs, history::Archive *) {
        if (life::state_of(jobs) != core::State::scheduled ||
            store::get_int64(jobs, Col::due_at, never) > now)
            return false;
        life::promote(jobs);
        return true;
    });
    *more = *more && done > 0;
    return done;
}

int64 expire(TimestampTz now, bool *more, TimestampTz *next) {
    Due *due = find_due(&select_expiring, now, more, next);
    int64 done = for_each_due(*due, next, [&](store::Table *jobs, history::Archive *archive) {
        const Queue *queue = find_queue(store::get_int32(jobs, Col::queue_id));
        if (queue == nullptr || store::has(jobs, Col::started_at) ||
            store::get_int64(jobs, Col::expires_at, never) > now)
            return false;
        life::cancel(jobs, archive, queue, "it was not started before expires_at", now);
        return true;
    });
    *more = *more && done > 0;
    return done;
}

// A duty called by hand: until nothing is due.
static int64 run_duty(FunctionCallInfo fcinfo, const char *verb,
                      int64 (*duty)(TimestampTz, bool *, TimestampTz *)) {
    pg::require_writable(verb);
    require_administrator("run pgjobs' duties");
    TimestampTz now = pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 0, "now")), "now");
    int64 total = 0;
    bool more;
    do {
        TimestampTz next = never;
        more = false;
        total += duty(now, &more, &next);
    } while (more);
    return total;
}

// pgjobs._promote(now timestamptz) -> bigint
PGJOBS_FUNCTION(_promote) { PG_RETURN_INT64(run_duty(fcinfo, "pgjobs._promote()", promote)); }

// pgjobs._expire(now timestamptz) -> bigint
PGJOBS_FUNCTION(_expire) { PG_RETURN_INT64(run_duty(fcinfo, "pgjobs._expire()", expire)); }

} // namespace pgjobs::duty

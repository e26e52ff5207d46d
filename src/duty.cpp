#include "duty.hpp"

#include "catalog.hpp"
#include "core/patience.hpp"
#include "inject.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "setback.hpp"
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
    " AND (j.due_at, j.id) > ($3, $4) ORDER BY j.due_at, j.id LIMIT $1",
    {INT8OID, OIDOID, TIMESTAMPTZOID, INT8OID},
    nullptr};

static constinit pg::Statement select_expiring{
    "SELECT j.id, j.expires_at FROM pgjobs.job j WHERE j.expires_at IS NOT NULL AND " AT_HOME
    " AND j.started_at IS NULL AND (j.expires_at, j.id) > ($3, $4) "
    "ORDER BY j.expires_at, j.id LIMIT $1",
    {INT8OID, OIDOID, TIMESTAMPTZOID, INT8OID},
    nullptr};

// A place in the order of time.
struct Position {
    TimestampTz at;
    int64 id;
};
struct Due {
    int64 ids[batch];
    int count;
    Position last;
    bool more; // are due behind it
};

static int compare_ids(const void *a, const void *b) {
    int64 x = *static_cast<const int64 *>(a);
    int64 y = *static_cast<const int64 *>(b);
    return x < y ? -1 : x > y ? 1 : 0;
}

// The first rows behind `start` in order of time: those that are due, and the time of the next one.
static Due *find_due(pg::Statement *statement, const Position &start, TimestampTz now,
                     TimestampTz *next) {
    auto *due = static_cast<Due *>(palloc0(sizeof(Due)));
    if (setback::only() != 0) {
        due->ids[due->count++] = setback::only(); // whether it is due, its step sees
        return due;
    }
    pg::as_owner([&] {
        uint64 count = pg::run(statement, pg::value(batch + 1), pg::oid_value(MyDatabaseId),
                               pg::value(start.at), pg::value(start.id));
        for (uint64 i = 0; i < count; i++) {
            Position here = {pg::int64_at(i, 2), pg::int64_at(i, 1)};
            if (here.at > now) {
                *next = Min(*next, here.at);
                break;
            }
            due->more = due->count == batch;
            if (due->more)
                break;
            due->ids[due->count++] = here.id;
            due->last = here;
        }
    });
    qsort(due->ids, due->count, sizeof(int64), compare_ids); // one order of locks
    return due;
}

// Runs `step(jobs, archive)` on each due row that nobody else has; it returns whether it did
// something. Returns how often it did.
template <class F> static int64 for_each_due(const Due &due, bool *busy, F step) {
    if (due.count == 0)
        return 0;
    setback::announce(due.ids, due.count);
    return store::with_jobs([&](store::Table *jobs) {
        history::Archive archive{};
        int64 done = 0;
        for (int i = 0; i < due.count; i++) {
            if (!setback::comes_to(due.ids[i]))
                continue;
            if (store::find(jobs, due.ids[i], LockWaitSkip)) {
                PGJOBS_POINT("duty-locked");
                done += step(jobs, &archive);
                PGJOBS_POINT("duty-done");
            } else {
                *busy |= jobs->busy;
            }
        }
        history::close(&archive);
        return done;
    });
}

// Works off a batch of what is due. Rows that somebody has are passed over, be they ever so many,
// and looked at again soon.
template <class F>
static int64 work_off(pg::Statement *statement, core::Patience *patience, TimestampTz now,
                      bool *more, TimestampTz *next, F step) {
    Position position = {DT_NOBEGIN, 0};
    int64 done = 0;
    bool busy = false;
    do {
        Due *due = find_due(statement, position, now, next);
        done += for_each_due(*due, &busy, step);
        position = due->last;
        *more = due->more;
        pfree(due);
        CHECK_FOR_INTERRUPTS();
    } while (*more && done < batch);
    if (int64 wait = patience->after(busy); wait > 0)
        *next = Min(*next, GetCurrentTimestamp() + wait);
    return done;
}

int64 promote(TimestampTz now, bool *more, TimestampTz *next) {
    static core::Patience patience;
    if (mutant(10))
        now += USECS_PER_SEC;
    auto step = [&](store::Table *jobs, history::Archive *) {
        if (life::state_of(jobs) != core::State::scheduled ||
            store::get_int64(jobs, Col::due_at, never) > now)
            return false;
        life::promote(jobs);
        return true;
    };
    return work_off(&select_scheduled, &patience, now, more, next, step);
}

int64 expire(TimestampTz now, bool *more, TimestampTz *next) {
    static core::Patience patience;
    auto step = [&](store::Table *jobs, history::Archive *archive) {
        const Queue *queue = find_queue(store::get_int32(jobs, Col::queue_id));
        if (queue == nullptr || store::has(jobs, Col::started_at) ||
            store::get_int64(jobs, Col::expires_at, never) > now)
            return false;
        life::cancel(jobs, archive, queue, "it was not started before expires_at", now);
        return true;
    };
    return work_off(&select_expiring, &patience, now, more, next, step);
}

int64 run_by_hand(FunctionCallInfo fcinfo, const char *verb,
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
PGJOBS_FUNCTION(_promote) { PG_RETURN_INT64(run_by_hand(fcinfo, "pgjobs._promote()", promote)); }

// pgjobs._expire(now timestamptz) -> bigint
PGJOBS_FUNCTION(_expire) { PG_RETURN_INT64(run_by_hand(fcinfo, "pgjobs._expire()", expire)); }

} // namespace pgjobs::duty

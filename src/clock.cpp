#include "clock.hpp"

#include "core/clock.hpp"
#include "pg/spi.hpp"

#include <sys/timerfd.h>
#include <unistd.h>

namespace pgjobs::clock {

// ---- sleeping ----

// A sleep of this length, ms, ends soon enough by itself. It is measured by the other clock.
constexpr long short_sleep = 10 * 1000;

// A descriptor of this process that can be read once the clock was set; -1 where that is not to be
// had.
static int open_alarm() {
    int fd = AcquireExternalFD() ? timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC) : -1;
    itimerspec never_due{};
    never_due.it_value.tv_sec = INT64_C(1) << 33; // in the year 2242
    if (fd < 0 ||
        timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never_due, nullptr) == 0)
        return fd;
    close(fd);
    return -1;
}

static int alarm_of_process() {
    static bool opened;
    static int alarm;
    if (!opened)
        alarm = open_alarm();
    opened = true;
    return alarm;
}

static void silence(int alarm) {
    char buffer[256];
    while (read(alarm, buffer, sizeof(buffer)) > 0)
        ;
}

void sleep(long milliseconds) {
    int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (milliseconds >= 0 ? WL_TIMEOUT : 0);
    int alarm = milliseconds > short_sleep ? alarm_of_process() : -1;
    if (alarm < 0) {
        WaitLatch(MyLatch, events, Min(milliseconds, short_sleep), PG_WAIT_EXTENSION);
        return;
    }
    WaitLatchOrSocket(MyLatch, events | WL_SOCKET_READABLE, alarm, milliseconds, PG_WAIT_EXTENSION);
    silence(alarm);
}

// ---- looking ----

static core::Clocks look() { return {GetCurrentTimestamp(), core::monotonic()}; }

// Before the first look there was none.
static core::Clocks last_look(const Database *database) {
    return {static_cast<int64>(
                pg_atomic_read_u64(const_cast<pg_atomic_uint64 *>(&database->looked_wall))),
            static_cast<int64>(
                pg_atomic_read_u64(const_cast<pg_atomic_uint64 *>(&database->looked_at)))};
}

static int64 jump_since(const core::Clocks &before, const core::Clocks &now) {
    return before.monotonic == 0 ? 0 : core::jump_between(before, now);
}

bool has_jumped(const Database *database) { return jump_since(last_look(database), look()) != 0; }

int64 take_jump(Database *database) {
    core::Clocks before = last_look(database);
    core::Clocks now = look();
    pg_atomic_write_u64(&database->looked_wall, static_cast<uint64>(now.wall));
    pg_atomic_write_u64(&database->looked_at, static_cast<uint64>(now.monotonic));
    int64 jump = jump_since(before, now);
    // Leases given from now on are not of the server's life before.
    uint64 since = pg_atomic_read_u64(&shared->writable_since);
    if (jump < 0 && static_cast<int64>(since) > now.wall)
        pg_atomic_compare_exchange_u64(&shared->writable_since, &since,
                                       static_cast<uint64>(now.wall));
    return jump;
}

// ---- leases ----

static pg::Value interval_of(int64 microseconds) {
    auto *interval = static_cast<Interval *>(palloc0(sizeof(Interval)));
    interval->time = microseconds;
    return pg::value(IntervalPGetDatum(interval));
}

static constinit pg::Statement select_end_of_truce{
    "SELECT $2 + COALESCE(LEAST($1, pg_catalog.max(q.lease)), '0') FROM pgjobs.queue q",
    {INTERVALOID, TIMESTAMPTZOID},
    nullptr};

TimestampTz end_of_truce(int64 jump, TimestampTz now) {
    return pg::as_owner([&] {
        pg::run(&select_end_of_truce, interval_of(jump), pg::value(now));
        return pg::int64_at(0, 1);
    });
}

// Those that end later than one would that is given now; most were given before the jump.
static constinit pg::Statement update_jobs{
    "WITH late AS (SELECT j.id, GREATEST(e.until - $1, $2 + q.lease) AS until "
    "FROM pgjobs.job j JOIN pgjobs.queue q ON q.id = j.queue_id "
    "CROSS JOIN LATERAL pgjobs._lease_end(j.id, j.lease_expires_at) AS e (until) "
    "WHERE j.token IS NOT NULL AND e.until > $2 + q.lease FOR NO KEY UPDATE OF j SKIP LOCKED) "
    "UPDATE pgjobs.job j SET lease_expires_at = late.until, rev = j.rev + 1, "
    "started_at = LEAST(j.started_at, $2) FROM late WHERE j.id = late.id",
    {INTERVALOID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement update_subscriptions{
    "WITH late AS (SELECT s.id FROM pgjobs.subscription s "
    "WHERE s.lease_expires_at > $2 + GREATEST($1 - interval '1 minute', '0') "
    "FOR NO KEY UPDATE SKIP LOCKED) "
    "UPDATE pgjobs.subscription s SET lease_expires_at = GREATEST(s.lease_expires_at - $1, $2) "
    "FROM late WHERE s.id = late.id",
    {INTERVALOID, TIMESTAMPTZOID},
    nullptr};

// Those that seem to come from the future.
static constinit pg::Statement update_rows{
    "UPDATE pgjobs.working_row SET since = since - $1, due_at = due_at - $1 WHERE since > $2",
    {INTERVALOID, TIMESTAMPTZOID},
    nullptr};

void move_leases(int64 jump, TimestampTz now) {
    pg::as_owner([&] {
        pg::Value by = interval_of(-jump);
        pg::run(&update_jobs, by, pg::value(now));
        pg::run(&update_subscriptions, by, pg::value(now));
        pg::run(&update_rows, by, pg::value(now));
    });
}

} // namespace pgjobs::clock

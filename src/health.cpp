// pgjobs.health(): what can be wrong, looked at without counting anything. Each check says what it
// saw; none raises where something is missing.
#include "health.hpp"

#include "acl.hpp"
#include "attached.hpp"
#include "catalog.hpp"
#include "core/version.hpp"
#include "count.hpp"
#include "direct.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"
#include "shared.hpp"

namespace pgjobs::health {

constexpr int64 late = 5 * USECS_PER_SEC;         // what is due is done by then
constexpr int64 long_prepared = USECS_PER_MINUTE; // prepared transactions end sooner
constexpr int64 long_open = 5 * USECS_PER_MINUTE; // and others
constexpr double full_notify_queue = 0.5;         // of the server's queue of notifications
#define MANY_TRANSACTIONS "1000000"

void report(FunctionCallInfo fcinfo, const char *name, bool ok, const char *detail) {
    Datum values[] = {CStringGetTextDatum(name), BoolGetDatum(ok), CStringGetTextDatum(detail)};
    bool nulls[lengthof(values)] = {};
    pg::return_row(fcinfo, values, nulls);
}

const char *in_words(int64 microseconds) {
    int64 seconds = microseconds / USECS_PER_SEC;
    if (seconds < 120)
        return psprintf(INT64_FORMAT " s", seconds);
    if (seconds < 2 * SECS_PER_HOUR)
        return psprintf(INT64_FORMAT " min", seconds / SECS_PER_MINUTE);
    return psprintf(INT64_FORMAT " h", seconds / SECS_PER_HOUR);
}

// ---- processes ----

static void check_launcher(FunctionCallInfo fcinfo) {
    if (RecoveryInProgress())
        report(fcinfo, "launcher", true, "not needed: this server is a standby");
    else if (pg_atomic_read_u32(&shared->launcher) != 0)
        report(fcinfo, "launcher", true, "running");
    else
        report(fcinfo, "launcher", false, "not running; see the server's log");
}

// Why there is no worker although one is needed; nullptr where none is.
static const char *missing_worker(const Database &database, TimestampTz now) {
    auto due = static_cast<TimestampTz>(
        pg_atomic_read_u64(const_cast<pg_atomic_uint64 *>(&database.next_due)));
    bool wanted =
        due < now - late || pg_atomic_read_u32(const_cast<pg_atomic_uint32 *>(&database.work)) != 0;
    if (database.probed && !database.listed)
        return "not wanted: pgjobs.databases does not name this database";
    if (!wanted)
        return nullptr;
    if (database.held_by != 0)
        return psprintf("kept away by the command that process %d runs", database.held_by);
    if (database.refused)
        return "all background worker slots are in use; raise max_worker_processes";
    return due < now - late ? "not running although something is due" : nullptr;
}

static void check_worker(FunctionCallInfo fcinfo, Database *database, TimestampTz now) {
    if (RecoveryInProgress()) {
        report(fcinfo, "worker", true, "not needed: this server is a standby");
        return;
    }
    if (database == nullptr) {
        report(fcinfo, "worker", false, "no place is left for it; raise pgjobs.max_databases");
        return;
    }
    if (uint32 pid = pg_atomic_read_u32(&database->worker_pid); pid != 0) {
        report(fcinfo, "worker", true, psprintf("running, pid %u", pid));
        return;
    }
    Database copy = pg::locked(shared->databases_lock, LW_SHARED, [&] { return *database; });
    const char *missing = missing_worker(copy, now);
    report(fcinfo, "worker", missing == nullptr,
           missing != nullptr ? missing : "not needed: nothing is due");
}

static void check_execute(FunctionCallInfo fcinfo) {
    report(fcinfo, "execute", settings::execute,
           settings::execute ? "jobs are handed out"
                             : "pgjobs.execute is off: no job is handed out on this server");
}

static void check_server(FunctionCallInfo fcinfo) {
    const char *number = GetConfigOption("server_version_num", false, false);
    bool good = core::has_notify_repairs(static_cast<int32>(strtol(number, nullptr, 10)));
    report(fcinfo, "server", good,
           psprintf(good ? "version %s" : "version %s has known faults in NOTIFY; update it",
                    GetConfigOption("server_version", false, false)));
}

static constinit pg::Statement select_version{
    "SELECT extversion::pg_catalog.text FROM pg_catalog.pg_extension"
    " WHERE extname OPERATOR(pg_catalog.=) 'pgjobs'",
    {},
    nullptr};

// Library and objects are exchanged by two steps: a restart, and ALTER EXTENSION.
static void check_version(FunctionCallInfo fcinfo) {
    pg::as_owner([&] {
        bool there = pg::run(&select_version) == 1;
        const char *objects = there ? TextDatumGetCString(pg::datum_at(0, 1)) : "unknown";
        bool good = strcmp(objects, PGJOBS_VERSION) == 0;
        report(fcinfo, "version", good,
               psprintf(good ? "%s"
                             : "%s, but the loaded library is " PGJOBS_VERSION
                               ": restart the server if its package is newer, then run ALTER "
                               "EXTENSION pgjobs UPDATE",
                        objects));
    });
}

// ---- what is late ----

#define AT_HOME                                                                                    \
    "EXISTS (SELECT FROM pgjobs.queue q JOIN pgjobs.home h ON h.id = q.home AND h.database = $1 "  \
    "WHERE q.id = j.queue_id)"

static constinit pg::Statement select_scheduled{
    "SELECT j.due_at FROM pgjobs.job j WHERE j.waiting = 1 AND j.due_at < $2 AND " AT_HOME
    " ORDER BY j.due_at, j.id LIMIT 1",
    {OIDOID, TIMESTAMPTZOID},
    nullptr};

static void check_late(FunctionCallInfo fcinfo, const char *name, const char *what,
                       TimestampTz since, TimestampTz now) {
    bool good = since >= now - late;
    report(fcinfo, name, good,
           good ? "nothing is late"
                : psprintf("%s since %s; somebody may have the job locked, or see the server's log",
                           what, in_words(now - since)));
}

static void check_scheduled(FunctionCallInfo fcinfo, TimestampTz now) {
    TimestampTz since = pg::as_owner([&]() -> TimestampTz {
        return pg::run(&select_scheduled, pg::oid_value(MyDatabaseId), pg::value(now)) == 0
                   ? now
                   : pg::int64_at(0, 1);
    });
    check_late(fcinfo, "scheduled jobs", "a job should have become ready", since, now);
}

struct Listed {
    int64 count;
    TimestampTz first; // end of a lease; never without
};

static Listed list_leases() {
    return pg::locked(shared->leases_lock, LW_SHARED, [] {
        Listed listed = {0, never};
        HASH_SEQ_STATUS scan;
        hash_seq_init(&scan, leases);
        while (auto *lease = static_cast<Lease *>(hash_seq_search(&scan)))
            if (lease->key.database == MyDatabaseId) {
                listed.count++;
                listed.first = Min(listed.first, lease->expires_at);
            }
        return listed;
    });
}

static void check_leases(FunctionCallInfo fcinfo, TimestampTz now) {
    Listed listed = list_leases();
    check_late(fcinfo, "leases", "a lease is over", listed.first, now);
    bool full = hash_get_num_entries(leases) >= settings::max_leases;
    report(fcinfo, "lease list", !full,
           full ? "full: running jobs are looked for in the table; raise pgjobs.max_leases"
                : psprintf(INT64_FORMAT " running jobs", listed.count));
}

// ---- what is in the way ----

static constinit pg::Statement select_holder{
    "SELECT h.kind, h.name, h.age, h.transactions, h.late FROM ("
    "SELECT k.kind, k.name, k.age, k.transactions, COALESCE(k.age > $1, k.transactions "
    "> " MANY_TRANSACTIONS " OR NOT k.active) AS late FROM ("
    "SELECT 'process' AS kind, a.pid::text AS name, "
    "pg_catalog.clock_timestamp() - a.xact_start AS age, true AS active, "
    "GREATEST(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid)) AS transactions "
    "FROM pg_catalog.pg_stat_activity a WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT "
    "NULL) AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type <> 'autovacuum worker' "
    "AND COALESCE(a.datid = $2, true) UNION ALL "
    "SELECT 'prepared transaction', p.gid, pg_catalog.clock_timestamp() - p.prepared, true, "
    "pg_catalog.age(p.transaction) FROM pg_catalog.pg_prepared_xacts p "
    "WHERE p.database = pg_catalog.current_database() UNION ALL "
    "SELECT 'replication slot', s.slot_name::text, NULL::interval, s.active, "
    "pg_catalog.age(s.xmin) FROM pg_catalog.pg_replication_slots s WHERE s.xmin IS NOT NULL) k) h "
    "ORDER BY h.late DESC, h.transactions DESC, h.age DESC NULLS LAST LIMIT 1",
    {INTERVALOID, OIDOID},
    nullptr};

static pg::Value interval_value(int64 microseconds) {
    auto *interval = static_cast<Interval *>(palloc0(sizeof(Interval)));
    interval->time = microseconds;
    return pg::value(IntervalPGetDatum(interval));
}

static int64 interval_at(uint64 row, int column) {
    const Interval *interval = DatumGetIntervalP(pg::datum_at(row, column));
    return interval->time + (int64{interval->month} * DAYS_PER_MONTH + interval->day) * pg::day;
}

static void check_vacuum(FunctionCallInfo fcinfo) {
    pg::as_owner([&] {
        if (pg::run(&select_holder, interval_value(long_open), pg::oid_value(MyDatabaseId)) == 0) {
            report(fcinfo, "vacuum", true, "nothing is held back");
            return;
        }
        StringInfoData detail;
        initStringInfo(&detail);
        appendStringInfo(&detail, "oldest: %s %s", TextDatumGetCString(pg::datum_at(0, 1)),
                         TextDatumGetCString(pg::datum_at(0, 2)));
        if (!pg::is_null(0, 3))
            appendStringInfo(&detail, ", %s", in_words(interval_at(0, 3)));
        appendStringInfo(&detail, ", %d transactions ago", pg::int32_at(0, 4));
        report(fcinfo, "vacuum", !pg::bool_at(0, 5), detail.data);
    });
}

static constinit pg::Statement select_prepared{
    "SELECT p.transaction, p.gid, pg_catalog.clock_timestamp() - p.prepared "
    "FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database() "
    "ORDER BY p.prepared",
    {},
    nullptr};

static bool has_pin(TransactionId xid) {
    return pg::locked(shared->databases_lock, LW_SHARED, [&] {
        for (int i = 0; i < shared->pins; i++)
            if (pins[i].xid == xid)
                return true;
        return false;
    });
}

static void check_prepared(FunctionCallInfo fcinfo) {
    pg::as_owner([&] {
        uint64 count = pg::run(&select_prepared);
        int touching = 0;
        const char *oldest = nullptr;
        for (uint64 i = 0; i < count; i++) {
            if (!has_pin(DatumGetTransactionId(pg::datum_at(i, 1))))
                continue;
            touching++;
            if (oldest == nullptr && interval_at(i, 3) > long_prepared)
                oldest =
                    psprintf("\"%s\" has been prepared for %s and may have jobs in its hands",
                             TextDatumGetCString(pg::datum_at(i, 2)), in_words(interval_at(i, 3)));
        }
        report(fcinfo, "prepared transactions", oldest == nullptr,
               oldest != nullptr ? oldest : psprintf("%d with jobs", touching));
    });
}

// Which listener keeps it full nobody can see; it sits in a transaction, most likely in the oldest.
static constinit pg::Statement select_usage{
    "SELECT pg_catalog.pg_notification_queue_usage(), COALESCE(("
    "SELECT a.pid FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend' "
    "AND a.xact_start IS NOT NULL ORDER BY a.xact_start LIMIT 1), 0)",
    {},
    nullptr};

static void check_notifications(FunctionCallInfo fcinfo) {
    int32 oldest;
    double usage = pg::as_owner([&] {
        pg::run(&select_usage);
        oldest = pg::int32_at(0, 2);
        return DatumGetFloat8(pg::datum_at(0, 1));
    });
    const char *detail = psprintf("the server's queue is %.0f %% full", usage * 100);
    if (usage > full_notify_queue)
        detail = psprintf("%s: a listener sits in a transaction; the oldest is that of process %d",
                          detail, oldest);
    report(fcinfo, "notifications", usage <= full_notify_queue, detail);
}

// ---- the tables ----

// Of queues or topics.
struct Strangers {
    int count;
    const char *first;
};
template <class T>
static Strangers find_strangers(const acl::Visible &visible, const T *(*find)(int32)) {
    Strangers strangers{};
    for (int i = 0; i < visible.count; i++) {
        const T *object = find(visible.ids[i]);
        if (object == nullptr || object->home)
            continue;
        strangers.count++;
        if (strangers.first == nullptr)
            strangers.first = object->name;
    }
    return strangers;
}

static void check_quarantine(FunctionCallInfo fcinfo) {
    Strangers queues =
        find_strangers<Queue>(acl::visible_queues(monitor | operate | own), find_queue);
    Strangers topics = find_strangers<Topic>(acl::visible_topics(), find_topic);
    bool none = queues.count + topics.count == 0;
    report(fcinfo, "quarantine", none,
           none ? "no queue, no topic"
                : psprintf("%d queues and %d topics, such as \"%s\": call pgjobs.resume() if their "
                           "jobs are to run in this database",
                           queues.count, topics.count,
                           queues.first != nullptr ? queues.first : topics.first));
}

// What is wrong with the table of jobs; nullptr if nothing is.
static const char *fault_of_jobs() {
    Relation jobs = try_relation_open(relations()->job, NoLock);
    if (jobs == nullptr)
        return "missing";
    const direct::Layout *layout = direct::layout_of(jobs, direct::Kind::jobs);
    const char *fault = !layout->announced ? "a trigger of pgjobs.job is off or missing; "
                                             "pgjobs.resume() turns on what is off"
                                           : nullptr;
    List *indexes = RelationGetIndexList(jobs);
    relation_close(jobs, NoLock);
    ListCell *cell;
    int valid = 0;
    foreach (cell, indexes)
        valid += get_index_isvalid(lfirst_oid(cell));
    if (fault == nullptr && (valid < list_length(indexes) || valid < direct::job_indexes))
        fault = "an index of pgjobs.job is missing or invalid; see REINDEX";
    return fault;
}

static void check_table(FunctionCallInfo fcinfo) {
    const char *fault = fault_of_jobs();
    report(fcinfo, "table", fault == nullptr,
           fault != nullptr ? fault : "triggers and indexes are as they should be");
}

static constinit pg::Statement select_old_partitions{
    "SELECT pg_catalog.count(*), pg_catalog.min(c.relname::text) FROM pg_catalog.pg_class c "
    "WHERE c.relnamespace = $1 AND c.relkind = 'r' AND c.relname ~ '^history_[0-9]{8}$' AND "
    "pg_catalog.right(c.relname::text, 8)::date < "
    "(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC')::date - 1",
    {OIDOID},
    nullptr};

static void check_history(FunctionCallInfo fcinfo) {
    pg::as_owner([&] {
        pg::run(&select_old_partitions, pg::oid_value(relations()->schema));
        int64 count = pg::int64_at(0, 1);
        report(fcinfo, "history", count == 0,
               count == 0 ? "no partition is overdue"
                          : psprintf(INT64_FORMAT " partitions should have been dropped, since %s; "
                                                  "somebody may be reading them",
                                     count, TextDatumGetCString(pg::datum_at(0, 2))));
    });
}

static constinit pg::Statement count_stages{
    "SELECT pg_catalog.count(*) FROM pgjobs.stage s", {}, nullptr};

static void check_figures(FunctionCallInfo fcinfo) {
    if (RecoveryInProgress()) {
        report(fcinfo, "figures", true, "not kept on a standby: the views count");
        return;
    }
    int64 stages = pg::as_owner([] { return pg::run(&count_stages), pg::int64_at(0, 1); });
    count::Overview overview = count::overview();
    const char *detail =
        overview.wrong > 0
            ? psprintf(INT64_FORMAT " stages have fewer than no jobs; call pgjobs._recount()",
                       overview.wrong)
        : overview.counted < stages
            ? psprintf("known of " INT64_FORMAT " of " INT64_FORMAT " stages; of the others the "
                       "views count the jobs",
                       overview.counted, stages)
            : psprintf("known of all " INT64_FORMAT " stages", stages);
    report(fcinfo, "figures", overview.wrong == 0, detail);
}

// Attached tables that one may not see are none of one's business.
static void check_attached(FunctionCallInfo fcinfo) {
    List *tables = pg::as_owner(
        [] { return pg::in_context(TopTransactionContext, [] { return attached_tables(); }); });
    const char *fault = nullptr;
    ListCell *cell;
    foreach (cell, tables) {
        const char *found = fault == nullptr ? attached::fault_of(lfirst_oid(cell)) : nullptr;
        const Attachment *attachment =
            fault == nullptr ? find_attachment(lfirst_oid(cell)) : nullptr;
        if (found == nullptr && attachment != nullptr && !attachment->at_home)
            found = "is quarantined: call pgjobs.resume() if its rows are to be worked on in this "
                    "database";
        if (found != nullptr)
            fault = psprintf("table \"%s\" %s", get_rel_name(lfirst_oid(cell)), found);
    }
    report(fcinfo, "attached tables", fault == nullptr,
           fault != nullptr ? fault : psprintf("%d, as they should be", list_length(tables)));
}

static constinit pg::Statement select_stale{
    "SELECT w.due_at FROM pgjobs.working_row w WHERE w.due_at < $2 AND EXISTS ("
    "SELECT FROM pgjobs.home h WHERE h.id = w.home AND h.database = $1) "
    "ORDER BY w.due_at LIMIT 1",
    {OIDOID, TIMESTAMPTZOID},
    nullptr};

static void check_stale(FunctionCallInfo fcinfo, TimestampTz now) {
    TimestampTz since = pg::as_owner([&]() -> TimestampTz {
        return pg::run(&select_stale, pg::oid_value(MyDatabaseId), pg::value(now)) == 0
                   ? now
                   : pg::int64_at(0, 1);
    });
    check_late(fcinfo, "stale rows", "a row should have been taken back", since, now);
}

// pgjobs.health() -> setof (name, ok, detail)
PGJOBS_FUNCTION(health) {
    acl::require_monitor("see the health of pgjobs");
    InitMaterializedSRF(fcinfo, 0);
    TimestampTz now = GetCurrentTimestamp();
    Database *database = RecoveryInProgress() ? nullptr : this_database();
    check_launcher(fcinfo);
    check_worker(fcinfo, database, now);
    check_execute(fcinfo);
    check_server(fcinfo);
    check_version(fcinfo);
    check_leases(fcinfo, now);
    check_vacuum(fcinfo);
    check_prepared(fcinfo);
    check_notifications(fcinfo);
    check_quarantine(fcinfo);
    check_history(fcinfo);
    check_figures(fcinfo);
    check_topics(fcinfo, now);
    // Not to be waited for: somebody may be in the middle of a VACUUM FULL.
    if (!ConditionalLockRelationOid(relations()->job, AccessShareLock)) {
        report(fcinfo, "table", false, "pgjobs.job is locked by somebody who needs it alone");
        PG_RETURN_NULL();
    }
    check_table(fcinfo);
    check_scheduled(fcinfo, now);
    check_attached(fcinfo);
    check_stale(fcinfo, now);
    UnlockRelationOid(relations()->job, AccessShareLock);
    PG_RETURN_NULL();
}

} // namespace pgjobs::health

#include "stale.hpp"

#include "catalog.hpp"
#include "inject.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "row_changes.hpp"
#include "rows.hpp"

namespace pgjobs::stale {

constexpr int batch = 100;
constexpr int64 soon = USECS_PER_SEC;        // somebody has the row just now
constexpr int64 later = USECS_PER_MINUTE;    // it could not be done
constexpr int longest_statement = 60 * 1000; // milliseconds: a trigger may hang
constexpr int most_endless = 2;

// ---- records ----

#define AT_HOME "EXISTS (SELECT FROM pgjobs.home h WHERE h.id = w.home AND h.database = $2)"

static constinit pg::Statement select_due{
    "SELECT w.target, w.key, w.stage, w.since, w.keys IS NOT NULL FROM pgjobs.working_row w "
    "WHERE w.due_at <= $1 AND " AT_HOME " AND ($3 IS NULL OR w.target = $3) "
    "ORDER BY w.due_at LIMIT $4",
    {TIMESTAMPTZOID, OIDOID, OIDOID, INT8OID},
    nullptr};
static constinit pg::Statement select_next{
    "SELECT w.due_at FROM pgjobs.working_row w WHERE w.due_at > $1 AND " AT_HOME
    " ORDER BY w.due_at LIMIT 1",
    {TIMESTAMPTZOID, OIDOID},
    nullptr};
// Of a row that came anew; alone, or with many others.
static constinit pg::Statement select_newer{
    "SELECT FROM pgjobs.working_row w WHERE w.target = $1 AND w.key = $2 AND w.since > $3 "
    "UNION ALL SELECT FROM pgjobs.working_row w WHERE w.target = $1 AND w.key IS NULL "
    "AND w.since > $3 AND $2 BETWEEN w.first_key AND w.last_key AND $2 = ANY (w.keys)",
    {OIDOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement select_record{
    "SELECT FROM pgjobs.working_row w WHERE w.target = $1 AND w.key = $2 AND w.since = $3 "
    "AND w.due_at <= $4",
    {OIDOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement postpone_record{
    "UPDATE pgjobs.working_row SET due_at = $4 WHERE target = $1 AND since = $3 "
    "AND CASE WHEN $2 IS NULL THEN key IS NULL ELSE key = $2 END",
    {OIDOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement postpone_table{
    "UPDATE pgjobs.working_row SET due_at = $3 WHERE target = $1 AND due_at <= $2",
    {OIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement delete_record{
    "DELETE FROM pgjobs.working_row WHERE target = $1 AND since = $3 "
    "AND CASE WHEN $2 IS NULL THEN key IS NULL ELSE key = $2 END",
    {OIDOID, TEXTOID, TIMESTAMPTZOID},
    nullptr};
static constinit pg::Statement delete_records{
    "DELETE FROM pgjobs.working_row WHERE target = $1", {OIDOID}, nullptr};

void forget_table(Oid table) { pg::run(&delete_records, pg::oid_value(table)); }

struct Record {
    Oid table;
    char *key; // nullptr: the record is of many rows
    char *stage;
    TimestampTz since;
};
struct Due {
    Record records[batch];
    int count;
};

// Those that are due first; of one table, or of any. In the caller's memory.
static Due *list_due(TimestampTz now, Oid table) {
    MemoryContext caller = CurrentMemoryContext;
    auto *due = static_cast<Due *>(palloc0(sizeof(Due)));
    pg::as_owner([&] {
        pg::Value only = OidIsValid(table) ? pg::oid_value(table) : pg::Value{};
        due->count =
            static_cast<int>(pg::run(&select_due, pg::value(now), pg::oid_value(MyDatabaseId), only,
                                     pg::value(int64{batch})));
        for (int i = 0; i < due->count; i++) {
            auto row = static_cast<uint64>(i);
            due->records[i] = pg::in_context(caller, [&]() -> Record {
                bool many = pg::bool_at(row, 5);
                return {DatumGetObjectId(pg::datum_at(row, 1)),
                        many ? nullptr : TextDatumGetCString(pg::datum_at(row, 2)),
                        TextDatumGetCString(pg::datum_at(row, 3)), pg::int64_at(row, 4)};
            });
        }
    });
    return due;
}

static void postpone(const Record &record, int64 by) {
    pg::as_owner([&] {
        pg::run(&postpone_record, pg::oid_value(record.table), pg::value(record.key),
                pg::value(record.since), pg::value(GetCurrentTimestamp() + by));
    });
}

static void forget_record(const Record &record) {
    pg::as_owner([&] {
        pg::run(&delete_record, pg::oid_value(record.table), pg::value(record.key),
                pg::value(record.since));
    });
}

// ---- taking a row back ----

// In the caller's memory.
static Key read_key_as_owner(const Attachment *attachment, const char *text) {
    MemoryContext caller = CurrentMemoryContext;
    return pg::as_table_owner(attachment->owner, pg::Policies::hold, [&] {
        return pg::in_context(caller, [&] { return read_key(attachment, text); });
    });
}

// Whether the row is worked on; policies that hide it from its owner may change again.
static bool is_working(const Attachment *attachment, int stage, const Key &key) {
    return pg::as_table_owner(attachment->owner, pg::Policies::do_not_hold,
                              [&] { return rows::is_row_working(attachment, stage, key); });
}

static int stage_of(const Attachment *attachment, const char *name) {
    for (int i = 0; i < attachment->stage_count; i++)
        if (strcmp(attachment->stages[i].name, name) == 0)
            return i;
    return -1;
}

// Whoever has the row locked writes its record before he commits: under the lock it is right.
static bool is_due(const Record &record, TimestampTz now) {
    return pg::as_owner([&] {
        pg::Value table = pg::oid_value(record.table);
        pg::Value key = pg::value(record.key);
        pg::Value since = pg::value(record.since);
        return pg::run(&select_newer, table, key, since) == 0 &&
               pg::run(&select_record, table, key, since, pg::value(now)) > 0;
    });
}

enum class Outcome {
    taken_back,
    forgotten, // the record was out of date
    put_off
};

// Takes the row back, if it is still stale. In a transaction.
static Outcome take_back(const Record &record, TimestampTz now) {
    const Attachment *attachment = find_attachment(record.table);
    int stage = attachment != nullptr ? stage_of(attachment, record.stage) : -1;
    if (stage < 0 || attachment->key_count == 0) {
        forget_record(record); // of a table that is gone, or has other stages now
        return Outcome::forgotten;
    }
    Key key = read_key_as_owner(attachment, record.key);
    bool locked = false;
    bool done = pg::as_table_owner(attachment->owner, pg::Policies::hold, [&] {
        locked = rows::lock_working_row(attachment, stage, key);
        PGJOBS_POINT("stale-locked");
        return locked && is_due(record, now) && rows::give_row_back(attachment, stage, key);
    });
    if (done) { // the trigger has seen to the record
        PGJOBS_POINT("stale-taken");
        return Outcome::taken_back;
    }
    bool newer = pg::as_owner([&] {
        return pg::run(&select_newer, pg::oid_value(record.table), pg::value(record.key),
                       pg::value(record.since)) > 0;
    });
    if (newer || !is_working(attachment, stage, key)) {
        forget_record(record);
        return Outcome::forgotten;
    }
    postpone(record, locked ? later : soon); // a trigger of the user's keeps it as it is
    return Outcome::put_off;
}

// ---- records of many rows ----

static constinit pg::Statement take_keys{
    "DELETE FROM pgjobs.working_row WHERE target = $1 AND since = $2 AND stage = $3 "
    "AND key IS NULL RETURNING keys, due_at, home",
    {OIDOID, TIMESTAMPTZOID, TEXTOID},
    nullptr};

struct Many {
    Datum *keys; // text
    int count;
    TimestampTz due_at;
    int64 home;
};

// Removes the record.
static Many take_many(const Record &record) {
    MemoryContext caller = CurrentMemoryContext;
    Many many{};
    pg::as_owner([&] {
        if (pg::run(&take_keys, pg::oid_value(record.table), pg::value(record.since),
                    pg::value(record.stage)) == 0)
            return;
        many.due_at = pg::int64_at(0, 2);
        many.home = pg::int64_at(0, 3);
        pg::in_context(caller, [&] {
            ArrayType *array = DatumGetArrayTypePCopy(pg::datum_at(0, 1));
            deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &many.keys, nullptr,
                              &many.count);
        });
    });
    return many;
}

// Its rows get records of their own, as old as this one: those that are still worked on, or, if
// what the table's owner has written must not be asked, all. One that leaves meanwhile, or has come
// anew, makes its record out of date: that is seen when it is due, under the row's lock.
static void split(const Record &record, bool ask) {
    Many many = take_many(record);
    const Attachment *attachment = find_attachment(record.table);
    int stage = attachment != nullptr ? stage_of(attachment, record.stage) : -1;
    if (stage < 0 || attachment->key_count == 0)
        return;
    for (int i = 0; i < many.count; i++) {
        const char *key = TextDatumGetCString(many.keys[i]);
        if (ask && !is_working(attachment, stage, read_key_as_owner(attachment, key)))
            continue;
        pg::as_owner([&] {
            row_changes::insert_missing(
                {record.table, many.home, key, record.stage, record.since, many.due_at});
        });
    }
}

// ---- the process ----

template <class F> static bool attempt(F body, pg::Failure *failure) {
    return pg::try_transaction("pgjobs: taking back stale rows", body, failure);
}

static Outcome settle(const Record &record, TimestampTz now) {
    if (record.key != nullptr)
        return take_back(record, now);
    split(record, true);
    return Outcome::forgotten;
}

// A row that raises is put off; among many, it stops no other.
static bool settle_alone(const Record &record, TimestampTz now) {
    pg::Failure failure;
    if (attempt([&] { settle(record, now); }, &failure))
        return true;
    pg::Failure second;
    if (record.key == nullptr && attempt([&] { split(record, false); }, &second))
        return false;
    ereport(LOG,
            errmsg("pgjobs could not take %s%s of the table with oid %u back: %s",
                   record.key != nullptr ? "row " : "many rows",
                   record.key != nullptr ? record.key : "", record.table, failure.message),
            errdetail("SQLSTATE %s; tried again in a minute.", unpack_sql_state(failure.sqlstate)));
    attempt([&] { postpone(record, later); }, &second);
    return false;
}

// Whose triggers take too long is asked to stop, then made to: other tables wait for this process.
static TimeoutId last_resort;

static void end_process() { kill(MyProcPid, SIGTERM); }

// False if it had to be stopped.
static bool settle_in_time(const Record &record, TimestampTz now) {
    int most = StatementTimeout > 0 ? Min(StatementTimeout, longest_statement) : longest_statement;
    enable_timeout_after(STATEMENT_TIMEOUT, most);
    enable_timeout_after(last_resort, most + most / 2);
    bool done = settle_alone(record, now);
    bool in_time = get_timeout_active(STATEMENT_TIMEOUT);
    disable_all_timeouts(false);
    return done || in_time;
}

// Every due row of the table, a transaction for each, so that one that raises stops no other: each
// is taken back, or put off. Two that do not end leave the rest for another time.
static void work_off(Oid table) {
    TimestampTz now = GetCurrentTimestamp();
    MemoryContext context =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs stale rows", ALLOCSET_DEFAULT_SIZES);
    int endless = 0;
    bool more = true;
    while (more) {
        more = false;
        pg::in_context(context, [&] {
            Due *due = nullptr;
            pg::Failure failure;
            attempt(
                [&] {
                    if (extension_exists())
                        due = pg::in_context(context, [&] { return list_due(now, table); });
                },
                &failure);
            for (int i = 0; due != nullptr && i < due->count && endless < most_endless; i++) {
                CHECK_FOR_INTERRUPTS();
                endless += settle_in_time(due->records[i], now) ? 0 : 1;
            }
            more = due != nullptr && due->count > 0 && endless < most_endless;
        });
        MemoryContextReset(context);
    }
    MemoryContextDelete(context);
}

// What the process is told.
struct Errand {
    Oid database;
    Oid table;
    Oid role;
};
static_assert(sizeof(Errand) <= BGW_EXTRALEN);

static Errand errand;

static void leave(int, Datum) {
    Database *database = find_database(errand.database);
    if (database == nullptr)
        return;
    pg_atomic_write_u32(&database->row_reaper, 0);
    lower_rows_due(database, 0);
    lower_next_due(database, GetCurrentTimestamp());
    request_work(database, work_due);
}

static void settle_settings() {
    static const char *const values[][2] = {{"lock_timeout", "1s"},
                                            {"idle_in_transaction_session_timeout", "0"},
                                            {"default_transaction_isolation", "read committed"},
                                            {"default_transaction_deferrable", "off"},
                                            {"session_replication_role", "origin"},
                                            {"row_security", "on"},
                                            {"application_name", "pgjobs row reaper"}};
    for (const auto &value : values)
        SetConfigOption(value[0], value[1], PGC_SUSET, PGC_S_OVERRIDE);
    pg::disable_transaction_timeout();
}

// ---- the worker's side ----

static BackgroundWorkerHandle *process; // nullptr: none runs
static Errand under_way;
static TimestampTz began;

static bool start(const Errand &what) {
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_notify_pid = MyProcPid;
    memcpy(worker.bgw_extra, &what, sizeof(what));
    strlcpy(worker.bgw_library_name, "pgjobs", sizeof(worker.bgw_library_name));
    strlcpy(worker.bgw_function_name, "pgjobs_row_reaper_main", sizeof(worker.bgw_function_name));
    snprintf(worker.bgw_name, BGW_MAXLEN, "pgjobs row reaper for table %u", what.table);
    strlcpy(worker.bgw_type, "pgjobs row reaper", sizeof(worker.bgw_type));
    began = GetCurrentTimestamp();
    under_way = what;
    return pg::in_context(TopMemoryContext,
                          [&] { return RegisterDynamicBackgroundWorker(&worker, &process); });
}

static bool can_connect(Oid role) {
    HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
    if (!HeapTupleIsValid(tuple))
        return false;
    bool login = reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcanlogin;
    ReleaseSysCache(tuple);
    return (login || pg::connect_without_login != 0) && pg::may_connect(role);
}

// What is to be done next, and as whom to connect: InvalidOid, a superuser who becomes the owner,
// where the owner cannot connect, or the table is gone. In a transaction.
static bool find_errand(TimestampTz now, Errand *what, TimestampTz *next) {
    Due *due = list_due(now, InvalidOid);
    if (due->count == 0) {
        pg::as_owner([&] {
            if (pg::run(&select_next, pg::value(now), pg::oid_value(MyDatabaseId)) > 0)
                *next = Min(*next, pg::int64_at(0, 1));
        });
        return false;
    }
    what->database = MyDatabaseId;
    what->table = due->records[0].table;
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(what->table));
    if (HeapTupleIsValid(tuple)) {
        Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
        what->role = can_connect(owner) ? owner : InvalidOid;
        ReleaseSysCache(tuple);
    }
    return true;
}

// A process that has ended has left nothing that was due when it began, unless something went
// wrong.
static void see_after(TimestampTz now) {
    pg::Failure failure;
    attempt(
        [&] {
            pg::as_owner([&] {
                pg::run(&postpone_table, pg::oid_value(under_way.table), pg::value(began),
                        pg::value(now + later));
            });
        },
        &failure);
}

static void tell_of_slots(TimestampTz now) {
    static TimestampTz told;
    if (now < told + USECS_PER_MINUTE)
        return;
    told = now;
    ereport(LOG,
            errmsg("pgjobs could not start a process that takes stale rows back: all background "
                   "worker slots are in use"),
            errhint("Raise max_worker_processes."));
}

// Looks whether something is due; returns when to look again.
static TimestampTz look_for_errand(TimestampTz now) {
    Errand what{};
    TimestampTz next = never;
    bool found = false;
    pg::Failure failure{};
    if (!attempt([&] { found = find_errand(now, &what, &next); }, &failure))
        return now + soon;
    if (!found)
        return next;
    if (!start(what))
        tell_of_slots(now);
    return now + soon;
}

void look(Database *database, TimestampTz *next) {
    TimestampTz now = GetCurrentTimestamp();
    if (process != nullptr) {
        pid_t pid;
        if (GetBackgroundWorkerPid(process, &pid) != BGWH_STOPPED) {
            *next = Min(*next, now + soon); // it calls when it has done
            return;
        }
        pfree(process);
        process = nullptr;
        see_after(now);
    }
    if (pg_atomic_read_u32(&database->row_reaper) != 0) {
        *next = Min(*next, now + soon); // the worker that has started it is gone
        return;
    }
    auto due = static_cast<TimestampTz>(
        pg_atomic_exchange_u64(&database->rows_due, static_cast<uint64>(never)));
    if (due <= now)
        due = look_for_errand(now);
    lower_rows_due(database, due);
    *next = Min(*next, due);
}

// pgjobs._reap_rows(now timestamptz) -> bigint
PGJOBS_FUNCTION(_reap_rows) {
    pg::require_writable("pgjobs._reap_rows()");
    require_administrator("run pgjobs' duties");
    TimestampTz now = pg::finite(DatumGetTimestampTz(pg::required(fcinfo, 0, "now")), "now");
    int64 done = 0;
    Due *due;
    bool more = true;
    while (more) {
        more = false; // what is left, somebody has
        due = list_due(now, InvalidOid);
        for (int i = 0; i < due->count; i++) {
            Outcome outcome = settle(due->records[i], now);
            done += outcome == Outcome::taken_back;
            more |= outcome != Outcome::put_off;
        }
        row_changes::write_records(); // that those are not listed again
    }
    PG_RETURN_INT64(done);
}

} // namespace pgjobs::stale

extern "C" PGDLLEXPORT void pgjobs_row_reaper_main(Datum argument);

void pgjobs_row_reaper_main(Datum) {
    using namespace pgjobs; // the server calls this by name, outside of any namespace
    memcpy(&stale::errand, MyBgworkerEntry->bgw_extra, sizeof(stale::errand));
    pqsignal(SIGTERM, die);
    Database *database = find_database(stale::errand.database);
    uint32 nobody = 0;
    if (database == nullptr || !pg_atomic_compare_exchange_u32(&database->row_reaper, &nobody,
                                                               static_cast<uint32>(MyProcPid)))
        proc_exit(0);
    on_shmem_exit(stale::leave, 0); // after the connection has ended
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(stale::errand.database, stale::errand.role,
                                              pg::connect_without_login);
    stale::settle_settings();
    stale::last_resort = RegisterTimeout(USER_TIMEOUT, stale::end_process);
    stale::work_off(stale::errand.table);
    proc_exit(0);
}

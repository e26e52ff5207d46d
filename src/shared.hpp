// What the processes share. All of it is a hint, a cache or a wake-up: the truth is in the tables,
// and losing any of this makes pgjobs slower, never wrong.
#pragma once

#include "core/depth.hpp"
#include "core/frontier.hpp"
#include "core/positions.hpp"
#include "core/state.hpp"
#include "pg/scope.hpp"

namespace pgjobs {

constexpr TimestampTz never = PG_INT64_MAX;

// Why a database's worker must look: bits of Database::work.
enum Work : uint32 {
    work_notify = 1,    // there are notifications to send
    work_due = 2,       // next_due was lowered
    work_sessions = 4,  // a session that holds jobs has ended
    work_rescan = 8,    // hints were lost: look at the tables
    work_prepared = 16, // a prepared transaction has touched jobs
    work_count = 32,    // jobs are to be counted
    work_deliver = 64,  // messages were published to a topic that a queue subscribes to
    work_topics = 128   // a topic has changed
};

// One database that has, or may have, the extension. Found by `oid`; a place is never moved, so an
// index into the array stays good as long as `oid` is checked.
struct Database {
    Oid oid;                        // InvalidOid: free.                       [databases lock]
    bool listed;                    // the launcher found it connectable and wanted [databases lock]
    bool installed;                 // the extension is there                  [databases lock]
    bool probed;                    // a worker has looked                     [databases lock]
    int held_by;                    // pid of a session that wants no worker   [databases lock]
    TimestampTz retry_at;           // no new worker before this               [databases lock]
    bool refused;                   // the last start found no free slot    [databases lock]
    int failures;                   // starts in a row that came to nothing    [databases lock]
    pg_atomic_uint32 worker;        // procno + 1 of the worker, 0 without
    pg_atomic_uint32 worker_pid;    // 0 without
    pg_atomic_uint32 work;          // bits of Work
    pg_atomic_uint64 next_due;      // TimestampTz at which something is due, or never
    pg_atomic_uint32 waiters;       // sessions in wait or await
    pg_atomic_uint32 epoch;         // moves when the extension is dropped
    uint32 arrivals;                // moves when the extension comes [databases lock]
    pg_atomic_uint32 leases_lost;   // 1: the lease list is not complete
    pg_atomic_uint32 prepared_lost; // not 0: prepared transactions may be missing in the list of
                                    // pins; 2 while a worker reads them
    pg_atomic_uint32 notify_all;    // 1: a place for a queue was missing: resync all of them
    pg_atomic_uint32 claimed;       // 1: jobs were claimed since the frontier was checked
    pg_atomic_uint32 uncounted;     // not 0: some stage has no figures; 2: the worker knows, and it
                                    // was not possible to count yet
    uint32 first_event;             // ring of events: count taken out         [events lock]
    uint32 next_event;              // ring of events: count put in            [events lock]
    uint64 first_text;              // ring of announcements: bytes taken out  [events lock]
    uint64 next_text;               // ring of announcements: bytes put in     [events lock]
    pg_atomic_uint64 rows_due;      // TimestampTz at which a row may be stale, or never
    pg_atomic_uint32 row_reaper;    // pid of the process that takes stale rows back, 0 without
    pg_atomic_uint64 looked_wall;   // the clocks when the worker looked at them last; it alone
    pg_atomic_uint64 looked_at;     // writes. The wall's and the other's, 0: never; see clock.hpp
};

// One change of a job's state, to be sent as a notification.
struct Event {
    int64 job;
    TimestampTz at;
    int32 queue;
    int32 rev;
    int32 attempt;
    int16 stage;
    core::State state;
};

// What is known of a queue between commits. [events lock]
struct QueueHints {
    Oid database; // InvalidOid: free
    int32 queue;
    bool wakeup; // send a wake-up
    bool resync; // send a resync
    int64 enqueued, claimed, completed, dead, cancelled;
};

// What is known of one stage of a queue between commits: where its ready jobs begin, and how many
// jobs it has (see count.hpp). Keyed by the table of jobs too: a new extension counts its queues
// from 1 again. A place is taken under the stages lock; everything in it is guarded by its own
// spinlock, and so is the Scan of a process that names it.
struct StageHints {
    slock_t lock;
    Oid database; // InvalidOid: free
    Oid jobs;     // the table
    int32 queue;
    int16 stage;
    bool used;         // has been taken once: look-ups go on behind it
    bool counted;      // `depth` is what has been committed and told
    int32 scans;       // processes that scan it
    int32 counting;    // a process that counts the jobs in the table, procno + 1; 0: none
    core::Depth depth; // jobs by state
    core::Depth since; // what was told since that process has begun
    core::Frontier frontier;
};

// A claim under way; indexed by the process's place in the process array.
struct StageScan {
    int32 place;     // in stage_hints, from 1; 0: none. [written by its process]
    core::Scan scan; // [lock of the place]
};

// Where the log of a topic ends; see log_end.hpp. Unlike the rest this is no hint: who publishes
// takes positions here, and blocks of them come from the topic's sequence. A place is taken under
// the topics lock; everything in it is guarded by its own spinlock, and so is the Publisher of a
// process that names it.
struct LogEnd {
    Oid database; // InvalidOid: free
    Oid log;      // the table: a new extension counts its topics from 1 again
    int32 topic;
    int32 segment;    // where new messages go
    Oid leaf;         // its table
    int32 publishers; // processes that have taken positions and not yet written the rows
    bool fed;         // a queue subscribes to it: who publishes calls the worker
    core::Positions positions;
    int64 settled;         // all up to here are known to be committed or holes
    TimestampTz latest;    // published_at of the last message: times never go back
    TimestampTz rotate_at; // the segment is full then; never while it is empty
    int64 span;            // time that a segment is written to
};
struct TopicEnd : LogEnd {
    slock_t lock;
};

// A process that has taken positions and not yet written all of their rows; indexed by its place
// in the process array. [lock of the place]
struct Publisher {
    int32 place; // in topic_ends, from 1; 0: none
    int64 lowest;
};

// A running job, so that the reaper finds it without a scan. [leases lock]
struct LeaseKey {
    int64 job;
    Oid database;
    uint32 unused; // keeps the key free of padding
};
struct Lease {
    LeaseKey key;
    TimestampTz expires_at; // never for a session lease without an end
    int64 session;          // 0 for a time lease
    int32 rev;              // of the job; callbacks of two transactions may come in either order
    int32 reaper;           // process that is taking the job back, by its place from 1; see reapers
};

// What a session waits for; 0 what does not matter.
struct Purpose {
    int64 job; // await
    int32 queue;
    int32 topic; // wait_message
    int32 subscription;
    Oid table;   // wait_row
    int16 stage; // of the queue, 0: any; or of the table
};

// A session that waits; indexed by its place in the process array. [waiters lock]
struct Waiter {
    Oid database; // InvalidOid: not waiting
    Purpose purpose;
    bool woken;    // a commit has called this one
    uint64 ticket; // order of arrival
    int64 check;   // look again then, core::monotonic(), if nobody calls before; never otherwise
};

// A prepared transaction that touched jobs: no bound of these runs goes beyond its keys.
// [databases lock]
struct PinnedRun {
    int32 queue;
    int16 stage;
    core::Place place;
};
constexpr int most_pinned_runs = 8;
struct Pin {
    TransactionId xid; // invalid: free
    Oid database;
    int run_count; // most_pinned_runs + 1: every run
    PinnedRun runs[most_pinned_runs];
};

// What the launcher is asked to look at.
enum Rescan : uint32 {
    rescan_none,
    rescan_new,
    rescan_all
}; // all: those without the extension too

// One per server. LWLocks are never held two at a time, nor across anything that can raise; the
// spinlock of a place may be taken under the stages lock.
struct Shared {
    LWLock *databases_lock;
    LWLock *events_lock;
    LWLock *leases_lock;
    LWLock *waiters_lock;
    LWLock *stages_lock;
    LWLock *topics_lock;
    int64 epoch;               // random, new with every start of the server; read-only
    pg_atomic_uint32 launcher; // procno + 1 of the launcher, 0 without
    pg_atomic_uint32 rescan;   // bits of Rescan: databases came or went
    pg_atomic_uint32 exits;    // workers that have left: their slots are free
    pg_atomic_uint64 sessions; // numbers given to sessions that hold jobs
    pg_atomic_uint64 tickets;
    pg_atomic_uint64 writable_since; // TimestampTz at which this server began to write; 0 before
    pg_atomic_uint32 pins_used;      // places among them that are taken
    pg_atomic_uint64 spots[4096];    // see spot.hpp: block and line, 0 nothing
    int pins;                        // length of the array of pins; read-only
    int procs;                       // length of the arrays of waiters and holders; read-only
};
// Room for announcements of rows, for each event that fits into the ring of events.
constexpr int bytes_per_text = 32;

static_assert(std::is_trivially_copyable_v<Event> && std::is_trivially_copyable_v<Lease>);

extern Shared *shared;
extern Database *databases;          // settings::max_databases
extern Event *events;                // settings::event_buffer per database
extern char *announcements;          // bytes_per_text * settings::event_buffer per database
extern QueueHints *queue_hints;      // settings::max_queues, open addressing
extern StageHints *stage_hints;      // settings::max_queues, open addressing
extern StageScan *stage_scans;       // shared->procs
extern TopicEnd *topic_ends;         // settings::max_topics
extern Publisher *publishers;        // shared->procs
extern pg_atomic_uint32 *announcers; // shared->procs: top xid that will announce what it touched
extern pg_atomic_uint32 *reapers;    // shared->procs: 1 while a transaction takes jobs back
extern HTAB *leases;                 // settings::max_leases
extern Waiter *waiters;              // shared->procs
extern pg_atomic_uint64 *holders;    // shared->procs: session number of each process, 0 without
extern Pin *pins;                    // shared->pins

// Installs the hooks that ask for and set up the memory. While preloading only.
void share_memory();

// The place of the current database, made if need be; nullptr when all places are taken. May take
// the databases lock: not for transaction callbacks.
Database *this_database();

// The place of a database, or nullptr. Takes the databases lock.
Database *find_database(Oid oid);
Database *find_or_add_database(Oid oid);

inline int index_of(const Database *database) { return static_cast<int>(database - databases); }

// Wakes the process at `procno + 1`; nothing if it is 0.
void wake_process(uint32 procno_plus_one);

// Asks for the database's worker, through the launcher if it does not run. Allocates nothing and
// raises nothing; for callbacks too.
void request_work(Database *database, uint32 bits);

// Lowers the time at which the worker must look, and tells it. Same contract.
void lower_next_due(Database *database, TimestampTz at);
// For the worker itself: without telling.
bool keep_next_due(Database *database, TimestampTz at);
// Lowers the time at which rows of attached tables may be stale; without telling.
void lower_rows_due(Database *database, TimestampTz at);

} // namespace pgjobs

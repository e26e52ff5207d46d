// Direct access to the tables: find, lock, insert, update, delete rows without planner and SPI. It
// works on the newest committed version of a row plus the transaction's own, in every isolation
// level, as foreign keys and sequences do. What was done is told to `changes`.
//
// While a table is as the extension made it, rows and index entries are written by the access
// methods (direct.hpp). Where a user has added a trigger, constraint, index or column, they go
// through the executor's row functions, and everything of his works as in a statement.
#pragma once

#include "changes.hpp"
#include "direct.hpp"
#include "frontier.hpp"

namespace pgjobs::store {

// Columns of pgjobs.job, in the order of job.sql.
enum class Col : int {
    id = 1,
    due_at,
    enqueued_at,
    queue_id,
    max_attempts,
    stage,
    priority,
    waiting,
    payload,
    attempt,
    rev,
    token,
    lease_expires_at,
    started_at,
    worker,
    done_token,
    hold_epoch,
    hold_session,
    expires_at,
    fraction,
    note,
    headers,
    result,
    group_key,
    unique_key,
    error,
    attempts
};
constexpr int job_columns = static_cast<int>(Col::attempts);
constexpr int job_not_null = 11; // columns that are NOT NULL

// Columns of pgjobs.history, in the order of history.sql.
enum class Past : int {
    keep_until = 1,
    finished_at,
    id,
    due_at,
    enqueued_at,
    started_at,
    done_token,
    queue_id,
    attempt,
    max_attempts,
    rev,
    stage,
    priority,
    state,
    payload,
    headers,
    result,
    group_key,
    unique_key,
    worker,
    error,
    attempts
};
constexpr int history_columns = static_cast<int>(Past::attempts);
constexpr int history_not_null = 12;

// Columns of pgjobs.log, in the order of topic.sql.
enum class Line : int { position = 1, published_at, segment, payload, key, headers };
constexpr int log_columns = static_cast<int>(Line::headers);
constexpr int log_not_null = 4;

using direct::Kind;

// A row that has been added and not written yet.
struct Added {
    HeapTuple tuple;
    changes::Facts facts; // of a job
    Datum key;            // its unique key, 0 without
};

// A table opened for writing. `found` is the row that find() locked; values, nulls and replace are
// the row under construction.
struct Table {
    Relation relation;
    const direct::Layout *layout; // nullptr: through the executor
    direct::Layout known;         // what it points to
    Kind kind;
    MemoryContext context;                 // of everything here
    EState *estate;                        // executor only
    ResultRelInfo *info;                   // executor only
    Relation indexes[direct::job_indexes]; // those opened so far, as in the layout
    Added *added;                          // direct only
    int added_count;
    TupleTableSlot **slots; // for rows written together; made as needed
    TupleTableSlot *found;
    TupleTableSlot *newest; // where a lock puts the version that it got; made as needed
    TupleTableSlot *next;   // the version to be written; made as needed
    changes::Facts facts;   // of `found`, if facts_known
    bool facts_known;
    BlockNumber blocks;    // it has so many at least
    IndexScanDesc id_scan; // stays open from look to look
    SnapshotData dirty;    // its snapshot
    Datum *values;
    bool *nulls;
    bool *replace;
    bool locked;   // `found` is locked for this transaction
    bool busy;     // find() did not get the row because somebody else has it
    bool snapshot; // an active snapshot was pushed for it
    bool written;
};

// Opens a table of ours with ROW EXCLUSIVE; everything it needs goes with the transaction if an
// error is raised. close() writes what is still to be written, fires the AFTER triggers and makes
// the changes visible to what follows.
Table *open(Oid oid, Kind kind);
void close(Table *table);

// Writes what is still to be written now.
void flush(Table *table);

// Runs `body(Table *)` on pgjobs.job.
Table *open_jobs();
template <class F> auto with_jobs(F body) {
    static_assert(pg::plain_body<F>);
    Table *table = open_jobs();
    if constexpr (std::is_void_v<decltype(body(table))>) {
        body(table);
        close(table);
    } else {
        auto result = body(table);
        close(table);
        return result;
    }
}

// Locks the newest version of the job for an update and makes it `found`; false if there is none,
// or if `policy` is LockWaitSkip and somebody else has it.
bool find(Table *jobs, int64 id, LockWaitPolicy policy);

// The same without a lock where nobody has the row: to be followed by remove_if_current(), or by
// lock_found() before anything else is done to it.
bool find_unlocked(Table *jobs, int64 id);
// Locks the row that find_unlocked() found; false if it has changed since: find it again.
bool lock_found(Table *jobs);

// The columns of `found`.
Datum get(Table *jobs, Col column, bool *null);
int64 get_int64(Table *jobs, Col column, int64 absent);
int32 get_int32(Table *jobs, Col column);
int16 get_int16(Table *jobs, Col column);
bool has(Table *jobs, Col column);

// Sets a column of the row under construction; the row starts all NULL, or as `found` for update().
void start_row(Table *table);
void set(Table *table, int column, Datum value);
void set_null(Table *table, int column);
inline void set(Table *t, Col c, Datum v) { set(t, static_cast<int>(c), v); }
inline void set(Table *t, Past c, Datum v) { set(t, static_cast<int>(c), v); }
inline void set(Table *t, Line c, Datum v) { set(t, static_cast<int>(c), v); }
inline void set_null(Table *t, Col c) { set_null(t, static_cast<int>(c)); }

void insert(Table *table); // the row under construction
void update(Table *table); // `found`, with the columns that were set
// `found`, which is not locked, unless somebody has it or may have it: then false, and nothing was
// done. Afterwards remember() tells where the new version is.
bool update_if_free(Table *jobs);
void remember(Table *jobs);
// `found`, unless it has changed since it was found: then false, and nothing was done.
bool update_if_current(Table *jobs);
void remove(Table *table); // `found`
// `found`, unless it has changed since it was found: then false, and nothing was done.
bool remove_if_current(Table *jobs);

// What a version of a job says to changes.
changes::Facts facts_of(TupleTableSlot *slot);
const changes::Facts &facts(Table *jobs); // of `found`
core::Place place_of(const changes::Facts &facts);

// Jobs of one stage, by priority, due_at, id: all of priorities from..to, in one priority those
// from `first` on, or the one at `first`.
struct Range {
    int32 queue;
    int16 stage;
    int32 from;
    int32 to;
    core::Key first;
    bool exact;
};

// Visits due jobs in claim order: ready and running, committed or our own, unlocked or not. `visit`
// gets the row in `found` (not locked) and says whether to go on. False if it did not.
bool scan_due(Table *jobs, const Range &range, bool (*visit)(Table *, void *), void *argument);
template <class F> bool scan_due(Table *jobs, const Range &range, F visit) {
    static_assert(pg::plain_body<F>);
    return scan_due(
        jobs, range,
        [](Table *table, void *argument) { return (*static_cast<F *>(argument))(table); }, &visit);
}

// Before anything is done to a row that scan_due visits.
void note_visited(Table *jobs);
// Locks the newest version of it. `passed`: it is no ready job any more,
// or who has it will announce it. `blocked`: who has it may leave it ready without a word.
enum class Grip { locked, passed, blocked };
Grip lock_visited(Table *jobs);

// The transaction that has the row in a buffer's slot locked so that no claim gets it, without
// changing it; among several any one that runs. For rows of any heap.
TransactionId locker_of(TupleTableSlot *slot);

// Whether a stage has a ready job that nobody is changing. `held` is set if somebody has a ready
// one who may give it back without a word: a plain SELECT FOR UPDATE. Writes nothing.
bool any_ready(int32 queue, int16 stage, TimestampTz now, bool *held);

// When the ready job of a stage became due that has waited longest; never if there is none that
// nobody is changing. Writes nothing.
TimestampTz oldest_ready(int32 queue, int16 stage);

// Ready jobs of a stage where no claim would look for them; there must be none. Writes nothing.
int64 count_hidden(int32 queue, int16 stage);

// The open job of the queue that has the unique key, as last committed or as this transaction left
// it; 0 without. Waits for a transaction that is adding a job with the key, and for nobody else.
int64 holder_of(int32 queue, const char *key);

// The next id, from the sequence; 42704 if it has been dropped meanwhile.
int64 next_id(Oid sequence);
// That of a job, while the table of jobs is open: then its sequence is there.
int64 next_job_id();

} // namespace pgjobs::store

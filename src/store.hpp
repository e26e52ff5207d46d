// Direct access to the tables: find, lock, insert, update, delete single rows by the server's own
// row functions, without planner and SPI. It works on the newest committed version of a row plus
// the transaction's own, in every isolation level, as foreign keys and sequences do. Users'
// triggers, constraints and generated columns work as in a statement.
#pragma once

#include "pg/scope.hpp"

namespace pgjobs::store {

// Columns of pgjobs.job, in the order of job.sql.
enum class Col : int {
    id = 1,
    due_at,
    enqueued_at,
    token,
    lease_expires_at,
    started_at,
    expires_at,
    done_token,
    hold_epoch,
    hold_session,
    queue_id,
    attempt,
    max_attempts,
    rev,
    stage,
    priority,
    waiting,
    payload,
    headers,
    result,
    group_key,
    unique_key,
    worker,
    error,
    fraction,
    note,
    attempts
};
constexpr int job_columns = static_cast<int>(Col::attempts);

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

// A table opened for writing. `found` is the row that find() locked; values, nulls and replace are
// the row under construction.
struct Table {
    Relation relation;
    EState *estate;
    ResultRelInfo *info;
    TupleTableSlot *found;
    TupleTableSlot *next;
    Datum *values;
    bool *nulls;
    bool *replace;
    bool busy;     // find() did not get the row because somebody else has it
    bool snapshot; // an active snapshot was pushed for it
    bool written;
};

// Opens a table of ours with ROW EXCLUSIVE; everything it needs goes with the transaction if an
// error is raised. close() fires the AFTER triggers and makes the changes visible to what follows.
Table *open(Oid relation);
void close(Table *table);

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
inline void set_null(Table *t, Col c) { set_null(t, static_cast<int>(c)); }

void insert(Table *table); // the row under construction
void update(Table *table); // `found`, with the columns that were set
void remove(Table *table); // `found`

// Visits the due jobs of one stage in claim order: ready and running, committed or our own,
// unlocked or not. `visit` gets the row in `found` (not locked) and says whether to go on.
bool scan_due(Table *jobs, int32 queue, int16 stage, bool (*visit)(Table *, void *),
              void *argument);
template <class F> bool scan_due(Table *jobs, int32 queue, int16 stage, F visit) {
    static_assert(pg::plain_body<F>);
    return scan_due(
        jobs, queue, stage,
        [](Table *table, void *argument) { return (*static_cast<F *>(argument))(table); }, &visit);
}

// Locks the newest version of the row that scan_due visits, unless somebody else has it.
bool lock_visited(Table *jobs);

// Whether a stage has a ready job that nobody is changing. Writes nothing.
bool any_ready(int32 queue, int16 stage, TimestampTz now);

// The open job of the queue that has the unique key, as last committed or as this transaction left
// it; 0 without. Waits for a transaction that is adding a job with the key, and for nobody else.
int64 holder_of(int32 queue, const char *key);

// The next id, from the sequence.
int64 next_id(Oid sequence);

} // namespace pgjobs::store

// Below the store: rows and index entries written by the server's access methods, without executor.
// Used while nothing of a user's hangs on the table; see Layout.
#pragma once

#include "pg/scope.hpp"

namespace pgjobs::direct {

// The indexes of pgjobs.job, by what they find.
enum class By : int8_t { due, id, scheduled, expires, unique_key };
constexpr int job_indexes = 5;

// The tables that are written directly.
enum class Kind : int8_t { jobs, history, log };

// What a table looks like, as far as it matters. Kept until the server says that the table or its
// indexes have changed.
struct Layout {
    Oid table;
    bool direct;    // nothing hangs on it but what the extension made: no trigger, constraint,
                    // index or column of a user's
    bool announced; // every change of pgjobs.job reaches our row trigger
    int index_count;
    Oid indexes[job_indexes]; // of pgjobs.job, by By; of a partition, in any order; the valid ones
};

// The layout of pgjobs.job, or of a partition of pgjobs.history or pgjobs.log. The table is open
// and locked. Good until the next call.
const Layout *layout_of(Relation table, Kind kind);

// The row type of jobs with its first columns only: whatever is NULL behind them need not be in the
// row. The table is open and its layout is direct.
TupleDesc shape_of_jobs(Relation jobs, int columns);

// Forgets what is known of the relation (InvalidOid: of all).
void forget(Oid relation);

// The valid index on all rows by this column, opened with ACCESS SHARE; 55000 if it is missing.
Relation open_index(Relation table, AttrNumber column, const char *what);

// One of pgjobs.job, likewise.
Relation open_job_index(Relation jobs, By by, const char *what);

// The next entries probably belong on the last leaf of the index: they are tried there first. The
// server does that by itself, but for large indexes only.
void aim_at_end(Relation index);

// Writes an index entry.
void enter(Relation index, Relation table, Datum *values, bool *nulls, ItemPointer tid,
           bool unique);

} // namespace pgjobs::direct

// What the current transaction did to rows of attached tables, collected by their triggers. At its
// end, which rows are being worked on and since when goes into a table of ours (see stale.hpp), and
// when it has committed, shared memory is told: whom to wake, what to announce, when a row is
// stale. The rules of changes.hpp hold here, too.
#pragma once

#include "attachment.hpp"

namespace pgjobs::row_changes {

// A change of a row's status: from nothing, if the row is new.
struct Move {
    bool added;
    int from;
    int to;
    const char *from_text; // nullptr: NULL, or nothing
    const char *to_text;
};
// `row` is as it is now.
void note(const RowShape *shape, TupleTableSlot *row, const Move &move);

// A row is in a working state since then, as an attachment begins.
void note_working(const RowShape *shape, TupleTableSlot *row, int state, TimestampTz since);

// A row that is worked on, since when, and when it is stale.
struct Working {
    Oid table;
    int64 home;
    const char *key;
    const char *stage;
    TimestampTz since;
    TimestampTz due_at;
};
// Records it, unless there is a record of the row. Inside as_owner.
void insert_missing(const Working &row);

// Writes what has been noted about rows that are being worked on.
void write_records();

// Installs the callbacks; once per process.
void watch_transactions();

} // namespace pgjobs::row_changes

// One segment of a topic's log: a table of its own, read by position.
#pragma once

#include "store.hpp"

namespace pgjobs::segment {

void name_of(int32 segment, char *name); // NAMEDATALEN
Oid table_of(int32 segment);             // InvalidOid if it was dropped

// A scan. `slot` is the row; its columns are by store::Line.
struct Scan {
    Relation leaf;
    Relation index;
    TupleTableSlot *slot;
    IndexScanDesc scan;
};

// False if the segment was dropped. Needs an active snapshot; so that nothing is removed meanwhile
// that `snapshot` shows.
bool begin(Scan *s, int32 segment, Snapshot snapshot);
// Rows with positions from..to; then next() finds one after the other.
void seek(Scan *s, int64 from, int64 to);
bool next(Scan *s, ScanDirection direction);
void end(Scan *s);

Datum column(TupleTableSlot *slot, store::Line line); // 0 for NULL
int64 position_of(TupleTableSlot *slot);

// The first row at or behind `from`, or with a backward scan the last one, dead or alive.
struct Row {
    bool found;
    int64 position;
    TimestampTz published_at;
};
Row any_row(int32 segment, int64 from, ScanDirection direction);

// The last committed position, 0 without any. The caller has locked it against writers.
int64 last_in(int32 segment);

} // namespace pgjobs::segment

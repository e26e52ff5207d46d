#include "segment.hpp"

#include "pg/relations.hpp"
#include "store_parts.hpp"

namespace pgjobs::segment {

using store::Line;

void name_of(int32 segment, char *name) { snprintf(name, NAMEDATALEN, "log_%d", segment); }

Oid table_of(int32 segment) {
    char name[NAMEDATALEN];
    name_of(segment, name);
    return get_relname_relid(name, relations()->schema);
}

Datum column(TupleTableSlot *slot, Line line) {
    bool null;
    Datum datum = slot_getattr(slot, static_cast<int>(line), &null);
    return null ? 0 : datum;
}

int64 position_of(TupleTableSlot *slot) { return DatumGetInt64(column(slot, Line::position)); }

bool begin(Scan *s, int32 segment, Snapshot snapshot) {
    *s = {};
    Oid oid = table_of(segment);
    s->leaf = OidIsValid(oid) ? try_table_open(oid, AccessShareLock) : nullptr;
    if (s->leaf == nullptr)
        return false;
    s->index = direct::open_index(s->leaf, static_cast<AttrNumber>(Line::position), "messages");
    s->slot = table_slot_create(s->leaf, nullptr);
    s->scan = pg::begin_index_scan(s->leaf, s->index, snapshot, 2);
    return true;
}

void seek(Scan *s, int64 from, int64 to) {
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
    ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(to));
    index_rescan(s->scan, keys, 2, nullptr, 0);
}

bool next(Scan *s, ScanDirection direction) {
    return index_getnext_slot(s->scan, direction, s->slot);
}

// A writer keeps his lock until his transaction ends, a reader need not.
void end(Scan *s) {
    index_endscan(s->scan);
    ExecDropSingleTupleTableSlot(s->slot);
    index_close(s->index, AccessShareLock);
    table_close(s->leaf, AccessShareLock);
}

Row any_row(int32 segment, int64 from, ScanDirection direction) {
    Row row{};
    Scan s;
    bool pushed = store::push_snapshot();
    if (begin(&s, segment, SnapshotAny)) {
        seek(&s, from, PG_INT64_MAX);
        row.found = next(&s, direction);
        if (row.found) {
            row.position = position_of(s.slot);
            row.published_at = DatumGetTimestampTz(column(s.slot, Line::published_at));
        }
        end(&s);
    }
    if (pushed)
        PopActiveSnapshot();
    return row;
}

int64 last_in(int32 segment) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    Scan s;
    if (!begin(&s, segment, &dirty))
        return 0;
    seek(&s, 0, PG_INT64_MAX);
    int64 last = next(&s, BackwardScanDirection) ? position_of(s.slot) : 0;
    end(&s);
    return last;
}

} // namespace pgjobs::segment

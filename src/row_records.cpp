#include "row_records.hpp"

#include "changes.hpp"
#include "pg/spi.hpp"
#include "row_changes.hpp"

namespace pgjobs::row_records {

constexpr int fetched = 1000; // rows at a time

// The TimeZone that a session has which asks for none.
static constinit pg::Statement select_time_zone{
    "SELECT COALESCE((SELECT pg_catalog.substr(s.setting, 10) "
    "FROM pg_catalog.pg_db_role_setting r, pg_catalog.unnest(r.setconfig) AS s (setting) "
    "WHERE r.setdatabase = $1 AND r.setrole = 0 "
    "AND pg_catalog.lower(pg_catalog.substr(s.setting, 1, 9)) = 'timezone='), "
    "(SELECT f.setting FROM pg_catalog.pg_file_settings f "
    "WHERE pg_catalog.lower(f.name) = 'timezone' AND f.applied LIMIT 1), 'GMT')",
    {OIDOID},
    nullptr};

// Since when a row has its status, as far as its column says that.
static TimestampTz since(const RowShape *shape, TupleTableSlot *row, Datum zone, TimestampTz now) {
    if (shape->changed_at == 0)
        return now;
    bool null;
    Datum at = slot_getattr(row, shape->changed_at, &null);
    if (null || TIMESTAMP_NOT_FINITE(DatumGetTimestamp(at)))
        return now;
    if (shape->attachment->changed_at_type == TIMESTAMPOID)
        at = DirectFunctionCall2(timestamp_zone, zone, at);
    return Min(DatumGetTimestampTz(at), now);
}

static const char *working_rows(const Attachment *attachment) {
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfo(&text, "SELECT %s FROM %s%s AS pgjobs_row WHERE pgjobs_row.%s IN (",
                     whole_row(attachment), attachment->partitioned ? "" : "ONLY ",
                     attachment->name, quote_identifier(attachment->status));
    bool any = false;
    for (int i = 0; i < attachment->state_count; i++)
        if ((attachment->timed & (UINT64CONST(1) << i)) != 0) {
            appendStringInfo(&text, "%s%s", any ? ", " : "", state_literal(attachment, i));
            any = true;
        }
    appendStringInfoChar(&text, ')');
    return text.data;
}

static void note_rows(const RowShape *shape, TupleTableSlot *row, Datum zone) {
    TimestampTz now = GetCurrentTimestamp();
    for (uint64 i = 0; i < SPI_processed; i++) {
        HeapTupleHeader header = DatumGetHeapTupleHeader(pg::datum_at(i, 1));
        HeapTupleData tuple{};
        tuple.t_len = HeapTupleHeaderGetDatumLength(header);
        tuple.t_data = header;
        ExecStoreHeapTuple(&tuple, row, false);
        bool null;
        Datum status = slot_getattr(row, shape->status, &null);
        row_changes::note_working(shape, row, state_of(shape->attachment, status, null),
                                  since(shape, row, zone, now));
    }
}

static void note_rows_of(Relation table, const RowShape *shape, Datum zone) {
    TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsHeapTuple);
    SPIPlanPtr plan = SPI_prepare(working_rows(shape->attachment), 0, nullptr);
    if (plan == nullptr)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    Portal portal = SPI_cursor_open(nullptr, plan, nullptr, nullptr, false);
    do {
        SPI_cursor_fetch(portal, true, fetched);
        note_rows(shape, row, zone);
        SPI_freetuptable(SPI_tuptable);
    } while (SPI_processed > 0);
    SPI_cursor_close(portal);
    ExecDropSingleTupleTableSlot(row);
}

static void record_rows_of(Relation table, const RowShape *shape) {
    pg::run(&select_time_zone, pg::oid_value(MyDatabaseId));
    Datum zone = PointerGetDatum(PG_DETOAST_DATUM_COPY(pg::datum_at(0, 1)));
    pg::as_table_owner(shape->attachment->owner, pg::Policies::do_not_hold,
                       [&] { note_rows_of(table, shape, zone); });
    row_changes::write_records();
}

static constinit pg::Statement adopt_records{
    "UPDATE pgjobs.working_row SET home = $2 WHERE target = $1", {OIDOID, INT8OID}, nullptr};

void make(Oid oid) {
    Relation table = relation_open(oid, NoLock);
    const RowShape *shape = find_shape(table);
    if (pg::run(&adopt_records, pg::oid_value(oid), pg::value(shape->attachment->home)) > 0)
        changes::row_due_at(GetCurrentTimestamp());
    if (shape->attachment->timed != 0)
        record_rows_of(table, shape);
    relation_close(table, NoLock);
}

} // namespace pgjobs::row_records

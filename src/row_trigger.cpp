// The triggers of attached tables. Before an update that changes the status: is it allowed? Then
// the change is stamped. After an insert or such an update: the change is noted. The former does
// not fire for what replication applies, which was checked where it came from; the latter always
// does.
#include "attachment.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "row_changes.hpp"

namespace pgjobs::rows {

struct Status {
    Datum value;
    bool null;
    int state; // -1: none that pgjobs knows
};

static Status status_of(const RowShape *shape, TupleTableSlot *row) {
    Status status;
    status.value = slot_getattr(row, shape->status, &status.null);
    status.state = state_of(shape->attachment, status.value, status.null);
    return status;
}

// nullptr for NULL.
static const char *text_of(const RowShape *shape, const Status &status) {
    if (status.null)
        return nullptr;
    if (status.state >= 0)
        return shape->attachment->states[status.state];
    Oid output;
    bool varlena;
    getTypeOutputInfo(shape->attachment->status_type, &output, &varlena);
    return OidOutputFunctionCall(output, status.value);
}

// ---- is it allowed? ----

static const char *allowed_from(const Attachment *attachment, int from) {
    StringInfoData list;
    initStringInfo(&list);
    for (int i = 0; i < attachment->state_count; i++)
        if ((attachment->allowed[from] & (UINT64CONST(1) << i)) != 0)
            appendStringInfo(&list, "%s\"%s\"", list.len > 0 ? ", " : "", attachment->states[i]);
    return list.len > 0
               ? psprintf("From \"%s\" it may go to: %s.", attachment->states[from], list.data)
               : psprintf("From \"%s\" it may go nowhere.", attachment->states[from]);
}

// A state that pgjobs does not know may be left for any other.
static void check_move(const RowShape *shape, TupleTableSlot *row, const Status &from,
                       const Status &to) {
    const Attachment *attachment = shape->attachment;
    if (from.state < 0 ||
        (to.state >= 0 && (attachment->allowed[from.state] & (UINT64CONST(1) << to.state)) != 0))
        return;
    const char *old_text = text_of(shape, from);
    const char *new_text = text_of(shape, to);
    ereport(ERROR, errcode(errcode_illegal_transition),
            errmsg("row %s of table \"%s\" cannot go from \"%s\" to %s%s%s",
                   attachment->key_count > 0 ? pg::shown(key_of_row(shape, row)) : "without a key",
                   attachment->relname, old_text, new_text != nullptr ? "\"" : "",
                   new_text != nullptr ? new_text : "NULL", new_text != nullptr ? "\"" : ""),
            errdetail("%s", allowed_from(attachment, from.state)),
            errhint("Take one of these steps, or attach the table anew with other stages or with "
                    "transitions."));
}

// ---- before ----

// The columns that change, and their values.
struct Stamps {
    int columns[2];
    Datum values[2];
    bool nulls[2];
    int count;
};

static void stamp(Stamps *stamps, AttrNumber column, Datum value, bool null) {
    stamps->columns[stamps->count] = column;
    stamps->values[stamps->count] = value;
    stamps->nulls[stamps->count++] = null;
}

static void stamp_time(Stamps *stamps, const RowShape *shape) {
    Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
    if (shape->attachment->changed_at_type == TIMESTAMPOID) // as now() would be
        now = DirectFunctionCall1(timestamptz_timestamp, now);
    stamp(stamps, shape->changed_at, now, false);
}

// A row that is taken gets a new token, unless its statement gives one; who gives it back, or has
// it taken away, loses the old one.
static void stamp_token(Stamps *stamps, const RowShape *shape, const TriggerData *data,
                        const Status &from, const Status &to) {
    const Attachment *attachment = shape->attachment;
    bool taken = working_stage(attachment, to.state) != nullptr;
    const RowStage *left = working_stage(attachment, from.state);
    bool given_back = left != nullptr && left->waiting == to.state;
    if (!taken && !given_back)
        return;
    bool old_null;
    bool new_null;
    Datum old_token = slot_getattr(data->tg_trigslot, shape->token, &old_null);
    Datum new_token = slot_getattr(data->tg_newslot, shape->token, &new_null);
    bool given = !new_null && (old_null || DatumGetInt64(old_token) != DatumGetInt64(new_token));
    if (taken && !given)
        stamp(stamps, shape->token, Int64GetDatum(life::random_token()), false);
    else if (given_back && !new_null)
        stamp(stamps, shape->token, 0, true);
}

static HeapTuple before_update(const RowShape *shape, const TriggerData *data) {
    Status from = status_of(shape, data->tg_trigslot);
    Status to = status_of(shape, data->tg_newslot);
    check_move(shape, data->tg_trigslot, from, to);
    Stamps stamps{};
    if (shape->changed_at != 0)
        stamp_time(&stamps, shape);
    if (shape->token != 0)
        stamp_token(&stamps, shape, data, from, to);
    if (stamps.count == 0)
        return data->tg_newtuple;
    return heap_modify_tuple_by_cols(data->tg_newtuple, RelationGetDescr(data->tg_relation),
                                     stamps.count, stamps.columns, stamps.values, stamps.nulls);
}

// ---- after ----

static void after(const RowShape *shape, const TriggerData *data) {
    bool added = TRIGGER_FIRED_BY_INSERT(data->tg_event);
    TupleTableSlot *row = added ? data->tg_trigslot : data->tg_newslot;
    Status from = {0, true, -1};
    if (!added)
        from = status_of(shape, data->tg_trigslot);
    Status to = status_of(shape, row);
    // A trigger that came later may have changed the row once more.
    if (!added && SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA)
        check_move(shape, data->tg_trigslot, from, to);
    row_changes::note(shape, row,
                      {added, from.state, to.state, text_of(shape, from), text_of(shape, to)});
}

// Whether attach_table makes triggers for this; others were made by hand, and are nothing to us.
static bool is_ours(TriggerEvent event) {
    return TRIGGER_FIRED_FOR_ROW(event) &&
           (TRIGGER_FIRED_BY_UPDATE(event) ||
            (TRIGGER_FIRED_BY_INSERT(event) && !TRIGGER_FIRED_BEFORE(event)));
}

// pgjobs._row_changed() -> trigger. One of them, for each statement, carries the settings and does
// nothing. A table that has lost that one is left alone.
PGJOBS_FUNCTION(_row_changed) {
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                errmsg("pgjobs._row_changed() can only be called as a trigger"),
                errhint("Call pgjobs.attach_table() instead."));
    auto *data = reinterpret_cast<TriggerData *>(fcinfo->context);
    if (!is_ours(data->tg_event))
        PG_RETURN_POINTER(data->tg_trigtuple);
    const RowShape *shape = find_shape(data->tg_relation);
    bool known = shape != nullptr && shape->status != 0;
    if (TRIGGER_FIRED_BEFORE(data->tg_event))
        PG_RETURN_POINTER(known ? before_update(shape, data) : data->tg_newtuple);
    if (known)
        after(shape, data);
    PG_RETURN_POINTER(nullptr);
}

} // namespace pgjobs::rows

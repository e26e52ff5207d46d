// The row trigger of pgjobs.job: every change of a job, by whatever path, becomes a note of the
// transaction.
#include "changes.hpp"
#include "pg/function.hpp"
#include "shared.hpp"
#include "store.hpp"

namespace pgjobs {

using store::Col;

static Datum column(HeapTuple tuple, TupleDesc shape, Col column, bool *null) {
    return heap_getattr(tuple, static_cast<int>(column), shape, null);
}

static int64 int64_of(HeapTuple tuple, TupleDesc shape, Col which, int64 absent) {
    bool null;
    Datum datum = column(tuple, shape, which, &null);
    return null ? absent : DatumGetInt64(datum);
}

static changes::Facts facts_of(HeapTuple tuple, TupleDesc shape) {
    bool null;
    changes::Facts facts{};
    facts.id = DatumGetInt64(column(tuple, shape, Col::id, &null));
    facts.queue = DatumGetInt32(column(tuple, shape, Col::queue_id, &null));
    facts.rev = DatumGetInt32(column(tuple, shape, Col::rev, &null));
    facts.attempt = DatumGetInt32(column(tuple, shape, Col::attempt, &null));
    facts.stage = DatumGetInt16(column(tuple, shape, Col::stage, &null));
    facts.due_at = DatumGetTimestampTz(column(tuple, shape, Col::due_at, &null));
    facts.lease_expires_at = int64_of(tuple, shape, Col::lease_expires_at, never);
    facts.expires_at = int64_of(tuple, shape, Col::expires_at, never);
    facts.hold_session = int64_of(tuple, shape, Col::hold_session, 0);
    auto waiting =
        static_cast<core::Waiting>(DatumGetInt16(column(tuple, shape, Col::waiting, &null)));
    column(tuple, shape, Col::token, &null);
    facts.state = core::open_state(waiting, !null);
    return facts;
}

// pgjobs._job_changed() -> trigger
PGJOBS_FUNCTION(_job_changed) {
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                errmsg("pgjobs._job_changed() can only be called as a trigger"));
    auto *data = reinterpret_cast<TriggerData *>(fcinfo->context);
    TriggerEvent event = data->tg_event;
    if (TRIGGER_FIRED_BY_TRUNCATE(event)) {
        changes::everything_changed();
        PG_RETURN_POINTER(nullptr);
    }
    TupleDesc shape = RelationGetDescr(data->tg_relation);
    changes::Facts first = facts_of(data->tg_trigtuple, shape);
    if (TRIGGER_FIRED_BY_INSERT(event))
        changes::added(first);
    else if (TRIGGER_FIRED_BY_DELETE(event))
        changes::removed(first, changes::final_state);
    else
        changes::changed(first, facts_of(data->tg_newtuple, shape));
    PG_RETURN_POINTER(nullptr);
}

} // namespace pgjobs

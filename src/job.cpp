// The triggers of pgjobs.job: every change of a job, by whatever path, becomes a note of the
// transaction.
#include "changes.hpp"
#include "pg/function.hpp"
#include "pg/relations.hpp"
#include "store.hpp"

namespace pgjobs {

// A trigger that somebody made by hand may be of any table, and for a statement it has no row.
static const TriggerData *own_trigger(FunctionCallInfo fcinfo) {
    auto *data =
        CALLED_AS_TRIGGER(fcinfo) ? reinterpret_cast<TriggerData *>(fcinfo->context) : nullptr;
    if (data != nullptr && RelationGetRelid(data->tg_relation) == relations()->job &&
        (TRIGGER_FIRED_FOR_ROW(data->tg_event) || TRIGGER_FIRED_BEFORE(data->tg_event) ||
         TRIGGER_FIRED_BY_TRUNCATE(data->tg_event)))
        return data;
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("pgjobs._job_changed() can only be called by the triggers of pgjobs.job"),
            errhint("Read the events of a queue instead."));
}

// pgjobs._job_changed() -> trigger
PGJOBS_FUNCTION(_job_changed) {
    const TriggerData *data = own_trigger(fcinfo);
    TriggerEvent event = data->tg_event;
    if (TRIGGER_FIRED_BY_TRUNCATE(event)) {
        changes::everything_changed();
        PG_RETURN_POINTER(nullptr);
    }
    if (TRIGGER_FIRED_BEFORE(event)) {
        changes::statement_begins();
        PG_RETURN_POINTER(nullptr);
    }
    changes::Facts first = store::facts_of(data->tg_trigslot);
    if (TRIGGER_FIRED_BY_INSERT(event))
        changes::added(first, data->tg_trigslot);
    else if (TRIGGER_FIRED_BY_DELETE(event))
        changes::removed(first, changes::final_state, data->tg_trigslot);
    else
        changes::changed(first, store::facts_of(data->tg_newslot), data->tg_newslot);
    PG_RETURN_POINTER(nullptr);
}

} // namespace pgjobs

// The triggers of pgjobs.job: every change of a job, by whatever path, becomes a note of the
// transaction.
#include "changes.hpp"
#include "pg/function.hpp"
#include "shared.hpp"
#include "store.hpp"

namespace pgjobs {

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

#include "attached.hpp"

#include "catalog.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "row_records.hpp"
#include "row_triggers.hpp"

namespace pgjobs::attached {

const char *fault_of(Oid oid) {
    Relation table = try_relation_open(oid, AccessShareLock);
    if (table == nullptr)
        return nullptr; // dropped just now
    int firing = 0;
    const TriggerDesc *triggers = table->trigdesc;
    for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++)
        firing += is_row_trigger(&triggers->triggers[i]) &&
                  triggers->triggers[i].tgenabled != TRIGGER_DISABLED;
    const Attachment *attachment = find_attachment(table);
    const char *fault = attachment == nullptr          ? "has lost the trigger with its settings"
                        : firing < row_triggers::count ? "lacks a trigger of pgjobs, or it is off"
                        : attachment->key_count == 0   ? "has no primary key any more"
                        : attachment->topic != nullptr && find_topic(attachment->topic) == nullptr
                            ? "publishes to a topic that is gone"
                            : nullptr;
    relation_close(table, NoLock);
    return fault;
}

// ---- the view ----

static bool may_see(Oid table) {
    return pg::may_select(table) || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
           is_administrator();
}

static Datum text_or_null(const char *text, bool *null) {
    *null = text == nullptr;
    return *null ? 0 : CStringGetTextDatum(text);
}

static Datum name_or_null(const char *name, bool *null) {
    *null = name == nullptr;
    return *null ? 0 : DirectFunctionCall1(namein, CStringGetDatum(name));
}

static Datum interval_or_null(int64 microseconds, bool *null) {
    *null = microseconds == 0;
    auto *interval = static_cast<Interval *>(palloc0(sizeof(Interval)));
    interval->time = microseconds;
    return IntervalPGetDatum(interval);
}

static void return_stage(FunctionCallInfo fcinfo, const Attachment *attachment, int number,
                         bool enabled) {
    const RowStage *stage = &attachment->stages[number];
    bool nulls[16] = {};
    auto state = [&](int one, int column) {
        return text_or_null(one < 0 ? nullptr : attachment->states[one], &nulls[column]);
    };
    Datum values[] = {ObjectIdGetDatum(attachment->table),
                      CStringGetTextDatum(stage->name),
                      Int32GetDatum(number + 1),
                      name_or_null(attachment->status, &nulls[3]),
                      state(stage->waiting, 4),
                      state(stage->working, 5),
                      state(stage->done, 6),
                      state(stage->failed, 7),
                      interval_or_null(stage->stale_after, &nulls[8]),
                      name_or_null(attachment->changed_at, &nulls[9]),
                      name_or_null(attachment->token, &nulls[10]),
                      name_or_null(attachment->priority, &nulls[11]),
                      text_or_null(attachment->channel, &nulls[12]),
                      text_or_null(attachment->topic, &nulls[13]),
                      BoolGetDatum(!attachment->at_home),
                      BoolGetDatum(enabled)};
    static_assert(lengthof(values) == lengthof(nulls));
    pg::return_row(fcinfo, values, nulls);
}

// pgjobs._attached_tables() -> setof (...)
PGJOBS_FUNCTION(_attached_tables) {
    InitMaterializedSRF(fcinfo, 0);
    List *tables = pg::as_owner(
        [] { return pg::in_context(TopTransactionContext, [] { return attached_tables(); }); });
    ListCell *cell;
    foreach (cell, tables) {
        const Attachment *attachment =
            may_see(lfirst_oid(cell)) ? find_attachment(lfirst_oid(cell)) : nullptr;
        for (int i = 0; attachment != nullptr && i < attachment->stage_count; i++)
            return_stage(fcinfo, attachment, i, fault_of(attachment->table) == nullptr);
    }
    PG_RETURN_NULL();
}

// ---- after a restore ----

void adopt(int64 home) {
    ListCell *cell;
    foreach (cell, attached_tables()) {
        Oid table = lfirst_oid(cell);
        LockRelationOid(table, ShareRowExclusiveLock);
        const Attachment *attachment = find_attachment(table); // nullptr: dropped meanwhile
        if (attachment != nullptr && attachment->home != home) {
            row_triggers::set_home(table, home);
            row_records::make(table);
        }
    }
}

} // namespace pgjobs::attached

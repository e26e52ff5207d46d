// Self-checks: what shared memory says, against the tables.
#include "check.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "store.hpp"

namespace pgjobs::check {

static constinit pg::Statement select_stages{
    "SELECT s.queue_id, s.number FROM pgjobs.stage s ORDER BY s.queue_id, s.number", {}, nullptr};

struct Stage {
    int32 queue;
    int16 number;
};

int64 hidden_jobs() {
    Stage *stages = nullptr;
    uint64 count = 0;
    MemoryContext caller = CurrentMemoryContext;
    pg::as_owner([&] {
        count = pg::run(&select_stages);
        stages = static_cast<Stage *>(MemoryContextAlloc(caller, sizeof(Stage) * (count + 1)));
        for (uint64 i = 0; i < count; i++)
            stages[i] = {pg::int32_at(i, 1), pg::int16_at(i, 2)};
    });
    int64 hidden = 0;
    for (uint64 i = 0; i < count; i++)
        hidden += store::count_hidden(stages[i].queue, stages[i].number);
    return hidden;
}

void check_frontier() {
    int64 hidden = hidden_jobs();
    if (hidden == 0)
        return;
    // The log says so, for it is a fault of ours; and it is mended at once.
    ereport(WARNING, errmsg("pgjobs: " INT64_FORMAT " ready jobs were hidden from claims", hidden),
            errdetail("They can be claimed now."),
            errhint("Please report this to the developers of pgjobs."));
    changes::everything_changed();
    pgjobs::frontier::forget_all(MyDatabaseId);
}

// pgjobs._check_frontier() -> bigint
PGJOBS_FUNCTION(_check_frontier) {
    require_administrator("check pgjobs' frontier");
    PreventCommandDuringRecovery("pgjobs._check_frontier()");
    PG_RETURN_INT64(hidden_jobs());
}

// pgjobs._reset_hints() -> void
PGJOBS_FUNCTION(_reset_hints) {
    pg::require_writable("pgjobs._reset_hints()");
    require_administrator("reset pgjobs' hints");
    changes::everything_changed();
    pgjobs::frontier::forget_all(MyDatabaseId);
    PG_RETURN_VOID();
}

} // namespace pgjobs::check

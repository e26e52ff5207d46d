#include "prepared.hpp"

#include "catalog.hpp"
#include "frontier.hpp"
#include "inject.hpp"
#include "pg/spi.hpp"
#include "wait.hpp"

namespace pgjobs::prepared {

static bool add(const Pin &pin) {
    return pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        Pin *place = nullptr;
        for (int i = 0; i < shared->pins; i++) {
            if (pins[i].xid == pin.xid)
                return true;
            if (!TransactionIdIsValid(pins[i].xid) && place == nullptr)
                place = &pins[i];
        }
        if (place != nullptr) {
            *place = pin;
            pg_atomic_fetch_add_u32(&shared->pins_used, 1);
        }
        return place != nullptr;
    });
}

void pin(Database *database, Pin pin) {
    if (database == nullptr)
        return;
    pin.xid = GetTopTransactionId();
    pin.database = database->oid;
    // All pins taken by transactions that are over: drop those first.
    if (!add(pin)) {
        resolve();
        if (!add(pin))
            ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("too many prepared transactions with jobs"),
                    errhint("Raise max_prepared_transactions."));
    }
    request_work(database, work_prepared);
}

// What the callbacks of a transaction would have said is not known any more: look everywhere.
static void tell_everything(Oid oid) {
    Database *database = find_or_add_database(oid);
    if (database == nullptr)
        return;
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        if (!database->installed)
            database->probed = false; // the extension may have come
    });
    pg_atomic_write_u32(&database->leases_lost, 1);
    lower_rows_due(database, 0);
    pg_atomic_write_u32(&database->notify_all, 1);
    pg_atomic_write_u32(&database->uncounted, 1); // what it changed can be counted now
    wait::wake_all(oid);
    request_work(database, work_rescan | work_notify | work_count | work_deliver);
}

bool any(Oid database) {
    return pg::locked(shared->databases_lock, LW_SHARED, [&] {
        for (int i = 0; i < shared->pins; i++)
            if (TransactionIdIsValid(pins[i].xid) && pins[i].database == database)
                return true;
        return false;
    });
}

// What it touched may be ready now. Told before the pin goes: a claim that could not see it yet,
// and is still under way, raises no bound over it.
static void tell_frontier(const Pin &pin) {
    if (pin.run_count > most_pinned_runs || !extension_exists()) {
        frontier::forget_all(pin.database);
        return;
    }
    for (int i = 0; i < pin.run_count; i++) {
        const PinnedRun &run = pin.runs[i];
        frontier::Keys keys{};
        frontier::note(&keys, run.place.key);
        frontier::announce(pin.database, relations()->job, run.queue, run.stage, run.place.priority,
                           keys, true);
    }
}

bool resolve() {
    bool left = false;
    for (int i = 0; i < shared->pins; i++) {
        Pin pin = pg::locked(shared->databases_lock, LW_SHARED, [&] { return pins[i]; });
        if (!TransactionIdIsValid(pin.xid) || pin.database != MyDatabaseId)
            continue;
        if (TransactionIdIsInProgress(pin.xid)) {
            left = true;
            continue;
        }
        tell_frontier(pin);
        PGJOBS_POINT("pin-told");
        pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
            if (pins[i].xid == pin.xid) {
                pins[i] = {};
                pg_atomic_fetch_sub_u32(&shared->pins_used, 1);
            }
        });
        tell_everything(pin.database);
    }
    return left;
}

static constinit pg::Statement select_prepared{
    "SELECT p.transaction FROM pg_catalog.pg_prepared_xacts p "
    "WHERE p.database = pg_catalog.current_database()",
    {},
    nullptr};

void find_old_ones() {
    PGJOBS_POINT("pins-sought");
    uint64 count = pg::run(&select_prepared);
    for (uint64 i = 0; i < count; i++) {
        Pin pin{}; // nobody knows any more what it has touched
        pin.xid = DatumGetTransactionId(pg::datum_at(i, 1));
        pin.database = MyDatabaseId;
        pin.run_count = most_pinned_runs + 1;
        add(pin);
    }
}

} // namespace pgjobs::prepared

// Prepared transactions: COMMIT PREPARED runs no transaction callback, and a prepared transaction
// survives a restart. So each that touched jobs leaves a pin here, and when its transaction is
// over, everything that its callbacks would have told is looked up in the tables.
#pragma once

#include "shared.hpp"

namespace pgjobs::prepared {

// Before the transaction is prepared. `pin` says which runs it touched. May raise.
void pin(Database *database, Pin pin);

// Whether there is a pin of this database. Raises nothing, needs no transaction.
bool any(Oid database);

// Ends the pins whose transactions are over; true while some are left. Raises nothing.
bool resolve();

// Makes a pin for each prepared transaction of this database that is older than the shared memory.
// Needs SPI (as_owner) and a transaction.
void find_old_ones();

} // namespace pgjobs::prepared

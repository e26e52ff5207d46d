// Which databases have the extension, and keeping our worker out of the way of commands that need a
// database for themselves (DROP, RENAME, TABLESPACE, TEMPLATE).
#pragma once

#include "shared.hpp"

namespace pgjobs::presence {

// For commit callbacks.
void extension_came(Database *database);
void extension_gone(Database *database); // wakes everybody who waits there: they fail with 42704
void database_gone(Oid oid);

// Stops the worker of a database and lets none start until the transaction ends.
void hold_off(Oid oid);

// Ends the hold-offs of this transaction; at its end, success or not.
void release();

// Installs the hooks that hear of DROP DATABASE, DROP EXTENSION and the like.
void watch_commands();

} // namespace pgjobs::presence

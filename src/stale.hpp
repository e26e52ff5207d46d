// Rows of attached tables that somebody works on for too long go back to be claimed. Since when
// each is worked on stands in pgjobs.working_row, written by the transactions that change its
// status. The rows are the owner's, with his triggers: so it is done by a short-lived process that
// is connected as the owner, or becomes the owner where he cannot connect.
#pragma once

#include "shared.hpp"

namespace pgjobs::stale {

// Starts that process if something is due and none runs; lowers `next` to when to look again.
// Outside of transactions, in the worker; raises nothing.
void look(Database *database, TimestampTz *next);

// Forgets the records of a table. Inside as_owner.
void forget_table(Oid table);

} // namespace pgjobs::stale

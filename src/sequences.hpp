// Sequences that ids and positions come from.
#pragma once

#include "pg/scope.hpp"

namespace pgjobs::sequences {

// Brings each to where its table is, if it is behind: replication and some restores bring rows
// only, and whoever adds something then would get an id that is taken. For who ends a quarantine;
// waits for transactions that use one that is behind. Inside as_owner.
void catch_up();

} // namespace pgjobs::sequences

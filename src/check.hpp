// Self-checks: what shared memory says, against the tables.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::check {

// Ready jobs that no claim would find; there must be none. Reads the due jobs before the
// frontier.
int64 hidden_jobs();

// The worker's duty: looks, and if there are any, warns and makes them be found.
void check_frontier();

} // namespace pgjobs::check

// Self-checks: what shared memory says, against the tables.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::check {

// Ready jobs that no claim would find; there must be none. Reads every due job: in a worker, or by
// hand.
int64 hidden_jobs();

} // namespace pgjobs::check

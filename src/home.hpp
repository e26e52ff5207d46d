// Where queues, topics and attached tables are at home: a restored or copied database is
// quarantined until pgjobs.resume() adopts them.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::home {

// The home of this database for a new queue, topic or attached table, made with the first one. In a
// copy that has some but no home, a new one joins the quarantine. Inside as_owner.
int64 of_new();

} // namespace pgjobs::home

// Queues that subscribe to topics.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::feed {

// The worker's duty: makes jobs of the messages that subscribed queues have not got yet, a batch of
// each feed in turn, for a few milliseconds; returns how many jobs. `more` is set while there may
// be others. In a transaction.
int64 deliver(TimestampTz now, bool *more, TimestampTz *next);

} // namespace pgjobs::feed

// Who reads topics: subscriptions, and queues that subscribe; for health and metrics.
#pragma once

#include "log.hpp"

namespace pgjobs::readers {

struct Reader {
    const char *name; // of the subscription, or of the queue
    bool queue;
    const Topic *topic;
    int64 position;
};

// Those of the topics that the current user may look at, in his memory.
struct Readers {
    Reader *list;
    int count;
};
Readers all();

} // namespace pgjobs::readers

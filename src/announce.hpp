// Announcements of attached tables: texts that wait in a ring in shared memory until the worker
// sends them with NOTIFY.
#pragma once

#include "shared.hpp"

namespace pgjobs::announce {

// A channel and a payload, each ended by a zero byte.
struct Text {
    const char *data;
    size_t length;
};
constexpr size_t longest_text = 2000;

// Adds a text; a full ring makes everybody look once. Under the events lock.
void put(Database *database, const Text &text);

// Empties the ring. Under the events lock.
void drop_all(Database *database);

// Sends what waits, at most a batch; true if more is left. In a worker's transaction.
bool send(Database *database);

// Tells those who listen for an attached table that something was lost. Inside as_owner.
void send_resyncs();

// {"table": ..., "resync": true}
const char *resync_of(const char *table);

} // namespace pgjobs::announce

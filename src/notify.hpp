// Notifications: what committed transactions left in shared memory, sent by the worker. The
// caller's transaction never executes NOTIFY.
#pragma once

#include "shared.hpp"

namespace pgjobs::notify {

// The place of a queue's hints, made if need be; nullptr when all are taken. Under the events lock.
QueueHints *hints_of(Oid database, int32 queue);
// Frees the places of a database's queues and empties its ring. Takes the lock; raises nothing.
void drop_all_hints(Oid database);

// What is known of a queue; all 0 if nothing is.
QueueHints counters_of(int32 queue);

// Adds an event to the database's ring; a full ring turns into a resync. Under the events lock.
void put_event(Database *database, const Event &event);

// Lets the server drop from its queue what all listeners have read. One that is full takes nothing,
// and otherwise it does that only when it takes something.
void make_room();

// Sends what waits, at most a batch; true if more is left. In a worker's transaction.
bool send(Database *database);

} // namespace pgjobs::notify

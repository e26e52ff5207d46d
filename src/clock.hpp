// What is to be done when the wall clock was set. Leases, like everything in the tables, are in
// wall time. Set forward, the clock makes all leases end at once, of those who are alive, too; so
// nothing is taken back until they had time for a heartbeat. Set back, it makes them last too long;
// so they are moved with it. Whatever happens, the token decides who is believed.
#pragma once

#include "shared.hpp"

namespace pgjobs::clock {

// Sleeps until the latch is set, or for that long, ms; -1: without an end, for nothing is due. A
// long sleep ends when the clock is set.
void sleep(long milliseconds);

// How far the clock was set since the last call for this database, microseconds; 0: it was not.
int64 take_jump(Database *database);

// Whether take_jump() would return one.
bool has_jumped(const Database *database);

// Until when nothing is taken back after the clock was set forward by `jump`: for the longest lease
// of a queue, but not longer than it was set by. In a worker's transaction.
TimestampTz end_of_truce(int64 jump, TimestampTz now);

// Moves the leases that were given before the clock was set back by `jump`: each lasts as long as
// it would have, or as one of its queue's that begins now; a reader's as it would have. A row that
// somebody has is left as it is. In a worker's transaction.
void move_leases(int64 jump, TimestampTz now);

} // namespace pgjobs::clock

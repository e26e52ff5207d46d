// Topics and the segments of their logs: made, rotated, dropped.
#pragma once

#include "catalog.hpp"

namespace pgjobs::topic {

// The worker's duty: begins new segments where it is time, drops those that are past retention
// where nobody reads them. Returns how many it dropped; `next` is lowered to when it should run
// again. Inside as_owner.
int64 keep(TimestampTz now, TimestampTz *next);

// Makes the sequences of topics go with the extension: in a restored copy they are on their own.
void own_sequences();

} // namespace pgjobs::topic

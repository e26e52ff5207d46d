// Duties of the worker besides reaping: each works off what is due at `now`, in batches.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::duty {

// Makes scheduled jobs ready whose time has come, at most a batch; returns how many. `more` is set
// while there may be others; `next` is lowered to the time of the next one. In a transaction.
int64 promote(TimestampTz now, bool *more, TimestampTz *next);

// Cancels waiting jobs whose expires_at has passed; the same contract.
int64 expire(TimestampTz now, bool *more, TimestampTz *next);

// Such a duty called by hand, for a function of one argument, the time: until nothing is due.
// `verb` is named if it may not be. Returns how many it dealt with.
int64 run_by_hand(FunctionCallInfo fcinfo, const char *verb,
                  int64 (*duty)(TimestampTz now, bool *more, TimestampTz *next));

} // namespace pgjobs::duty

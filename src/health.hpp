// What pgjobs.health() is made of.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::health {

// Appends a row to the result.
void report(FunctionCallInfo fcinfo, const char *name, bool ok, const char *detail);

// A time as people say it, such as "5 min".
const char *in_words(int64 microseconds);

// Topics and those who read them.
void check_topics(FunctionCallInfo fcinfo, TimestampTz now);

} // namespace pgjobs::health

// Messages as read and receive return them.
#pragma once

#include "log.hpp"

namespace pgjobs::message {

// The argument "max_messages": 1 to 10000.
int64 required_maximum(FunctionCallInfo fcinfo, int argument);

// Appends the message to the set that the function returns; `token` 0: NULL.
void return_one(FunctionCallInfo fcinfo, const Topic *topic, const log::Message &message,
                int64 token);

} // namespace pgjobs::message

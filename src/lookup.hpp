// Finding the queue of a job by its id, open or finished, as far as the current user may know.
#pragma once

#include "catalog.hpp"

namespace pgjobs {

// nullptr if there is no such job, or its queue gives the current user none of the rights: the two
// must look the same.
const Queue *visible_queue_of(int64 job, int32 rights);

// 42704: there is no such job, or it may not be seen.
[[noreturn]] void no_such_job(int64 job);

} // namespace pgjobs

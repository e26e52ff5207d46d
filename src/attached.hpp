// Tables that are attached: what is wrong with them, the view, and what a restore leaves to do.
#pragma once

#include "attachment.hpp"

namespace pgjobs::attached {

// Makes this the home of all attached tables that have another. Inside as_owner.
void adopt(int64 home);

// What is wrong with an attached table, such as "has no primary key any more"; nullptr if nothing
// is.
const char *fault_of(Oid oid);

} // namespace pgjobs::attached

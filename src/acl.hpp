// Rights on queues.
#pragma once

#include "catalog.hpp"

namespace pgjobs::acl {

// Adds rights on a queue. Inside as_owner.
void grant(int32 queue, Oid role, int32 rights);

// After a restore into another cluster: roles by their names. Rights of roles that are not there
// go. Inside as_owner.
void find_roles_again();

} // namespace pgjobs::acl

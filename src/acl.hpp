// Rights on queues and topics.
#pragma once

#include "catalog.hpp"

namespace pgjobs::acl {

// What there are rights on.
struct Subject;
extern Subject queues;
extern Subject topics;

// Adds rights on a queue or topic. Inside as_owner.
void grant(Subject &subject, int32 id, Oid role, int32 rights);

// The ids of the queues on which the current user has any of the rights, or of the topics that he
// may look at, in the caller's memory.
struct Visible {
    int32 *ids;
    int count;
};
Visible visible_queues(int32 rights);
Visible visible_topics();

// 42501 for who may look at no queue; `what`: "permission denied to ...".
void require_monitor(const char *what);

// After a restore into another cluster: roles by their names. Rights of roles that are not there
// go. Inside as_owner.
void find_roles_again();

} // namespace pgjobs::acl

// Records of the rows that are being worked on when an attachment begins, so that they become
// stale, too (see stale.hpp).
#pragma once

#include "pg/server.hpp"

namespace pgjobs::row_records {

// For the rows that have none. Inside as_owner, with the table locked and not open.
void make(Oid oid);

} // namespace pgjobs::row_records

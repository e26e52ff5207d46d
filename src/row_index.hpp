// The index by which claims find waiting rows of an attached table.
#pragma once

#include "attachment.hpp"

namespace pgjobs::row_index {

// Makes a partial index, unless the table has one that serves every stage. Inside as_owner, with
// the table locked and not open.
void ensure(Oid oid);

// Drops what ensure() made. The same contract.
void drop(Oid table);

} // namespace pgjobs::row_index

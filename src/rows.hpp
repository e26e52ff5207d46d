// The verbs on rows of attached tables. Their statements run as the current user: his rights, his
// row security, his triggers.
#pragma once

#include "attachment.hpp"

namespace pgjobs::rows {

// For the reaper, who is the table's owner. With SPI connected; true if there is such a row.
// Locks a row that is being worked on, unless somebody else has it.
bool lock_working_row(const Attachment *attachment, int stage, const Key &key);
// Lets it wait again.
bool give_row_back(const Attachment *attachment, int stage, const Key &key);
// Whether it is being worked on, locked or not.
bool is_row_working(const Attachment *attachment, int stage, const Key &key);

} // namespace pgjobs::rows

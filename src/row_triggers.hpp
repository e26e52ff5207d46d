// The triggers of attached tables: made, made again with another home, dropped. The one that
// carries the settings has them as its arguments, and the columns in its list (attachment.hpp reads
// them).
#pragma once

#include "attachment.hpp"

namespace pgjobs::row_triggers {

constexpr int count = 4; // of each table

// Inside as_owner, with the table locked and not open. `columns` are names; `words` are the
// settings but for the home; `status` is the name of the status column.
void make(Oid table, int64 home, const List *columns, List *words, const char *status);

// Gives the settings another home. The same contract.
void set_home(Oid oid, int64 home);

// Names of the triggers that are the table's own, in the caller's memory.
List *names(Relation table);
// Inside as_owner, with the table locked and not open.
void drop(Oid table, const List *names);

} // namespace pgjobs::row_triggers

// The settings of an attached table: from the arguments of attach_table to the words that are kept
// as arguments of a trigger (attachment.hpp reads them).
#pragma once

#include "pg/server.hpp"

namespace pgjobs::row_settings {

// Appends the words for the stages and transitions, after checking them (22023). `type` is that of
// the status column, which must have the states (22023).
List *add_stages(List *words, Jsonb *stages, Oid type);
List *add_transitions(List *words, Jsonb *transitions, Oid type); // may be nullptr

inline List *add_word(List *words, const char *word) {
    return lappend(words, const_cast<char *>(word));
}

// 22023 unless NOTIFY takes it.
void check_channel(const char *channel);

} // namespace pgjobs::row_settings

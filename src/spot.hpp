// Where the newest version of a row was put last. For rows that are updated all the time: while
// some snapshot keeps their old versions, an index leads past all of them. A hint that all sessions
// share: whoever looks there must see that it is the right row, and else look it up.
#pragma once

#include "pg/spi.hpp"

namespace pgjobs::spot {

// What the row is known by: its table and a hash of its key.
struct Row {
    Oid table;
    uint32 key;
};

// An argument of type tid, for a condition on ctid; one that no row has if nothing is known.
pg::Value known(const Row &row);

// The column of the last result's first row is the ctid of the row. Returns it, as an argument.
pg::Value note(const Row &row, int column);

} // namespace pgjobs::spot

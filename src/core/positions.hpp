// Positions in the log of a topic, and how far readers may go. Pure, so that a model can try every
// order of steps; docs/topics.md has the protocol.
#pragma once

#include <cstdint>

namespace pgjobs::core {

// Positions [next, end) can be given out. More come in blocks.
struct Positions {
    int64_t next;
    int64_t end;
};

// Gives out `count` positions in a row; false if there are not so many.
constexpr bool take(Positions *positions, int64_t count, int64_t *first) {
    if (positions->end - positions->next < count)
        return false;
    *first = positions->next;
    positions->next += count;
    return true;
}

// Blocks of two processes may come in either order, and what lies between two blocks is not ours:
// what cannot be given out in rising order any more is given up.
constexpr void add_block(Positions *positions, int64_t first, int64_t size) {
    if (first > positions->end)
        positions->next = first;
    if (first >= positions->end)
        positions->end = first + size;
}

// Every position up to here has its row, or never will. `lowest(i)`: of the i-th of `count`
// publishers that have not written all rows yet.
template <class F> constexpr int64_t limit_of(const Positions &positions, int count, F lowest) {
    int64_t limit = positions.next - 1;
    for (int i = 0; i < count; i++)
        if (lowest(i) <= limit)
            limit = lowest(i) - 1;
    return limit;
}

// The first of `count` segments that may have rows behind `after`. `floor(i)` was below all
// positions in segment i when that was made; while it was made, rows above it went to the segment
// before, so that is not passed over.
template <class F> constexpr int first_segment(int count, int64_t after, F floor) {
    int first = 0;
    while (first + 1 < count && floor(first + 1) <= after)
        first++;
    return first > 0 ? first - 1 : 0;
}

} // namespace pgjobs::core

// How many open jobs there are, by state; as a change, how many more or fewer.
#pragma once

#include "core/state.hpp"

namespace pgjobs::core {

constexpr int open_states = 4; // blocked, scheduled, ready, running: the first ones of State

struct Depth {
    int64_t of[open_states];

    constexpr int64_t &operator[](State state) { return of[static_cast<int>(state)]; }
    constexpr int64_t operator[](State state) const { return of[static_cast<int>(state)]; }
};
static_assert(static_cast<int>(State::running) == open_states - 1);

constexpr void add(Depth *depth, const Depth &change) {
    for (int i = 0; i < open_states; i++)
        depth->of[i] += change.of[i];
}

constexpr void subtract(Depth *depth, const Depth &change) {
    for (int i = 0; i < open_states; i++)
        depth->of[i] -= change.of[i];
}

constexpr int differences(const Depth &a, const Depth &b) {
    int count = 0;
    for (int i = 0; i < open_states; i++)
        count += a.of[i] != b.of[i];
    return count;
}

constexpr bool is_zero(const Depth &depth) { return differences(depth, {}) == 0; }

} // namespace pgjobs::core

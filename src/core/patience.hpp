// How long to wait before looking again at rows that somebody else has: 20 ms at first, twice as
// long with every look in vain, a second at most, so that a lock that is never given up costs
// nothing.
#pragma once

#include <cstdint>

namespace pgjobs::core {

constexpr int64_t first_wait = 20 * 1000; // microseconds
constexpr int64_t longest_wait = 1000 * 1000;

struct Patience {
    int64_t wait; // before the next look, in microseconds; 0: nothing is in the way

    // After a look: whether somebody was in the way. Returns the time to wait.
    constexpr int64_t after(bool busy) {
        wait = !busy                     ? 0
               : wait == 0               ? first_wait
               : wait < longest_wait / 2 ? wait * 2
                                         : longest_wait;
        return wait;
    }
};

static_assert(Patience{0}.after(true) == first_wait && Patience{first_wait}.after(true) == 40000);
static_assert(Patience{longest_wait}.after(true) == longest_wait);
static_assert(Patience{longest_wait}.after(false) == 0);

} // namespace pgjobs::core

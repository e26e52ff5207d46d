// The wall clock, which somebody may set, beside one that nobody sets.
#pragma once

#include <cstdint>
#include <ctime>

namespace pgjobs::core {

// Microseconds since some moment; goes on whatever is done to the wall clock.
inline int64_t monotonic() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

// A look at both, microseconds.
struct Clocks {
    int64_t wall;
    int64_t monotonic;
};

// How far the wall clock was set between two looks; 0 if by no more than it may run fast or slow:
// two seconds, and a thousandth of the time between (adjtime does half of that).
constexpr int64_t jump_between(Clocks before, Clocks now) {
    int64_t passed = now.monotonic - before.monotonic;
    int64_t jump = now.wall - before.wall - passed;
    int64_t drift = 2 * INT64_C(1000000) + passed / 1000;
    return jump > drift || jump < -drift ? jump : 0;
}

static_assert(jump_between({1000, 0}, {5001000, 5000000}) == 0);
static_assert(jump_between({0, 0}, {7000000, 5000000}) == 0);
static_assert(jump_between({0, 0}, {7005001, 5000000}) == 2005001);
static_assert(jump_between({INT64_C(3600000000), 0}, {1000000, 1000000}) == INT64_C(-3600000000));
static_assert(jump_between({0, 0}, {INT64_C(86443000000), INT64_C(86400000000)}) == 0);

} // namespace pgjobs::core

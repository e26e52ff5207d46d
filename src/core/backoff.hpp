// How long a failed job waits: base * 2^(attempt - 1), at most `most`, times a random 50 to 100 %.
// Source of the policy: capped exponential backoff with jitter, so that jobs that failed together
// do not come back together.
#pragma once

#include <cstdint>

namespace pgjobs::core {

// `attempt` counts from 1, `random` is in [0, 1). Times in microseconds.
constexpr int64_t backoff(int64_t base, int64_t most, int32_t attempt, double random) {
    int64_t wait = base < most ? base : most;
    for (int32_t i = 1; i < attempt && wait > 0 && wait < most; i++)
        wait = wait > most / 2 ? most : wait * 2;
    return static_cast<int64_t>(static_cast<double>(wait) * (0.5 + random / 2));
}

static_assert(backoff(1000, 60000, 1, 0) == 500);
static_assert(backoff(1000, 60000, 4, 0) == 4000);
static_assert(backoff(1000, 60000, 7, 0) == 30000);
static_assert(backoff(1000, 60000, 2000000000, 0) == 30000);
static_assert(backoff(0, 60000, 9, 0.9) == 0);

} // namespace pgjobs::core

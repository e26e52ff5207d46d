// Jobs that failed, each with the time of its next try: 100 ms at first, twice as long with every
// failure, a minute at most. Sorted by job, bounded, without allocation.
#pragma once

#include <algorithm>
#include <cstdint>

namespace pgjobs::core {

struct Setback {
    int64_t job;
    int64_t again; // microseconds, as every time here
    int64_t wait;
};

struct Setbacks {
    static constexpr int most = 10000;
    static constexpr int64_t first_wait = 100 * 1000;
    static constexpr int64_t longest_wait = 60 * 1000 * 1000;

    Setback list[most];
    int count;

    constexpr Setback *place_of(int64_t job) {
        return std::lower_bound(list, list + count, job,
                                [](const Setback &entry, int64_t id) { return entry.job < id; });
    }

    constexpr bool has(int64_t job) {
        Setback *place = place_of(job);
        return place != list + count && place->job == job;
    }

    // The job has failed, for the first time or again; false if there is no room for it.
    constexpr bool note(int64_t job, int64_t now) {
        Setback *place = place_of(job);
        if (place != list + count && place->job == job) {
            place->wait = std::min(place->wait * 2, longest_wait);
            place->again = now + place->wait;
            return true;
        }
        if (count == most)
            return false;
        std::copy_backward(place, list + count, list + count + 1);
        *place = {job, now + first_wait, first_wait};
        count++;
        return true;
    }

    constexpr void forget(int64_t job) {
        if (!has(job))
            return;
        Setback *place = place_of(job);
        std::copy(place + 1, list + count, place);
        count--;
    }

    // When the next one is to be tried; `never` without any.
    constexpr int64_t next(int64_t never) const {
        int64_t next = never;
        for (int i = 0; i < count; i++)
            next = std::min(next, list[i].again);
        return next;
    }
};

} // namespace pgjobs::core

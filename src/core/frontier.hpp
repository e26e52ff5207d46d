// The frontier of one stage: where its ready jobs begin, kept outside of MVCC so that a claim
// starts where work is and not where work was. Pure state, no locks: see ../frontier.hpp for those.
//
// Jobs of one priority form a run, ordered by Key. A run has a bound `first` and a few strays, and
// this holds: every ready job whose last writer has announced it is a stray or sorts at or after
// `first`. A run that is not listed has no ready job, up to priority `unknown_from`; from there on
// nothing is known. Forgetting is always right, it only makes the next claim slower.
#pragma once

#include <cstdint>

namespace pgjobs::core {

// The place of a job in its run.
struct Key {
    int64_t due_at;
    int64_t id;
};
constexpr Key lowest_key = {INT64_MIN, INT64_MIN};
constexpr Key highest_key = {INT64_MAX, INT64_MAX};

constexpr bool before(const Key &a, const Key &b) {
    return a.due_at != b.due_at ? a.due_at < b.due_at : a.id < b.id;
}
constexpr bool same(const Key &a, const Key &b) { return a.due_at == b.due_at && a.id == b.id; }
constexpr Key lesser(const Key &a, const Key &b) { return before(b, a) ? b : a; }
constexpr Key greater(const Key &a, const Key &b) { return before(a, b) ? b : a; }
constexpr Key next_key(const Key &key) { return {key.due_at, key.id + 1}; }

// A place among all jobs of a stage.
struct Place {
    int32_t priority;
    Key key;
};
constexpr int32_t lowest_priority = INT16_MIN;
constexpr int32_t end_of_priorities = INT16_MAX + 1;
constexpr Place last_place = {end_of_priorities, lowest_key};

constexpr bool before(const Place &a, const Place &b) {
    return a.priority != b.priority ? a.priority < b.priority : before(a.key, b.key);
}
constexpr Place lesser(const Place &a, const Place &b) { return before(b, a) ? b : a; }

// A ready job before the bound. `mark` tells one announcement from a later one of the same job.
struct Stray {
    Key key;
    uint32_t mark;
};

constexpr int most_strays = 16;
constexpr int most_runs = 8;

struct Run {
    int32_t priority;
    int32_t stray_count;
    Key first; // highest_key: nothing is ready but the strays
    Stray strays[most_strays];

    constexpr bool idle() const { return stray_count == 0 && same(first, highest_key); }
};

// Somebody is looking at the priorities from..to. `low` is the first place among them that was
// announced meanwhile.
struct Scan {
    int32_t from;
    int32_t to;
    Place low;

    constexpr bool covers(int32_t priority) const { return from <= priority && priority <= to; }
};

struct Frontier {
    int32_t unknown_from;
    int32_t run_count;
    uint32_t marks;
    Run runs[most_runs]; // by priority

    void forget_all() {
        unknown_from = lowest_priority;
        run_count = 0;
    }

    Run *find(int32_t priority) {
        for (int i = 0; i < run_count; i++)
            if (runs[i].priority == priority)
                return &runs[i];
        return nullptr;
    }

    // Nothing is known from this priority on. Whoever scans there must raise nothing: call
    // interrupt() for each scan.
    void forget_from(int32_t priority) {
        if (priority < unknown_from)
            unknown_from = priority;
        while (run_count > 0 && runs[run_count - 1].priority >= priority)
            run_count--;
    }

    // Adds a run; nullptr if there is no room for it. Runs without ready jobs make room.
    Run *add(int32_t priority, Key first) {
        if (run_count == most_runs)
            drop_idle();
        if (run_count == most_runs)
            return nullptr;
        int at = run_count;
        for (; at > 0 && runs[at - 1].priority > priority; at--)
            runs[at] = runs[at - 1];
        run_count++;
        runs[at].priority = priority;
        runs[at].stray_count = 0;
        runs[at].first = first;
        return &runs[at];
    }

    void drop_idle() {
        int kept = 0;
        for (int i = 0; i < run_count; i++)
            if (!runs[i].idle()) {
                if (kept != i)
                    runs[kept] = runs[i];
                kept++;
            }
        run_count = kept;
    }
};

inline void interrupt(Scan *scan, const Place &place) { scan->low = lesser(scan->low, place); }

// Lowers the bound of a run; strays behind it are not needed any more.
inline void lower(Run *run, const Key &key) {
    run->first = lesser(run->first, key);
    int kept = 0;
    for (int i = 0; i < run->stray_count; i++)
        if (before(run->strays[i].key, run->first))
            run->strays[kept++] = run->strays[i];
    run->stray_count = kept;
}

inline void add_stray(Frontier *frontier, Run *run, const Key &key) {
    uint32_t mark = ++frontier->marks;
    for (int i = 0; i < run->stray_count; i++)
        if (same(run->strays[i].key, key)) {
            run->strays[i].mark = mark;
            return;
        }
    if (run->stray_count < most_strays)
        run->strays[run->stray_count++] = {key, mark};
    else
        lower(run, key);
}

// How much an announcement says.
enum class Extent { one_job, from_here_on };

// The job at this place is ready or may be, or so are jobs from there on. Returns the priority from
// which on everything has been forgotten for want of room, or end_of_priorities. Every scan of the
// stage that covers the place must be told by interrupt(), whatever this returns.
inline int32_t announce(Frontier *frontier, const Place &place, Extent extent) {
    if (place.priority >= frontier->unknown_from)
        return end_of_priorities;
    Run *run = frontier->find(place.priority);
    if (run == nullptr) {
        if (frontier->add(place.priority, place.key) != nullptr)
            return end_of_priorities;
        int32_t last = frontier->runs[frontier->run_count - 1].priority;
        int32_t from = place.priority > last ? place.priority : last;
        frontier->forget_from(from);
        if (place.priority < from)
            frontier->add(place.priority, place.key);
        return from;
    }
    if (before(place.key, run->first)) {
        if (extent == Extent::one_job)
            add_stray(frontier, run, place.key);
        else
            lower(run, place.key);
    }
    return end_of_priorities;
}

// A scan of one run has seen that no ready job stands before `reached`, strays apart.
inline void raise(Frontier *frontier, const Scan &scan, Key reached) {
    if (scan.from >= frontier->unknown_from)
        return;
    Run *run = frontier->find(scan.from);
    if (run == nullptr)
        return;
    Key bound = scan.low.priority > scan.from ? reached : lesser(reached, scan.low.key);
    run->first = greater(run->first, bound);
}

// A scan of the unknown part has seen that no ready job stands before `reached`.
inline void explore(Frontier *frontier, const Scan &scan, const Place &reached) {
    Place bound = lesser(reached, scan.low);
    if (scan.from > frontier->unknown_from || bound.priority < frontier->unknown_from)
        return;
    frontier->unknown_from = bound.priority;
    if (bound.priority < end_of_priorities && before(lowest_key, bound.key) &&
        frontier->add(bound.priority, bound.key) != nullptr)
        frontier->unknown_from = bound.priority + 1;
}

// The stray was looked at and is not ready, or is in the hands of somebody who will announce it.
inline void drop_stray(Frontier *frontier, int32_t priority, const Stray &stray) {
    Run *run = frontier->find(priority);
    if (run == nullptr)
        return;
    for (int i = 0; i < run->stray_count; i++)
        if (same(run->strays[i].key, stray.key) && run->strays[i].mark == stray.mark) {
            run->strays[i] = run->strays[--run->stray_count];
            return;
        }
}

} // namespace pgjobs::core

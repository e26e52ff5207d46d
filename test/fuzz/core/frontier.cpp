// The frontier under any order of announcements, claims and scans by any number of sessions: no
// ready job may ever be where no claim would look. The callers' part is that of src/frontier.cpp.
#include "core/frontier.hpp"
#include "input.hpp"

#include <map>
#include <set>
#include <utility>

using namespace pgjobs::core;

namespace {

struct Later {
    bool operator()(const Place &a, const Place &b) const { return before(a, b); }
};

struct World {
    Frontier frontier;
    std::set<Place, Later> ready;
    struct Look {
        Scan scan;
        Place start;
        std::set<Place, Later> seen; // what was ready when it began
    };
    std::map<int, Look> looks;
    std::map<int, std::pair<int32_t, Stray>> passed;

    void interrupt_from(int32_t priority) {
        for (auto &[who, look] : looks)
            if (look.scan.to >= priority)
                interrupt(&look.scan, {priority, lowest_key});
    }

    void tell(const Place &place, Extent extent) {
        int32_t forgotten = announce(&frontier, place, extent);
        if (forgotten < end_of_priorities)
            interrupt_from(forgotten);
        for (auto &[who, look] : looks)
            if (look.scan.covers(place.priority))
                interrupt(&look.scan, place);
    }

    // As frontier::next(): one run, or all that is unknown.
    void begin(int who, int32_t priority) {
        Look look{{}, {}, ready};
        look.scan.low = last_place;
        if (priority < frontier.unknown_from) {
            const Run *run = frontier.find(priority);
            look.scan.from = look.scan.to = priority;
            look.start = {priority, run != nullptr ? run->first : highest_key};
        } else {
            look.scan.from = priority;
            look.scan.to = end_of_priorities - 1;
            look.start = {priority, lowest_key};
        }
        looks[who] = look;
    }

    // It has passed over what was ready at its beginning and is not any more, and says how far it
    // came: `patience` ready jobs at most.
    void end(int who, int patience) {
        auto found = looks.find(who);
        if (found == looks.end())
            return;
        Look look = found->second;
        looks.erase(found);
        Place reached =
            look.scan.from == look.scan.to ? Place{look.scan.to, highest_key} : last_place;
        for (const Place &place : look.seen) {
            bool covered = look.scan.covers(place.priority) && !before(place, look.start);
            if (covered && (ready.count(place) != 0 || patience-- == 0)) {
                reached = lesser(reached, place);
                break;
            }
        }
        if (look.scan.from == look.scan.to)
            raise(&frontier, look.scan, reached.key);
        else
            explore(&frontier, look.scan, reached);
    }

    // A claim looks at a stray, and when the job is not ready drops it, a moment later.
    void look_at_stray(int who, int32_t priority, int i) {
        const Run *run = frontier.find(priority);
        if (run == nullptr || run->stray_count == 0)
            return;
        const Stray &stray = run->strays[i % run->stray_count];
        if (ready.count({priority, stray.key}) == 0)
            passed[who] = {priority, stray};
    }

    void drop_passed(int who) {
        auto found = passed.find(who);
        if (found == passed.end())
            return;
        drop_stray(&frontier, found->second.first, found->second.second);
        passed.erase(found);
    }

    bool finds(const Place &place) {
        if (place.priority >= frontier.unknown_from)
            return true;
        const Run *run = frontier.find(place.priority);
        if (run == nullptr)
            return false;
        for (int i = 0; i < run->stray_count; i++)
            if (same(run->strays[i].key, place.key))
                return true;
        return !before(place.key, run->first);
    }

    void check() {
        CHECK(0 <= frontier.run_count && frontier.run_count <= most_runs);
        for (int i = 0; i < frontier.run_count; i++) {
            const Run &run = frontier.runs[i];
            CHECK(run.priority < frontier.unknown_from);
            CHECK(i == 0 || frontier.runs[i - 1].priority < run.priority);
            CHECK(0 <= run.stray_count && run.stray_count <= most_strays);
        }
        for (const Place &place : ready)
            CHECK(finds(place));
    }
};

// Twelve priorities, so that there are more than runs, and both ends.
int32_t priority_of(Input &input) {
    int n = input.below(14);
    return n == 12 ? lowest_priority : n == 13 ? end_of_priorities - 1 : n * 10;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input{data, size};
    World world{};
    world.frontier.forget_all();
    while (!input.empty()) {
        int step = input.below(10);
        int32_t priority = priority_of(input);
        Place place{priority, {input.number(), input.number()}};
        // Ids and times end before these: they are the frontier's own.
        if (place.key.id == INT64_MAX || same(place.key, lowest_key))
            continue;
        switch (step) {
        case 0:
        case 1:
            world.ready.insert(place);
            world.tell(place, Extent::one_job);
            break;
        case 2: // many at once: the least one speaks for all
            world.ready.insert(place);
            world.ready.insert({priority, next_key(place.key)});
            world.tell(place, Extent::from_here_on);
            break;
        case 3: // claimed
            if (auto at = world.ready.lower_bound(place); at != world.ready.end())
                world.ready.erase(at);
            break;
        case 4:
        case 5:
            world.begin(input.below(4), priority);
            break;
        case 6:
            world.end(input.below(4), input.below(4));
            break;
        case 7:
            world.look_at_stray(input.below(4), priority, input.below(most_strays));
            break;
        case 8:
            world.drop_passed(input.below(4));
            break;
        default: // a new server, a dropped queue
            world.frontier.forget_from(priority);
            world.interrupt_from(priority);
        }
        world.check();
    }
    return 0;
}

// Positions of a topic: blocks that come in any order, publishers that end in any order. Positions
// rise, none is given twice, and no reader is let past one whose row may still come.
#include "core/positions.hpp"
#include "input.hpp"

#include <algorithm>
#include <set>
#include <vector>

using namespace pgjobs::core;

namespace {

constexpr int64_t block = 8;

struct World {
    Positions positions{1, 1};
    int64_t sequence = 1;
    std::vector<int64_t> blocks; // taken from the sequence, not yet added
    std::set<int64_t> added;
    std::set<int64_t> open; // the first positions of publishers at work
    int64_t given = 0;      // the highest one

    void publish(int64_t count) {
        int64_t first = 0;
        Positions before = positions;
        if (!take(&positions, count, &first)) {
            CHECK(before.end - before.next < count);
            CHECK(positions.next == before.next);
            return;
        }
        CHECK(first > given);
        given = first + count - 1;
        for (int64_t position = first; position <= given; position++)
            CHECK(added.count((position - 1) / block * block + 1) != 0);
        open.insert(first);
    }

    int64_t limit() {
        std::vector<int64_t> lowest(open.begin(), open.end());
        return limit_of(positions, static_cast<int>(lowest.size()),
                        [&](int i) { return lowest[static_cast<size_t>(i)]; });
    }

    void check() {
        int64_t most = limit();
        CHECK(most < positions.next);
        for (int64_t first : open)
            CHECK(most < first);
        CHECK(!open.empty() || most == positions.next - 1);
        CHECK(positions.next <= positions.end);
    }
};

// The segment that a reader begins with has, or is before, the first row behind its position.
void check_segments(Input &input) {
    std::vector<int64_t> floors;
    for (int i = 0, count = 1 + input.below(6); i < count; i++)
        floors.push_back(input.number());
    std::sort(floors.begin(), floors.end());
    int64_t after = input.number();
    int count = static_cast<int>(floors.size());
    auto floor = [&](int i) { return floors[static_cast<size_t>(i)]; };
    int first = first_segment(count, after, floor);
    CHECK(0 <= first && first < count);
    CHECK(first == 0 || floor(first + 1) <= after);
    CHECK(first + 2 >= count || floor(first + 2) > after);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Input input{data, size};
    World world;
    while (!input.empty()) {
        switch (input.below(6)) {
        case 0: // of every third nobody hears
            if (input.below(3) != 0)
                world.blocks.push_back(world.sequence);
            world.sequence += block;
            break;
        case 1:
        case 2:
            if (!world.blocks.empty()) {
                auto at = world.blocks.begin() + input.below(static_cast<int>(world.blocks.size()));
                add_block(&world.positions, *at, block);
                world.added.insert(*at);
                world.blocks.erase(at);
            }
            break;
        case 3:
            world.publish(1 + input.below(2 * block));
            break;
        case 4:
            if (!world.open.empty()) {
                auto at = world.open.begin();
                std::advance(at, input.below(static_cast<int>(world.open.size())));
                world.open.erase(at);
            }
            break;
        default:
            check_segments(input);
        }
        world.check();
    }
    return 0;
}

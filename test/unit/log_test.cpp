// The log of a topic: its functions, and a model that runs publishers, readers, rotations and
// crashes in random order, one atomic step of the server at a time. With the protocol whole no
// reader may miss a message or see one out of order; with any one rule left out some must.
#include "core/positions.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <vector>

using namespace pgjobs::core;

TEST(Positions, AreGivenOutInARow) {
    Positions positions{1, 1};
    int64_t first = 0;
    EXPECT_FALSE(take(&positions, 1, &first));
    add_block(&positions, 1, 8);
    EXPECT_TRUE(take(&positions, 5, &first));
    EXPECT_EQ(first, 1);
    EXPECT_FALSE(take(&positions, 4, &first));
    add_block(&positions, 9, 8);
    EXPECT_TRUE(take(&positions, 4, &first));
    EXPECT_EQ(first, 6);
}

TEST(Positions, ABlockThatComesLateIsGivenUp) {
    Positions positions{1, 9};
    add_block(&positions, 17, 8);
    EXPECT_EQ(positions.next, 17);
    add_block(&positions, 9, 8);
    EXPECT_EQ(positions.next, 17);
    EXPECT_EQ(positions.end, 25);
}

TEST(Positions, TheLowestPublisherIsTheLimit) {
    const int64_t lowest[] = {7, 5, 9};
    EXPECT_EQ(limit_of({10, 20}, 3, [&](int i) { return lowest[i]; }), 4);
    EXPECT_EQ(limit_of({10, 20}, 0, [&](int i) { return lowest[i]; }), 9);
}

TEST(Positions, TheSegmentBeforeIsLookedAtToo) {
    const int64_t floors[] = {1, 10, 20};
    auto floor = [&](int i) { return floors[i]; };
    EXPECT_EQ(first_segment(3, 0, floor), 0);
    EXPECT_EQ(first_segment(3, 12, floor), 0);
    EXPECT_EQ(first_segment(3, 20, floor), 1);
    EXPECT_EQ(first_segment(1, 50, floor), 0);
}

namespace {

enum class Left {
    nothing,
    register_,      // readers look at the last position only
    early,          // publishers leave the register before their rows are there
    judging,        // a row under way is taken for a hole
    snapshot,       // rows are judged by what was committed when the reader began
    block_order,    // a block is used whenever it comes
    reload,         // a reader trusts the segments that it knows
    segment_before, // only the segment is looked at whose floor is below
    floor,          // a segment's floor is what readers may read up to
    flush           // after a crash the sequence may give a block again
};

constexpr int64_t block = 4;

enum class State { under_way, committed, gone };
struct Row {
    int segment;
    int transaction;
};

// What is on disk and what is shared.
struct World {
    Left left;
    std::mt19937 random;
    std::map<int64_t, Row> rows; // that have their index entry
    std::map<int, State> transactions;
    std::map<int, bool> prepared;
    int64_t sequence = 1, flushed_sequence = 1;
    std::vector<int64_t> floors = {1}; // of the segments that are committed
    Positions positions{1, 1};
    std::map<int, int64_t> lowest; // registered publishers
    int segment = 0;               // where messages go

    int choose(int count) { return static_cast<int>(random() % static_cast<unsigned>(count)); }
    int64_t limit() const {
        if (left == Left::register_)
            return positions.next - 1;
        std::vector<int64_t> all;
        for (auto &[publisher, position] : lowest)
            all.push_back(position);
        return limit_of(positions, static_cast<int>(all.size()),
                        [&](int i) { return all[static_cast<size_t>(i)]; });
    }
};

// A transaction that publishes once or twice.
struct Publisher {
    int id;
    int step = 0;
    int batches;
    int64_t drawn = 0, first = 0;
    int count = 0, written = 0, segment = 0;
    bool done = false;

    Publisher(World &world, int number) : id(number), batches(1 + world.choose(2)) {
        world.transactions[id] = State::under_way;
    }

    void act(World &world) {
        switch (step) {
        case 0: // take positions, or see that a block is needed
            count = 1 + world.choose(2);
            written = 0;
            if (take(&world.positions, count, &first)) {
                segment = world.segment;
                world.lowest[id] = first;
                step = 3;
            } else {
                step = 1;
            }
            break;
        case 1:
            drawn = world.sequence;
            world.sequence += block;
            if (world.left != Left::flush)
                world.flushed_sequence = world.sequence;
            step = 2;
            break;
        case 2:
            if (world.left == Left::block_order)
                world.positions = {drawn, drawn + block};
            else
                add_block(&world.positions, drawn, block);
            step = 0;
            break;
        case 3:
            if (world.left == Left::early && world.lowest.erase(id) > 0)
                break;
            world.rows[first + written] = {segment, id};
            if (++written == count)
                step = 4;
            break;
        case 4:
            world.lowest.erase(id);
            step = --batches > 0 ? 0 : 5;
            break;
        case 5: // commit, roll back, or prepare first
            if (!world.prepared[id] && world.choose(8) == 0) {
                world.prepared[id] = true;
                break;
            }
            world.transactions[id] = world.choose(4) == 0 ? State::gone : State::committed;
            done = true;
            break;
        default:
            break;
        }
    }
};

// Makes a segment: looks at the end, commits, and then tells the publishers.
struct Rotation {
    int step = 0;
    int64_t floor = 0;

    void act(World &world) {
        if (step == 0)
            floor = world.left == Left::floor ? world.limit() + 1 : world.positions.next;
        else if (step == 1)
            world.floors.push_back(floor);
        else
            world.segment = static_cast<int>(world.floors.size()) - 1;
        step = (step + 1) % 3;
    }
};

// Reads on and on. A watcher goes on behind the last message, a feed behind all that was judged.
struct Reader {
    bool feed;
    std::vector<int64_t> floors = {1}; // the segments that it knows
    std::vector<int64_t> seen;
    std::map<int, State> snapshot;
    int64_t cursor = 0, limit = 0, at = 0;
    size_t segment = 0;
    int step = 0;

    explicit Reader(bool is_feed) : feed(is_feed) {}

    void act(World &world) {
        switch (step) {
        case 0:
            limit = world.limit();
            at = cursor;
            if (world.segment >= static_cast<int>(floors.size()) && world.left != Left::reload)
                floors = world.floors;
            segment = static_cast<size_t>(
                first_segment(static_cast<int>(floors.size()), cursor,
                              [&](int i) { return floors[static_cast<size_t>(i)]; }));
            if (world.left == Left::segment_before)
                while (segment + 1 < floors.size() && floors[segment + 1] <= cursor + 1)
                    segment++;
            step = 1;
            break;
        case 1: { // the next row of the segment
            auto row = world.rows.upper_bound(at);
            while (row != world.rows.end() && row->second.segment != static_cast<int>(segment))
                ++row;
            if (row == world.rows.end() || row->first > limit) {
                if (++segment >= floors.size()) {
                    if (feed)
                        cursor = std::max(cursor, limit);
                    step = world.left == Left::snapshot ? 2 : 0;
                }
                break;
            }
            State state = world.left == Left::snapshot
                              ? snapshot_of(row->second.transaction)
                              : world.transactions[row->second.transaction];
            at = row->first;
            if (state == State::under_way && world.left != Left::judging &&
                world.left != Left::snapshot) {
                if (feed)
                    cursor = std::max(cursor, at - 1);
                step = 0;
            } else if (state == State::committed) {
                seen.push_back(at);
                cursor = at;
            }
            break;
        }
        default: // a statement's snapshot comes before it looks at the limit
            snapshot = world.transactions;
            step = 0;
            break;
        }
    }

    State snapshot_of(int transaction) {
        auto found = snapshot.find(transaction);
        return found == snapshot.end() ? State::under_way : found->second;
    }
};

// Prepared transactions stay; everything else that is under way is gone, and so is what is shared.
void crash(World &world, std::vector<Publisher> &publishers) {
    for (Publisher &publisher : publishers) {
        if (publisher.done || world.prepared[publisher.id])
            continue;
        world.transactions[publisher.id] = State::gone;
        publisher.done = true;
    }
    world.lowest.clear();
    world.sequence = world.flushed_sequence;
    int64_t next = world.rows.empty() ? 1 : world.rows.rbegin()->first + 1;
    if (world.left == Left::flush) { // rows of the last positions did not reach the disk either
        while (!world.rows.empty() && world.rows.rbegin()->first >= world.flushed_sequence)
            world.rows.erase(std::prev(world.rows.end()));
        next = world.flushed_sequence;
    }
    world.positions = {next, next};
    world.segment = static_cast<int>(world.floors.size()) - 1;
}

// True if some reader missed a message or saw one out of order.
bool goes_wrong(Left left, unsigned seed) {
    World world{};
    world.left = left;
    world.random.seed(seed);
    std::vector<Publisher> publishers;
    std::vector<Reader> readers = {Reader(false), Reader(true)};
    Rotation rotation;
    for (int i = 0; i < 5; i++)
        publishers.emplace_back(world, i);
    for (int step = 0; step < 160; step++) {
        int who = world.choose(20);
        if (who < 11) {
            Publisher &publisher = publishers[static_cast<size_t>(world.choose(5))];
            if (publisher.done)
                publisher = Publisher(world, 5 + step);
            else
                publisher.act(world);
        } else if (who < 17) {
            readers[static_cast<size_t>(world.choose(2))].act(world);
        } else if (who < 19) {
            rotation.act(world);
        } else if (world.choose(6) == 0) {
            crash(world, publishers);
            rotation.step = 0;
            for (Reader &reader : readers)
                reader.step = 0;
        }
    }
    while (rotation.step != 0)
        rotation.act(world);
    for (Publisher &publisher : publishers)
        while (!publisher.done)
            publisher.act(world);
    for (Reader &reader : readers)
        for (int i = 0; i < 2000; i++)
            reader.act(world);
    for (Reader &reader : readers) {
        if (std::adjacent_find(reader.seen.begin(), reader.seen.end(), std::greater_equal<>()) !=
            reader.seen.end())
            return true;
        for (auto &[position, row] : world.rows)
            if (world.transactions[row.transaction] == State::committed &&
                !std::binary_search(reader.seen.begin(), reader.seen.end(), position))
                return true;
    }
    return false;
}

int count_wrong(Left left, int runs) {
    int wrong = 0;
    for (int seed = 0; seed < runs; seed++)
        wrong += goes_wrong(left, static_cast<unsigned>(seed));
    return wrong;
}

class Rule : public testing::TestWithParam<Left> {};

} // namespace

TEST(Log, ReadersMissNothing) { EXPECT_EQ(count_wrong(Left::nothing, 20000), 0); }

TEST_P(Rule, IsNeeded) { EXPECT_GT(count_wrong(GetParam(), 4000), 0); }

INSTANTIATE_TEST_SUITE_P(Log, Rule,
                         testing::Values(Left::register_, Left::early, Left::judging,
                                         Left::snapshot, Left::block_order, Left::reload,
                                         Left::segment_before, Left::floor, Left::flush));

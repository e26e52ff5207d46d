// The frontier: its functions, and a model that runs transactions in random order, one atomic step
// of the server at a time, and looks whether a ready job can be lost. The model must lose none with
// the protocol whole, and some with any one rule of it left out.
#include "core/frontier.hpp"

#include <algorithm>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

using namespace pgjobs::core;

static Place at(int32_t priority, int64_t id) { return {priority, {0, id}}; }

// A frontier that knows of no ready job at all.
static Frontier known() {
    Frontier frontier{};
    frontier.unknown_from = end_of_priorities;
    return frontier;
}

static Run *run_of(Frontier &frontier, int32_t priority) { return frontier.find(priority); }

TEST(Frontier, KnowsNothingAtFirst) {
    Frontier frontier{};
    frontier.forget_all();
    EXPECT_EQ(announce(&frontier, at(0, 5), Extent::one_job), end_of_priorities);
    EXPECT_EQ(frontier.run_count, 0);
}

TEST(Frontier, ExploringFindsTheFirstJob) {
    Frontier frontier{};
    frontier.forget_all();
    Scan scan{lowest_priority, INT16_MAX, last_place};
    explore(&frontier, scan, at(3, 7));
    EXPECT_EQ(frontier.unknown_from, 4);
    ASSERT_NE(run_of(frontier, 3), nullptr);
    EXPECT_TRUE(same(run_of(frontier, 3)->first, Key{0, 7}));
    Scan rest{4, INT16_MAX, last_place};
    explore(&frontier, rest, last_place);
    EXPECT_EQ(frontier.unknown_from, end_of_priorities);
}

TEST(Frontier, ExploringGoesNoFurtherThanWhatWasAnnounced) {
    Frontier frontier{};
    frontier.forget_all();
    Scan scan{lowest_priority, INT16_MAX, last_place};
    interrupt(&scan, at(1, 2));
    explore(&frontier, scan, last_place);
    EXPECT_EQ(frontier.unknown_from, 2);
    EXPECT_TRUE(same(run_of(frontier, 1)->first, Key{0, 2}));
}

TEST(Frontier, AnEarlierJobIsAStray) {
    Frontier frontier = known();
    announce(&frontier, at(0, 10), Extent::one_job);
    announce(&frontier, at(0, 4), Extent::one_job);
    announce(&frontier, at(0, 4), Extent::one_job);
    announce(&frontier, at(0, 12), Extent::one_job);
    auto *run = run_of(frontier, 0);
    EXPECT_TRUE(same(run->first, Key{0, 10}));
    ASSERT_EQ(run->stray_count, 1);
    Stray old = {run->strays[0].key, run->strays[0].mark - 1};
    drop_stray(&frontier, 0, old); // announced again since
    EXPECT_EQ(run->stray_count, 1);
    drop_stray(&frontier, 0, run->strays[0]);
    EXPECT_EQ(run->stray_count, 0);
}

TEST(Frontier, ManyEarlierJobsLowerTheBound) {
    Frontier frontier = known();
    announce(&frontier, at(0, 100), Extent::one_job);
    for (int i = 0; i < most_strays; i++)
        announce(&frontier, at(0, 50 - i), Extent::one_job);
    EXPECT_EQ(run_of(frontier, 0)->stray_count, most_strays);
    announce(&frontier, at(0, 40), Extent::one_job); // known already
    EXPECT_TRUE(same(run_of(frontier, 0)->first, Key{0, 100}));
    announce(&frontier, at(0, 45 - most_strays), Extent::one_job);
    EXPECT_TRUE(same(run_of(frontier, 0)->first, Key{0, 45 - most_strays}));
    EXPECT_EQ(run_of(frontier, 0)->stray_count, 0); // all behind the bound now
    announce(&frontier, at(0, 3), Extent::from_here_on);
    EXPECT_TRUE(same(run_of(frontier, 0)->first, Key{0, 3}));
}

TEST(Frontier, TooManyPrioritiesAreForgottenFromTheLastOn) {
    Frontier frontier = known();
    for (int i = 0; i < most_runs; i++)
        EXPECT_EQ(announce(&frontier, at(10 * i, 1), Extent::one_job), end_of_priorities);
    EXPECT_EQ(announce(&frontier, at(1000, 1), Extent::one_job), 1000);
    EXPECT_EQ(frontier.unknown_from, 1000);
    EXPECT_EQ(announce(&frontier, at(5, 1), Extent::one_job), 10 * (most_runs - 1));
    EXPECT_EQ(frontier.unknown_from, 10 * (most_runs - 1));
    ASSERT_NE(run_of(frontier, 5), nullptr);
    EXPECT_EQ(frontier.run_count, most_runs);
    for (int i = 1; i < frontier.run_count; i++)
        EXPECT_LT(frontier.runs[i - 1].priority, frontier.runs[i].priority);
}

TEST(Frontier, RunsWithoutJobsMakeRoom) {
    Frontier frontier = known();
    for (int i = 0; i < most_runs; i++)
        announce(&frontier, at(i, 1), Extent::one_job);
    Scan scan{3, 3, last_place};
    raise(&frontier, scan, highest_key);
    EXPECT_EQ(announce(&frontier, at(99, 1), Extent::one_job), end_of_priorities);
    EXPECT_EQ(run_of(frontier, 3), nullptr);
    EXPECT_EQ(frontier.unknown_from, end_of_priorities);
}

TEST(Frontier, AScanOfAForgottenRunRaisesNothing) {
    Frontier frontier = known();
    announce(&frontier, at(4, 1), Extent::one_job);
    Scan scan{4, 4, last_place};
    frontier.forget_from(2);
    interrupt(&scan, {2, lowest_key});
    raise(&frontier, scan, highest_key);
    Scan other{2, INT16_MAX, last_place};
    explore(&frontier, other, at(4, 1)); // somebody else finds it again
    raise(&frontier, scan, highest_key);
    EXPECT_TRUE(same(run_of(frontier, 4)->first, Key{0, 1}));
}

// ---- the model ----

namespace {

// Rules that can be left out, to see that the model notices.
enum class Rule { none, low, stop, mark, pin, abort };

enum class Row { absent, ready, running };

struct World {
    struct Job {
        Row committed = Row::absent;
        int holder = 0; // transaction, 0: nobody
        Row next = Row::absent;
    };
    Rule without = Rule::none;
    std::map<int64_t, Job> jobs;
    Frontier frontier{};
    std::map<int, Scan> scans;
    std::set<int> announcers;
    std::map<int, int64_t> pins;

    void tell(int64_t id, Extent extent) {
        int32_t from = announce(&frontier, at(0, id), extent);
        if (without == Rule::low)
            return;
        for (auto &[who, scan] : scans) {
            interrupt(&scan, at(0, id));
            if (from != end_of_priorities)
                interrupt(&scan, {from, lowest_key});
        }
    }
};

// A transaction is a list of steps; a step may put more steps behind itself.
struct Transaction {
    World &world;
    int me;
    bool commits;
    bool prepares = false;
    bool announces = true; // false: somebody's SELECT FOR UPDATE by hand
    std::vector<int64_t> touched{};
    std::vector<std::function<bool()>> steps{};
    size_t done = 0;

    // A step that says false had nothing to do: the next one comes at once.
    void perhaps(std::function<bool()> step) { steps.push_back(std::move(step)); }
    template <class F> void then(F step) {
        perhaps([step]() mutable {
            step();
            return true;
        });
    }
    bool step() {
        while (done < steps.size() && !steps[done++]())
            ;
        return done < steps.size();
    }

    void end() {
        if (prepares && !touched.empty() && world.without != Rule::pin)
            then([this] { // PREPARE: the pin bounds every raise and lowers the bound
                int64_t least = *std::min_element(touched.begin(), touched.end());
                world.pins[me] = least;
                world.tell(least, Extent::from_here_on);
            });
        auto left = std::make_shared<std::vector<int64_t>>();
        then([this, left] { // visible
            for (int64_t id : touched) {
                auto &job = world.jobs[id];
                bool stays = commits ? job.next == Row::ready : job.committed == Row::ready;
                if (world.without == Rule::abort && !commits)
                    stays = false;
                if (stays && !(prepares && world.without == Rule::pin))
                    left->push_back(id);
                if (commits)
                    job.committed = job.next;
                job.holder = 0;
            }
        });
        then([this, left] { // the callback, later
            if (announces)
                for (int64_t id : *left)
                    world.tell(id, Extent::one_job);
            world.announcers.erase(me);
            world.pins.erase(me);
        });
    }

    void take(int64_t id, Row next) {
        auto &job = world.jobs[id];
        job.holder = me;
        job.next = next;
        touched.push_back(id);
    }

    void write(int64_t id, Row from, Row to) {
        then([this, id, from, to] {
            auto &job = world.jobs[id];
            if (job.holder != 0 || job.committed != from)
                return;
            if (announces)
                world.announcers.insert(me);
            take(id, to);
        });
        then([] {});
        end();
    }

    // passed, taken, or in the way
    enum class Seen { passed, taken, stop };
    Seen look(int64_t id) {
        auto &job = world.jobs[id];
        if (job.holder == me || job.committed != Row::ready)
            return Seen::passed;
        if (job.holder != 0)
            return world.announcers.count(job.holder) != 0 || world.without == Rule::stop
                       ? Seen::passed
                       : Seen::stop;
        take(id, Row::running);
        return Seen::taken;
    }

    void claim(int most, int64_t jobs) {
        struct State {
            Run run{};
            bool known = false;
            int taken = 0;
            int64_t next = 0;
            int64_t stop = INT64_MAX;
        };
        auto state = std::make_shared<State>();
        then([this, state] { // registers and reads in one critical section
            world.announcers.insert(me);
            Run *run = world.frontier.find(0);
            state->known = world.frontier.unknown_from > 0;
            world.scans[me] = {state->known ? 0 : lowest_priority, state->known ? 0 : INT16_MAX,
                               last_place};
            state->run.first = highest_key;
            if (run != nullptr)
                state->run = *run;
            state->next = !state->known                         ? 0
                          : same(state->run.first, highest_key) ? INT64_MAX
                                                                : state->run.first.id;
        });
        for (int i = 0; i < most_strays; i++) {
            auto seen = std::make_shared<std::optional<Seen>>();
            perhaps([=, this] {
                if (i >= state->run.stray_count || state->taken >= most)
                    return false;
                *seen = look(state->run.strays[i].key.id);
                state->taken += **seen == Seen::taken;
                return true;
            });
            perhaps([=, this] {
                if (!*seen || **seen == Seen::stop)
                    return false;
                Stray stray = state->run.strays[i];
                Run *run = world.frontier.find(0);
                for (int s = 0; world.without == Rule::mark && run && s < run->stray_count; s++)
                    if (same(run->strays[s].key, stray.key))
                        stray.mark = run->strays[s].mark;
                drop_stray(&world.frontier, 0, stray);
                return true;
            });
        }
        for (int64_t i = 0; i <= jobs; i++)
            perhaps([=, this] {
                if (state->taken >= most || state->next > jobs)
                    return false;
                Seen seen = look(state->next);
                state->taken += seen == Seen::taken;
                if (seen == Seen::stop)
                    state->stop = std::min(state->stop, state->next);
                state->next++;
                return true;
            });
        then([=, this] { // raises and leaves in one critical section
            Scan scan = world.scans[me];
            world.scans.erase(me);
            bool all = state->next > jobs;
            Place reached =
                all ? (state->known ? Place{0, highest_key} : last_place) : at(0, state->next);
            if (state->stop != INT64_MAX)
                reached = lesser(reached, at(0, state->stop));
            for (auto &[who, id] : world.pins)
                reached = lesser(reached, at(0, id));
            if (state->known)
                raise(&world.frontier, scan, reached.key);
            else
                explore(&world.frontier, scan, reached);
        });
        end();
        then([this] { world.announcers.erase(me); });
    }
};

constexpr int64_t jobs = 7;

// Runs one random schedule; true if a ready job is lost at its end.
bool loses(Rule without, uint32_t seed) {
    std::mt19937 random(seed);
    auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
    World world;
    world.without = without;
    if (below(3) == 0) {
        world.frontier.forget_all();
    } else { // known, from the start on, and with little room for strays
        world.frontier.unknown_from = end_of_priorities;
        Run *run = world.frontier.add(0, {0, 0});
        for (int i = below(2) * most_strays; i > 1; i--)
            run->strays[run->stray_count++] = {{-1, i}, 0};
    }
    for (int64_t id = 0; id < jobs; id++)
        if (below(5) < 3)
            world.jobs[id].committed = below(2) != 0 ? Row::ready : Row::running;
    std::vector<std::unique_ptr<Transaction>> open;
    int count = 3 + below(4);
    for (int i = 1; i <= count; i++) {
        open.push_back(std::make_unique<Transaction>(Transaction{world, i, below(2) != 0}));
        Transaction &t = *open.back();
        int64_t id = below(jobs);
        switch (below(9)) {
        case 0:
        case 1:
            t.prepares = below(4) == 0;
            t.write(id, Row::absent, Row::ready);
            break;
        case 2: // release, reap, retry
            t.write(id, Row::running, Row::ready);
            break;
        case 3: // cancel
            t.write(id, Row::ready, Row::absent);
            break;
        case 4: // replace
            t.write(id, Row::ready, Row::ready);
            break;
        case 5: // a lock by hand
            t.announces = false;
            t.write(id, Row::ready, Row::ready);
            break;
        default:
            t.prepares = below(4) == 0;
            t.claim(1 + below(3), jobs);
        }
    }
    while (!open.empty()) {
        size_t i = random() % open.size();
        if (!open[i]->step())
            open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (world.frontier.unknown_from <= 0)
        return false;
    Run *run = world.frontier.find(0);
    for (auto &[id, job] : world.jobs) {
        if (job.committed != Row::ready)
            continue;
        bool found = run != nullptr && !before(Key{0, id}, run->first);
        for (int i = 0; run != nullptr && i < run->stray_count; i++)
            found |= run->strays[i].key.id == id && run->strays[i].key.due_at == 0;
        if (!found)
            return true;
    }
    return false;
}

int lost(Rule without, uint32_t schedules) {
    int count = 0;
    for (uint32_t seed = 0; seed < schedules; seed++)
        count += loses(without, seed);
    return count;
}

} // namespace

TEST(FrontierModel, LosesNoJob) { EXPECT_EQ(lost(Rule::none, 60000), 0); }

TEST(FrontierModel, NoticesEachRuleThatIsLeftOut) {
    for (Rule rule : {Rule::low, Rule::stop, Rule::mark, Rule::pin, Rule::abort})
        EXPECT_GT(lost(rule, 20000), 0) << "rule " << static_cast<int>(rule);
}

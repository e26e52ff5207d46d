// Jobs that failed: found again, tried later and later, forgotten, and never more than there is
// room for.
#include "core/setbacks.hpp"

#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <set>

using pgjobs::core::Setbacks;

constexpr int64_t never = INT64_MAX;
constexpr int64_t second = 1000000;

TEST(Setbacks, WaitTwiceAsLongUpToAMinute) {
    auto list = std::make_unique<Setbacks>();
    EXPECT_EQ(list->next(never), never);
    int64_t wait = second / 10;
    for (int i = 0; i < 20; i++) {
        EXPECT_TRUE(list->note(7, second));
        EXPECT_EQ(list->next(never), second + wait);
        wait = std::min(wait * 2, 60 * second);
    }
    EXPECT_EQ(list->next(never), 61 * second);
    list->forget(7);
    EXPECT_TRUE(list->note(7, second));
    EXPECT_EQ(list->next(never), second + second / 10); // a new trouble, not the old one
}

TEST(Setbacks, AreFoundWhateverTheOrder) {
    auto list = std::make_unique<Setbacks>();
    std::mt19937_64 random(20261122);
    std::set<int64_t> expected;
    for (int i = 0; i < 20000; i++) {
        auto job = static_cast<int64_t>(random() % 500);
        if (random() % 3 == 0) {
            list->forget(job);
            expected.erase(job);
        } else {
            EXPECT_TRUE(list->note(job, i));
            expected.insert(job);
        }
        ASSERT_EQ(list->count, static_cast<int>(expected.size()));
        EXPECT_EQ(list->has(job), expected.count(job) == 1);
    }
    for (int64_t job = 0; job < 500; job++)
        EXPECT_EQ(list->has(job), expected.count(job) == 1) << job;
}

TEST(Setbacks, AreBounded) {
    auto list = std::make_unique<Setbacks>();
    for (int64_t job = Setbacks::most; job > 0; job--)
        ASSERT_TRUE(list->note(job, 0));
    EXPECT_FALSE(list->note(Setbacks::most + 1, 0));
    EXPECT_FALSE(list->has(Setbacks::most + 1));
    EXPECT_TRUE(list->note(1, 0)); // one that is there may fail again
    list->forget(Setbacks::most);
    EXPECT_TRUE(list->note(Setbacks::most + 1, 0));
}

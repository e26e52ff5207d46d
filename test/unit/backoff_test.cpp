// Retry waits: doubled, capped, spread over 50 to 100 percent.
#include "core/backoff.hpp"

#include <algorithm>
#include <cstdint>
#include <gtest/gtest.h>
#include <limits>
#include <random>

using pgjobs::core::backoff;

constexpr int64_t second = 1000000;
constexpr int64_t hour = 3600 * second;
constexpr double almost_one = 0.9999999999;

TEST(Backoff, DoublesWithEachAttempt) {
    for (int attempt = 1; attempt <= 11; attempt++)
        EXPECT_EQ(backoff(second, hour, attempt, 0), (second << (attempt - 1)) / 2);
}

TEST(Backoff, StaysBetweenHalfAndAll) {
    std::mt19937_64 random(20261122);
    std::uniform_real_distribution<double> unit(0, 1);
    int64_t least = hour;
    int64_t most = 0;
    for (int i = 0; i < 100000; i++) {
        int64_t wait = backoff(8 * second, hour, 1, unit(random));
        least = std::min(least, wait);
        most = std::max(most, wait);
    }
    EXPECT_GE(least, 4 * second);
    EXPECT_LE(most, 8 * second);
    EXPECT_LT(least, 4 * second + second / 10); // and uses all of it
    EXPECT_GT(most, 8 * second - second / 10);
}

TEST(Backoff, IsCapped) {
    for (int attempt : {13, 40, 64, 65, 1000, std::numeric_limits<int32_t>::max()})
        EXPECT_EQ(backoff(second, hour, attempt, 0), hour / 2) << attempt;
    EXPECT_LE(backoff(second, hour, 40, almost_one), hour);
}

TEST(Backoff, CanBeZeroOrConstant) {
    EXPECT_EQ(backoff(0, hour, 20, almost_one), 0);
    EXPECT_EQ(backoff(second, 0, 20, almost_one), 0);
    EXPECT_EQ(backoff(hour, second, 1, 0), second / 2); // the cap wins
}

TEST(Backoff, DoesNotOverflow) {
    constexpr int64_t century = 36525LL * 24 * hour;
    for (int attempt = 1; attempt < 200; attempt++) {
        int64_t wait = backoff(century - 1, century, attempt, almost_one);
        EXPECT_GT(wait, 0);
        EXPECT_LE(wait, century);
    }
}

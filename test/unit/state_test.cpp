// States: what the columns of an open or finished job mean.
#include "core/state.hpp"

#include <gtest/gtest.h>
#include <string>

using namespace pgjobs::core;

TEST(State, OfAnOpenJob) {
    EXPECT_EQ(open_state(Waiting::due, false), State::ready);
    EXPECT_EQ(open_state(Waiting::due, true), State::running);
    EXPECT_EQ(open_state(Waiting::scheduled, false), State::scheduled);
    EXPECT_EQ(open_state(Waiting::blocked, false), State::blocked);
}

TEST(State, NamesAreTheDocumentedOnes) {
    const char *expected[] = {"blocked",   "scheduled", "ready",    "running",
                              "completed", "dead",      "cancelled"};
    for (int i = 0; i < 7; i++)
        EXPECT_EQ(std::string(name_of(static_cast<State>(i))), expected[i]);
}

TEST(State, OnlyTheLastThreeAreFinal) {
    for (int i = 0; i < 7; i++)
        EXPECT_EQ(is_final(static_cast<State>(i)), i >= 4);
}

TEST(State, HistoryCodesIndexTheViewsArray) {
    EXPECT_EQ(history_code(State::completed), 0);
    EXPECT_EQ(history_code(State::dead), 1);
    EXPECT_EQ(history_code(State::cancelled), 2);
}

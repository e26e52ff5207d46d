// Names of queues and stages, against the regular expression of the documentation.
#include "core/name.hpp"

#include <gtest/gtest.h>
#include <random>
#include <regex>
#include <string>

using pgjobs::core::is_name;

static const std::regex documented("^[a-z][a-z0-9_.-]{0,47}$");

TEST(Name, AcceptsUsualNames) {
    for (const char *name : {"a", "ci", "mail.out", "queue_2", "a-b", "z9"})
        EXPECT_TRUE(is_name(name)) << name;
}

TEST(Name, RefusesWhatIsNoName) {
    for (const char *name : {"", " ", "A", "1a", ".a", "-a", "_a", "a b", "a\n", "a'b", "a\"b",
                             "caf\xc3\xa9", "a\x7f", "a/b", "a;b"})
        EXPECT_FALSE(is_name(name)) << name;
}

TEST(Name, HasUpTo48Bytes) {
    EXPECT_TRUE(is_name(std::string(48, 'a').c_str()));
    EXPECT_FALSE(is_name(std::string(49, 'a').c_str()));
    EXPECT_FALSE(is_name(std::string(100000, 'a').c_str()));
}

TEST(Name, AgreesWithTheDocumentedExpression) {
    std::mt19937 random(20261122);
    const std::string letters = "abz019_.-AZ \t\x80\xff'\"\\$";
    int accepted = 0;
    for (int i = 0; i < 200000; i++) {
        std::string name;
        auto length = random() % 52;
        for (unsigned j = 0; j < length; j++)
            name += letters[random() % (random() % 8 == 0 ? letters.size() : 9)];
        bool expected = std::regex_match(name, documented);
        accepted += expected;
        ASSERT_EQ(is_name(name.c_str()), expected) << name;
    }
    EXPECT_GT(accepted, 100); // both sides were tried
}

// Which servers get a warning about NOTIFY.
#include "core/version.hpp"

#include <gtest/gtest.h>

using pgjobs::core::has_notify_repairs;

TEST(Version, FirstRepairedMinors) {
    for (int repaired : {150016, 160012, 170008, 180002}) {
        EXPECT_TRUE(has_notify_repairs(repaired)) << repaired;
        EXPECT_FALSE(has_notify_repairs(repaired - 1)) << repaired;
    }
}

TEST(Version, NewerMajorsHaveThem) {
    EXPECT_TRUE(has_notify_repairs(190000));
    EXPECT_FALSE(has_notify_repairs(140030));
}

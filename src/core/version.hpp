// Server versions in which NOTIFY can fail or kill a session: minor releases before those of
// 2026-02 and 2025-11, whose release notes list the repairs (async notification queue, CLOG
// truncation under unread notifications).
#pragma once

#include <cstdint>

namespace pgjobs::core {

// `version` as in server_version_num, such as 150020 for 15.20.
constexpr bool has_notify_repairs(int32_t version) {
    int32_t minor = version % 10000;
    switch (version / 10000) {
    case 15:
        return minor >= 16;
    case 16:
        return minor >= 12;
    case 17:
        return minor >= 8;
    case 18:
        return minor >= 2;
    default:
        return version / 10000 > 18;
    }
}

static_assert(has_notify_repairs(150020) && !has_notify_repairs(150015));
static_assert(has_notify_repairs(190000) && !has_notify_repairs(180001));

} // namespace pgjobs::core

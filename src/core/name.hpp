// Names of queues, stages, topics, subscriptions and schedules: ^[a-z][a-z0-9_.-]{0,47}$
#pragma once

#include <cstddef>

namespace pgjobs::core {

constexpr size_t longest_name = 48; // bytes

constexpr bool is_name(const char *text) {
    if (!(text[0] >= 'a' && text[0] <= 'z'))
        return false;
    size_t i = 1;
    for (; text[i]; i++) {
        char c = text[i];
        bool good =
            (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
        if (!good || i >= longest_name)
            return false;
    }
    return true;
}

static_assert(is_name("a") && is_name("ci.runs_2-b"));
static_assert(!is_name("") && !is_name("A") && !is_name("1a") && !is_name("a b") && !is_name("_a"));
static_assert(is_name("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuv"));
static_assert(!is_name("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvw"));

} // namespace pgjobs::core

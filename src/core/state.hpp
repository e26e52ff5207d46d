// The states of a job, as users see them.
#pragma once

#include <cstdint>

namespace pgjobs::core {

// Column job.waiting: why an open job is not among those that are due.
enum class Waiting : int16_t { due = 0, scheduled = 1, blocked = 2 };

enum class State : int8_t { blocked, scheduled, ready, running, completed, dead, cancelled };

constexpr const char *state_names[] = {"blocked",   "scheduled", "ready",    "running",
                                       "completed", "dead",      "cancelled"};

constexpr const char *name_of(State state) { return state_names[static_cast<int>(state)]; }

constexpr bool is_final(State state) { return state >= State::completed; }

// The state of an open job.
constexpr State open_state(Waiting waiting, bool has_token) {
    if (waiting == Waiting::blocked)
        return State::blocked;
    if (waiting == Waiting::scheduled)
        return State::scheduled;
    return has_token ? State::running : State::ready;
}

// Column history.state.
constexpr int16_t history_code(State state) {
    return static_cast<int16_t>(static_cast<int>(state) - static_cast<int>(State::completed));
}

static_assert(open_state(Waiting::due, true) == State::running);
static_assert(history_code(State::completed) == 0 && history_code(State::cancelled) == 2);

} // namespace pgjobs::core

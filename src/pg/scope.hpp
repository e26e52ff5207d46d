// Scopes: functions that take a body, so that a longjmp only ever crosses trivial objects.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::pg {

template <class F> constexpr bool plain_body = std::is_trivially_destructible_v<F>;

// Runs `body` with `lock` held. The body must not run SQL. Outside a transaction it must not raise.
template <class F> auto locked(LWLock *lock, LWLockMode mode, F body) {
    static_assert(plain_body<F>);
    LWLockAcquire(lock, mode);
    if constexpr (std::is_void_v<decltype(body())>) {
        body();
        LWLockRelease(lock);
    } else {
        auto result = body();
        LWLockRelease(lock);
        return result;
    }
}

// Runs `body` in the memory context `context`.
template <class F> auto in_context(MemoryContext context, F body) {
    static_assert(plain_body<F>);
    MemoryContext before = MemoryContextSwitchTo(context);
    if constexpr (std::is_void_v<decltype(body())>) {
        body();
        MemoryContextSwitchTo(before);
    } else {
        auto result = body();
        MemoryContextSwitchTo(before);
        return result;
    }
}

// Gives the server all that this process's transactions have counted. After each it takes that only
// once a second, and what is left waits for another. Outside of transactions.
void report_statistics();

// Runs `body`, and cancels it (57014) if it takes longer, by the clock that nobody sets. The
// server's own timeouts go by the other one: they are late by as much as it is set back meanwhile.
void bounded(int milliseconds, void (*body)(void *), void *argument);

template <class F> void bounded(int milliseconds, F body) {
    static_assert(plain_body<F>);
    bounded(
        milliseconds, [](void *argument) { (*static_cast<F *>(argument))(); }, &body);
}

// What went wrong in try_transaction. The strings live in the caller's memory context.
struct Failure {
    int sqlstate;
    const char *message;
};

// Runs `body(argument)` in a transaction of its own with an active snapshot; false if it raised,
// after the rollback and with `failure` filled. For background workers only.
bool try_transaction(const char *activity, void (*body)(void *), void *argument, Failure *failure);

template <class F> bool try_transaction(const char *activity, F body, Failure *failure) {
    static_assert(plain_body<F>);
    return try_transaction(
        activity, [](void *argument) { (*static_cast<F *>(argument))(); }, &body, failure);
}

} // namespace pgjobs::pg

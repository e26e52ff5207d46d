// The log of a topic: messages in the order of their positions, for readers who never see a
// position while a lower one may still come.
//
// Who publishes takes positions and is registered with the lowest of them until his rows are in the
// index. A reader goes no further than the lowest that is registered: every position up to there
// has its row or never will. Then he judges each row when he comes to it: committed, delivered;
// under way, the batch ends before it; gone, a hole that stays. So he depends on no snapshot, and
// is held up only by transactions that have published to this topic. docs/topics.md has the
// reasons.
#pragma once

#include "catalog.hpp"
#include "pg/scope.hpp"

namespace pgjobs::log {

constexpr int most_together = 256; // messages that are registered and written in one go

// ---- writing ----

// A message to be appended: jsonb, text, jsonb; 0 without key or headers.
struct Draft {
    Datum payload;
    Datum key;
    Datum headers;
};

// Keeps the topic from being dropped until the transaction ends; false if it is not there any more,
// or 42704. Comes before append().
bool lock_topic_if_there(const Topic *topic);
void lock_topic(const Topic *topic);

// Appends messages in order and fills in their positions, which rise.
void append(const Topic *topic, const Draft *drafts, int count, int64 *positions);

// ---- reading ----

// A message, as far as its row is looked at: good during the visit. 0: without.
struct Message {
    int64 position;
    TimestampTz published_at;
    Datum payload;
    Datum key;
    Datum headers;
};

// How far a scan came: every position up to `position` was visited, or is a hole. `holder` is the
// transaction that is in the way, InvalidTransactionId without.
struct Reached {
    int64 position;
    TransactionId holder;
    TimestampTz held_since; // when it published
};

// What a reader does where messages behind his place were dropped: he goes on with the oldest one
// kept, or 55000 is raised, which names his subscription if he has one.
struct Gap {
    bool passed;
    const char *subscription;
};
constexpr Gap pass_gap = {true, nullptr};
constexpr Gap raise_gap = {false, nullptr};

// Visits the committed messages behind `after` in order, as long as `visit` says so.
Reached scan(const Topic *topic, int64 after, const Gap &gap,
             bool (*visit)(const Message &, void *), void *argument);
template <class F> Reached scan(const Topic *topic, int64 after, const Gap &gap, F visit) {
    static_assert(pg::plain_body<F>);
    return scan(
        topic, after, gap,
        [](const Message &message, void *argument) {
            return (*static_cast<F *>(argument))(message);
        },
        &visit);
}

// The last place that no transaction under way can put a message before.
Reached settle(const Topic *topic);

// How far a place is behind: positions behind it, 0 if no message is there, and when the first one
// there was published. Messages that were dropped do not count.
struct Lag {
    int64 messages;
    TimestampTz since;
};
Lag lag_of(const Topic *topic, int64 place);

// The place before the first message published at or after `at`, committed or not.
int64 place_before(const Topic *topic, TimestampTz at);

// The last position that was given out, or lies before all that will be; 25006 on a standby, where
// nobody registers.
int64 last_position(const Topic *topic);

} // namespace pgjobs::log

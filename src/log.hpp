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
constexpr int64 block = 1024;      // positions that the topic's sequence gives out at a time

// ---- writing ----

// A message to be appended: jsonb, text, jsonb; 0 without key or headers.
struct Draft {
    Datum payload;
    Datum key;
    Datum headers;
};

// Keeps the topic from being dropped until the transaction ends, and makes sure that it is still
// there. Comes before append().
void lock_topic(const Topic *topic);

// Appends messages in order and fills in their positions, which rise.
void append(const Topic *topic, const Draft *drafts, int count, int64 *positions);

// What this process was about to write at this nesting level or below is not written any more: its
// positions are holes. For callbacks.
void leave(int level);

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

// Visits the committed messages behind `after` in order, as long as `visit` says so. Raises 55000
// if messages behind `after` were dropped; `subscription` is named then, nullptr for a reader
// without.
Reached scan(const Topic *topic, int64 after, const char *subscription,
             bool (*visit)(const Message &, void *), void *argument);
template <class F>
Reached scan(const Topic *topic, int64 after, const char *subscription, F visit) {
    static_assert(pg::plain_body<F>);
    return scan(
        topic, after, subscription,
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

// No position was given out from here on.
int64 next_position(const Topic *topic);

// From now on, who publishes calls the worker to deliver.
void set_fed(const Topic *topic);
bool is_fed(int32 topic); // for callbacks

// Whether the topic has a place in shared memory, or has got one.
bool has_place(const Topic *topic);

// ---- segments ----

void segment_name(int32 segment, char *name); // NAMEDATALEN
void sequence_name(int32 topic, char *name);  // NAMEDATALEN
// Whether messages were written to the newest segment, and when it should be closed.
bool is_written(const Topic *topic, TimestampTz *rotate_at);
bool is_current(const Topic *topic, int32 segment);
// The last committed position in a segment, 0 without any. The caller has locked it against
// writers.
int64 last_in(int32 segment);
// For callbacks: new messages go to this segment.
void move_to(int32 topic, int32 segment, Oid leaf, int64 span);
// For callbacks: the topic is gone (0: all of the database's).
void drop(Oid database, int32 topic);

// Time that a segment of a topic with this retention is written to, microseconds.
int64 span_of(int64 retention);

} // namespace pgjobs::log

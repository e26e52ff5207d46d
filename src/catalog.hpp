// What a session knows of the extension's own objects: queues with their stages, topics with their
// segments, and the rights on them. Read on first use, forgotten when anybody changes them
// (relcache invalidation).
#pragma once

#include "core/name.hpp"
#include "core/state.hpp"
#include "pg/relations.hpp"

namespace pgjobs {

enum class Notify : int8_t { off, wakeup, events };

// Bits of pgjobs.acl.rights and pgjobs.topic_acl.rights.
enum Right : int32 {
    produce = 1,
    work = 2,
    operate = 4,
    monitor = 8,
    own = 16,
    all_rights = 31, // on a queue
    publish = 32,
    subscribe = 64,
    all_topic_rights = publish | subscribe | monitor | own
};

struct Grant {
    Oid role;
    int32 rights;
    bool named; // the role still has the name that the right was granted to
};

// A queue as last committed (or as this transaction left it). Good until the end of the
// transaction, though perhaps not the newest then. Times in microseconds.
struct Queue {
    int32 id;
    char name[core::longest_name + 1];
    bool paused;
    bool home; // false: quarantined
    bool durable_claims;
    Notify notify;
    int32 max_attempts;
    int32 dead_letter;  // queue id, 0 without
    int32 events_topic; // topic id, 0 without
    int64 lease;
    int64 backoff;
    int64 backoff_max;
    int64 retention;
    int64 dead_retention;
    int16 stage_count;
    const char **stages; // stages[0] is stage 1
    int grant_count;
    const Grant *grants;
};

// A part of a topic's log, in a table of its own.
struct Segment {
    int32 id;
    int64 floor; // no message in it has a lower position
};

// A topic, with the same contract.
struct Topic {
    int32 id;
    char name[core::longest_name + 1];
    bool home; // false: quarantined
    int64 retention;
    int64 pruned_to; // messages up to here were dropped
    int segment_count;
    const Segment *segments; // the oldest first
    int grant_count;
    const Grant *grants;
};

// nullptr where there is none. These run SQL on first use.
const Queue *find_queue(const char *name);
const Queue *find_queue(int32 id);
const Topic *find_topic(const char *name);
const Topic *find_topic(int32 id);

// 42704 where there is none.
const Queue *get_queue(const char *name);
const Topic *get_topic(const char *name);

// Number of the stage; 0 for a nullptr; 42704 for an unknown one.
int16 stage_number(const Queue *queue, const char *stage);
inline const char *stage_name(const Queue *queue, int16 number) {
    return number >= 1 && number <= queue->stage_count ? queue->stages[number - 1] : "?";
}

// Whether the current user has any of the rights.
bool has_right(const Queue *queue, int32 rights);
bool has_right(const Topic *topic, int32 rights);
// 42501 without.
void require_right(const Queue *queue, Right right);
void require_right(const Topic *topic, Right right);
bool is_administrator(); // a superuser or the extension's owner
void require_administrator(const char *what);
const char *right_name(Right right);

// PJ004 for what is not at home; its hint names pgjobs.resume().
void require_home(const Queue *queue);
void require_home(const Topic *topic);

// What was read is read again: something has changed, and its message may not have come yet.
void forget_catalog();

// Installs the invalidation callbacks; once per process.
void watch_catalog();

constexpr int errcode_lease_lost = MAKE_SQLSTATE('P', 'J', '0', '0', '1');
constexpr int errcode_quarantined = MAKE_SQLSTATE('P', 'J', '0', '0', '4');

} // namespace pgjobs

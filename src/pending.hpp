// What a transaction did to jobs, between changes.cpp, which takes the notes, and tell.cpp, which
// tells them when it ends.
#pragma once

#include "changes.hpp"
#include "core/depth.hpp"
#include "entries.hpp"
#include "frontier.hpp"
#include "shared.hpp"

namespace pgjobs::changes {

using core::State;

struct QueueTally {
    int level;
    int32 queue;
    int16 stage;
    int16 priority;
    bool touched; // something happened that a listener wants to know
    bool resync;  // more happened than can be told
    int64 ready, enqueued, claimed, completed, dead, cancelled;
    core::Depth depth;           // how the numbers of jobs change
    int events;                  // told one by one, so far
    int64 locked;                // ready rows that were about to be locked
    int64 freed;                 // rows that were ready before: they are again if this is undone
    frontier::Keys if_committed; // jobs that are ready then
    core::Key own;               // from here on there may be some that this transaction can claim
    frontier::Keys if_undone;
};
struct EventEntry {
    int level;
    Event event;
};
struct LeaseEntry {
    int level;
    bool ended;
    Lease lease;
};
struct FinishedEntry {
    int level;
    int32 queue;
    int64 job;
};
struct TopicEntry { // messages, or a subscription to it, were written
    int level;
    int32 topic;
};
struct SegmentEntry { // made, or the topic was, or has gone
    int level;
    int32 topic;
    bool first;    // the topic was made; says nothing of a segment
    int32 segment; // 0: gone
    Oid leaf;
    int64 span;
};
struct OutboxEntry { // to be published when the transaction ends
    int level;
    int32 topic;
    const char *key;  // nullptr: a job's event
    const char *json; // of others
    Event event;
    core::State from; // the state of the job before
    bool created;     // there was none
    const char *worker;
    const char *error_class; // both nullptr without
};
struct StagesEntry { // new, or gone with their queue
    int level;
    int32 queue;
    int16 from;
    int16 to; // 0: gone
};

constexpr int most_events = 1000;  // per savepoint, queue, stage and priority; then a resync
constexpr int most_leases = 20000; // then the worker looks at the table
constexpr int most_finished = 256; // then everybody who awaits is woken

struct Pending {
    bool any;
    Mark everything; // may have changed
    Mark holds;      // a session lease was taken
    Mark dropped;    // the extension was
    Mark installed;  // the extension was
    Mark rescan;     // databases came or went
    Mark rules;      // what waiters look at has changed: everybody looks again
    int plain; // level of the last statement that changes rows and tells us when it ends; 0 without
    bool finished_lost; // finished does not list all
    bool leases_lost;   // leases does not list all
    Oid dropped_database;
    TimestampTz next_due;
    TimestampTz rows_due;
    Database *database;
    Oid jobs; // the table
    Entries<QueueTally> queues;
    Entries<EventEntry> events;
    Entries<LeaseEntry> leases;
    Entries<FinishedEntry> finished;
    Entries<StagesEntry> stages;
    Entries<TopicEntry> topics;
    Entries<SegmentEntry> segments;
    Entries<OutboxEntry> outbox;
    MemoryContext outbox_texts; // nullptr without
    // Claims that need not wait for the disk.
    bool claimed;
    bool durable;
    XLogRecPtr claims_end;
};
extern Pending pending;

// Nothing has happened.
void forget();
// Something is about to be noted.
void begin();

void merge_tallies(int level);
void forget_own_reached();

// The commit need not wait for the disk, if the transaction has written claims and nothing else.
void relax_commit();

} // namespace pgjobs::changes

// What a transaction did to jobs, between changes.cpp, which takes the notes, and tell.cpp, which
// tells them when it ends.
#pragma once

#include "changes.hpp"
#include "core/depth.hpp"
#include "frontier.hpp"
#include "shared.hpp"

namespace pgjobs::changes {

using core::State;

// Entries carry the nesting level of the subtransaction that made them. Those of a level stand
// together at the end, so that its abort cuts them off and its commit hands them to its parent.

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
struct SegmentEntry { // made, or the topic has gone
    int level;
    int32 topic;
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

// A growing array in TopTransactionContext.
template <class T> struct Entries {
    T *data;
    int count;
    int space;
};

// A new entry of the present level. The array grows here, and nowhere else: not in callbacks.
template <class T> T *append(Entries<T> *entries) {
    if (entries->count == entries->space) {
        int space = entries->space == 0 ? 16 : entries->space * 2;
        Size size = sizeof(T) * space;
        entries->data = static_cast<T *>(entries->data == nullptr
                                             ? MemoryContextAllocHuge(TopTransactionContext, size)
                                             : repalloc_huge(entries->data, size));
        entries->space = space;
    }
    T *entry = &entries->data[entries->count++];
    *entry = {};
    entry->level = GetCurrentTransactionNestLevel();
    return entry;
}

// Something that happened, by the level of the subtransaction in which it did; 0: it did not.
struct Mark {
    int level;
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
    int plain; // level of the last statement that changes rows and tells us when it ends; 0 without
    bool finished_lost; // finished does not list all
    bool leases_lost;   // leases does not list all
    Oid dropped_database;
    TimestampTz next_due;
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

// Ends the entries of a subtransaction: undone, or its parent's.
template <class T> void cut(Entries<T> *entries, int level) {
    while (entries->count > 0 && entries->data[entries->count - 1].level >= level)
        entries->count--;
}

template <class T> void hand_up(Entries<T> *entries, int level) {
    for (int i = entries->count; i > 0 && entries->data[i - 1].level >= level; i--)
        entries->data[i - 1].level = level - 1;
}

void merge_tallies(int level);
void forget_own_reached();

// The commit need not wait for the disk, if the transaction has written claims and nothing else.
void relax_commit();

} // namespace pgjobs::changes

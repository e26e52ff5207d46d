// The life of a job, as steps on the locked row `found`. Each step counts one in `rev`; each takes
// `now`. They are what the verbs, the reaper and the other duties are made of.
#pragma once

#include "catalog.hpp"
#include "history.hpp"
#include "store.hpp"

namespace pgjobs::life {

constexpr size_t longest_error = 8192; // bytes; longer ones are cut
constexpr int most_attempts_kept = 100;

// A job to be added.
struct NewJob {
    const Queue *queue;
    int16 stage;
    int16 priority;
    int32 max_attempts;
    TimestampTz due_at;
    TimestampTz expires_at; // never without
    Datum payload;          // jsonb
    Datum headers;          // jsonb, 0 without
    char *unique_key;       // nullptr without
};

// Inserts the job as ready or, with due_at after `now`, scheduled; returns its id. The caller has
// locked the queue (lock_queue) and found no open job with the unique key.
int64 add(store::Table *jobs, const NewJob &job, TimestampTz now);

// Keeps the queue from being dropped until the transaction ends, and makes sure that it is still
// there. Every way that adds jobs to a queue begins with it.
void lock_queue(const Queue *queue);

// ready -> running.
struct Claim {
    int64 token;
    TimestampTz lease_expires_at; // never: no end
    int64 hold_epoch;             // 0: a time lease
    int64 hold_session;
    Datum worker;  // text
    int32 attempt; // out
};
// False, with nothing done, if `found` is not locked and somebody has it or may have it.
bool start(store::Table *jobs, Claim *claim, TimestampTz now);

// running -> ready or scheduled, without counting the attempt.
void give_back(store::Table *jobs);
void postpone(store::Table *jobs, TimestampTz due_at, TimestampTz now);

// running -> scheduled or, without attempts left, dead. `outcome` is failed or expired. Returns the
// new state. `due_at` 0 keeps the job's place and makes it ready.
struct Failure {
    const char *outcome;
    const char *error; // nullptr without
    bool retry;
    TimestampTz due_at;
};
core::State fail(store::Table *jobs, history::Archive *archive, const Queue *queue,
                 const Failure &failure, TimestampTz now);

// running -> ready in `stage`, or completed if that is 0. False, with nothing done, if the job was
// found without a lock and has changed since.
struct Completion {
    int16 stage;
    bool result_null;
    Datum result;
    core::State state; // out
};
bool complete(store::Table *jobs, history::Archive *archive, const Queue *queue,
              Completion *completion, TimestampTz now);

// Any open state -> cancelled.
void cancel(store::Table *jobs, history::Archive *archive, const Queue *queue, const char *error,
            TimestampTz now);

// scheduled -> ready.
void promote(store::Table *jobs);

// The state of `found`.
core::State state_of(store::Table *jobs);

// A random token in [1, 2^53): exact in JSON, never a counter.
int64 random_token();

} // namespace pgjobs::life

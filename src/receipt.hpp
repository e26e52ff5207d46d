// Receipts: which token completed a job of a queue that keeps no history, so that a repeated
// complete is understood. Many jobs share a row. Written to one of three tables by the clock, each
// for 15 minutes in turn; the one whose turn is next is emptied before: a receipt lives for 15 to
// 45 minutes and leaves no dead row.
#pragma once

#include "pg/scope.hpp"

namespace pgjobs::receipt {

constexpr int most_together = 100;

struct Done {
    int64 job;
    int64 token;
};

// Receipts that are collected for one row.
struct Pad {
    int32 queue;
    int count;
    Done done[most_together];
};

// Adds one; writes a row when the pad is full or was another queue's.
void add(Pad *pad, int32 queue, const Done &done);
void write(Pad *pad);

// The queue in which the job was completed, with this token unless that is 0; 0 without.
int32 find(int64 job, int64 token);

// The server says that a relation (InvalidOid: any) has changed.
void forget(Oid relation);

// The duty: empties the table whose turn is next, unless somebody reads it; lowers `next` to when
// it should run again. Inside as_owner.
void rotate(TimestampTz now, TimestampTz *next);

} // namespace pgjobs::receipt

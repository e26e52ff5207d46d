// Where the log of a topic ends, in shared memory: positions are given out here, and who has some
// and has not written the rows yet is registered, so that readers stop before them. Unlike the rest
// of shared memory this is no hint: a topic without a place cannot be used.
#pragma once

#include "catalog.hpp"

namespace pgjobs::log_end {

constexpr int64 block = 1024; // positions that the topic's sequence gives out at a time

void sequence_name(int32 topic, char *name); // NAMEDATALEN

// Time that a segment of a topic with this retention is written to, microseconds.
int64 span_of(int64 retention);

// Whether the topic has a place, or has got one. Without one, all that takes a Topic raises 53400;
// on a standby, 25006.
bool has_place(const Topic *topic);

// ---- publishing ----

// Positions in a row for messages of one time, which go to one segment.
struct Range {
    int64 first;
    TimestampTz at;
    TimestampTz rotate_at; // the worker must look then
    int32 segment;
    Oid leaf;
};

// Takes positions and registers this process with them, until it has written the rows and leaves.
Range take_positions(const Topic *topic, int count);
void leave();

// ---- reading ----

struct Limit {
    int64 position; // every position up to here has its row, or never will
    int64 settled;  // all up to here are known to be committed or holes
    int32 segment;  // the newest, as the publishers know it
};
Limit look(const Topic *topic);

// Who started at `from` has found all up to `position` to be committed or holes.
void note_settled(const Topic *topic, int64 from, int64 position);

// No position was given out from here on.
int64 next_position(const Topic *topic);

// ---- segments and feeds ----

// When the newest segment should be closed; never while it is empty.
TimestampTz rotation_time(const Topic *topic);
// The same over all topics of a database, as far as they have places. Needs no transaction.
TimestampTz first_rotation(Oid database);
bool is_current(const Topic *topic, int32 segment);

// From now on, who publishes calls the worker to deliver.
void set_fed(const Topic *topic);

// ---- for callbacks; they allocate nothing and raise nothing ----

// What this process was about to write at this nesting level or below is not written any more: its
// positions are holes.
void leave_undone(int level);
bool is_fed(int32 topic);
// New messages go to this segment.
void move_to(int32 topic, int32 segment, Oid leaf, int64 span);
// The topic is gone (0: all of the database's).
void drop(Oid database, int32 topic);

} // namespace pgjobs::log_end

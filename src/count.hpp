// How many jobs each stage has, by state: kept in shared memory, changed by each commit. What is
// kept is right or is said not to be there ("not counted"); then the tables are counted instead.
//
// A stage begins without figures, for nobody knows what its rows are, and loses them when rows may
// change without a word: TRUNCATE, triggers that are off, PREPARE TRANSACTION. To count the rows
// and miss no change, SHARE is taken on the table for the moment in which a snapshot is made:
// nobody has changed jobs then and not told it, for table locks go after the commit callback.
// Everything told from then on comes on top of the rows that the snapshot shows.
#pragma once

#include "shared.hpp"

namespace pgjobs::count {

// ---- for callbacks; they allocate nothing and raise nothing ----

// A commit has changed the figures of the stage; false if it has none, but could have.
bool charge(Oid database, Oid jobs, int32 queue, int16 stage, const core::Depth &change);

// Nobody knows the figures of the stage any more.
void forget(Oid database, Oid jobs, int32 queue, int16 stage);

// ---- others ----

// Before a transaction changes jobs of the stage: it needs a place for its charge.
void make_place(Oid jobs, int32 queue, int16 stage);

// Right before the commit of the transaction that has made the stages `from`..`to` of a queue:
// nobody else can have jobs there.
void begin_stages(int32 queue, int16 from, int16 to);

// The figures of a stage, with the changes of this transaction; false if it is not counted.
bool depth_of(int32 queue, int16 stage, core::Depth *depth);

// The same, counted in the table if need be, once per call of `function`, and more.
struct Figures {
    core::Depth depth;
    TimestampTz oldest; // when the ready job that has waited longest became due; never without
    bool counted;       // nothing had to be counted in the table
};
Figures figures_of(FmgrInfo *function, int32 queue, int16 stage);

// Counts the jobs of all stages; returns how many figures were wrong. Raises 55P03 if somebody who
// has changed jobs does not end within a moment (milliseconds). Inside as_owner.
int64 recount(int patience);

// How many stages of this database have figures, and how many have a figure below 0.
struct Overview {
    int64 counted;
    int64 wrong;
};
Overview overview();

} // namespace pgjobs::count

// The frontier in shared memory: who announces ready jobs, who scans for them, and how far a claim
// may go on from where the last one was. The rules are those of core/frontier.hpp; this room has
// the locks. All of it is a hint: without a place for a stage its claims begin at the beginning.
#pragma once

#include "shared.hpp"

namespace pgjobs::frontier {

// ---- places ----

// The place of a stage, with its lock held; nullptr without. Raises nothing.
StageHints *lock_place(Oid database, Oid jobs, int32 queue, int16 stage);
// The place of a stage of this database, taken if it has none; nullptr if all are taken. Not for
// callbacks.
StageHints *find_or_take_place(Oid jobs, int32 queue, int16 stage);
// Frees the places of a queue that has gone. Raises nothing.
void drop_queue(Oid database, Oid jobs, int32 queue);

// ---- for callbacks; they allocate nothing and raise nothing ----

// Keys of ready jobs of one run: a few one by one, and the least of all.
struct Keys {
    int64 count;
    core::Key least;
    int kept;
    core::Key some[core::most_strays];
};
void note(Keys *keys, const core::Key &key);
void join(Keys *keys, const Keys &others);

// These jobs are ready, or may be. `hidden`: not to be seen yet, until a prepared transaction ends.
void announce(Oid database, Oid jobs, int32 queue, int16 stage, int32 priority, const Keys &keys,
              bool hidden);

// Everything may have changed in the database.
void forget_all(Oid database);

// The extension has gone from the database: its places are free.
void drop_all(Oid database);

// The queue has gone from the database: so are its places.
void drop_queue(Oid database, int32 queue);

// The scan of this process, if one is under way, raises nothing.
void leave();

// The transaction has announced all that it touched.
void announced();

// ---- for claims ----

// This transaction will announce what it touches, from now on. Takes a transaction id.
void will_announce();

// Whether this transaction will.
bool is_announcing();

// Whether the transaction, by its top xid, will.
bool is_announced_by(TransactionId top);

// A part of a stage to be looked at, in the order of claims.
struct Stretch {
    bool known;      // one run: strays, then from `first` on; else all from..to
    core::Scan scan; // the priorities
    core::Key first;
    int stray_count;
    core::Stray strays[core::most_strays]; // ascending
};

// A walk through the stage. `place` nullptr: nothing is known and nothing can be.
struct Walk {
    StageHints *place;
    int32 queue;
    int16 stage;
    int32 last; // priority up to which it has come
    bool registered;
};
Walk walk(Oid jobs, int32 queue, int16 stage);

// The next part; false if there is none. `own` is the first place behind `walk->last` where this
// transaction itself has made a job ready, core::last_place without. `scanning`: registers the
// process as one that scans it; end with done().
bool next(Walk *walk, const core::Place &own, bool scanning, Stretch *stretch);

// The stray was looked at: it is not ready, or somebody who announces has it.
void drop_stray(const Walk &walk, const Stretch &stretch, const core::Stray &stray);

// No ready job stands before `reached` in the part, but those whose holders announce them.
void done(Walk *walk, const Stretch &stretch, const core::Place &reached);

// Where a claim begins in one priority, strays apart.
core::Key start_of(Oid jobs, int32 queue, int16 stage, int32 priority);

// Whether the job is where a claim would find it.
bool covers(Oid jobs, int32 queue, int16 stage, const core::Place &at);

} // namespace pgjobs::frontier

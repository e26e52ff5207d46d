// What the current transaction did to jobs, collected by the row trigger and told to shared memory
// when it commits: who must be woken, notified, reaped, and when. A rollback, of the transaction or
// of a savepoint, tells one thing: ready jobs that were in its hands are free again.
//
// Everything that the callbacks need is allocated while the rows are changed. The callbacks
// allocate nothing, raise nothing, log nothing, hold one lock at a time, and return at once when
// the transaction touched nothing.
#pragma once

#include "core/depth.hpp"
#include "core/frontier.hpp"
#include "core/state.hpp"
#include "pg/server.hpp"

namespace pgjobs::changes {

// A version of a job, as the row trigger sees it.
struct Facts {
    int64 id;
    int32 queue;
    int32 rev;
    int32 attempt;
    int16 stage;
    int16 priority;
    core::State state;
    TimestampTz due_at;
    TimestampTz lease_expires_at; // never without one
    TimestampTz expires_at;       // never without one
    int64 hold_session;           // 0 without
};

// `row` is the version that they are of, the new one of two.
void added(const Facts &now, TupleTableSlot *row);
void changed(const Facts &before, const Facts &now, TupleTableSlot *row);
// A row has left the table: finished, if `final` is a final state; else removed without a trace.
void removed(const Facts &before, core::State final, TupleTableSlot *row);

// A ready row is about to be locked: should the (sub)transaction roll back, claims must find it
// again, and who waits must look again.
void touching(const Facts &row);
// A ready row was locked and stays as it is.
void left_ready(const Facts &row);

// The first place behind priority `last` of a stage where this transaction has made a job ready, or
// has locked one and left it ready; core::last_place without.
core::Place own_place(int32 queue, int16 stage, int32 last);
// A claim of this transaction has found none of them between priority `from` and this place.
void own_reached(int32 queue, int16 stage, int32 from, const core::Place &reached);

// How this transaction has changed the numbers of jobs of the stage, as far as it has noted that.
core::Depth own_depth(int32 queue, int16 stage);
bool notes_all();

// At commit: something is due then.
void due_at(TimestampTz at);
// The same; what is due is to look for stale rows of attached tables.
void row_due_at(TimestampTz at);

// All rows may have changed.
void everything_changed();

// A statement that is not ours is about to change rows.
void statement_begins();

// Whether everything_changed() was called in this transaction: what it sees of the rows says
// nothing about what is there if it is undone.
bool may_all_change();

// Wakes the waiters of the queue at commit (a pause ended, a stage came).
void wake_queue(int32 queue);

// Wakes everybody who waits in this database, when what has changed can be seen by all.
void rules_changed();

// Rows of attached tables have changed (see row_changes.hpp): that is to be known where a prepared
// transaction is.
void rows_touched();

// At commit: the queue has gone.
void queue_dropped(int32 queue);

// These stages are new.
void stages_made(int32 queue, int16 from, int16 to);

// Messages are about to be written to the topic, or a subscription to it: whichever way this ends,
// its readers must look.
void published(int32 topic);

// At commit: messages go to this segment; segment 0: the topic has gone.
void topic_made(int32 topic);
void segment_made(int32 topic, int32 segment, Oid leaf, int64 span);

// A session lease was taken in this transaction: it cannot be prepared.
void holds_session_lease();

// A claim is about to write, or has written: while a transaction has written nothing else, its
// commit need not wait for the disk. See durable_claims.
void begin_claim(bool durable);
void end_claim();

// At commit: tells the launcher to look for databases.
void rescan_databases();
// At commit: the extension has gone from this database.
void extension_dropped();
// At commit: the database has gone.
void database_dropped(Oid database);
// At commit: the extension has come to this database.
void extension_installed();

// The state in which removed rows end, for the trigger; reset at the end of the transaction.
extern core::State final_state;
// Why the attempt ended that is being written; nullptr without an error.
extern const char *error;

// Installs the callbacks; once per process.
void watch_transactions();

} // namespace pgjobs::changes

// A user's own table as a job table: what a session knows of it. The settings are the arguments of
// a trigger on that table, and its column list names the columns: so a rename, a dump, a drop and a
// new owner are the server's business. Read on first use, forgotten when the table changes.
#pragma once

#include "core/name.hpp"
#include "pg/relations.hpp"

namespace pgjobs {

constexpr int most_states = 64;
constexpr int most_stages = 32;

// One stage: the states between which it moves a row, by number; -1 without.
struct RowStage {
    char name[core::longest_name + 1];
    int waiting;
    int working;
    int done;
    int failed;
    int64 stale_after; // microseconds; 0: never
};

// How a row is found in one table: the attached one or a partition of it, whose columns may stand
// in another order.
struct Attachment;
struct RowShape {
    Oid relation;
    const Attachment *attachment;
    AttrNumber status, changed_at, token; // 0 without
    AttrNumber keys[INDEX_MAX_KEYS];
};

// An attached table. Good until the end of the transaction.
struct Attachment {
    Oid table;
    Oid owner;
    bool partitioned;
    bool status_moves; // the status decides in which partition a row is
    bool at_home;      // false: quarantined
    int64 home;
    const char *name;    // qualified and quoted
    const char *relname; // for messages
    const char *channel; // nullptr without
    const char *topic;   // nullptr without
    const char *status;  // names of columns; nullptr without
    const char *changed_at;
    const char *token;
    const char *priority;
    Oid status_type;
    Oid changed_at_type;
    int state_count;
    const char *states[most_states];
    Oid labels[most_states];     // of an enum; InvalidOid: it has no such label any more
    uint64 allowed[most_states]; // where a row may go from each state
    uint64 waiting;              // states that somebody waits for
    uint64 timed;                // states in which a row becomes stale
    int stage_count;
    RowStage stages[most_stages];
    int key_count; // columns of the primary key; 0: it has gone
    const char *keys[INDEX_MAX_KEYS];
    Oid key_types[INDEX_MAX_KEYS];
    int32 key_typmods[INDEX_MAX_KEYS];
    Oid key_equals[INDEX_MAX_KEYS]; // operators
    FmgrInfo key_outputs[INDEX_MAX_KEYS];
    RowShape shape;
};

// What the table or partition is to us; nullptr if it is not attached. The relation is open.
const RowShape *find_shape(Relation relation);
inline const Attachment *find_attachment(Relation relation) {
    const RowShape *shape = find_shape(relation);
    return shape != nullptr ? shape->attachment : nullptr;
}

// The attached table with this oid, on which the caller has a lock, or takes one now. nullptr if
// there is none, or it is not attached itself (partitions are not).
const Attachment *find_attachment(Oid table);
// 42P01 and 55000 in these cases; 55000 too without a primary key.
const Attachment *get_attachment(Oid table);

// PJ004 for one that is not at home.
void require_home(const Attachment *attachment);

// Number of the stage, from 0; 42704 for an unknown one, 55000 if the status column has no such
// values any more.
int get_row_stage(const Attachment *attachment, const char *stage);

// Number of the state that a value of the status column is; -1 for others.
int state_of(const Attachment *attachment, Datum status, bool null);
// A state as an SQL literal of the column's type.
const char *state_literal(const Attachment *attachment, int state);

// All of a row of the table AS pgjobs_row, which may have a column of that name.
const char *whole_row(const Attachment *attachment);

// The stage of which this is the working state, or nullptr.
const RowStage *working_stage(const Attachment *attachment, int state);

// The primary key of a row as text, as finish_row takes it.
char *key_of_row(const RowShape *shape, TupleTableSlot *row);
// And back: its values, by column. 22023 if it is no such key. A domain's CHECK may call what the
// table's owner has written: never inside as_owner.
struct Key {
    Datum values[INDEX_MAX_KEYS];
};
Key read_key(const Attachment *attachment, const char *key);

// Whether a trigger is ours, and the one that carries the settings.
bool is_row_trigger(const Trigger *trigger);
bool has_settings(const Trigger *trigger);

// Tables that have our triggers, in the order of their oids, in the caller's memory. Inside
// as_owner.
List *attached_tables();

// Forgets what it knows of this relation; InvalidOid: of all.
void forget_attachments(Oid relation);

constexpr int errcode_illegal_transition = MAKE_SQLSTATE('P', 'J', '0', '0', '3');

} // namespace pgjobs

// What the files of the store share: store.cpp, write.cpp, find.cpp, due.cpp.
#pragma once

#include "store.hpp"

namespace pgjobs::store {

// Makes sure that a snapshot is active; whether it had to push one.
bool push_snapshot();

// 42704 if the extension was dropped while this waited for the lock.
Relation open_relation(Oid oid, LOCKMODE mode);

// The slots of which not every call has use.
void need_newest(Table *table);
void need_next(Table *table);

// The index at this place of the layout, opened when it is first needed.
Relation index_at(Table *table, int i);
inline Relation index_by(Table *jobs, direct::By by) {
    return index_at(jobs, static_cast<int>(by));
}

// What the row under construction says: a new one, or one that was `before`.
changes::Facts facts_new(Table *jobs);
changes::Facts facts_set(Table *jobs, const changes::Facts &before);

} // namespace pgjobs::store

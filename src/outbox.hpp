// What a transaction publishes when it ends: the events of queues with an events_topic, and what
// other rooms add. It is written together, just before the commit, so that readers of the topic
// wait for this transaction as short as can be; only of very many that others add, some are written
// before. What a savepoint undoes is not published.
#pragma once

#include "shared.hpp"

namespace pgjobs::outbox {

// A message for the topic: its key, and its payload as JSON text. Both are copied. The caller has
// checked the right to publish, or needs none.
void add(int32 topic, const char *key, const char *json);

// The event of a job; `from` nullptr for a new one. `row` is its new version, nullptr without.
void add_event(int32 topic, const Event &event, const core::State *from, TupleTableSlot *row);

// Writes all of it. Before the transaction commits or is prepared; may raise.
void publish_all();

} // namespace pgjobs::outbox

// Every setting of pgjobs. docs/operations.md explains each.
#pragma once

#include "pg/server.hpp"

namespace pgjobs::settings {

extern char *databases;   // only these databases get a worker; empty: all with the extension
extern int max_databases; // databases with their own place in shared memory
extern int max_queues;    // queues with their own place in shared memory, over all databases
extern int max_topics;    // topics with their own place in shared memory, over all databases
extern int max_leases;    // running jobs with their own place in shared memory
extern int event_buffer;  // events that wait to be sent, per database
extern int max_payload;   // largest payload or headers of a job, bytes
extern int idle_exit;     // seconds after which an idle worker exits
extern bool execute;      // false: this server hands out no jobs (for clones)

// Call from _PG_init while the library is preloaded.
void define();

// Reads the configuration files anew if the server was told to. For who sleeps without an end in
// sight; a session does it by itself between its statements.
bool reload_if_told();

} // namespace pgjobs::settings

// The extension's own tables: their oids and owner, looked up on first use and forgotten when the
// server says that they changed (DROP and CREATE EXTENSION change them all).
#pragma once

#include "pg/server.hpp"

namespace pgjobs {

struct Relations {
    Oid schema;
    Oid owner; // of the extension's tables: whom privileged sections run as
    Oid job;
    Oid history;
    Oid queue;
    Oid topic;
    Oid log;
    Oid job_id_seq;
    Oid queue_id_seq;
    Oid working_row;
    Oid row_changed; // the trigger function of attached tables
};

// 42704 where the extension is not installed.
const Relations *relations();
bool extension_exists();

// Forgets them if `relation` is one of them (InvalidOid: any), and says whether it did.
bool forget_relations(Oid relation);

} // namespace pgjobs

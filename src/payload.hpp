// What users hand over to be kept: payloads, headers, keys, names.
#pragma once

#include "pg/server.hpp"

namespace pgjobs {

constexpr size_t longest_key = 255; // bytes

// A jsonb of the user's, detoasted; 54000 if it is larger than pgjobs.max_payload.
Datum checked_json(Datum json, const char *name);

// The same for headers; 22023 unless it is an object.
Datum checked_headers(Datum headers);

// A key, as text; 22023 if it is empty, too long or has control characters.
char *checked_key(Datum key, const char *name);

// 22023 unless it is a name for a `what`.
void check_name(const char *name, const char *what);

} // namespace pgjobs

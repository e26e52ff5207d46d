// SQL-callable functions: how they are declared, and how they read their arguments.
// Every reader names the argument in its error: 22004 for a NULL, 22023 for a value out of range.
#pragma once

#include "pg/server.hpp"

namespace pgjobs {

// 55000 with the line to add, unless the library was loaded by shared_preload_libraries.
void require_preload();

} // namespace pgjobs

// Defines the C symbol of the SQL function pgjobs.NAME; the body sees `fcinfo`.
#define PGJOBS_FUNCTION(name)                                                                      \
    extern "C" PGDLLEXPORT Datum pgjobs_##name(PG_FUNCTION_ARGS);                                  \
    extern "C" {                                                                                   \
    PG_FUNCTION_INFO_V1(pgjobs_##name);                                                            \
    }                                                                                              \
    static Datum body_of_##name(FunctionCallInfo fcinfo);                                          \
    Datum pgjobs_##name(PG_FUNCTION_ARGS) {                                                        \
        ::pgjobs::require_preload();                                                               \
        return body_of_##name(fcinfo);                                                             \
    }                                                                                              \
    static Datum body_of_##name([[maybe_unused]] FunctionCallInfo fcinfo)

namespace pgjobs::pg {

constexpr int64 second = USECS_PER_SEC;
constexpr int64 day = USECS_PER_DAY;
constexpr int64 longest = 36525 * day; // a hundred years: the largest interval that is accepted

// At the top of every function that changes something: 25006 on a standby or in a read-only
// transaction, 25000 in a parallel worker.
void require_writable(const char *verb);

[[noreturn]] void missing_argument(const char *name);

inline bool given(FunctionCallInfo fcinfo, int i) { return !PG_ARGISNULL(i); }

inline Datum required(FunctionCallInfo fcinfo, int i, const char *name) {
    if (PG_ARGISNULL(i))
        missing_argument(name);
    return PG_GETARG_DATUM(i);
}

inline int64 required_int64(FunctionCallInfo fcinfo, int i, const char *name) {
    return DatumGetInt64(required(fcinfo, i, name));
}

inline bool required_bool(FunctionCallInfo fcinfo, int i, const char *name) {
    return DatumGetBool(required(fcinfo, i, name));
}

// Text, copied to a C string; nullptr for a NULL where it is optional.
char *required_string(FunctionCallInfo fcinfo, int i, const char *name);
char *optional_string(FunctionCallInfo fcinfo, int i);

// A bigint between `low` and `high`.
int64 ranged(int64 value, const char *name, int64 low, int64 high);

// Interval to microseconds, between `low` and a hundred years; a month counts 30 days.
int64 microseconds(const Interval *interval, const char *name, int64 low);
int64 required_interval(FunctionCallInfo fcinfo, int i, const char *name, int64 low);
int64 optional_interval(FunctionCallInfo fcinfo, int i, const char *name, int64 low, int64 absent);

// A finite point in time.
TimestampTz finite(TimestampTz value, const char *name);

// A user's text for an error message: its first 63 bytes, whole characters.
const char *shown(const char *text);

// Free text of the user: 22023 if it is empty, longer than `most` bytes or has control characters.
void check_text(const char *value, const char *name, size_t most);

// A one-dimensional array without NULLs. `data` is null when the argument was NULL.
struct Elements {
    Datum *data;
    bool *nulls;
    int count;
};
enum class Nulls { refused, allowed };
Elements elements(FunctionCallInfo fcinfo, int i, const char *name, Oid type, Nulls nulls);
Elements required_elements(FunctionCallInfo fcinfo, int i, const char *name, Oid type);

// 22023 unless an optional parallel array has as many elements as the main one.
void check_lengths(const Elements &main, const char *main_name, const Elements &other,
                   const char *other_name);

// The result of a function that returns bigint[].
Datum int64_array(const int64 *values, int count);

// Appends rows to the set that the function returns; call InitMaterializedSRF first.
inline void return_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls) {
    auto *set = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
}

} // namespace pgjobs::pg

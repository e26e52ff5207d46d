// SQL statements of our own, run as the extension's owner on the newest committed rows.
#pragma once

#include "pg/scope.hpp"

namespace pgjobs::pg {

// A statement whose plan is kept for the life of the backend. Every name in it is qualified.
struct Statement {
    const char *sql;
    Oid types[14];
    SPIPlanPtr plan;
};

// One argument of a statement; Value{} is NULL.
struct Value {
    Datum datum;
    bool present;
};
inline Value value(Datum datum) { return {datum, true}; }
inline Value value(bool flag) { return {BoolGetDatum(flag), true}; }
inline Value value(int16 number) { return {Int16GetDatum(number), true}; }
inline Value value(int32 number) { return {Int32GetDatum(number), true}; }
inline Value value(int64 number) { return {Int64GetDatum(number), true}; }
inline Value oid_value(Oid oid) { return {ObjectIdGetDatum(oid), true}; }
Value value(const char *text); // as text; NULL for a nullptr

// Runs the statement, at most `most` rows (0: all), and returns how many rows it processed. Inside
// as_owner. Sees rows as committed now, in every isolation level.
uint64 run(Statement *statement, const Value *values, uint64 most = 0);
template <class... V> uint64 run(Statement *statement, V... values) {
    const Value array[] = {values..., Value{}};
    return run(statement, array);
}

// Runs a query that reads, with the active snapshot. Inside as_owner.
uint64 run_as_seen(Statement *statement);

// Runs a utility statement.
void run_utility(const char *sql);

// Tables that are made go where the extension's are by default, whatever the session says. Inside
// as_owner.
void use_default_storage();

// Plans that are made look rows up rather than read the whole table, however small it is now.
// Inside as_owner.
void avoid_scans();

// Plans that are made read rows in the order of an index instead of sorting all of them for each
// batch. Inside as_owner.
void avoid_sorts();

// Column `column` (from 1) of row `row` (from 0) of the last result.
bool is_null(uint64 row, int column);
Datum datum_at(uint64 row, int column); // by reference: valid until as_owner ends
inline int64 int64_at(uint64 row, int column) { return DatumGetInt64(datum_at(row, column)); }
inline int32 int32_at(uint64 row, int column) { return DatumGetInt32(datum_at(row, column)); }
inline int16 int16_at(uint64 row, int column) { return DatumGetInt16(datum_at(row, column)); }
inline bool bool_at(uint64 row, int column) { return DatumGetBool(datum_at(row, column)); }

// What the two below save and restore. The abort of a (sub)transaction restores it all by itself.
struct OwnerScope {
    Oid user;
    int context;
    int guc_level;
    bool snapshot;
};
OwnerScope enter_owner();
OwnerScope enter_table_owner(Oid owner, int context);
void leave_owner(const OwnerScope &scope);

template <class F> auto leave_after(const OwnerScope &scope, F body) {
    static_assert(plain_body<F>);
    if constexpr (std::is_void_v<decltype(body())>) {
        body();
        leave_owner(scope);
    } else {
        auto result = body();
        leave_owner(scope);
        return result;
    }
}

// Runs `body` as the owner of the extension, with a safe search_path and SPI connected. Nothing of
// the caller's is evaluated inside. What it returns must not point into SPI memory.
template <class F> auto as_owner(F body) { return leave_after(enter_owner(), body); }

// Whether policies hide rows of a table from its owner (FORCE ROW LEVEL SECURITY).
enum class Policies { hold = 0, do_not_hold = SECURITY_NOFORCE_RLS };

// Runs `body` as the owner of a user's table, with SPI connected. Whoever as much as reads such a
// table runs what its owner has written: triggers and policies, a domain's CHECK, and when a query
// is planned the functions of its indexes. Here they have his rights; where he is not the current
// user, they are restricted, too. What they set does not outlive it.
template <class F> auto as_table_owner(Oid owner, Policies policies, F body) {
    return leave_after(enter_table_owner(owner, static_cast<int>(policies)), body);
}

} // namespace pgjobs::pg

#include "pg/function.hpp"

namespace pgjobs::pg {

void require_writable(const char *verb) {
    PreventCommandDuringRecovery(verb);
    PreventCommandIfReadOnly(verb);
    PreventCommandIfParallelMode(verb);
}

void missing_argument(const char *name) {
    ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
            errmsg("argument \"%s\" must not be NULL", name),
            errhint("Give a value, or leave the argument out if it has a default."));
    pg_unreachable();
}

char *required_string(FunctionCallInfo fcinfo, int i, const char *name) {
    return TextDatumGetCString(required(fcinfo, i, name));
}

char *optional_string(FunctionCallInfo fcinfo, int i) {
    return given(fcinfo, i) ? TextDatumGetCString(PG_GETARG_DATUM(i)) : nullptr;
}

int64 ranged(int64 value, const char *name, int64 low, int64 high) {
    if (value < low || value > high)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("argument \"%s\" is out of range", name),
                errdetail("It is " INT64_FORMAT ".", value),
                errhint("Give a number from " INT64_FORMAT " to " INT64_FORMAT ".", low, high));
    return value;
}

[[noreturn]] static void bad_interval(const char *name, const char *hint) {
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("argument \"%s\" is out of range", name), errhint("%s", hint));
    pg_unreachable();
}

int64 microseconds(const Interval *interval, const char *name, int64 low) {
    // int32 months and days cannot overflow here; the time part can be anything.
    int64 days = int64{interval->month} * DAYS_PER_MONTH + interval->day;
    int64 total;
    if (pg_mul_s64_overflow(days, USECS_PER_DAY, &total) ||
        pg_add_s64_overflow(total, interval->time, &total) || total > longest)
        bad_interval(name, "Give an interval of at most 100 years.");
    if (total < low)
        bad_interval(name, low > 0 ? "Give an interval of at least one millisecond."
                                   : "Give an interval that is not negative.");
    return total;
}

int64 required_interval(FunctionCallInfo fcinfo, int i, const char *name, int64 low) {
    return microseconds(DatumGetIntervalP(required(fcinfo, i, name)), name, low);
}

int64 optional_interval(FunctionCallInfo fcinfo, int i, const char *name, int64 low, int64 absent) {
    return given(fcinfo, i) ? microseconds(PG_GETARG_INTERVAL_P(i), name, low) : absent;
}

TimestampTz finite(TimestampTz value, const char *name) {
    if (TIMESTAMP_NOT_FINITE(value))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("argument \"%s\" must be a finite time", name),
                errhint("Leave it out instead of giving infinity."));
    return value;
}

const char *shown(const char *text) {
    auto length = static_cast<int>(strlen(text));
    return length < NAMEDATALEN ? text
                                : pnstrdup(text, pg_mbcliplen(text, length, NAMEDATALEN - 1));
}

void check_text(const char *value, const char *name, size_t most) {
    size_t length = strlen(value);
    if (length == 0 || length > most)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("argument \"%s\" has a bad length", name),
                errdetail("It has %zu bytes.", length), errhint("Give 1 to %zu bytes.", most));
    for (const char *c = value; *c; c++)
        if (static_cast<unsigned char>(*c) < 0x20 || *c == 0x7f)
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("argument \"%s\" contains a control character", name),
                    errhint("Use printable characters only."));
}

Elements elements(FunctionCallInfo fcinfo, int i, const char *name, Oid type, Nulls nulls) {
    if (PG_ARGISNULL(i))
        return {};
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(i);
    if (ARR_NDIM(array) > 1)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("array \"%s\" must have one dimension", name),
                errhint("Give a flat array."));
    if (nulls == Nulls::refused && array_contains_nulls(array))
        ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                errmsg("array \"%s\" must not contain NULL", name),
                errhint("Remove the NULL elements."));
    int16 length;
    bool by_value;
    char align;
    get_typlenbyvalalign(type, &length, &by_value, &align);
    Elements result{};
    deconstruct_array(array, type, length, by_value, align, &result.data, &result.nulls,
                      &result.count);
    if (result.data == nullptr) // an empty array is there all the same
        result.data = static_cast<Datum *>(palloc(sizeof(Datum)));
    return result;
}

Elements required_elements(FunctionCallInfo fcinfo, int i, const char *name, Oid type) {
    required(fcinfo, i, name);
    return elements(fcinfo, i, name, type, Nulls::refused);
}

void check_lengths(const Elements &main, const char *main_name, const Elements &other,
                   const char *other_name) {
    if (other.data == nullptr || other.count == main.count)
        return;
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("arrays \"%s\" and \"%s\" have different lengths", main_name, other_name),
            errdetail("They have %d and %d elements.", main.count, other.count),
            errhint("Give one element for each job."));
}

Datum int64_array(const int64 *values, int count) {
    auto *data = static_cast<Datum *>(palloc(sizeof(Datum) * (count > 0 ? count : 1)));
    for (int i = 0; i < count; i++)
        data[i] = Int64GetDatum(values[i]);
    return PointerGetDatum(
        construct_array(data, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

} // namespace pgjobs::pg

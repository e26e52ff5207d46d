#include "message.hpp"

#include "pg/function.hpp"

namespace pgjobs::message {

constexpr int64 most = 10000;

int64 required_maximum(FunctionCallInfo fcinfo, int argument) {
    return pg::ranged(pg::required_int64(fcinfo, argument, "max_messages"), "max_messages", 1,
                      most);
}

// What lies in a segment's TOAST must not be looked for later: the segment may be gone by then.
struct Value {
    Datum datum;
    bool copied;
};
static Value in_line(Datum datum) {
    if (datum == 0 || !VARATT_IS_EXTERNAL(DatumGetPointer(datum)))
        return {datum, false};
    return {
        PointerGetDatum(detoast_external_attr(reinterpret_cast<varlena *>(DatumGetPointer(datum)))),
        true};
}

void return_one(FunctionCallInfo fcinfo, const Topic *topic, const log::Message &message,
                int64 token) {
    Value payload = in_line(message.payload);
    Value headers = in_line(message.headers);
    Datum name = CStringGetTextDatum(topic->name);
    Datum values[] = {Int64GetDatum(message.position),
                      name,
                      message.key,
                      payload.datum,
                      headers.datum,
                      TimestampTzGetDatum(message.published_at),
                      Int64GetDatum(token)};
    bool nulls[] = {false, false, message.key == 0, false, message.headers == 0, false, token == 0};
    pg::return_row(fcinfo, values, nulls);
    for (const Value &value : {payload, headers})
        if (value.copied)
            pfree(DatumGetPointer(value.datum));
    pfree(DatumGetPointer(name));
}

} // namespace pgjobs::message

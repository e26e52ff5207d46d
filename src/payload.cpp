#include "payload.hpp"

#include "core/name.hpp"
#include "pg/function.hpp"
#include "settings.hpp"

namespace pgjobs {

Datum checked_json(Datum json, const char *name) {
    auto size = static_cast<int64>(toast_raw_datum_size(json)) - VARHDRSZ;
    if (size > settings::max_payload)
        ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("the %s is too large", name),
                errdetail("It has " INT64_FORMAT " bytes; pgjobs.max_payload is %d.", size,
                          settings::max_payload),
                errhint("Keep large data elsewhere and give its place."));
    return PointerGetDatum(PG_DETOAST_DATUM_PACKED(json));
}

Datum checked_headers(Datum headers) {
    if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(headers)))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("headers must be a JSON object"),
                errhint("Give an object such as {\"trace\": \"abc\"}."));
    return checked_json(headers, "headers");
}

char *checked_key(Datum key, const char *name) {
    char *value = TextDatumGetCString(key);
    pg::check_text(value, name, longest_key);
    return value;
}

void check_name(const char *name, const char *what) {
    if (!core::is_name(name))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"%s\" is not a name for a %s", pg::shown(name), what),
                errhint("A name begins with a lower-case letter and has up to 48 lower-case "
                        "letters, digits, \"_\", \".\" or \"-\"."));
}

} // namespace pgjobs

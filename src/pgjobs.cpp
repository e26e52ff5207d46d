// Module entry.
#include "catalog.hpp"
#include "changes.hpp"
#include "pg/function.hpp"
#include "presence.hpp"
#include "process.hpp"
#include "row_changes.hpp"
#include "settings.hpp"
#include "shared.hpp"

extern "C" {
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
}

namespace pgjobs {

static bool preloaded;

void require_preload() {
    if (!preloaded)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("pgjobs is not preloaded"),
                errdetail("It needs shared memory and background workers."),
                errhint("Add this line to postgresql.conf and restart the server: "
                        "shared_preload_libraries = 'pgjobs'"));
}

// pgjobs.version() -> text
PGJOBS_FUNCTION(version) { PG_RETURN_TEXT_P(cstring_to_text(PGJOBS_VERSION)); }

// pgjobs._require_version(version) -> void
PGJOBS_FUNCTION(_require_version) {
    require_administrator("update pgjobs");
    const char *wanted = pg::required_string(fcinfo, 0, "version");
    if (strcmp(wanted, PGJOBS_VERSION) != 0)
        ereport(
            ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("the server runs version " PGJOBS_VERSION " of pgjobs, not \"%s\"", wanted),
            errhint("If that version is installed, restart the server, then run ALTER EXTENSION "
                    "pgjobs UPDATE again."));
    PG_RETURN_VOID();
}

} // namespace pgjobs

// Quiet outside of preloading: pg_upgrade and the function validator load every library.
void _PG_init(void) {
    if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
        return;
    pgjobs::preloaded = true;
    pgjobs::settings::define();
    pgjobs::share_memory();
    pgjobs::watch_catalog();
    pgjobs::changes::watch_transactions();
    pgjobs::row_changes::watch_transactions();
    pgjobs::presence::watch_commands();
    pgjobs::process::register_launcher();
}

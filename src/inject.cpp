#include "inject.hpp"

#ifdef PGJOBS_INJECT

#include "pg/server.hpp"

namespace pgjobs::inject {

// Files of the data directory: DIRECTORY/NAME has the action, and whoever renames it to NAME.fired
// carries it out, so that it happens once.
static constexpr const char *directory = "pgjobs_inject";
static constexpr int errcode_injected = MAKE_SQLSTATE('P', 'J', '0', '9', '9');

// Reads and removes what is to happen here; false if nothing is.
static bool take_action(const char *name, char *action, size_t size) {
    char armed[MAXPGPATH];
    char fired[MAXPGPATH];
    snprintf(armed, sizeof(armed), "%s/%s", directory, name);
    int file = open(armed, O_RDONLY | PG_BINARY, 0);
    if (file < 0)
        return false;
    ssize_t length = read(file, action, size - 1);
    close(file);
    snprintf(fired, sizeof(fired), "%s/%s.fired", directory, name);
    if (length <= 0 || rename(armed, fired) != 0)
        return false;
    action[length] = '\0';
    return true;
}

// error; crash: without a trace, as if killed; end: this session, at its next chance; sleep MS.
void point(const char *name, bool quiet) {
    char action[64];
    int before = errno;
    if (take_action(name, action, sizeof(action))) {
        if (strcmp(action, "crash") == 0)
            kill(MyProcPid, SIGKILL);
        else if (strcmp(action, "end") == 0)
            kill(MyProcPid, SIGTERM);
        else if (strncmp(action, "sleep ", strlen("sleep ")) == 0)
            pg_usleep(atol(action + strlen("sleep ")) * 1000);
        else if (strcmp(action, "error") == 0 && !quiet)
            ereport(ERROR, errcode(errcode_injected), errmsg("injected at %s", name),
                    errhint("This is a build for tests."));
    }
    errno = before;
}

} // namespace pgjobs::inject

#endif

#ifdef PGJOBS_MUTANTS

#include <cstdlib>

namespace pgjobs {

bool mutant(int number) {
    static const char *wanted = getenv("PGJOBS_MUTANT");
    return wanted != nullptr && atoi(wanted) == number;
}

} // namespace pgjobs

#endif

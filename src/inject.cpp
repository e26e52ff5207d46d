#include "inject.hpp"

#ifdef PGJOBS_INJECT

#include "pg/server.hpp"

namespace pgjobs::inject {

// Files of the data directory: DIRECTORY/NAME has the action, and whoever renames it to NAME.fired
// carries it out, so that it happens once. A number before it is the pid of the only one who may.
static constexpr const char *directory = "pgjobs_inject";
static constexpr int errcode_injected = MAKE_SQLSTATE('P', 'J', '0', '9', '9');

struct Action {
    char text[64];
    char fired[MAXPGPATH]; // the file

    bool is(const char *what) const { return strcmp(text, what) == 0; }
};

// Reads and removes what is to happen here; false if nothing is.
static bool take_action(const char *name, Action *action) {
    char armed[MAXPGPATH];
    char line[sizeof(action->text)];
    snprintf(armed, sizeof(armed), "%s/%s", directory, name);
    int file = open(armed, O_RDONLY | PG_BINARY, 0);
    if (file < 0)
        return false;
    ssize_t length = read(file, line, sizeof(line) - 1);
    close(file);
    if (length <= 0)
        return false;
    line[length] = '\0';
    char *text;
    long pid = strtol(line, &text, 10);
    snprintf(action->fired, sizeof(action->fired), "%s.fired", armed);
    if ((pid != 0 && pid != MyProcPid) || rename(armed, action->fired) != 0)
        return false;
    strlcpy(action->text, text + strspn(text, " "), sizeof(action->text));
    return true;
}

// As long as its file is there, but not for ever.
static void hold(const Action &action) {
    for (int i = 0; i < 60000 && access(action.fired, F_OK) == 0; i++)
        pg_usleep(1000);
}

// error; crash: without a trace, as if killed; end: this session, at its next chance; sleep MS;
// hold: until the file NAME.fired is removed.
void point(const char *name, bool quiet) {
    Action action;
    int before = errno;
    if (take_action(name, &action)) {
        if (action.is("crash"))
            kill(MyProcPid, SIGKILL);
        else if (action.is("end"))
            kill(MyProcPid, SIGTERM);
        else if (action.is("hold"))
            hold(action);
        else if (strncmp(action.text, "sleep ", strlen("sleep ")) == 0)
            pg_usleep(atol(action.text + strlen("sleep ")) * 1000);
        else if (action.is("error") && !quiet)
            ereport(ERROR, errcode(errcode_injected), errmsg("injected at %s", name),
                    errhint("This is a build for tests."));
    }
    errno = before;
}

bool lost(const char *name) {
    Action action;
    int before = errno;
    bool taken = take_action(name, &action);
    errno = before;
    return taken;
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

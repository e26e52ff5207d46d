#include "settings.hpp"

namespace pgjobs::settings {

char *databases;
int max_databases;
int max_queues;
int max_topics;
int max_leases;
int event_buffer;
int max_payload;
int idle_exit;
bool execute;

static void define_integer(const char *name, const char *what, int *where, int usual, int low,
                           int high, GucContext context, int flags) {
    DefineCustomIntVariable(name, what, nullptr, where, usual, low, high, context, flags, nullptr,
                            nullptr, nullptr);
}

void define() {
    DefineCustomStringVariable("pgjobs.databases",
                               "Databases that pgjobs looks after; empty for all that have it.",
                               "A list of names separated by commas.", &databases, "", PGC_SIGHUP,
                               GUC_LIST_INPUT, nullptr, nullptr, nullptr);
    define_integer("pgjobs.max_databases", "Databases that pgjobs can look after.", &max_databases,
                   32, 1, 1024, PGC_POSTMASTER, 0);
    define_integer(
        "pgjobs.max_queues",
        "Queues, and as many stages, with a place in shared memory; more work, but slower.",
        &max_queues, 1024, 16, 1 << 20, PGC_POSTMASTER, 0);
    define_integer("pgjobs.max_topics", "Topics that can be published to, in all databases.",
                   &max_topics, 256, 1, 65536, PGC_POSTMASTER, 0);
    define_integer("pgjobs.max_leases",
                   "Running jobs with a place in shared memory; more work, but are reaped slower.",
                   &max_leases, 16384, 64, 1 << 24, PGC_POSTMASTER, 0);
    define_integer("pgjobs.event_buffer", "Events that can wait to be sent, per database.",
                   &event_buffer, 4096, 16, 1 << 20, PGC_POSTMASTER, 0);
    define_integer("pgjobs.max_payload", "Largest payload, headers or result of a job or message.",
                   &max_payload, 1024 * 1024, 1024, 64 * 1024 * 1024, PGC_SUSET, GUC_UNIT_BYTE);
    define_integer("pgjobs.idle_exit", "Time after which an idle worker exits.", &idle_exit, 60, 1,
                   86400, PGC_SIGHUP, GUC_UNIT_S);
    DefineCustomBoolVariable("pgjobs.execute",
                             "Whether this server hands out jobs; off for clones and drills.",
                             nullptr, &execute, true, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    MarkGUCPrefixReserved("pgjobs");
}

bool reload_if_told() {
    if (!ConfigReloadPending)
        return false;
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    return true;
}

} // namespace pgjobs::settings

#include "home.hpp"

#include "acl.hpp"
#include "attached.hpp"
#include "changes.hpp"
#include "history.hpp"
#include "life.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "sequences.hpp"
#include "shared.hpp"
#include "topic.hpp"

namespace pgjobs::home {

static constinit pg::Statement select_home{
    "SELECT h.id FROM pgjobs.home h WHERE h.database = $1", {OIDOID}, nullptr};
static constinit pg::Statement insert_home{
    "INSERT INTO pgjobs.home (id, database) VALUES ($1, $2)", {INT8OID, OIDOID}, nullptr};
static constinit pg::Statement select_anything{
    "SELECT FROM pgjobs.queue q UNION ALL SELECT FROM pgjobs.topic t LIMIT 1", {}, nullptr};

static int64 insert_new() {
    int64 id = life::random_token();
    pg::run(&insert_home, pg::value(id), pg::oid_value(MyDatabaseId));
    return id;
}

int64 of_new() {
    LockRelationOid(relations()->queue, ShareRowExclusiveLock); // one first queue at a time
    if (pg::run(&select_home, pg::oid_value(MyDatabaseId)) > 0)
        return pg::int64_at(0, 1);
    return pg::run(&select_anything) > 0 || attached_tables() != NIL ? 0 : insert_new();
}

static constinit pg::Statement delete_strange_homes{
    "DELETE FROM pgjobs.home WHERE database <> $1", {OIDOID}, nullptr};
static constinit pg::Statement adopt_queues{
    "UPDATE pgjobs.queue SET home = $1 WHERE home <> $1", {INT8OID}, nullptr};
static constinit pg::Statement adopt_topics{
    "UPDATE pgjobs.topic SET home = $1 WHERE home <> $1", {INT8OID}, nullptr};

// A restore with --disable-triggers makes ordinary ones of our triggers, or leaves them off.
static constinit pg::Statement select_triggers{
    "SELECT pg_catalog.format('ALTER TABLE pgjobs.%I ENABLE ALWAYS TRIGGER %I', c.relname, "
    "t.tgname) FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "
    "JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid "
    "WHERE c.relnamespace = $1 AND p.pronamespace = $1 AND t.tgenabled <> 'A' "
    "AND NOT t.tgisinternal",
    {OIDOID},
    nullptr};

static void turn_triggers_on() {
    uint64 count = pg::run(&select_triggers, pg::oid_value(relations()->schema));
    List *commands = NIL; // read before a command replaces the result
    for (uint64 i = 0; i < count; i++)
        commands = lappend(commands, TextDatumGetCString(pg::datum_at(i, 1)));
    ListCell *cell;
    foreach (cell, commands)
        pg::run_utility(static_cast<const char *>(lfirst(cell)));
}

// pgjobs.resume() -> void
PGJOBS_FUNCTION(resume) {
    pg::require_writable("pgjobs.resume()");
    require_administrator("end a quarantine");
    pg::as_owner([] {
        LockRelationOid(relations()->queue, ShareRowExclusiveLock);
        turn_triggers_on();
        pg::run(&delete_strange_homes, pg::oid_value(MyDatabaseId));
        int64 home = pg::run(&select_home, pg::oid_value(MyDatabaseId)) > 0 ? pg::int64_at(0, 1)
                                                                            : insert_new();
        bool adopted = pg::run(&adopt_queues, pg::value(home)) > 0;
        adopted |= pg::run(&adopt_topics, pg::value(home)) > 0;
        attached::adopt(home);
        if (adopted)
            acl::find_roles_again();
        CommandCounterIncrement(); // what follows is done for queues and topics that are at home
        sequences::catch_up();
        TimestampTz now = GetCurrentTimestamp();
        TimestampTz next = never;
        history::keep(now, &next);
        topic::keep(now, &next);
    });
    changes::everything_changed();
    PG_RETURN_VOID();
}

} // namespace pgjobs::home

#include "presence.hpp"

#include "attachment.hpp"
#include "catalog.hpp"
#include "changes.hpp"
#include "frontier.hpp"
#include "lease.hpp"
#include "log_end.hpp"
#include "notify.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "prepared.hpp"
#include "settings.hpp"
#include "topic.hpp"
#include "wait.hpp"

namespace pgjobs::presence {

static bool holding; // this backend holds off a worker

void extension_came(Database *database) {
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        database->installed = true;
        database->probed = false;
        database->arrivals++;
    });
}

void extension_gone(Database *database) {
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        database->installed = false;
        database->probed = true;
    });
    pg_atomic_fetch_add_u32(&database->epoch, 1);
    pg_atomic_write_u64(&database->next_due, never);
    lease::forget_all(database->oid);
    notify::drop_all_hints(database->oid);
    frontier::drop_all(database->oid);
    log_end::drop(database->oid, 0);
    wait::wake_all(database->oid);
    wake_process(pg_atomic_read_u32(&database->worker));
}

void database_gone(Oid oid) {
    lease::forget_all(oid);
    notify::drop_all_hints(oid);
    frontier::drop_all(oid);
    log_end::drop(oid, 0);
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] {
        for (int i = 0; i < settings::max_databases; i++)
            if (databases[i].oid == oid) {
                pg_atomic_fetch_add_u32(&databases[i].epoch, 1);
                databases[i].installed = false;
                databases[i].held_by = 0;
                databases[i].oid = InvalidOid;
            }
    });
}

// ---- holding off ----

static bool ask_to_leave(pg_atomic_uint32 *process) {
    uint32 pid = pg_atomic_read_u32(process);
    if (pid != 0)
        kill(static_cast<pid_t>(pid), SIGTERM);
    return pid != 0;
}

// Waits for the worker, and who takes stale rows back for it, to leave; they react to SIGTERM at
// their next check for interrupts.
static void wait_for_exit(Database *database) {
    for (;;) {
        bool works = ask_to_leave(&database->worker_pid);
        bool reaps = ask_to_leave(&database->row_reaper);
        if (!works && !reaps)
            return;
        int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
                               PG_WAIT_EXTENSION);
        if (events & WL_LATCH_SET)
            ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
}

void hold_off(Oid oid) {
    Database *database = find_or_add_database(oid);
    if (database == nullptr)
        return;
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [&] { database->held_by = MyProcPid; });
    holding = true;
    wait_for_exit(database);
}

void release() {
    if (!holding)
        return;
    holding = false;
    pg::locked(shared->databases_lock, LW_EXCLUSIVE, [] {
        for (int i = 0; i < settings::max_databases; i++)
            if (databases[i].held_by == MyProcPid)
                databases[i].held_by = 0;
    });
    wake_process(pg_atomic_read_u32(&shared->launcher));
}

// ---- hooks ----

static object_access_hook_type previous_object_access;
static ProcessUtility_hook_type previous_utility;

static bool somebody_waits() {
    Database *database = extension_exists() ? this_database() : nullptr;
    return database != nullptr && pg_atomic_read_u32(&database->waiters) != 0;
}

// DROP DATABASE calls this after its permission check and before it counts other sessions.
static void object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
                          void *arg) {
    if (previous_object_access)
        previous_object_access(access, classId, objectId, subId, arg);
    // While our row trigger is off, nothing is announced.
    if (access == OAT_POST_ALTER && classId == TriggerRelationId && extension_exists())
        changes::everything_changed();
    if (access != OAT_DROP)
        return;
    if (classId == RelationRelationId && subId == 0 && somebody_waits())
        changes::rules_changed(); // for rows of this table, perhaps
    if (classId == DatabaseRelationId) {
        hold_off(objectId);
        changes::database_dropped(objectId);
    } else if (classId == ExtensionRelationId && objectId == get_extension_oid("pgjobs", true)) {
        changes::extension_dropped();
    }
}

// Anybody may type these commands: only the owner's stop a worker.
static void hold_off_if_owner(const char *name) {
    Oid database = get_database_oid(name, true);
    if (OidIsValid(database) && pg::owns_database(database))
        hold_off(database);
}

static const char *template_of(const CreatedbStmt *statement) {
    ListCell *cell;
    foreach (cell, statement->options) {
        auto *option = static_cast<DefElem *>(lfirst(cell));
        if (strcmp(option->defname, "template") == 0 && option->arg != nullptr)
            return defGetString(option);
    }
    return nullptr;
}

static bool drops_extension(Node *statement) {
    auto *drop = reinterpret_cast<DropStmt *>(statement);
    if (drop->removeType != OBJECT_EXTENSION)
        return false;
    ListCell *cell;
    foreach (cell, drop->objects)
        if (strcmp(strVal(lfirst(cell)), "pgjobs") == 0)
            return true;
    return false;
}

// What DROP EXTENSION locks. Jobs come first: every session that wants to do something waits there.
// Of the attached tables it drops the triggers.
static List *tables_to_lock() {
    static const char *const names[] = {"job",       "history",      "receipt_0", "receipt_1",
                                        "receipt_2", "log",          "topic",     "segment",
                                        "topic_acl", "subscription", "feed",      "queue",
                                        "stage",     "acl",          "home",      "working_row"};
    List *tables = NIL;
    for (const char *name : names)
        tables = lappend_oid(tables, get_relname_relid(name, relations()->schema));
    return list_concat(tables, pg::as_owner([] {
                           return pg::in_context(TopTransactionContext,
                                                 [] { return attached_tables(); });
                       }));
}

static bool lock_at_once(Oid table) {
    return ConditionalLockRelationOid(table, AccessExclusiveLock);
}

// DROP EXTENSION locks the tables in an order of its own, while sessions at work hold some of them
// and want others: a deadlock. So all are locked here first, waiting for one only while no other is
// held. In a restored copy nothing says yet that the sequences of topics go, too.
static void lock_tables() {
    Oid extension = get_extension_oid("pgjobs", true);
    if (RecoveryInProgress() || !OidIsValid(extension) || !pg::owns_extension(extension) ||
        !extension_exists())
        return;
    List *tables = tables_to_lock();
    int in_the_way = 0;
    for (;;) {
        Oid first = list_nth_oid(tables, in_the_way);
        LockRelationOid(first, AccessExclusiveLock);
        int locked = 0;
        while (locked < list_length(tables) && lock_at_once(list_nth_oid(tables, locked)))
            locked++;
        UnlockRelationOid(first, AccessExclusiveLock); // is held twice, if all are
        if (locked == list_length(tables)) {
            topic::own_sequences();
            return;
        }
        for (int i = 0; i < locked; i++)
            UnlockRelationOid(list_nth_oid(tables, i), AccessExclusiveLock);
        in_the_way = locked;
        CHECK_FOR_INTERRUPTS();
    }
}

static void before_utility(Node *statement) {
    switch (nodeTag(statement)) {
    case T_DropStmt:
        lock_tables();
        break;
    case T_CreatedbStmt:
        if (const char *name = template_of(reinterpret_cast<CreatedbStmt *>(statement))) {
            Oid database = get_database_oid(name, true);
            if (OidIsValid(database) &&
                (superuser() || pg::owns_database(database) || pg::is_template_for_me(database)))
                hold_off(database);
        }
        break;
    case T_AlterDatabaseStmt:
        hold_off_if_owner(reinterpret_cast<AlterDatabaseStmt *>(statement)->dbname);
        break;
    case T_RenameStmt: {
        auto *rename = reinterpret_cast<RenameStmt *>(statement);
        if (rename->renameType == OBJECT_DATABASE)
            hold_off_if_owner(rename->subname);
        break;
    }
    default:
        break;
    }
}

static void after_utility(Node *statement) {
    switch (nodeTag(statement)) {
    case T_CreatedbStmt:
    case T_AlterDatabaseStmt:
        changes::rescan_databases();
        break;
    case T_TransactionStmt:
        prepared::resolve();
        break;
    case T_DiscardStmt:
        if (reinterpret_cast<DiscardStmt *>(statement)->target == DISCARD_ALL)
            lease::end_session();
        break;
    default:
        break;
    }
}

static bool ends_prepared(Node *statement) {
    auto kind = reinterpret_cast<TransactionStmt *>(statement)->kind;
    return kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED;
}

static bool is_watched(Node *statement) {
    switch (nodeTag(statement)) {
    case T_CreatedbStmt:
    case T_AlterDatabaseStmt:
    case T_RenameStmt:
    case T_DiscardStmt:
        return true;
    case T_DropStmt:
        return drops_extension(statement);
    case T_TransactionStmt:
        return ends_prepared(statement);
    default:
        return false;
    }
}

static void utility(PlannedStmt *statement, const char *query, bool read_only,
                    ProcessUtilityContext context, ParamListInfo parameters,
                    QueryEnvironment *environment, DestReceiver *receiver,
                    QueryCompletion *completion) {
    // The statement may be freed by its own execution (ROLLBACK ends the portal's memory).
    Node *node = statement->utilityStmt;
    bool watched = is_watched(node);
    if (watched)
        before_utility(node);
    auto next = previous_utility ? previous_utility : standard_ProcessUtility;
    next(statement, query, read_only, context, parameters, environment, receiver, completion);
    if (watched)
        after_utility(node);
}

void watch_commands() {
    previous_object_access = object_access_hook;
    object_access_hook = object_access;
    previous_utility = ProcessUtility_hook;
    ProcessUtility_hook = utility;
}

// pgjobs._installed() -> void
PGJOBS_FUNCTION(_installed) {
    require_administrator("install pgjobs");
    changes::extension_installed();
    PG_RETURN_VOID();
}

} // namespace pgjobs::presence

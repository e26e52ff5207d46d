#include "catalog.hpp"

#include "direct.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "receipt.hpp"

namespace pgjobs {

// ---- queues ----

struct ByName {
    char name[NAMEDATALEN];
    const Queue *queue;
};
struct ById {
    int32 id;
    const Queue *queue; // nullptr: known not to be there
};

static MemoryContext queues_context; // holds the tables and all that they point to
static HTAB *by_name;
static HTAB *by_id;
static bool queues_stale;

// Queues handed out stay until the end of the transaction, whatever is invalidated meanwhile.
static void forget_queues() {
    if (queues_context != nullptr)
        MemoryContextSetParent(queues_context, TopTransactionContext);
    queues_context = nullptr;
    by_name = by_id = nullptr;
}

static void prepare_tables() {
    if (queues_stale)
        forget_queues();
    queues_stale = false;
    if (queues_context != nullptr)
        return;
    MemoryContext context =
        AllocSetContextCreate(CacheMemoryContext, "pgjobs queues", ALLOCSET_DEFAULT_SIZES);
    HASHCTL control{};
    control.hcxt = context;
    control.keysize = NAMEDATALEN;
    control.entrysize = sizeof(ByName);
    by_name =
        hash_create("pgjobs queues by name", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
    control.keysize = sizeof(int32);
    control.entrysize = sizeof(ById);
    by_id = hash_create("pgjobs queues by id", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    queues_context = context;
}

#define QUEUE_COLUMNS                                                                              \
    "SELECT q.id, q.name, q.paused, q.durable_claims, q.notify, q.max_attempts, "                  \
    "COALESCE(q.dead_letter, 0), q.lease, q.backoff, q.backoff_max, q.retention, "                 \
    "q.dead_retention, "                                                                           \
    "EXISTS (SELECT FROM pgjobs.home h WHERE h.id = q.home AND h.database = $2), "                 \
    "ARRAY(SELECT s.name FROM pgjobs.stage s WHERE s.queue_id = q.id ORDER BY s.number), "         \
    "ARRAY(SELECT a.role FROM pgjobs.acl a WHERE a.queue_id = q.id ORDER BY a.role), "             \
    "ARRAY(SELECT a.rights FROM pgjobs.acl a WHERE a.queue_id = q.id ORDER BY a.role), "           \
    "ARRAY(SELECT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.role AND "             \
    "r.rolname = a.role_name) FROM pgjobs.acl a WHERE a.queue_id = q.id ORDER BY a.role) "         \
    "FROM pgjobs.queue q "

static constinit pg::Statement select_by_name{
    QUEUE_COLUMNS "WHERE q.name = $1", {TEXTOID, OIDOID}, nullptr};
static constinit pg::Statement select_by_id{
    QUEUE_COLUMNS "WHERE q.id = $1", {INT4OID, OIDOID}, nullptr};

static Datum *array_at(int column, Oid type, int *count) {
    ArrayType *array = DatumGetArrayTypeP(pg::datum_at(0, column));
    int16 length;
    bool by_value;
    char align;
    get_typlenbyvalalign(type, &length, &by_value, &align);
    Datum *data;
    deconstruct_array(array, type, length, by_value, align, &data, nullptr, count);
    return data;
}

static int64 interval_at(int column) {
    return pg::microseconds(DatumGetIntervalP(pg::datum_at(0, column)), "interval", 0);
}

static Notify parse_notify(const char *text) {
    return strcmp(text, "off") == 0      ? Notify::off
           : strcmp(text, "events") == 0 ? Notify::events
                                         : Notify::wakeup;
}

static void read_grants(Queue *queue) {
    Datum *roles = array_at(15, OIDOID, &queue->grant_count);
    Datum *rights = array_at(16, INT4OID, &queue->grant_count);
    Datum *named = array_at(17, BOOLOID, &queue->grant_count);
    auto *grants = static_cast<Grant *>(
        MemoryContextAlloc(queues_context, sizeof(Grant) * (queue->grant_count + 1)));
    for (int i = 0; i < queue->grant_count; i++)
        grants[i] = {DatumGetObjectId(roles[i]), DatumGetInt32(rights[i]), DatumGetBool(named[i])};
    queue->grants = grants;
}

static void read_stages(Queue *queue) {
    int count;
    Datum *names = array_at(14, TEXTOID, &count);
    queue->stage_count = static_cast<int16>(count);
    queue->stages = static_cast<const char **>(
        MemoryContextAlloc(queues_context, sizeof(char *) * (count + 1)));
    for (int i = 0; i < count; i++)
        queue->stages[i] = MemoryContextStrdup(queues_context, TextDatumGetCString(names[i]));
}

// The first row of the result as a queue in queues_context.
static const Queue *read_queue() {
    auto *queue = static_cast<Queue *>(MemoryContextAllocZero(queues_context, sizeof(Queue)));
    queue->id = pg::int32_at(0, 1);
    strlcpy(queue->name, TextDatumGetCString(pg::datum_at(0, 2)), sizeof(queue->name));
    queue->paused = pg::bool_at(0, 3);
    queue->durable_claims = pg::bool_at(0, 4);
    queue->notify = parse_notify(TextDatumGetCString(pg::datum_at(0, 5)));
    queue->max_attempts = pg::int32_at(0, 6);
    queue->dead_letter = pg::int32_at(0, 7);
    queue->lease = interval_at(8);
    queue->backoff = interval_at(9);
    queue->backoff_max = interval_at(10);
    queue->retention = interval_at(11);
    queue->dead_retention = interval_at(12);
    queue->home = pg::bool_at(0, 13);
    read_stages(queue);
    read_grants(queue);
    return queue;
}

static const Queue *load(pg::Statement *statement, pg::Value key) {
    prepare_tables();
    // Being stale again after this only means that the next look-up reads once more.
    return pg::as_owner([&]() -> const Queue * {
        if (pg::run(statement, key, pg::oid_value(MyDatabaseId)) == 0)
            return nullptr;
        prepare_tables();
        const Queue *queue = read_queue();
        static_cast<ByName *>(hash_search(by_name, queue->name, HASH_ENTER, nullptr))->queue =
            queue;
        static_cast<ById *>(hash_search(by_id, &queue->id, HASH_ENTER, nullptr))->queue = queue;
        return queue;
    });
}

const Queue *find_queue(const char *name) {
    if (!core::is_name(name))
        return nullptr;
    prepare_tables();
    auto *entry = static_cast<ByName *>(hash_search(by_name, name, HASH_FIND, nullptr));
    return entry != nullptr ? entry->queue : load(&select_by_name, pg::value(name));
}

const Queue *find_queue(int32 id) {
    prepare_tables();
    auto *entry = static_cast<ById *>(hash_search(by_id, &id, HASH_FIND, nullptr));
    if (entry != nullptr)
        return entry->queue;
    const Queue *queue = load(&select_by_id, pg::value(id));
    if (queue == nullptr && by_id != nullptr)
        static_cast<ById *>(hash_search(by_id, &id, HASH_ENTER, nullptr))->queue = nullptr;
    return queue;
}

const Queue *get_queue(const char *name) {
    AcceptInvalidationMessages(); // a pause or a lost right counts within a transaction too
    const Queue *queue = find_queue(name);
    if (queue == nullptr)
        ereport(
            ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("queue \"%s\" does not exist", pg::shown(name)),
            errhint("Check the name in the view pgjobs.queues; pgjobs.create_queue() makes a new "
                    "queue."));
    return queue;
}

int16 stage_number(const Queue *queue, const char *stage) {
    if (stage == nullptr)
        return 0;
    for (int16 i = 0; i < queue->stage_count; i++)
        if (strcmp(queue->stages[i], stage) == 0)
            return static_cast<int16>(i + 1);
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("queue \"%s\" has no stage \"%s\"", queue->name, pg::shown(stage)),
            errhint("The view pgjobs.stages lists the stages of each queue."));
    pg_unreachable();
}

// ---- rights ----

const char *right_name(Right right) {
    switch (right) {
    case produce:
        return "produce";
    case work:
        return "work";
    case operate:
        return "operate";
    case monitor:
        return "monitor";
    default:
        return "own";
    }
}

bool is_administrator() {
    return superuser() || has_privs_of_role(GetUserId(), relations()->owner);
}

bool has_right(const Queue *queue, int32 rights) {
    if (is_administrator())
        return true;
    for (int i = 0; i < queue->grant_count; i++) {
        const Grant *grant = &queue->grants[i];
        // In a restored copy an oid may be another role's: there the name must agree too.
        if ((grant->rights & rights) != 0 && (queue->home || grant->named) &&
            has_privs_of_role(GetUserId(), grant->role))
            return true;
    }
    return (rights & monitor) != 0 && has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

void require_right(const Queue *queue, Right right) {
    if (has_right(queue, right))
        return;
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("permission denied for queue \"%s\"", queue->name),
            errdetail("The role \"%s\" lacks the right \"%s\".",
                      GetUserNameFromId(GetUserId(), false), right_name(right)),
            errhint("An owner of the queue can grant it with pgjobs.grant_queue()."));
}

void require_administrator(const char *what) {
    if (!is_administrator())
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("permission denied to %s", what),
                errhint("Only a superuser or the extension's owner may do this."));
}

void require_home(const Queue *queue) {
    if (!queue->home)
        ereport(ERROR, errcode(errcode_quarantined),
                errmsg("queue \"%s\" is quarantined", queue->name),
                errdetail("This database is a restored or copied one."),
                errhint("If its jobs are to run here, call pgjobs.resume()."));
}

// ---- invalidation ----

static void relation_changed(Datum, Oid relation) {
    direct::forget(relation);
    receipt::forget(relation);
    if (forget_relations(relation))
        queues_stale = true;
}

static void roles_changed(Datum, int, uint32) { queues_stale = true; }

void watch_catalog() {
    CacheRegisterRelcacheCallback(relation_changed, 0);
    CacheRegisterSyscacheCallback(AUTHOID, roles_changed, 0);
}

// pgjobs._queues_changed() -> trigger
PGJOBS_FUNCTION(_queues_changed) {
    CacheInvalidateRelcacheByRelid(relations()->queue);
    PG_RETURN_POINTER(nullptr);
}

} // namespace pgjobs

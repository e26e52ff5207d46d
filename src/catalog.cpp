#include "catalog.hpp"

#include "attachment.hpp"
#include "direct.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "receipt.hpp"

namespace pgjobs {

// ---- what is known ----

// Objects of one kind. T has an id and a name.
template <class T> struct Cache {
    HTAB *by_name;
    HTAB *by_id;
};
template <class T> struct ByName {
    char name[NAMEDATALEN];
    const T *object;
};
template <class T> struct ById {
    int32 id;
    const T *object; // nullptr: known not to be there
};

static MemoryContext cache_context; // holds the tables and all that they point to
static Cache<Queue> queues;
static Cache<Topic> topics;
static bool cache_stale;

// Objects handed out stay until the end of the transaction, whatever is invalidated meanwhile.
static void forget_all() {
    if (cache_context != nullptr)
        MemoryContextSetParent(cache_context, TopTransactionContext);
    cache_context = nullptr;
    queues = {};
    topics = {};
}

template <class T> static void make_cache(Cache<T> *cache) {
    HASHCTL control{};
    control.hcxt = cache_context;
    control.keysize = NAMEDATALEN;
    control.entrysize = sizeof(ByName<T>);
    cache->by_name =
        hash_create("pgjobs names", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
    control.keysize = sizeof(int32);
    control.entrysize = sizeof(ById<T>);
    cache->by_id = hash_create("pgjobs ids", 32, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void prepare_caches() {
    if (cache_stale)
        forget_all();
    cache_stale = false;
    if (cache_context != nullptr)
        return;
    cache_context =
        AllocSetContextCreate(CacheMemoryContext, "pgjobs catalog", ALLOCSET_DEFAULT_SIZES);
    make_cache(&queues);
    make_cache(&topics);
}

// How an object is looked up and read from the first row of the result, into cache_context.
template <class T> struct Reader {
    const char *kind;
    Cache<T> *cache;
    pg::Statement *by_name;
    pg::Statement *by_id;
    const T *(*read)();
};

template <class T> static const T *load(const Reader<T> &reader, pg::Statement *by, pg::Value key) {
    prepare_caches();
    // Being stale again after this only means that the next look-up reads once more.
    return pg::as_owner([&]() -> const T * {
        if (pg::run(by, key, pg::oid_value(MyDatabaseId)) == 0)
            return nullptr;
        prepare_caches();
        const T *object = reader.read();
        static_cast<ByName<T> *>(
            hash_search(reader.cache->by_name, object->name, HASH_ENTER, nullptr))
            ->object = object;
        static_cast<ById<T> *>(hash_search(reader.cache->by_id, &object->id, HASH_ENTER, nullptr))
            ->object = object;
        return object;
    });
}

template <class T> static const T *find(const Reader<T> &reader, const char *name) {
    if (!core::is_name(name))
        return nullptr;
    prepare_caches();
    auto *entry =
        static_cast<ByName<T> *>(hash_search(reader.cache->by_name, name, HASH_FIND, nullptr));
    return entry != nullptr ? entry->object : load(reader, reader.by_name, pg::value(name));
}

template <class T> static const T *find(const Reader<T> &reader, int32 id) {
    prepare_caches();
    auto *entry = static_cast<ById<T> *>(hash_search(reader.cache->by_id, &id, HASH_FIND, nullptr));
    if (entry != nullptr)
        return entry->object;
    const T *object = load(reader, reader.by_id, pg::value(id));
    if (object == nullptr && reader.cache->by_id != nullptr)
        static_cast<ById<T> *>(hash_search(reader.cache->by_id, &id, HASH_ENTER, nullptr))->object =
            nullptr;
    return object;
}

// ---- reading ----

#define AT_HOME(object)                                                                            \
    "EXISTS (SELECT FROM pgjobs.home h WHERE h.id = " object ".home AND h.database = $2), "

// Roles, their rights, and whether each has the name that it was granted under.
#define GRANTS(object, acl, key)                                                                   \
    "ARRAY(SELECT a.role FROM " acl " a WHERE a." key " = " object ".id ORDER BY a.role), "        \
    "ARRAY(SELECT a.rights FROM " acl " a WHERE a." key " = " object ".id ORDER BY a.role), "      \
    "ARRAY(SELECT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.role AND "             \
    "r.rolname = a.role_name) FROM " acl " a WHERE a." key " = " object ".id ORDER BY a.role) "

#define QUEUE_COLUMNS                                                                              \
    "SELECT q.id, q.name, q.paused, q.durable_claims, q.notify, q.max_attempts, "                  \
    "COALESCE(q.dead_letter, 0), q.lease, q.backoff, q.backoff_max, q.retention, "                 \
    "q.dead_retention, COALESCE(q.events_topic, 0), " AT_HOME(                                     \
        "q") "ARRAY(SELECT s.name FROM pgjobs.stage s WHERE s.queue_id = q.id ORDER BY "           \
             "s.number), " GRANTS("q", "pgjobs.acl", "queue_id") "FROM pgjobs.queue q "

#define TOPIC_COLUMNS                                                                              \
    "SELECT t.id, t.name, t.retention, t.pruned_to, " AT_HOME(                                     \
        "t") "ARRAY(SELECT s.id FROM pgjobs.segment s WHERE s.topic_id = t.id ORDER BY s.id), "    \
             "ARRAY(SELECT s.floor FROM pgjobs.segment s WHERE s.topic_id = t.id ORDER BY "        \
             "s.id), " GRANTS("t", "pgjobs.topic_acl", "topic_id") "FROM pgjobs.topic t "

static constinit pg::Statement select_queue_by_name{
    QUEUE_COLUMNS "WHERE q.name = $1", {TEXTOID, OIDOID}, nullptr};
static constinit pg::Statement select_queue_by_id{
    QUEUE_COLUMNS "WHERE q.id = $1", {INT4OID, OIDOID}, nullptr};
static constinit pg::Statement select_topic_by_name{
    TOPIC_COLUMNS "WHERE t.name = $1", {TEXTOID, OIDOID}, nullptr};
static constinit pg::Statement select_topic_by_id{
    TOPIC_COLUMNS "WHERE t.id = $1", {INT4OID, OIDOID}, nullptr};

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

template <class T> static T *allocate(int count) {
    return static_cast<T *>(
        MemoryContextAllocZero(cache_context, sizeof(T) * static_cast<Size>(count)));
}

// From three columns that begin with this one.
static const Grant *read_grants(int column, int *count) {
    Datum *roles = array_at(column, OIDOID, count);
    Datum *rights = array_at(column + 1, INT4OID, count);
    Datum *named = array_at(column + 2, BOOLOID, count);
    auto *grants = allocate<Grant>(*count + 1);
    for (int i = 0; i < *count; i++)
        grants[i] = {DatumGetObjectId(roles[i]), DatumGetInt32(rights[i]), DatumGetBool(named[i])};
    return grants;
}

static void read_stages(Queue *queue) {
    int count;
    Datum *names = array_at(15, TEXTOID, &count);
    queue->stage_count = static_cast<int16>(count);
    queue->stages = allocate<const char *>(count + 1);
    for (int i = 0; i < count; i++)
        queue->stages[i] = MemoryContextStrdup(cache_context, TextDatumGetCString(names[i]));
}

static const Queue *read_queue() {
    auto *queue = allocate<Queue>(1);
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
    queue->events_topic = pg::int32_at(0, 13);
    queue->home = pg::bool_at(0, 14);
    read_stages(queue);
    queue->grants = read_grants(16, &queue->grant_count);
    return queue;
}

static const Topic *read_topic() {
    auto *topic = allocate<Topic>(1);
    topic->id = pg::int32_at(0, 1);
    strlcpy(topic->name, TextDatumGetCString(pg::datum_at(0, 2)), sizeof(topic->name));
    topic->retention = interval_at(3);
    topic->pruned_to = pg::int64_at(0, 4);
    topic->home = pg::bool_at(0, 5);
    Datum *ids = array_at(6, INT4OID, &topic->segment_count);
    Datum *floors = array_at(7, INT8OID, &topic->segment_count);
    auto *segments = allocate<Segment>(topic->segment_count + 1);
    for (int i = 0; i < topic->segment_count; i++)
        segments[i] = {DatumGetInt32(ids[i]), DatumGetInt64(floors[i])};
    topic->segments = segments;
    topic->grants = read_grants(8, &topic->grant_count);
    return topic;
}

// ---- looking up ----

static const Reader<Queue> queue_reader = {"queue", &queues, &select_queue_by_name,
                                           &select_queue_by_id, read_queue};
static const Reader<Topic> topic_reader = {"topic", &topics, &select_topic_by_name,
                                           &select_topic_by_id, read_topic};

const Queue *find_queue(const char *name) { return find(queue_reader, name); }
const Queue *find_queue(int32 id) { return find(queue_reader, id); }
const Topic *find_topic(const char *name) { return find(topic_reader, name); }
const Topic *find_topic(int32 id) { return find(topic_reader, id); }

template <class T> static const T *get(const Reader<T> &reader, const char *name) {
    AcceptInvalidationMessages(); // a pause or a lost right counts within a transaction too
    const T *object = find(reader, name);
    if (object == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("%s \"%s\" does not exist", reader.kind, pg::shown(name)),
                errhint("Check the name in the view pgjobs.%ss; pgjobs.create_%s() makes a new %s.",
                        reader.kind, reader.kind, reader.kind));
    return object;
}

const Queue *get_queue(const char *name) { return get(queue_reader, name); }
const Topic *get_topic(const char *name) { return get(topic_reader, name); }

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
    case publish:
        return "publish";
    case subscribe:
        return "subscribe";
    default:
        return "own";
    }
}

bool is_administrator() {
    return superuser() || has_privs_of_role(GetUserId(), relations()->owner);
}

// In a restored copy an oid may be another role's: there the name must agree too.
static bool has_right(const Grant *grants, int count, bool home, int32 rights) {
    if (is_administrator())
        return true;
    for (int i = 0; i < count; i++)
        if ((grants[i].rights & rights) != 0 && (home || grants[i].named) &&
            has_privs_of_role(GetUserId(), grants[i].role))
            return true;
    return (rights & monitor) != 0 && has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

bool has_right(const Queue *queue, int32 rights) {
    return has_right(queue->grants, queue->grant_count, queue->home, rights);
}

bool has_right(const Topic *topic, int32 rights) {
    return has_right(topic->grants, topic->grant_count, topic->home, rights);
}

[[noreturn]] static void lacks_right(const char *kind, const char *name, Right right) {
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("permission denied for %s \"%s\"", kind, name),
            errdetail("The role \"%s\" lacks the right \"%s\".",
                      GetUserNameFromId(GetUserId(), false), right_name(right)),
            errhint("An owner of the %s can grant it with pgjobs.grant_%s().", kind, kind));
    pg_unreachable();
}

void require_right(const Queue *queue, Right right) {
    if (!has_right(queue, right))
        lacks_right("queue", queue->name, right);
}

void require_right(const Topic *topic, Right right) {
    if (!has_right(topic, right))
        lacks_right("topic", topic->name, right);
}

void require_administrator(const char *what) {
    if (!is_administrator())
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("permission denied to %s", what),
                errhint("Only a superuser or the extension's owner may do this."));
}

[[noreturn]] static void quarantined(const char *kind, const char *name, const char *what) {
    ereport(ERROR, errcode(errcode_quarantined), errmsg("%s \"%s\" is quarantined", kind, name),
            errdetail("This database is a restored or copied one."),
            errhint("If its %s here, call pgjobs.resume().", what));
    pg_unreachable();
}

void require_home(const Queue *queue) {
    if (!queue->home)
        quarantined("queue", queue->name, "jobs are to run");
}

void require_home(const Topic *topic) {
    if (!topic->home)
        quarantined("topic", topic->name, "messages are to be received");
}

// ---- invalidation ----

static void relation_changed(Datum, Oid relation) {
    direct::forget(relation);
    receipt::forget(relation);
    forget_attachments(relation);
    if (forget_relations(relation)) {
        cache_stale = true;
        forget_attachments(InvalidOid); // where they are at home may have changed
    }
}

static void roles_changed(Datum, int, uint32) { cache_stale = true; }

void forget_catalog() { cache_stale = true; }

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

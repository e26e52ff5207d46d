#include "notify.hpp"

#include "announce.hpp"
#include "catalog.hpp"
#include "inject.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "settings.hpp"

namespace pgjobs::notify {

constexpr int longest_probe = 32;
constexpr int32 removed_queue = -1; // a place that was used; look-ups go on behind it
constexpr int batch = 512;

// ---- places; under the events lock ----

static uint32 first_place(Oid database, int32 queue) {
    uint32 hash = database * 2654435761u ^ static_cast<uint32>(queue) * 2246822519u;
    return hash % static_cast<uint32>(settings::max_queues);
}

static QueueHints *search(Oid database, int32 queue, QueueHints **free_place) {
    uint32 place = first_place(database, queue);
    for (int i = 0; i < longest_probe; i++) {
        QueueHints *hints = &queue_hints[(place + static_cast<uint32>(i)) %
                                         static_cast<uint32>(settings::max_queues)];
        if (hints->database == database && hints->queue == queue)
            return hints;
        if (hints->database == InvalidOid && *free_place == nullptr)
            *free_place = hints;
        if (hints->database == InvalidOid && hints->queue != removed_queue)
            break;
    }
    return nullptr;
}

QueueHints *hints_of(Oid database, int32 queue) {
    QueueHints *free_place = nullptr;
    QueueHints *hints = search(database, queue, &free_place);
    if (hints == nullptr && free_place != nullptr) {
        *free_place = {};
        free_place->database = database;
        free_place->queue = queue;
        hints = free_place;
    }
    return hints;
}

static void drop_hints(Oid database, int32 queue) {
    pg::locked(shared->events_lock, LW_EXCLUSIVE, [&] {
        QueueHints *free_place = nullptr;
        QueueHints *hints = search(database, queue, &free_place);
        if (hints != nullptr) {
            *hints = {};
            hints->queue = removed_queue;
        }
    });
}

void drop_all_hints(Oid database) {
    pg::locked(shared->events_lock, LW_EXCLUSIVE, [&] {
        for (int i = 0; i < settings::max_databases; i++)
            if (databases[i].oid == database) {
                databases[i].first_event = databases[i].next_event;
                announce::drop_all(&databases[i]);
            }
        for (int i = 0; i < settings::max_queues; i++)
            if (queue_hints[i].database == database) {
                queue_hints[i] = {};
                queue_hints[i].queue = removed_queue;
            }
    });
}

// ---- the ring ----

static Event *ring_of(const Database *database) {
    return events + static_cast<size_t>(index_of(database)) * settings::event_buffer;
}

void put_event(Database *database, const Event &event) {
    if (database->next_event - database->first_event >=
        static_cast<uint32>(settings::event_buffer)) {
        QueueHints *hints = hints_of(database->oid, event.queue);
        if (hints != nullptr)
            hints->resync = true;
        else
            pg_atomic_write_u32(&database->notify_all, 1);
        return;
    }
    ring_of(database)[database->next_event % static_cast<uint32>(settings::event_buffer)] = event;
    database->next_event++;
}

// ---- sending ----

struct Call {
    int32 queue;
    bool wakeup;
    bool resync;
};
struct Batch {
    Call calls[batch];
    int call_count;
    Event events[batch];
    int event_count;
    bool more;
};

static void take(Database *database, Batch *taken) {
    LWLockAcquire(shared->events_lock, LW_EXCLUSIVE);
    for (int i = 0; i < settings::max_queues; i++) {
        QueueHints *hints = &queue_hints[i];
        if (hints->database != database->oid || !(hints->wakeup || hints->resync))
            continue;
        if (taken->call_count == batch) {
            taken->more = true;
            break;
        }
        taken->calls[taken->call_count++] = {hints->queue, hints->wakeup, hints->resync};
        hints->wakeup = hints->resync = false;
    }
    while (taken->event_count < batch && database->first_event != database->next_event)
        taken->events[taken->event_count++] = ring_of(
            database)[database->first_event++ % static_cast<uint32>(settings::event_buffer)];
    taken->more |= database->first_event != database->next_event;
    LWLockRelease(shared->events_lock);
}

static const char *channel_of(const Queue *queue) { return psprintf("pgjobs_%s", queue->name); }

// Names need no escapes: they are restricted.
static void send_resync(const Queue *queue) {
    if (queue->notify == Notify::events)
        Async_Notify(channel_of(queue),
                     psprintf("{\"queue\": \"%s\", \"resync\": true}", queue->name));
    else
        Async_Notify(channel_of(queue), "");
}

static void send_event(const Queue *queue, const Event &event) {
    char at[MAXDATELEN + 1];
    int zone = 0;
    JsonEncodeDateTime(at, TimestampTzGetDatum(event.at), TIMESTAMPTZOID, &zone);
    Async_Notify(channel_of(queue),
                 psprintf("{\"queue\": \"%s\", \"job\": " INT64_FORMAT
                          ", \"rev\": %d, \"stage\": \"%s\", \"state\": \"%s\", "
                          "\"attempt\": %d, \"at\": \"%s\"}",
                          queue->name, event.job, event.rev, stage_name(queue, event.stage),
                          core::name_of(event.state), event.attempt, at));
}

static const Queue *listening(int32 id) {
    const Queue *queue = find_queue(id);
    return queue != nullptr && queue->home && queue->notify != Notify::off ? queue : nullptr;
}

static constinit pg::Statement select_queues{
    "SELECT q.id FROM pgjobs.queue q JOIN pgjobs.home h ON h.id = q.home AND h.database = $1 "
    "WHERE q.notify <> 'off'",
    {OIDOID},
    nullptr};

// Whoever asks how full it is gets the answer for after that.
void make_room() { OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE); }

// Something was lost: everybody who listens must look once.
static void send_all() {
    pg::as_owner([] {
        uint64 count = pg::run(&select_queues, pg::oid_value(MyDatabaseId));
        auto *ids = static_cast<int32 *>(palloc(sizeof(int32) * (count + 1)));
        for (uint64 i = 0; i < count; i++)
            ids[i] = pg::int32_at(i, 1);
        for (uint64 i = 0; i < count; i++)
            if (const Queue *queue = listening(ids[i]))
                send_resync(queue);
        announce::send_resyncs();
    });
}

bool send(Database *database) {
    // While a batch is under way the flag is 2: a worker that finds it so has a predecessor that
    // did not finish.
    if (pg_atomic_exchange_u32(&database->notify_all, 2) != 0)
        send_all();
    auto *taken = static_cast<Batch *>(palloc0(sizeof(Batch)));
    take(database, taken);
    PGJOBS_POINT("notify-taken");
    for (int i = 0; i < taken->call_count; i++) {
        const Call &call = taken->calls[i];
        if (find_queue(call.queue) == nullptr)
            drop_hints(database->oid, call.queue);
        const Queue *queue = listening(call.queue);
        if (queue != nullptr && (call.resync || queue->notify == Notify::wakeup))
            send_resync(queue);
    }
    for (int i = 0; i < taken->event_count; i++)
        if (const Queue *queue = listening(taken->events[i].queue))
            if (queue->notify == Notify::events)
                send_event(queue, taken->events[i]);
    bool more = announce::send(database) || taken->more;
    PGJOBS_POINT("notify-queued");
    return more;
}

QueueHints counters_of(int32 queue) {
    return pg::locked(shared->events_lock, LW_SHARED, [&] {
        QueueHints *free_place = nullptr;
        QueueHints *found = search(MyDatabaseId, queue, &free_place);
        return found != nullptr ? *found : QueueHints{};
    });
}

// pgjobs._queue_counters(queue_id, OUT enqueued, claimed, completed, dead, cancelled)
PGJOBS_FUNCTION(_queue_counters) {
    int32 queue = DatumGetInt32(pg::required(fcinfo, 0, "queue_id"));
    const Queue *known = find_queue(queue);
    bool visible = known != nullptr && has_right(known, monitor | operate | own);
    QueueHints hints = visible ? counters_of(queue) : QueueHints{};
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    Datum values[] = {Int64GetDatum(hints.enqueued), Int64GetDatum(hints.claimed),
                      Int64GetDatum(hints.completed), Int64GetDatum(hints.dead),
                      Int64GetDatum(hints.cancelled)};
    bool nulls[lengthof(values)];
    memset(nulls, RecoveryInProgress(), sizeof(nulls)); // nobody has told anything there
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

} // namespace pgjobs::notify

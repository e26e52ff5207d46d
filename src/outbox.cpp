#include "outbox.hpp"

#include "catalog.hpp"
#include "log.hpp"
#include "pending.hpp"
#include "store.hpp"

namespace pgjobs::outbox {

using changes::OutboxEntry;
using changes::pending;

constexpr int most_kept = 10000; // messages of others than jobs

// ---- taking notes ----

static const char *kept(const char *text) {
    if (pending.outbox_texts == nullptr)
        pending.outbox_texts =
            AllocSetContextCreate(TopTransactionContext, "pgjobs outbox", ALLOCSET_DEFAULT_SIZES);
    return MemoryContextStrdup(pending.outbox_texts, text);
}

// What is too much to be kept is written: not if it has begun in a subtransaction above, for this
// one may be undone.
static void make_room() {
    if (pending.outbox.count >= most_kept &&
        pending.outbox.data[0].level >= GetCurrentTransactionNestLevel())
        publish_all();
}

void add(int32 topic, const char *key, const char *json) {
    changes::begin();
    make_room();
    const char *kept_key = kept(key);
    const char *kept_json = kept(json);
    OutboxEntry *entry = append(&pending.outbox);
    entry->topic = topic;
    entry->key = kept_key;
    entry->json = kept_json;
}

// Errors may hold what is not for everybody: only the word that they begin with, up to a colon, is
// published, as in "TimeoutError: ...".
static const char *error_class(const char *error) {
    size_t length =
        strspn(error, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.");
    bool word = length > 0 && length <= 64 && (error[length] == ':' || error[length] == '\0');
    return word ? pnstrdup(error, length) : "error";
}

static const char *text_in(TupleTableSlot *row, store::Col column) {
    bool null = true;
    Datum datum = row != nullptr ? slot_getattr(row, static_cast<int>(column), &null) : 0;
    return null ? nullptr : TextDatumGetCString(datum);
}

void add_event(int32 topic, const Event &event, const core::State *from, TupleTableSlot *row) {
    const char *worker = from != nullptr ? text_in(row, store::Col::worker) : nullptr;
    changes::begin();
    OutboxEntry *entry = append(&pending.outbox);
    entry->topic = topic;
    entry->event = event;
    entry->created = from == nullptr;
    entry->from = from == nullptr ? event.state : *from;
    if (worker != nullptr)
        entry->worker = kept(worker);
    if (changes::error != nullptr)
        entry->error_class = kept(error_class(changes::error));
}

// ---- writing ----

static void append_text(StringInfo json, const char *name, const char *value) {
    appendStringInfo(json, ", \"%s\": ", name);
    if (value == nullptr)
        appendStringInfoString(json, "null");
    else
        escape_json(json, value);
}

// Names need no escapes: they are restricted.
static const char *json_of(const OutboxEntry &entry) {
    const Event &event = entry.event;
    const Queue *queue = find_queue(event.queue);
    char at[MAXDATELEN + 1];
    int zone = 0;
    JsonEncodeDateTime(at, TimestampTzGetDatum(event.at), TIMESTAMPTZOID, &zone);
    StringInfoData json;
    initStringInfo(&json);
    appendStringInfo(&json,
                     "{\"queue\": \"%s\", \"job\": " INT64_FORMAT
                     ", \"rev\": %d, \"stage\": \"%s\", \"to\": \"%s\", \"attempt\": %d, "
                     "\"at\": \"%s\"",
                     queue != nullptr ? queue->name : "?", event.job, event.rev,
                     queue != nullptr ? stage_name(queue, event.stage) : "?",
                     core::name_of(event.state), event.attempt, at);
    append_text(&json, "from", entry.created ? nullptr : core::name_of(entry.from));
    append_text(&json, "worker", entry.worker);
    append_text(&json, "error_class", entry.error_class);
    appendStringInfoChar(&json, '}');
    return json.data;
}

static log::Draft draft_of(const OutboxEntry &entry) {
    const char *json = entry.key != nullptr ? entry.json : json_of(entry);
    const char *key = entry.key != nullptr ? entry.key : psprintf(INT64_FORMAT, entry.event.job);
    return {DirectFunctionCall1(jsonb_in, CStringGetDatum(json)), CStringGetTextDatum(key), 0};
}

// Entries from `first` on that go to the same topic, at most as many as are written together.
static int publish_some(int first) {
    log::Draft drafts[log::most_together];
    int64 positions[log::most_together];
    int32 id = pending.outbox.data[first].topic;
    int count = 0;
    while (count < log::most_together && first + count < pending.outbox.count &&
           pending.outbox.data[first + count].topic == id) {
        drafts[count] = draft_of(pending.outbox.data[first + count]);
        count++;
    }
    const Topic *topic = find_topic(id);
    if (topic != nullptr && log::lock_topic_if_there(topic)) // else it was dropped meanwhile
        log::append(topic, drafts, count, positions);
    return count;
}

void publish_all() {
    if (pending.outbox.count == 0)
        return;
    bool claims_only = XactLastRecEnd == pending.claims_end;
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "pgjobs messages", ALLOCSET_DEFAULT_SIZES);
    for (int i = 0; i < pending.outbox.count;) {
        i += pg::in_context(scratch, [&] { return publish_some(i); });
        MemoryContextReset(scratch);
        CHECK_FOR_INTERRUPTS();
    }
    pending.outbox.count = 0;
    if (pending.outbox_texts != nullptr)
        MemoryContextReset(pending.outbox_texts);
    MemoryContextDelete(scratch);
    if (claims_only) // the events of a claim are worth as much as the claim
        pending.claims_end = XactLastRecEnd;
}

} // namespace pgjobs::outbox

// pgjobs.metrics(): the figures of the views and of the processes, for Prometheus and its kind.
#include "acl.hpp"
#include "catalog.hpp"
#include "count.hpp"
#include "log_end.hpp"
#include "notify.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "readers.hpp"

namespace pgjobs::metrics {

using core::State;

// ---- the format: https://prometheus.io/docs/specs/om/open_metrics_spec/ ----

struct Label {
    const char *name; // nullptr: no label
    const char *value;
};

static void begin_family(StringInfo out, const char *name, const char *type, const char *help) {
    appendStringInfo(out, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void append_escaped(StringInfo out, const char *value) {
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            appendStringInfoString(out, "\\n");
        else if (*c == '\\' || *c == '"')
            appendStringInfo(out, "\\%c", *c);
        else
            appendStringInfoChar(out, *c);
    }
}

// The name and the labels of a sample; its value comes next.
static void begin_sample(StringInfo out, const char *name, Label a = {}, Label b = {},
                         Label c = {}) {
    appendStringInfoString(out, name);
    char before = '{';
    for (const Label &label : {a, b, c}) {
        if (label.name == nullptr)
            continue;
        appendStringInfo(out, "%c%s=\"", before, label.name);
        append_escaped(out, label.value);
        appendStringInfoChar(out, '"');
        before = ',';
    }
    appendStringInfoString(out, before == ',' ? "} " : " ");
}

static void end_sample(StringInfo out, int64 value) {
    appendStringInfo(out, INT64_FORMAT "\n", value);
}

static void append_gauge(StringInfo out, const char *name, const char *help, int64 value) {
    begin_family(out, name, "gauge", help);
    begin_sample(out, name);
    end_sample(out, value);
}

// ---- queues ----

struct Shown {
    const Queue *queue;
    count::Figures *figures; // by stage
    QueueHints counters;
};

static Shown look_at(FunctionCallInfo fcinfo, int32 id) {
    Shown shown{};
    shown.queue = find_queue(id);
    if (shown.queue == nullptr)
        return shown;
    int stages = shown.queue->stage_count;
    shown.figures = static_cast<count::Figures *>(palloc(sizeof(count::Figures) * stages));
    for (int i = 0; i < stages; i++)
        shown.figures[i] = count::figures_of(fcinfo->flinfo, id, static_cast<int16>(i + 1));
    shown.counters = notify::counters_of(id);
    return shown;
}

static void append_depths(StringInfo out, const Shown *queues, int count) {
    begin_family(out, "pgjobs_jobs", "gauge", "Open jobs by state.");
    for (int i = 0; i < count; i++)
        for (int s = 0; s < queues[i].queue->stage_count; s++)
            for (State state : {State::ready, State::running, State::scheduled, State::blocked}) {
                begin_sample(out, "pgjobs_jobs", {"queue", queues[i].queue->name},
                             {"stage", queues[i].queue->stages[s]},
                             {"state", core::name_of(state)});
                end_sample(out, queues[i].figures[s].depth[state]);
            }
}

static void append_ages(StringInfo out, const Shown *queues, int count, TimestampTz now) {
    constexpr const char *name = "pgjobs_oldest_ready_age_seconds";
    appendStringInfo(out, "# TYPE %s gauge\n# UNIT %s seconds\n# HELP %s %s\n", name, name, name,
                     "How long the oldest ready job has been due; 0 without one.");
    for (int i = 0; i < count; i++)
        for (int s = 0; s < queues[i].queue->stage_count; s++) {
            TimestampTz oldest = Min(queues[i].figures[s].oldest, now);
            begin_sample(out, name, {"queue", queues[i].queue->name},
                         {"stage", queues[i].queue->stages[s]});
            appendStringInfo(out, "%.6f\n", static_cast<double>(now - oldest) / USECS_PER_SEC);
        }
}

struct Counter {
    const char *name;
    const char *help;
    int64 QueueHints::*count;
};
constexpr Counter counters[] = {
    {"pgjobs_enqueued", "Jobs added since the server started.", &QueueHints::enqueued},
    {"pgjobs_claimed", "Claims since the server started.", &QueueHints::claimed},
    {"pgjobs_completed", "Jobs completed since the server started.", &QueueHints::completed},
    {"pgjobs_dead", "Jobs that died since the server started.", &QueueHints::dead},
    {"pgjobs_cancelled", "Jobs cancelled since the server started.", &QueueHints::cancelled}};

static void append_counters(StringInfo out, const Shown *queues, int count) {
    for (const Counter &counter : counters) {
        begin_family(out, counter.name, "counter", counter.help);
        for (int i = 0; i < count; i++) {
            begin_sample(out, psprintf("%s_total", counter.name), {"queue", queues[i].queue->name});
            end_sample(out, queues[i].counters.*counter.count);
        }
    }
}

static void append_settings(StringInfo out, const Shown *queues, int count) {
    begin_family(out, "pgjobs_queue_paused", "gauge", "1: the queue is paused.");
    for (int i = 0; i < count; i++) {
        begin_sample(out, "pgjobs_queue_paused", {"queue", queues[i].queue->name});
        end_sample(out, queues[i].queue->paused);
    }
    begin_family(out, "pgjobs_queue_quarantined", "gauge", "1: the queue is quarantined.");
    for (int i = 0; i < count; i++) {
        begin_sample(out, "pgjobs_queue_quarantined", {"queue", queues[i].queue->name});
        end_sample(out, !queues[i].queue->home);
    }
}

static void append_queues(FunctionCallInfo fcinfo, StringInfo out, TimestampTz now) {
    acl::Visible visible = acl::visible_queues(monitor | operate | own);
    auto *queues = static_cast<Shown *>(palloc(sizeof(Shown) * (visible.count + 1)));
    int count = 0;
    for (int i = 0; i < visible.count; i++) {
        queues[count] = look_at(fcinfo, visible.ids[i]);
        count += queues[count].queue != nullptr;
    }
    append_depths(out, queues, count);
    append_ages(out, queues, count, now);
    if (!RecoveryInProgress()) // nobody has told anything there
        append_counters(out, queues, count);
    append_settings(out, queues, count);
}

// ---- topics ----

static void append_topics(StringInfo out) {
    acl::Visible topics = acl::visible_topics();
    begin_family(out, "pgjobs_topic_last_position", "gauge",
                 "Every position up to here was published or never will be.");
    for (int i = 0; i < topics.count; i++) {
        const Topic *topic = find_topic(topics.ids[i]);
        if (topic == nullptr || !log_end::has_place(topic))
            continue;
        begin_sample(out, "pgjobs_topic_last_position", {"topic", topic->name});
        end_sample(out, log::last_position(topic));
    }
}

// `seconds`: how long ago the first message behind was published; else how many positions.
static void append_lag(StringInfo out, const readers::Readers &readers, const log::Lag *lags,
                       const char *name, bool seconds, TimestampTz now) {
    for (int i = 0; i < readers.count; i++) {
        const readers::Reader &reader = readers.list[i];
        begin_sample(out, name, {reader.queue ? "queue" : "subscription", reader.name},
                     {"topic", reader.topic->name});
        if (!seconds)
            end_sample(out, lags[i].messages);
        else
            appendStringInfo(out, "%.6f\n",
                             lags[i].messages == 0
                                 ? 0.0
                                 : static_cast<double>(now - lags[i].since) / USECS_PER_SEC);
    }
}

static void append_readers(StringInfo out, TimestampTz now) {
    readers::Readers readers = readers::all();
    auto *lags = static_cast<log::Lag *>(palloc0(sizeof(log::Lag) * (readers.count + 1)));
    for (int i = 0; i < readers.count; i++)
        if (log_end::has_place(readers.list[i].topic))
            lags[i] = log::lag_of(readers.list[i].topic, readers.list[i].position);
    begin_family(out, "pgjobs_subscription_lag_messages", "gauge",
                 "Positions that a subscription, or a queue that subscribes, is behind.");
    append_lag(out, readers, lags, "pgjobs_subscription_lag_messages", false, now);
    begin_family(out, "pgjobs_subscription_lag_seconds", "gauge",
                 "How long ago the first message was published that it has not read.");
    append_lag(out, readers, lags, "pgjobs_subscription_lag_seconds", true, now);
}

// ---- the rest ----

static int64 lease_count() {
    return pg::locked(shared->leases_lock, LW_SHARED, [] {
        int64 count = 0;
        HASH_SEQ_STATUS scan;
        hash_seq_init(&scan, leases);
        while (auto *lease = static_cast<Lease *>(hash_seq_search(&scan)))
            count += lease->key.database == MyDatabaseId;
        return count;
    });
}

static int64 pin_count() {
    return pg::locked(shared->databases_lock, LW_SHARED, [] {
        int64 count = 0;
        for (int i = 0; i < shared->pins; i++)
            count += TransactionIdIsValid(pins[i].xid) && pins[i].database == MyDatabaseId;
        return count;
    });
}

static constinit pg::Statement select_usage{
    "SELECT pg_catalog.pg_notification_queue_usage()", {}, nullptr};

static void append_server(StringInfo out) {
    Database *database = find_database(MyDatabaseId);
    auto read = [&](pg_atomic_uint32 Database::*field) -> int64 {
        return database == nullptr ? 0 : pg_atomic_read_u32(&(database->*field));
    };
    append_gauge(out, "pgjobs_launcher_up", "1: the launcher runs.",
                 pg_atomic_read_u32(&shared->launcher) != 0);
    append_gauge(out, "pgjobs_worker_up",
                 "1: the background worker of this database runs; it exits when it is not needed.",
                 read(&Database::worker_pid) != 0);
    append_gauge(out, "pgjobs_waiters", "Sessions that sleep in wait or await.",
                 read(&Database::waiters));
    append_gauge(out, "pgjobs_leases", "Running jobs that the background worker knows.",
                 lease_count());
    append_gauge(out, "pgjobs_prepared_transactions",
                 "Prepared transactions that may have jobs in their hands.", pin_count());
    double usage =
        pg::as_owner([] { return pg::run(&select_usage), DatumGetFloat8(pg::datum_at(0, 1)); });
    begin_family(out, "pgjobs_notification_queue_usage_ratio", "gauge",
                 "How full the server's queue of notifications is.");
    begin_sample(out, "pgjobs_notification_queue_usage_ratio");
    appendStringInfo(out, "%.6f\n", usage);
}

// pgjobs.metrics() -> text
PGJOBS_FUNCTION(metrics) {
    acl::require_monitor("see the figures of pgjobs");
    StringInfoData out;
    initStringInfo(&out);
    begin_family(&out, "pgjobs", "info", "The library that is loaded.");
    begin_sample(&out, "pgjobs_info", {"version", PGJOBS_VERSION});
    end_sample(&out, 1);
    append_queues(fcinfo, &out, GetCurrentTimestamp());
    if (!RecoveryInProgress()) { // topics are not read there
        append_topics(&out);
        append_readers(&out, GetCurrentTimestamp());
    }
    append_server(&out);
    appendStringInfoString(&out, "# EOF\n");
    PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

} // namespace pgjobs::metrics

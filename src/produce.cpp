// Producing: enqueue, enqueue_many, enqueue_batch.
#include "inject.hpp"
#include "life.hpp"
#include "payload.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "shared.hpp"

namespace pgjobs {

using life::NewJob;
using store::Col;

enum class OnConflict { keep, replace, error };

static OnConflict parse_on_conflict(const char *text) {
    if (strcmp(text, "keep") == 0)
        return OnConflict::keep;
    if (strcmp(text, "replace") == 0)
        return OnConflict::replace;
    if (strcmp(text, "error") == 0)
        return OnConflict::error;
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("\"%s\" is not a value for \"on_conflict\"", pg::shown(text)),
            errhint("Use keep, replace or error."));
    pg_unreachable();
}

// ---- checks ----

static int16 checked_priority(int64 priority) {
    return static_cast<int16>(pg::ranged(priority, "priority", PG_INT16_MIN, PG_INT16_MAX));
}

static TimestampTz due_time(bool has_run_at, TimestampTz run_at, const Interval *delay,
                            TimestampTz now) {
    if (has_run_at && delay != nullptr)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"run_at\" and \"delay\" exclude each other"),
                errhint("Give the time or the delay, not both."));
    if (has_run_at)
        return pg::finite(run_at, "run_at");
    return delay == nullptr ? now : now + pg::microseconds(delay, "delay", 0);
}

// ---- adding one ----

static constinit pg::Statement insert_unique{
    "INSERT INTO pgjobs.job (id, due_at, enqueued_at, expires_at, queue_id, attempt, max_attempts, "
    "rev, stage, priority, waiting, payload, headers, unique_key) "
    "VALUES ($1, $2, $3, $4, $5, 0, $6, 1, $7, $8, $9, $10, $11, $12) "
    "ON CONFLICT (queue_id, unique_key) WHERE unique_key IS NOT NULL DO NOTHING",
    {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT4OID, INT2OID, INT2OID,
     INT2OID, JSONBOID, JSONBOID, TEXTOID},
    nullptr};

// False if another open job has the key. Waits for a transaction that is adding one with it: from
// REPEATABLE READ on that ends in 40001 if the other commits, so ask store::holder_of first.
static bool insert_if_free(const NewJob &job, int64 id, TimestampTz now) {
    return pg::as_owner([&]() -> bool {
        bool later = job.due_at > now;
        pg::Value headers = job.headers != 0 ? pg::value(job.headers) : pg::Value{};
        pg::Value expires = job.expires_at != never ? pg::value(job.expires_at) : pg::Value{};
        const pg::Value row[] = {pg::value(id),
                                 pg::value(job.due_at),
                                 pg::value(now),
                                 expires,
                                 pg::value(job.queue->id),
                                 pg::value(job.max_attempts),
                                 pg::value(job.stage),
                                 pg::value(job.priority),
                                 pg::value(static_cast<int16>(later ? 1 : 0)),
                                 pg::value(job.payload),
                                 headers,
                                 pg::value(job.unique_key)};
        return pg::run(&insert_unique, row) == 1;
    });
}

[[noreturn]] static void key_taken(const NewJob &job, int64 holder) {
    ereport(ERROR, errcode(ERRCODE_UNIQUE_VIOLATION),
            errmsg("an open job with this unique key exists in queue \"%s\"", job.queue->name),
            errdetail("Job " INT64_FORMAT " has the key \"%s\".", holder, job.unique_key),
            errdetail_log("Job " INT64_FORMAT " has it.", holder), // logs are for other eyes
            errhint("Use on_conflict => 'keep' or 'replace' to go on without an error."));
    pg_unreachable();
}

static bool has_key(store::Table *jobs, const NewJob &job) {
    bool null;
    Datum key = store::get(jobs, Col::unique_key, &null);
    return !null && store::get_int32(jobs, Col::queue_id) == job.queue->id &&
           strcmp(TextDatumGetCString(key), job.unique_key) == 0;
}

// Updates the waiting job, or takes the key from the running one. False: the holder has gone, or a
// new job must be added.
static bool replace_holder(int64 holder, const NewJob &job, TimestampTz now) {
    return store::with_jobs([&](store::Table *jobs) {
        if (!store::find(jobs, holder, LockWaitBlock) || !has_key(jobs, job))
            return false;
        PGJOBS_POINT("replace-locked");
        store::start_row(jobs);
        bool running = life::state_of(jobs) == core::State::running;
        if (running) {
            store::set_null(jobs, Col::unique_key);
        } else {
            int16 waiting = job.due_at > now ? 1 : 0;
            store::set(jobs, Col::payload, job.payload);
            store::set(jobs, Col::due_at, TimestampTzGetDatum(job.due_at));
            store::set(jobs, Col::priority, Int16GetDatum(job.priority));
            store::set(jobs, Col::waiting, Int16GetDatum(waiting));
            store::set(jobs, Col::rev, Int32GetDatum(store::get_int32(jobs, Col::rev) + 1));
        }
        store::update(jobs);
        return !running;
    });
}

// `id` is for a new job; 0: one is taken if it is needed. Each turn makes progress or finds that
// somebody else did.
static int64 add_unique(const NewJob &job, OnConflict on_conflict, int64 id, TimestampTz now) {
    for (;;) {
        int64 holder = store::holder_of(job.queue->id, job.unique_key);
        if (holder != 0 && on_conflict == OnConflict::error)
            key_taken(job, holder);
        if (holder != 0 && on_conflict == OnConflict::keep)
            return holder;
        if (holder != 0 && replace_holder(holder, job, now))
            return holder;
        if (id == 0)
            id = store::next_job_id();
        if (insert_if_free(job, id, now))
            return id;
        CHECK_FOR_INTERRUPTS();
    }
}

static int by_key(const void *one, const void *other) {
    const NewJob *left = *static_cast<const NewJob *const *>(one);
    const NewJob *right = *static_cast<const NewJob *const *>(other);
    int order = strcmp(left->unique_key, right->unique_key);
    return order != 0 ? order : (left > right) - (left < right);
}

// Ids are in the caller's order, and so are claims. Keys are added in an order of their own: each
// may wait for a transaction that has it, and two that go by the same order do not wait for each
// other.
static void add_all(const NewJob *list, int count, const OnConflict *on_conflict, TimestampTz now,
                    int64 *ids) {
    auto **unique = static_cast<const NewJob **>(
        palloc_extended(sizeof(NewJob *) * Max(count, 1), MCXT_ALLOC_HUGE));
    int unique_count = 0;
    store::with_jobs([&](store::Table *jobs) {
        for (int i = 0; i < count; i++) {
            if (list[i].unique_key == nullptr) {
                ids[i] = life::add(jobs, list[i], now);
            } else {
                ids[i] = store::next_job_id(); // stays unused if the key is taken
                unique[unique_count++] = &list[i];
            }
        }
    });
    qsort(unique, unique_count, sizeof(*unique), by_key);
    for (int i = 0; i < unique_count; i++) {
        auto at = unique[i] - list;
        ids[at] = add_unique(list[at], on_conflict[at], ids[at], now);
    }
}

// Queue and right to produce; keeps the queue from being dropped.
static const Queue *open_queue(const char *name, const char *verb) {
    pg::require_writable(verb);
    const Queue *queue = get_queue(name);
    require_right(queue, produce);
    life::lock_queue(queue);
    PGJOBS_POINT("enqueue-queue-locked");
    return get_queue(name);
}

// A job that can never start in time is a mistake. One whose time has passed already is not: it is
// cancelled, as it would be if it had come a moment earlier.
static void check_expiry(const NewJob &job, TimestampTz now) {
    if (job.due_at > now && job.expires_at <= job.due_at)
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"expires_at\" is before the job is due"),
                errhint("Give an expires_at behind run_at, or leave it out."));
}

static int16 first_stage(const Queue *queue, const char *stage) {
    return stage == nullptr ? 1 : stage_number(queue, stage);
}

// pgjobs.enqueue(queue, payload, run_at, delay, priority, max_attempts, unique_key, on_conflict,
// expires_at, headers, stage) -> bigint
PGJOBS_FUNCTION(enqueue) {
    char *name = pg::required_string(fcinfo, 0, "queue");
    NewJob job{};
    job.payload = checked_json(pg::required(fcinfo, 1, "payload"), "payload");
    TimestampTz now = GetCurrentTimestamp();
    job.due_at = due_time(pg::given(fcinfo, 2), PG_GETARG_TIMESTAMPTZ(2),
                          pg::given(fcinfo, 3) ? PG_GETARG_INTERVAL_P(3) : nullptr, now);
    job.priority = checked_priority(pg::required_int64(fcinfo, 4, "priority"));
    if (pg::given(fcinfo, 5))
        job.max_attempts =
            static_cast<int32>(pg::ranged(PG_GETARG_INT64(5), "max_attempts", 1, PG_INT32_MAX));
    if (pg::given(fcinfo, 6))
        job.unique_key = checked_key(PG_GETARG_DATUM(6), "unique_key");
    OnConflict on_conflict = parse_on_conflict(pg::required_string(fcinfo, 7, "on_conflict"));
    job.expires_at =
        pg::given(fcinfo, 8) ? pg::finite(PG_GETARG_TIMESTAMPTZ(8), "expires_at") : never;
    if (pg::given(fcinfo, 9))
        job.headers = checked_headers(PG_GETARG_DATUM(9));
    char *stage = pg::optional_string(fcinfo, 10);
    check_expiry(job, now);

    job.queue = open_queue(name, "pgjobs.enqueue()");
    job.stage = first_stage(job.queue, stage);
    if (job.max_attempts == 0)
        job.max_attempts = job.queue->max_attempts;
    int64 id =
        job.unique_key != nullptr
            ? add_unique(job, on_conflict, 0, now)
            : store::with_jobs([&](store::Table *jobs) { return life::add(jobs, job, now); });
    PG_RETURN_INT64(id);
}

// pgjobs.enqueue_many(queue, payloads[], run_at, delay, priority, max_attempts, unique_keys[],
// on_conflict, headers[], stage) -> bigint[]
PGJOBS_FUNCTION(enqueue_many) {
    char *name = pg::required_string(fcinfo, 0, "queue");
    pg::Elements payloads = pg::required_elements(fcinfo, 1, "payloads", JSONBOID);
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz due_at = due_time(pg::given(fcinfo, 2), PG_GETARG_TIMESTAMPTZ(2),
                                  pg::given(fcinfo, 3) ? PG_GETARG_INTERVAL_P(3) : nullptr, now);
    int16 priority = checked_priority(pg::required_int64(fcinfo, 4, "priority"));
    int64 max_attempts = 0;
    if (pg::given(fcinfo, 5))
        max_attempts = pg::ranged(PG_GETARG_INT64(5), "max_attempts", 1, PG_INT32_MAX);
    pg::Elements keys = pg::elements(fcinfo, 6, "unique_keys", TEXTOID, pg::Nulls::allowed);
    pg::check_lengths(payloads, "payloads", keys, "unique_keys");
    OnConflict on_conflict = parse_on_conflict(pg::required_string(fcinfo, 7, "on_conflict"));
    pg::Elements headers = pg::elements(fcinfo, 8, "headers", JSONBOID, pg::Nulls::allowed);
    pg::check_lengths(payloads, "payloads", headers, "headers");
    char *stage = pg::optional_string(fcinfo, 9);

    const Queue *queue = open_queue(name, "pgjobs.enqueue_many()");
    int16 first = first_stage(queue, stage);
    int count = payloads.count;
    auto *list = static_cast<NewJob *>(
        palloc_extended(sizeof(NewJob) * Max(count, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    auto *modes = static_cast<OnConflict *>(
        palloc_extended(sizeof(OnConflict) * Max(count, 1), MCXT_ALLOC_HUGE));
    for (int i = 0; i < count; i++) {
        NewJob *job = &list[i];
        job->queue = queue;
        job->stage = first;
        job->priority = priority;
        job->max_attempts =
            max_attempts > 0 ? static_cast<int32>(max_attempts) : queue->max_attempts;
        job->due_at = due_at;
        job->expires_at = never;
        job->payload = checked_json(payloads.data[i], "payload");
        if (headers.data != nullptr && !headers.nulls[i])
            job->headers = checked_headers(headers.data[i]);
        if (keys.data != nullptr && !keys.nulls[i])
            job->unique_key = checked_key(keys.data[i], "unique_key");
        modes[i] = on_conflict;
    }
    auto *ids =
        static_cast<int64 *>(palloc_extended(sizeof(int64) * Max(count, 1), MCXT_ALLOC_HUGE));
    add_all(list, count, modes, now, ids);
    PG_RETURN_DATUM(pg::int64_array(ids, count));
}

// ---- enqueue_batch ----

// The input functions of the types know nothing of jobs: what they refuse is a bad value like
// others.
static void hint_at_types(void *) {
    if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_DATA_EXCEPTION)
        errcode(ERRCODE_INVALID_PARAMETER_VALUE);
    errhint("Give times, intervals and names as strings, numbers as whole numbers.");
}

// A member of a job's object as text, cast by the input function of its type.
static Datum cast_member(const JsonbValue *value, Oid type) {
    char *text;
    if (value->type == jbvString)
        text = pnstrdup(value->val.string.val, value->val.string.len);
    else if (value->type == jbvNumeric)
        text =
            DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
    else
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("a member of a job has the wrong JSON type"),
                errhint("Give times, intervals and names as strings, numbers as numbers."));
    Oid input;
    Oid parameter;
    getTypeInputInfo(type, &input, &parameter);
    ErrorContextCallback callback = {error_context_stack, hint_at_types, nullptr};
    error_context_stack = &callback;
    Datum datum = OidInputFunctionCall(input, text, parameter, -1);
    error_context_stack = callback.previous;
    return datum;
}

struct BatchJob {
    NewJob job;
    OnConflict on_conflict;
    bool has_run_at;
    TimestampTz run_at;
    Interval *delay;
};

static void check_member(const char *name) {
    static const char *const names[] = {"run_at",     "delay",       "priority", "max_attempts",
                                        "unique_key", "on_conflict", "headers",  "stage"};
    for (const char *known : names)
        if (strcmp(name, known) == 0)
            return;
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("a job has an unknown member \"%s\"", pg::shown(name)),
            errhint("Members are payload, run_at, delay, priority, max_attempts, unique_key, "
                    "on_conflict, headers and stage."));
}

static void read_member(BatchJob *batch, const char *name, JsonbValue *value, const Queue *queue) {
    NewJob *job = &batch->job;
    if (strcmp(name, "payload") == 0) {
        job->payload = checked_json(JsonbPGetDatum(JsonbValueToJsonb(value)), "payload");
        return;
    }
    check_member(name);
    if (value->type == jbvNull)
        return; // as if it were not there
    if (strcmp(name, "headers") == 0) {
        job->headers = checked_headers(JsonbPGetDatum(JsonbValueToJsonb(value)));
    } else if (strcmp(name, "run_at") == 0) {
        batch->has_run_at = true;
        batch->run_at = DatumGetTimestampTz(cast_member(value, TIMESTAMPTZOID));
    } else if (strcmp(name, "delay") == 0) {
        batch->delay = DatumGetIntervalP(cast_member(value, INTERVALOID));
    } else if (strcmp(name, "priority") == 0) {
        job->priority = checked_priority(DatumGetInt64(cast_member(value, INT8OID)));
    } else if (strcmp(name, "max_attempts") == 0) {
        job->max_attempts = static_cast<int32>(pg::ranged(
            DatumGetInt64(cast_member(value, INT8OID)), "max_attempts", 1, PG_INT32_MAX));
    } else if (strcmp(name, "unique_key") == 0) {
        job->unique_key = checked_key(cast_member(value, TEXTOID), "unique_key");
    } else if (strcmp(name, "on_conflict") == 0) {
        batch->on_conflict = parse_on_conflict(TextDatumGetCString(cast_member(value, TEXTOID)));
    } else {
        job->stage = stage_number(queue, TextDatumGetCString(cast_member(value, TEXTOID)));
    }
}

static Datum empty_object() { return DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")); }

// Reads one object; the iterator stands behind its WJB_BEGIN_OBJECT.
static BatchJob read_job(JsonbIterator **iterator, const Queue *queue, TimestampTz now) {
    BatchJob batch{};
    batch.job.queue = queue;
    batch.job.stage = 1;
    batch.job.max_attempts = queue->max_attempts;
    batch.job.expires_at = never;
    JsonbValue value;
    while (JsonbIteratorNext(iterator, &value, true) == WJB_KEY) {
        char *name = pnstrdup(value.val.string.val, value.val.string.len);
        JsonbIteratorNext(iterator, &value, true);
        read_member(&batch, name, &value, queue);
    }
    if (batch.job.payload == 0)
        batch.job.payload = empty_object();
    batch.job.due_at = due_time(batch.has_run_at, batch.run_at, batch.delay, now);
    return batch;
}

static void tell_element(void *number) {
    errcontext("element %d of \"jobs\"", *static_cast<int *>(number));
}

// pgjobs.enqueue_batch(queue, jobs jsonb) -> bigint[]
PGJOBS_FUNCTION(enqueue_batch) {
    char *name = pg::required_string(fcinfo, 0, "queue");
    Jsonb *array = DatumGetJsonbP(pg::required(fcinfo, 1, "jobs"));
    if (!JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array))
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("\"jobs\" must be a JSON array"),
                errhint("Give an array of objects such as [{\"payload\": {}}]."));
    const Queue *queue = open_queue(name, "pgjobs.enqueue_batch()");
    TimestampTz now = GetCurrentTimestamp();
    auto count = static_cast<int>(JB_ROOT_COUNT(array));
    auto *list = static_cast<NewJob *>(palloc0(sizeof(NewJob) * Max(count, 1)));
    auto *modes = static_cast<OnConflict *>(palloc0(sizeof(OnConflict) * Max(count, 1)));
    auto *ids = static_cast<int64 *>(palloc0(sizeof(int64) * Max(count, 1)));
    int number = 0;
    ErrorContextCallback where = {error_context_stack, tell_element, &number};
    error_context_stack = &where;
    for (int i = 0; i < count; i++) {
        number = i + 1;
        JsonbValue *element = getIthJsonbValueFromContainer(&array->root, i);
        if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("element %d of \"jobs\" is not a JSON object", i + 1),
                    errhint("Give an array of objects such as [{\"payload\": {}}]."));
        JsonbIterator *iterator = JsonbIteratorInit(element->val.binary.data);
        JsonbValue begin;
        JsonbIteratorNext(&iterator, &begin, false);
        BatchJob batch = read_job(&iterator, queue, now);
        list[i] = batch.job;
        modes[i] = batch.on_conflict;
    }
    error_context_stack = where.previous;
    add_all(list, count, modes, now, ids);
    PG_RETURN_DATUM(pg::int64_array(ids, count));
}

} // namespace pgjobs

#include "life.hpp"

#include "shared.hpp"

namespace pgjobs::life {

using core::State;
using core::Waiting;
using store::Col;

// Random numbers come many at a time: a call costs more than they do.
static uint64 next_random() {
    static uint64 pool[64];
    static size_t left;
    if (left == 0) {
        if (!pg_strong_random(pool, sizeof(pool)))
            ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not get random bytes"));
        left = lengthof(pool);
    }
    return pool[--left];
}

int64 random_token() {
    uint64 random;
    do
        random = next_random() & ((UINT64CONST(1) << 53) - 1);
    while (random == 0);
    return static_cast<int64>(random);
}

State state_of(store::Table *jobs) {
    return core::open_state(static_cast<Waiting>(store::get_int16(jobs, Col::waiting)),
                            store::has(jobs, Col::token));
}

static Datum waiting(Waiting value) { return Int16GetDatum(static_cast<int16>(value)); }

// Begins a change of `found` that counts as a new state.
static void start_change(store::Table *jobs) {
    store::start_row(jobs);
    store::set(jobs, Col::rev, Int32GetDatum(store::get_int32(jobs, Col::rev) + 1));
}

static void drop_lease(store::Table *jobs) {
    store::set_null(jobs, Col::token);
    store::set_null(jobs, Col::lease_expires_at);
    store::set_null(jobs, Col::hold_epoch);
    store::set_null(jobs, Col::hold_session);
    store::set_null(jobs, Col::fraction);
    store::set_null(jobs, Col::note);
}

// ---- adding ----

void lock_queue(const Queue *queue) {
    LockDatabaseObject(relations()->queue, static_cast<Oid>(queue->id), 0, RowExclusiveLock);
    // The lock has let invalidations in: a queue dropped meanwhile is gone now.
    if (find_queue(queue->id) == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("queue \"%s\" does not exist", queue->name),
                errdetail("It has just been dropped."),
                errhint("Create it with pgjobs.create_queue()."));
}

int64 add(store::Table *jobs, const NewJob &job, TimestampTz now) {
    int64 id = store::next_job_id();
    Waiting state = job.due_at > now ? Waiting::scheduled : Waiting::due;
    store::start_row(jobs);
    store::set(jobs, Col::id, Int64GetDatum(id));
    store::set(jobs, Col::due_at, TimestampTzGetDatum(job.due_at));
    store::set(jobs, Col::enqueued_at, TimestampTzGetDatum(now));
    store::set(jobs, Col::queue_id, Int32GetDatum(job.queue->id));
    store::set(jobs, Col::attempt, Int32GetDatum(0));
    store::set(jobs, Col::max_attempts, Int32GetDatum(job.max_attempts));
    store::set(jobs, Col::rev, Int32GetDatum(1));
    store::set(jobs, Col::stage, Int16GetDatum(job.stage));
    store::set(jobs, Col::priority, Int16GetDatum(job.priority));
    store::set(jobs, Col::waiting, waiting(state));
    store::set(jobs, Col::payload, job.payload);
    if (job.expires_at != never)
        store::set(jobs, Col::expires_at, TimestampTzGetDatum(job.expires_at));
    if (job.headers != 0)
        store::set(jobs, Col::headers, job.headers);
    if (job.unique_key != nullptr)
        store::set(jobs, Col::unique_key, CStringGetTextDatum(job.unique_key));
    store::insert(jobs);
    return id;
}

// ---- attempts ----

static void push_key(JsonbParseState **state, const char *key) {
    JsonbValue value{};
    value.type = jbvString;
    value.val.string.val = const_cast<char *>(key);
    value.val.string.len = static_cast<int>(strlen(key));
    pushJsonbValue(state, WJB_KEY, &value);
}

static void push_string(JsonbParseState **state, const char *key, const char *text) {
    push_key(state, key);
    JsonbValue value{};
    value.type = text == nullptr ? jbvNull : jbvString;
    value.val.string.val = const_cast<char *>(text);
    value.val.string.len = text == nullptr ? 0 : static_cast<int>(strlen(text));
    pushJsonbValue(state, WJB_VALUE, &value);
}

static void push_number(JsonbParseState **state, const char *key, int64 number) {
    push_key(state, key);
    JsonbValue value{};
    value.type = jbvNumeric;
    value.val.numeric = int64_to_numeric(number);
    pushJsonbValue(state, WJB_VALUE, &value);
}

static void push_time(JsonbParseState **state, const char *key, TimestampTz at) {
    char text[MAXDATELEN + 1];
    int zone = 0; // UTC, whatever the session's TimeZone is
    JsonEncodeDateTime(text, TimestampTzGetDatum(at), TIMESTAMPTZOID, &zone);
    push_string(state, key, pstrdup(text));
}

static const char *text_of(store::Table *jobs, Col column) {
    bool null;
    Datum datum = store::get(jobs, column, &null);
    return null ? nullptr : TextDatumGetCString(datum);
}

static void push_attempt(JsonbParseState **state, store::Table *jobs, const Queue *queue,
                         const char *outcome, const char *error, TimestampTz now) {
    pushJsonbValue(state, WJB_BEGIN_OBJECT, nullptr);
    push_string(state, "stage", stage_name(queue, store::get_int16(jobs, Col::stage)));
    push_number(state, "attempt", store::get_int32(jobs, Col::attempt));
    push_string(state, "worker", text_of(jobs, Col::worker));
    push_time(state, "started_at", store::get_int64(jobs, Col::started_at, now));
    push_time(state, "finished_at", now);
    push_string(state, "outcome", outcome);
    push_string(state, "error", error);
    pushJsonbValue(state, WJB_END_OBJECT, nullptr);
}

// The attempts of `found` with the present one, as it ended, behind them; the oldest go when there
// are too many.
static Datum with_attempt(store::Table *jobs, const Queue *queue, const char *outcome,
                          const char *error, TimestampTz now) {
    JsonbParseState *state = nullptr;
    pushJsonbValue(&state, WJB_BEGIN_ARRAY, nullptr);
    bool null;
    Datum before = store::get(jobs, Col::attempts, &null);
    if (!null) {
        Jsonb *array = DatumGetJsonbP(before);
        auto count = static_cast<int>(JB_ROOT_COUNT(array));
        for (int i = Max(0, count - most_attempts_kept + 1); i < count; i++) {
            JsonbValue *element = getIthJsonbValueFromContainer(&array->root, i);
            pushJsonbValue(&state, WJB_ELEM, element);
        }
    }
    push_attempt(&state, jobs, queue, outcome, error, now);
    JsonbValue *all = pushJsonbValue(&state, WJB_END_ARRAY, nullptr);
    return JsonbPGetDatum(JsonbValueToJsonb(all));
}

// ---- steps ----

bool start(store::Table *jobs, Claim *claim, TimestampTz now) {
    claim->attempt = store::get_int32(jobs, Col::attempt) + 1;
    start_change(jobs);
    store::set(jobs, Col::token, Int64GetDatum(claim->token));
    store::set(jobs, Col::attempt, Int32GetDatum(claim->attempt));
    store::set(jobs, Col::started_at, TimestampTzGetDatum(now));
    store::set(jobs, Col::worker, claim->worker);
    if (claim->lease_expires_at != never)
        store::set(jobs, Col::lease_expires_at, TimestampTzGetDatum(claim->lease_expires_at));
    if (claim->hold_session != 0) {
        store::set(jobs, Col::hold_epoch, Int64GetDatum(claim->hold_epoch));
        store::set(jobs, Col::hold_session, Int64GetDatum(claim->hold_session));
    }
    if (jobs->locked)
        store::update(jobs);
    else if (!store::update_if_free(jobs))
        return false;
    else
        store::remember(jobs);
    return true;
}

void give_back(store::Table *jobs) {
    start_change(jobs);
    drop_lease(jobs);
    store::set(jobs, Col::attempt, Int32GetDatum(store::get_int32(jobs, Col::attempt) - 1));
    store::update(jobs);
}

static void set_due(store::Table *jobs, TimestampTz due_at, TimestampTz now) {
    store::set(jobs, Col::due_at, TimestampTzGetDatum(due_at));
    store::set(jobs, Col::waiting, waiting(due_at > now ? Waiting::scheduled : Waiting::due));
}

void postpone(store::Table *jobs, TimestampTz due_at, TimestampTz now) {
    start_change(jobs);
    drop_lease(jobs);
    store::set(jobs, Col::attempt, Int32GetDatum(store::get_int32(jobs, Col::attempt) - 1));
    set_due(jobs, due_at, now);
    store::update(jobs);
}

// The dead letter names where it comes from in its headers.
static Datum dead_letter_headers(store::Table *jobs, const Queue *queue, const char *error) {
    JsonbParseState *state = nullptr;
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    push_key(&state, "dead_letter");
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    push_string(&state, "queue", queue->name);
    push_number(&state, "job", store::get_int64(jobs, Col::id, 0));
    push_string(&state, "stage", stage_name(queue, store::get_int16(jobs, Col::stage)));
    push_number(&state, "attempt", store::get_int32(jobs, Col::attempt));
    push_string(&state, "error", error);
    pushJsonbValue(&state, WJB_END_OBJECT, nullptr);
    JsonbValue *object = pushJsonbValue(&state, WJB_END_OBJECT, nullptr);
    Datum origin = JsonbPGetDatum(JsonbValueToJsonb(object));
    bool null;
    Datum headers = store::get(jobs, Col::headers, &null);
    return null ? origin : DirectFunctionCall2(jsonb_concat, headers, origin);
}

static void add_dead_letter(store::Table *jobs, const Queue *queue, const char *error,
                            TimestampTz now) {
    const Queue *target = queue->dead_letter == 0 ? nullptr : find_queue(queue->dead_letter);
    if (target == nullptr)
        return;
    lock_queue(target);
    bool null;
    NewJob letter{};
    letter.queue = target;
    letter.stage = 1;
    letter.priority = store::get_int16(jobs, Col::priority);
    letter.max_attempts = target->max_attempts;
    letter.due_at = now;
    letter.expires_at = never;
    letter.payload = PointerGetDatum(PG_DETOAST_DATUM_COPY(store::get(jobs, Col::payload, &null)));
    letter.headers = dead_letter_headers(jobs, queue, error);
    add(jobs, letter, now);
}

static State end_attempt(store::Table *jobs, history::Archive *archive, const Queue *queue,
                         const Failure &failure, TimestampTz now) {
    Datum attempts = with_attempt(jobs, queue, failure.outcome, failure.error, now);
    bool left = store::get_int32(jobs, Col::attempt) < store::get_int32(jobs, Col::max_attempts);
    if (!left || !failure.retry) {
        add_dead_letter(jobs, queue, failure.error, now);
        history::Ending ending{};
        ending.state = State::dead;
        ending.at = now;
        ending.error = failure.error;
        ending.attempts = attempts;
        history::finish(archive, jobs, queue, ending);
        return State::dead;
    }
    start_change(jobs);
    drop_lease(jobs);
    store::set(jobs, Col::attempts, attempts);
    if (failure.error != nullptr)
        store::set(jobs, Col::error, CStringGetTextDatum(failure.error));
    else
        store::set_null(jobs, Col::error);
    if (failure.due_at != 0)
        set_due(jobs, failure.due_at, now);
    store::update(jobs);
    return State::scheduled;
}

State fail(store::Table *jobs, history::Archive *archive, const Queue *queue,
           const Failure &failure, TimestampTz now) {
    changes::error = failure.error != nullptr ? failure.error : failure.outcome;
    State state = end_attempt(jobs, archive, queue, failure, now);
    changes::error = nullptr;
    return state;
}

static bool finish(store::Table *jobs, history::Archive *archive, const Queue *queue,
                   const Completion &completion, TimestampTz now) {
    history::Ending ending{};
    ending.state = State::completed;
    ending.at = now;
    ending.has_result = true;
    ending.result_null = completion.result_null;
    ending.result = completion.result;
    ending.done_token = store::get_int64(jobs, Col::token, 0);
    return history::finish(archive, jobs, queue, ending);
}

static bool hand_on(store::Table *jobs, const Queue *queue, const Completion &completion,
                    TimestampTz now) {
    int64 token = store::get_int64(jobs, Col::token, 0);
    Datum attempts = with_attempt(jobs, queue, "completed", nullptr, now);
    start_change(jobs);
    drop_lease(jobs);
    store::set(jobs, Col::attempts, attempts);
    store::set(jobs, Col::stage, Int16GetDatum(completion.stage));
    store::set(jobs, Col::attempt, Int32GetDatum(0));
    store::set(jobs, Col::done_token, Int64GetDatum(token));
    store::set_null(jobs, Col::error);
    if (completion.result_null)
        store::set_null(jobs, Col::result);
    else
        store::set(jobs, Col::result, completion.result);
    set_due(jobs, now, now);
    return store::update_if_current(jobs);
}

bool complete(store::Table *jobs, history::Archive *archive, const Queue *queue,
              Completion *completion, TimestampTz now) {
    completion->state = completion->stage == 0 ? State::completed : State::ready;
    if (completion->stage == 0)
        return finish(jobs, archive, queue, *completion, now);
    return hand_on(jobs, queue, *completion, now);
}

void cancel(store::Table *jobs, history::Archive *archive, const Queue *queue, const char *error,
            TimestampTz now) {
    history::Ending ending{};
    ending.state = State::cancelled;
    ending.at = now;
    ending.keeps_error = error == nullptr;
    ending.error = error;
    if (store::has(jobs, Col::token))
        ending.attempts = with_attempt(jobs, queue, "cancelled", error, now);
    history::finish(archive, jobs, queue, ending);
}

void promote(store::Table *jobs) {
    start_change(jobs);
    store::set(jobs, Col::waiting, waiting(Waiting::due));
    store::update(jobs);
}

} // namespace pgjobs::life

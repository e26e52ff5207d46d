#include "frontier.hpp"

#include "settings.hpp"

namespace pgjobs::frontier {

using core::Key;
using core::Place;

// ---- keys of a transaction ----

void note(Keys *keys, const Key &key) {
    if (keys->count > 0 && keys->kept > 0 && core::same(keys->some[keys->kept - 1], key))
        return; // once more
    keys->least = keys->count == 0 ? key : core::lesser(keys->least, key);
    keys->count++;
    if (keys->kept < core::most_strays)
        keys->some[keys->kept++] = key;
}

void join(Keys *keys, const Keys &others) {
    if (others.count == 0)
        return;
    keys->least = keys->count == 0 ? others.least : core::lesser(keys->least, others.least);
    keys->count += others.count;
    for (int i = 0; i < others.kept && keys->kept < core::most_strays; i++)
        keys->some[keys->kept++] = others.some[i];
}

// ---- places ----

constexpr int longest_probe = 32;

static StageHints *probe(Oid database, int32 queue, int16 stage, int i) {
    uint32 hash = database * 2654435761u ^ static_cast<uint32>(queue) * 2246822519u ^
                  static_cast<uint32>(stage) * 3266489917u;
    auto places = static_cast<uint32>(settings::max_queues);
    return &stage_hints[(hash % places + static_cast<uint32>(i)) % places];
}

static bool is_for(const StageHints *place, Oid database, Oid jobs, int32 queue, int16 stage) {
    return place->database == database && place->jobs == jobs && place->queue == queue &&
           place->stage == stage;
}

StageHints *lock_place(Oid database, Oid jobs, int32 queue, int16 stage) {
    for (int i = 0; i < longest_probe; i++) {
        StageHints *place = probe(database, queue, stage, i);
        SpinLockAcquire(&place->lock);
        if (is_for(place, database, jobs, queue, stage))
            return place;
        bool used = place->used;
        SpinLockRelease(&place->lock);
        if (!used)
            break;
    }
    return nullptr;
}

static void forget_figures(StageHints *place) {
    place->counted = false;
    place->counting = 0;
    place->depth = place->since = {};
}

// Takes a free place for the stage, under the stages lock, and locks it; nullptr without.
static StageHints *take_place(Oid database, Oid jobs, int32 queue, int16 stage) {
    for (int i = 0; i < longest_probe; i++) {
        StageHints *place = probe(database, queue, stage, i);
        SpinLockAcquire(&place->lock);
        if (place->database == InvalidOid) {
            place->database = database;
            place->jobs = jobs;
            place->queue = queue;
            place->stage = stage;
            place->used = true;
            place->frontier.forget_all();
            forget_figures(place);
            return place;
        }
        SpinLockRelease(&place->lock);
    }
    return nullptr;
}

StageHints *find_or_take_place(Oid jobs, int32 queue, int16 stage) {
    StageHints *place = lock_place(MyDatabaseId, jobs, queue, stage);
    if (place != nullptr) {
        SpinLockRelease(&place->lock);
        return place;
    }
    LWLockAcquire(shared->stages_lock, LW_EXCLUSIVE);
    place = lock_place(MyDatabaseId, jobs, queue, stage); // somebody was faster
    if (place == nullptr)
        place = take_place(MyDatabaseId, jobs, queue, stage);
    if (place != nullptr)
        SpinLockRelease(&place->lock);
    LWLockRelease(shared->stages_lock);
    return place;
}

static int32 number_of(const StageHints *place) {
    return static_cast<int32>(place - stage_hints) + 1;
}

// ---- scans; under the lock of the place ----

static StageScan *my_scan() { return &stage_scans[pg::my_procno()]; }

static void interrupt_scans(StageHints *place, const Place &at) {
    if (place->scans == 0)
        return;
    for (int i = 0; i < shared->procs; i++)
        if (stage_scans[i].place == number_of(place) && stage_scans[i].scan.covers(at.priority))
            core::interrupt(&stage_scans[i].scan, at);
}

// Nothing is known from this priority on: whoever scans behind it must not say otherwise.
static void interrupt_scans_from(StageHints *place, int32 priority) {
    if (place->scans == 0)
        return;
    for (int i = 0; i < shared->procs; i++)
        if (stage_scans[i].place == number_of(place) && stage_scans[i].scan.to >= priority)
            core::interrupt(&stage_scans[i].scan, {priority, core::lowest_key});
}

static void tell(StageHints *place, const Place &at, core::Extent extent) {
    int32 forgotten = core::announce(&place->frontier, at, extent);
    if (forgotten < core::end_of_priorities)
        interrupt_scans_from(place, forgotten);
}

void announce(Oid database, Oid jobs, int32 queue, int16 stage, int32 priority, const Keys &keys,
              bool hidden) {
    if (keys.count == 0)
        return;
    StageHints *place = lock_place(database, jobs, queue, stage);
    if (place == nullptr)
        return;
    if (hidden || keys.count > keys.kept)
        tell(place, {priority, keys.least}, core::Extent::from_here_on);
    else
        for (int i = 0; i < keys.kept; i++)
            tell(place, {priority, keys.some[i]}, core::Extent::one_job);
    interrupt_scans(place, {priority, keys.least});
    SpinLockRelease(&place->lock);
}

// A scan that is under way there raises nothing, whoever takes the place next. `queue` 0: all.
static void forget(Oid database, Oid jobs, int32 queue, bool free) {
    for (int i = 0; i < settings::max_queues; i++) {
        StageHints *place = &stage_hints[i];
        SpinLockAcquire(&place->lock);
        if (place->database == database &&
            (queue == 0 || (place->jobs == jobs && place->queue == queue))) {
            place->frontier.forget_all();
            forget_figures(place);
            interrupt_scans_from(place, core::lowest_priority);
            if (free)
                place->database = InvalidOid;
        }
        SpinLockRelease(&place->lock);
    }
}

void forget_all(Oid database) { forget(database, InvalidOid, 0, false); }

void drop_all(Oid database) { forget(database, InvalidOid, 0, true); }

void drop_queue(Oid database, Oid jobs, int32 queue) { forget(database, jobs, queue, true); }

void leave() {
    StageScan *scan = my_scan();
    if (scan->place == 0)
        return;
    StageHints *place = &stage_hints[scan->place - 1];
    SpinLockAcquire(&place->lock);
    scan->place = 0;
    place->scans--;
    SpinLockRelease(&place->lock);
}

// ---- who announces ----

static bool announcing;

void will_announce() {
    if (announcing)
        return;
    TransactionId xid = GetTopTransactionId();
    pg_atomic_write_u32(&announcers[pg::my_procno()], xid);
    pg_memory_barrier(); // to be seen before the rows that it stands for
    announcing = true;
}

void announced() {
    if (!announcing)
        return;
    announcing = false;
    pg_atomic_write_u32(&announcers[pg::my_procno()], InvalidTransactionId);
}

bool is_announcing() { return announcing; }

bool is_announced_by(TransactionId top) {
    for (int i = 0; i < shared->procs; i++)
        if (pg_atomic_read_u32(&announcers[i]) == top)
            return true;
    return false;
}

// ---- claims ----

Walk walk(Oid jobs, int32 queue, int16 stage) {
    return {find_or_take_place(jobs, queue, stage), queue, stage, core::lowest_priority - 1, false};
}

static const core::Run *next_run(const core::Frontier &frontier, int32 last, int32 own) {
    for (int i = 0; i < frontier.run_count; i++) {
        const core::Run *run = &frontier.runs[i];
        if (run->priority > last && (!run->idle() || run->priority == own))
            return run;
    }
    return nullptr;
}

static void add_stray(Stretch *stretch, const core::Stray &stray) {
    int at = stretch->stray_count++;
    for (; at > 0 && core::before(stray.key, stretch->strays[at - 1].key); at--)
        stretch->strays[at] = stretch->strays[at - 1];
    stretch->strays[at] = stray;
}

// Begins the run at the key, if that is before its bound. Strays behind it are found on the way.
static void begin_at(Stretch *stretch, const Key &key) {
    stretch->first = core::lesser(stretch->first, key);
    while (stretch->stray_count > 0 &&
           !core::before(stretch->strays[stretch->stray_count - 1].key, stretch->first))
        stretch->stray_count--;
}

// What comes behind `last`, from what the frontier knows and the transaction's own jobs.
static bool choose(const core::Frontier &frontier, int32 last, const Place &own, Stretch *stretch) {
    const core::Run *run = next_run(frontier, last, own.priority);
    int32 priority = run != nullptr ? Min(run->priority, own.priority) : own.priority;
    *stretch = {};
    stretch->scan.low = core::last_place;
    if (priority < frontier.unknown_from) {
        stretch->known = true;
        stretch->scan.from = stretch->scan.to = priority;
        stretch->first = core::highest_key;
        if (run != nullptr && run->priority == priority) {
            stretch->first = run->first;
            for (int i = 0; i < run->stray_count; i++)
                add_stray(stretch, run->strays[i]);
        }
        if (own.priority == priority)
            begin_at(stretch, own.key);
        return true;
    }
    stretch->scan.from = Max(last + 1, frontier.unknown_from);
    stretch->scan.to = core::end_of_priorities - 1;
    stretch->first = core::lowest_key;
    return stretch->scan.from <= stretch->scan.to;
}

bool next(Walk *walk, const Place &own, bool scanning, Stretch *stretch) {
    StageHints *place = walk->place;
    bool found;
    if (place == nullptr) {
        core::Frontier nothing;
        nothing.forget_all();
        found = choose(nothing, walk->last, own, stretch);
    } else {
        SpinLockAcquire(&place->lock);
        bool good = is_for(place, MyDatabaseId, place->jobs, walk->queue, walk->stage);
        found = good && choose(place->frontier, walk->last, own, stretch);
        if (found && scanning) {
            StageScan *scan = my_scan();
            scan->scan = stretch->scan;
            scan->place = number_of(place);
            place->scans++;
            walk->registered = true;
        }
        SpinLockRelease(&place->lock);
    }
    if (found)
        walk->last = stretch->scan.to;
    return found;
}

void drop_stray(const Walk &walk, const Stretch &stretch, const core::Stray &stray) {
    if (walk.place == nullptr)
        return;
    SpinLockAcquire(&walk.place->lock);
    core::drop_stray(&walk.place->frontier, stretch.scan.from, stray);
    SpinLockRelease(&walk.place->lock);
}

// No bound goes beyond what a prepared transaction has touched.
static Place pinned(const Walk &walk, Place reached) {
    Database *database = this_database();
    if (database == nullptr || pg_atomic_read_u32(&database->prepared_lost) != 0)
        return {core::lowest_priority, core::lowest_key};
    if (pg_atomic_read_u32(&shared->pins_used) == 0)
        return reached;
    LWLockAcquire(shared->databases_lock, LW_SHARED);
    for (int i = 0; i < shared->pins; i++) {
        const Pin *pin = &pins[i];
        if (!TransactionIdIsValid(pin->xid) || pin->database != MyDatabaseId)
            continue;
        if (pin->run_count > most_pinned_runs)
            reached = {core::lowest_priority, core::lowest_key};
        for (int r = 0; r < Min(pin->run_count, most_pinned_runs); r++)
            if (pin->runs[r].queue == walk.queue && pin->runs[r].stage == walk.stage)
                reached = core::lesser(reached, pin->runs[r].place);
    }
    LWLockRelease(shared->databases_lock);
    return reached;
}

void done(Walk *walk, const Stretch &stretch, const Place &reached) {
    if (!walk->registered)
        return;
    walk->registered = false;
    StageHints *place = walk->place;
    Place bound = max_prepared_xacts > 0 ? pinned(*walk, reached) : reached;
    SpinLockAcquire(&place->lock);
    StageScan *scan = my_scan();
    if (scan->place == number_of(place)) { // nothing has interrupted it for good
        if (!stretch.known)
            core::explore(&place->frontier, scan->scan, bound);
        else if (bound.priority >= stretch.scan.from)
            core::raise(&place->frontier, scan->scan,
                        bound.priority > stretch.scan.from ? core::highest_key : bound.key);
        scan->place = 0;
        place->scans--;
    }
    SpinLockRelease(&place->lock);
}

Key start_of(Oid jobs, int32 queue, int16 stage, int32 priority) {
    StageHints *place = lock_place(MyDatabaseId, jobs, queue, stage);
    if (place == nullptr)
        return core::lowest_key;
    const core::Run *run = place->frontier.find(priority);
    Key first = priority >= place->frontier.unknown_from ? core::lowest_key
                : run == nullptr                         ? core::highest_key
                                                         : run->first;
    SpinLockRelease(&place->lock);
    return first;
}

bool covers(Oid jobs, int32 queue, int16 stage, const Place &at) {
    StageHints *place = lock_place(MyDatabaseId, jobs, queue, stage);
    if (place == nullptr)
        return true;
    core::Frontier *frontier = &place->frontier;
    bool covered = at.priority >= frontier->unknown_from;
    core::Run *run = covered ? nullptr : frontier->find(at.priority);
    if (run != nullptr) {
        covered = !core::before(at.key, run->first);
        for (int i = 0; i < run->stray_count; i++)
            covered |= core::same(run->strays[i].key, at.key);
    }
    SpinLockRelease(&place->lock);
    return covered;
}

} // namespace pgjobs::frontier

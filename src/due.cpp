// Looking at the jobs of a stage in the order of claims, through the index of due jobs.
#include "catalog.hpp"
#include "shared.hpp"
#include "store.hpp"

namespace pgjobs::store {

// ---- scans ----

static Relation open_due_index(Relation relation) {
    return direct::open_job_index(relation, direct::By::due, "due jobs");
}

// The keys of a scan; `row` belongs to the last one.
struct Keys {
    ScanKeyData keys[5];
    int count;
    ScanKeyData row[2];
};

static void add_key(Keys *keys, AttrNumber column, StrategyNumber strategy, RegProcedure compare,
                    Datum value) {
    ScanKeyInit(&keys->keys[keys->count++], column, strategy, compare, value);
}

// (due_at, id) >= first, as one comparison of rows: the scan starts there, however many jobs are
// due at the same time.
static void add_start(Keys *keys, const core::Key &first) {
    ScanKeyEntryInitialize(&keys->row[0], SK_ROW_MEMBER, 4, BTGreaterEqualStrategyNumber,
                           InvalidOid, InvalidOid, F_TIMESTAMPTZ_CMP,
                           TimestampTzGetDatum(first.due_at));
    ScanKeyEntryInitialize(&keys->row[1], SK_ROW_MEMBER | SK_ROW_END, 5,
                           BTGreaterEqualStrategyNumber, InvalidOid, InvalidOid, F_BTINT8CMP,
                           Int64GetDatum(first.id));
    ScanKeyData *header = &keys->keys[keys->count++];
    memset(header, 0, sizeof(*header));
    header->sk_flags = SK_ROW_HEADER;
    header->sk_attno = 4;
    header->sk_strategy = BTGreaterEqualStrategyNumber;
    header->sk_argument = PointerGetDatum(keys->row);
}

static void make_keys(Keys *keys, const Range &range) {
    keys->count = 0;
    auto from = static_cast<int16>(range.from);
    add_key(keys, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(range.queue));
    add_key(keys, 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(range.stage));
    bool one_run = range.from == range.to;
    add_key(keys, 3, one_run ? BTEqualStrategyNumber : BTGreaterEqualStrategyNumber,
            one_run ? F_INT2EQ : F_INT2GE, Int16GetDatum(from));
    if (range.exact) {
        add_key(keys, 4, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
                TimestampTzGetDatum(range.first.due_at));
        add_key(keys, 5, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(range.first.id));
    } else if (one_run && core::before(core::lowest_key, range.first)) {
        add_start(keys, range.first);
    }
}

static IndexScanDesc begin_scan(Relation relation, Relation index, Snapshot snapshot, Keys *keys) {
    IndexScanDesc scan = pg::begin_index_scan(relation, index, snapshot, keys->count);
    index_rescan(scan, keys->keys, keys->count, nullptr, 0);
    return scan;
}

static Relation due_index_of(Table *jobs) {
    if (jobs->layout == nullptr)
        return open_due_index(jobs->relation);
    return index_open(jobs->layout->indexes[static_cast<int>(direct::By::due)], AccessShareLock);
}

bool scan_due(Table *jobs, const Range &range, bool (*visit)(Table *, void *), void *argument) {
    Relation index = due_index_of(jobs);
    Keys keys;
    make_keys(&keys, range);
    IndexScanDesc scan = begin_scan(jobs->relation, index, SnapshotSelf, &keys);
    bool more = true;
    while (more && index_getnext_slot(scan, ForwardScanDirection, jobs->found)) {
        CHECK_FOR_INTERRUPTS();
        jobs->locked = jobs->facts_known = false;
        more = visit(jobs, argument);
    }
    index_endscan(scan);
    index_close(index, AccessShareLock);
    return more;
}

// ---- is there work? ----

static bool is_running(TransactionId xid) {
    return !TransactionIdIsCurrentTransactionId(xid) && TransactionIdIsInProgress(xid);
}

TransactionId locker_of(TupleTableSlot *slot) {
    auto *buffered = reinterpret_cast<BufferHeapTupleTableSlot *>(slot);
    LockBuffer(buffered->buffer, BUFFER_LOCK_SHARE);
    uint16 mask = buffered->base.tuple->t_data->t_infomask;
    TransactionId locker = HeapTupleHeaderGetRawXmax(buffered->base.tuple->t_data);
    LockBuffer(buffered->buffer, BUFFER_LOCK_UNLOCK);
    if ((mask & HEAP_XMAX_INVALID) != 0 || !HEAP_XMAX_IS_LOCKED_ONLY(mask) ||
        HEAP_XMAX_IS_KEYSHR_LOCKED(mask)) // what a foreign key takes does not hinder a claim
        return InvalidTransactionId;
    if ((mask & HEAP_XMAX_IS_MULTI) == 0)
        return is_running(locker) ? locker : InvalidTransactionId;
    MultiXactMember *members;
    int count = GetMultiXactIdMembers(locker, &members, false, true);
    for (int i = 0; i < count; i++)
        if (members[i].status != MultiXactStatusForKeyShare && is_running(members[i].xid))
            return members[i].xid;
    return InvalidTransactionId;
}

static bool is_takeable(TupleTableSlot *slot, const SnapshotData *dirty, TimestampTz now,
                        bool *held) {
    if (TransactionIdIsValid(dirty->xmin) || !slot_attisnull(slot, static_cast<int>(Col::token)))
        return false;
    TransactionId holder = TransactionIdIsValid(dirty->xmax) ? dirty->xmax : locker_of(slot);
    if (TransactionIdIsValid(holder)) {
        *held |= !frontier::is_announced_by(SubTransGetTopmostTransaction(holder));
        return false;
    }
    bool null;
    Datum expires = slot_getattr(slot, static_cast<int>(Col::expires_at), &null);
    if (null || DatumGetTimestampTz(expires) > now)
        return true;
    slot_getattr(slot, static_cast<int>(Col::started_at), &null);
    return !null; // it has started in time
}

// A look at a stage that changes nothing.
struct Look {
    Relation relation;
    Relation index;
    TupleTableSlot *slot;
    bool pushed;
    bool *held; // set if somebody has a ready row who may leave it ready without a word
};

static Look begin_look(bool *held) {
    Look look;
    look.held = held;
    look.pushed = !ActiveSnapshotSet();
    if (look.pushed)
        PushActiveSnapshot(GetTransactionSnapshot());
    look.relation = try_table_open(relations()->job, AccessShareLock);
    if (look.relation == nullptr)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
                errmsg("extension \"pgjobs\" was dropped meanwhile"),
                errhint("Run CREATE EXTENSION pgjobs."));
    look.index = open_due_index(look.relation);
    look.slot = table_slot_create(look.relation, nullptr);
    return look;
}

static void end_look(const Look &look) {
    ExecDropSingleTupleTableSlot(look.slot);
    index_close(look.index, AccessShareLock);
    table_close(look.relation, AccessShareLock);
    if (look.pushed)
        PopActiveSnapshot();
}

static bool any_in(const Look &look, const Range &range, TimestampTz now) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    Keys keys;
    make_keys(&keys, range);
    IndexScanDesc scan = begin_scan(look.relation, look.index, &dirty, &keys);
    bool ready = false;
    while (!ready && index_getnext_slot(scan, ForwardScanDirection, look.slot)) {
        CHECK_FOR_INTERRUPTS();
        ready = is_takeable(look.slot, &dirty, now, look.held);
    }
    index_endscan(scan);
    return ready;
}

static bool any_in_stretch(const Look &look, const frontier::Walk &walk,
                           const frontier::Stretch &stretch, TimestampTz now) {
    Range range = {walk.queue, walk.stage, stretch.scan.from, stretch.scan.to, {}, true};
    for (int i = 0; i < stretch.stray_count; i++) {
        range.first = stretch.strays[i].key;
        if (any_in(look, range, now))
            return true;
    }
    range.first = stretch.first;
    range.exact = false;
    return !core::same(range.first, core::highest_key) && any_in(look, range, now);
}

bool any_ready(int32 queue, int16 stage, TimestampTz now, bool *held) {
    Look look = begin_look(held);
    bool usable = direct::layout_of(look.relation, direct::Kind::jobs)->announced;
    frontier::Walk walk = {nullptr, queue, stage, core::lowest_priority - 1, false};
    if (usable)
        walk = frontier::walk(RelationGetRelid(look.relation), queue, stage);
    frontier::Stretch stretch;
    bool ready = false;
    while (!ready && frontier::next(&walk, core::last_place, false, &stretch))
        ready = any_in_stretch(look, walk, stretch, now);
    end_look(look);
    return ready;
}

// ---- how long has it waited? ----

// In the part of a stage: run by run, as the first of each is its oldest.
static TimestampTz oldest_in(const Look &look, const frontier::Walk &walk,
                             const frontier::Stretch &stretch, TimestampTz now) {
    TimestampTz oldest = never;
    Range range = {walk.queue, walk.stage, stretch.scan.from, stretch.scan.to, {}, true};
    for (int i = 0; i < stretch.stray_count; i++) {
        range.first = stretch.strays[i].key;
        if (range.first.due_at < oldest && any_in(look, range, now))
            oldest = range.first.due_at;
    }
    range.first = stretch.first;
    range.exact = false;
    while (range.from <= range.to && range.first.due_at < oldest && any_in(look, range, now)) {
        core::Place place = place_of(facts_of(look.slot));
        oldest = Min(oldest, place.key.due_at);
        range.from = place.priority + 1;
        range.first = core::lowest_key;
    }
    return oldest;
}

TimestampTz oldest_ready(int32 queue, int16 stage) {
    bool held = false;
    Look look = begin_look(&held);
    frontier::Walk walk = {nullptr, queue, stage, core::lowest_priority - 1, false};
    if (!RecoveryInProgress() && direct::layout_of(look.relation, direct::Kind::jobs)->announced)
        walk = frontier::walk(RelationGetRelid(look.relation), queue, stage);
    TimestampTz now = GetCurrentTimestamp();
    TimestampTz oldest = never;
    frontier::Stretch stretch;
    core::Place own = changes::own_place(queue, stage, walk.last);
    while (frontier::next(&walk, own, false, &stretch)) {
        oldest = Min(oldest, oldest_in(look, walk, stretch, now));
        own = changes::own_place(queue, stage, walk.last);
    }
    end_look(look);
    return oldest;
}

// ---- self-check ----

static void wait_for(TransactionId xid) {
    if (TransactionIdIsNormal(xid) && !TransactionIdIsCurrentTransactionId(xid))
        XactLockTableWait(xid, nullptr, nullptr, XLTW_None);
}

// Who wrote the version in the slot, and who had it last.
struct Hands {
    TransactionId writer;
    TransactionId holder;
};

static Hands hands_of(TupleTableSlot *slot) {
    HeapTupleHeader tuple = ExecFetchSlotHeapTuple(slot, false, nullptr)->t_data;
    bool several = (tuple->t_infomask & HEAP_XMAX_IS_MULTI) != 0; // such a row is never passed
    return {HeapTupleHeaderGetXmin(tuple),
            several ? InvalidTransactionId : HeapTupleHeaderGetRawXmax(tuple)};
}

// Whoever made or left the row ready may not have announced it yet; his lock goes afterwards, but
// that of a subtransaction goes before: those get some time, `patience` ms for all of them. And
// while somebody else has the row, others pass it: hidden is what is free all the time.
static bool is_hidden(const Look &look, const Range &stage, int *patience) {
    core::Place place = place_of(facts_of(look.slot));
    Oid jobs = RelationGetRelid(look.relation);
    Range here = {stage.queue, stage.stage, place.priority, place.priority, place.key, true};
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        if (frontier::covers(jobs, stage.queue, stage.stage, place))
            return false;
        Hands before = hands_of(look.slot);
        wait_for(before.writer);
        wait_for(before.holder);
        if (frontier::covers(jobs, stage.queue, stage.stage, place) ||
            !any_in(look, here, DT_NOBEGIN))
            return false;
        Hands now = hands_of(look.slot);
        if (now.writer != before.writer || now.holder != before.holder)
            continue;
        if (--*patience < 0)
            return true;
        pg_usleep(1000);
    }
}

// The first priority from range->from on that has a due job, or had one and it is not gone for
// good; false without one.
static bool first_priority(const Look &look, Range *range) {
    Keys keys;
    make_keys(&keys, *range);
    IndexScanDesc scan = begin_scan(look.relation, look.index, SnapshotAny, &keys);
    bool found = index_getnext_slot(scan, ForwardScanDirection, look.slot);
    if (found)
        range->from = facts_of(look.slot).priority;
    index_endscan(scan);
    return found;
}

// Among the jobs of one priority that stand before where a claim would begin.
static int64 count_hidden_in(const Look &look, const Range &run, const core::Key &first,
                             int *patience) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    Keys keys;
    make_keys(&keys, run);
    IndexScanDesc scan = begin_scan(look.relation, look.index, &dirty, &keys);
    int64 hidden = 0;
    while (index_getnext_slot(scan, ForwardScanDirection, look.slot)) {
        CHECK_FOR_INTERRUPTS();
        if (!core::before(place_of(facts_of(look.slot)).key, first))
            break;
        if (is_takeable(look.slot, &dirty, DT_NOBEGIN, look.held) && is_hidden(look, run, patience))
            hidden++;
    }
    index_endscan(scan);
    return hidden;
}

// Priorities of which the frontier says that there is no ready job are looked at as well.
int64 count_hidden(int32 queue, int16 stage) {
    bool held = false;
    Look look = begin_look(&held);
    Range run = {queue, stage, core::lowest_priority, core::end_of_priorities - 1, {}, false};
    int patience = 1000;
    int64 hidden = 0;
    while (first_priority(look, &run)) {
        core::Key first =
            frontier::start_of(RelationGetRelid(look.relation), queue, stage, run.from);
        run.to = run.from;
        hidden += count_hidden_in(look, run, first, &patience);
        run.from++;
        run.to = core::end_of_priorities - 1;
        if (run.from > run.to)
            break;
    }
    end_look(look);
    return hidden;
}

} // namespace pgjobs::store

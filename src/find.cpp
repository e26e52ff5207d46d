// The store's finding: jobs by id, by unique key, and the row locks.
#include "catalog.hpp"
#include "shared.hpp"
#include "store_parts.hpp"

namespace pgjobs::store {

using direct::By;

// A ready row is noted before it is locked: an error in between must find it noted. `may_stay`: it
// may be left as it is.
static void note_touch(Table *jobs, bool may_stay) {
    if (get_int16(jobs, Col::waiting) != 0 || has(jobs, Col::token))
        return;
    frontier::will_announce();
    const changes::Facts &row = facts(jobs);
    changes::touching(row);
    if (may_stay)
        changes::left_ready(row);
}

// Locks the newest version of the row in `found`. That is most often the version which is there
// already: then `found` stays as it is.
static TM_Result lock_newest(Table *jobs, LockWaitPolicy policy, uint8 flags) {
    TM_FailureData failure;
    ItemPointerData tid = jobs->found->tts_tid;
    need_newest(jobs);
    TM_Result result = table_tuple_lock(jobs->relation, &tid, GetActiveSnapshot(), jobs->newest,
                                        GetCurrentCommandId(true), LockTupleNoKeyExclusive, policy,
                                        flags, &failure);
    jobs->locked = result == TM_Ok;
    if (result == TM_Ok && !ItemPointerEquals(&jobs->newest->tts_tid, &jobs->found->tts_tid)) {
        TupleTableSlot *older = jobs->found;
        jobs->found = jobs->newest;
        jobs->newest = older;
        jobs->facts_known = false;
        note_touch(jobs, true); // it may be ready, or elsewhere, only now
    }
    return result;
}

// Whether everybody who has this version of a row in his hands will announce it.
static bool is_held_by_announcers(Relation relation, ItemPointerData tid) {
    Buffer buffer = ReadBuffer(relation, ItemPointerGetBlockNumber(&tid));
    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    Page page = BufferGetPage(buffer);
    uint16 mask = HEAP_XMAX_INVALID;
    TransactionId holder = InvalidTransactionId;
    ItemId item = ItemPointerGetOffsetNumber(&tid) <= PageGetMaxOffsetNumber(page)
                      ? PageGetItemId(page, ItemPointerGetOffsetNumber(&tid))
                      : nullptr;
    if (item != nullptr && ItemIdIsNormal(item)) {
        auto *tuple = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
        mask = tuple->t_infomask;
        holder = HeapTupleHeaderGetRawXmax(tuple);
    }
    UnlockReleaseBuffer(buffer);
    if ((mask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) != 0)
        return false; // has just ended, or are several: no need to know
    return frontier::is_announced_by(SubTransGetTopmostTransaction(holder));
}

void note_visited(Table *jobs) { note_touch(jobs, false); }

Grip lock_visited(Table *jobs) {
    ItemPointerData tid = jobs->found->tts_tid;
    switch (lock_newest(jobs, LockWaitSkip, TUPLE_LOCK_FLAG_FIND_LAST_VERSION)) {
    case TM_Ok:
        return Grip::locked;
    case TM_WouldBlock:
        return is_held_by_announcers(jobs->relation, tid) ? Grip::passed : Grip::blocked;
    default:
        return Grip::passed;
    }
}

enum class Seen { nothing, row, uncommitted };

static void seek_id(IndexScanDesc scan, int64 id) {
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
    index_rescan(scan, &key, 1, nullptr, 0);
}

// One look through the primary key. A version whose inserter is still running counts only if no
// other is there: it may be the new half of an update.
static Seen look(Table *jobs, Relation index, int64 id, TransactionId *inserter, bool *held) {
    if (jobs->id_scan == nullptr)
        jobs->id_scan = pg::in_context(jobs->context, [&] {
            InitDirtySnapshot(jobs->dirty);
            return pg::begin_index_scan(jobs->relation, index, &jobs->dirty, 1);
        });
    seek_id(jobs->id_scan, id);
    Seen seen = Seen::nothing;
    jobs->facts_known = false;
    while (seen != Seen::row &&
           index_getnext_slot(jobs->id_scan, ForwardScanDirection, jobs->found)) {
        if (TransactionIdIsValid(jobs->dirty.xmin)) {
            seen = Seen::uncommitted;
            *inserter = jobs->dirty.xmin;
        } else {
            *held = TransactionIdIsValid(jobs->dirty.xmax);
            seen = Seen::row;
        }
    }
    return seen;
}

// A look can miss a row: it reads the index page, an update commits with a new index entry, and the
// version behind the old entry is dead. A snapshot does not: whatever it shows as gone is gone.
static bool is_gone(Table *jobs, Relation index, int64 id) {
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    IndexScanDesc scan = pg::begin_index_scan(jobs->relation, index, snapshot, 1);
    seek_id(scan, id);
    bool gone = !index_getnext_slot(scan, ForwardScanDirection, jobs->found);
    index_endscan(scan);
    UnregisterSnapshot(snapshot);
    return gone;
}

// Where this process has put jobs that it claimed: most often it is the one who completes them, and
// then no index is asked. A hint: what is found there may be anything.
struct Recent {
    int64 id;
    ItemPointerData tid;
};
constexpr int64 most_recent = 8192;
static Recent *recent;

void remember(Table *jobs) {
    if (recent == nullptr)
        recent = static_cast<Recent *>(
            MemoryContextAllocZero(TopMemoryContext, sizeof(Recent) * most_recent));
    int64 id = facts(jobs).id;
    recent[static_cast<uint64>(id) % most_recent] = {id, jobs->next->tts_tid};
}

// A page that is there stays, as long as the table is open.
static bool has_block(Table *jobs, BlockNumber block) {
    if (block >= jobs->blocks)
        jobs->blocks = RelationGetNumberOfBlocks(jobs->relation);
    return block < jobs->blocks;
}

static bool look_where_it_was(Table *jobs, int64 id, bool *held) {
    if (recent == nullptr || recent[static_cast<uint64>(id) % most_recent].id != id)
        return false;
    ItemPointerData tid = recent[static_cast<uint64>(id) % most_recent].tid;
    if (!has_block(jobs, ItemPointerGetBlockNumber(&tid)))
        return false;
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    jobs->facts_known = false;
    if (!table_tuple_fetch_row_version(jobs->relation, &tid, &dirty, jobs->found))
        return false;
    *held = TransactionIdIsValid(dirty.xmax);
    return !TransactionIdIsValid(dirty.xmin) && get_int64(jobs, Col::id, 0) == id;
}

static Relation id_index(Table *jobs) {
    constexpr int place = static_cast<int>(By::id);
    if (jobs->layout == nullptr && jobs->indexes[place] == nullptr)
        jobs->indexes[place] = index_open(pg::primary_key_index(jobs->relation), RowExclusiveLock);
    return index_by(jobs, By::id);
}

static bool find(Table *jobs, int64 id, LockWaitPolicy policy, bool lock) {
    flush(jobs);
    bool found = false;
    bool held;
    jobs->busy = jobs->locked = false;
    if (!lock && look_where_it_was(jobs, id, &held) && !held)
        return true;
    Relation index = id_index(jobs);
    for (int looks = 1;; looks++) {
        TransactionId inserter = InvalidTransactionId;
        held = false;
        Seen seen = look(jobs, index, id, &inserter, &held);
        if (seen == Seen::row && !lock && !held) {
            found = true;
            break;
        }
        if (seen == Seen::row) {
            note_touch(jobs, true);
            TM_Result result = lock_newest(jobs, policy, TUPLE_LOCK_FLAG_FIND_LAST_VERSION);
            found = result == TM_Ok;
            jobs->busy = result == TM_WouldBlock;
            break;
        }
        if (seen == Seen::nothing) {
            // Also the end of it: this command itself has removed the row.
            if (looks == 100 || is_gone(jobs, index, id))
                break;
            CHECK_FOR_INTERRUPTS();
            continue;
        }
        jobs->busy = policy != LockWaitBlock;
        if (jobs->busy)
            break;
        XactLockTableWait(inserter, jobs->relation, nullptr, XLTW_None);
    }
    if (!found)
        ExecClearTuple(jobs->found);
    return found;
}

bool find(Table *jobs, int64 id, LockWaitPolicy policy) { return find(jobs, id, policy, true); }

// The executor's functions need the lock.
bool find_unlocked(Table *jobs, int64 id) {
    return find(jobs, id, LockWaitBlock, jobs->layout == nullptr);
}

bool lock_found(Table *jobs) {
    if (jobs->locked)
        return true;
    note_touch(jobs, true);
    return lock_newest(jobs, LockWaitBlock, 0) == TM_Ok;
}

// One look through the index (queue_id, unique_key); as in look(), an uncommitted version counts
// only if no other is there.
static Seen look_for_key(Relation relation, Relation index, int32 queue, const char *key, int64 *id,
                         TransactionId *inserter) {
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue));
    ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid,
                           index->rd_indcollation[1], F_TEXTEQ, CStringGetTextDatum(key));
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    IndexScanDesc scan = pg::begin_index_scan(relation, index, &dirty, 2);
    index_rescan(scan, keys, 2, nullptr, 0);
    Seen seen = Seen::nothing;
    while (seen != Seen::row && index_getnext_slot(scan, ForwardScanDirection, slot)) {
        bool null;
        *id = DatumGetInt64(slot_getattr(slot, static_cast<int>(Col::id), &null));
        *inserter = dirty.xmin;
        seen = TransactionIdIsValid(dirty.xmin) ? Seen::uncommitted : Seen::row;
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    return seen;
}

// Not by a query: that would see no newer rows than its snapshot, and in SERIALIZABLE it would lock
// the pages where every producer inserts.
int64 holder_of(int32 queue, const char *key) {
    bool pushed = push_snapshot();
    Relation relation = open_relation(relations()->job, AccessShareLock);
    Relation index = direct::open_job_index(relation, direct::By::unique_key, "unique keys");
    int64 id = 0;
    TransactionId inserter = InvalidTransactionId;
    Seen seen;
    while ((seen = look_for_key(relation, index, queue, key, &id, &inserter)) == Seen::uncommitted)
        XactLockTableWait(inserter, relation, nullptr, XLTW_None);
    index_close(index, AccessShareLock);
    table_close(relation, AccessShareLock);
    if (pushed)
        PopActiveSnapshot();
    return seen == Seen::row ? id : 0;
}

int64 next_id(Oid sequence) {
    relation_close(open_relation(sequence, RowExclusiveLock), NoLock);
    return nextval_internal(sequence, false);
}

int64 next_job_id() { return nextval_internal(relations()->job_id_seq, false); }

} // namespace pgjobs::store

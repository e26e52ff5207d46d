// The only door to the server's headers, and the only place that looks at its version.
#pragma once

// PostgreSQL 15 leaves PGDLLEXPORT empty; the library hides everything that does not carry it.
#define PGDLLEXPORT __attribute__((visibility("default")))

extern "C" {
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/nbtree.h"
#include "access/parallel.h"
#include "access/reloptions.h"
#include "access/relscan.h"
#include "access/subtrans.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_database.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "jit/jit.h"
#include "libpq/libpq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "tcop/cmdtag.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/plancache.h"
#include "utils/ps_status.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"
#include "utils/varlena.h"
}

#if PG_VERSION_NUM < 150000
#error "pgjobs needs PostgreSQL 15 or newer"
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace pgjobs::pg {

inline bool have_createdb_privilege() {
    HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
    if (!HeapTupleIsValid(tuple))
        return false;
    bool may = reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcreatedb;
    ReleaseSysCache(tuple);
    return may;
}

// This process's place in ProcGlobal->allProcs.
inline int my_procno() {
#if PG_VERSION_NUM >= 170000
    return MyProcNumber;
#else
    return MyProc->pgprocno;
#endif
}

// Whether the current user owns the database.
inline bool owns_database(Oid database) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(DatabaseRelationId, database, GetUserId());
#else
    return pg_database_ownercheck(database, GetUserId());
#endif
}

// Whether the current user owns the extension.
inline bool owns_extension(Oid extension) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(ExtensionRelationId, extension, GetUserId());
#else
    return pg_extension_ownercheck(extension, GetUserId());
#endif
}

// Whether the current user owns the table.
inline bool owns_table(Oid table) {
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(RelationRelationId, table, GetUserId());
#else
    return pg_class_ownercheck(table, GetUserId());
#endif
}

// Whether the current user may read the table.
inline bool may_select(Oid table) {
    return pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

// Whether a role may connect to this database.
inline bool may_connect(Oid role) {
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(DatabaseRelationId, MyDatabaseId, role, ACL_CONNECT) == ACLCHECK_OK;
#else
    return pg_database_aclcheck(MyDatabaseId, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

// Background workers can connect as roles that may not log in.
#if PG_VERSION_NUM >= 170000
constexpr uint32 connect_without_login = BGWORKER_BYPASS_ROLELOGINCHECK;
#else
constexpr uint32 connect_without_login = 0;
#endif

// Whether the current user may copy the database as a template without owning it.
inline bool is_template_for_me(Oid database) {
    HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
    if (!HeapTupleIsValid(tuple))
        return false;
    bool is_template = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple))->datistemplate;
    ReleaseSysCache(tuple);
    return is_template && have_createdb_privilege();
}

// Registers `rte` as the only range table entry of `estate`.
inline void init_range_table(EState *estate, RangeTblEntry *rte) {
#if PG_VERSION_NUM >= 180000
    List *perminfos = NIL;
    addRTEPermissionInfo(&perminfos, rte);
    ExecInitRangeTable(estate, list_make1(rte), perminfos, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
    List *perminfos = NIL;
    addRTEPermissionInfo(&perminfos, rte);
    ExecInitRangeTable(estate, list_make1(rte), perminfos);
#else
    ExecInitRangeTable(estate, list_make1(rte));
#endif
}

inline void init_epq(EPQState *epq, EState *estate) {
#if PG_VERSION_NUM >= 160000
    EvalPlanQualInit(epq, estate, nullptr, NIL, -1, NIL);
#else
    EvalPlanQualInit(epq, estate, nullptr, NIL, -1);
#endif
}

inline IndexScanDesc begin_index_scan(Relation heap, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
    return index_beginscan(heap, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(heap, index, snapshot, keys, 0);
#endif
}

// A copy of the first columns of a row type, for forming rows that end there.
inline TupleDesc first_columns(TupleDesc shape, int count) {
    TupleDesc copy = CreateTemplateTupleDesc(count);
    for (int i = 1; i <= count; i++)
        TupleDescCopyEntry(copy, static_cast<AttrNumber>(i), shape, static_cast<AttrNumber>(i));
    return copy;
}

// Whether heap_update() can be told not to wait. It returns TM_BeingModified then, as its comment
// says, also for a locker who would not be in the way; but a server built with assertions forbids
// it.
#ifdef USE_ASSERT_CHECKING
constexpr bool can_update_without_waiting = false;
#else
constexpr bool can_update_without_waiting = true;
#endif

// Updates the row at `tid`; `enter_all`: its index entries are missing.
inline TM_Result update_tuple(Relation relation, ItemPointer tid, TupleTableSlot *slot,
                              CommandId command, bool wait, TM_FailureData *failure,
                              LockTupleMode *mode, bool *enter_all) {
#if PG_VERSION_NUM >= 160000
    TU_UpdateIndexes which;
    TM_Result result = table_tuple_update(relation, tid, slot, command, InvalidSnapshot,
                                          InvalidSnapshot, wait, failure, mode, &which);
    *enter_all = which != TU_None;
    return result;
#else
    return table_tuple_update(relation, tid, slot, command, InvalidSnapshot, InvalidSnapshot, wait,
                              failure, mode, enter_all);
#endif
}

// The last leaf of a btree, locked for reading; InvalidBuffer if it is empty.
inline Buffer last_leaf(Relation index) {
#if PG_VERSION_NUM >= 170000
    return _bt_get_endpoint(index, 0, true);
#else
    return _bt_get_endpoint(index, 0, true, nullptr);
#endif
}

// The index behind the primary key, unless that is deferrable.
inline Oid primary_key_index(Relation relation) {
#if PG_VERSION_NUM >= 180000
    return RelationGetPrimaryKeyIndex(relation, false);
#else
    return RelationGetPrimaryKeyIndex(relation);
#endif
}

// Whether this transaction has exactly this lock on the relation.
inline bool holds_relation_lock(Oid relation, LOCKMODE mode) {
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
#if PG_VERSION_NUM >= 170000
    return LockHeldByMe(&tag, mode, false);
#else
    return LockHeldByMe(&tag, mode);
#endif
}

// Whatever the database's or role's settings are, a transaction of this process may take its time.
inline void disable_transaction_timeout() {
#if PG_VERSION_NUM >= 170000
    SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

} // namespace pgjobs::pg

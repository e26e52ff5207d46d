"""What is true of pgjobs' tables at any time, whatever happened before."""

JOBS = ("SELECT id, rev, CASE WHEN waiting = 1 THEN 'scheduled' WHEN token IS NULL THEN 'ready'"
        " ELSE 'running' END AS state, queue_id FROM pgjobs.job UNION ALL"
        " SELECT id, rev, (ARRAY['completed', 'dead', 'cancelled'])[state + 1], queue_id"
        " FROM pgjobs.history")
# Each selects what must not be.
INVARIANTS = {
    "a job is there twice": f"SELECT id FROM ({JOBS}) j GROUP BY id HAVING count(*) > 1",
    "a token without a lease, or a lease without a token":
        "SELECT id FROM pgjobs.job WHERE (token IS NULL) <> (lease_expires_at IS NULL AND"
        " hold_session IS NULL) OR (hold_session IS NULL) <> (hold_epoch IS NULL)",
    "a job that waits and runs": "SELECT id FROM pgjobs.job WHERE waiting <> 0 AND token IS NOT NULL",
    "an attempt beyond the last": "SELECT id FROM pgjobs.job WHERE attempt > max_attempts",
    "a job without its queue and stage":
        "SELECT id FROM pgjobs.job j WHERE NOT EXISTS (SELECT FROM pgjobs.stage s"
        " JOIN pgjobs.queue q ON q.id = s.queue_id WHERE s.queue_id = j.queue_id AND"
        " s.number = j.stage)",
    "a finished job without its queue":
        "SELECT id FROM pgjobs.history h WHERE NOT EXISTS (SELECT FROM pgjobs.queue q"
        " WHERE q.id = h.queue_id)",
    "an id that will be given out again":
        f"SELECT max(id) FROM ({JOBS}) j HAVING max(id) > (SELECT last_value FROM pgjobs.job_id_seq)",
    "a partition that belongs to nothing":
        "SELECT relname FROM pg_class WHERE relnamespace = 'pgjobs'::regnamespace AND relkind = 'r'"
        " AND relname ~ '^(history|log)_[0-9]+$' AND NOT relispartition",
    "a segment without its table":
        "SELECT id FROM pgjobs.segment s WHERE to_regclass('pgjobs.log_' || s.id) IS NULL",
    "a message in no segment":
        "SELECT position FROM pgjobs.log l WHERE NOT EXISTS (SELECT FROM pgjobs.segment s"
        " WHERE s.id = l.segment)",
    "a subscription that is ahead of itself":
        "SELECT name FROM pgjobs.subscription WHERE sent_to < position",
    "a wrong frontier": "SELECT 1 WHERE pgjobs._check_frontier() <> 0",
}
INDEXES = ("SELECT bt_index_check(c.oid, heapallindexed => true) FROM pg_class c JOIN pg_am a ON"
           " a.oid = c.relam WHERE c.relkind = 'i' AND a.amname = 'btree' AND"
           " c.relnamespace = 'pgjobs'::regnamespace")


def broken(connection):
    """Says what is not so."""
    for name, query in INVARIANTS.items():
        rows = connection.execute(query).fetchall()
        if rows:
            yield f"{name}: {rows[:5]}"
    connection.execute(INDEXES)

-- Nothing is for everybody; pg_monitor sees the views.

REVOKE ALL ON ALL TABLES IN SCHEMA pgjobs FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgjobs FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA pgjobs FROM PUBLIC;
REVOKE ALL ON TYPE pgjobs.claimed_job FROM PUBLIC;
REVOKE ALL ON TYPE pgjobs.job_details FROM PUBLIC;
REVOKE ALL ON TYPE pgjobs.message FROM PUBLIC;

GRANT USAGE ON SCHEMA pgjobs TO pg_monitor;
GRANT SELECT ON pgjobs.jobs, pgjobs.attempts, pgjobs.stages, pgjobs.queues, pgjobs.workers,
    pgjobs.topics, pgjobs.subscriptions, pgjobs.attached_tables TO pg_monitor;
GRANT EXECUTE ON FUNCTION pgjobs._visible_queues(text), pgjobs._queue_counters(integer),
    pgjobs._lease_end(bigint, timestamptz),
    pgjobs._visible_topics(), pgjobs._topic_figures(integer), pgjobs._lag(integer, bigint),
    pgjobs._figures(integer, smallint), pgjobs._attached_tables(), pgjobs.health(), pgjobs.metrics(),
    pgjobs.job(bigint), pgjobs.why(bigint), pgjobs.version() TO pg_monitor;

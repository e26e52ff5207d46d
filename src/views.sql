-- Views. They show the queues that the current user may monitor or operate; what is inside a job
-- (payload, result, errors, keys) only to those who may operate or own its queue.

-- The outer query makes the barrier: the planner flattens a view that is itself a UNION ALL, so that
-- a cheap function in a condition would see rows before they are filtered.
CREATE FUNCTION pgjobs._lease_end(id bigint, lease_expires_at timestamptz)
RETURNS timestamptz
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__lease_end';
COMMENT ON FUNCTION pgjobs._lease_end(bigint, timestamptz) IS
'Private: the end of a job''s lease, by its row and by heartbeats that are in shared memory only.';

CREATE VIEW pgjobs.jobs WITH (security_barrier = true) AS
SELECT u.*
FROM (
    SELECT
        j.id,
        q.name AS queue,
        s.name AS stage,
        CASE
            WHEN j.waiting OPERATOR(pg_catalog.=) 2 THEN 'blocked'
            WHEN j.waiting OPERATOR(pg_catalog.=) 1 THEN 'scheduled'
            WHEN j.token IS NULL THEN 'ready'
            ELSE 'running'
        END AS state,
        j.priority::integer AS priority,
        j.attempt,
        j.max_attempts,
        CASE WHEN a.readable THEN j.payload END AS payload,
        CASE WHEN a.readable THEN j.headers END AS headers,
        CASE WHEN a.readable THEN j.result END AS result,
        CASE WHEN a.readable THEN j.error END AS error,
        CASE WHEN a.readable THEN j.group_key END AS group_key,
        CASE WHEN a.readable THEN j.unique_key END AS unique_key,
        j.due_at AS run_at,
        j.enqueued_at,
        j.started_at,
        NULL::timestamptz AS finished_at,
        j.worker,
        pgjobs._lease_end(j.id, j.lease_expires_at) AS lease_expires_at
    FROM pgjobs.job j
    JOIN pgjobs.queue q ON q.id OPERATOR(pg_catalog.=) j.queue_id
    JOIN pgjobs.stage s
        ON s.queue_id OPERATOR(pg_catalog.=) j.queue_id AND s.number OPERATOR(pg_catalog.=) j.stage
    CROSS JOIN LATERAL (SELECT j.queue_id OPERATOR(pg_catalog.=) ANY
        ((SELECT pgjobs._visible_queues('operate'))::integer[]) AS readable OFFSET 0) a
    WHERE j.queue_id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_queues('monitor'))::integer[])
    UNION ALL
    SELECT
        h.id,
        q.name,
        s.name,
        (ARRAY['completed', 'dead', 'cancelled'])[h.state OPERATOR(pg_catalog.+) 1],
        h.priority::integer,
        h.attempt,
        h.max_attempts,
        CASE WHEN a.readable THEN h.payload END,
        CASE WHEN a.readable THEN h.headers END,
        CASE WHEN a.readable THEN h.result END,
        CASE WHEN a.readable THEN h.error END,
        CASE WHEN a.readable THEN h.group_key END,
        CASE WHEN a.readable THEN h.unique_key END,
        h.due_at,
        h.enqueued_at,
        h.started_at,
        h.finished_at,
        h.worker,
        NULL::timestamptz
    FROM pgjobs.history h
    JOIN pgjobs.queue q ON q.id OPERATOR(pg_catalog.=) h.queue_id
    JOIN pgjobs.stage s
        ON s.queue_id OPERATOR(pg_catalog.=) h.queue_id AND s.number OPERATOR(pg_catalog.=) h.stage
    CROSS JOIN LATERAL (SELECT h.queue_id OPERATOR(pg_catalog.=) ANY
        ((SELECT pgjobs._visible_queues('operate'))::integer[]) AS readable OFFSET 0) a
    WHERE h.queue_id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_queues('monitor'))::integer[])
        AND h.payload IS NOT NULL
) u;
COMMENT ON VIEW pgjobs.jobs IS
'Jobs, open and finished, of the queues you may monitor or operate. Payload, headers, result, error and keys are NULL unless you may operate or own the queue.';
COMMENT ON COLUMN pgjobs.jobs.id IS 'The job.';
COMMENT ON COLUMN pgjobs.jobs.queue IS 'Its queue.';
COMMENT ON COLUMN pgjobs.jobs.stage IS 'Its stage; of a finished job the last one.';
COMMENT ON COLUMN pgjobs.jobs.state IS 'blocked, scheduled, ready, running, completed, dead or cancelled.';
COMMENT ON COLUMN pgjobs.jobs.priority IS 'Lower is claimed first.';
COMMENT ON COLUMN pgjobs.jobs.attempt IS 'Attempts begun in this stage.';
COMMENT ON COLUMN pgjobs.jobs.max_attempts IS 'Attempts per stage before the job is dead.';
COMMENT ON COLUMN pgjobs.jobs.payload IS 'What to do, as given by the producer.';
COMMENT ON COLUMN pgjobs.jobs.headers IS 'Facts about the job, as given by the producer.';
COMMENT ON COLUMN pgjobs.jobs.result IS 'Result of the last stage that was done.';
COMMENT ON COLUMN pgjobs.jobs.error IS 'Error of the last failed attempt.';
COMMENT ON COLUMN pgjobs.jobs.group_key IS 'Group of the job.';
COMMENT ON COLUMN pgjobs.jobs.unique_key IS 'Unique among the open jobs of the queue.';
COMMENT ON COLUMN pgjobs.jobs.run_at IS 'When the job became due, or will.';
COMMENT ON COLUMN pgjobs.jobs.enqueued_at IS 'When the job was added.';
COMMENT ON COLUMN pgjobs.jobs.started_at IS 'When the last attempt began.';
COMMENT ON COLUMN pgjobs.jobs.finished_at IS 'When the job finished; NULL while it is open.';
COMMENT ON COLUMN pgjobs.jobs.worker IS 'Who claimed the job last.';
COMMENT ON COLUMN pgjobs.jobs.lease_expires_at IS 'End of the lease; NULL unless the job runs.';

CREATE VIEW pgjobs.attempts WITH (security_barrier = true) AS
WITH work AS (
    SELECT j.id, j.queue_id, j.stage, j.attempt, j.worker, j.started_at, j.attempts,
        NULL::timestamptz AS finished_at, NULL::text AS outcome, NULL::text AS error,
        j.token IS NOT NULL AS last
    FROM pgjobs.job j
    UNION ALL
    SELECT h.id, h.queue_id, h.stage, h.attempt, h.worker, h.started_at, h.attempts,
        h.finished_at, 'completed', NULL, h.state OPERATOR(pg_catalog.=) 0
    FROM pgjobs.history h
    WHERE h.payload IS NOT NULL
)
SELECT
    w.id AS job_id,
    q.name AS queue,
    COALESCE(e.stage, s.name) AS stage,
    e.attempt,
    e.worker,
    e.started_at,
    e.finished_at,
    e.outcome,
    CASE
        WHEN w.queue_id OPERATOR(pg_catalog.=) ANY
            ((SELECT pgjobs._visible_queues('operate'))::integer[]) THEN e.error
    END AS error
FROM work w
JOIN pgjobs.queue q ON q.id OPERATOR(pg_catalog.=) w.queue_id
JOIN pgjobs.stage s
    ON s.queue_id OPERATOR(pg_catalog.=) w.queue_id AND s.number OPERATOR(pg_catalog.=) w.stage
CROSS JOIN LATERAL (
    SELECT r.stage, r.attempt, r.worker, r.started_at, r.finished_at, r.outcome, r.error
    FROM pg_catalog.jsonb_to_recordset(w.attempts) AS r (stage text, attempt integer,
        worker text, started_at timestamptz, finished_at timestamptz, outcome text, error text)
    UNION ALL
    SELECT NULL, w.attempt, w.worker, w.started_at, w.finished_at, w.outcome, w.error
    WHERE w.last
) e
WHERE w.queue_id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_queues('monitor'))::integer[]);
COMMENT ON VIEW pgjobs.attempts IS
'Attempts of the jobs in pgjobs.jobs: one row per ended or running attempt; outcome is completed, failed, expired, cancelled, or NULL while it runs. The last 100 ended ones of each job are kept.';
COMMENT ON COLUMN pgjobs.attempts.job_id IS 'The job.';
COMMENT ON COLUMN pgjobs.attempts.queue IS 'Its queue.';
COMMENT ON COLUMN pgjobs.attempts.stage IS 'The stage of the attempt.';
COMMENT ON COLUMN pgjobs.attempts.attempt IS 'Number of the attempt in its stage, from 1.';
COMMENT ON COLUMN pgjobs.attempts.worker IS 'Who made it.';
COMMENT ON COLUMN pgjobs.attempts.started_at IS 'When it began.';
COMMENT ON COLUMN pgjobs.attempts.finished_at IS 'When it ended; NULL while it runs.';
COMMENT ON COLUMN pgjobs.attempts.outcome IS 'completed, failed, expired, cancelled, or NULL while it runs.';
COMMENT ON COLUMN pgjobs.attempts.error IS 'Why it failed; NULL unless you may operate or own the queue.';

CREATE VIEW pgjobs.stages WITH (security_barrier = true) AS
SELECT
    q.name AS queue,
    s.number::integer AS number,
    s.name AS stage,
    f.ready,
    f.running,
    f.scheduled,
    f.blocked,
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) f.oldest_ready_at AS oldest_ready_age
FROM pgjobs.queue q
JOIN pgjobs.stage s ON s.queue_id OPERATOR(pg_catalog.=) q.id
CROSS JOIN LATERAL pgjobs._figures(q.id, s.number) f
WHERE q.id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_queues('monitor'))::integer[]);
COMMENT ON VIEW pgjobs.stages IS
'The stages of the queues you may monitor or operate, in order, with the number of open jobs by state and the age of the oldest ready one.';
COMMENT ON COLUMN pgjobs.stages.queue IS 'The queue.';
COMMENT ON COLUMN pgjobs.stages.number IS 'Place in the order, from 1.';
COMMENT ON COLUMN pgjobs.stages.stage IS 'Name of the stage.';
COMMENT ON COLUMN pgjobs.stages.ready IS 'Jobs that can be claimed.';
COMMENT ON COLUMN pgjobs.stages.running IS 'Jobs that somebody works on.';
COMMENT ON COLUMN pgjobs.stages.scheduled IS 'Jobs whose time has not come.';
COMMENT ON COLUMN pgjobs.stages.blocked IS 'Jobs that wait for others.';
COMMENT ON COLUMN pgjobs.stages.oldest_ready_age IS 'How long the ready job that has waited longest has been due, apart from those that a transaction is just changing.';

CREATE FUNCTION pgjobs._queue_counters(queue_id integer,
    OUT enqueued bigint, OUT claimed bigint, OUT completed bigint, OUT dead bigint, OUT cancelled bigint)
RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__queue_counters';
COMMENT ON FUNCTION pgjobs._queue_counters(integer) IS
'Private: what committed transactions did to a queue that the current user may see, since the server started; NULL on a standby.';

CREATE VIEW pgjobs.queues WITH (security_barrier = true) AS
SELECT
    q.name,
    ARRAY(SELECT s.name FROM pgjobs.stage s WHERE s.queue_id OPERATOR(pg_catalog.=) q.id
        ORDER BY s.number USING OPERATOR(pg_catalog.<)) AS stages,
    q.paused,
    NOT EXISTS (SELECT FROM pgjobs.home m
        WHERE m.id OPERATOR(pg_catalog.=) q.home AND m.database OPERATOR(pg_catalog.=)
            (SELECT d.oid FROM pg_catalog.pg_database d
             WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) AS quarantined,
    q.lease,
    q.max_attempts,
    q.backoff,
    q.backoff_max,
    q.retention,
    q.dead_retention,
    q.notify,
    (SELECT d.name FROM pgjobs.queue d WHERE d.id OPERATOR(pg_catalog.=) q.dead_letter) AS dead_letter,
    (SELECT t.name FROM pgjobs.topic t WHERE t.id OPERATOR(pg_catalog.=) q.events_topic) AS events_topic,
    q.durable_claims,
    q.created_at,
    f.blocked,
    f.scheduled,
    f.ready,
    f.running,
    pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) f.oldest_ready_at AS oldest_ready_age,
    c.enqueued,
    c.completed,
    c.dead,
    c.cancelled,
    c.claimed
FROM pgjobs.queue q
CROSS JOIN LATERAL pgjobs._figures(q.id) f
CROSS JOIN LATERAL pgjobs._queue_counters(q.id) c
WHERE q.id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_queues('monitor'))::integer[]);
COMMENT ON VIEW pgjobs.queues IS
'Queues you may monitor or operate: settings, depth by state, age of the oldest ready job, and what committed since the server started (enqueued, claimed, completed, dead, cancelled; NULL on a standby).';
COMMENT ON COLUMN pgjobs.queues.name IS 'The name that clients use.';
COMMENT ON COLUMN pgjobs.queues.stages IS 'Its stages, in order.';
COMMENT ON COLUMN pgjobs.queues.paused IS 'Whether it hands out no jobs until resume_queue.';
COMMENT ON COLUMN pgjobs.queues.quarantined IS 'Whether it hands out no jobs until resume, because this is a copied database.';
COMMENT ON COLUMN pgjobs.queues.lease IS 'How long a claim lasts where the claimer does not say.';
COMMENT ON COLUMN pgjobs.queues.max_attempts IS 'Attempts per stage before a job is dead.';
COMMENT ON COLUMN pgjobs.queues.backoff IS 'Wait after the first failed attempt; doubles with each.';
COMMENT ON COLUMN pgjobs.queues.backoff_max IS 'The longest wait after a failed attempt.';
COMMENT ON COLUMN pgjobs.queues.retention IS 'How long completed and cancelled jobs are kept.';
COMMENT ON COLUMN pgjobs.queues.dead_retention IS 'How long dead jobs are kept.';
COMMENT ON COLUMN pgjobs.queues.notify IS 'off, wakeup or events.';
COMMENT ON COLUMN pgjobs.queues.dead_letter IS 'The queue that receives a copy of each dead job.';
COMMENT ON COLUMN pgjobs.queues.events_topic IS 'The topic to which every change of a job''s state is published.';
COMMENT ON COLUMN pgjobs.queues.durable_claims IS 'Whether claims wait for the disk as the session says.';
COMMENT ON COLUMN pgjobs.queues.created_at IS 'When the queue was made.';
COMMENT ON COLUMN pgjobs.queues.blocked IS 'Jobs that wait for others.';
COMMENT ON COLUMN pgjobs.queues.scheduled IS 'Jobs whose time has not come.';
COMMENT ON COLUMN pgjobs.queues.ready IS 'Jobs that can be claimed.';
COMMENT ON COLUMN pgjobs.queues.running IS 'Jobs that somebody works on.';
COMMENT ON COLUMN pgjobs.queues.oldest_ready_age IS 'How long the ready job that has waited longest has been due, apart from those that a transaction is just changing.';
COMMENT ON COLUMN pgjobs.queues.enqueued IS 'Jobs added since the server started.';
COMMENT ON COLUMN pgjobs.queues.completed IS 'Jobs completed since the server started.';
COMMENT ON COLUMN pgjobs.queues.dead IS 'Jobs that died since the server started.';
COMMENT ON COLUMN pgjobs.queues.cancelled IS 'Jobs cancelled since the server started.';
COMMENT ON COLUMN pgjobs.queues.claimed IS 'Claims since the server started; a job that is tried again is claimed again.';

CREATE VIEW pgjobs.workers WITH (security_barrier = true) AS
SELECT
    j.worker,
    q.name AS queue,
    s.name AS stage,
    pg_catalog.count(*) AS running,
    pg_catalog.min(j.started_at) AS oldest_started_at,
    pg_catalog.min(pgjobs._lease_end(j.id, j.lease_expires_at)) AS next_lease_expires_at
FROM pgjobs.job j
JOIN pgjobs.queue q ON q.id OPERATOR(pg_catalog.=) j.queue_id
JOIN pgjobs.stage s
    ON s.queue_id OPERATOR(pg_catalog.=) j.queue_id AND s.number OPERATOR(pg_catalog.=) j.stage
WHERE j.waiting OPERATOR(pg_catalog.=) 0 AND j.token IS NOT NULL
    AND j.queue_id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_queues('monitor'))::integer[])
GROUP BY j.worker, q.name, s.name;
COMMENT ON VIEW pgjobs.workers IS
'Who is working on what: running jobs by worker, queue and stage, with their oldest start and next end of a lease.';
COMMENT ON COLUMN pgjobs.workers.worker IS 'The name given to claim.';
COMMENT ON COLUMN pgjobs.workers.queue IS 'The queue.';
COMMENT ON COLUMN pgjobs.workers.stage IS 'The stage.';
COMMENT ON COLUMN pgjobs.workers.running IS 'Jobs that it has.';
COMMENT ON COLUMN pgjobs.workers.oldest_started_at IS 'When the oldest of them began.';
COMMENT ON COLUMN pgjobs.workers.next_lease_expires_at IS 'When the first of their leases ends.';

CREATE VIEW pgjobs.topics WITH (security_barrier = true) AS
SELECT
    t.name,
    t.retention,
    NOT EXISTS (SELECT FROM pgjobs.home m
        WHERE m.id OPERATOR(pg_catalog.=) t.home AND m.database OPERATOR(pg_catalog.=)
            (SELECT d.oid FROM pg_catalog.pg_database d
             WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) AS quarantined,
    f.first_position,
    f.last_position,
    f.first_published_at,
    t.pruned_to,
    (SELECT pg_catalog.count(*) FROM pgjobs.segment s WHERE s.topic_id OPERATOR(pg_catalog.=) t.id)
        AS segments,
    (SELECT pg_catalog.count(*) FROM pgjobs.subscription s WHERE s.topic_id OPERATOR(pg_catalog.=) t.id)
        OPERATOR(pg_catalog.+)
    (SELECT pg_catalog.count(*) FROM pgjobs.feed s WHERE s.topic_id OPERATOR(pg_catalog.=) t.id)
        AS subscriptions,
    t.created_at
FROM pgjobs.topic t
CROSS JOIN LATERAL pgjobs._topic_figures(t.id) f
WHERE t.id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_topics())::integer[]);
COMMENT ON VIEW pgjobs.topics IS
'Topics you may monitor, subscribe to or own: settings and the ends of their logs.';
COMMENT ON COLUMN pgjobs.topics.name IS 'The name that clients use.';
COMMENT ON COLUMN pgjobs.topics.retention IS 'How long messages are kept at least.';
COMMENT ON COLUMN pgjobs.topics.quarantined IS 'Whether nothing is received from it until resume, because this is a copied database.';
COMMENT ON COLUMN pgjobs.topics.first_position IS 'Position of the oldest message that can be read; NULL without any, and on a standby.';
COMMENT ON COLUMN pgjobs.topics.last_position IS 'Every position up to here was published or never will be; NULL on a standby.';
COMMENT ON COLUMN pgjobs.topics.first_published_at IS 'When the oldest message was published.';
COMMENT ON COLUMN pgjobs.topics.pruned_to IS 'Messages up to here were dropped by retention; 0: none.';
COMMENT ON COLUMN pgjobs.topics.segments IS 'Parts of the log, each a table of its own.';
COMMENT ON COLUMN pgjobs.topics.subscriptions IS 'Subscriptions, those of queues too.';
COMMENT ON COLUMN pgjobs.topics.created_at IS 'When the topic was made.';

CREATE VIEW pgjobs.subscriptions WITH (security_barrier = true) AS
WITH place AS (
    SELECT s.name, s.topic_id, NULL::integer AS queue_id, s.position, s.reader, s.lease_expires_at,
        NULL::text AS key_pattern, s.created_at
    FROM pgjobs.subscription s
    UNION ALL
    SELECT NULL, f.topic_id, f.queue_id, f.position, NULL, NULL, f.key_pattern, f.created_at
    FROM pgjobs.feed f
)
SELECT
    p.name,
    t.name AS topic,
    q.name AS queue,
    p.key_pattern,
    p.position,
    l.messages AS lag_messages,
    CASE
        WHEN l.messages OPERATOR(pg_catalog.=) 0 THEN '0'::interval
        ELSE pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) l.since
    END AS lag_time,
    CASE WHEN p.lease_expires_at IS NOT NULL THEN p.reader END AS reader,
    p.lease_expires_at,
    p.created_at
FROM place p
JOIN pgjobs.topic t ON t.id OPERATOR(pg_catalog.=) p.topic_id
LEFT JOIN pgjobs.queue q ON q.id OPERATOR(pg_catalog.=) p.queue_id
CROSS JOIN LATERAL pgjobs._lag(p.topic_id, p.position) l
WHERE t.id OPERATOR(pg_catalog.=) ANY ((SELECT pgjobs._visible_topics())::integer[]);
COMMENT ON VIEW pgjobs.subscriptions IS
'Subscriptions to the topics you may monitor, subscribe to or own, those of queues too: where they stand and how far behind they are.';
COMMENT ON COLUMN pgjobs.subscriptions.name IS 'The name that clients use; NULL for a queue''s.';
COMMENT ON COLUMN pgjobs.subscriptions.topic IS 'The topic.';
COMMENT ON COLUMN pgjobs.subscriptions.queue IS 'The queue that gets a job for each message; NULL for a subscription that clients receive from.';
COMMENT ON COLUMN pgjobs.subscriptions.key_pattern IS 'LIKE pattern that the keys must match; NULL: all messages.';
COMMENT ON COLUMN pgjobs.subscriptions.position IS 'Messages up to here are acknowledged, or have their job.';
COMMENT ON COLUMN pgjobs.subscriptions.lag_messages IS 'Positions behind that, holes included; 0 if there is no message behind it. NULL on a standby.';
COMMENT ON COLUMN pgjobs.subscriptions.lag_time IS 'How long ago the first message behind it was published; 0 without one. NULL on a standby.';
COMMENT ON COLUMN pgjobs.subscriptions.reader IS 'application_name of who has the lease; NULL without one.';
COMMENT ON COLUMN pgjobs.subscriptions.lease_expires_at IS 'End of the lease; NULL without one.';
COMMENT ON COLUMN pgjobs.subscriptions.created_at IS 'When it was made.';

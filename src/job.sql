-- Jobs: the live table. A claim writes none of the indexed columns, so it is a HOT update.

CREATE SEQUENCE pgjobs.job_id_seq AS bigint;
COMMENT ON SEQUENCE pgjobs.job_id_seq IS 'Ids of jobs, over all queues.';

-- The order counts. What a claim writes stands together, behind the payload: the log of an update has
-- what lies between the first and the last changed byte. And what most jobs do not have comes last:
-- rows end at their last value, so that theirs need no bitmap of NULLs.
CREATE TABLE pgjobs.job (
    id bigint NOT NULL,
    due_at timestamptz NOT NULL,
    enqueued_at timestamptz NOT NULL,
    queue_id integer NOT NULL,
    max_attempts integer NOT NULL,
    stage smallint NOT NULL,
    priority smallint NOT NULL,
    waiting smallint NOT NULL,
    payload jsonb NOT NULL,
    attempt integer NOT NULL,
    rev integer NOT NULL,
    token bigint,
    lease_expires_at timestamptz,
    started_at timestamptz,
    worker text,
    done_token bigint,
    hold_epoch bigint,
    hold_session bigint,
    expires_at timestamptz,
    fraction double precision,
    note text,
    headers jsonb,
    result jsonb,
    group_key text,
    unique_key text,
    error text,
    attempts jsonb,
    CONSTRAINT job_pkey PRIMARY KEY (id)
) WITH (
    fillfactor = 40,
    toast_tuple_target = 256,
    vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    toast.vacuum_truncate = off
);
CREATE INDEX job_due ON pgjobs.job (queue_id, stage, priority, due_at, id) WHERE waiting = 0;
CREATE INDEX job_scheduled ON pgjobs.job (due_at, id) WHERE waiting = 1;
CREATE INDEX job_expires ON pgjobs.job (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX job_unique_key ON pgjobs.job (queue_id, unique_key) WHERE unique_key IS NOT NULL;
COMMENT ON INDEX pgjobs.job_due IS 'Jobs that are due, ready or running, in the order of claims.';
COMMENT ON INDEX pgjobs.job_scheduled IS 'Jobs that become ready later, by their time.';
COMMENT ON INDEX pgjobs.job_expires IS 'Jobs that must not start after a time.';
COMMENT ON INDEX pgjobs.job_unique_key IS 'One open job per key and queue.';

COMMENT ON TABLE pgjobs.job IS 'Open jobs. Written by pgjobs'' functions; read the view pgjobs.jobs.';
COMMENT ON COLUMN pgjobs.job.id IS 'The job.';
COMMENT ON COLUMN pgjobs.job.due_at IS 'When the job became due, or will.';
COMMENT ON COLUMN pgjobs.job.enqueued_at IS 'When the job was added.';
COMMENT ON COLUMN pgjobs.job.token IS 'The fence: random in [1, 2^53) while the job runs, else NULL.';
COMMENT ON COLUMN pgjobs.job.lease_expires_at IS 'End of the lease; NULL for a session lease without one.';
COMMENT ON COLUMN pgjobs.job.started_at IS 'When the last attempt began.';
COMMENT ON COLUMN pgjobs.job.expires_at IS 'A job that has not started by then is cancelled.';
COMMENT ON COLUMN pgjobs.job.done_token IS 'Token of the last accepted complete, for a repeated call.';
COMMENT ON COLUMN pgjobs.job.hold_epoch IS 'Server start in which the holding session lives.';
COMMENT ON COLUMN pgjobs.job.hold_session IS 'The session that holds the job.';
COMMENT ON COLUMN pgjobs.job.queue_id IS 'The queue.';
COMMENT ON COLUMN pgjobs.job.attempt IS 'Attempts begun in this stage.';
COMMENT ON COLUMN pgjobs.job.max_attempts IS 'Attempts per stage before the job is dead.';
COMMENT ON COLUMN pgjobs.job.rev IS 'Counts the changes of state.';
COMMENT ON COLUMN pgjobs.job.stage IS 'Number of the stage.';
COMMENT ON COLUMN pgjobs.job.priority IS 'Lower is claimed first.';
COMMENT ON COLUMN pgjobs.job.waiting IS '0 due (ready or running), 1 scheduled, 2 blocked.';
COMMENT ON COLUMN pgjobs.job.payload IS 'What to do, as given by the producer.';
COMMENT ON COLUMN pgjobs.job.headers IS 'Facts about the job, as given by the producer.';
COMMENT ON COLUMN pgjobs.job.result IS 'Result of the stage before.';
COMMENT ON COLUMN pgjobs.job.group_key IS 'Jobs of one key run in order.';
COMMENT ON COLUMN pgjobs.job.unique_key IS 'Unique among the open jobs of the queue.';
COMMENT ON COLUMN pgjobs.job.worker IS 'Who claimed the job last.';
COMMENT ON COLUMN pgjobs.job.error IS 'Error of the last failed attempt.';
COMMENT ON COLUMN pgjobs.job.fraction IS 'Progress from 0 to 1, as told by the worker.';
COMMENT ON COLUMN pgjobs.job.note IS 'Progress in words, as told by the worker.';
COMMENT ON COLUMN pgjobs.job.attempts IS 'Ended attempts that did not finish the job, as an array of objects.';
COMMENT ON CONSTRAINT job_pkey ON pgjobs.job IS 'Each job once.';
COMMENT ON INDEX pgjobs.job_pkey IS 'Each job once.';

SELECT pg_catalog.pg_extension_config_dump('pgjobs.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.job', '');

CREATE FUNCTION pgjobs._job_changed()
RETURNS trigger
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__job_changed';
COMMENT ON FUNCTION pgjobs._job_changed() IS
'Private trigger: notes what a transaction did to a job; at commit it wakes and notifies.';

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON pgjobs.job
    FOR EACH ROW EXECUTE FUNCTION pgjobs._job_changed();
CREATE TRIGGER changing BEFORE UPDATE OR DELETE ON pgjobs.job
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._job_changed();
CREATE TRIGGER truncated AFTER TRUNCATE ON pgjobs.job
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._job_changed();
ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER changed;
ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER changing;
ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER truncated;
COMMENT ON TRIGGER changed ON pgjobs.job IS 'Notes each change; at commit it wakes and notifies.';
COMMENT ON TRIGGER changing ON pgjobs.job IS 'Notes that a statement begins which may fail before it tells its changes.';
COMMENT ON TRIGGER truncated ON pgjobs.job IS 'Makes pgjobs forget what it knew of the jobs.';

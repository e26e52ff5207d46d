-- Managing: what people and tools do with jobs.

CREATE FUNCTION pgjobs.cancel(id bigint)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_cancel';
COMMENT ON FUNCTION pgjobs.cancel(bigint) IS
'Cancels an open job, waiting or running; false if there is no such open job. The worker of a running job learns it by PJ001 at its next call.';

CREATE FUNCTION pgjobs.retry(id bigint)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_retry';
COMMENT ON FUNCTION pgjobs.retry(bigint) IS
'Makes a dead, cancelled or completed job ready again, with all its attempts; false if there is none that the history keeps. A completed job begins at the first stage, the others where they stopped. Error: 23505 if another open job has its unique key.';

CREATE FUNCTION pgjobs.redrive(queue text, max_jobs bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_redrive';
COMMENT ON FUNCTION pgjobs.redrive(text, bigint) IS
'Makes the dead jobs of a queue ready again, the oldest first, at most max_jobs; returns how many. Jobs whose unique key is taken stay dead. 42704 no such queue.';

CREATE FUNCTION pgjobs.reschedule(id bigint, run_at timestamptz)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_reschedule';
COMMENT ON FUNCTION pgjobs.reschedule(bigint, timestamptz) IS
'Gives a ready or scheduled job another time; a time that has passed makes it ready. False if there is no such waiting job.';

CREATE FUNCTION pgjobs.reprioritize(id bigint, priority bigint)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_reprioritize';
COMMENT ON FUNCTION pgjobs.reprioritize(bigint, bigint) IS
'Gives an open job another priority, -32768 to 32767, lower first. False if there is no such open job.';

CREATE TYPE pgjobs.job_details AS (
    id bigint,
    queue text,
    stage text,
    state text,
    priority integer,
    attempt integer,
    max_attempts integer,
    payload jsonb,
    headers jsonb,
    result jsonb,
    error text,
    group_key text,
    unique_key text,
    run_at timestamptz,
    enqueued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    worker text,
    lease_expires_at timestamptz,
    hold boolean,
    progress double precision,
    note text,
    rev integer,
    attempts jsonb
);
COMMENT ON TYPE pgjobs.job_details IS
'Everything known about a job. progress: 0 to 1. attempts: an array of {stage, attempt, worker, started_at, finished_at, outcome, error}, the current or last attempt included.';
COMMENT ON COLUMN pgjobs.job_details.id IS 'The job.';
COMMENT ON COLUMN pgjobs.job_details.queue IS 'Its queue.';
COMMENT ON COLUMN pgjobs.job_details.stage IS 'Its stage; of a finished job the last one.';
COMMENT ON COLUMN pgjobs.job_details.state IS 'blocked, scheduled, ready, running, completed, dead or cancelled.';
COMMENT ON COLUMN pgjobs.job_details.priority IS 'Lower is claimed first.';
COMMENT ON COLUMN pgjobs.job_details.attempt IS 'Attempts begun in this stage.';
COMMENT ON COLUMN pgjobs.job_details.max_attempts IS 'Attempts per stage before the job is dead.';
COMMENT ON COLUMN pgjobs.job_details.payload IS 'What to do, as given by the producer.';
COMMENT ON COLUMN pgjobs.job_details.headers IS 'Facts about the job, as given by the producer.';
COMMENT ON COLUMN pgjobs.job_details.result IS 'Result of the last stage that was done.';
COMMENT ON COLUMN pgjobs.job_details.error IS 'Error of the last failed attempt.';
COMMENT ON COLUMN pgjobs.job_details.group_key IS 'Group of the job.';
COMMENT ON COLUMN pgjobs.job_details.unique_key IS 'Unique among the open jobs of the queue.';
COMMENT ON COLUMN pgjobs.job_details.run_at IS 'When the job became due, or will.';
COMMENT ON COLUMN pgjobs.job_details.enqueued_at IS 'When the job was added.';
COMMENT ON COLUMN pgjobs.job_details.started_at IS 'When the last attempt began.';
COMMENT ON COLUMN pgjobs.job_details.finished_at IS 'When the job finished; NULL while it is open.';
COMMENT ON COLUMN pgjobs.job_details.expires_at IS 'A job that has not started by then is cancelled.';
COMMENT ON COLUMN pgjobs.job_details.worker IS 'Who claimed the job last.';
COMMENT ON COLUMN pgjobs.job_details.lease_expires_at IS 'End of the lease; NULL unless the job runs.';
COMMENT ON COLUMN pgjobs.job_details.hold IS 'Whether the job is held by a session.';
COMMENT ON COLUMN pgjobs.job_details.progress IS 'From 0 to 1, as told by the worker.';
COMMENT ON COLUMN pgjobs.job_details.note IS 'Progress in words, as told by the worker.';
COMMENT ON COLUMN pgjobs.job_details.rev IS 'Counts the changes of state.';
COMMENT ON COLUMN pgjobs.job_details.attempts IS 'One object per attempt, in order.';

CREATE FUNCTION pgjobs.job(id bigint)
RETURNS pgjobs.job_details
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_job';
COMMENT ON FUNCTION pgjobs.job(bigint) IS
'Everything known about one job, open or finished; NULL if there is none that you may see.';

CREATE FUNCTION pgjobs.why(id bigint)
RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_why';
COMMENT ON FUNCTION pgjobs.why(bigint) IS
'Says in a sentence why a job is not running, or that it is. 42704 if there is no such job that you may see.';

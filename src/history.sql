-- Finished jobs, in one partition per day of the time until which they are kept.
-- Partitions are made at run time, never here: a partition that belonged to the extension would
-- lose its rows in a dump. Their indexes are made with them and are not partitions of one here: ATTACH
-- would make such an index at once, and the dump makes it again.

CREATE TABLE pgjobs.history (
    keep_until timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    id bigint NOT NULL,
    due_at timestamptz NOT NULL,
    enqueued_at timestamptz NOT NULL,
    started_at timestamptz,
    done_token bigint,
    queue_id integer NOT NULL,
    attempt integer NOT NULL,
    max_attempts integer NOT NULL,
    rev integer NOT NULL,
    stage smallint NOT NULL,
    priority smallint NOT NULL,
    state smallint NOT NULL,
    payload jsonb,
    headers jsonb,
    result jsonb,
    group_key text,
    unique_key text,
    worker text,
    error text,
    attempts jsonb
) PARTITION BY RANGE (keep_until);

COMMENT ON TABLE pgjobs.history IS 'Finished jobs. Partitions are dropped when their day has passed.';
COMMENT ON COLUMN pgjobs.history.keep_until IS 'Finish plus the queue''s retention at that moment.';
COMMENT ON COLUMN pgjobs.history.finished_at IS 'When the job finished.';
COMMENT ON COLUMN pgjobs.history.id IS 'The job.';
COMMENT ON COLUMN pgjobs.history.due_at IS 'When the job became due last.';
COMMENT ON COLUMN pgjobs.history.enqueued_at IS 'When the job was added.';
COMMENT ON COLUMN pgjobs.history.started_at IS 'When the last attempt began.';
COMMENT ON COLUMN pgjobs.history.done_token IS 'Token of the accepted complete.';
COMMENT ON COLUMN pgjobs.history.queue_id IS 'The queue.';
COMMENT ON COLUMN pgjobs.history.attempt IS 'Attempts begun in the last stage.';
COMMENT ON COLUMN pgjobs.history.max_attempts IS 'Attempts per stage before the job is dead.';
COMMENT ON COLUMN pgjobs.history.rev IS 'Counts the changes of state.';
COMMENT ON COLUMN pgjobs.history.stage IS 'Number of the last stage.';
COMMENT ON COLUMN pgjobs.history.priority IS 'Priority of the job.';
COMMENT ON COLUMN pgjobs.history.state IS '0 completed, 1 dead, 2 cancelled.';
COMMENT ON COLUMN pgjobs.history.payload IS 'What to do; NULL in a receipt, which is all that a queue with retention 0 leaves.';
COMMENT ON COLUMN pgjobs.history.headers IS 'Facts about the job, as given by the producer.';
COMMENT ON COLUMN pgjobs.history.result IS 'Result of the last stage.';
COMMENT ON COLUMN pgjobs.history.group_key IS 'Group of the job.';
COMMENT ON COLUMN pgjobs.history.unique_key IS 'Key that the job had while it was open.';
COMMENT ON COLUMN pgjobs.history.worker IS 'Who had the job last.';
COMMENT ON COLUMN pgjobs.history.error IS 'Error of the last failed attempt.';
COMMENT ON COLUMN pgjobs.history.attempts IS 'Ended attempts that did not finish the job, as an array of objects.';

CREATE FUNCTION pgjobs._keep_history(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__keep_history';
COMMENT ON FUNCTION pgjobs._keep_history(timestamptz) IS
'Private duty: makes the partitions of the coming week and drops those whose day has passed; returns how many it dropped.';

-- Working: claiming jobs and telling how they went.

CREATE TYPE pgjobs.claimed_job AS (
    id bigint,
    token bigint,
    queue text,
    stage text,
    attempt integer,
    max_attempts integer,
    payload jsonb,
    headers jsonb,
    result jsonb,
    group_key text,
    enqueued_at timestamptz,
    lease_expires_at timestamptz
);
COMMENT ON TYPE pgjobs.claimed_job IS
'A job in the hands of a worker. token: the fence, needed by every later call. result: of the stage before. lease_expires_at: NULL for a session lease without an end.';
COMMENT ON COLUMN pgjobs.claimed_job.id IS 'The job.';
COMMENT ON COLUMN pgjobs.claimed_job.token IS 'The fence: random in [1, 2^53), needed by every later call.';
COMMENT ON COLUMN pgjobs.claimed_job.queue IS 'Its queue.';
COMMENT ON COLUMN pgjobs.claimed_job.stage IS 'The stage to do.';
COMMENT ON COLUMN pgjobs.claimed_job.attempt IS 'Which attempt of the stage this is, from 1.';
COMMENT ON COLUMN pgjobs.claimed_job.max_attempts IS 'Attempts per stage before the job is dead.';
COMMENT ON COLUMN pgjobs.claimed_job.payload IS 'What to do.';
COMMENT ON COLUMN pgjobs.claimed_job.headers IS 'Facts about the job, as given by the producer.';
COMMENT ON COLUMN pgjobs.claimed_job.result IS 'Result of the stage before.';
COMMENT ON COLUMN pgjobs.claimed_job.group_key IS 'Group of the job.';
COMMENT ON COLUMN pgjobs.claimed_job.enqueued_at IS 'When the job was added.';
COMMENT ON COLUMN pgjobs.claimed_job.lease_expires_at IS 'Until when the job is yours; NULL for a session lease without an end.';

CREATE FUNCTION pgjobs.claim(
    queue text,
    max_jobs bigint DEFAULT 1,
    stage text DEFAULT NULL,
    lease interval DEFAULT NULL,
    hold boolean DEFAULT false,
    worker text DEFAULT NULL)
RETURNS SETOF pgjobs.claimed_job
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_claim';
COMMENT ON FUNCTION pgjobs.claim(text, bigint, text, interval, boolean, text) IS
'Takes up to max_jobs (1 to 10000) ready jobs that nobody else has and returns them, by priority, then due time, then id. stage: NULL takes from the latest stage first. lease: how long they are yours; the queue''s by default. hold: yours until this session ends. worker: your name; application_name by default. Returns no row while the queue is paused. Errors: 42704 no such queue or stage, PJ004 quarantined, 42501 no right to work.';

CREATE FUNCTION pgjobs.complete(
    id bigint, token bigint, result jsonb DEFAULT NULL, next_stage text DEFAULT NULL)
RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_complete';
COMMENT ON FUNCTION pgjobs.complete(bigint, bigint, jsonb, text) IS
'The job is done: it goes to the next stage (returns ready) or is finished (returns completed). result: given to the next stage, kept with the finished job. next_stage: go there instead. A repeated call with the accepted token answers the same and changes nothing. Errors: PJ001 lease lost, 42704 no such stage.';

CREATE FUNCTION pgjobs.complete_many(
    ids bigint[], tokens bigint[], results jsonb[] DEFAULT NULL, on_lost text DEFAULT 'skip')
RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_complete_many';
COMMENT ON FUNCTION pgjobs.complete_many(bigint[], bigint[], jsonb[], text) IS
'complete for many jobs in one call; returns the ids that were completed, ascending, those of a repeated call too. on_lost: skip leaves out jobs whose lease is lost, error raises PJ001 and completes none. Use error when other work in the transaction depends on it.';

CREATE FUNCTION pgjobs.complete_and_claim(
    queue text,
    ids bigint[] DEFAULT '{}',
    tokens bigint[] DEFAULT '{}',
    results jsonb[] DEFAULT NULL,
    max_jobs bigint DEFAULT 1,
    stage text DEFAULT NULL,
    lease interval DEFAULT NULL,
    hold boolean DEFAULT false,
    worker text DEFAULT NULL,
    on_lost text DEFAULT 'error')
RETURNS SETOF pgjobs.claimed_job
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_complete_and_claim';
COMMENT ON FUNCTION pgjobs.complete_and_claim(text, bigint[], bigint[], jsonb[], bigint, text, interval, boolean, text, text) IS
'complete_many for the jobs in hand, then claim for the next ones of the queue, in one call and one commit: what a busy worker repeats. Without ids it only claims. on_lost: error raises PJ001 if a lease is lost, and nothing is completed or claimed; skip leaves out such jobs without a word. Other arguments as in complete_many and claim. Errors: theirs.';

CREATE FUNCTION pgjobs.fail(
    id bigint, token bigint, error text DEFAULT NULL,
    retry boolean DEFAULT true, retry_in interval DEFAULT NULL)
RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_fail';
COMMENT ON FUNCTION pgjobs.fail(bigint, bigint, text, boolean, interval) IS
'The attempt failed: the job is tried again later (returns scheduled) or, with no attempt left or retry false, is dead (returns dead). error: kept, up to 8 kB. retry_in: wait this long instead of the queue''s backoff. Error: PJ001 lease lost.';

CREATE FUNCTION pgjobs.fail_many(
    ids bigint[], tokens bigint[], errors text[] DEFAULT NULL,
    retry boolean DEFAULT true, on_lost text DEFAULT 'skip')
RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_fail_many';
COMMENT ON FUNCTION pgjobs.fail_many(bigint[], bigint[], text[], boolean, text) IS
'fail for many jobs in one call; returns the ids that were failed, ascending. on_lost: skip or error, as in complete_many.';

CREATE FUNCTION pgjobs.release(id bigint, token bigint)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_release';
COMMENT ON FUNCTION pgjobs.release(bigint, bigint) IS
'Gives the job back at once; the attempt is not counted. For a worker that shuts down. Error: PJ001 lease lost.';

CREATE FUNCTION pgjobs.snooze(id bigint, token bigint, delay interval)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_snooze';
COMMENT ON FUNCTION pgjobs.snooze(bigint, bigint, interval) IS
'Gives the job back, to be claimed again after delay; the attempt is not counted. Error: PJ001 lease lost.';

CREATE FUNCTION pgjobs.extend(id bigint, token bigint, lease interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_extend';
COMMENT ON FUNCTION pgjobs.extend(bigint, bigint, interval) IS
'Heartbeat: the lease lasts for another lease (the queue''s by default) from now, never less than before; returns its end, NULL for a session lease without one. Error: PJ001 lease lost, also when the job was cancelled.';

CREATE FUNCTION pgjobs.extend_many(
    ids bigint[], tokens bigint[], lease interval DEFAULT NULL, on_lost text DEFAULT 'skip')
RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_extend_many';
COMMENT ON FUNCTION pgjobs.extend_many(bigint[], bigint[], interval, text) IS
'extend for many jobs in one call; returns the ids whose lease was extended, ascending. on_lost: skip or error, as in complete_many.';

CREATE FUNCTION pgjobs.progress(
    id bigint, token bigint, fraction double precision, note text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_progress';
COMMENT ON FUNCTION pgjobs.progress(bigint, bigint, double precision, text) IS
'Records how far the job is: a fraction from 0 to 1 and a note of up to 1000 bytes, seen in pgjobs.job(). Error: PJ001 lease lost.';

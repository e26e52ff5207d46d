-- Producing: adding jobs.

CREATE FUNCTION pgjobs.enqueue(
    queue text,
    payload jsonb DEFAULT '{}',
    run_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    priority bigint DEFAULT 0,
    max_attempts bigint DEFAULT NULL,
    unique_key text DEFAULT NULL,
    on_conflict text DEFAULT 'keep',
    expires_at timestamptz DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    stage text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_enqueue';
COMMENT ON FUNCTION pgjobs.enqueue(text, jsonb, timestamptz, interval, bigint, bigint, text, text, timestamptz, jsonb, text) IS
'Adds a job and returns its id; it can be claimed once the transaction commits. run_at or delay: when it becomes due. priority: -32768 to 32767, lower first. unique_key: one open job per key; on_conflict keep returns the id of the open job, replace updates the waiting one, error raises 23505. expires_at: cancelled if not started by then. headers: a JSON object. stage: where to begin, the first by default. Errors: 42704 no such queue or stage, 22023 bad value, 54000 payload over pgjobs.max_payload, 42501 no right to produce.';

CREATE FUNCTION pgjobs.enqueue_many(
    queue text,
    payloads jsonb[],
    run_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    priority bigint DEFAULT 0,
    max_attempts bigint DEFAULT NULL,
    unique_keys text[] DEFAULT NULL,
    on_conflict text DEFAULT 'keep',
    headers jsonb[] DEFAULT NULL,
    stage text DEFAULT NULL)
RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_enqueue_many';
COMMENT ON FUNCTION pgjobs.enqueue_many(text, jsonb[], timestamptz, interval, bigint, bigint, text[], text, jsonb[], text) IS
'Adds one job per payload and returns their ids in the same order. unique_keys, headers: one element per payload, NULL where there is none. The other arguments hold for all jobs; errors as of enqueue, and nothing is added if one is bad.';

CREATE FUNCTION pgjobs.enqueue_batch(queue text, jobs jsonb)
RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_enqueue_batch';
COMMENT ON FUNCTION pgjobs.enqueue_batch(text, jsonb) IS
'Adds the jobs of a JSON array and returns their ids in the same order. Each element is an object with any of payload, run_at, delay, priority, max_attempts, unique_key, on_conflict, headers, stage, as in enqueue. For drivers that cannot bind jsonb[]. Errors as of enqueue; 22023 names an unknown member.';

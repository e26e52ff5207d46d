-- Managing: what people and tools do with jobs, and what they can see.
CREATE FUNCTION pg_temp.refused(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || regexp_replace(message, 'job [0-9]+', 'job N')
        || CASE WHEN hint = '' THEN ' (no hint)' ELSE '' END;
END $$;
-- why() without its times.
CREATE FUNCTION pg_temp.why(id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(pgjobs.why(id), '\d{4}-\d\d-\d\d [\d:.]+[-+][\d:]+', 'TIME', 'g')
$$;
SET application_name = 'ada';
SELECT pgjobs.create_queue('ci', ARRAY['initialize', 'run'], lease => '1 hour', backoff => '1 hour', max_attempts => 2);

-- Waiting jobs can be cancelled, ready or scheduled; once.
SELECT pgjobs.enqueue('ci', unique_key => 'k') AS ready \gset
SELECT pgjobs.enqueue('ci', delay => '1 hour') AS scheduled \gset
SELECT pgjobs.cancel(:ready), pgjobs.cancel(:scheduled);
SELECT pgjobs.cancel(:ready), pgjobs.cancel(:scheduled), pgjobs.cancel(0), pgjobs.cancel(9223372036854775807);
SELECT state, stage, attempt, unique_key, error, started_at, finished_at >= enqueued_at AS finished FROM pgjobs.jobs
WHERE queue = 'ci' ORDER BY id;
SELECT count(*) FROM pgjobs.claim('ci', 10);

-- A running job too: its worker learns it at its next call, whichever that is.
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT token FROM pgjobs.claim('ci') \gset
SELECT pgjobs.progress(:id, :token, 0.5, 'half');
SELECT pgjobs.cancel(:id);
SELECT verb, pg_temp.refused(format('SELECT pgjobs.%s(%s, %s%s)', verb, :id, :token, more))
FROM (VALUES ('extend', ''), ('progress', ', 0.7'), ('complete', ''), ('fail', ''), ('release', ''), ('snooze', ', ''1 hour''')) v (verb, more);
SELECT state, stage, attempt, worker, lease_expires_at, result FROM pgjobs.jobs WHERE id = :id;
SELECT stage, attempt, worker, outcome, error FROM pgjobs.attempts WHERE job_id = :id;

-- A cancellation that is rolled back never was: the worker goes on.
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT token FROM pgjobs.claim('ci') \gset
BEGIN;
SELECT pgjobs.cancel(:id);
ROLLBACK;
SELECT pgjobs.complete(:id, :token, '"initialized"');
SELECT pgjobs.cancel(:id);

-- retry: a cancelled job goes on in the stage where it stopped, with all its attempts.
SELECT pgjobs.retry(:id);
SELECT pgjobs.retry(:id);  -- once
SELECT state, stage, attempt, result, finished_at FROM pgjobs.jobs WHERE id = :id;
SELECT stage, attempt, result, pgjobs.complete(id, token, '"ran"') FROM pgjobs.claim('ci');

-- A completed one begins again, without a result; same id, same payload.
SELECT state, result FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.retry(:id);
SELECT state, stage, attempt, result, finished_at FROM pgjobs.jobs WHERE id = :id;
SELECT id = :id AS same, stage, attempt, result, pgjobs.fail(id, token, 'one') FROM pgjobs.claim('ci');
SELECT pgjobs.reschedule(:id, now());
SELECT attempt, pgjobs.fail(id, token, 'two') FROM pgjobs.claim('ci');

-- A dead one gets its attempts anew; what happened before is still known.
SELECT pgjobs.retry(:id);
SELECT state, stage, attempt, max_attempts FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, pgjobs.fail(id, token, 'three') FROM pgjobs.claim('ci');
SELECT stage, attempt, outcome, error FROM pgjobs.attempts WHERE job_id = :id ORDER BY started_at;
SELECT jsonb_agg(a ->> 'outcome') FROM pgjobs.job(:id), jsonb_array_elements(attempts) a;
SELECT pgjobs.cancel(:id);

-- Nothing to retry: an open job, one that never was, one that a queue without history did not keep.
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT pgjobs.retry(:id), pgjobs.retry(0);
SELECT pgjobs.cancel(:id);
SELECT pgjobs.create_queue('forgetful', retention => '0', dead_retention => '0');
SELECT pgjobs.enqueue('forgetful') AS id \gset
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('forgetful');
SELECT pgjobs.retry(:id);
SELECT pgjobs.drop_queue('forgetful');

-- A key that somebody else has by now stands in the way, and nothing is lost.
SELECT pgjobs.enqueue('ci', '"old"', unique_key => 'k2') AS old \gset
SELECT pgjobs.cancel(:old);
SELECT pgjobs.enqueue('ci', '"new"', unique_key => 'k2') AS new \gset
SELECT pg_temp.refused(format('SELECT pgjobs.retry(%s)', :old));
SELECT payload, state FROM pgjobs.jobs WHERE id IN (:old, :new) ORDER BY id;
SELECT pgjobs.cancel(:new);
SELECT pgjobs.retry(:old);
SELECT pg_temp.refused(format('SELECT pgjobs.retry(%s)', :new));
SELECT pgjobs.cancel(:old);

-- redrive: the dead ones of one queue, the oldest first, as many as asked for.
SELECT pgjobs.create_queue('flaky', max_attempts => 1);
SELECT cardinality(pgjobs.enqueue_many('flaky', ARRAY['1', '2', '3', '4', '5', '6']::jsonb[]));
SELECT cardinality(pgjobs.fail_many(array_agg(id), array_agg(token))) FROM pgjobs.claim('flaky', 5);
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('flaky');
SELECT pgjobs.redrive('flaky', 2);
SELECT payload, state, attempt FROM pgjobs.jobs WHERE queue = 'flaky' ORDER BY id;
SELECT pgjobs.redrive('flaky');
SELECT pgjobs.redrive('flaky');
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'flaky' GROUP BY state ORDER BY state;
SELECT array_agg(payload ORDER BY payload) FROM pgjobs.claim('flaky', 10);
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'flaky' AND state = 'running';
SELECT pgjobs.redrive('flaky'), pgjobs.redrive('ci');

-- Of several dead jobs with one key the oldest comes back; the others stay dead.
SELECT pgjobs.enqueue('flaky', '"a"', unique_key => 'k') > 0 AS added;
SELECT pgjobs.fail(id, token) FROM pgjobs.claim('flaky');
SELECT pgjobs.enqueue('flaky', '"b"', unique_key => 'k') > 0 AS added;
SELECT pgjobs.fail(id, token) FROM pgjobs.claim('flaky');
SELECT pgjobs.enqueue('flaky', '"c"') > 0 AS added;
SELECT pgjobs.fail(id, token) FROM pgjobs.claim('flaky');
SELECT pgjobs.redrive('flaky');
SELECT pgjobs.redrive('flaky');
SELECT payload, state FROM pgjobs.jobs WHERE queue = 'flaky' AND jsonb_typeof(payload) = 'string' ORDER BY id;
SELECT pgjobs.drop_queue('flaky', force => true);

-- More than a batch of them.
SELECT pgjobs.create_queue('flaky');
SELECT cardinality(pgjobs.enqueue_many('flaky', array_fill('{}'::jsonb, ARRAY[2500])));
SELECT cardinality(pgjobs.fail_many(array_agg(id), array_agg(token), retry => false)) FROM pgjobs.claim('flaky', 2500);
SELECT pgjobs.redrive('flaky', 1200);
SELECT pgjobs.redrive('flaky');
SELECT ready FROM pgjobs.queues WHERE name = 'flaky';
SELECT pgjobs.purge_queue('flaky');
SELECT pgjobs.drop_queue('flaky');

-- reschedule: a waiting job gets another time; one that has passed makes it ready.
SELECT pgjobs.enqueue('ci', '"moved"') AS id \gset
SELECT pgjobs.reschedule(:id, '2200-01-01 00:00:00+00');
SELECT state, run_at FROM pgjobs.jobs WHERE id = :id;
SELECT count(*) FROM pgjobs.claim('ci');
SELECT pgjobs.reschedule(:id, now() + interval '1 hour');
SELECT pgjobs._promote(now() + interval '2 hours') AS promoted;
SELECT pgjobs.reschedule(:id, now() + interval '1 hour');
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.reschedule(:id, '2001-01-01');
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT token FROM pgjobs.claim('ci') \gset
SELECT pgjobs.reschedule(:id, now()) AS running, pgjobs.reschedule(0, now()) AS nobody;
SELECT pgjobs.extend(:id, :token) > now() AS still_held;
SELECT pgjobs.cancel(:id);
SELECT pgjobs.reschedule(:id, now()) AS finished;

-- reprioritize: any open job; it counts from the next claim on.
SELECT pgjobs.enqueue_many('ci', ARRAY['"first"', '"second"', '"third"']::jsonb[]) AS ids \gset
SELECT pgjobs.reprioritize((:'ids'::bigint[])[3], -1), pgjobs.reprioritize((:'ids'::bigint[])[1], 32767);
SELECT array_agg(payload) FROM pgjobs.claim('ci', 3, worker => 'bob');
SELECT payload, priority, state FROM pgjobs.jobs WHERE id = ANY (:'ids') ORDER BY id;
SELECT pgjobs.reprioritize((:'ids'::bigint[])[2], -32768) AS running;
SELECT priority, state FROM pgjobs.jobs WHERE id = (:'ids'::bigint[])[2];

-- The view workers: who has what.
SELECT worker, queue, stage, running, oldest_started_at <= now() AS started, next_lease_expires_at > now() AS held FROM pgjobs.workers;
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE id = ANY (:'ids');
SELECT count(*) FROM pgjobs.workers;
SELECT pgjobs.reprioritize((:'ids'::bigint[])[2], 1) AS finished, pgjobs.reprioritize(0, 1) AS nobody;

-- job(): everything, for an open job and a finished one; attempts as an array, the current one last.
SELECT pgjobs.enqueue('ci', '{"commit": "abc"}', unique_key => 'abc', priority => 3, max_attempts => 5,
    headers => '{"trace": "t"}', expires_at => '2200-01-01 00:00:00+00') AS id \gset
SELECT pgjobs.fail(id, token, 'no network') FROM pgjobs.claim('ci', worker => 'w1');
SELECT pgjobs.reschedule(:id, now());
SELECT pgjobs.complete(id, token, '{"dir": "/tmp"}') FROM pgjobs.claim('ci', worker => 'w2');
SELECT token FROM pgjobs.claim('ci', worker => 'w3') \gset
SELECT pgjobs.progress(:id, :token, 0.75, 'three of four');
\x on
SELECT queue, stage, state, priority, attempt, max_attempts, payload, headers, result, error, group_key, unique_key,
    run_at <= now() AS due, enqueued_at <= started_at AS started, finished_at, expires_at, worker,
    lease_expires_at > now() AS held, hold, progress, note
FROM pgjobs.job(:id);
\x off
SELECT a ->> 'stage' AS stage, a ->> 'attempt' AS attempt, a ->> 'worker' AS worker, a ->> 'outcome' AS outcome, a ->> 'error' AS error,
    (a ->> 'started_at')::timestamptz <= clock_timestamp() AS started, (a ->> 'finished_at')::timestamptz >= (a ->> 'started_at')::timestamptz AS finished
FROM pgjobs.job(:id), jsonb_array_elements(attempts) WITH ORDINALITY AS e (a, n) ORDER BY n;
SELECT pgjobs.complete(:id, :token, '{"ok": true}');
\x on
SELECT queue, stage, state, priority, attempt, max_attempts, payload, headers, result, error, unique_key,
    started_at <= finished_at AS finished, worker, lease_expires_at, hold, progress
FROM pgjobs.job(:id);
\x off
SELECT a ->> 'stage' AS stage, a ->> 'attempt' AS attempt, a ->> 'worker' AS worker, a ->> 'outcome' AS outcome, a ->> 'error' AS error,
    (a ->> 'finished_at')::timestamptz >= (a ->> 'started_at')::timestamptz AS finished
FROM pgjobs.job(:id), jsonb_array_elements(attempts) WITH ORDINALITY AS e (a, n) ORDER BY n;
SELECT queue, stage, attempt, worker, outcome, error FROM pgjobs.attempts WHERE job_id = :id ORDER BY started_at;
SELECT count(id) FROM pgjobs.job(0);

-- rev counts the changes of state.
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT rev AS r1 FROM pgjobs.job(:id) \gset
SELECT token FROM pgjobs.claim('ci') \gset
SELECT rev AS r2 FROM pgjobs.job(:id) \gset
SELECT pgjobs.extend(:id, :token) > now() AS extended;
SELECT pgjobs.release(:id, :token);
SELECT rev AS r3 FROM pgjobs.job(:id) \gset
SELECT pgjobs.cancel(:id);
SELECT rev AS r4 FROM pgjobs.job(:id) \gset
SELECT pgjobs.retry(:id);
SELECT rev AS r5 FROM pgjobs.job(:id) \gset
SELECT :r1 < :r2 AND :r2 < :r3 AND :r3 < :r4 AND :r4 < :r5 AS grows;
SELECT pgjobs.cancel(:id);

-- why(): a sentence for every state.
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT pg_temp.why(:id);
SELECT pgjobs.pause_queue('ci');
SELECT pg_temp.why(:id);
SELECT pgjobs.resume_queue('ci');
SELECT token FROM pgjobs.claim('ci') \gset
SELECT pg_temp.why(:id);
SELECT pgjobs.fail(:id, :token, 'broken');
SELECT pg_temp.why(:id);
SELECT pgjobs.reschedule(:id, now());
SELECT pgjobs.fail(id, token, 'broken again') FROM pgjobs.claim('ci', hold => true);
SELECT pg_temp.why(:id);
SELECT pgjobs.retry(:id);
SELECT pgjobs.complete(id, token, next_stage => 'run') FROM pgjobs.claim('ci');
SELECT token FROM pgjobs.claim('ci', hold => true) \gset
SELECT pg_temp.why(:id);
SELECT pgjobs.complete(:id, :token);
SELECT pg_temp.why(:id);
SELECT pgjobs.enqueue('ci', delay => '1 hour') AS id \gset
SELECT pg_temp.why(:id);
SELECT pgjobs.cancel(:id);
SELECT pg_temp.why(:id);
BEGIN;
SELECT pgjobs.enqueue('ci', expires_at => now()) AS id \gset
SELECT pg_temp.why(:id);
ROLLBACK;
SELECT pg_temp.refused(format('SELECT pgjobs.why(%s)', :id));
SELECT pg_temp.refused('SELECT pgjobs.why(0)');

-- await: a finished job answers at once, with its result; an open one after the timeout, with its state.
SELECT pgjobs.enqueue('ci', '{"n": 1}', stage => 'run') AS id \gset
CALL pgjobs.await(:id, '0');
SELECT token FROM pgjobs.claim('ci') \gset
CALL pgjobs.await(:id, '10 milliseconds');
SELECT pgjobs.complete(:id, :token, '{"answer": 42}');
CALL pgjobs.await(:id, '1 minute');
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('ci');
CALL pgjobs.await(:id, '1 minute');
SELECT pgjobs.enqueue('ci', delay => '1 hour') AS id \gset
CALL pgjobs.await(:id, '0');
SELECT pgjobs.cancel(:id);
CALL pgjobs.await(:id, '1 minute');
CALL pgjobs.await(0, '1 minute');
\echo :LAST_ERROR_SQLSTATE

-- The views: every job once, in one state, whatever it has been through.
SELECT count(*) = count(DISTINCT id) AS once FROM pgjobs.jobs;
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'ci' GROUP BY state ORDER BY state;
SELECT q.enqueued - q.completed - q.dead - q.cancelled = (SELECT count(*) FROM pgjobs.jobs
    WHERE queue = 'ci' AND state IN ('blocked', 'scheduled', 'ready', 'running')) AS balanced,
    q.blocked, q.scheduled, q.ready, q.running
FROM pgjobs.queues q WHERE name = 'ci';
SELECT (SELECT array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns
    WHERE table_schema = 'pgjobs' AND table_name = 'jobs')
    = ARRAY['id', 'queue', 'stage', 'state', 'priority', 'attempt', 'max_attempts', 'payload', 'headers', 'result', 'error',
    'group_key', 'unique_key', 'run_at', 'enqueued_at', 'started_at', 'finished_at', 'worker', 'lease_expires_at'] AS as_documented;

-- version() is that of the extension.
SELECT pgjobs.version() LIKE extversion || '%' AS same FROM pg_extension WHERE extname = 'pgjobs';

SELECT pgjobs.drop_queue('ci');

-- A view of jobs asked for one id goes by the index, also for who may see some queues only.
SELECT pgjobs.create_queue('many'), pgjobs.create_queue('other');
SELECT cardinality(pgjobs.enqueue_many('many', array_fill('{}'::jsonb, ARRAY[20000])));
SELECT max(id) AS id FROM pgjobs.jobs WHERE queue = 'many' \gset
CREATE ROLE onlooker;
SELECT pgjobs.grant_queue('many', 'onlooker', '{monitor}');
ANALYZE pgjobs.job;
SET ROLE onlooker;
SELECT count(*), pg_stat_force_next_flush() FROM pgjobs.jobs WHERE id = :id; -- what was read so far, and what is looked up once
BEGIN;
SELECT count(*) FROM pgjobs.jobs WHERE id = :id;
SELECT count(*) FROM pgjobs.attempts WHERE job_id = :id;
SELECT sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)) < 10 AS few FROM pg_stat_xact_all_tables
WHERE schemaname = 'pgjobs' AND relname ~ '^(job$|history)';
COMMIT;
RESET ROLE;
SELECT pgjobs.drop_queue('many', force => true), pgjobs.drop_queue('other');
DROP OWNED BY onlooker;
DROP ROLE onlooker;

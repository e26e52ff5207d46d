-- Working: claim, and all that a worker may say afterwards.
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
-- Every verb on a job with this id and token, and what comes of it.
CREATE FUNCTION pg_temp.try_all(id bigint, token bigint) RETURNS TABLE (verb text, outcome text) LANGUAGE sql AS $$
    SELECT split_part(v, '(', 1), pg_temp.refused(format('SELECT pgjobs.%s', format(v, id, token)))
    FROM unnest(ARRAY['complete(%s, %s)', 'fail(%s, %s)', 'release(%s, %s)', 'snooze(%s, %s, ''1 hour'')',
        'extend(%s, %s)', 'progress(%s, %s, 0.5)', 'complete_many(ARRAY[%s], ARRAY[%s], on_lost => ''error'')',
        'fail_many(ARRAY[%s], ARRAY[%s], on_lost => ''error'')', 'extend_many(ARRAY[%s], ARRAY[%s], on_lost => ''error'')']) v
$$;
SET application_name = 'worker 7';
SELECT pgjobs.create_queue('plain', backoff => '1 hour', lease => '1 hour', max_attempts => 3);
SELECT pgjobs.create_queue('ci', ARRAY['initialize', 'run', 'report'], backoff => '1 hour', backoff_max => '3 hours',
    lease => '1 hour', max_attempts => 3);

-- What a worker gets.
SELECT pgjobs.enqueue('ci', '{"commit": "abc"}', headers => '{"h": 1}') AS id \gset
\x on
SELECT id = :id AS same, token >= 1 AND token < 2::bigint ^ 53 AS in_range, queue, stage, attempt, max_attempts, payload,
    headers, result, group_key, enqueued_at <= now() AS enqueued,
    lease_expires_at - clock_timestamp() BETWEEN '59 minutes' AND '1 hour' AS an_hour
FROM pgjobs.claim('ci');
SELECT state, attempt, worker, started_at >= enqueued_at AS started,
    lease_expires_at - clock_timestamp() BETWEEN '59 minutes' AND '1 hour' AS an_hour
FROM pgjobs.jobs WHERE id = :id;
\x off
SELECT count(*) FROM pgjobs.claim('ci');  -- nobody else gets it
SELECT pgjobs.purge_queue('ci');          -- and it does not wait any more
SELECT pgjobs.cancel(:id);

-- Tokens are random.
SELECT cardinality(pgjobs.enqueue_many('plain', array_fill('{}'::jsonb, ARRAY[1000])));
SELECT count(*), count(DISTINCT token) AS tokens, count(DISTINCT id) AS jobs,
    bool_and(token >= 1 AND token < 9007199254740992) AS in_range,
    max(token) > 2::numeric ^ 52 AS upper_half, min(token) < 2::numeric ^ 52 AS lower_half
FROM pgjobs.claim('plain', 10000);
SELECT count(*) FROM pgjobs.claim('plain', 10000);
SELECT pgjobs.drop_queue('plain', force => true);
SELECT pgjobs.create_queue('plain', backoff => '1 hour', lease => '1 hour', max_attempts => 3);

-- The lease and the name of the worker can be given; a lease runs from the claim, not from the
-- start of the transaction.
SELECT pgjobs.enqueue('plain') AS id \gset
BEGIN;
SELECT now() AS began \gset
SELECT lease_expires_at > :'began'::timestamptz + '2 days' AND lease_expires_at <= clock_timestamp() + '2 days' AS two_days
FROM pgjobs.claim('plain', lease => '2 days', worker => 'ada@host');
SELECT worker FROM pgjobs.jobs WHERE id = :id;
ROLLBACK;

-- A claim rolled back with its transaction counts no attempt.
SELECT state, attempt, worker, started_at, lease_expires_at FROM pgjobs.jobs WHERE id = :id;
SELECT attempt FROM pgjobs.claim('plain') \gset
\echo :attempt
SELECT pgjobs.cancel(:id);

-- max_jobs is a limit. Without a stage, the latest stage comes first, whatever the priorities.
SELECT cardinality(pgjobs.enqueue_many('ci', ARRAY['1', '2', '3']::jsonb[], priority => -9)),
    cardinality(pgjobs.enqueue_many('ci', ARRAY['4', '5', '6']::jsonb[], stage => 'run')),
    cardinality(pgjobs.enqueue_many('ci', ARRAY['7', '8', '9']::jsonb[], stage => 'report', priority => 9));
SELECT stage, payload FROM pgjobs.claim('ci', 4);
SELECT stage, payload FROM pgjobs.claim('ci', 1);
SELECT stage, payload FROM pgjobs.claim('ci', 10, stage => 'initialize');
SELECT stage, payload FROM pgjobs.claim('ci', 10);
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'ci' AND state = 'running';

-- A job passes its stages in order; each stage gets the result of the one before, and attempts
-- begin at 1 again.
SELECT pgjobs.enqueue('ci', '"work"') AS id \gset
SELECT pgjobs.fail(id, token, 'no disk') FROM pgjobs.claim('ci');
SELECT pgjobs._promote(now() + interval '4 hours') AS promoted;
SELECT stage, attempt, result, pgjobs.complete(id, token, '{"dir": "/tmp/1"}') FROM pgjobs.claim('ci');
SELECT stage, state, attempt, result, error FROM pgjobs.jobs WHERE id = :id;
SELECT stage, attempt, result, pgjobs.complete(id, token, '{"tests": 7}') FROM pgjobs.claim('ci');
SELECT stage, attempt, result, pgjobs.complete(id, token) FROM pgjobs.claim('ci');
SELECT stage, state, attempt, payload, result, finished_at >= started_at AS finished FROM pgjobs.jobs WHERE id = :id;
SELECT stage, attempt, worker, finished_at >= started_at AS finished, outcome, error FROM pgjobs.attempts WHERE job_id = :id
ORDER BY started_at;

-- next_stage leaves some out, goes back, or stays.
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT stage, pgjobs.complete(id, token, '1', next_stage => 'report') FROM pgjobs.claim('ci');
SELECT stage, result, pgjobs.complete(id, token, '2', next_stage => 'initialize') FROM pgjobs.claim('ci');
SELECT stage, result, pgjobs.complete(id, token, '3', next_stage => 'initialize') FROM pgjobs.claim('ci');
SELECT stage, result, attempt, token FROM pgjobs.claim('ci') \gset
\echo :stage :result :attempt
SELECT pg_temp.refused(format('SELECT pgjobs.complete(%s, %s, next_stage => ''deploy'')', :id, :token));
SELECT state FROM pgjobs.jobs WHERE id = :id;

-- A repeated complete is accepted again and changes nothing: the job is in the next stage ...
SELECT pgjobs.complete(:id, :token, '4');
SELECT pgjobs.complete(:id, :token, '"other"');
SELECT stage, state, attempt, result FROM pgjobs.jobs WHERE id = :id;
-- ... or there and running ...
SELECT token AS token2 FROM pgjobs.claim('ci') \gset
SELECT pgjobs.complete(:id, :token, '"other"');
SELECT stage, state, attempt, result FROM pgjobs.jobs WHERE id = :id;
-- ... or dead there: the answer is still what it was.
BEGIN;
SELECT pgjobs.fail(:id, :token2, retry => false);
SELECT pgjobs.complete(:id, :token, '"other"');
ROLLBACK;
-- Only the token accepted last is: another one ends it.
SELECT pgjobs.complete(:id, :token2, next_stage => 'report');
SELECT pg_temp.refused(format('SELECT pgjobs.complete(%s, %s)', :id, :token));
SELECT pgjobs.complete(:id, :token2);
SELECT token AS token3 FROM pgjobs.claim('ci') \gset
SELECT pgjobs.complete(:id, :token3, '"end"');
SELECT pgjobs.complete(:id, :token3);
SELECT pg_temp.refused(format('SELECT pgjobs.complete(%s, %s)', :id, :token2));
SELECT stage, state, result FROM pgjobs.jobs WHERE id = :id;

-- Also where a queue keeps no history.
SELECT pgjobs.create_queue('forgetful', retention => '0', dead_retention => '0', backoff => '1 hour');
SELECT pgjobs.enqueue('forgetful') AS id \gset
SELECT token FROM pgjobs.claim('forgetful') \gset
SELECT pgjobs.complete(:id, :token, '"result"');
SELECT pgjobs.complete(:id, :token);
SELECT pg_temp.refused(format('SELECT pgjobs.complete(%s, %s)', :id, :token - 1));
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'forgetful';
SELECT count(id) FROM pgjobs.job(:id);
SELECT count(*) FROM pgjobs.attempts WHERE job_id = :id;
SELECT pgjobs.enqueue('forgetful') AS id \gset
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('forgetful');
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'forgetful';

-- The fence: a token that is not the current one is refused by every verb, and nothing changes:
-- another number, one that a NULL token might be taken for, ...
SELECT pgjobs.enqueue('plain', '"fenced"') AS id \gset
SELECT token FROM pgjobs.claim('plain') \gset
SELECT * FROM pg_temp.try_all(:id, :token % 9007199254740991 + 1);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, 0);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, -1);
SELECT state, attempt, result, error FROM pgjobs.jobs WHERE id = :id;
-- ... the token of another job, ...
SELECT pgjobs.enqueue('plain', '"other"') AS other \gset
SELECT token AS other_token FROM pgjobs.claim('plain') \gset
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, :other_token);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:other, :token);
-- ... the token of a lease that has ended, while the job is ready ...
SELECT pgjobs.release(:id, :token);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, :token);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, 0);
-- ... and when somebody else has it; when it is scheduled, finished, or has never been.
SELECT token AS new_token FROM pgjobs.claim('plain') \gset
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, :token);
SELECT pgjobs.snooze(:id, :new_token, '1 hour');
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, :new_token);
SELECT pgjobs.cancel(:id);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(:id, :new_token);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(0, 1);
SELECT DISTINCT left(outcome, 5) AS outcome FROM pg_temp.try_all(9223372036854775807, 9223372036854775807);
SELECT state, attempt FROM pgjobs.jobs WHERE id = :other;
SELECT pgjobs.complete(:other, :other_token);
SELECT verb, outcome FROM pg_temp.try_all(:other, :other_token) WHERE verb <> 'complete_many';  -- complete may be repeated

-- What a worker did together with a lost lease is rolled back.
CREATE TABLE effect (what text);
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT token FROM pgjobs.claim('plain', lease => '1 hour') \gset
SELECT pgjobs._reap(now() + interval '30 minutes') AS reaped;  -- 0
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;     -- 1
BEGIN;
INSERT INTO effect VALUES ('by a zombie');
\set VERBOSITY sqlstate
SELECT pgjobs.complete(:id, :token);
\set VERBOSITY default
COMMIT;
SELECT count(*) FROM effect;
-- The job is ready again, the attempt counts, and the next one has another token.
SELECT state, attempt, error FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, token <> :token AS new_token FROM pgjobs.claim('plain');
SELECT attempt, outcome, error, worker FROM pgjobs.attempts WHERE job_id = :id ORDER BY attempt;
SELECT pgjobs.cancel(:id);

-- fail: again later, as long as there are attempts, then dead. The last error stays, and each attempt's.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT attempt, pgjobs.fail(id, token, 'first error') FROM pgjobs.claim('plain', worker => 'a');
SELECT state, attempt, error, lease_expires_at FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs._promote(now() + interval '2 hours') AS promoted;
SELECT attempt, pgjobs.fail(id, token) FROM pgjobs.claim('plain', worker => 'b');
SELECT pgjobs._promote(now() + interval '4 hours') AS promoted;
SELECT attempt, pgjobs.fail(id, token, E'third error\nin two lines') FROM pgjobs.claim('plain', worker => 'c');
SELECT state, attempt, error, result FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, worker, outcome, error FROM pgjobs.attempts WHERE job_id = :id ORDER BY attempt;
SELECT jsonb_agg(a - 'started_at' - 'finished_at') AS attempts
FROM pgjobs.job(:id), jsonb_array_elements(attempts) a;

-- The wait is backoff * 2^(attempt - 1), at most backoff_max, times 50 to 100 percent.
SELECT pgjobs.create_queue('jitter', backoff => '1 hour', backoff_max => '3 hours');
SELECT cardinality(pgjobs.enqueue_many('jitter', array_fill('{}'::jsonb, ARRAY[200])));
CREATE FUNCTION pg_temp.fail_all() RETURNS TABLE (attempt int, shortest boolean, longest boolean, differ boolean) LANGUAGE sql AS $$
    SELECT pgjobs.fail(id, token) FROM pgjobs.claim('jitter', 200);
    SELECT attempt, min(wait) >= most / 2 AND min(wait) < most * 0.6, max(wait) <= most AND max(wait) > most * 0.9,
        count(DISTINCT wait) > 100
    FROM (SELECT attempt, run_at - started_at AS wait, least('1 hour'::interval * 2 ^ (attempt - 1), '3 hours') AS most
        FROM pgjobs.jobs WHERE queue = 'jitter') f GROUP BY attempt, most;
$$;
SELECT * FROM pg_temp.fail_all();
SELECT pgjobs._promote(now() + interval '1 day') AS promoted;
SELECT * FROM pg_temp.fail_all();
SELECT pgjobs._promote(now() + interval '1 day') AS promoted;
SELECT * FROM pg_temp.fail_all();
SELECT pgjobs.drop_queue('jitter', force => true);

-- retry_in goes before the backoff, retry => false before the attempts that are left.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT pgjobs.fail(id, token, retry_in => '2 days') FROM pgjobs.claim('plain');
SELECT state, run_at - clock_timestamp() BETWEEN '47 hours' AND '2 days' AS two_days FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.reschedule(:id, now());
SELECT pgjobs.fail(id, token, 'hopeless', retry => false, retry_in => '1 hour') FROM pgjobs.claim('plain');
SELECT state, attempt, max_attempts, error FROM pgjobs.jobs WHERE id = :id;

-- A long error is clipped at 8 kB, between characters.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT pgjobs.fail(id, token, 'x' || repeat('ä', 5000), retry => false) FROM pgjobs.claim('plain');
SELECT octet_length(error), error ~ '^xä+$' AS whole FROM pgjobs.jobs WHERE id = :id;
DO $$
BEGIN
    FOR n IN 8191 .. 8193 LOOP
        PERFORM pgjobs.enqueue('plain', to_jsonb(n));
        PERFORM pgjobs.fail(id, token, repeat('x', n), retry => false) FROM pgjobs.claim('plain');
    END LOOP;
END $$;
SELECT payload AS bytes, octet_length(j.error) AS kept, octet_length(a.error) AS in_attempt FROM pgjobs.jobs j JOIN pgjobs.attempts a ON job_id = id
WHERE j.error LIKE 'xxx%' ORDER BY id;

-- The last hundred attempts are kept.
SELECT pgjobs.enqueue('plain', max_attempts => 200) AS id \gset
DO $$
BEGIN
    FOR n IN 1 .. 101 LOOP
        PERFORM pgjobs.fail(id, token, 'failure ' || n, retry_in => '0') FROM pgjobs.claim('plain');
    END LOOP;
END $$;
SELECT count(*), min(attempt), max(attempt), count(*) FILTER (WHERE error = 'failure ' || attempt) AS right FROM pgjobs.attempts WHERE job_id = :id;
SELECT attempt, jsonb_array_length(attempts), attempts #>> '{99,error}' AS last FROM pgjobs.job(:id);
SELECT pgjobs.cancel(:id);

-- A retry comes behind the work that is already waiting.
SELECT pgjobs.enqueue('plain', '"failing"') > 0 AS added;
SELECT id, token FROM pgjobs.claim('plain') \gset
SELECT pgjobs.enqueue('plain', '"new"') > 0 AS added;
SELECT pgjobs.fail(:id, :token, retry_in => '0');
SELECT payload, attempt FROM pgjobs.claim('plain', 2);
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'plain' AND state = 'running';

-- release: back at once, the attempt is not counted, however often.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT attempt, pgjobs.release(id, token) FROM pgjobs.claim('plain');
SELECT state, attempt, lease_expires_at FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, pgjobs.release(id, token) FROM pgjobs.claim('plain');
SELECT attempt, pgjobs.release(id, token) FROM pgjobs.claim('plain');
SELECT attempt, pgjobs.release(id, token) FROM pgjobs.claim('plain');
SELECT attempt, pgjobs.fail(id, token) FROM pgjobs.claim('plain');
SELECT pgjobs._promote(now() + interval '2 hours') AS promoted;

-- snooze: back later, not counted either.
SELECT attempt, pgjobs.snooze(id, token, '3 hours') FROM pgjobs.claim('plain');
SELECT state, attempt, run_at - clock_timestamp() BETWEEN '2 hours 59 minutes' AND '3 hours' AS later, lease_expires_at
FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs._promote(now() + interval '2 hours') AS promoted;  -- 0
SELECT pgjobs._promote(now() + interval '4 hours') AS promoted;  -- 1
SELECT attempt, pgjobs.snooze(id, token, '0') FROM pgjobs.claim('plain');
SELECT attempt, pgjobs.complete(id, token) FROM pgjobs.claim('plain');

-- extend: never shorter than before; the end of the lease is what it returns.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT token, lease_expires_at AS at FROM pgjobs.claim('plain', lease => '2 hours') \gset
SELECT pgjobs.extend(:id, :token) = :'at' AS unchanged;                       -- the queue's lease is an hour
SELECT pgjobs.extend(:id, :token, '1 minute') = :'at' AS unchanged;
SELECT pgjobs.extend(:id, :token, '3 hours') AS at2 \gset
SELECT :'at2'::timestamptz - :'at'::timestamptz BETWEEN '1 hour' AND '61 minutes' AS longer;
SELECT lease_expires_at = :'at2' AS shown FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs._reap(now() + interval '2 hours 30 minutes') AS reaped;          -- 0
SELECT state FROM pgjobs.jobs WHERE id = :id;

-- progress: seen in job(), forgotten when the job is given back.
SELECT pgjobs.progress(:id, :token, 0.25, 'a quarter');
SELECT progress, note FROM pgjobs.job(:id);
SELECT pgjobs.progress(:id, :token, 0.5);
SELECT progress, note FROM pgjobs.job(:id);
SELECT pgjobs.progress(:id, :token, 0), pgjobs.progress(:id, :token, 1);
SELECT progress, note FROM pgjobs.job(:id);
SELECT pgjobs.release(:id, :token);
SELECT progress, note FROM pgjobs.job(:id);
SELECT pgjobs.cancel(:id);

-- hold: no end of the lease, no heartbeat needed, but one is allowed, also to add an end.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT token, lease_expires_at IS NULL AS endless FROM pgjobs.claim('plain', hold => true) \gset
\echo :endless
SELECT hold, state, lease_expires_at FROM pgjobs.job(:id);
SELECT pgjobs.extend(:id, :token) IS NULL AS endless;
SELECT pgjobs._reap(now() + interval '10 years') AS reaped;  -- 0: this session is there
SELECT pgjobs.extend(:id, :token, '1 hour') > now() AS ends;
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;   -- 1
SELECT state, hold, attempt FROM pgjobs.job(:id);
-- Both: the session or the time, whichever ends first.
SELECT token, lease_expires_at > now() + interval '59 minutes' AS an_hour FROM pgjobs.claim('plain', hold => true, lease => '1 hour') \gset
\echo :an_hour
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;   -- 1
SELECT token FROM pgjobs.claim('plain', hold => true) \gset
SELECT attempt, pgjobs.complete(:id, :token) FROM pgjobs.jobs WHERE id = :id;

-- The session ends: the job is ready again, its attempt counted; nothing but the session's end
-- brought that about.
SELECT pgjobs.enqueue('plain', '"held"') AS id \gset
SELECT token FROM pgjobs.claim('plain', hold => true) \gset
\c
CREATE FUNCTION pg_temp.until(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    met boolean;
BEGIN
    FOR i IN 1..3000 LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        IF met THEN
            RETURN 'met';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN 'not met within 30 seconds';
END $$;
SELECT pg_temp.until(format('EXISTS (SELECT FROM pgjobs.jobs WHERE id = %s AND state = ''ready'')', :id));
SELECT state, attempt, error FROM pgjobs.jobs WHERE id = :id;
DO $$ BEGIN PERFORM pgjobs.complete(1, 1); EXCEPTION WHEN SQLSTATE 'PJ001' THEN RAISE NOTICE 'refused'; END $$;
SELECT pgjobs.cancel(:id);

-- The _many verbs: what was lost is left out, or is an error for all of them.
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
SELECT pgjobs.enqueue_many('ci', ARRAY['1', '2', '3', '4']::jsonb[]) AS ids \gset
SELECT array_agg(token ORDER BY id) AS tokens FROM pgjobs.claim('ci', 4, lease => '1 hour') \gset
SELECT array_agg(CASE WHEN n IN (2, 4) THEN t ELSE 1 END ORDER BY n) AS half FROM unnest(:'tokens'::bigint[]) WITH ORDINALITY AS u (t, n) \gset
SELECT array_agg(array_position(:'ids', i)) FROM unnest(pgjobs.extend_many(:'ids', :'half', '5 hours')) i;
SELECT payload, lease_expires_at > now() + interval '4 hours' AS extended FROM pgjobs.jobs WHERE id = ANY (:'ids') ORDER BY id;
SELECT pg_temp.refused(format('SELECT pgjobs.extend_many(%L, %L, ''9 hours'', on_lost => ''error'')', :'ids', :'half'));
SELECT pg_temp.refused(format('SELECT pgjobs.complete_many(%L, %L, on_lost => ''error'')', :'ids', :'half'));
SELECT pg_temp.refused(format('SELECT pgjobs.fail_many(%L, %L, on_lost => ''error'')', :'ids', :'half'));
SELECT state, count(*), bool_or(lease_expires_at > now() + interval '8 hours') AS extended
FROM pgjobs.jobs WHERE id = ANY (:'ids') GROUP BY state;
-- complete_many: results go with their jobs, in whatever order the ids come; the answer is ascending.
SELECT array_agg(array_position(:'ids', i)) FROM unnest(pgjobs.complete_many(
    ARRAY[(:'ids'::bigint[])[4], (:'ids'::bigint[])[1], (:'ids'::bigint[])[2]],
    ARRAY[(:'tokens'::bigint[])[4], (:'half'::bigint[])[1], (:'tokens'::bigint[])[2]],
    ARRAY['"four"', '"one"', NULL]::jsonb[])) i;
SELECT payload, stage, state, result FROM pgjobs.jobs WHERE id = ANY (:'ids') ORDER BY id;
-- A job named twice is done once.
SELECT array_agg(array_position(:'ids', i)) FROM unnest(pgjobs.complete_many(
    ARRAY[(:'ids'::bigint[])[3], (:'ids'::bigint[])[3]], ARRAY[(:'tokens'::bigint[])[3], (:'tokens'::bigint[])[3]])) i;
SELECT payload, stage, state FROM pgjobs.jobs WHERE id = (:'ids'::bigint[])[3];
-- fail_many: each with its error.
SELECT array_agg(id ORDER BY id) AS ids3, array_agg(token ORDER BY id) AS tokens3 FROM pgjobs.claim('ci', 3) \gset
SELECT cardinality(pgjobs.fail_many(:'ids3', :'tokens3', ARRAY['two failed', NULL, 'four failed']));
SELECT payload, stage, state, error FROM pgjobs.jobs WHERE id = ANY (:'ids') ORDER BY id;
SELECT pgjobs._promote(now() + interval '4 hours') AS promoted;
SELECT array_agg(id ORDER BY id) AS ids3, array_agg(token ORDER BY id) AS tokens3 FROM pgjobs.claim('ci', 3, stage => 'run') \gset
SELECT cardinality(pgjobs.fail_many(:'ids3', :'tokens3', retry => false));
SELECT payload, stage, state FROM pgjobs.jobs WHERE id = ANY (:'ids') ORDER BY id;
SELECT pgjobs.complete_many('{}', '{}') AS completed, pgjobs.fail_many('{}', '{}') AS failed, pgjobs.extend_many('{}', '{}') AS extended;
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'ci' AND state = 'running';

-- A whole life in one transaction, and in one statement.
BEGIN;
SELECT pgjobs.enqueue('ci', '"brief"') AS id \gset
SELECT stage, attempt, pgjobs.complete(id, token, '1') FROM pgjobs.claim('ci');
SELECT stage, attempt, pgjobs.release(id, token) FROM pgjobs.claim('ci');
SELECT stage, attempt, pgjobs.fail(id, token, retry_in => '0') FROM pgjobs.claim('ci');
SELECT stage, attempt, pgjobs.complete(id, token, '2', next_stage => 'report') FROM pgjobs.claim('ci');
SELECT stage, attempt, result, pgjobs.complete(id, token, '3') FROM pgjobs.claim('ci');
COMMIT;
SELECT stage, state, result FROM pgjobs.jobs WHERE id = :id;
SELECT cardinality(pgjobs.enqueue_many('plain', ARRAY['1', '2', '3']::jsonb[]));
SELECT payload, pgjobs.complete(id, token) FROM pgjobs.claim('plain', 3);
SELECT cardinality(pgjobs.enqueue_many('plain', ARRAY['1', '2', '3', '4']::jsonb[]));
INSERT INTO effect SELECT 'claimed ' || payload::text FROM pgjobs.claim('plain', 2) RETURNING what;
WITH work AS (SELECT * FROM pgjobs.claim('plain', 5)),
    done AS (INSERT INTO effect SELECT 'done ' || payload::text FROM work)
SELECT payload, pgjobs.complete(id, token) FROM work;
SELECT what FROM effect ORDER BY what;
SELECT cardinality(pgjobs.enqueue_many('plain', ARRAY['5', '6']::jsonb[]));
SELECT cardinality(pgjobs.complete_many(array_agg(id), array_agg(token))) FROM pgjobs.claim('plain', 10);
-- A LIMIT around it claims no less: max_jobs says how many.
SELECT cardinality(pgjobs.enqueue_many('plain', ARRAY['7', '8', '9']::jsonb[]));
SELECT payload FROM pgjobs.claim('plain', 3) LIMIT 1;
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'plain' AND payload IN ('7', '8', '9') GROUP BY state;
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'plain' AND state = 'running';

-- PL/pgSQL: the claim of a block that fails is undone with it; the job can be claimed again at
-- once, in the same transaction, and its attempt is not counted.
SELECT pgjobs.enqueue('plain', '"poison"') AS id \gset
DO $$
DECLARE
    job pgjobs.claimed_job;
BEGIN
    FOR i IN 1..5 LOOP
        BEGIN
            SELECT * INTO STRICT job FROM pgjobs.claim('plain');
            PERFORM 1 / (job.attempt - 1);
        EXCEPTION WHEN division_by_zero THEN
            RAISE NOTICE 'attempt % failed', job.attempt;
        END;
    END LOOP;
    SELECT * INTO STRICT job FROM pgjobs.claim('plain');
    BEGIN
        PERFORM pgjobs.complete(job.id, job.token);
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE '%', pgjobs.fail(job.id, job.token, SQLERRM);
    END;
    BEGIN
        PERFORM pgjobs.complete(job.id, job.token);
    EXCEPTION WHEN SQLSTATE 'PJ001' THEN
        RAISE NOTICE 'lease lost';
    END;
END $$;
SELECT state, attempt, error FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, outcome, error FROM pgjobs.attempts WHERE job_id = :id;
SELECT pgjobs.cancel(:id);

-- A cursor over claim holds what it has claimed.
SELECT cardinality(pgjobs.enqueue_many('plain', ARRAY['1', '2']::jsonb[]));
BEGIN;
DECLARE c CURSOR FOR SELECT payload, pgjobs.complete(id, token) FROM pgjobs.claim('plain', 2);
FETCH 1 FROM c;
FETCH 1 FROM c;
COMMIT;
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'plain' AND state IN ('ready', 'running');

-- A prepared statement works as any other, with custom plans and then with a generic one.
PREPARE life AS SELECT pgjobs.complete(id, token) FROM pgjobs.claim('plain', 1);
SELECT cardinality(pgjobs.enqueue_many('plain', ARRAY['1', '2', '3', '4', '5', '6', '7']::jsonb[]));
EXECUTE life; EXECUTE life; EXECUTE life; EXECUTE life; EXECUTE life; EXECUTE life; EXECUTE life; EXECUTE life;

DROP TABLE effect;
SELECT pgjobs.drop_queue('plain'), pgjobs.drop_queue('ci', true), pgjobs.drop_queue('forgetful');

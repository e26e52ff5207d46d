-- The same life at every isolation level, and under a hostile search_path.
CREATE FUNCTION pg_temp.refused(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
SELECT pgjobs.create_queue('ci', ARRAY['initialize', 'run'], lease => '1 hour', backoff => '1 hour', max_attempts => 2);

-- A whole life in one transaction.
CREATE PROCEDURE pg_temp.live() LANGUAGE plpgsql AS $$
DECLARE
    job pgjobs.claimed_job;
    first bigint;
    second bigint;
BEGIN
    first := pgjobs.enqueue('ci', '"first"', unique_key => 'k');
    second := pgjobs.enqueue('ci', '"second"', delay => '1 hour');
    RAISE NOTICE 'kept: %', pgjobs.enqueue('ci', unique_key => 'k') = first;
    RAISE NOTICE 'refused: %', pg_temp.refused('SELECT pgjobs.enqueue(''ci'', unique_key => ''k'', on_conflict => ''error'')');
    RAISE NOTICE 'replaced: %', pgjobs.enqueue('ci', '"replaced"', unique_key => 'k', on_conflict => 'replace') = first;
    SELECT * INTO STRICT job FROM pgjobs.claim('ci');
    RAISE NOTICE 'claimed: % %, attempt %', job.payload, job.stage, job.attempt;
    RAISE NOTICE 'nothing left: %', NOT EXISTS (SELECT FROM pgjobs.claim('ci'));
    RAISE NOTICE 'seen: %', (SELECT state FROM pgjobs.jobs WHERE id = first);
    RAISE NOTICE 'extended: %', pgjobs.extend(first, job.token, '2 hours') > job.lease_expires_at;
    PERFORM pgjobs.progress(first, job.token, 0.5);
    PERFORM pgjobs.release(first, job.token);
    RAISE NOTICE 'fenced: %', pg_temp.refused(format('SELECT pgjobs.complete(%s, %s)', first, job.token));
    SELECT * INTO STRICT job FROM pgjobs.claim('ci');
    RAISE NOTICE 'failed: % at attempt %', pgjobs.fail(first, job.token, 'no'), job.attempt;
    RAISE NOTICE 'rescheduled: %', pgjobs.reschedule(first, now());
    SELECT * INTO STRICT job FROM pgjobs.claim('ci');
    RAISE NOTICE 'completed: % at attempt %', pgjobs.complete(first, job.token, '1'), job.attempt;
    RAISE NOTICE 'again: %', pgjobs.complete(first, job.token, '1');
    SELECT * INTO STRICT job FROM pgjobs.claim('ci');
    RAISE NOTICE 'completed: % with %', pgjobs.complete(first, job.token, '2'), job.result;
    RAISE NOTICE 'again: %', pgjobs.complete(first, job.token);
    RAISE NOTICE 'retried: %', pgjobs.retry(first);
    RAISE NOTICE 'cancelled: % %', pgjobs.cancel(first), pgjobs.cancel(first);
    RAISE NOTICE 'promoted: %', pgjobs._promote(now() + interval '2 hours');
    SELECT * INTO STRICT job FROM pgjobs.claim('ci', lease => '1 hour');
    RAISE NOTICE 'reaped: %', pgjobs._reap(now() + interval '2 hours');
    SELECT * INTO STRICT job FROM pgjobs.claim('ci');
    RAISE NOTICE 'dead: %', pgjobs.fail_many(ARRAY[job.id], ARRAY[job.token]) = ARRAY[second];
    RAISE NOTICE 'redriven: %', pgjobs.redrive('ci');
    RAISE NOTICE 'why: %', pgjobs.why(second);
    RAISE NOTICE 'states: %', (SELECT array_agg(state ORDER BY id) FROM pgjobs.jobs WHERE id IN (first, second));
    RAISE NOTICE 'purged: %', pgjobs.purge_queue('ci');
END $$;
BEGIN ISOLATION LEVEL READ COMMITTED;
CALL pg_temp.live();
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL pg_temp.live();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL pg_temp.live();
COMMIT;

-- One step per transaction.
SET default_transaction_isolation = 'repeatable read';
SELECT pgjobs.enqueue('ci', '"rr"') AS id \gset
SELECT stage, attempt, pgjobs.complete(id, token, '1') FROM pgjobs.claim('ci');
SELECT stage, attempt, result, pgjobs.complete(id, token) FROM pgjobs.claim('ci');
SET default_transaction_isolation = 'serializable';
SELECT pgjobs.enqueue('ci', '"s"') AS id \gset
SELECT stage, attempt, pgjobs.complete(id, token, '1') FROM pgjobs.claim('ci');
SELECT stage, attempt, result, pgjobs.complete(id, token) FROM pgjobs.claim('ci');
CALL pgjobs.wait('ci', timeout => '0');
CALL pgjobs.await(:id, '0');
RESET default_transaction_isolation;

-- What a savepoint took back can be claimed again, whatever the snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'ci' AND state = 'ready';
SELECT pgjobs.enqueue('ci') > 0 AS added;
SAVEPOINT s;
SELECT pgjobs.complete(id, token, next_stage => 'run') FROM pgjobs.claim('ci');
ROLLBACK TO s;
SELECT stage, attempt FROM pgjobs.claim('ci');
COMMIT;
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'ci' AND state = 'running';

-- In a read-only transaction nothing is changed; looking is allowed.
BEGIN READ ONLY;
SELECT verb, pg_temp.refused(format('SELECT pgjobs.%s', verb))
FROM unnest(ARRAY['create_queue(''x'')', 'alter_queue(''ci'')', 'drop_queue(''ci'')', 'pause_queue(''ci'')', 'resume_queue(''ci'')',
    'purge_queue(''ci'')', 'enqueue(''ci'')', 'enqueue_many(''ci'', ''{}'')', 'enqueue_batch(''ci'', ''[]'')', 'claim(''ci'')',
    'complete(1, 1)', 'complete_many(''{}'', ''{}'')', 'fail(1, 1)', 'fail_many(''{}'', ''{}'')', 'release(1, 1)',
    'snooze(1, 1, ''1 hour'')', 'extend(1, 1)', 'extend_many(''{}'', ''{}'')', 'progress(1, 1, 0)', 'cancel(1)', 'retry(1)',
    'redrive(''ci'')', 'reschedule(1, now())', 'reprioritize(1, 1)', 'resume()', 'grant_queue(''ci'', ''postgres'', ''{work}'')',
    'revoke_queue(''ci'', ''postgres'', ''{work}'')', '_reap(now())', '_promote(now())', '_expire(now())', '_keep_history(now())']) verb;
SELECT count(id) FROM pgjobs.job(:id);
SELECT pgjobs.why(:id) LIKE 'It was completed at%' AS why;
SELECT count(*) > 0 AS jobs FROM pgjobs.jobs;
SELECT count(*) > 0 AS queues FROM pgjobs.queues;
COMMIT;

-- Nothing depends on the search_path. Here a schema in front has operators, functions, types and
-- tables of its own under the names that pgjobs might use, and each of them says so when it is used.
CREATE SCHEMA evil;
CREATE FUNCTION evil.trap_int4(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_int8(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_int42(int, smallint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_int2(smallint, smallint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_text(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_oid(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_time(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_plus(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_jsonb(jsonb, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.trap_jsonb_text(jsonb, text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE OPERATOR evil.= (FUNCTION = evil.trap_int4, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.= (FUNCTION = evil.trap_int8, LEFTARG = bigint, RIGHTARG = bigint);
CREATE OPERATOR evil.= (FUNCTION = evil.trap_int42, LEFTARG = int, RIGHTARG = smallint);
CREATE OPERATOR evil.= (FUNCTION = evil.trap_int2, LEFTARG = smallint, RIGHTARG = smallint);
CREATE OPERATOR evil.= (FUNCTION = evil.trap_text, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR evil.= (FUNCTION = evil.trap_oid, LEFTARG = oid, RIGHTARG = oid);
CREATE OPERATOR evil.< (FUNCTION = evil.trap_time, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE OPERATOR evil.+ (FUNCTION = evil.trap_plus, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.|| (FUNCTION = evil.trap_jsonb, LEFTARG = jsonb, RIGHTARG = jsonb);
CREATE OPERATOR evil.- (FUNCTION = evil.trap_jsonb_text, LEFTARG = jsonb, RIGHTARG = text);
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.current_database() RETURNS name LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE FUNCTION evil.count() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
CREATE TABLE evil.job (id text);
CREATE TABLE evil.queue (id text);
CREATE TABLE evil.pg_class (relname text);
CREATE TABLE evil.pg_roles (oid text);
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (VALUE IS NULL);
CREATE DOMAIN evil.timestamptz AS pg_catalog.timestamptz CHECK (VALUE IS NULL);
\c
SET search_path = evil, pg_catalog, public;
SELECT 1 = 1;  -- the traps are armed
SELECT pgjobs.create_queue('shadow', ARRAY['a', 'b']::pg_catalog.text[], backoff => '1 hour', max_attempts => 1, dead_letter => 'ci');
SELECT pgjobs.alter_queue('shadow', stages => ARRAY['a', 'b', 'c']::pg_catalog.text[], retention => '2 days');
SELECT pgjobs.enqueue('shadow', '"one"', unique_key => 'k') AS id \gset
SELECT pgjobs.enqueue('shadow', '"two"', unique_key => 'k', on_conflict => 'replace') AS id \gset
SELECT pgjobs.enqueue_many('shadow', '{1,2}'::pg_catalog.jsonb[], delay => '1 hour') IS NOT NULL AS added;
SELECT pgjobs.enqueue_batch('shadow', '[{"delay": "1 hour"}, {"run_at": "2200-01-01", "unique_key": "u"}]') IS NOT NULL AS added;
SELECT id, token FROM pgjobs.claim('shadow') \gset
SELECT pgjobs.extend(:id, :token, '1 day') IS NOT NULL AS extended;
SELECT pgjobs.progress(:id, :token, 0.1, 'note');
SELECT pgjobs.complete(:id, :token, '{"r": 1}');
SELECT pgjobs.complete(:id, :token);
SELECT id, token FROM pgjobs.claim('shadow') \gset
SELECT pgjobs.fail(:id, :token, 'dead');
SELECT pgjobs.retry(:id), pgjobs.cancel(:id), pgjobs.retry(:id);
SELECT id, token FROM pgjobs.claim('shadow') \gset
SELECT pgjobs.complete(:id, :token, next_stage => 'c');
SELECT pgjobs.complete(c.id, c.token) FROM pgjobs.claim('shadow') c;
SELECT pgjobs.retry(:id);
SELECT state, stage, jsonb_array_length(attempts) AS attempts FROM pgjobs.job(:id);
SELECT pgjobs.why(:id);
SELECT queue, stage, state, payload FROM pgjobs.jobs WHERE queue OPERATOR(pg_catalog.=) 'shadow' ORDER BY id;
SELECT name, ready, scheduled FROM pgjobs.queues WHERE name OPERATOR(pg_catalog.=) 'shadow';
SELECT number, stage, ready FROM pgjobs.stages WHERE queue OPERATOR(pg_catalog.=) 'shadow' ORDER BY number;
SELECT attempt, outcome FROM pgjobs.attempts WHERE job_id OPERATOR(pg_catalog.=) :id;
SELECT pg_catalog.count(*) FROM pgjobs.workers;
SELECT pgjobs._promote('2100-01-01'), pgjobs._reap('2100-01-01'), pgjobs._expire('2100-01-01');
SELECT pgjobs._keep_history(pg_catalog.now()) IS NOT NULL AS kept;
SELECT pgjobs.grant_queue('shadow', 'pg_monitor', '{work,monitor}'), pgjobs.revoke_queue('shadow', 'pg_monitor', '{work,monitor}');
CALL pgjobs.wait('shadow', '0');
CALL pgjobs.await(:id, '0');
SELECT pgjobs.pause_queue('shadow'), pgjobs.resume_queue('shadow'), pgjobs.resume();
SELECT pgjobs.redrive('shadow');
SELECT pgjobs.purge_queue('shadow');
SELECT pgjobs.drop_queue('shadow');

-- An empty search_path does as well.
SET search_path = '';
SELECT pgjobs.enqueue('ci') AS id \gset
SELECT stage, pgjobs.complete(id, token) FROM pgjobs.claim('ci');
SELECT state FROM pgjobs.jobs WHERE id = :id;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;
SELECT pgjobs.drop_queue('ci', force => true);

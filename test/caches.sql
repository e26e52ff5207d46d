-- One life of each kind, for a server that forgets every cached entry whenever it could
-- (debug_discard_caches): what the library keeps pointing to must not be in one. test/assert runs it.
\set ON_ERROR_STOP on
CREATE FUNCTION pg_temp.ok(good boolean, name text) RETURNS text LANGUAGE sql
RETURN CASE WHEN good THEN 'ok - ' ELSE 'not ok - ' END || name;

SELECT pgjobs.create_queue('dead');
SELECT pgjobs.create_queue('q', ARRAY['build', 'ship'], lease => '1 minute', backoff => '1 hour', max_attempts => 2,
    notify => 'events', dead_letter => 'dead');

-- Added one by one and many at a time, with everything that a job can have.
SELECT pgjobs.enqueue('q', '{"n": 1}', priority => 1, unique_key => 'k', headers => '{"h": 1}') AS first \gset
SELECT pg_temp.ok(pgjobs.enqueue('q', '{"n": 2}', unique_key => 'k', on_conflict => 'replace') = :first, 'replaced');
SELECT pg_temp.ok(cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[20]))) = 20, 'added many');
SELECT pg_temp.ok(cardinality(pgjobs.enqueue_batch('q', '[{"payload": {"x": 1}, "stage": "ship"}]')) = 1, 'added a batch');
SELECT pgjobs.enqueue('q', '{}', delay => '1 hour') AS later \gset
SELECT pg_temp.ok(pgjobs.reschedule(:later, now()), 'rescheduled');
SELECT pg_temp.ok(pgjobs.reprioritize(:later, -5), 'reprioritized');

-- Through its stages into the history.
SELECT id, token FROM pgjobs.claim('q', stage => 'build') \gset
SELECT pg_temp.ok(:id = :later, 'the first by priority');
SELECT pg_temp.ok(pgjobs.extend(:id, :token, '2 minutes') > now() + interval '1 minute', 'extended');
SELECT pgjobs.progress(:id, :token, 0.5, 'half') IS NULL;
SELECT pg_temp.ok(pgjobs.complete(:id, :token, '{"r": 1}') = 'ready', 'completed a stage');
SELECT pg_temp.ok(pgjobs.complete(:id, :token) = 'ready', 'completed it again');
SELECT id, token FROM pgjobs.claim('q', stage => 'ship') \gset
SELECT pg_temp.ok(pgjobs.complete(:id, :token) = 'completed', 'completed');
SELECT pg_temp.ok(pgjobs.complete(:id, :token) = 'completed', 'completed it again');

-- Many at a time, and given back in every way.
CREATE TEMP TABLE claimed AS SELECT id, token, row_number() OVER () AS n FROM pgjobs.claim('q', 9, stage => 'build');
SELECT pg_temp.ok(cardinality(pgjobs.extend_many(array_agg(id), array_agg(token))) = 9, 'extended many') FROM claimed;
SELECT pg_temp.ok(cardinality(pgjobs.complete_many(array_agg(id), array_agg(token))) = 3, 'completed many') FROM claimed WHERE n <= 3;
SELECT pg_temp.ok(cardinality(pgjobs.fail_many(array_agg(id), array_agg(token), retry => false)) = 2, 'failed many')
FROM claimed WHERE n IN (4, 5);
SELECT pgjobs.release(id, token) IS NULL FROM claimed WHERE n = 6;
SELECT pgjobs.snooze(id, token, '1 hour') IS NULL FROM claimed WHERE n = 7;
SELECT pg_temp.ok(pgjobs.fail(id, token, 'no luck') = 'scheduled', 'failed') FROM claimed WHERE n = 8;
SELECT pg_temp.ok(pgjobs.cancel(id), 'cancelled') FROM claimed WHERE n = 9;
SELECT pg_temp.ok(pgjobs.retry(id), 'retried') FROM claimed WHERE n = 9;
SELECT pg_temp.ok(pgjobs.redrive('q') = 2, 'redriven');

-- Savepoints, errors and rollbacks.
BEGIN;
SELECT count(*) FROM pgjobs.claim('q', 2, stage => 'build');
SAVEPOINT s;
SELECT pgjobs.enqueue('q') IS NOT NULL;
ROLLBACK TO s;
SELECT pgjobs.enqueue('q', '{"n": 3}') AS kept \gset
COMMIT;
DO $$ BEGIN PERFORM pgjobs.complete(1, 1); EXCEPTION WHEN SQLSTATE 'PJ001' THEN NULL; END $$;

-- The duties.
SELECT pg_temp.ok(pgjobs._reap(now() + interval '1 hour') = 2, 'reaped');
SELECT pg_temp.ok(pgjobs._promote(now() + interval '3 hours') >= 2, 'promoted');
SELECT pg_temp.ok(pgjobs._check_leases() = 0, 'the list of leases is complete');
SELECT pg_temp.ok(pgjobs._check_frontier() = 0, 'the frontier is right');

-- A topic, read by a subscription and by a queue.
SELECT pgjobs.create_topic('t');
SELECT pgjobs.subscribe('s', 't');
SELECT pg_temp.ok(cardinality(pgjobs.publish_many('t', array_fill('{}'::jsonb, ARRAY[3]))) = 3, 'published');
SELECT pg_temp.ok(count(*) = 3, 'read') FROM pgjobs.read('t', 0);
SELECT max(position) AS position, max(token) AS token FROM pgjobs.receive('s') \gset
SELECT pgjobs.ack('s', :token, :position);
SELECT pg_temp.ok(count(*) = 0, 'acknowledged') FROM pgjobs.receive('s');

-- Other rules, and the end.
SELECT pgjobs.alter_queue('q', stages => ARRAY['build', 'ship', 'tell'], lease => '2 minutes');
SELECT pgjobs.pause_queue('q');
SELECT pg_temp.ok(count(*) = 0, 'paused') FROM pgjobs.claim('q');
SELECT pgjobs.resume_queue('q');
CALL pgjobs.wait('q', '10 seconds');
SELECT pg_temp.ok(count(*) = 2, 'completed and claimed') FROM pgjobs.complete_and_claim('q', max_jobs => 2);
SELECT pg_temp.ok(pgjobs.purge_queue('q') > 0, 'purged');
SELECT pg_temp.ok(pgjobs.drop_queue('q', force => true), 'dropped');

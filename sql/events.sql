-- events_topic: every change of a job's state is published, in the transaction that makes it.
\set SHOW_CONTEXT never
SELECT pgjobs.create_topic('events');
SELECT pgjobs.create_queue('builds', ARRAY['clone', 'test'], max_attempts => 2, backoff => '1 hour', events_topic => 'events');
SELECT name, events_topic FROM pgjobs.queues;
SET application_name = 'tester';
-- The events since the last look; jobs by the order in which they were made.
SELECT set_config('test.place', '0', false) IS NOT NULL AS set;
CREATE TEMP TABLE made (n serial, id bigint);
CREATE FUNCTION pg_temp.events() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    FOR m IN SELECT * FROM pgjobs.read('events', current_setting('test.place')::bigint, 10000) LOOP
        INSERT INTO made (id) SELECT (m.payload ->> 'job')::bigint WHERE NOT EXISTS (SELECT FROM made WHERE id = (m.payload ->> 'job')::bigint);
        RETURN NEXT format('%s %s: %s -> %s, attempt %s, rev %s%s%s%s', m.payload ->> 'queue', (SELECT n FROM made WHERE id = m.key::bigint), COALESCE(m.payload ->> 'from', 'new'),
            (m.payload ->> 'to') || ' in ' || (m.payload ->> 'stage'), m.payload ->> 'attempt', m.payload ->> 'rev', ', worker ' || (m.payload ->> 'worker'),
            ', error ' || (m.payload ->> 'error_class'),
            CASE WHEN (m.payload ->> 'at')::timestamptz NOT BETWEEN now() - interval '1 hour' AND clock_timestamp() THEN ' at another time' END);
        PERFORM set_config('test.place', m.position::text, false);
    END LOOP;
END $$;

-- ---- the life of a job ----

SELECT pgjobs.enqueue('builds', '"secret payload"', headers => '{"h": "secret header"}') AS id \gset
SELECT token FROM pgjobs.claim('builds', worker => 'w1') \gset
SELECT pgjobs.progress(:id, :token, 0.5, 'secret note'), pgjobs.extend(:id, :token) IS NOT NULL AS extended;
SELECT pgjobs.complete(:id, :token, '"secret result"');
SELECT token FROM pgjobs.claim('builds') \gset
SELECT pgjobs.complete(:id, :token, '"secret result"');
SELECT pgjobs.complete(:id, :token, '"secret result"');
SELECT * FROM pg_temp.events();
-- What else is in them, and what is not.
SELECT key = payload ->> 'job' AS key_is_job, headers, ARRAY(SELECT k FROM jsonb_object_keys(payload) k ORDER BY k COLLATE "C") AS members, m::text ~ 'secret' AS secret
FROM pgjobs.read('events', 0, 1) m;
SELECT count(*) FROM pgjobs.read('events', 0) m WHERE m::text ~ 'secret';

-- ---- failure, and what comes after ----

SELECT pgjobs.enqueue('builds') AS id \gset
SELECT pgjobs.fail(id, token, 'TimeoutError: secret host does not answer') FROM pgjobs.claim('builds', worker => 'w1');
SELECT pgjobs.reschedule(:id, now());
SELECT pgjobs._promote(clock_timestamp()) >= 0 AS promoted;
SELECT pgjobs.fail(id, token, 'something secret went wrong') FROM pgjobs.claim('builds', worker => 'w1');
SELECT pgjobs.retry(:id);
SELECT pgjobs.fail(id, token, 'app.errors.Broken', retry => false) FROM pgjobs.claim('builds', worker => 'w1');
SELECT pgjobs.redrive('builds');
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('builds', worker => 'w1');
SELECT pgjobs.redrive('builds');
SELECT pgjobs.cancel(:id);
SELECT * FROM pg_temp.events();
SELECT count(*) FROM pgjobs.read('events', 0) m WHERE m::text ~ 'secret';
SELECT pgjobs.enqueue('builds') AS id \gset
SELECT pgjobs.release(id, token) FROM pgjobs.claim('builds', worker => 'w1');
SELECT pgjobs.snooze(id, token, '1 hour') FROM pgjobs.claim('builds', worker => 'w1');
SELECT pgjobs.reschedule(:id, now());
SELECT pgjobs._promote(clock_timestamp()) >= 0 AS promoted;
SELECT pgjobs.reprioritize(:id, 1);
SELECT count(*) FROM pgjobs.claim('builds', worker => 'w1', lease => '1 hour');
SELECT pgjobs._reap(clock_timestamp() + '2 hours');
SELECT count(*) FROM pgjobs.claim('builds', worker => 'w1', lease => '1 hour');
SELECT pgjobs.cancel(:id);
SELECT pgjobs.enqueue('builds', delay => '1 hour', expires_at => now() + '2 hours') IS NOT NULL AS enqueued;
SELECT pgjobs._expire(clock_timestamp() + '3 hours');
SELECT * FROM pg_temp.events();

-- ---- in batches ----

SELECT cardinality(pgjobs.enqueue_many('builds', ARRAY['1', '2', '3']::jsonb[])), cardinality(pgjobs.enqueue_batch('builds', '[{}, {"stage": "test"}]'));
SELECT count(*) FROM pgjobs.claim('builds', 10, worker => 'w2');
SELECT cardinality(pgjobs.complete_many(ARRAY(SELECT id FROM pgjobs.job ORDER BY id), ARRAY(SELECT token FROM pgjobs.job ORDER BY id)));
SELECT cardinality(pgjobs.fail_many(array_agg(id ORDER BY id), array_agg(token ORDER BY id), retry => false)) FROM pgjobs.claim('builds', 2, worker => 'w2');
SELECT pgjobs.purge_queue('builds');
SELECT * FROM pg_temp.events();
SELECT count(pgjobs.enqueue('builds')) FROM generate_series(1, 700);
SELECT count(*) FROM pg_temp.events();
SELECT pgjobs.purge_queue('builds');
SELECT count(*), count(DISTINCT events) FROM pg_temp.events();

-- ---- with its transaction ----

BEGIN;
SELECT pgjobs.enqueue('builds') IS NOT NULL AS enqueued;
ROLLBACK;
SELECT * FROM pg_temp.events();
BEGIN;
SELECT pgjobs.enqueue('builds', '1') AS id \gset
SAVEPOINT a;
SELECT count(*) FROM pgjobs.claim('builds', worker => 'w3');
SELECT pgjobs.enqueue('builds', '2') IS NOT NULL AS enqueued;
ROLLBACK TO a;
SAVEPOINT b;
SELECT pgjobs.cancel(:id);
RELEASE b;
SELECT count(*) AS seen_before_the_commit FROM pg_temp.events();
COMMIT;
SELECT * FROM pg_temp.events();

-- ---- by plain SQL ----

CREATE TEMP TABLE pattern AS SELECT * FROM pgjobs.job LIMIT 0;
SELECT pgjobs.enqueue('builds', '"by SQL"') AS id \gset
UPDATE pgjobs.job SET token = 1, attempt = attempt + 1, worker = 'by hand', rev = rev + 1, started_at = now(), lease_expires_at = now() + '1 hour';
UPDATE pgjobs.job SET note = 'no change of state';
DELETE FROM pgjobs.job;
SELECT * FROM pg_temp.events();
SELECT pgjobs.enqueue('builds', '"copied"') AS id \gset
INSERT INTO pattern SELECT * FROM pgjobs.job;
DELETE FROM pgjobs.job;
SELECT count(*) FROM pg_temp.events();
UPDATE pattern SET id = nextval('pgjobs.job_id_seq');
INSERT INTO pgjobs.job SELECT * FROM pattern;
SELECT * FROM pg_temp.events();
DELETE FROM pgjobs.job;
UPDATE pattern SET id = nextval('pgjobs.job_id_seq');
COPY pattern TO PROGRAM 'cat > events.copy';
COPY pgjobs.job FROM PROGRAM 'cat events.copy && rm events.copy';
SELECT * FROM pg_temp.events();
DELETE FROM pgjobs.job;

-- ---- other topics, none, and those that are gone ----

SELECT pgjobs.create_topic('others');
SELECT pgjobs.create_queue('two', events_topic => 'others');
BEGIN;
SELECT pgjobs.enqueue(q) IS NOT NULL AS enqueued FROM unnest('{builds,two,builds}'::text[]) q;
COMMIT;
SELECT * FROM pg_temp.events();
SELECT payload ->> 'queue' AS queue, payload ->> 'to' AS "to" FROM pgjobs.read('others', 0);
SELECT pgjobs.alter_queue('two', events_topic => 'events');
SELECT pgjobs.cancel(id) FROM pgjobs.jobs WHERE queue = 'two';
SELECT pgjobs.alter_queue('two', max_attempts => 3), pgjobs.enqueue('two') IS NOT NULL AS enqueued;
SELECT * FROM pg_temp.events();
SELECT pgjobs.alter_queue('two', events_topic => '');
SELECT pgjobs.enqueue('two') IS NOT NULL AS enqueued;
SELECT * FROM pg_temp.events();
SELECT name, events_topic FROM pgjobs.queues ORDER BY name;
SELECT pgjobs.drop_topic('others');
BEGIN;
SELECT pgjobs.enqueue('builds') IS NOT NULL AS enqueued;
SELECT pgjobs.alter_queue('builds', events_topic => ''), pgjobs.drop_topic('events');
COMMIT;
SELECT count(*) FROM pgjobs.topics;
SELECT pgjobs.enqueue('builds') IS NOT NULL AS enqueued;
-- A dropped queue's jobs leave no event, and no trouble.
SELECT pgjobs.create_topic('events'), pgjobs.alter_queue('builds', events_topic => 'events');
SELECT pgjobs.drop_queue('builds', force => true), pgjobs.drop_queue('two', force => true);
SELECT count(*) FROM pgjobs.read('events', 0);

-- ---- a watcher of the run, and the mail that goes out when it fails ----

SELECT pgjobs.create_queue('runs', max_attempts => 1, events_topic => 'events'), pgjobs.create_queue('mail');
SELECT pgjobs.subscribe('web', 'events'), pgjobs.subscribe_queue('mail', 'events');
SELECT pgjobs.enqueue('runs') IS NOT NULL AS enqueued;
SELECT pgjobs.fail(id, token, 'Broken: it') FROM pgjobs.claim('runs');
SELECT string_agg(payload ->> 'to', ' ' ORDER BY position) FROM pgjobs.receive('web');
SELECT pgjobs._deliver(clock_timestamp()) >= 0 AS delivered;
SELECT payload ->> 'to' AS "to", payload ->> 'error_class' AS class FROM pgjobs.jobs WHERE queue = 'mail' ORDER BY id;
SELECT pgjobs.drop_queue('runs', force => true), pgjobs.drop_queue('mail', force => true), pgjobs.drop_topic('events');

-- Queues that subscribe to topics: each message becomes one job in each of them.
\set SHOW_CONTEXT never
-- The worker delivers by itself; whoever wants to look delivers what is left.
CREATE FUNCTION pg_temp.jobs(queue text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgjobs._deliver(clock_timestamp());
    RETURN (SELECT string_agg(payload #>> '{}', ' ' ORDER BY id) FROM pgjobs.jobs j WHERE j.queue = jobs.queue);
END $$;

SELECT pgjobs.create_topic('builds'), pgjobs.create_topic('other');
SELECT pgjobs.create_queue('mail'), pgjobs.create_queue('audit', ARRAY['check', 'store'], max_attempts => 3), pgjobs.create_queue('idle');
SELECT pgjobs.publish('builds', '"before"') IS NOT NULL AS published;
SELECT pgjobs.subscribe_queue('mail', 'builds');
SELECT pgjobs.subscribe_queue('audit', 'builds', key_pattern => 'main/%', stage => 'store');
SELECT name, topic, queue, key_pattern, lag_messages, reader, lease_expires_at FROM pgjobs.subscriptions ORDER BY queue;
SELECT pgjobs.publish('builds', '1', key => 'main/a', headers => '{"trace": "abc", "message": "mine"}') AS one \gset
SELECT pgjobs.publish_many('builds', '{2,3,4}', keys => ARRAY['side/a', NULL, 'main/b']) IS NOT NULL AS published;
SELECT pgjobs.publish('other', '"elsewhere"', key => 'main/a') IS NOT NULL AS published;
SELECT pg_temp.jobs('mail'), pg_temp.jobs('audit'), pg_temp.jobs('idle');
-- What the job knows of its message.
SELECT queue, stage, state, max_attempts, payload, headers - 'message' AS headers, headers #>> '{message,topic}' AS topic, headers #>> '{message,key}' AS key,
    (headers #>> '{message,position}')::bigint = :one AS position,
    (headers #>> '{message,published_at}')::timestamptz = (SELECT published_at FROM pgjobs.read('builds', :one - 1, 1)) AS at,
    (SELECT count(*) FROM jsonb_object_keys(headers -> 'message')) AS facts
FROM pgjobs.jobs WHERE payload = '1' ORDER BY queue;
SELECT headers #>> '{message,key}' AS key, headers -> 'message' ? 'key' AS has_key FROM pgjobs.jobs WHERE payload = '3';
SELECT stage, payload, pgjobs.complete(id, token) FROM pgjobs.claim('audit');
-- Once is once.
SELECT pgjobs._deliver(clock_timestamp()), pgjobs._deliver(clock_timestamp());
SELECT queue, lag_messages FROM pgjobs.subscriptions ORDER BY queue;

-- ---- only what is committed ----

BEGIN;
SELECT pgjobs.publish('builds', '5') IS NOT NULL AS published;
SELECT pgjobs._deliver(clock_timestamp());
SAVEPOINT a;
SELECT pgjobs.publish('builds', '"undone"') IS NOT NULL AS published;
ROLLBACK TO a;
COMMIT;
BEGIN;
SELECT pgjobs.publish('builds', '"rolled back"') IS NOT NULL AS published;
ROLLBACK;
SELECT pgjobs.publish('builds', '6') IS NOT NULL AS published;
SELECT pg_temp.jobs('mail');
BEGIN;
SELECT pgjobs.subscribe_queue('idle', 'builds');
SELECT pgjobs.publish('builds', '7') IS NOT NULL AS published;
ROLLBACK;
BEGIN;
SELECT pgjobs.publish('builds', '8') IS NOT NULL AS published;
SELECT pgjobs.subscribe_queue('idle', 'builds');
COMMIT;
SELECT pg_temp.jobs('mail'), pg_temp.jobs('idle');
SELECT pgjobs.unsubscribe_queue('idle', 'builds');

-- ---- patterns ----

SELECT pgjobs.purge_queue('mail') > 0, pgjobs.purge_queue('audit') > 0, pgjobs.purge_queue('idle') > 0;
CREATE PROCEDURE pg_temp.match(pattern text, INOUT result text DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgjobs.subscribe_queue('idle', 'other', pattern);
    COMMIT;
    PERFORM pgjobs._deliver(clock_timestamp());
    COMMIT;
    PERFORM pgjobs.purge_queue('idle');
    PERFORM pgjobs.publish_many('other', array_agg(to_jsonb(COALESCE(k, 'none'))), array_agg(k))
    FROM unnest(ARRAY['a', 'A', 'ab', 'a%b', 'a_b', 'ä', 'a\b', NULL, repeat('k', 255)]) k;
    COMMIT;
    PERFORM pgjobs._deliver(clock_timestamp());
    COMMIT;
    SELECT string_agg(left(payload #>> '{}', 5), ' ' ORDER BY id) INTO result FROM pgjobs.jobs WHERE queue = 'idle';
END $$;
CALL pg_temp.match(NULL);
CALL pg_temp.match('%');
CALL pg_temp.match('a');
CALL pg_temp.match('a%');
CALL pg_temp.match('a_b');
CALL pg_temp.match('a\_b');
CALL pg_temp.match('a\%b');
CALL pg_temp.match('a\\b');
CALL pg_temp.match('_');
CALL pg_temp.match('%k');
CALL pg_temp.match('nothing');
SELECT pgjobs.unsubscribe_queue('idle', 'other');
-- Called again, it changes pattern and stage, and delivers nothing twice.
SELECT pgjobs.publish_many('builds', '{1,2}', '{main/a,side/a}') IS NOT NULL AS published;
SELECT pg_temp.jobs('audit');
SELECT pgjobs.subscribe_queue('audit', 'builds', key_pattern => 'side/%');
SELECT count(*), min(key_pattern) FROM pgjobs.subscriptions WHERE queue = 'audit';
SELECT pgjobs.publish_many('builds', '{3,4}', '{main/a,side/a}') IS NOT NULL AS published;
SELECT pg_temp.jobs('audit');
SELECT payload, stage FROM pgjobs.jobs WHERE queue = 'audit' ORDER BY id;

-- ---- many, large, and of every kind ----

SELECT pgjobs.purge_queue('mail') > 0, pgjobs.purge_queue('audit') > 0;
SELECT pgjobs.unsubscribe_queue('audit', 'builds');
SELECT cardinality(pgjobs.publish_many('builds', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 1700) n))) AS published;
SELECT cardinality(string_to_array(pg_temp.jobs('mail'), ' '));
SELECT lag_messages FROM pgjobs.subscriptions WHERE queue = 'mail';
SELECT count(DISTINCT payload), sum(payload::bigint), bool_and(in_order) FROM (SELECT payload, payload::bigint > COALESCE(lag(payload::bigint) OVER (ORDER BY id), 0) AS in_order
    FROM pgjobs.jobs WHERE queue = 'mail') j;
SELECT pgjobs.purge_queue('mail');
-- A key that the server stores compressed, and payloads out of line.
CREATE FUNCTION pg_temp.noise(length integer) RETURNS text LANGUAGE sql AS $$
    SELECT left(string_agg(md5(n::text), ''), length) FROM generate_series(1, length / 32 + 1) n $$;
SELECT pgjobs.publish('builds', to_jsonb(pg_temp.noise(size)), key => repeat('key ', 63), headers => jsonb_build_object('h', pg_temp.noise(size / 2))) IS NOT NULL AS published
FROM unnest(ARRAY[100, 1100, 1300, 1500, 1700, 1850, 1950, 2500, 100000]) size;
SELECT pg_temp.jobs('mail') IS NOT NULL;
SELECT length(payload #>> '{}') AS length, payload #>> '{}' = pg_temp.noise(length(payload #>> '{}')) AS payload, headers ->> 'h' = pg_temp.noise(length(payload #>> '{}') / 2) AS header,
    headers #>> '{message,key}' = repeat('key ', 63) AS key
FROM pgjobs.jobs WHERE queue = 'mail' ORDER BY id;
SELECT pgjobs.purge_queue('mail');

-- ---- what is not delivered is kept ----

SELECT pgjobs.create_topic('kept', retention => '8 minutes');
SELECT pgjobs.subscribe_queue('idle', 'kept');
SELECT pgjobs.publish('kept', '1') IS NOT NULL AS published;
SELECT pg_temp.jobs('idle') IS NOT NULL AS delivered;
-- As if it had not been.
BEGIN;
UPDATE pgjobs.feed SET position = 0 WHERE topic_id = (SELECT id FROM pgjobs.topic WHERE name = 'kept');
SELECT pgjobs._keep_topics(clock_timestamp() + '1 hour'), pgjobs._keep_topics(clock_timestamp() + '2 hours');
SELECT segments, pruned_to FROM pgjobs.topics WHERE name = 'kept';
COMMIT;
SELECT pgjobs._deliver(clock_timestamp()) >= 0 AS delivered, pgjobs._keep_topics(clock_timestamp() + '3 hours'); -- perhaps by the worker
SELECT segments, pruned_to > 0 AS pruned FROM pgjobs.topics WHERE name = 'kept';
SELECT pgjobs.purge_queue('idle');

-- ---- the end ----

SELECT pgjobs.unsubscribe_queue('idle', 'kept');
SELECT pgjobs.unsubscribe_queue('idle', 'kept');
SELECT pgjobs.subscribe_queue('idle', 'kept'), pgjobs.subscribe_queue('idle', 'builds');
SELECT pgjobs.drop_topic('kept');
SELECT topic, queue FROM pgjobs.subscriptions ORDER BY topic, queue;
SELECT pgjobs.drop_queue('idle');
SELECT topic, queue FROM pgjobs.subscriptions ORDER BY topic, queue;
SELECT pgjobs.publish('builds', '"last"') IS NOT NULL AS published;
SELECT pg_temp.jobs('mail');
-- A queue that was made anew is another one.
SELECT pgjobs.drop_queue('mail', force => true), pgjobs.create_queue('mail');
SELECT pgjobs.publish('builds', '"nobody is there"') IS NOT NULL AS published;
SELECT pg_temp.jobs('mail');
SELECT pgjobs.drop_queue('mail'), pgjobs.drop_queue('audit'), pgjobs.drop_topic('builds'), pgjobs.drop_topic('other');
SELECT count(*) FROM pgjobs.feed;

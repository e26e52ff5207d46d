-- Subscriptions: each has its own place, one reader at a time, and moves when he acknowledges.
\set SHOW_CONTEXT never
CREATE FUNCTION pg_temp.got(subscription text, most bigint DEFAULT 100, lease interval DEFAULT '1 hour') RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(r.payload #>> '{}', ' ' ORDER BY r.position) FROM pgjobs.receive(subscription, most, lease) r $$;
-- As a client does: receives, acknowledges all of it.
CREATE FUNCTION pg_temp.take(subscription text, most bigint DEFAULT 100) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    SELECT string_agg(m.payload #>> '{}', ' ' ORDER BY m.position) AS text, max(m.token) AS token, max(m.position) AS position
    INTO r FROM pgjobs.receive(subscription, most) m;
    IF r.token IS NOT NULL THEN PERFORM pgjobs.ack(subscription, r.token, r.position); END IF;
    RETURN r.text;
END $$;

-- ---- where they begin ----

SELECT pgjobs.create_topic('builds');
SELECT pgjobs.publish('builds', '1') AS one \gset
SELECT pgjobs.publish('builds', '2') AS two \gset
SELECT published_at AS at_two FROM pgjobs.read('builds', :one) \gset
SELECT pgjobs.publish('builds', '3') AS three \gset
SELECT pgjobs.subscribe('now', 'builds'), pgjobs.subscribe('all', 'builds', from_position => 0), pgjobs.subscribe('second', 'builds', from_position => :two),
    pgjobs.subscribe('time', 'builds', from_time => :'at_two'), pgjobs.subscribe('later', 'builds', from_time => '2999-01-01'),
    pgjobs.subscribe('future', 'builds', from_position => :three + 2);
SELECT name, pg_temp.take(name) FROM unnest('{now,all,second,time,later,future}'::text[]) name;
SELECT pgjobs.publish_many('builds', '{4,5}') IS NOT NULL AS published;
SELECT name, pg_temp.take(name) FROM unnest('{now,all,second,time,later,future}'::text[]) name;
SELECT name, topic, queue, lag_messages, lag_time, reader, lease_expires_at FROM pgjobs.subscriptions ORDER BY name;
SELECT name, subscriptions FROM pgjobs.topics;
SELECT pgjobs.unsubscribe(name) FROM unnest('{now,all,second,time,later,future}'::text[]) name;
-- A message of the transaction itself comes after from now on.
BEGIN;
SELECT pgjobs.publish('builds', '6') IS NOT NULL AS published;
SELECT pgjobs.subscribe('s', 'builds');
SELECT pg_temp.got('s');
COMMIT;
SELECT pg_temp.take('s');
BEGIN;
SELECT pgjobs.subscribe('undone', 'builds');
ROLLBACK;
SELECT pg_temp.got('undone');

-- ---- receive and ack ----

SELECT pgjobs.publish_many('builds', '{1,2,3,4,5,6}') AS p \gset
SET application_name = 'reader one';
SELECT position = (:'p'::bigint[])[payload::integer] AS right, topic, payload, token > 0 AS token FROM pgjobs.receive('s', 2);
-- Until then, nobody gets anything else.
SELECT pg_temp.got('s');
SELECT name, lag_messages, reader, lease_expires_at > now() AS leased FROM pgjobs.subscriptions;
SELECT token FROM pgjobs.subscription \gset
-- A part of it: the rest comes again when the lease has ended, or with the rest acknowledged, what is behind it.
SELECT pgjobs.ack('s', :token, (:'p'::bigint[])[1]);
SELECT pg_temp.got('s'), (SELECT reader FROM pgjobs.subscriptions);
SELECT pgjobs.ack('s', :token, (:'p'::bigint[])[3]);
SELECT pgjobs.ack('s', :token, (:'p'::bigint[])[2]);
SELECT lag_messages, reader, lease_expires_at FROM pgjobs.subscriptions;
-- Repeated: nothing changes. Beyond, or of another token: refused.
SELECT pgjobs.ack('s', :token, (:'p'::bigint[])[2]), pgjobs.ack('s', :token, (:'p'::bigint[])[1]);
SELECT pgjobs.ack('s', :token, (:'p'::bigint[])[3]);
\echo :LAST_ERROR_SQLSTATE
SELECT pgjobs.ack('s', :token % 2 + 1, (:'p'::bigint[])[2]);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.take('s', 1), pg_temp.take('s', 1);
-- Once somebody has received again and moved on, the token from before is no good.
SELECT pgjobs.ack('s', :token, (:'p'::bigint[])[2]);
\echo :LAST_ERROR_SQLSTATE

-- ---- the lease ends ----

SELECT count(*), min(token) AS token FROM pgjobs.receive('s', 1, lease => '1 millisecond') \gset first_
CALL pgjobs.wait_message('s', '20 seconds');
-- As long as nobody else has received, the token is good.
SELECT pgjobs.ack('s', :first_token, (:'p'::bigint[])[5]);
SELECT count(*), min(token) AS token FROM pgjobs.receive('s', 1, lease => '1 millisecond') \gset second_
CALL pgjobs.wait_message('s', '20 seconds');
SELECT count(*), min(token) AS token FROM pgjobs.receive('s', 1) \gset third_
SELECT :second_count, :third_count, :second_token <> :third_token AS other;
SELECT pgjobs.ack('s', :second_token, (:'p'::bigint[])[6]);
\echo :LAST_ERROR_SQLSTATE
SELECT pgjobs.ack('s', :third_token, (:'p'::bigint[])[6]);
CALL pgjobs.wait_message('s', '10 milliseconds');
SELECT pg_temp.got('s');

-- ---- transaction mode ----

SELECT pgjobs.publish_many('builds', '{7,8}') IS NOT NULL AS published;
BEGIN;
SELECT pg_temp.take('s');
ROLLBACK;
BEGIN;
SELECT pg_temp.take('s', 1);
SAVEPOINT a;
SELECT pg_temp.take('s', 1);
ROLLBACK TO a;
SELECT pg_temp.take('s', 1);
SELECT pg_temp.take('s', 1);
ROLLBACK TO a;
COMMIT;
SELECT pg_temp.take('s'), pg_temp.take('s');
-- Receiving twice in one transaction: the lease is there.
SELECT pgjobs.publish_many('builds', '{9}') IS NOT NULL AS published;
BEGIN;
SELECT pg_temp.got('s');
SELECT pg_temp.got('s');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM pgjobs.log WHERE false;
SELECT pg_temp.take('s');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pgjobs.publish('builds', '10') IS NOT NULL AS published;
SELECT pg_temp.take('s');
COMMIT;
BEGIN READ ONLY;
SELECT pg_temp.take('s');
ROLLBACK;
SELECT pg_temp.take('s');
BEGIN;
CALL pgjobs.wait_message('s', '1 second');
ROLLBACK;
DO $$ DECLARE ready boolean; BEGIN CALL pgjobs.wait_message('s', '0', ready); RAISE NOTICE 'ready: %', ready; END $$;
-- In a PL/pgSQL loop, with the effects in the same transaction.
CREATE TEMP TABLE effects (n integer);
DO $$ DECLARE ready boolean; BEGIN INSERT INTO effects VALUES (1); CALL pgjobs.wait_message('s', '0', ready); END $$;
SELECT pgjobs.publish_many('builds', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 2000) n)) IS NOT NULL AS published;
DO $$
DECLARE
    m record;
    last bigint;
BEGIN
    LOOP
        last := NULL;
        FOR m IN SELECT * FROM pgjobs.receive('s', 300) LOOP
            INSERT INTO effects VALUES (m.payload::integer);
            last := m.position;
        END LOOP;
        EXIT WHEN last IS NULL;
        PERFORM pgjobs.ack('s', m.token, last);
        COMMIT;
    END LOOP;
END $$;
SELECT count(*), count(DISTINCT n), sum(n) FROM effects;

-- ---- seek ----

SELECT pgjobs.drop_topic('builds');
SELECT count(*) FROM pgjobs.subscriptions;
SELECT pg_temp.got('s');
SELECT pgjobs.create_topic('builds'), pgjobs.subscribe('s', 'builds');
SELECT pgjobs.publish('builds', '1') AS one \gset
SELECT pgjobs.publish('builds', '2') AS two \gset
SELECT pgjobs.publish('builds', '3') AS three \gset
SELECT pg_temp.take('s');
SELECT pgjobs.seek('s', to_position => 0);
SELECT pg_temp.take('s');
SELECT pgjobs.seek('s', :two);
SELECT pg_temp.take('s');
SELECT published_at AS at, published_at + interval '1 microsecond' AS after FROM pgjobs.read('builds', :one, 1) \gset
SELECT pgjobs.seek('s', to_time => :'at');
SELECT pg_temp.take('s');
SELECT pgjobs.seek('s', to_time => :'after');
SELECT pg_temp.take('s');
SELECT pgjobs.seek('s', to_position => :three + 1);
SELECT pg_temp.take('s'), pgjobs.publish('builds', '4') IS NOT NULL AS published;
SELECT pg_temp.take('s');
-- It ends the lease of whoever has it, backward and forward.
SELECT pgjobs.seek('s', 0);
SELECT token FROM pgjobs.receive('s', 1) \gset
SELECT pgjobs.seek('s', 0);
SELECT pgjobs.ack('s', :token, :one);
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.take('s', 2);
BEGIN;
SELECT pgjobs.seek('s', 0);
ROLLBACK;
SELECT pg_temp.take('s', 2);
-- By time over several segments and over holes.
BEGIN;
SELECT pgjobs.publish('builds', '"hole"') IS NOT NULL AS published;
ROLLBACK;
SELECT pgjobs._keep_topics(now() + '2 days') IS NOT NULL AS rotated;
SELECT pgjobs.publish('builds', '5') IS NOT NULL AS published;
SELECT pgjobs._keep_topics(now() + '4 days') IS NOT NULL AS rotated;
SELECT pgjobs.publish('builds', '6') IS NOT NULL AS published;
SELECT m.payload, pgjobs.seek('s', to_time => m.published_at), pg_temp.take('s') FROM pgjobs.read('builds', 0) m;
SELECT pgjobs.seek('s', to_time => now());
SELECT pg_temp.take('s');

-- ---- what was received stays, whatever happens to its segment ----

SELECT pgjobs.publish('builds', to_jsonb(string_agg(md5(n::text), '')), headers => jsonb_build_object('h', string_agg(md5((-n)::text), ''))) IS NOT NULL AS published
FROM generate_series(1, 3000) n;
BEGIN;
DECLARE kept CURSOR WITH HOLD FOR SELECT payload, headers FROM pgjobs.receive('s');
COMMIT;
CREATE TABLE kept AS SELECT * FROM pgjobs.read('builds', 0) m WHERE m.headers IS NOT NULL;
SELECT pgjobs._keep_topics(now() + '30 days') IS NOT NULL AS rotated;
SELECT pgjobs._keep_topics(now() + '60 days') > 0 AS dropped;
SELECT count(*) FROM pgjobs.read('builds', 0);
FETCH ALL FROM kept \gset kept_
SELECT length(:'kept_payload'::jsonb #>> '{}'), length(:'kept_headers'::jsonb ->> 'h');
SELECT length(payload #>> '{}'), length(headers ->> 'h') FROM kept;
CLOSE kept;
DROP TABLE kept;

-- ---- unsubscribe ----

SELECT pgjobs.unsubscribe('s');
SELECT pgjobs.unsubscribe('s');
SELECT count(*) FROM pgjobs.subscriptions;
SELECT pgjobs.subscribe('s', 'builds');
SELECT pg_temp.got('s');
SELECT pgjobs.drop_topic('builds');
CALL pgjobs.wait_message('s', '0');
SELECT count(*) FROM pgjobs.subscription;

-- ---- under the lease that the reader has ----

SELECT pgjobs.create_topic('more'), pgjobs.subscribe('m', 'more', 0);
SELECT pgjobs.publish_many('more', '{1,2,3,4,5}') AS p \gset
SELECT token FROM pgjobs.receive('m', 2, '1 hour') LIMIT 1 \gset
-- He goes on behind what he has, under the same token; nobody else does.
SELECT payload, token = :token AS same FROM pgjobs.receive('m', 2, '2 hours', :token);
SELECT pg_temp.got('m');
SELECT lease_expires_at > now() + interval '90 minutes' AS renewed, lag_messages FROM pgjobs.subscriptions WHERE name = 'm';
-- One ack for both; a part of it, and on.
SELECT pgjobs.ack('m', :token, (:'p'::bigint[])[3]);
SELECT payload, token = :token AS same FROM pgjobs.receive('m', token => :token);
-- Nothing new: the lease goes on all the same.
SELECT count(*) FROM pgjobs.receive('m', lease => '3 hours', token => :token);
SELECT lease_expires_at > now() + interval '150 minutes' AS renewed FROM pgjobs.subscriptions WHERE name = 'm';
-- A shorter one takes nothing from it.
SELECT count(*) FROM pgjobs.receive('m', lease => '1 minute', token => :token);
SELECT lease_expires_at > now() + interval '150 minutes' AS kept FROM pgjobs.subscriptions WHERE name = 'm';
-- All acknowledged: that has ended the lease, and the token does as well as none.
SELECT pgjobs.ack('m', :token, (:'p'::bigint[])[5]);
SELECT count(*) FROM pgjobs.receive('m', token => :token);
SELECT pgjobs.publish('more', '6') > 0 AS published;
SELECT payload, token = :token AS same, token FROM pgjobs.receive('m', lease => '1 hour', token => :token) \gset next_
SELECT :'next_payload', :'next_same';
-- That token is of a lease long ago.
SELECT pgjobs.receive('m', token => :token);
\echo :LAST_ERROR_SQLSTATE
-- This lease has ended and nobody has taken it: it begins anew.
UPDATE pgjobs.subscription SET lease_expires_at = clock_timestamp() WHERE name = 'm';
CALL pgjobs.wait_message('m', '20 seconds');
SELECT count(*) FROM pgjobs.receive('m', lease => '1 millisecond', token => :next_token);
CALL pgjobs.wait_message('m', '20 seconds');
-- Now somebody else has.
SELECT pg_temp.got('m');
SELECT pgjobs.receive('m', token => :next_token);
\echo :LAST_ERROR_SQLSTATE
SELECT pgjobs.drop_topic('more');

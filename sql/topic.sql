-- Topics: what is published is read in order, and only what is committed; what goes when.
\set SHOW_CONTEXT never
-- Positions are told from the first message on, so that they do not depend on blocks that were given up.
CREATE FUNCTION pg_temp.seen(topic text, after bigint DEFAULT 0, most bigint DEFAULT 100) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(r.payload #>> '{}', ' ' ORDER BY r.position) FROM pgjobs.read(topic, after, most) r $$;

-- ---- publish and read ----

SELECT pgjobs.create_topic('builds', retention => '1 day');
SELECT name, retention, quarantined, first_position, last_position, first_published_at, pruned_to, segments, subscriptions FROM pgjobs.topics;
SELECT pgjobs.publish('builds', '{"run": 1}', key => 'main', headers => '{"trace": "abc"}') AS one \gset
SELECT pgjobs.publish('builds', '{"run": 2}') AS two \gset
SELECT pgjobs.publish_many('builds', ARRAY['{"run": 3}', '{"run": 4}', '{"run": 5}']::jsonb[], keys => ARRAY['main', NULL, 'v2'],
    headers => ARRAY[NULL, '{"trace": "def"}', '{}']::jsonb[]) AS more \gset
SELECT (:'more'::bigint[])[1] > :two AND :two > :one AS rising, cardinality(:'more'::bigint[]);
SELECT position - :one AS place, topic, key, payload, headers, published_at <= clock_timestamp() AS published, token FROM pgjobs.read('builds', 0);
SELECT position - :one AS place, payload FROM pgjobs.read('builds', :two);
SELECT position - :one AS place, payload FROM pgjobs.read('builds', :two, max_messages => 1);
SELECT count(*) FROM pgjobs.read('builds', (:'more'::bigint[])[3]);
SELECT count(*) FROM pgjobs.read('builds', (:'more'::bigint[])[3] + 1000000);
SELECT name, first_position = :one AS first, last_position = (:'more'::bigint[])[3] AS last, first_published_at IS NOT NULL AS at, segments FROM pgjobs.topics;
SELECT pgjobs.publish_many('builds', '{}');
-- In one statement of its own, in order, however many: batches go on from each other.
SELECT pgjobs.create_topic('bulk');
SELECT cardinality(p) AS published, p[1] < p[1000] AND NOT EXISTS (SELECT FROM generate_subscripts(p, 1) i WHERE i > 1 AND p[i - 1] >= p[i]) AS rising
FROM pgjobs.publish_many('bulk', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 1000) n)) p;
SELECT count(*), bool_and((payload)::bigint = row) FROM (SELECT payload, row_number() OVER () AS row FROM pgjobs.read('bulk', 0, 10000)) r;
SELECT count(pgjobs.publish('bulk', to_jsonb(n))) FROM generate_series(1001, 3000) n;
SELECT count(*), bool_and((payload)::bigint = row), count(DISTINCT position) FROM (SELECT position, payload, row_number() OVER () AS row FROM pgjobs.read('bulk', 0, 10000)) r;

-- ---- holes, and what is not committed yet ----

SELECT pgjobs.create_topic('holes');
SELECT pgjobs.publish('holes', '1') IS NOT NULL;
BEGIN;
SELECT pgjobs.publish('holes', '"rolled back"') IS NOT NULL;
-- The transaction's own message ends the batch: it may still be rolled back.
SELECT pg_temp.seen('holes');
ROLLBACK;
SELECT pg_temp.seen('holes');
BEGIN;
SELECT pgjobs.publish('holes', '2') IS NOT NULL;
SAVEPOINT a;
SELECT pgjobs.publish('holes', '"undone"') IS NOT NULL;
SAVEPOINT b;
SELECT pgjobs.publish_many('holes', '{"\"undone too\"", "\"and this\""}') IS NOT NULL;
RELEASE b;
ROLLBACK TO a;
SELECT pgjobs.publish('holes', '3') IS NOT NULL;
SAVEPOINT c;
SELECT pgjobs.publish('holes', '4') IS NOT NULL;
RELEASE c;
COMMIT;
SELECT pg_temp.seen('holes');
-- An error in a block of its own.
DO $$
BEGIN
    BEGIN
        PERFORM pgjobs.publish('holes', '"in vain"');
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    PERFORM pgjobs.publish('holes', '5');
END $$;
SELECT pg_temp.seen('holes'), position > 0 AS positions_rise FROM (SELECT max(position) AS position FROM pgjobs.read('holes', 0)) r;
-- An error in the middle of a statement.
SELECT pgjobs.publish('holes', to_jsonb(1 / (n - 3))) IS NOT NULL FROM generate_series(1, 5) n;
SELECT pg_temp.seen('holes');
-- A reader's own transaction in the three isolation levels.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.seen('holes');
SELECT pgjobs.publish('holes', '6') IS NOT NULL;
SELECT pg_temp.seen('holes');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT pg_temp.seen('holes');
SELECT pgjobs.publish('holes', '7') IS NOT NULL;
SELECT pg_temp.seen('holes');
COMMIT;
BEGIN READ ONLY;
SELECT pg_temp.seen('holes');
SELECT pgjobs.publish('holes', '8');
ROLLBACK;
SELECT pg_temp.seen('holes');
-- A topic that is made and written in one transaction, and one that never was.
BEGIN;
SELECT pgjobs.create_topic('new');
SELECT pgjobs.publish('new', '1') IS NOT NULL;
SELECT count(*) FROM pgjobs.read('new', 0);
COMMIT;
SELECT pg_temp.seen('new');
BEGIN;
SELECT pgjobs.create_topic('never');
SELECT pgjobs.publish('never', '1') IS NOT NULL;
ROLLBACK;
SELECT pgjobs.publish('never', '1');
SELECT pgjobs.create_topic('never');
SELECT pgjobs.publish('never', '"now"') IS NOT NULL;
SELECT pg_temp.seen('never');
SELECT pgjobs.drop_topic('never'), pgjobs.drop_topic('new');

-- ---- large messages ----

SELECT pgjobs.create_topic('large');
SELECT pgjobs.publish('large', to_jsonb(string_agg(md5(n::text), '')), headers => jsonb_build_object('h', string_agg(md5((-n)::text), ''))) IS NOT NULL
FROM generate_series(1, 3000) n;
SELECT length(payload #>> '{}'), length(headers ->> 'h'), md5(payload #>> '{}') = md5(string_agg(md5(n::text), '')) AS same
FROM pgjobs.read('large', 0), generate_series(1, 3000) n GROUP BY payload, headers;
-- What was read is there even when its segment has gone.
BEGIN;
DECLARE kept CURSOR WITH HOLD FOR SELECT payload, headers FROM pgjobs.read('large', 0);
COMMIT;
SELECT pgjobs.drop_topic('large');
FETCH ALL FROM kept \gset kept_
SELECT length(:'kept_payload'::jsonb #>> '{}'), length(:'kept_headers'::jsonb ->> 'h');
CLOSE kept;

-- ---- retention ----

SELECT pgjobs.drop_topic('builds'), pgjobs.drop_topic('bulk'), pgjobs.drop_topic('holes');
SELECT pgjobs.create_topic('news', retention => '8 days');
SELECT pgjobs.publish('news', '1') AS first \gset
SELECT set_config('test.began', clock_timestamp()::text, false) IS NOT NULL AS began;
-- The duty, at a time of our own.
CREATE FUNCTION pg_temp.keep(after interval) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    dropped bigint := pgjobs._keep_topics(current_setting('test.began')::timestamptz + after);
BEGIN
    RETURN format('%s dropped, %s left', dropped, (SELECT segments FROM pgjobs.topics WHERE name = 'news'));
END $$;
-- A segment is written to for an eighth of the retention, at most a day.
SELECT pg_temp.keep('23 hours');
SELECT pg_temp.keep('25 hours');
-- An empty one stays.
SELECT pg_temp.keep('80 hours');
SELECT pgjobs.publish('news', '2') AS second \gset
SELECT pg_temp.seen('news'), pg_temp.seen('news', :first), :second > :first AS rising;
SELECT pg_temp.keep('81 hours');
SELECT pgjobs.publish('news', '3') AS third \gset
SELECT pg_temp.seen('news'), pg_temp.seen('news', :first), pg_temp.seen('news', :second);
-- Its retention past since it was closed, a segment goes.
SELECT pg_temp.keep('8 days 24 hours'), pg_temp.seen('news');
SELECT pg_temp.keep('8 days 26 hours'), pg_temp.seen('news');
SELECT pruned_to = :first AS pruned, first_position = :second AS first, last_position = :third AS last FROM pgjobs.topics WHERE name = 'news';
-- Who had read all of it goes on; who had not is told so.
SELECT pg_temp.seen('news', :first);
SELECT pgjobs.publish_many('news', '{4,5}') IS NOT NULL AS published;
SELECT pg_temp.keep('8 days 82 hours'), pg_temp.seen('news');
CREATE FUNCTION pg_temp.refused(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE call;
    RETURN 'ACCEPTED';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, detail, hint), 'position [1-9]\d*', 'position N', 'g');
END $$;
SELECT pg_temp.refused(format('SELECT pgjobs.read(''news'', %s)', :first));
SELECT pg_temp.seen('news'), pg_temp.seen('news', :second);
SELECT pg_temp.refused(format('SELECT pgjobs.subscribe(''late'', ''news'', from_position => %s)', :second));
SELECT pgjobs.subscribe('late', 'news', from_position => :third), pgjobs.subscribe('oldest', 'news', from_position => 0),
    pgjobs.subscribe('one', 'news', from_position => 1), pgjobs.subscribe('ever', 'news', from_time => '2001-01-01');
SELECT name, string_agg(payload::text, ' ') FROM unnest('{late,oldest,one,ever}'::text[]) name, pgjobs.receive(name) GROUP BY name ORDER BY name;
-- A subscription that has fallen behind. Its reader is told under the next lease.
SELECT pgjobs.publish('news', '6') IS NOT NULL AS published;
SELECT pg_temp.keep('30 days');
SELECT pg_temp.keep('38 days 1 hour');
SELECT count(*) FROM pgjobs.receive('late');
UPDATE pgjobs.subscription SET lease_expires_at = '2001-01-01' WHERE name = 'late';
SELECT pg_temp.refused('SELECT pgjobs.receive(''late'')');
CALL pgjobs.wait_message('late', '0');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.refused(format('SELECT pgjobs.seek(''late'', %s)', :second));
SELECT pgjobs.seek('late', 0), pgjobs.seek('one', to_time => '2001-01-01');
SELECT count(*) FROM pgjobs.receive('late');
SELECT pgjobs.publish('news', '7') IS NOT NULL AS published;
SELECT string_agg(payload::text, ' ') FROM pgjobs.receive('late');
SELECT string_agg(payload::text, ' ') FROM pgjobs.receive('one');
SELECT name, lag_messages, lag_time < '1 hour' AS soon FROM pgjobs.subscriptions WHERE topic = 'news' ORDER BY name;
SELECT pgjobs.create_queue('fed');
SELECT pgjobs.subscribe_queue('fed', 'news');
-- A shorter retention holds for what is there, and for the segment that is written to.
SELECT pgjobs.alter_topic('news', retention => '8 minutes'), pgjobs.alter_topic('news');
SELECT retention FROM pgjobs.topics WHERE name = 'news';
SELECT pg_temp.keep('2 minutes');
SELECT pg_temp.keep('30 days 9 minutes'), pg_temp.seen('news');
SELECT pgjobs.publish('news', '8') > :third AS rising;

-- ---- drop ----

SELECT pgjobs.create_queue('made', events_topic => 'news');
SELECT pgjobs.drop_topic('news');
SELECT pgjobs.alter_queue('made', events_topic => '');
SELECT pgjobs.drop_topic('news');
SELECT pgjobs.drop_topic('news');
-- Nothing is left of any of them.
SELECT (SELECT count(*) FROM pgjobs.topic) AS topics, (SELECT count(*) FROM pgjobs.topic_acl) AS acl, (SELECT count(*) FROM pgjobs.segment) AS segments,
    (SELECT count(*) FROM pgjobs.subscription) AS subscriptions, (SELECT count(*) FROM pgjobs.feed) AS feeds,
    (SELECT count(*) FROM pg_class WHERE relnamespace = 'pgjobs'::regnamespace AND relname ~ '^(log_|position_)') AS relations;
-- A new one of the name is another topic.
SELECT pgjobs.create_topic('news'), pgjobs.publish('news', '"other"') IS NOT NULL AS published;
SELECT pg_temp.seen('news');
-- Dropped and rolled back: as it was.
BEGIN;
SELECT pgjobs.drop_topic('news');
SELECT pgjobs.publish('news', '1');
ROLLBACK;
SELECT pgjobs.publish('news', '"again"') IS NOT NULL AS published;
SELECT pg_temp.seen('news');
SELECT pgjobs.drop_topic('news'), pgjobs.drop_queue('made'), pgjobs.drop_queue('fed', force => true);

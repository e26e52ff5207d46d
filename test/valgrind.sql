-- Twelve scenarios for a server under valgrind, each in a session of its own; test/valgrind runs them.
-- The table public.seen takes what they say: a name and whether it is as it should be.

-- == a job in stages, with everything that it can have
SELECT pgjobs.create_queue('ci', ARRAY['build', 'ship'], notify => 'events', events_topic => 'told', max_attempts => 2, backoff => '1 hour');
SELECT pgjobs.enqueue('ci', '{"n": 1}', priority => -1, unique_key => 'k', headers => '{"h": 1}', expires_at => now() + interval '1 day') AS id \gset
SELECT pgjobs.enqueue('ci', '{"n": 2}', priority => -1, unique_key => 'k', on_conflict => 'replace');
SELECT token FROM pgjobs.claim('ci', worker => 'w') \gset
SELECT pgjobs.extend(:id, :token), pgjobs.progress(:id, :token, 0.5, 'half');
SELECT pgjobs.complete(:id, :token, '{"built": true}'), pgjobs.complete(:id, :token);
INSERT INTO seen SELECT 'the result of the stage before', result @> '{"built": true}' FROM pgjobs.claim('ci', stage => 'ship');
SELECT pgjobs.cancel(:id), pgjobs.retry(:id), pgjobs.why(:id);
INSERT INTO seen SELECT 'revived', state = 'ready' FROM pgjobs.job(:id);

-- == many at a time, and given back in every way
SELECT pgjobs.create_queue('dead');
SELECT pgjobs.create_queue('many', backoff => '1 hour', dead_letter => 'dead', retention => '0', dead_retention => '0');
SELECT cardinality(pgjobs.enqueue_many('many', array_fill('{"a": "b"}'::jsonb, ARRAY[300])));
SELECT cardinality(pgjobs.enqueue_batch('many', '[{"payload": 1, "delay": "1 hour"}, {"headers": {"a": 1}, "priority": 3}]'));
CREATE TEMP TABLE claimed AS SELECT id, token, row_number() OVER () AS n FROM pgjobs.claim('many', 200);
SELECT cardinality(pgjobs.extend_many(array_agg(id), array_agg(token))) FROM claimed;
SELECT cardinality(pgjobs.complete_many(array_agg(id), array_agg(token), array_fill('1'::jsonb, ARRAY[50]))) FROM claimed WHERE n <= 50;
SELECT cardinality(pgjobs.fail_many(array_agg(id), array_agg(token), retry => n > 60)) FROM claimed WHERE n BETWEEN 51 AND 70 GROUP BY n > 60;
SELECT pgjobs.release(id, token) FROM claimed WHERE n BETWEEN 71 AND 80;
SELECT pgjobs.snooze(id, token, '1 hour') FROM claimed WHERE n BETWEEN 81 AND 90;
SELECT count(*) FROM pgjobs.complete_and_claim('many', ARRAY(SELECT id FROM claimed WHERE n > 150), ARRAY(SELECT token FROM claimed WHERE n > 150), max_jobs => 20);
INSERT INTO seen SELECT 'dead letters', count(*) = 10 FROM pgjobs.claim('dead', 100);
INSERT INTO seen SELECT 'repeated', cardinality(pgjobs.complete_many(array_agg(id), array_agg(token))) = 50 FROM claimed WHERE n <= 50;

-- == the duties, far ahead in time
SELECT pgjobs._reap(now() + interval '2 days'), pgjobs._promote(now() + interval '2 days'), pgjobs._expire(now() + interval '3 days');
SELECT pgjobs._deliver(now()), pgjobs._keep_topics(now() + interval '30 days'), pgjobs._keep_history(now() + interval '30 days');
SELECT pgjobs._rotate_receipts(now() + interval '1 hour'), pgjobs._reap_rows(now() + interval '1 day'), pgjobs._reset_hints();
INSERT INTO seen SELECT 'checks', pgjobs._check_frontier() = 0 AND pgjobs._recount() >= 0;

-- == savepoints, errors and rollbacks
SELECT pgjobs.create_queue('saved');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pgjobs.enqueue('saved', '1');
DO $$ BEGIN
    FOR i IN 1 .. 80 LOOP
        BEGIN
            PERFORM pgjobs.enqueue('saved', to_jsonb(i), unique_key => 'k', on_conflict => 'error');
            PERFORM pgjobs.complete(id, token) FROM pgjobs.claim('saved');
            IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero OR unique_violation THEN NULL;
        END;
    END LOOP;
END $$;
SAVEPOINT s;
SELECT count(*) FROM pgjobs.claim('saved', 5);
ROLLBACK TO s;
COMMIT;
INSERT INTO seen SELECT 'what the savepoints left', count(*) > 0 FROM pgjobs.jobs WHERE queue = 'saved';

-- == prepared transactions
SELECT pgjobs.create_queue('prepared');
BEGIN;
SELECT pgjobs.enqueue('prepared');
PREPARE TRANSACTION 'a';
BEGIN;
SELECT pgjobs.publish('told', '1'), pgjobs.enqueue('prepared', priority => 7);
PREPARE TRANSACTION 'b';
SELECT pgjobs.enqueue('prepared', priority => 3);
COMMIT PREPARED 'a';
ROLLBACK PREPARED 'b';
INSERT INTO seen SELECT 'committed', count(*) = 2 FROM pgjobs.claim('prepared', 10);

-- == a topic, its subscribers and a queue that it feeds
SELECT pgjobs.create_topic('news');
SELECT pgjobs.create_queue('fed');
SELECT pgjobs.subscribe('reader', 'news'), pgjobs.subscribe_queue('fed', 'news', 'k%');
SELECT cardinality(pgjobs.publish_many('news', array_fill('{"a": 1}'::jsonb, ARRAY[200]), keys => array_fill('k1'::text, ARRAY[200])));
SELECT pgjobs.publish('news', '{}', key => 'other', headers => '{"h": 1}');
SELECT max(position) AS position, max(token) AS token FROM pgjobs.receive('reader', 150) \gset
SELECT pgjobs.ack('reader', :token, :position);
INSERT INTO seen SELECT 'the rest', count(*) = 51 FROM pgjobs.receive('reader', 1000);
SELECT pgjobs.seek('reader', to_time => now() - interval '1 hour');
INSERT INTO seen SELECT 'all of it again', count(*) = 201 FROM pgjobs.receive('reader', 1000);
SELECT pgjobs._deliver(now());
SELECT pgjobs.alter_topic('news', '1 hour'), pgjobs.unsubscribe_queue('fed', 'news'), pgjobs.unsubscribe('reader'), pgjobs.drop_topic('news');

-- == a table of the user's own
CREATE TYPE status AS ENUM ('new', 'doing', 'done', 'failed');
CREATE TABLE runs (id int, part text, status status NOT NULL DEFAULT 'new', changed timestamptz, fence bigint, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE runs_a PARTITION OF runs FOR VALUES IN ('a');
CREATE TABLE runs_b PARTITION OF runs FOR VALUES IN ('b');
SELECT pgjobs.attach_table('runs', 'status', '[{"stage": "do", "waiting": "new", "working": "doing", "done": "done", "failed": "failed", "stale_after": "1 minute"}]',
    changed_at => 'changed', token => 'fence', channel => 'runs', topic => 'told');
INSERT INTO runs (id, part) SELECT n, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 40) n;
SELECT pgjobs.finish_row('runs', jsonb_build_array(id, part)::text, 'do', id % 3 = 0, token => fence) FROM pgjobs.claim_row(NULL::runs, 'do', 20);
SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 'do', 20);
SELECT pgjobs._reap_rows(now() + interval '1 hour');
DO $$ BEGIN UPDATE runs SET status = 'new' WHERE status = 'done'; EXCEPTION WHEN SQLSTATE 'PJ003' THEN NULL; END $$;
INSERT INTO seen SELECT 'rows', count(*) FILTER (WHERE status = 'new') = 20 FROM runs;
DELETE FROM runs WHERE status = 'failed';
SELECT pgjobs.detach_table('runs');

-- == those who wait
SELECT pgjobs.create_queue('waited');
CALL pgjobs.wait('waited', '10 ms');
SELECT pgjobs.enqueue('waited', delay => '100 ms') AS id \gset
CALL pgjobs.wait('waited', '1 minute');
INSERT INTO seen SELECT 'a delayed job came', count(*) = 1 FROM pgjobs.claim('waited');
CALL pgjobs.await(:id, '10 ms');
SELECT pgjobs.subscribe('waiting', 'told');
CALL pgjobs.wait_message('waiting', '10 ms');

-- == a session lease that ends with its session
SELECT pgjobs.create_queue('held');
SELECT pgjobs.enqueue('held');
INSERT INTO seen SELECT 'held', count(*) = 1 FROM pgjobs.claim('held', hold => true);

-- == it has come back, and views, health and metrics see all of this
CALL pgjobs.wait('held', '1 minute');
INSERT INTO seen SELECT 'given back', count(*) = 1 FROM pgjobs.claim('held');
SELECT count(*) FROM pgjobs.jobs;
SELECT count(*) FROM pgjobs.attempts;
SELECT count(*) FROM pgjobs.stages;
SELECT count(*) FROM pgjobs.queues;
SELECT count(*) FROM pgjobs.workers;
SELECT count(*) FROM pgjobs.topics;
SELECT count(*) FROM pgjobs.subscriptions;
SELECT count(*) FROM pgjobs.attached_tables;
SELECT count(*) FROM pgjobs.health();
INSERT INTO seen SELECT 'metrics', pgjobs.metrics() LIKE '%pgjobs%EOF%';

-- == rights, names and values that are refused
CREATE ROLE somebody;
SELECT pgjobs.grant_queue('ci', 'somebody', ARRAY['produce', 'monitor']), pgjobs.grant_topic('told', 'somebody', ARRAY['publish']);
SET ROLE somebody;
SELECT pgjobs.enqueue('ci'), pgjobs.publish('told', '1');
\set ON_ERROR_STOP off
SELECT pgjobs.claim('ci');
SELECT pgjobs.enqueue(repeat('x', 300));
SELECT pgjobs.enqueue('ci', run_at => 'infinity');
SELECT pgjobs.enqueue('ci', to_jsonb(repeat('x', 2000000)));
SELECT pgjobs.enqueue_many('ci', ARRAY[ARRAY['1'::jsonb]]);
SELECT pgjobs.enqueue_batch('ci', '[{"stage": 1}, {"x": 2}]');
RESET ROLE;
SELECT pgjobs.complete(1, 1);
SELECT pgjobs.complete_many('{1,2}', '{1}');
SELECT pgjobs.alter_queue('ci', stages => ARRAY['other']);
SELECT pgjobs.attach_table('pg_class', 'relname', '[]');
BEGIN;
CALL pgjobs.wait('ci');
ROLLBACK;
\set ON_ERROR_STOP on
SELECT pgjobs.revoke_queue('ci', 'somebody', ARRAY['produce', 'monitor']), pgjobs.revoke_topic('told', 'somebody', ARRAY['publish']);
INSERT INTO seen SELECT 'revoked', NOT EXISTS (SELECT FROM pgjobs.acl WHERE role = 'somebody'::regrole);

-- == queues that change and go, and a user's trigger on the jobs
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER note BEFORE INSERT OR UPDATE ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION note();
SELECT pgjobs.enqueue('ci'), pgjobs.complete(id, token) FROM pgjobs.claim('ci');
DROP TRIGGER note ON pgjobs.job;
SELECT pgjobs.alter_queue('ci', stages => ARRAY['build', 'ship', 'tell'], lease => '2 minutes', notify => 'off'), pgjobs.pause_queue('ci'), pgjobs.resume_queue('ci');
SELECT pgjobs.redrive('many'), pgjobs.purge_queue('many');
INSERT INTO seen SELECT 'dropped ' || name, pgjobs.drop_queue(name, force => true) FROM pgjobs.queues WHERE name IN ('ci', 'many', 'dead', 'saved');
DROP EXTENSION pgjobs CASCADE;
CREATE EXTENSION pgjobs;
SELECT pgjobs.create_queue('again');
INSERT INTO seen SELECT 'again', pgjobs.enqueue('again') > 0;

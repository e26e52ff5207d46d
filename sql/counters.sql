-- The figures behind the views queues and stages: what commits is counted at once and without looking
-- at the table, what is undone leaves no trace. Each line shows the figures of a queue, ready/running/
-- scheduled/blocked of each stage, whether shared memory had them, and how many of all are wrong.
CREATE FUNCTION figures(name text, OUT figures text, OUT kept boolean, OUT wrong bigint) LANGUAGE sql AS $$
    SELECT string_agg(format('%s %s/%s/%s/%s', s.stage, s.ready, s.running, s.scheduled, s.blocked), ', ' ORDER BY s.number),
        (SELECT f.counted FROM pgjobs.queue q, pgjobs._figures(q.id) f WHERE q.name = figures.name), pgjobs._recount()
    FROM pgjobs.stages s WHERE s.queue = figures.name $$;

SELECT pgjobs.create_queue('counted', ARRAY['first', 'last'], backoff => '1 hour');
SELECT * FROM figures('counted');

-- ---- commit, rollback, savepoint ----

SELECT cardinality(pgjobs.enqueue_many('counted', '{1,2,3,4,5}'));
SELECT * FROM figures('counted');
BEGIN;
SELECT cardinality(pgjobs.enqueue_many('counted', '{1,2,3,4,5}'));
SELECT * FROM figures('counted'); -- a transaction sees its own
ROLLBACK;
SELECT * FROM figures('counted');

BEGIN;
SELECT cardinality(pgjobs.enqueue_many('counted', '{1,2}', priority => 3));
SAVEPOINT a;
SELECT cardinality(pgjobs.enqueue_many('counted', '{1,2,3}', priority => 4, delay => '1 hour'));
SAVEPOINT b;
SELECT count(*) FROM pgjobs.claim('counted', 4);
SELECT * FROM figures('counted');
ROLLBACK TO b;
SELECT * FROM figures('counted');
RELEASE a;
SELECT * FROM figures('counted');
SAVEPOINT c;
SELECT count(*) FROM pgjobs.claim('counted', 1);
ROLLBACK TO c;
SELECT count(*) FROM pgjobs.claim('counted', 2);
COMMIT;
SELECT * FROM figures('counted');

-- Blocks with exceptions, many of them.
DO $$
BEGIN
    FOR i IN 1..100 LOOP
        BEGIN
            PERFORM pgjobs.enqueue('counted', priority => i % 5);
            PERFORM pgjobs.complete(c.id, c.token) FROM pgjobs.claim('counted') c;
            IF i % 3 = 0 THEN
                RAISE 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            PERFORM pgjobs.enqueue('counted', delay => '1 hour');
        END;
    END LOOP;
END $$;
SELECT * FROM figures('counted');

-- ---- every verb ----

CREATE TEMP TABLE had AS SELECT * FROM pgjobs.claim('counted', 7, stage => 'first');
CREATE FUNCTION nth(n integer, OUT id bigint, OUT token bigint) LANGUAGE sql AS $$
    SELECT h.id, h.token FROM had h ORDER BY h.id OFFSET n - 1 LIMIT 1 $$;
SELECT * FROM figures('counted');
SELECT pgjobs.complete(id, token) FROM nth(1);
SELECT * FROM figures('counted');
SELECT cardinality(pgjobs.complete_many(ARRAY[id], ARRAY[token])) FROM nth(2);
SELECT * FROM figures('counted');
SELECT pgjobs.fail(id, token) FROM nth(3);
SELECT * FROM figures('counted');
SELECT cardinality(pgjobs.fail_many(ARRAY[id], ARRAY[token], retry => false)) FROM nth(4);
SELECT * FROM figures('counted');
SELECT pgjobs.release(id, token) FROM nth(5);
SELECT * FROM figures('counted');
SELECT pgjobs.snooze(id, token, '1 hour') FROM nth(6);
SELECT * FROM figures('counted');
SELECT pgjobs.extend(id, token) > now(), pgjobs.progress(id, token, 0.5) FROM nth(7);
SELECT * FROM figures('counted');
SELECT pgjobs.cancel(id) FROM nth(7);
SELECT * FROM figures('counted');
SELECT pgjobs.retry(id), pgjobs.reprioritize(id, 7) FROM nth(7);
SELECT * FROM figures('counted');
SELECT pgjobs.reschedule(id, now() + interval '1 day') FROM nth(7);
SELECT * FROM figures('counted');
SELECT pgjobs.redrive('counted');
SELECT * FROM figures('counted');
SELECT pgjobs.complete_many(array_agg(id), array_agg(token)) IS NOT NULL FROM pgjobs.claim('counted', 2, stage => 'last');
SELECT * FROM figures('counted');
-- A whole life in one statement, and in one transaction.
WITH added AS MATERIALIZED (SELECT pgjobs.enqueue('counted', priority => -9))
SELECT pgjobs.complete(c.id, c.token) FROM added, LATERAL pgjobs.claim('counted', stage => 'first') c;
SELECT * FROM figures('counted');
BEGIN;
SELECT pgjobs.enqueue('counted', priority => -10) > 0;
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('counted', stage => 'first');
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('counted', stage => 'last');
COMMIT;
SELECT * FROM figures('counted');
-- Unique keys.
SELECT pgjobs.enqueue('counted', unique_key => 'k') = pgjobs.enqueue('counted', unique_key => 'k') AS kept;
SELECT * FROM figures('counted');
SELECT pgjobs.enqueue('counted', unique_key => 'k', on_conflict => 'replace', delay => '1 hour') > 0;
SELECT * FROM figures('counted');
-- Duties.
SELECT pgjobs._promote(now() + interval '2 hours') > 0 AS promoted;
SELECT * FROM figures('counted');
SELECT count(*) FROM pgjobs.claim('counted', 3, stage => 'first');
SELECT pgjobs._reap(now() + interval '1 hour') AS reaped;
SELECT * FROM figures('counted');
SELECT pgjobs.enqueue('counted', expires_at => now() + interval '1 hour') > 0;
SELECT pgjobs._expire(now() + interval '2 hours') AS expired;
SELECT * FROM figures('counted');
-- Statements by hand.
UPDATE pgjobs.job SET waiting = 2 WHERE id = (SELECT min(id) FROM pgjobs.job WHERE waiting = 0 AND token IS NULL);
SELECT * FROM figures('counted');
DELETE FROM pgjobs.job WHERE id = (SELECT min(id) FROM pgjobs.job WHERE waiting = 1);
SELECT * FROM figures('counted');
-- Another queue's dead letters.
SELECT pgjobs.create_queue('counted.letters'), pgjobs.alter_queue('counted', dead_letter => 'counted.letters');
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('counted');
SELECT * FROM figures('counted.letters');

SELECT ready, running, scheduled, blocked, enqueued, claimed, completed, dead, cancelled, oldest_ready_age >= '0' AS age
FROM pgjobs.queues WHERE name = 'counted';

-- ---- the oldest ready job ----

SELECT pgjobs.create_queue('aged', ARRAY['first', 'last']);
SELECT oldest_ready_age FROM pgjobs.queues WHERE name = 'aged';
SELECT pgjobs.enqueue('aged', run_at => now() - interval '3 hours', priority => 5) > 0,
    pgjobs.enqueue('aged', run_at => now() - interval '1 hour', priority => -5) > 0,
    pgjobs.enqueue('aged', run_at => now() - interval '2 hours', stage => 'last') > 0,
    pgjobs.enqueue('aged', run_at => now() - interval '4 hours') > 0;
SELECT extract(hour FROM oldest_ready_age) FROM pgjobs.queues WHERE name = 'aged';
SELECT stage, extract(hour FROM oldest_ready_age) FROM pgjobs.stages WHERE queue = 'aged' ORDER BY number;
SELECT count(*) FROM pgjobs.claim('aged', 2, stage => 'first');
SELECT stage, extract(hour FROM oldest_ready_age) FROM pgjobs.stages WHERE queue = 'aged' ORDER BY number;
SELECT pgjobs._reset_hints();
SELECT stage, extract(hour FROM oldest_ready_age) FROM pgjobs.stages WHERE queue = 'aged' ORDER BY number;
SELECT count(*) FROM pgjobs.claim('aged', 9);
SELECT stage, oldest_ready_age FROM pgjobs.stages WHERE queue = 'aged' ORDER BY number;

-- ---- when nobody knows ----

-- TRUNCATE, and triggers that are off: the table is counted until the worker, or _recount here, has
-- looked.
BEGIN;
ALTER TABLE pgjobs.job DISABLE TRIGGER changed;
SELECT pgjobs.enqueue('aged', '"unnoticed"') > 0;
SELECT * FROM figures('aged');
COMMIT;
SELECT * FROM figures('aged');
SELECT pgjobs.enqueue('aged', '"unnoticed"') > 0;
SELECT * FROM figures('aged');
-- A stage that is made now does not pretend to know.
SELECT pgjobs.create_queue('unknown');
SELECT pgjobs.enqueue('unknown') > 0;
SELECT * FROM figures('unknown');
ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER changed;
SELECT figures, wrong FROM figures('aged');
SELECT figures, wrong FROM figures('unknown');
BEGIN;
SELECT pgjobs.enqueue('aged') > 0;
TRUNCATE pgjobs.job;
SELECT pgjobs.enqueue('aged') > 0;
SELECT figures, wrong FROM figures('aged');
COMMIT;
SELECT figures, wrong FROM figures('aged');

-- ---- queues come and go ----

BEGIN;
SELECT pgjobs.create_queue('brief'), pgjobs.enqueue('brief') > 0;
SELECT * FROM figures('brief');
SAVEPOINT a;
SELECT pgjobs.alter_queue('brief', ARRAY['work', 'more']), pgjobs.enqueue('brief', stage => 'more') > 0;
SELECT * FROM figures('brief');
ROLLBACK TO a;
SELECT * FROM figures('brief');
COMMIT;
SELECT * FROM figures('brief');
SELECT pgjobs.alter_queue('brief', ARRAY['work', 'more']);
SELECT pgjobs.enqueue('brief', stage => 'more') > 0;
SELECT * FROM figures('brief');
SELECT pgjobs.drop_queue(name, force => true) FROM pgjobs.queues
WHERE name IN ('brief', 'aged', 'unknown', 'counted') ORDER BY name;
SELECT pgjobs.drop_queue('counted.letters');
SELECT pgjobs._recount();

DROP FUNCTION figures, nth;

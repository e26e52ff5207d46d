-- Transactions: wait and await keep away from them, prepared ones carry jobs.
\set SHOW_CONTEXT never

-- wait and await commit and then sleep: they never do that to anybody's work.
SELECT pgjobs.create_queue('q', lease => '1 hour', backoff => '1 hour', notify => 'events');
SELECT pgjobs.enqueue('q', '"kept"') AS id \gset
BEGIN;
CREATE TABLE work (n int);
CALL pgjobs.wait('q');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
CALL pgjobs.await(:id, '1 second');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT to_regclass('work') IS NULL AS rolled_back;
-- Not from a function, whose caller holds a snapshot ...
CREATE FUNCTION pg_temp.waits(ready boolean) RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL pgjobs.wait('q', '1 second', ready); END $$;
SELECT pg_temp.waits(NULL);
\echo :LAST_ERROR_SQLSTATE
-- ... nor where an exception block made a savepoint ...
DO $$
DECLARE
    ready boolean;
BEGIN
    BEGIN
        CALL pgjobs.wait('q', '1 second', ready);
    EXCEPTION WHEN active_sql_transaction THEN
        RAISE NOTICE 'refused: %', SQLERRM;
    END;
END $$;
-- ... nor after a write, in a block or a procedure.
CREATE TABLE work (n int);
DO $$
DECLARE
    ready boolean;
BEGIN
    INSERT INTO work VALUES (1);
    CALL pgjobs.wait('q', '1 second', ready);
END $$;
\echo :LAST_ERROR_SQLSTATE
DO $$
DECLARE
    state text;
    result jsonb;
BEGIN
    PERFORM pgjobs.enqueue('q', '"never"');
    CALL pgjobs.await(1, '1 second', state, result);
END $$;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM work;
SELECT payload FROM pgjobs.jobs WHERE queue = 'q';
-- A block that has only read, or has committed what it wrote, may wait.
DO $$
DECLARE
    ready boolean;
    job bigint := id FROM pgjobs.jobs WHERE queue = 'q';
    state text;
    result jsonb;
BEGIN
    PERFORM count(*) FROM work;
    CALL pgjobs.wait('q', '1 second', ready);
    RAISE NOTICE 'ready: %', ready;
    INSERT INTO work VALUES (2);
    COMMIT;
    CALL pgjobs.wait('q', '0', ready);
    RAISE NOTICE 'ready: %', ready;
    CALL pgjobs.await(job, '0', state, result);
    RAISE NOTICE 'state: %', state;
    INSERT INTO work VALUES (3);
    ROLLBACK;
END $$;
SELECT n FROM work;

-- A loop of a worker inside the server: wait, claim, work, complete, commit.
CREATE PROCEDURE pg_temp.drain() LANGUAGE plpgsql AS $$
DECLARE
    ready boolean;
    job pgjobs.claimed_job;
BEGIN
    LOOP
        CALL pgjobs.wait('q', '0', ready);
        EXIT WHEN NOT ready;
        SELECT * INTO job FROM pgjobs.claim('q');
        INSERT INTO work VALUES (10 + job.attempt);
        PERFORM pgjobs.complete(job.id, job.token);
        COMMIT;
    END LOOP;
END $$;
SELECT cardinality(pgjobs.enqueue_many('q', ARRAY['1', '2', '3']::jsonb[]));
CALL pg_temp.drain();
SELECT n, count(*) FROM work GROUP BY n ORDER BY n;
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'q' GROUP BY state;

-- wait sees what there is: per stage, and what is not due or not there any more does not count.
SELECT pgjobs.create_queue('staged', ARRAY['a', 'b'], lease => '1 hour');
CALL pgjobs.wait('staged', '0');
SELECT pgjobs.enqueue('staged', delay => '1 hour') AS id \gset
CALL pgjobs.wait('staged', '10 milliseconds');
SELECT pgjobs.enqueue('staged') AS id \gset
CALL pgjobs.wait('staged', '1 minute');
CALL pgjobs.wait('staged', '0', stage => 'b');
CALL pgjobs.wait('staged', '1 minute', stage => 'a');
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('staged');
CALL pgjobs.wait('staged', '1 minute', NULL, 'b');
CALL pgjobs.wait('staged', '0', NULL, 'a');
CALL pgjobs.wait('staged', '0', NULL, 'c');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait('nope', '0');
\echo :LAST_ERROR_SQLSTATE
SELECT pgjobs.drop_queue('staged', true);

-- enqueue in a prepared transaction: nobody sees the job before COMMIT PREPARED, anybody after it.
-- The queue sends events: that the transaction can be prepared proves that it executes no NOTIFY.
BEGIN;
SELECT pgjobs.enqueue('q', '"prepared"', unique_key => 'p') AS id \gset
PREPARE TRANSACTION 'enqueue';
SELECT count(*) FROM pgjobs.claim('q');
SELECT count(*) FROM pgjobs.jobs WHERE id = :id;
COMMIT PREPARED 'enqueue';
CALL pgjobs.wait('q', '1 minute');
SELECT id = :id AS same, payload, token FROM pgjobs.claim('q') \gset
\echo :same :payload
-- A NOTIFY of one's own could not be prepared.
BEGIN;
NOTIFY own;
PREPARE TRANSACTION 'notify';
\echo :LAST_ERROR_SQLSTATE

-- complete in a prepared transaction: until the end of it the job is neither here nor there.
BEGIN;
INSERT INTO work VALUES (100);
SELECT pgjobs.complete(:id, :token, '"done"');
PREPARE TRANSACTION 'complete';
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT count(*) FROM pgjobs.claim('q');
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;  -- 0: somebody has the row
ROLLBACK PREPARED 'complete';
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.extend(:id, :token) > now() AS still_ours;
BEGIN;
INSERT INTO work VALUES (100);
SELECT pgjobs.complete(:id, :token, '"done"');
PREPARE TRANSACTION 'complete';
COMMIT PREPARED 'complete';
SELECT state, result FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.complete(:id, :token);
SELECT count(*) FROM work WHERE n = 100;

-- claim in a prepared transaction: committed, the job is ours; rolled back, no attempt was made.
SELECT pgjobs.enqueue('q', '"claimed"') AS id \gset
BEGIN;
SELECT token FROM pgjobs.claim('q', lease => '1 hour') \gset
PREPARE TRANSACTION 'claim';
SELECT count(*) FROM pgjobs.claim('q');
ROLLBACK PREPARED 'claim';
SELECT state, attempt FROM pgjobs.jobs WHERE id = :id;
BEGIN;
SELECT token FROM pgjobs.claim('q', lease => '1 hour') \gset
PREPARE TRANSACTION 'claim';
COMMIT PREPARED 'claim';
SELECT state, attempt FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;
SELECT attempt, pgjobs.fail(id, token, 'failed') FROM pgjobs.claim('q');

-- The other verbs, all in one.
SELECT pgjobs.reschedule(:id, now());
SELECT pgjobs.enqueue('q', delay => '1 hour') AS later \gset
SELECT pgjobs.enqueue('q', priority => 5) AS other \gset
BEGIN;
SELECT pgjobs.create_queue('two_phase');
SELECT pgjobs.enqueue('two_phase') > 0 AS added;
SELECT token FROM pgjobs.claim('q') \gset
SELECT pgjobs.extend(:id, :token, '2 hours') > now() AS extended;
SELECT pgjobs.progress(:id, :token, 0.5);
SELECT pgjobs.fail(:id, :token, 'again', retry => false);
SELECT pgjobs.retry(:id), pgjobs.cancel(:later), pgjobs.reprioritize(:other, -5);
PREPARE TRANSACTION 'all';
COMMIT PREPARED 'all';
SELECT id = :id AS retried, id = :later AS cancelled, id = :other AS reprioritized, state, priority FROM pgjobs.jobs
WHERE id IN (:id, :later, :other) ORDER BY id;
SELECT ready FROM pgjobs.queues WHERE name = 'two_phase';
SELECT pgjobs.drop_queue('two_phase', true), pgjobs.purge_queue('q');

-- A session that holds a job ends with its session; a prepared transaction does not.
SELECT pgjobs.enqueue('q', '"held"') AS id \gset
BEGIN;
SELECT payload FROM pgjobs.claim('q', hold => true);
PREPARE TRANSACTION 'hold';
\echo :LAST_ERROR_SQLSTATE
SELECT state, attempt FROM pgjobs.jobs WHERE id = :id;
-- Where a savepoint took the claim back, nothing is held.
BEGIN;
SAVEPOINT s;
SELECT payload FROM pgjobs.claim('q', hold => true);
ROLLBACK TO s;
SELECT pgjobs.enqueue('q', '"beside"') > 0 AS added;
PREPARE TRANSACTION 'not held';
COMMIT PREPARED 'not held';
SELECT payload FROM pgjobs.claim('q', 10);

-- A prepared transaction that waits keeps nothing else from going on.
BEGIN;
SELECT pgjobs.enqueue('q', '"waits"') > 0 AS added;
PREPARE TRANSACTION 'waits';
SELECT pgjobs.enqueue('q', '"goes on"') > 0 AS added;
SELECT payload, pgjobs.complete(id, token) FROM pgjobs.claim('q', 10);
ROLLBACK PREPARED 'waits';
SELECT count(*) FROM pgjobs.claim('q', 10);
SELECT count(*) FROM pg_prepared_xacts;

-- COMMIT AND CHAIN, and an error in the middle of a transaction.
BEGIN;
SELECT pgjobs.enqueue('q', '"first"') > 0 AS added;
COMMIT AND CHAIN;
SELECT pgjobs.enqueue('q', '"second"') > 0 AS added;
SELECT pgjobs.enqueue('nope');
SELECT pgjobs.enqueue('q', '"third"');
COMMIT;
SELECT payload FROM pgjobs.claim('q', 10);

-- A deferred constraint that fails at commit takes the job with it.
CREATE TABLE one (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO one VALUES (1), (1);
SELECT pgjobs.enqueue('q', '"never"') > 0 AS added;
COMMIT;
SELECT count(*) FROM pgjobs.claim('q', 10);

DROP TABLE work, one;
SELECT pgjobs.drop_queue('q', true);

-- A job of the very command that is running is not there yet; the next command claims it.
SELECT pgjobs.create_queue('early');
SELECT pgjobs.enqueue('early', '"one"') > 0 AS added;
CREATE TEMP TABLE taken AS SELECT * FROM pgjobs.job WHERE payload = '"one"';
DELETE FROM pgjobs.job WHERE payload = '"one"';
BEGIN;
WITH again AS (INSERT INTO pgjobs.job SELECT * FROM taken RETURNING id)
SELECT again.id > 0 AS added, c.payload FROM again LEFT JOIN LATERAL pgjobs.claim('early', again.id * 0 + 1) c ON true;
SELECT payload FROM pgjobs.claim('early');
COMMIT;
SELECT pgjobs.drop_queue('early', force => true);

-- A transaction that claims its own jobs one by one goes on where it was; what a savepoint undid, or what it gave back
-- itself, it finds again.
SELECT pgjobs.create_queue('mine');
BEGIN;
SELECT cardinality(pgjobs.enqueue_many('mine', ARRAY['"a"', '"b"', '"c"']::jsonb[]));
SELECT payload FROM pgjobs.claim('mine');
SAVEPOINT s;
SELECT payload FROM pgjobs.claim('mine', 2);
SELECT count(*) FROM pgjobs.claim('mine');
ROLLBACK TO s;
SELECT id, token, payload FROM pgjobs.claim('mine') \gset
SELECT :'payload' AS claimed;
SELECT pgjobs.release(:id, :token);
SELECT pgjobs.enqueue('mine', '"urgent"', priority => -1) > 0 AS added;
SELECT payload FROM pgjobs.claim('mine');
SELECT payload FROM pgjobs.claim('mine');
SELECT payload FROM pgjobs.claim('mine');
SELECT count(*) FROM pgjobs.claim('mine');
COMMIT;
SELECT pgjobs.drop_queue('mine', force => true);

-- A hundred blocks with exceptions in each other, more than a process remembers subtransactions of; what is within the
-- seventieth is undone.
SELECT pgjobs.create_topic('deep'), pgjobs.create_topic('deep_events');
SELECT pgjobs.create_queue('deep', events_topic => 'deep_events');
CREATE FUNCTION pg_temp.descend(depth integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgjobs.enqueue('deep', to_jsonb(depth), priority => depth % 5), pgjobs.publish('deep', to_jsonb(depth));
    PERFORM pgjobs.enqueue('deep', to_jsonb(depth), delay => '1 hour', unique_key => (depth % 80)::text);
    IF depth % 2 = 0 THEN
        PERFORM FROM pgjobs.claim('deep');
    ELSIF depth % 3 = 0 THEN
        PERFORM pgjobs.cancel(max(id)) FROM pgjobs.job WHERE queue_id = (SELECT id FROM pgjobs.queue WHERE name = 'deep');
    END IF;
    IF depth < 100 THEN
        BEGIN
            PERFORM pg_temp.descend(depth + 1);
            IF depth = 70 THEN
                RAISE 'undone';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END IF;
END $$;
SELECT pg_temp.descend(1);
CREATE VIEW pg_temp.deep AS SELECT state, count(*), max(payload::integer) AS deepest FROM pgjobs.jobs WHERE queue = 'deep' GROUP BY state;
SELECT * FROM pg_temp.deep ORDER BY state;
SELECT ready, scheduled, running FROM pgjobs.queues WHERE name = 'deep';
SELECT pgjobs._check_frontier() AS hidden, pgjobs._recount() AS wrong, pgjobs._check_leases() AS unknown;
SELECT count(*), max(payload::integer) FROM pgjobs.read('deep', 0, 1000);
-- The last event of each job says its state.
SELECT state, count(*) FROM (
    SELECT DISTINCT ON (key) payload ->> 'to' AS state FROM pgjobs.read('deep_events', 0, 1000)
    ORDER BY key, (payload ->> 'rev')::integer DESC) e GROUP BY state ORDER BY state;
SELECT count(*) FROM pgjobs.claim('deep', 1000);
SELECT * FROM pg_temp.deep ORDER BY state;
SELECT pgjobs.drop_queue('deep', force => true), pgjobs.drop_topic('deep'), pgjobs.drop_topic('deep_events');

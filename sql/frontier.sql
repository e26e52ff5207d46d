-- Claims come in the order of priority, due_at, id, wherever the frontier stands, and whether rows
-- are written directly or, where a user has hung something on the table, by the executor.
CREATE TEMPORARY TABLE held (id bigint, token bigint);

-- A few jobs of 21 priorities, some of them in the hands of workers.
CREATE PROCEDURE pg_temp.fill() LANGUAGE plpgsql AS $$
DECLARE
    job record;
BEGIN
    -- Each commit announces, with claims in between that raise the frontier.
    FOR p IN REVERSE 10..-10 LOOP
        PERFORM pgjobs.enqueue('q', priority => p);
        COMMIT;
    END LOOP;
    FOR p IN -10..10 LOOP
        PERFORM pgjobs.enqueue('q', priority => p);
        COMMIT;
        INSERT INTO held SELECT id, token FROM pgjobs.claim('q', 1 + abs(p) % 2);
        COMMIT;
    END LOOP;
    -- Back behind the frontier, each in its way.
    FOR job IN SELECT *, row_number() OVER (ORDER BY id) % 6 AS way FROM held LOOP
        CASE job.way
        WHEN 0 THEN PERFORM pgjobs.fail(job.id, job.token, 'try again', retry_in => '0');
        WHEN 1 THEN PERFORM pgjobs.snooze(job.id, job.token, '0');
        WHEN 2 THEN PERFORM pgjobs.release(job.id, job.token);
        WHEN 3 THEN PERFORM pgjobs.complete(job.id, job.token);
        WHEN 4 THEN PERFORM pgjobs.complete(job.id, job.token, next_stage => 'first');
        ELSE NULL; -- stays running
        END CASE;
        COMMIT;
        PERFORM id FROM pgjobs.claim('q', 1, stage => 'second');
        ROLLBACK;
    END LOOP;
    DELETE FROM held;
    COMMIT;
    FOR p IN 1..6 LOOP
        PERFORM pgjobs.enqueue('q', priority => p % 3 - 1, run_at => now() - p * interval '1 hour');
        COMMIT;
    END LOOP;
    -- Undone: by itself, and with the rest.
    BEGIN
        PERFORM pgjobs.claim('q', 9), pgjobs.enqueue('q');
        RAISE 'undo';
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
    PERFORM pgjobs.purge_queue('q');
    PERFORM pgjobs.claim('q', 9);
    ROLLBACK;
END $$;

-- Claims all that is ready, one by one or some at a time, and looks at the order.
CREATE PROCEDURE pg_temp.drain(what text) LANGUAGE plpgsql AS $$
DECLARE
    hidden bigint := pgjobs._check_frontier();
    expected bigint[] := ARRAY(SELECT j.id FROM pgjobs.job j JOIN pgjobs.queue q ON q.id = j.queue_id
        WHERE q.name = 'q' AND waiting = 0 AND token IS NULL ORDER BY stage DESC, priority, due_at, j.id);
    claimed bigint[] := '{}';
    batch bigint[];
BEGIN
    FOR i IN 1..1000 LOOP
        batch := ARRAY(SELECT id FROM pgjobs.claim('q', 1 + i % 3));
        claimed := claimed || batch;
        COMMIT;
        EXIT WHEN batch = '{}';
    END LOOP;
    RAISE NOTICE '%: % jobs, % in order, % were hidden', what, cardinality(expected),
        CASE WHEN claimed = expected THEN 'all' ELSE 'not' END, hidden;
    TRUNCATE pgjobs.job;
END $$;
SELECT pgjobs.create_queue('q', stages => ARRAY['first', 'second'], lease => '1 hour');

CALL pg_temp.fill();
CALL pg_temp.drain('as it is');
CALL pg_temp.fill();
SELECT pgjobs._reset_hints();
CALL pg_temp.drain('without hints');

-- What a user hangs on the table works as in a statement.
CREATE TABLE seen (n bigint);
INSERT INTO seen VALUES (0);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE seen SET n = n + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER see AFTER INSERT OR UPDATE ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION see();
CALL pg_temp.fill();
CALL pg_temp.drain('with a trigger');
DROP TRIGGER see ON pgjobs.job;
DROP FUNCTION see;
SELECT n > 100 AS seen FROM seen;
DROP TABLE seen;

ALTER TABLE pgjobs.job ADD COLUMN mine text NOT NULL DEFAULT 'usual';
CALL pg_temp.fill();
SELECT DISTINCT mine FROM pgjobs.job;
CALL pg_temp.drain('with a column');
ALTER TABLE pgjobs.job DROP COLUMN mine;
CALL pg_temp.fill();
CALL pg_temp.drain('with a dropped column');

CREATE INDEX mine ON pgjobs.job ((payload ->> 'n')) WHERE attempt > 0;
CALL pg_temp.fill();
SET enable_seqscan = off;
SELECT count(*) > 0 AS entered FROM pgjobs.job WHERE payload ->> 'n' IS NULL AND attempt > 0;
RESET enable_seqscan;
CALL pg_temp.drain('with an index');
DROP INDEX pgjobs.mine;

-- Others on the columns of ours, for some rows only, in another order or of another kind: the oldest
-- would come first, so ours are made anew.
CREATE INDEX mine ON pgjobs.job (queue_id, stage, priority, due_at, id) WHERE priority < -5;
CREATE INDEX mine_too ON pgjobs.job USING brin (queue_id, stage, priority, due_at, id);
CREATE INDEX mine_all ON pgjobs.job (queue_id, stage, priority DESC, due_at, id) WHERE waiting = 0;
CREATE INDEX my_keys ON pgjobs.job (queue_id, unique_key) WHERE priority < 0;
REINDEX INDEX CONCURRENTLY pgjobs.job_due;
REINDEX INDEX CONCURRENTLY pgjobs.job_unique_key;
CALL pg_temp.fill();
CALL pg_temp.drain('with indexes like ours');
SELECT pgjobs.enqueue('q', unique_key => 'k') AS id \gset
SELECT pgjobs.enqueue('q', unique_key => 'k', on_conflict => 'keep') = :id AS kept;
SELECT count(*) FROM pgjobs.claim('q');
-- In the place of ours they are of no use.
ALTER INDEX pgjobs.job_due RENAME TO ours;
DROP INDEX pgjobs.mine, pgjobs.mine_too, pgjobs.mine_all, pgjobs.my_keys;
CREATE INDEX mine ON pgjobs.job (queue_id, stage, priority, due_at, id) WHERE waiting = 1;
CALL pg_temp.fill();
BEGIN;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgjobs.ours'::regclass;
SELECT count(*) FROM pgjobs.claim('q');
ROLLBACK;
DROP INDEX pgjobs.mine;
ALTER INDEX pgjobs.ours RENAME TO job_due;
CALL pg_temp.drain('with ours again');

ALTER TABLE pgjobs.job ADD CONSTRAINT mine CHECK (priority < 100);
CALL pg_temp.fill();
\set VERBOSITY sqlstate
SELECT pgjobs.enqueue('q', priority => 100);
\set VERBOSITY default
CALL pg_temp.drain('with a constraint');
ALTER TABLE pgjobs.job DROP CONSTRAINT mine;

ALTER TABLE pgjobs.job ALTER COLUMN group_key SET NOT NULL;
\set VERBOSITY sqlstate
SELECT pgjobs.enqueue('q');
SELECT pgjobs.enqueue_many('q', ARRAY['1', '2']::jsonb[]);
\set VERBOSITY default
ALTER TABLE pgjobs.job ALTER COLUMN group_key DROP NOT NULL;

-- A trigger that suppresses what pgjobs does is an error: the answer would not be true.
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER suppress BEFORE INSERT ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION suppress();
SELECT pgjobs.enqueue('q');
DROP TRIGGER suppress ON pgjobs.job;
SELECT pgjobs.enqueue('q') AS id \gset
CREATE TRIGGER suppress BEFORE UPDATE ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION suppress();
SELECT * FROM pgjobs.claim('q');
DROP TRIGGER suppress ON pgjobs.job;
SELECT id = :id AS same, token FROM pgjobs.claim('q', stage => 'first') \gset
CREATE TRIGGER suppress BEFORE DELETE ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION suppress();
SELECT pgjobs.cancel(:id);
DROP TRIGGER suppress ON pgjobs.job;
DROP FUNCTION suppress;
SELECT pgjobs.complete(:id, :token);
CALL pg_temp.drain('after all that');

-- While the trigger that tells of changes is off, nobody is told; claims find every job all the same.
CALL pg_temp.fill();
ALTER TABLE pgjobs.job DISABLE TRIGGER changed;
CALL pg_temp.fill();
SELECT count(*) FROM pgjobs.claim('q', 20);
CALL pg_temp.fill();
ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER changed;
CALL pg_temp.drain('with the trigger off and on again');
CALL pg_temp.fill();
BEGIN;
ALTER TABLE pgjobs.job DISABLE TRIGGER changed;
UPDATE pgjobs.job SET due_at = due_at - interval '1 day', token = NULL, priority = priority - 1;
SELECT count(*) FROM pgjobs.claim('q', 20);
UPDATE pgjobs.job SET token = NULL, lease_expires_at = NULL;
ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER changed;
COMMIT;
CALL pg_temp.drain('in one transaction');

-- The table is written anew.
CALL pg_temp.fill();
REINDEX TABLE pgjobs.job;
CALL pg_temp.drain('after REINDEX');
CALL pg_temp.fill();
REINDEX TABLE CONCURRENTLY pgjobs.job;
CALL pg_temp.drain('after REINDEX CONCURRENTLY');
CALL pg_temp.fill();
VACUUM FULL pgjobs.job;
CALL pg_temp.drain('after VACUUM FULL');
CALL pg_temp.fill();
CLUSTER pgjobs.job USING job_pkey;
ALTER TABLE pgjobs.job SET WITHOUT CLUSTER;
CALL pg_temp.drain('after CLUSTER');
SELECT pgjobs.enqueue('q') > 0 AS added;
SELECT id, token FROM pgjobs.claim('q') \gset
VACUUM FULL pgjobs.job;
SELECT pgjobs.complete(:id, :token);
CALL pg_temp.fill();
TRUNCATE pgjobs.job;
SELECT count(*) FROM pgjobs.claim('q', 20);
CALL pg_temp.fill();
CALL pg_temp.drain('after TRUNCATE');

-- A job of one's own comes before one of others that went back behind the frontier.
SELECT pgjobs.enqueue('q', '"others"', run_at => now() - interval '1 hour') AS id \gset
SELECT token FROM pgjobs.claim('q') \gset
SELECT count(*) FROM pgjobs.claim('q');
SELECT pgjobs.release(:id, :token);
BEGIN;
SELECT pgjobs.enqueue('q', '"own"', run_at => now() - interval '2 hours') > 0 AS added;
SELECT payload FROM pgjobs.claim('q', 2);
ROLLBACK;
SELECT payload FROM pgjobs.claim('q', 2);
SELECT pgjobs._check_frontier();
SELECT pgjobs.drop_queue('q', force => true);

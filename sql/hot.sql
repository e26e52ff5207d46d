-- A claim changes no index: claim, extend, progress and release are HOT updates, also of jobs with
-- large payloads. Counted inside transactions, where the figures are exact at once.
CREATE FUNCTION pg_temp.counts(OUT updates bigint, OUT hot bigint) LANGUAGE sql AS $$
    SELECT pg_stat_get_xact_tuples_updated('pgjobs.job'::regclass),
        pg_stat_get_xact_tuples_hot_updated('pgjobs.job'::regclass)
$$;
SELECT pgjobs.create_queue('small', lease => '1 hour');
SELECT pgjobs.create_queue('large', lease => '1 hour');
-- About a kilobyte each: one that compresses and one that does not.
SELECT cardinality(pgjobs.enqueue_many('small', ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 300) n),
    unique_keys => ARRAY(SELECT 'key ' || n FROM generate_series(1, 300) n)));
SELECT cardinality(pgjobs.enqueue_many('large', ARRAY(SELECT jsonb_build_object('n', n, 'noise',
    (SELECT string_agg(md5(n::text || m::text), '') FROM generate_series(1, 32) m)) FROM generate_series(1, 300) n),
    headers => array_fill('{"trace": "0123456789abcdef"}'::jsonb, ARRAY[300])));
SELECT cardinality(pgjobs.enqueue_many('large', ARRAY(SELECT jsonb_build_object('n', n, 'same', repeat('x', 1000))
    FROM generate_series(1, 300) n)));

-- Every claim finds room in its page, even when all jobs of the page are claimed in one transaction.
BEGIN;
SELECT * FROM pg_temp.counts() \gset before_
SELECT count(*) FROM pgjobs.claim('small', 300);
SELECT updates - :before_updates AS updates, hot - :before_hot AS hot FROM pg_temp.counts();
COMMIT;
BEGIN;
SELECT * FROM pg_temp.counts() \gset before_
SELECT count(*) FROM pgjobs.claim('large', 600);
SELECT updates - :before_updates AS updates, hot - :before_hot AS hot FROM pg_temp.counts();
COMMIT;
SELECT pgjobs.drop_queue('small', force => true), pgjobs.drop_queue('large', force => true);

-- Step after step on the same job, each a transaction of its own. Every round begins with an empty
-- table, and a page has room for all its versions: they need not wait for old ones to be pruned,
-- which a snapshot elsewhere would hold up.
SELECT pgjobs.create_queue('q', lease => '1 hour');
CREATE TABLE held (id bigint, token bigint);
CREATE PROCEDURE pg_temp.count_steps(payload jsonb) LANGUAGE plpgsql AS $$
DECLARE
    steps text[] := ARRAY[
        'INSERT INTO held SELECT id, token FROM pgjobs.claim(''q'')',
        'SELECT pgjobs.extend(id, token, ''2 hours'') FROM held',
        'SELECT pgjobs.progress(id, token, 0.5, ''half of it'') FROM held',
        'SELECT pgjobs.extend_many(array_agg(id), array_agg(token), ''3 hours'') FROM held',
        'SELECT pgjobs.release(id, token) FROM held'];
    step text;
    before record;
    now record;
    updates bigint := 0;
    hot bigint := 0;
BEGIN
    FOR round IN 1..20 LOOP
        TRUNCATE held, pgjobs.job;
        PERFORM pgjobs.enqueue('q', payload);
        COMMIT;
        SELECT * INTO before FROM pg_temp.counts();
        FOREACH step IN ARRAY steps LOOP
            EXECUTE step;
            COMMIT;
        END LOOP;
        SELECT * INTO now FROM pg_temp.counts();
        updates := updates + now.updates - before.updates;
        hot := hot + now.hot - before.hot;
    END LOOP;
    RAISE NOTICE '% updates, % HOT', updates, hot;
    PERFORM pgjobs.purge_queue('q');
END $$;
CALL pg_temp.count_steps('{}');
CALL pg_temp.count_steps(jsonb_build_object('same', repeat('x', 1000)));
SELECT jsonb_build_object('noise', string_agg(md5(n::text), '')) AS noise FROM generate_series(1, 32) n \gset
CALL pg_temp.count_steps(:'noise');
-- So it is through the executor, which writes the rows where a user has hung something on the table.
CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER pass BEFORE UPDATE ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION pass();
CALL pg_temp.count_steps('{}');
CALL pg_temp.count_steps(:'noise');
DROP TRIGGER pass ON pgjobs.job;
DROP FUNCTION pass;
DROP TABLE held;
SELECT pgjobs.drop_queue('q');

-- Receipts: a queue that keeps no history still knows which token completed a job, for a while.
SELECT pgjobs.create_queue('brief', retention => '0', lease => '1 hour', notify => 'off');
SELECT pgjobs.create_queue('pipe', ARRAY['one', 'two'], retention => '0', lease => '1 hour', notify => 'off');
SELECT pgjobs.create_queue('kept', lease => '1 hour', notify => 'off');
CREATE PROCEDURE pg_temp.show_state(call text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE call;
    RAISE NOTICE 'accepted';
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE '%', SQLSTATE;
END $$;
CREATE FUNCTION pg_temp.receipts() RETURNS bigint LANGUAGE sql AS
    'SELECT (SELECT count(*) FROM pgjobs.receipt_0) + (SELECT count(*) FROM pgjobs.receipt_1) + (SELECT count(*) FROM pgjobs.receipt_2)';
-- Two turns on: everything that was written up to now is gone.
CREATE PROCEDURE pg_temp.turn() LANGUAGE sql AS $$
    SELECT pgjobs._rotate_receipts(now() + interval '15 minutes');
    SELECT pgjobs._rotate_receipts(now() + interval '30 minutes');
$$;
CALL pg_temp.turn();

-- The same token is accepted again, however often; another is not.
SELECT pgjobs.enqueue('brief') AS id \gset
SELECT token FROM pgjobs.claim('brief') \gset
SELECT pgjobs.complete(:id, :token), pgjobs.complete(:id, :token), pgjobs.complete(:id, :token, '"other"');
SELECT pgjobs.complete_many(ARRAY[:id, :id]::bigint[], ARRAY[:token, :token]::bigint[], on_lost => 'error') = ARRAY[:id]::bigint[] AS repeated;
CALL pg_temp.show_state(format('SELECT pgjobs.complete(%s, %s)', :id, :token + 1));
CALL pg_temp.show_state(format('SELECT pgjobs.fail(%s, %s)', :id, :token));
SELECT pgjobs.complete_many(ARRAY[:id, :id]::bigint[], ARRAY[:token, :token + 1]::bigint[]) = ARRAY[:id]::bigint[] AS one_of_two;
SELECT count(*) FROM pgjobs.jobs WHERE id = :id;
\set VERBOSITY sqlstate
CALL pgjobs.await(:id, '1 minute');
\set VERBOSITY default

-- Undone, there is none.
SELECT pgjobs.enqueue('brief') AS id \gset
SELECT token FROM pgjobs.claim('brief') \gset
BEGIN;
SELECT pgjobs.complete(:id, :token);
SELECT pgjobs.complete(:id, :token);
ROLLBACK;
SELECT pg_temp.receipts();
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.complete(:id, :token);

-- Only the last stage leaves one; the job itself knows the tokens before.
SELECT pgjobs.enqueue('pipe') AS id \gset
SELECT token AS first FROM pgjobs.claim('pipe') \gset
SELECT pgjobs.complete(:id, :first), pgjobs.complete(:id, :first);
SELECT token AS second FROM pgjobs.claim('pipe') \gset
SELECT pgjobs.complete(:id, :second), pgjobs.complete(:id, :second);
CALL pg_temp.show_state(format('SELECT pgjobs.complete(%s, %s)', :id, :first));

-- Many jobs, their ids near and far, of several queues in turn: some rows for all of them.
ALTER SEQUENCE pgjobs.job_id_seq INCREMENT 5000;
SELECT cardinality(pgjobs.enqueue_many('brief', array_fill('{}'::jsonb, ARRAY[2500])));
ALTER SEQUENCE pgjobs.job_id_seq INCREMENT 8192;
SELECT cardinality(pgjobs.enqueue_many('brief', array_fill('{}'::jsonb, ARRAY[1000])));
ALTER SEQUENCE pgjobs.job_id_seq INCREMENT 8193;
SELECT cardinality(pgjobs.enqueue_many('brief', array_fill('{}'::jsonb, ARRAY[1000])));
ALTER SEQUENCE pgjobs.job_id_seq INCREMENT 7;
SELECT cardinality(pgjobs.enqueue_many('brief', array_fill('{}'::jsonb, ARRAY[2500])));
ALTER SEQUENCE pgjobs.job_id_seq INCREMENT 1;
SELECT count(pgjobs.enqueue(CASE n % 3 WHEN 0 THEN 'brief' WHEN 1 THEN 'kept' ELSE 'pipe' END)) FROM generate_series(1, 3000) n;
CREATE TEMPORARY TABLE held AS
    SELECT id, token FROM pgjobs.claim('brief', 10000) UNION ALL
    SELECT id, token FROM pgjobs.claim('kept', 10000) UNION ALL
    SELECT id, token FROM pgjobs.claim('pipe', 10000);
SELECT array_agg(id ORDER BY id) AS ids, array_agg(token ORDER BY id) AS tokens, array_agg(token + 1 ORDER BY id) AS wrong FROM held \gset
SELECT pg_temp.receipts() AS before \gset
SELECT pgjobs.complete_many(:'ids', :'tokens') = :'ids'::bigint[] AS all_completed;
SELECT pg_temp.receipts() - :before BETWEEN 1000 AND 8000 AS written;
SELECT pgjobs.complete_many(:'ids', :'tokens', on_lost => 'error') = :'ids'::bigint[] AS all_repeated;
SELECT pgjobs.complete_many(:'ids', :'wrong');
SELECT count(*) FROM held WHERE pgjobs.complete(id, token) = 'completed';
SELECT count(*) FROM pgjobs.history WHERE queue_id <> (SELECT id FROM pgjobs.queue WHERE name = 'kept') AND finished_at > now() - interval '5 minutes' AND id = ANY (:'ids');

-- An hour's turns: a receipt outlives the next turn, and not the one behind it.
SELECT pgjobs._rotate_receipts(now());
SELECT cardinality(pgjobs.complete_many(:'ids', :'tokens')) = cardinality(:'ids'::bigint[]) AS still_accepted;
CALL pg_temp.turn();
SELECT pg_temp.receipts();
SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ '^receipt_' AND relnamespace = 'pgjobs'::regnamespace AND relkind = 'r';
SELECT count(*) FROM pgjobs.history h WHERE h.id IN (SELECT unnest(pgjobs.complete_many(:'ids', :'tokens'))) AND payload IS NULL;
SELECT cardinality(pgjobs.complete_many(:'ids', :'tokens')) AS kept_and_between_stages;
CALL pg_temp.show_state(format('SELECT pgjobs.complete(%s, %s)', :id, :second));
SELECT pgjobs._check_frontier();
SELECT pgjobs.drop_queue(q, force => true) FROM unnest(ARRAY['brief', 'pipe', 'kept']) q;

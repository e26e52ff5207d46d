-- Calls that a client makes again, or makes twice at once.
SELECT pgjobs.create_queue('q', notify => 'off');
SELECT pgjobs.create_queue('pipe', ARRAY['one', 'two'], notify => 'off');
CREATE PROCEDURE pg_temp.show_error(call text) LANGUAGE plpgsql AS $$
DECLARE
    said_hint text;
BEGIN
    EXECUTE call;
    RAISE NOTICE 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS said_hint = PG_EXCEPTION_HINT;
    RAISE NOTICE '% %', SQLSTATE, CASE said_hint WHEN '' THEN 'without a hint' ELSE 'with a hint' END;
END $$;

-- A client that lost its connection can repeat complete_many: the same ids come back, nothing changes.
SELECT cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[3]))) AS added;
SELECT array_agg(id ORDER BY id) AS ids, array_agg(token ORDER BY id) AS tokens FROM pgjobs.claim('q', 3) \gset
SELECT pgjobs.complete_many(:'ids', :'tokens', ARRAY['1', '2', '3']::jsonb[]) = :'ids'::bigint[] AS all_completed;
SELECT pgjobs.complete_many(:'ids', :'tokens', ARRAY['4', '5', '6']::jsonb[]) = :'ids'::bigint[] AS all_repeated;
SELECT pgjobs.complete_many(:'ids', :'tokens', on_lost => 'error') = :'ids'::bigint[] AS all_repeated;
SELECT array_agg(result ORDER BY id) AS results FROM pgjobs.jobs WHERE id = ANY (:'ids'::bigint[]);

-- The same after a stage that is not the last: the job is not moved twice.
SELECT pgjobs.enqueue('pipe') AS id \gset
SELECT token FROM pgjobs.claim('pipe') \gset
SELECT cardinality(pgjobs.complete_many(ARRAY[:id]::bigint[], ARRAY[:token]::bigint[])) AS completed;
SELECT cardinality(pgjobs.complete_many(ARRAY[:id]::bigint[], ARRAY[:token]::bigint[])) AS repeated;
SELECT stage, state FROM pgjobs.jobs WHERE id = :id;

-- A repeat is not one with another token, nor of a job that failed.
CALL pg_temp.show_error(format('SELECT pgjobs.complete_many(ARRAY[%s]::bigint[], ARRAY[%s]::bigint[], on_lost => ''error'')',
    :id, :token + 1));
SELECT token FROM pgjobs.claim('pipe') \gset
SELECT pgjobs.fail(:id, :token, retry => false);
SELECT pgjobs.complete_many(ARRAY[:id]::bigint[], ARRAY[:token]::bigint[]) AS nothing;

-- Two tokens of one job in one call: the spent one is judged like any other.
SELECT pgjobs.enqueue('q') AS id \gset
SELECT token AS spent FROM pgjobs.claim('q') \gset
SELECT pgjobs.release(:id, :spent);
SELECT token FROM pgjobs.claim('q') \gset
CALL pg_temp.show_error(format('SELECT pgjobs.extend_many(ARRAY[%1$s, %1$s]::bigint[], ARRAY[%2$s, %3$s]::bigint[], on_lost => ''error'')',
    :id, :spent, :token));
CALL pg_temp.show_error(format('SELECT pgjobs.complete_many(ARRAY[%1$s, %1$s]::bigint[], ARRAY[%2$s, %3$s]::bigint[], on_lost => ''error'')',
    :id, :spent, :token));
SELECT cardinality(pgjobs.extend_many(ARRAY[:id, :id]::bigint[], ARRAY[:token, :token]::bigint[])) AS extended;
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT cardinality(pgjobs.complete_many(ARRAY[:id, :id]::bigint[], ARRAY[:token, :token]::bigint[])) AS completed;

-- A result has the limit of a payload; the job stays with its worker.
SELECT pgjobs.enqueue('q') AS id \gset
SELECT token FROM pgjobs.claim('q') \gset
CALL pg_temp.show_error(format('SELECT pgjobs.complete(%s, %s, to_jsonb(repeat(''x'', pg_size_bytes(current_setting(''pgjobs.max_payload''))::int)))', :id, :token));
CALL pg_temp.show_error(format('SELECT pgjobs.complete_many(ARRAY[%s]::bigint[], ARRAY[%s]::bigint[], ARRAY[to_jsonb(repeat(''x'', pg_size_bytes(current_setting(''pgjobs.max_payload''))::int))])', :id, :token));
SELECT state FROM pgjobs.jobs WHERE id = :id;

-- An attempt that fails without an error leaves none of an attempt before; completing leaves none.
SELECT pgjobs.fail(:id, :token, 'first', retry_in => '0');
SELECT token FROM pgjobs.claim('q') \gset
SELECT pgjobs.fail(:id, :token, retry_in => '0');
SELECT error IS NULL AS no_error FROM pgjobs.jobs WHERE id = :id;
SELECT token FROM pgjobs.claim('q') \gset
SELECT pgjobs.fail(:id, :token, 'third', retry_in => '0');
SELECT token FROM pgjobs.claim('q') \gset
SELECT pgjobs.complete(:id, :token);
SELECT error IS NULL AS no_error FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, outcome, error FROM pgjobs.attempts WHERE job_id = :id ORDER BY attempt;

-- expires_at is about the first start: a job that has started in time is tried again later too.
SELECT pgjobs.enqueue('q', expires_at => clock_timestamp() + interval '1 hour') AS id \gset
SELECT pgjobs.enqueue('q', expires_at => clock_timestamp() + interval '1 hour', priority => 1) AS never_started \gset
SELECT token FROM pgjobs.claim('q') \gset
SELECT pgjobs.release(:id, :token);
SELECT pgjobs._expire(now() + interval '2 hours') AS expired;
SELECT id = :id AS is_the_started_one, state, error FROM pgjobs.jobs WHERE id IN (:id, :never_started) ORDER BY 1;
SELECT count(*) AS claimed FROM pgjobs.claim('q');

-- A job that could never start in time is refused; one that comes too late is cancelled.
CALL pg_temp.show_error($$SELECT pgjobs.enqueue('q', delay => '1 hour', expires_at => now() + interval '1 minute')$$);
SELECT pgjobs.enqueue('q', expires_at => now() - interval '1 minute') AS id \gset
CALL pgjobs.await(:id, '1 minute');

-- Awaiting a job that died answers its state, and no result of a stage before.
SELECT pgjobs.enqueue('pipe') AS id \gset
SELECT token FROM pgjobs.claim('pipe') \gset
SELECT pgjobs.complete(:id, :token, '"half"');
SELECT token FROM pgjobs.claim('pipe') \gset
SELECT pgjobs.fail(:id, :token, retry => false);
CALL pgjobs.await(:id, '0');

-- An error in a batch says in which element.
\set VERBOSITY default
SELECT pgjobs.enqueue_batch('q', '[{}, {"delay": "soon"}]');
\set VERBOSITY terse

SELECT pgjobs.drop_queue('q', force => true), pgjobs.drop_queue('pipe', force => true);

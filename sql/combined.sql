-- complete_and_claim: the jobs in hand and the next ones, in one call.
CREATE FUNCTION pg_temp.refused(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || regexp_replace(SQLERRM, 'job [0-9]+', 'job N');
END $$;
SELECT pgjobs.create_queue('busy', ARRAY['first', 'second']);
SELECT cardinality(pgjobs.enqueue_many('busy', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 4) n)));

-- Without jobs in hand it claims.
SELECT array_agg(id) AS ids, array_agg(token) AS tokens, array_agg(payload ORDER BY payload) FROM pgjobs.complete_and_claim('busy', max_jobs => 2, stage => 'first') \gset one_
SELECT :'one_array_agg' AS claimed;
-- Results go to the jobs in the order of the ids, and jobs to their next stage; the caller takes the next ones.
SELECT payload, stage, attempt FROM pgjobs.complete_and_claim('busy', :'one_ids', :'one_tokens',
    ARRAY['"a"', '"b"']::jsonb[], 5, 'first') ORDER BY payload;
SELECT payload, stage, state, result FROM pgjobs.jobs WHERE queue = 'busy' ORDER BY payload;
-- Any stage: the latest first.
SELECT payload, stage, result FROM pgjobs.complete_and_claim('busy', worker => 'me', lease => '1 hour');
SELECT payload, worker FROM pgjobs.jobs WHERE queue = 'busy' AND worker = 'me';

-- A call that is repeated after a lost answer completes nothing twice.
SELECT id, token FROM pgjobs.claim('busy', stage => 'second') \gset
SELECT count(*) FROM pgjobs.complete_and_claim('busy', ARRAY[:id], ARRAY[:token]);
SELECT count(*) FROM pgjobs.complete_and_claim('busy', ARRAY[:id], ARRAY[:token]);
SELECT state FROM pgjobs.jobs WHERE id = :id;

-- A lost lease: nothing is completed and nothing claimed.
SELECT cardinality(pgjobs.enqueue_many('busy', ARRAY['"x"', '"y"', '"z"']::jsonb[]));
SELECT array_agg(id) AS ids, array_agg(token) AS tokens FROM pgjobs.claim('busy', 2) \gset
SELECT (:'tokens'::bigint[])[1] AS good \gset
SELECT pg_temp.refused(format('SELECT pgjobs.complete_and_claim(%L, %L, ARRAY[%s, 7])', 'busy', :'ids', :good));
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'busy' AND payload IN ('"x"', '"y"', '"z"') GROUP BY state ORDER BY state;
-- Unless that is wanted.
SELECT payload FROM pgjobs.complete_and_claim('busy', :'ids', ARRAY[:good, 7], on_lost => 'skip');
SELECT payload, state, stage FROM pgjobs.jobs WHERE queue = 'busy' AND payload IN ('"x"', '"y"', '"z"') ORDER BY payload;

-- Arguments.
SELECT pg_temp.refused(format('SELECT pgjobs.complete_and_claim(%s)', a)) AS refused, a AS arguments
FROM unnest(ARRAY['NULL', '''nothing''', '''busy'', NULL', '''busy'', ARRAY[1]', '''busy'', ARRAY[NULL]::bigint[], ARRAY[1]',
    '''busy'', ARRAY[1], ARRAY[1], ARRAY[''1'', ''2'']::jsonb[]', '''busy'', max_jobs => 0', '''busy'', max_jobs => 10001',
    '''busy'', stage => ''x''', '''busy'', lease => ''-1 s''', '''busy'', on_lost => ''x''']) a;

-- A paused queue gives nothing, but takes what is done.
SELECT id, token FROM pgjobs.claim('busy') \gset
SELECT pgjobs.pause_queue('busy');
SELECT count(*) FROM pgjobs.complete_and_claim('busy', ARRAY[:id], ARRAY[:token]);
SELECT state, stage FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.drop_queue('busy', force => true);

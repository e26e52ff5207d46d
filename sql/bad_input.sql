-- Bad input: every argument of every function gets what it must not get. Each call below is refused
-- with a SQLSTATE and a message that name what is wrong, has a hint, and changes nothing.
\set SHOW_CONTEXT never
SELECT pgjobs.create_queue('q', ARRAY['a', 'b'], lease => '1 hour', backoff => '1 hour');
SELECT pgjobs.create_queue('other', backoff => '1 hour');
SELECT pgjobs.enqueue('q', '"running"', unique_key => 'k') AS id \gset
SELECT pgjobs.enqueue('q', '"ready"') AS ready \gset
SELECT token FROM pgjobs.claim('q') \gset
SELECT pgjobs.enqueue('other', '"running elsewhere"') AS other \gset
SELECT token AS other_token FROM pgjobs.claim('other') \gset
SELECT pgjobs.enqueue('q', '"finished"', priority => -1) AS finished \gset
SELECT pgjobs.cancel(:finished);

-- What a call could have changed.
CREATE FUNCTION pg_temp.fingerprint() RETURNS text LANGUAGE sql AS $$
    SELECT md5(string_agg(line, E'\n' ORDER BY line)) FROM (
        SELECT 'job ' || j::text FROM pgjobs.job j
        UNION ALL SELECT 'history ' || h::text FROM pgjobs.history h
        UNION ALL SELECT 'queue ' || q::text FROM pgjobs.queue q
        UNION ALL SELECT 'stage ' || s::text FROM pgjobs.stage s
        UNION ALL SELECT 'acl ' || a::text FROM pgjobs.acl a
        UNION ALL SELECT format('counters %s %s %s %s %s', name, enqueued, completed, dead, cancelled) FROM pgjobs.queues
    ) x (line)
$$;
SELECT pg_temp.fingerprint() AS before \gset

-- Runs SELECT pgjobs.<call>; the ids and tokens made above are $id, $token, $ready, $other, $stolen.
SELECT set_config('test.names', jsonb_build_object('$id', :id, '$token', :token, '$ready', :ready, '$other', :other,
    '$stolen', :other_token)::text, false) IS NOT NULL AS set;
CREATE FUNCTION pg_temp.refused(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint text;
    command text := call;
    name text;
    number text;
BEGIN
    FOR name, number IN SELECT * FROM jsonb_each_text(current_setting('test.names')::jsonb) LOOP
        command := replace(command, name, number);
    END LOOP;
    EXECUTE 'SELECT pgjobs.' || command;
    RETURN 'ACCEPTED';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || regexp_replace(message, 'job \d+', 'job N') || CASE WHEN hint = '' THEN ' (NO HINT)' ELSE '' END;
END $$;
\pset format unaligned
\pset fieldsep ' -> '
\pset tuples_only on

-- NULL for a required argument is 22004 and names it: every function, every argument.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_queue(NULL)', 'create_queue(''x'', lease => NULL)', 'create_queue(''x'', max_attempts => NULL)',
    'create_queue(''x'', backoff => NULL)', 'create_queue(''x'', backoff_max => NULL)', 'create_queue(''x'', retention => NULL)',
    'create_queue(''x'', dead_retention => NULL)', 'create_queue(''x'', notify => NULL)', 'create_queue(''x'', durable_claims => NULL)',
    'alter_queue(NULL)', 'drop_queue(NULL)', 'drop_queue(''q'', NULL)', 'pause_queue(NULL)', 'resume_queue(NULL)', 'purge_queue(NULL)',
    'enqueue(NULL)', 'enqueue(''q'', NULL)', 'enqueue(''q'', priority => NULL)', 'enqueue(''q'', on_conflict => NULL)',
    'enqueue_many(NULL, ''{}'')', 'enqueue_many(''q'', NULL)', 'enqueue_many(''q'', ''{}'', priority => NULL)',
    'enqueue_many(''q'', ''{}'', on_conflict => NULL)', 'enqueue_batch(NULL, ''[]'')', 'enqueue_batch(''q'', NULL)',
    'claim(NULL)', 'claim(''q'', NULL)', 'claim(''q'', hold => NULL)',
    'complete(NULL, 1)', 'complete($id, NULL)', 'complete_many(NULL, ''{}'')', 'complete_many(''{}'', NULL)',
    'complete_many(''{}'', ''{}'', on_lost => NULL)', 'fail(NULL, 1)', 'fail($id, NULL)', 'fail($id, $token, retry => NULL)',
    'fail_many(NULL, ''{}'')', 'fail_many(''{}'', NULL)', 'fail_many(''{}'', ''{}'', retry => NULL)', 'fail_many(''{}'', ''{}'', on_lost => NULL)',
    'release(NULL, 1)', 'release($id, NULL)', 'snooze(NULL, 1, ''0'')', 'snooze($id, NULL, ''0'')', 'snooze($id, $token, NULL)',
    'extend(NULL, 1)', 'extend($id, NULL)', 'extend_many(NULL, ''{}'')', 'extend_many(''{}'', NULL)', 'extend_many(''{}'', ''{}'', on_lost => NULL)',
    'progress(NULL, 1, 0)', 'progress($id, NULL, 0)', 'progress($id, $token, NULL)',
    'cancel(NULL)', 'retry(NULL)', 'redrive(NULL)', 'reschedule(NULL, now())', 'reschedule($ready, NULL)', 'reprioritize(NULL, 1)',
    'reprioritize($ready, NULL)', 'job(NULL)', 'why(NULL)',
    'grant_queue(NULL, ''postgres'', ''{work}'')', 'grant_queue(''q'', NULL, ''{work}'')', 'grant_queue(''q'', ''postgres'', NULL)',
    'revoke_queue(NULL, ''postgres'', ''{work}'')', 'revoke_queue(''q'', NULL, ''{work}'')', 'revoke_queue(''q'', ''postgres'', NULL)',
    'attach_table(NULL, ''s'', ''[]'')', 'attach_table(''pg_class'', NULL, ''[]'')', 'attach_table(''pg_class'', ''s'', NULL)', 'detach_table(NULL)',
    'claim_row(NULL::pgjobs.queue, NULL)', 'claim_row(NULL::pgjobs.queue, ''s'', NULL)', 'finish_row(NULL, ''1'', ''s'')', 'finish_row(''pg_class'', NULL, ''s'')',
    'finish_row(''pg_class'', ''1'', NULL)', 'finish_row(''pg_class'', ''1'', ''s'', NULL)', '_reap_rows(NULL)', '_reap(NULL)', '_promote(NULL)', '_expire(NULL)', '_keep_history(NULL)', '_visible_queues(NULL)', '_queue_counters(NULL)', '_figures(NULL)']) call;

-- Every argument of every function has been there, or may be NULL: those that may.
SELECT p.proname, string_agg(a.name, ' ' ORDER BY a.n)
FROM pg_proc p, unnest(p.proargnames[:p.pronargs]) WITH ORDINALITY AS a (name, n)
WHERE p.pronamespace = 'pgjobs'::regnamespace AND p.proname !~ '^_'
    AND a.n > p.pronargs - p.pronargdefaults
    AND (string_to_array(pg_get_expr(p.proargdefaults, 0), ', '))[a.n - (p.pronargs - p.pronargdefaults)] ~ '^NULL'
GROUP BY p.proname ORDER BY p.proname;

-- Names of new queues and stages.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_queue('''')', 'create_queue('' '')', 'create_queue(''Mail'')', 'create_queue(''1mail'')', 'create_queue(''_mail'')',
    'create_queue(''-mail'')', 'create_queue(''.mail'')', 'create_queue(''ma il'')', 'create_queue(''mail '')', 'create_queue(''mail"'')',
    'create_queue(''mail;drop'')', 'create_queue(''ma''''il'')', 'create_queue(''mäil'')', 'create_queue(''ma/il'')', 'create_queue(''ma%il'')',
    'create_queue(repeat(''m'', 49))', 'create_queue(E''mail\n'')', 'create_queue(E''ma\tl'')', 'create_queue(E''\x01'')', 'create_queue(E''mail\x7f'')',
    'create_queue(''x'', ARRAY[''''])', 'create_queue(''x'', ARRAY[''a'', ''B''])', 'create_queue(''x'', ARRAY[repeat(''s'', 49)])',
    'create_queue(''x'', ARRAY[E''a\nb''])', 'create_queue(''x'', ARRAY[''a'', ''b'', ''a''])', 'create_queue(''x'', ''{}'')',
    'create_queue(''x'', ARRAY[''a'', NULL])', 'create_queue(''x'', ARRAY[[''a'', ''b''], [''c'', ''d'']])',
    'create_queue(''x'', array_agg(''s'' || n)) FROM generate_series(1, 101) n',
    'alter_queue(''q'', ARRAY[''a'', ''b'', ''''])', 'alter_queue(''q'', ARRAY[''a'', ''b'', ''C''])', 'alter_queue(''q'', ''{}'')',
    'alter_queue(''q'', ARRAY[''a'', NULL])', 'alter_queue(''q'', ARRAY[[''a'', ''b'']])', 'alter_queue(''q'', ARRAY[''b'', ''a''])']) call;

-- Names that must be there: queues, stages, roles, jobs.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'alter_queue('''')', 'drop_queue('''')', 'pause_queue(''Q'')', 'resume_queue('' q'')', 'purge_queue(E''q\n'')', 'redrive('''')',
    'enqueue('''')', 'enqueue(''Q'')', 'enqueue(''nope'')', 'enqueue(''q'', stage => '''')', 'enqueue(''q'', stage => ''A'')',
    'enqueue_many('''', ''{}'')', 'enqueue_many(''q'', ''{}'', stage => ''nope'')', 'enqueue_many(''q'', ''{1}'', stage => ''nope'')',
    'enqueue_batch('''', ''[]'')',
    'enqueue_batch(''q'', ''[{"stage": "nope"}]'')', 'claim('''')', 'claim(''q'', stage => '''')', 'claim(''q'', stage => ''nope'')',
    'complete($id, $token, next_stage => ''nope'')', 'complete($id, $token, next_stage => '''')',
    'create_queue(''x'', dead_letter => ''nope'')', 'alter_queue(''q'', dead_letter => ''nope'')', 'create_queue(''q'')',
    'grant_queue('''', ''postgres'', ''{work}'')', 'grant_queue(''q'', ''nobody here'', ''{work}'')', 'revoke_queue(''q'', ''nobody here'', ''{work}'')',
    'why(0)', 'why(-1)', 'why(9223372036854775807)']) call;
-- Verbs that say by their result that there is no such job.
SELECT pgjobs.cancel(-1), pgjobs.cancel(0), pgjobs.retry(-9223372036854775808), pgjobs.reschedule(0, now()), pgjobs.reprioritize(0, 0),
    (SELECT count(id) FROM pgjobs.job(-1));

-- Intervals: negative, too short, too long, of mixed signs.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_queue(''x'', lease => ''0'')', 'create_queue(''x'', lease => ''-1 second'')', 'create_queue(''x'', lease => ''999 microseconds'')',
    'create_queue(''x'', lease => ''200 years'')', 'create_queue(''x'', lease => ''178000000 years'')', 'create_queue(''x'', lease => ''1 month -31 days'')',
    'create_queue(''x'', backoff => ''-1 second'')', 'create_queue(''x'', backoff => ''200 years'')',
    'create_queue(''x'', backoff_max => ''-1 second'')', 'create_queue(''x'', backoff_max => ''200 years'')',
    'create_queue(''x'', retention => ''-1 second'')', 'create_queue(''x'', retention => ''200 years'')',
    'create_queue(''x'', dead_retention => ''-1 day'')', 'create_queue(''x'', dead_retention => ''2000000000 days'')',
    'alter_queue(''q'', lease => ''0'')', 'alter_queue(''q'', lease => ''2500000000 hours'')', 'alter_queue(''q'', backoff => ''-1 second'')',
    'alter_queue(''q'', backoff_max => ''-1 second'')', 'alter_queue(''q'', retention => ''-1 second'')', 'alter_queue(''q'', dead_retention => ''-1 second'')',
    'enqueue(''q'', delay => ''-1 second'')', 'enqueue(''q'', delay => ''200 years'')', 'enqueue(''q'', delay => ''-178000000 years'')',
    'enqueue_many(''q'', ''{1}'', delay => ''-1 second'')', 'enqueue_many(''q'', ''{1}'', delay => ''200 years'')',
    'enqueue_batch(''q'', ''[{"delay": "-1 second"}]'')', 'enqueue_batch(''q'', ''[{"delay": "200 years"}]'')',
    'claim(''q'', lease => ''0'')', 'claim(''q'', lease => ''-1 hour'')', 'claim(''q'', lease => ''200 years'')', 'claim(''q'', hold => true, lease => ''0'')',
    'fail($id, $token, retry_in => ''-1 second'')', 'fail($id, $token, retry_in => ''200 years'')',
    'snooze($id, $token, ''-1 second'')', 'snooze($id, $token, ''200 years'')',
    'extend($id, $token, ''0'')', 'extend($id, $token, ''-1 hour'')', 'extend($id, $token, ''200 years'')',
    'extend_many(ARRAY[$id], ARRAY[$token], ''0'')', 'extend_many(ARRAY[$id], ARRAY[$token], ''200 years'')']) call;

-- Times: never infinite, and never both a time and a delay.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'enqueue(''q'', run_at => ''infinity'')', 'enqueue(''q'', run_at => ''-infinity'')', 'enqueue(''q'', expires_at => ''infinity'')',
    'enqueue(''q'', expires_at => ''-infinity'')', 'enqueue(''q'', run_at => now(), delay => ''1 hour'')',
    'enqueue_many(''q'', ''{1}'', run_at => ''infinity'')', 'enqueue_many(''q'', ''{1}'', run_at => ''-infinity'')',
    'enqueue_many(''q'', ''{1}'', run_at => now(), delay => ''1 hour'')',
    'enqueue_batch(''q'', ''[{"run_at": "infinity"}]'')', 'enqueue_batch(''q'', ''[{"run_at": "2200-01-01", "delay": "1 hour"}]'')',
    'reschedule($ready, ''infinity'')', 'reschedule($ready, ''-infinity'')',
    '_reap(''infinity'')', '_reap(''-infinity'')', '_promote(''infinity'')', '_expire(''infinity'')', '_keep_history(''infinity'')',
    '_keep_history(''-infinity'')']) call;

-- Numbers beyond their limits.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_queue(''x'', max_attempts => 0)', 'create_queue(''x'', max_attempts => -1)', 'create_queue(''x'', max_attempts => 2147483648)',
    'alter_queue(''q'', max_attempts => 0)', 'alter_queue(''q'', max_attempts => 9223372036854775807)',
    'enqueue(''q'', priority => 32768)', 'enqueue(''q'', priority => -32769)', 'enqueue(''q'', priority => 9223372036854775807)',
    'enqueue(''q'', max_attempts => 0)', 'enqueue(''q'', max_attempts => -1)', 'enqueue(''q'', max_attempts => 2147483648)',
    'enqueue_many(''q'', ''{1}'', priority => 32768)', 'enqueue_many(''q'', ''{1}'', max_attempts => 0)',
    'enqueue_batch(''q'', ''[{"priority": 32768}]'')', 'enqueue_batch(''q'', ''[{"max_attempts": 0}]'')',
    'claim(''q'', 0)', 'claim(''q'', -1)', 'claim(''q'', 10001)', 'claim(''q'', 9223372036854775807)',
    'redrive(''q'', 0)', 'redrive(''q'', -1)', 'reprioritize($ready, 32768)', 'reprioritize($ready, -32769)',
    'progress($id, $token, -0.1)', 'progress($id, $token, 1.1)', 'progress($id, $token, ''NaN'')', 'progress($id, $token, ''Infinity'')',
    'progress($id, $token, ''-Infinity'')']) call;

-- Words that are none of those to choose from.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_queue(''x'', notify => ''on'')', 'create_queue(''x'', notify => '''')', 'create_queue(''x'', notify => ''WAKEUP'')', 'alter_queue(''q'', notify => ''all'')',
    'enqueue(''q'', on_conflict => ''ignore'')', 'enqueue(''q'', on_conflict => '''')', 'enqueue_many(''q'', ''{}'', on_conflict => ''Keep'')',
    'enqueue_batch(''q'', ''[{"on_conflict": "skip"}]'')', 'complete_many(''{}'', ''{}'', on_lost => ''ignore'')', 'fail_many(''{}'', ''{}'', on_lost => '''')',
    'extend_many(''{}'', ''{}'', on_lost => ''SKIP'')', 'grant_queue(''q'', ''postgres'', ''{all}'')', 'grant_queue(''q'', ''postgres'', ''{}'')',
    'grant_queue(''q'', ''postgres'', ''{work,""}'')', 'grant_queue(''q'', ''postgres'', ''{work,NULL}'')', 'grant_queue(''q'', ''postgres'', ''{{work},{own}}'')',
    'revoke_queue(''q'', ''postgres'', ''{all}'')', 'revoke_queue(''q'', ''postgres'', ''{NULL}'')', 'revoke_queue(''q'', ''postgres'', ''{}'')']) call;

-- Texts: empty, too long, with control characters.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'enqueue(''q'', unique_key => '''')', 'enqueue(''q'', unique_key => repeat(''k'', 256))', 'enqueue(''q'', unique_key => repeat(''ä'', 128))',
    'enqueue(''q'', unique_key => E''a\nb'')', 'enqueue(''q'', unique_key => E''\x01'')', 'enqueue(''q'', unique_key => E''\x7f'')',
    'enqueue_many(''q'', ''{1,2}'', unique_keys => ARRAY[''good'', ''''])', 'enqueue_many(''q'', ''{1,2}'', unique_keys => ARRAY[''good'', repeat(''k'', 256)])',
    'enqueue_many(''q'', ''{1}'', unique_keys => ARRAY[E''\t''])', 'enqueue_batch(''q'', ''[{"unique_key": "good"}, {"unique_key": ""}]'')',
    'enqueue_batch(''q'', ''[{"unique_key": "\n"}]'')', 'claim(''q'', worker => '''')', 'claim(''q'', worker => repeat(''w'', 256))',
    'claim(''q'', worker => E''a\rb'')', 'progress($id, $token, 0, '''')', 'progress($id, $token, 0, repeat(''n'', 1001))', 'progress($id, $token, 0, E''\x1b[31m'')']) call;

-- Payloads and headers: larger than pgjobs.max_payload; headers that are no object.
SET pgjobs.max_payload = 1024;
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'enqueue(''q'', to_jsonb(repeat(''x'', 2000)))', 'enqueue(''q'', headers => jsonb_build_object(''h'', repeat(''x'', 2000)))',
    'enqueue_many(''q'', ARRAY[''1'', to_jsonb(repeat(''x'', 2000))])', 'enqueue_many(''q'', ''{1}'', headers => ARRAY[jsonb_build_object(''h'', repeat(''x'', 2000))])',
    'enqueue_batch(''q'', jsonb_build_array(''{}''::jsonb, jsonb_build_object(''payload'', repeat(''x'', 2000))))',
    'enqueue_batch(''q'', jsonb_build_array(jsonb_build_object(''headers'', jsonb_build_object(''h'', repeat(''x'', 2000)))))']) call;
RESET pgjobs.max_payload;
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'enqueue(''q'', headers => ''[]'')', 'enqueue(''q'', headers => ''null'')', 'enqueue(''q'', headers => ''"text"'')', 'enqueue(''q'', headers => ''1'')',
    'enqueue_many(''q'', ''{1}'', headers => ARRAY[''[1]'']::jsonb[])', 'enqueue_batch(''q'', ''[{"headers": []}]'')', 'enqueue_batch(''q'', ''[{"headers": "x"}]'')']) call;

-- Arrays: of different lengths, with NULLs where none may be, of more than one dimension.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'enqueue_many(''q'', ''{1,2}'', unique_keys => ARRAY[''one''])', 'enqueue_many(''q'', ''{1,2}'', unique_keys => ''{}'')',
    'enqueue_many(''q'', ''{1}'', headers => ARRAY[''{}'', ''{}'']::jsonb[])', 'enqueue_many(''q'', ''{}'', headers => ARRAY[''{}'']::jsonb[])',
    'enqueue_many(''q'', ARRAY[''1'', NULL]::jsonb[])', 'enqueue_many(''q'', ''{{1,2},{3,4}}'')', 'enqueue_many(''q'', ''{1,2}'', unique_keys => ''{{a,b}}'')',
    'enqueue_many(''q'', ''{1,2}'', headers => ''{{NULL,NULL}}'')',
    'complete_many(ARRAY[$id], ''{}'')', 'complete_many(''{}'', ARRAY[$token])', 'complete_many(ARRAY[$id], ARRAY[$token], ''{}'')',
    'complete_many(ARRAY[$id], ARRAY[$token], ''{1,2}'')', 'complete_many(ARRAY[$id, NULL], ARRAY[$token, 1])', 'complete_many(ARRAY[$id, 1], ARRAY[$token, NULL])',
    'complete_many(ARRAY[[$id]], ARRAY[[$token]])', 'complete_many(ARRAY[$id], ARRAY[[$token]])', 'complete_many(ARRAY[$id], ARRAY[$token], ''{{1}}'')',
    'fail_many(ARRAY[$id], ''{}'')', 'fail_many(ARRAY[$id], ARRAY[$token], ''{}'')', 'fail_many(ARRAY[$id], ARRAY[$token], ''{a,b}'')',
    'fail_many(ARRAY[NULL::bigint], ARRAY[$token])', 'fail_many(ARRAY[$id], ARRAY[NULL::bigint])', 'fail_many(ARRAY[[$id]], ARRAY[$token])',
    'fail_many(ARRAY[$id], ARRAY[$token], ''{{a}}'')',
    'extend_many(ARRAY[$id], ''{}'')', 'extend_many(ARRAY[$id, NULL], ARRAY[$token, 1])', 'extend_many(ARRAY[$id], ARRAY[NULL::bigint])',
    'extend_many(ARRAY[[$id]], ARRAY[[$token]])']) call;

-- What is no batch: not an array, no objects in it, unknown members, members of the wrong type.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'enqueue_batch(''q'', ''{}'')', 'enqueue_batch(''q'', ''null'')', 'enqueue_batch(''q'', ''1'')', 'enqueue_batch(''q'', ''"text"'')',
    'enqueue_batch(''q'', ''[1]'')', 'enqueue_batch(''q'', ''[{}, null]'')', 'enqueue_batch(''q'', ''[[]]'')', 'enqueue_batch(''q'', ''[[{}]]'')', 'enqueue_batch(''q'', ''["text"]'')',
    'enqueue_batch(''q'', ''[{"payloads": 1}]'')', 'enqueue_batch(''q'', ''[{"": 1}]'')', 'enqueue_batch(''q'', ''[{"Priority": 1}]'')', 'enqueue_batch(''q'', ''[{"id": null}]'')',
    'enqueue_batch(''q'', ''[{"priority": true}]'')', 'enqueue_batch(''q'', ''[{"priority": [1]}]'')', 'enqueue_batch(''q'', ''[{"priority": {}}]'')',
    'enqueue_batch(''q'', ''[{"priority": "high"}]'')', 'enqueue_batch(''q'', ''[{"priority": 1.5}]'')', 'enqueue_batch(''q'', ''[{"priority": ""}]'')',
    'enqueue_batch(''q'', ''[{"max_attempts": 1e30}]'')', 'enqueue_batch(''q'', ''[{"run_at": "soon"}]'')', 'enqueue_batch(''q'', ''[{"run_at": 1}]'')',
    'enqueue_batch(''q'', ''[{"run_at": "2200-02-30"}]'')', 'enqueue_batch(''q'', ''[{"delay": "a while"}]'')', 'enqueue_batch(''q'', ''[{"delay": true}]'')',
    'enqueue_batch(''q'', ''[{"unique_key": ["a"]}]'')', 'enqueue_batch(''q'', ''[{"stage": true}]'')']) call;

-- Tokens: of other jobs, of no job. (More of it in work.sql.)
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'complete($id, $stolen)', 'complete($other, $token)', 'complete($ready, $token)', 'complete(0, 0)', 'complete(-1, $token)', 'complete($id, -$token)',
    'complete($id, 9223372036854775807)', 'complete($id, -9223372036854775808)',
    'fail($id, $stolen)', 'release($id, $stolen)', 'snooze($id, $stolen, ''0'')', 'extend($id, $stolen)', 'progress($id, $stolen, 0)',
    'complete_many(ARRAY[$id, $other], ARRAY[$stolen, $token], on_lost => ''error'')', 'fail_many(ARRAY[$id, $other], ARRAY[$stolen, $token], on_lost => ''error'')',
    'extend_many(ARRAY[$id, $other], ARRAY[$stolen, $token], on_lost => ''error'')']) call;
-- skip: none of them was ours.
SELECT pgjobs.complete_many(ARRAY[:id, :other], ARRAY[:other_token, :token]), pgjobs.fail_many(ARRAY[:id, :other], ARRAY[:other_token, :token]),
    pgjobs.extend_many(ARRAY[:id, :other], ARRAY[:other_token, :token]);

-- The procedures.
CALL pgjobs.wait(NULL);
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait('q', NULL);
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait('q', '-1 second');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait('q', '200 years');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait('');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait('q', '1 second', NULL, '');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.await(NULL, '1 second');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.await(:id, NULL);
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.await(:id, '-1 second');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.await(:id, '200 years');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.await(-1, '1 second');
\echo :LAST_ERROR_SQLSTATE

-- Settings have limits, too, and there are no others of that name.
-- The range is worded differently from 17 on.
\set VERBOSITY sqlstate
SET pgjobs.max_payload = 1023;
SET pgjobs.max_payload = '65 MB';
\set VERBOSITY default
SET pgjobs.max_playload = 1;

-- Nothing of all that changed anything; the two leases are still held, and what is at the limits is fine.
SELECT pg_temp.fingerprint() = :'before' AS unchanged;
\pset format aligned
\pset tuples_only off
SELECT payload, state, attempt FROM pgjobs.jobs WHERE id IN (:id, :ready, :other, :finished) ORDER BY id;
SELECT pgjobs.create_queue('x', (SELECT array_agg('s' || n) FROM generate_series(1, 100) n), lease => '1 millisecond', max_attempts => 2147483647,
    backoff => '0', backoff_max => '36525 days', retention => '0', dead_retention => '0');
SELECT pgjobs.enqueue('x', priority => 32767, max_attempts => 2147483647, unique_key => repeat('k', 255), delay => '36525 days',
    expires_at => '294276-12-31 00:00:00+00') > 0 AS added;
SELECT pgjobs.enqueue('x', run_at => '4713-01-02 00:00:00+00 BC', priority => -32768, max_attempts => 1) AS old \gset
SELECT pgjobs.enqueue('x', run_at => '294276-12-31 00:00:00+00') > 0 AS added;
SELECT attempt, max_attempts, pgjobs.extend(id, token, '36525 days') > now() + interval '36524 days' AS extended, pgjobs.progress(id, token, 1, repeat('n', 1000)),
    pgjobs.complete(id, token, next_stage => 's100') FROM pgjobs.claim('x', 10000, worker => repeat('w', 255), lease => '36525 days');
SELECT stage, pgjobs.complete(id, token) FROM pgjobs.claim('x', lease => '1 hour');
SELECT pgjobs.complete(:id, :token), pgjobs.complete(:other, :other_token);
SELECT pgjobs.drop_queue('x', true), pgjobs.drop_queue('q', true), pgjobs.drop_queue('other', true);

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
SELECT pgjobs.create_topic('t');
SELECT pgjobs.subscribe('s', 't');
SELECT pgjobs.publish_many('t', '{1,2,3}') IS NOT NULL AS published;
SELECT max(position) AS sent, max(token) AS lent FROM pgjobs.receive('s', 2, '1 hour') \gset

-- What a call could have changed.
CREATE FUNCTION pg_temp.fingerprint() RETURNS text LANGUAGE sql AS $$
    SELECT md5(string_agg(line, E'\n' ORDER BY line)) FROM (
        SELECT 'job ' || j::text FROM pgjobs.job j
        UNION ALL SELECT 'history ' || h::text FROM pgjobs.history h
        UNION ALL SELECT 'queue ' || q::text FROM pgjobs.queue q
        UNION ALL SELECT 'stage ' || s::text FROM pgjobs.stage s
        UNION ALL SELECT 'acl ' || a::text FROM pgjobs.acl a
        UNION ALL SELECT 'topic ' || t::text FROM pgjobs.topic t
        UNION ALL SELECT 'topic_acl ' || a::text FROM pgjobs.topic_acl a
        UNION ALL SELECT 'segment ' || s::text FROM pgjobs.segment s
        UNION ALL SELECT 'log ' || l::text FROM pgjobs.log l
        UNION ALL SELECT 'subscription ' || s::text FROM pgjobs.subscription s
        UNION ALL SELECT 'feed ' || f::text FROM pgjobs.feed f
        UNION ALL SELECT format('counters %s %s %s %s %s', name, enqueued, completed, dead, cancelled) FROM pgjobs.queues
    ) x (line)
$$;
SELECT pg_temp.fingerprint() AS before \gset

-- Runs SELECT pgjobs.<call>; the ids and tokens made above are $id, $token, $ready, $other, $stolen, $lent, $sent.
SELECT set_config('test.names', jsonb_build_object('$id', :id, '$token', :token, '$ready', :ready, '$other', :other,
    '$stolen', :other_token, '$lent', :lent, '$sent', :sent)::text, false) IS NOT NULL AS set;
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
    'finish_row(''pg_class'', ''1'', NULL)', 'finish_row(''pg_class'', ''1'', ''s'', NULL)', '_reap_rows(NULL)', '_require_version(NULL)',
    '_reap(NULL)', '_promote(NULL)', '_expire(NULL)', '_keep_history(NULL)', '_visible_queues(NULL)', '_queue_counters(NULL)', '_figures(NULL)',
    'create_topic(NULL)', 'create_topic(''x'', NULL)', 'alter_topic(NULL)', 'drop_topic(NULL)', 'publish(NULL, ''1'')', 'publish(''t'', NULL)',
    'publish_many(NULL, ''{}'')', 'publish_many(''t'', NULL)', 'read(NULL, 0)', 'read(''t'', NULL)', 'read(''t'', 0, NULL)',
    'subscribe(NULL, ''t'')', 'subscribe(''x'', NULL)', 'unsubscribe(NULL)', 'receive(NULL)', 'receive(''s'', NULL)', 'receive(''s'', lease => NULL)',
    'ack(NULL, 1, 1)', 'ack(''s'', NULL, 1)', 'ack(''s'', $lent, NULL)', 'seek(NULL, 0)', 'subscribe_queue(NULL, ''t'')', 'subscribe_queue(''q'', NULL)',
    'unsubscribe_queue(NULL, ''t'')', 'unsubscribe_queue(''q'', NULL)', 'grant_topic(NULL, ''postgres'', ''{own}'')', 'grant_topic(''t'', NULL, ''{own}'')',
    'grant_topic(''t'', ''postgres'', NULL)', 'revoke_topic(NULL, ''postgres'', ''{own}'')', 'revoke_topic(''t'', NULL, ''{own}'')', 'revoke_topic(''t'', ''postgres'', NULL)',
    '_keep_topics(NULL)', '_deliver(NULL)', '_topic_figures(NULL)', '_lag(NULL, 0)', '_lag(1, NULL)']) call;

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
    '_keep_history(''-infinity'')', '_keep_history(''0001-01-01 00:00+00 BC'')', '_keep_history(''9801-01-01'')']) call;

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

-- Topics: names of new ones, names that must be there, and what they are called twice.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_topic('''')', 'create_topic(''T'')', 'create_topic(''1t'')', 'create_topic(repeat(''t'', 49))', 'create_topic(E''t\n'')', 'create_topic(''t'')',
    'subscribe('''', ''t'')', 'subscribe(''S'', ''t'')', 'subscribe(repeat(''s'', 49), ''t'')', 'subscribe(E''s\x01'', ''t'')', 'subscribe(''s'', ''t'')',
    'subscribe(''x'', '''')', 'subscribe(''x'', ''T'')', 'subscribe(''x'', ''nope'')', 'alter_topic(''nope'', ''1 day'')', 'drop_topic('''')', 'drop_topic(E''t\n'')',
    'publish('''', ''1'')', 'publish(''nope'', ''1'')', 'publish_many(''nope'', ''{1}'')', 'publish_many(''nope'', ''{}'')', 'read(''nope'', 0)', 'read('''', 0)',
    'unsubscribe(''nope'')', 'unsubscribe('''')', 'receive(''nope'')', 'receive(''S'')', 'receive('''')', 'ack(''nope'', 1, 1)', 'seek(''nope'', 0)',
    'subscribe_queue(''nope'', ''t'')', 'subscribe_queue(''q'', ''nope'')', 'subscribe_queue(''q'', ''t'', stage => ''nope'')', 'subscribe_queue(''q'', ''t'', stage => '''')',
    'unsubscribe_queue(''nope'', ''t'')', 'unsubscribe_queue(''q'', ''nope'')', 'unsubscribe_queue(''q'', ''t'')',
    'grant_topic(''nope'', ''postgres'', ''{own}'')', 'grant_topic(''t'', ''nobody here'', ''{own}'')', 'revoke_topic(''t'', ''nobody here'', ''{own}'')',
    'grant_topic(''t'', ''postgres'', ''{work}'')', 'grant_topic(''t'', ''postgres'', ''{}'')', 'grant_queue(''q'', ''postgres'', ''{publish}'')',
    'create_queue(''x'', events_topic => ''nope'')', 'create_queue(''x'', events_topic => ''T'')', 'alter_queue(''q'', events_topic => ''nope'')']) call;

-- Positions, numbers, intervals, times, both of two, none of two.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'create_topic(''x'', ''0'')', 'create_topic(''x'', ''-1 second'')', 'create_topic(''x'', ''999 milliseconds'')', 'create_topic(''x'', ''200 years'')',
    'alter_topic(''t'', ''0'')', 'alter_topic(''t'', ''200 years'')', 'read(''t'', -1)', 'read(''t'', 0, 0)', 'read(''t'', 0, -1)', 'read(''t'', 0, 10001)',
    'subscribe(''x'', ''t'', -1)', 'subscribe(''x'', ''t'', from_time => ''infinity'')', 'subscribe(''x'', ''t'', from_time => ''-infinity'')',
    'subscribe(''x'', ''t'', 1, now())', 'receive(''s'', token => 0)', 'receive(''s'', 0)', 'receive(''s'', -1)', 'receive(''s'', 10001)', 'receive(''s'', lease => ''0'')',
    'receive(''s'', lease => ''-1 second'')', 'receive(''s'', lease => ''200 years'')', 'seek(''s'')', 'seek(''s'', NULL, NULL)', 'seek(''s'', -1)',
    'seek(''s'', to_time => ''infinity'')', 'seek(''s'', 1, now())', '_keep_topics(''infinity'')', '_deliver(''-infinity'')']) call;

-- Keys, headers, patterns, arrays.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'publish(''t'', ''1'', '''')', 'publish(''t'', ''1'', repeat(''k'', 256))', 'publish(''t'', ''1'', repeat(''ä'', 128))', 'publish(''t'', ''1'', E''a\nb'')',
    'publish(''t'', ''1'', headers => ''[]'')', 'publish(''t'', ''1'', headers => ''null'')', 'publish(''t'', ''1'', headers => ''"x"'')',
    'publish_many(''t'', ''{1,2}'', ''{a}'')', 'publish_many(''t'', ''{1,2}'', ''{}'')', 'publish_many(''t'', ''{1}'', ''{""}'')', 'publish_many(''t'', ''{1,NULL}'')',
    'publish_many(''t'', ''{{1,2}}'')', 'publish_many(''t'', ''{1,2}'', ''{{a,b}}'')', 'publish_many(''t'', ''{1}'', headers => ''{1}'')',
    'publish_many(''t'', ''{1,2}'', headers => ARRAY[''{}''::jsonb])', 'publish_many(''t'', ''{1}'', ARRAY[E''\t''])',
    'subscribe_queue(''q'', ''t'', '''')', 'subscribe_queue(''q'', ''t'', ''\'')', 'subscribe_queue(''q'', ''t'', ''a\\\'')', 'subscribe_queue(''q'', ''t'', repeat(''p'', 256))',
    'subscribe_queue(''q'', ''t'', E''\x01'')']) call;
SET pgjobs.max_payload = 1024;
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'publish(''t'', to_jsonb(repeat(''x'', 2000)))', 'publish(''t'', ''1'', headers => jsonb_build_object(''h'', repeat(''x'', 2000)))',
    'publish_many(''t'', ARRAY[''1'', to_jsonb(repeat(''x'', 2000))])']) call;
RESET pgjobs.max_payload;

-- Tokens of subscriptions, and positions that were not received.
SELECT call, pg_temp.refused(call) FROM unnest(ARRAY[
    'ack(''s'', 0, $sent)', 'ack(''s'', -1, $sent)', 'ack(''s'', $token, $sent)', 'ack(''s'', 9223372036854775807, 0)', 'ack(''s'', 1, -1)',
    'ack(''s'', $lent, 9223372036854775807)', 'ack(''s'', $lent, $sent + 1)']) call;

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

CALL pgjobs.wait_message(NULL, '1 second');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait_message('s', NULL);
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait_message('s', '-1 second');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait_message('', '1 second');
\echo :LAST_ERROR_SQLSTATE
CALL pgjobs.wait_message('nope', '1 second');
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
-- A position that was not sent yet, and times out of the ordinary, are places, too.
SELECT pgjobs.ack('s', :lent, -9223372036854775808), pgjobs.ack('s', :lent, 0), pgjobs.ack('s', :lent, :sent), pgjobs.ack('s', :lent, :sent);
SELECT pgjobs.seek('s', 9223372036854775807), pgjobs.seek('s', to_time => '4713-01-02 00:00:00+00 BC'), pgjobs.seek('s', to_time => '294276-12-31 00:00:00+00'),
    (SELECT count(*) FROM pgjobs.receive('s')), (SELECT count(*) FROM pgjobs.read('t', 9223372036854775807)), (SELECT count(*) FROM pgjobs.read('t', 0, 10000));
SELECT pgjobs.subscribe_queue('q', 't', 'a\\');
SELECT pgjobs.create_topic(repeat('t', 48), '36525 days'), pgjobs.publish(repeat('t', 48), '1', repeat('k', 255)) > 0 AS published;
SELECT pgjobs.drop_topic('t'), pgjobs.drop_topic(repeat('t', 48));
SELECT pgjobs.drop_queue('x', true), pgjobs.drop_queue('q', true), pgjobs.drop_queue('other', true);
-- Triggers that somebody makes by hand of pgjobs' functions: refused, or nothing to them.
CREATE TABLE mine (id int PRIMARY KEY, status text DEFAULT 'new');
CREATE TRIGGER each_row AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pgjobs._job_changed();
INSERT INTO mine VALUES (1);
DROP TRIGGER each_row ON mine;
CREATE TRIGGER each_statement AFTER INSERT ON mine FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._job_changed();
INSERT INTO mine VALUES (1);
DROP TRIGGER each_statement ON mine;
CREATE TRIGGER each_statement AFTER UPDATE ON pgjobs.job FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._job_changed();
UPDATE pgjobs.job SET priority = 0 WHERE false;
DROP TRIGGER each_statement ON pgjobs.job;
SELECT pgjobs.attach_table('mine', 'status', '[{"stage": "do", "waiting": "new", "working": "doing", "done": "done"}]');
CREATE TRIGGER adding BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pgjobs._row_changed();
CREATE TRIGGER removing BEFORE DELETE ON mine FOR EACH ROW EXECUTE FUNCTION pgjobs._row_changed();
CREATE TRIGGER removed AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION pgjobs._row_changed();
CREATE TRIGGER emptied AFTER TRUNCATE ON mine FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._row_changed();
INSERT INTO mine VALUES (1), (2);
SELECT status, pgjobs.finish_row('mine', '1', 'do') FROM pgjobs.claim_row(NULL::mine, 'do');
DELETE FROM mine WHERE id = 1;
TABLE mine;
TRUNCATE mine;
SELECT pgjobs.detach_table('mine');
CREATE TRIGGER settings BEFORE UPDATE OF status ON mine EXECUTE FUNCTION pgjobs._row_changed('column', 'status', 'stage', 'do', '', '', '', '', '0');
SELECT pgjobs.claim_row(NULL::mine, 'do');
CREATE OR REPLACE TRIGGER settings BEFORE UPDATE OF status ON mine EXECUTE FUNCTION pgjobs._row_changed('colour', 'red');
SELECT pgjobs.claim_row(NULL::mine, 'do');
SELECT pgjobs.detach_table('mine');
DROP TABLE mine;

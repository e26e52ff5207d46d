-- Queues: their life, their settings and what may stand in the way of a change.
CREATE FUNCTION pg_temp.refused(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || message || CASE WHEN hint = '' THEN ' (no hint)' ELSE '' END;
END $$;

-- A queue made with nothing but a name has one stage and the documented settings.
SELECT pgjobs.create_queue('plain');
\x on
SELECT name, stages, paused, quarantined, lease, max_attempts, backoff, backoff_max, retention,
    dead_retention, notify, dead_letter, durable_claims, created_at <= now() AS made,
    blocked, scheduled, ready, running, oldest_ready_age, enqueued, completed, dead, cancelled
FROM pgjobs.queues WHERE name = 'plain';

-- Every option can be given by name.
SELECT pgjobs.create_queue('ci.full-1_x', ARRAY['initialize', 'run'], lease => '90 seconds',
    max_attempts => 3, backoff => '2 seconds', backoff_max => '1 minute', retention => '0',
    dead_retention => '30 days', notify => 'events', dead_letter => 'plain', durable_claims => true);
SELECT name, stages, lease, max_attempts, backoff, backoff_max, retention, dead_retention, notify,
    dead_letter, durable_claims
FROM pgjobs.queues WHERE name = 'ci.full-1_x';
\x off
SELECT * FROM pgjobs.stages WHERE queue = 'ci.full-1_x' ORDER BY number;

-- A name belongs to one queue; both ends of the allowed lengths work, one more does not.
SELECT pg_temp.refused($$SELECT pgjobs.create_queue('plain')$$);
SELECT pgjobs.create_queue('q'), pgjobs.create_queue(repeat('q', 48));
SELECT pg_temp.refused(format('SELECT pgjobs.create_queue(%L)', repeat('q', 49)));
SELECT pgjobs.drop_queue('q'), pgjobs.drop_queue(repeat('q', 48));

-- A rolled back queue never was; its name is free.
BEGIN;
SELECT pgjobs.create_queue('brief');
SELECT pgjobs.enqueue('brief') > 0 AS enqueued;
ROLLBACK;
SELECT pg_temp.refused($$SELECT pgjobs.enqueue('brief')$$);
BEGIN;
SELECT pgjobs.create_queue('brief');
SELECT pgjobs.enqueue('brief', '"same transaction"') > 0 AS enqueued;
SELECT payload FROM pgjobs.claim('brief');
ROLLBACK;

-- alter_queue changes what is given and nothing else.
SELECT pgjobs.alter_queue('plain', lease => '10 minutes');
SELECT pgjobs.alter_queue('plain', max_attempts => 7, notify => 'off');
SELECT pgjobs.alter_queue('plain', backoff => '0', backoff_max => '5 seconds', retention => '2 days',
    dead_retention => '3 days', durable_claims => true);
SELECT pgjobs.alter_queue('plain');
\x on
SELECT stages, lease, max_attempts, backoff, backoff_max, retention, dead_retention, notify,
    dead_letter, durable_claims
FROM pgjobs.queues WHERE name = 'plain';
\x off

-- What alter_queue changes holds for the next job and the next claim.
SELECT pgjobs.enqueue('plain') AS id \gset
SELECT max_attempts, lease_expires_at BETWEEN now() + '9 minutes' AND now() + '11 minutes' AS ten_minutes
FROM pgjobs.claim('plain');
SELECT pgjobs.cancel(:id);

-- Stages can only be appended; jobs then go on through the new ones.
SELECT pgjobs.create_queue('line', ARRAY['first', 'second']);
SELECT pgjobs.enqueue('line', stage => 'second') AS id \gset
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('line', stages => ARRAY['first'])$$);
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('line', stages => ARRAY['second', 'first'])$$);
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('line', stages => ARRAY['zeroth', 'first', 'second'])$$);
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('line', stages => ARRAY['first', 'second', 'first'])$$);
SELECT pgjobs.alter_queue('line', stages => ARRAY['first', 'second']);
SELECT pgjobs.alter_queue('line', stages => ARRAY['first', 'second', 'third', 'fourth']);
SELECT stages FROM pgjobs.queues WHERE name = 'line';
SELECT stage, pgjobs.complete(id, token) FROM pgjobs.claim('line');
SELECT stage, pgjobs.complete(id, token) FROM pgjobs.claim('line');
SELECT stage, pgjobs.complete(id, token) FROM pgjobs.claim('line');
SELECT stage, state FROM pgjobs.jobs WHERE id = :id;

-- A paused queue takes jobs and hands out none; what runs goes on. Pausing twice is not an error.
SELECT pgjobs.create_queue('mail');
SELECT pgjobs.enqueue('mail', '"before"') AS before \gset
SELECT token FROM pgjobs.claim('mail') \gset
SELECT pgjobs.pause_queue('mail');
SELECT pgjobs.pause_queue('mail');
SELECT paused FROM pgjobs.queues WHERE name = 'mail';
SELECT pgjobs.enqueue('mail', '"during"') > 0 AS enqueued;
SELECT count(*) FROM pgjobs.claim('mail');
CALL pgjobs.wait('mail', timeout => '0');
SELECT pgjobs.complete(:before, :token);
SELECT pgjobs.resume_queue('mail');
SELECT pgjobs.resume_queue('mail');
SELECT paused FROM pgjobs.queues WHERE name = 'mail';
CALL pgjobs.wait('mail', timeout => '0');
SELECT payload FROM pgjobs.claim('mail');
CALL pgjobs.wait('mail', timeout => '0');

-- A pause that is rolled back never was.
BEGIN;
SELECT pgjobs.enqueue('mail', '"kept"') AS kept \gset
SAVEPOINT s;
SELECT pgjobs.pause_queue('mail');
SELECT count(*) FROM pgjobs.claim('mail');
ROLLBACK TO s;
SELECT payload FROM pgjobs.claim('mail');
COMMIT;

-- purge_queue removes what waits, without a trace, and leaves what runs. Two run here.
SELECT cardinality(pgjobs.enqueue_many('mail', ARRAY['1', '2']::jsonb[])) AS ready,
    cardinality(pgjobs.enqueue_many('mail', ARRAY['3', '4', '5']::jsonb[], delay => '1 hour')) AS scheduled;
SELECT pgjobs.purge_queue('mail');
SELECT pgjobs.purge_queue('mail');
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'mail' GROUP BY state ORDER BY state;

-- Purging is not completing, even after a job was completed in the same transaction.
SELECT completed, dead, cancelled FROM pgjobs.queues WHERE name = 'mail';
BEGIN;
SELECT pgjobs.enqueue('mail') > 0 AS enqueued;
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('mail');
SELECT cardinality(pgjobs.enqueue_many('mail', ARRAY['1', '2', '3']::jsonb[])) AS added;
SELECT pgjobs.purge_queue('mail');
COMMIT;
SELECT completed, dead, cancelled FROM pgjobs.queues WHERE name = 'mail';

-- A queue with open jobs is dropped only by force; a running job counts, a scheduled one too.
SELECT pg_temp.refused($$SELECT pgjobs.drop_queue('mail')$$);
SELECT pgjobs.create_queue('later');
SELECT pgjobs.enqueue('later', delay => '1 hour') AS later \gset
SELECT pg_temp.refused($$SELECT pgjobs.drop_queue('later')$$);
SELECT pgjobs.drop_queue('later', force => true);
SELECT pgjobs.drop_queue('mail', true);
SELECT count(*) FROM pgjobs.jobs WHERE queue IN ('mail', 'later') OR id = :later;

-- Finished jobs do not keep a queue and go with it. A dropped name can be used again, for a queue
-- that knows nothing of the old one.
SELECT pgjobs.drop_queue('line');
SELECT count(id) FROM pgjobs.job(:id);
SELECT pg_temp.refused($$SELECT pgjobs.drop_queue('line')$$);
SELECT pgjobs.create_queue('line');
SELECT stages FROM pgjobs.queues WHERE name = 'line';
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'line';

-- A dropped queue comes back with a rollback, and its jobs.
SELECT pgjobs.enqueue('line', '"survivor"') AS id \gset
BEGIN;
SELECT pgjobs.drop_queue('line', force => true);
SELECT pg_temp.refused($$SELECT pgjobs.enqueue('line')$$);
ROLLBACK;
SELECT payload FROM pgjobs.claim('line');
SELECT pgjobs.drop_queue('line', force => true);

-- The verbs on a queue need one that exists.
SELECT verb, pg_temp.refused(format('SELECT pgjobs.%s', verb))
FROM unnest(ARRAY['alter_queue(''nope'')', 'drop_queue(''nope'')', 'drop_queue(''nope'', true)',
    'pause_queue(''nope'')', 'resume_queue(''nope'')', 'purge_queue(''nope'')', 'enqueue(''nope'')',
    'enqueue_many(''nope'', ''{}'')', 'enqueue_batch(''nope'', ''[]'')', 'redrive(''nope'')']) AS verb;
SELECT pg_temp.refused($$SELECT FROM pgjobs.claim('nope')$$);

-- A dead job leaves a letter in the queue for it: same payload, its headers and where it was.
SELECT pgjobs.create_queue('morgue', ARRAY['look', 'bury'], max_attempts => 9);
SELECT pgjobs.create_queue('ward', ARRAY['enter', 'stay'], max_attempts => 2, backoff => '1 hour',
    dead_letter => 'morgue');
SELECT pgjobs.enqueue('ward', '{"name": "ada"}', priority => 5, unique_key => 'ada',
    headers => '{"trace": "t1"}', stage => 'stay') AS id \gset
SELECT pgjobs.fail(id, token, 'cough') FROM pgjobs.claim('ward');
SELECT count(*) AS letters FROM pgjobs.jobs WHERE queue = 'morgue';
SELECT pgjobs._promote(now() + interval '2 hours') >= 1 AS promoted;
SELECT pgjobs.fail(id, token, 'fever') FROM pgjobs.claim('ward');
SELECT state, error FROM pgjobs.jobs WHERE id = :id;
SELECT stage, state, priority, attempt, max_attempts, payload, headers ->> 'trace' AS trace,
    (headers #>> '{dead_letter,job}')::bigint = :id AS job, headers #- '{dead_letter,job}' AS headers,
    result, error, unique_key
FROM pgjobs.jobs WHERE queue = 'morgue';

-- A job that is cancelled, completed or told not to be retried: only the last one is dead.
SELECT pgjobs.cancel(pgjobs.enqueue('ward'));
SELECT pgjobs.enqueue('ward', stage => 'stay') > 0 AS enqueued;
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('ward');
SELECT count(*) AS letters FROM pgjobs.jobs WHERE queue = 'morgue';
SELECT pgjobs.enqueue('ward') > 0 AS enqueued;
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('ward');
SELECT count(*) AS letters FROM pgjobs.jobs WHERE queue = 'morgue';

-- A lease that expires for the last time leaves a letter as well.
SELECT pgjobs.enqueue('ward', '"slow"', max_attempts => 1) > 0 AS enqueued;
SELECT payload FROM pgjobs.claim('ward', lease => '1 hour');
SELECT pgjobs._reap(now() + interval '2 hours') >= 1 AS reaped;
SELECT payload, headers -> 'dead_letter' ->> 'error' AS error FROM pgjobs.jobs
WHERE queue = 'morgue' ORDER BY id DESC LIMIT 1;

-- Letters never go in circles, whatever their length, and never to a queue that is not there.
SELECT pg_temp.refused($$SELECT pgjobs.create_queue('x', dead_letter => 'x')$$);
SELECT pg_temp.refused($$SELECT pgjobs.create_queue('x', dead_letter => 'nope')$$);
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('ward', dead_letter => 'nope')$$);
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('ward', dead_letter => 'ward')$$);
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('morgue', dead_letter => 'ward')$$);
SELECT pgjobs.create_queue('door', dead_letter => 'ward');
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('morgue', dead_letter => 'door')$$);
SELECT pgjobs.alter_queue('door', dead_letter => 'morgue');
SELECT name, dead_letter FROM pgjobs.queues WHERE name IN ('door', 'ward', 'morgue') ORDER BY name;

-- A queue that takes the letters of others stays, unless forced; then theirs go nowhere.
SELECT pgjobs.purge_queue('morgue');
SELECT pg_temp.refused($$SELECT pgjobs.drop_queue('morgue')$$);
SELECT pgjobs.alter_queue('door', dead_letter => '');
SELECT pg_temp.refused($$SELECT pgjobs.drop_queue('morgue')$$);
SELECT pgjobs.drop_queue('morgue', force => true);
SELECT name, dead_letter FROM pgjobs.queues WHERE name IN ('door', 'ward') ORDER BY name;
SELECT pgjobs.enqueue('ward') > 0 AS enqueued;
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('ward');

-- Now the other way round is no circle any more.
SELECT pgjobs.alter_queue('ward', dead_letter => 'door');
SELECT pg_temp.refused($$SELECT pgjobs.alter_queue('door', dead_letter => 'ward')$$);
SELECT pgjobs.drop_queue('ward');
SELECT pgjobs.drop_queue('door');

-- Counters tell what was committed, and nothing else.
SELECT pgjobs.create_queue('counted', ARRAY['a', 'b'], backoff => '1 hour');
BEGIN;
SELECT cardinality(pgjobs.enqueue_many('counted', array_fill('{}'::jsonb, ARRAY[100])));
ROLLBACK;
BEGIN;
SELECT cardinality(pgjobs.enqueue_many('counted', array_fill('{}'::jsonb, ARRAY[6])));
SAVEPOINT s;
SELECT cardinality(pgjobs.enqueue_many('counted', array_fill('{}'::jsonb, ARRAY[50])));
ROLLBACK TO s;
COMMIT;
SELECT pgjobs.enqueue('counted', delay => '1 hour') AS later \gset
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('counted', 2);
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('counted', 1);
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('counted', 1);
SELECT pgjobs.cancel(:later);
SELECT stage, attempt FROM pgjobs.claim('counted', 1, stage => 'a');
SELECT scheduled, ready, running, enqueued, completed, dead, cancelled, oldest_ready_age >= '0' AS age
FROM pgjobs.queues WHERE name = 'counted';
SELECT queue, number, stage, ready, running, scheduled, blocked FROM pgjobs.stages WHERE queue = 'counted' ORDER BY number;
SELECT pgjobs.drop_queue('counted', force => true);

-- Everything in the schema has a comment.
SELECT pg_describe_object(d.classid, d.objid, 0) AS uncommented
FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgjobs')
    AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass)
    AND NOT EXISTS (SELECT FROM pg_type t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
        AND (t.typelem <> 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c')))
    AND NOT EXISTS (SELECT FROM pg_class c WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid
        AND c.relkind = 'c')
    AND obj_description(d.objid, d.classid::regclass::name) IS NULL
ORDER BY 1;

-- Purging reads each job once to find it and once to remove it, without statistics of the table, too.
BEGIN;
SELECT pgjobs.create_queue('many');
SELECT cardinality(pgjobs.enqueue_many('many', array_fill('{}'::jsonb, ARRAY[10000])));
SELECT pgjobs.purge_queue('many');
SELECT seq_tup_read + idx_tup_fetch < 25000 AS once FROM pg_stat_xact_all_tables WHERE relid = 'pgjobs.job'::regclass;
ROLLBACK;

SELECT pgjobs.drop_queue('ci.full-1_x');
SELECT pgjobs.drop_queue('plain');
SELECT count(*) FROM pgjobs.queues;

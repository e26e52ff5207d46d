-- Producing: enqueue, enqueue_many, enqueue_batch.
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
SELECT pgjobs.create_queue('mail', ARRAY['write', 'send'], max_attempts => 4, backoff => '1 hour');

-- A job with nothing but a queue: an empty object, ready, in the first stage, due now.
SELECT pgjobs.enqueue('mail') AS id \gset
\x on
SELECT queue, stage, state, priority, attempt, max_attempts, payload, headers, result, error, group_key,
    unique_key, run_at = enqueued_at AS due, enqueued_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS now,
    started_at, finished_at, worker, lease_expires_at
FROM pgjobs.jobs WHERE id = :id;

-- A job with everything.
SELECT pgjobs.enqueue('mail', '{"to": "ada"}', run_at => '2200-01-01 00:00:00+00', priority => -5,
    max_attempts => 2, unique_key => 'ada', on_conflict => 'error', expires_at => '2200-01-02 00:00:00+00',
    headers => '{"trace": "abc"}', stage => 'send') AS id \gset
SELECT queue, stage, state, priority, attempt, max_attempts, payload, headers, result, error, group_key,
    unique_key, run_at, expires_at, started_at, finished_at, worker, lease_expires_at, hold, progress, note, attempts
FROM pgjobs.job(:id);
\x off
SELECT pgjobs.purge_queue('mail');

-- Any JSON is a payload, the JSON null too; a claim gives back what was put in.
SELECT cardinality(pgjobs.enqueue_many('mail', ARRAY['null', 'true', '1.50', '"text"', '[1, [2]]', '{"a": {"b": null}}', '{}', '""']::jsonb[]));
SELECT payload FROM pgjobs.claim('mail', 100) WHERE pgjobs.complete(id, token, next_stage => 'send') = 'ready';
SELECT pgjobs.purge_queue('mail');

-- Ids grow.
SELECT pgjobs.enqueue('mail') < pgjobs.enqueue('mail') AS grows;
SELECT pgjobs.purge_queue('mail');

-- Order: priority, then the time when a job became due, then id. A time that has passed counts.
SELECT pgjobs.enqueue('mail', '"third: due now"') > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"second: due a minute ago"', run_at => now() - interval '1 minute') > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"first: due an hour ago"', run_at => now() - interval '1 hour') > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"before all: priority -1"', priority => -1) > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"after all: priority 1"', priority => 1, run_at => now() - interval '1 day') > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"never"', priority => -9, delay => '1 hour') > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"extremes: last"', priority => 32767) > 0 AS enqueued;
SELECT pgjobs.enqueue('mail', '"extremes: first"', priority => -32768) > 0 AS enqueued;
SELECT payload FROM pgjobs.claim('mail', 100);
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'mail' GROUP BY state ORDER BY state;
SELECT pgjobs.drop_queue('mail', force => true);
SELECT pgjobs.create_queue('mail', ARRAY['write', 'send'], max_attempts => 4, backoff => '1 hour');

-- Jobs of one moment come in the order in which they were added.
BEGIN;
SELECT pgjobs.enqueue_many('mail', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 5) n)) IS NOT NULL AS added;
SELECT pgjobs.enqueue('mail', '6') > 0 AS added;
COMMIT;
SELECT array_agg(payload) FROM pgjobs.claim('mail', 3);
SELECT array_agg(payload) FROM pgjobs.claim('mail', 3);
SELECT array_agg(payload) FROM pgjobs.claim('mail', 3);
SELECT cardinality(pgjobs.complete_many(array_agg(id), array_agg(0::bigint))) FROM pgjobs.jobs WHERE queue = 'mail';
SELECT count(pgjobs.cancel(id)) FROM pgjobs.jobs WHERE queue = 'mail' AND state = 'running';

-- A delayed job is scheduled, becomes ready at its time and not before; delay 0 is now.
SELECT pgjobs.enqueue('mail', '"delayed"', delay => '1 hour') AS id \gset
SELECT state, run_at - enqueued_at AS delay FROM pgjobs.jobs WHERE id = :id;
SELECT count(*) FROM pgjobs.claim('mail');
SELECT pgjobs._promote(now() + interval '59 minutes') AS promoted;  -- 0
SELECT pgjobs._promote(now() + interval '61 minutes') AS promoted;  -- 1
SELECT payload FROM pgjobs.claim('mail');
SELECT pgjobs.enqueue('mail', '"at once"', delay => '0') > 0 AS enqueued;
SELECT payload FROM pgjobs.claim('mail');
SELECT pg_temp.refused($$SELECT pgjobs.enqueue('mail', run_at => now(), delay => '1 hour')$$);

-- max_attempts of the job goes before the queue's.
SELECT pgjobs.enqueue('mail', max_attempts => 1) > 0 AS enqueued;
SELECT pgjobs.fail(id, token) FROM pgjobs.claim('mail');

-- A job may begin in any stage, but not in one that is not there.
SELECT pgjobs.enqueue('mail', '"straight to send"', stage => 'send') > 0 AS enqueued;
SELECT stage, payload FROM pgjobs.claim('mail', stage => 'write');
SELECT stage, payload FROM pgjobs.claim('mail', stage => 'send');
SELECT pg_temp.refused($$SELECT pgjobs.enqueue('mail', stage => 'stamp')$$);

-- A key belongs to one open job. keep: the id of the job that has it, which stays as it is.
SELECT pgjobs.create_queue('keys', ARRAY['one', 'two'], backoff => '1 hour');
SELECT pgjobs.enqueue('keys', '"first"', unique_key => 'k', priority => 3) AS id \gset
SELECT pgjobs.enqueue('keys', '"again"', unique_key => 'k', priority => 1, delay => '1 hour') = :id AS same;
SELECT state, payload, priority, unique_key FROM pgjobs.jobs WHERE queue = 'keys';

-- error: 23505, and a hint at what else could be done.
SELECT pg_temp.refused($$SELECT pgjobs.enqueue('keys', unique_key => 'k', on_conflict => 'error')$$);

-- replace: the waiting job gets the new payload, time and priority, and keeps its id and the rest.
SELECT pgjobs.enqueue('keys', '"replaced"', unique_key => 'k', on_conflict => 'replace', delay => '1 hour',
    priority => 2) = :id AS same;
SELECT state, payload, priority, run_at > now() + interval '59 minutes' AS later FROM pgjobs.jobs WHERE queue = 'keys';
SELECT pgjobs.enqueue('keys', '"kept back"', unique_key => 'k') = :id AS same;
SELECT pgjobs.enqueue('keys', '"at once"', unique_key => 'k', on_conflict => 'replace') = :id AS same;
SELECT state, payload, priority, run_at > now() + interval '59 minutes' AS later FROM pgjobs.jobs WHERE queue = 'keys';

-- The key goes with the job through its stages and its attempts.
SELECT id = :id AS same, token FROM pgjobs.claim('keys') \gset
SELECT pgjobs.enqueue('keys', '"while running"', unique_key => 'k') = :id AS same;
SELECT pgjobs.complete(:id, :token);
SELECT pgjobs.enqueue('keys', '"in stage two"', unique_key => 'k') = :id AS same;
SELECT pgjobs.fail(id, token) FROM pgjobs.claim('keys');
SELECT pgjobs.enqueue('keys', '"after a failure"', unique_key => 'k') = :id AS same;
SELECT stage, state, payload FROM pgjobs.jobs WHERE queue = 'keys';

-- replace and a running job: it goes on without its key, and a new job has it.
SELECT pgjobs._promote(now() + interval '2 hours') AS promoted;
SELECT token FROM pgjobs.claim('keys') \gset
SELECT pg_temp.refused($$SELECT pgjobs.enqueue('keys', unique_key => 'k', on_conflict => 'error')$$);
SELECT pgjobs.enqueue('keys', '"new"', unique_key => 'k', on_conflict => 'replace') AS new \gset
SELECT :new > :id AS new_job;
SELECT state, payload, unique_key FROM pgjobs.jobs WHERE queue = 'keys' ORDER BY id;
SELECT pgjobs.enqueue('keys', '"newer"', unique_key => 'k', on_conflict => 'replace') = :new AS same;
SELECT pgjobs.complete(:id, :token);
SELECT state, payload, unique_key FROM pgjobs.jobs WHERE queue = 'keys' ORDER BY id;

-- Whatever ends a job frees its key: completion, death, cancellation, removal.
SELECT pgjobs.complete(id, token, next_stage => 'two') FROM pgjobs.claim('keys');
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('keys');
SELECT pgjobs.enqueue('keys', '"after completion"', unique_key => 'k', on_conflict => 'error') > :new AS added;
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('keys');
SELECT pgjobs.enqueue('keys', '"after death"', unique_key => 'k', on_conflict => 'error') > :new AS added;
SELECT pgjobs.cancel(id) FROM pgjobs.jobs WHERE queue = 'keys' AND state = 'ready';
SELECT pgjobs.enqueue('keys', '"after cancellation"', unique_key => 'k', on_conflict => 'error') > :new AS added;
SELECT pgjobs.purge_queue('keys');
SELECT pgjobs.enqueue('keys', '"after removal"', unique_key => 'k', on_conflict => 'error') > :new AS added;

-- A finished job remembers its key.
SELECT state, payload FROM pgjobs.jobs WHERE queue = 'keys' AND unique_key = 'k' ORDER BY id;

-- Another queue has keys of its own, and upper and lower case are not the same.
SELECT pgjobs.enqueue('mail', unique_key => 'k', on_conflict => 'error') > 0 AS added;
SELECT pgjobs.enqueue('keys', unique_key => 'K', on_conflict => 'error') > 0 AS added;
SELECT pgjobs.purge_queue('keys');

-- A key taken and given up within one transaction, and by a savepoint.
BEGIN;
SELECT pgjobs.enqueue('keys', '1', unique_key => 's') AS id \gset
SELECT pgjobs.enqueue('keys', '2', unique_key => 's') = :id AS same;
SELECT pgjobs.enqueue('keys', '3', unique_key => 's', on_conflict => 'replace') = :id AS same;
SAVEPOINT s;
SELECT pgjobs.cancel(:id);
SELECT pgjobs.enqueue('keys', '4', unique_key => 's', on_conflict => 'error') > :id AS added;
ROLLBACK TO s;
SELECT pgjobs.enqueue('keys', '5', unique_key => 's') = :id AS same;
COMMIT;
SELECT payload FROM pgjobs.jobs WHERE queue = 'keys' AND state = 'ready';
SELECT pgjobs.purge_queue('keys');

-- enqueue_many: ids in the order of the payloads, one key and one header each where there is one.
SELECT pgjobs.enqueue_many('keys', ARRAY['"a"', '"b"', '"c"', '"d"']::jsonb[], priority => 7, max_attempts => 3,
    unique_keys => ARRAY['x', NULL, 'y', NULL], headers => ARRAY[NULL, '{"n": 2}', '{"n": 3}', NULL]::jsonb[],
    stage => 'two', delay => '1 hour') AS ids \gset
SELECT payload, stage, state, priority, max_attempts, unique_key, headers
FROM unnest(:'ids'::bigint[]) WITH ORDINALITY AS u (id, n) JOIN pgjobs.jobs j USING (id) ORDER BY n;
SELECT pgjobs.enqueue_many('keys', ARRAY['1', '2', '3']::jsonb[], unique_keys => ARRAY['z', 'y', 'z']) AS again \gset
SELECT (:'again'::bigint[])[1] = (:'again'::bigint[])[3] AS same_key_same_job, (:'again'::bigint[])[2] = (:'ids'::bigint[])[3] AS kept;
SELECT pgjobs.enqueue_many('keys', ARRAY['1', '2']::jsonb[], unique_keys => ARRAY['w', 'y'], on_conflict => 'replace') AS again \gset
SELECT payload, state, priority FROM pgjobs.jobs WHERE queue = 'keys' AND unique_key = 'y' AND state <> 'completed';
SELECT pg_temp.refused($$SELECT pgjobs.enqueue_many('keys', ARRAY['1', '2']::jsonb[], unique_keys => ARRAY['v', 'y'], on_conflict => 'error')$$);
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'keys' AND unique_key = 'v';  -- 0: all or nothing
SELECT pgjobs.enqueue_many('keys', '{}');
SELECT pgjobs.enqueue_many('keys', ARRAY['1']::jsonb[], run_at => '2200-01-01 00:00:00+00') AS ids \gset
SELECT run_at FROM pgjobs.jobs WHERE id = (:'ids'::bigint[])[1];
SELECT pgjobs.purge_queue('keys');

-- enqueue_batch: the same as objects. A null is a payload; any other member that is null is as if it
-- were not there.
SELECT pgjobs.enqueue_batch('keys', '[
    {},
    {"payload": {"n": 1}, "priority": 3, "max_attempts": 2, "unique_key": "u", "headers": {"h": 1}, "stage": "two"},
    {"payload": "later", "delay": "1 hour"},
    {"payload": ["at"], "run_at": "2200-01-01T00:00:00Z", "priority": "4"},
    {"payload": null, "delay": null, "run_at": null, "priority": null, "max_attempts": null, "unique_key": null,
     "on_conflict": null, "headers": null, "stage": null},
    {"payload": "same", "unique_key": "u"},
    {"payload": "other", "unique_key": "u", "on_conflict": "replace"}]') AS ids \gset
SELECT payload, stage, state, priority, max_attempts, unique_key, headers
FROM unnest(:'ids'::bigint[]) WITH ORDINALITY AS u (id, n) JOIN pgjobs.jobs j USING (id) ORDER BY n;
SELECT pgjobs.enqueue_batch('keys', '[]');
SELECT pg_temp.refused($$SELECT pgjobs.enqueue_batch('keys', '[{}, {"unique_key": "u", "on_conflict": "error"}]')$$);
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'keys' AND state IN ('ready', 'scheduled');  -- 5: the failed batch added none
SELECT pgjobs.purge_queue('keys');

-- A job that was not started by expires_at is never handed out, and is cancelled.
BEGIN;
SELECT pgjobs.enqueue('keys', '"too late"', expires_at => now() - interval '1 second') AS late \gset
SELECT pgjobs.enqueue('keys', '"in time"', expires_at => now() + interval '1 hour') AS early \gset
SELECT payload FROM pgjobs.claim('keys', 10);
SELECT pgjobs._expire(now()) AS expired;
SELECT payload, state, error FROM pgjobs.jobs WHERE id IN (:late, :early) ORDER BY id;
COMMIT;
-- Once started it may take its time.
SELECT pgjobs._expire(now() + interval '2 hours') AS expired;
SELECT state FROM pgjobs.jobs WHERE id = :early;

-- A savepoint takes its jobs with it, a transaction too; what is left is claimed in order.
BEGIN;
SELECT pgjobs.enqueue('keys', '"one"') > 0 AS added;
SAVEPOINT s;
SELECT pgjobs.enqueue('keys', '"rolled back"') > 0 AS added;
SELECT pgjobs.enqueue('mail', '"rolled back"') > 0 AS added;
ROLLBACK TO s;
SELECT pgjobs.enqueue('keys', '"two"') > 0 AS added;
SAVEPOINT t;
SELECT pgjobs.enqueue('keys', '"three"') > 0 AS added;
RELEASE t;
COMMIT;
BEGIN;
SELECT pgjobs.enqueue('keys', '"never"') > 0 AS added;
ROLLBACK;
SELECT array_agg(payload) FROM pgjobs.claim('keys', 10);

-- PL/pgSQL: a block that fails leaves nothing, and the loop goes on.
DO $$
BEGIN
    FOR i IN 1..300 LOOP
        BEGIN
            PERFORM pgjobs.enqueue('keys', to_jsonb(i));
            IF i % 3 > 0 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT count(*), min(payload::int), max(payload::int), bool_and(payload::int % 3 = 0) FROM pgjobs.claim('keys', 1000);

-- Called from a query over a table, and from a trigger of the application.
CREATE TABLE run (id int PRIMARY KEY, job bigint);
INSERT INTO run SELECT n, pgjobs.enqueue('mail', to_jsonb(n), unique_key => 'run ' || n) FROM generate_series(1, 1000) n;
SELECT count(DISTINCT job) FROM run;
SELECT count(*), bool_and(r.id = j.payload::int) FROM run r JOIN pgjobs.jobs j ON j.id = r.job;
CREATE FUNCTION pg_temp.tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.job := pgjobs.enqueue('mail', to_jsonb(NEW.id), priority => -1);
    RETURN NEW;
END $$;
CREATE TRIGGER tell BEFORE INSERT ON run FOR EACH ROW EXECUTE FUNCTION pg_temp.tell();
INSERT INTO run VALUES (2001), (2002) RETURNING id;
SELECT payload FROM pgjobs.claim('mail', 2);
DROP TABLE run;

-- The largest payload is accepted, one byte more is not (the size is that of the stored jsonb).
SET pgjobs.max_payload = 2000;
SELECT pg_column_size(to_jsonb(repeat('x', 1000))) - 4 - 1000 AS frame \gset
SELECT pg_temp.refused(format('SELECT pgjobs.enqueue(%L, %L)', 'keys', to_jsonb(repeat('x', 2000 - :frame))));
SELECT pg_temp.refused(format('SELECT pgjobs.enqueue(%L, %L)', 'keys', to_jsonb(repeat('x', 2001 - :frame))));
RESET pgjobs.max_payload;
SELECT length(payload #>> '{}') + :frame AS size FROM pgjobs.claim('keys');

-- A large payload comes back as it went in, out of line and compressed.
SELECT pgjobs.enqueue('keys', jsonb_build_object('noise', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n),
    'same', repeat('y', 500000))) > 0 AS added;
SELECT md5(payload ->> 'noise') = md5((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)) AS noise,
    length(payload ->> 'same') AS same
FROM pgjobs.claim('keys');

SELECT pgjobs.drop_queue('keys', true), pgjobs.drop_queue('mail', true);

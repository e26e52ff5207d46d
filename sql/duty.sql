-- The duties of the background worker, driven with invented times. Leases and delays are long, so
-- that the worker itself, which goes by the real time, has nothing to do here.
SELECT pgjobs.create_queue('q', lease => '1 hour', backoff => '1 hour', max_attempts => 2);

-- An expired lease gives the job back, the attempt counted, at its place.
SELECT pgjobs.enqueue('q', '"expired"') AS id \gset
SELECT pgjobs.enqueue('q', '"behind"') > 0 AS added;
SELECT payload FROM pgjobs.claim('q', worker => 'lost');
SELECT pgjobs._reap(now() + interval '59 minutes') AS reaped;  -- 0
SELECT pgjobs._reap(now() + interval '61 minutes') AS reaped;  -- 1
SELECT pgjobs._reap(now() + interval '61 minutes') AS reaped;  -- 0
SELECT state, attempt, error, lease_expires_at FROM pgjobs.jobs WHERE id = :id;
SELECT payload, attempt FROM pgjobs.claim('q');

-- The last attempt may not expire either: then the job is dead.
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;  -- 1
SELECT state, attempt, error FROM pgjobs.jobs WHERE id = :id;
SELECT attempt, worker = 'lost' AS lost, outcome, error FROM pgjobs.attempts WHERE job_id = :id ORDER BY attempt;
SELECT pgjobs.purge_queue('q');

-- A time long ago: nothing is due.
SELECT pgjobs.enqueue('q') > 0 AS added;
SELECT attempt FROM pgjobs.claim('q');
SELECT pgjobs._reap('2001-01-01'), pgjobs._promote('2001-01-01'), pgjobs._expire('2001-01-01');

-- The duty is part of its transaction.
BEGIN;
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'q' AND state = 'ready';
ROLLBACK;
SELECT count(*) FROM pgjobs.jobs WHERE queue = 'q' AND state = 'running';
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;
SELECT pgjobs.purge_queue('q');

-- More than one batch of each: in one call, all of them, and only those that are due.
SELECT cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[1200])));
SELECT count(*) FROM pgjobs.claim('q', 1100, lease => '1 hour');
SELECT count(*) FROM pgjobs.claim('q', 100, lease => '5 hours');
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped;
SELECT state, attempt, count(*) FROM pgjobs.jobs WHERE queue = 'q' AND state <> 'dead' GROUP BY state, attempt ORDER BY state;
SELECT pgjobs._reap(now() + interval '6 hours') AS reaped;
SELECT pgjobs.purge_queue('q');
SELECT cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[1100]), delay => '1 hour')),
    cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[100]), delay => '5 hours'));
SELECT pgjobs._promote(now() + interval '2 hours') AS promoted;
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'q' AND state <> 'dead' GROUP BY state ORDER BY state;
SELECT pgjobs._promote(now() + interval '6 hours') AS promoted;
SELECT pgjobs._promote(now() + interval '6 hours') AS promoted;
SELECT pgjobs.purge_queue('q');

-- Promoted jobs are in the order of their times.
SELECT pgjobs.enqueue('q', '"later"', delay => '2 hours') > 0 AS added;
SELECT pgjobs.enqueue('q', '"sooner"', delay => '1 hour') > 0 AS added;
SELECT pgjobs.enqueue('q', '"now"') > 0 AS added;
SELECT pgjobs._promote(now() + interval '3 hours') AS promoted;
SELECT payload FROM pgjobs.claim('q', 3);
SELECT pgjobs._reap(now() + interval '1 day') AS reaped;
SELECT pgjobs.purge_queue('q');

-- A job that was not started in time is cancelled: ready or scheduled, not running.
SELECT pgjobs.enqueue('q', '"running"', expires_at => now() + interval '1 hour') AS running \gset
SELECT payload FROM pgjobs.claim('q', lease => '5 hours');
SELECT pgjobs.enqueue('q', '"ready"', expires_at => now() + interval '1 hour') > 0 AS added;
SELECT pgjobs.enqueue('q', '"scheduled"', expires_at => now() + interval '1 hour', delay => '30 minutes') > 0 AS added;
SELECT pgjobs.enqueue('q', '"has time"', expires_at => now() + interval '1 day') > 0 AS added;
SELECT pgjobs.enqueue('q', '"has all the time"') > 0 AS added;
SELECT pgjobs._expire(now() + interval '59 minutes') AS expired;  -- 0
SELECT pgjobs._expire(now() + interval '61 minutes') AS expired;  -- 2
SELECT pgjobs._expire(now() + interval '61 minutes') AS expired;  -- 0
SELECT payload, state, error FROM pgjobs.jobs WHERE queue = 'q' AND id >= :running ORDER BY id;
SELECT pgjobs.cancel(:running);
SELECT pgjobs.purge_queue('q');
SELECT cardinality(array_agg(pgjobs.enqueue('q', expires_at => now() + interval '1 hour'))) FROM generate_series(1, 1200);
SELECT pgjobs._expire(now() + interval '2 hours') AS expired;
SELECT pgjobs.drop_queue('q');

-- A paused queue promotes, reaps and expires as any other.
SELECT pgjobs.create_queue('q', lease => '1 hour', backoff => '1 hour');
SELECT pgjobs.enqueue('q', '"held"') > 0 AS added;
SELECT payload FROM pgjobs.claim('q');
SELECT pgjobs.enqueue('q', delay => '1 hour') > 0 AS added;
SELECT pgjobs.enqueue('q', expires_at => now() + interval '1 hour') > 0 AS added;
SELECT pgjobs.pause_queue('q');
SELECT pgjobs._reap(now() + interval '2 hours') AS reaped, pgjobs._promote(now() + interval '2 hours') AS promoted,
    pgjobs._expire(now() + interval '2 hours') AS expired;
SELECT state, count(*) FROM pgjobs.jobs WHERE queue = 'q' GROUP BY state ORDER BY state;
SELECT pgjobs.drop_queue('q', force => true);

-- History: a finished job lies in the partition of the day until which it is kept. Partitions of the
-- coming days are there before they are needed, and go, with their jobs, when their day has passed.
CREATE VIEW pg_temp.leaf AS
SELECT c.relname AS name, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'pgjobs.history'::regclass;
SET timezone = 'UTC';
SELECT pgjobs.create_queue('brief', retention => '1 day', dead_retention => '3 days');
SELECT pgjobs.create_queue('long', retention => '400 days', dead_retention => '0');
SELECT pgjobs.enqueue('brief', '"completed"') > 0 AS added;
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('brief');
SELECT pgjobs.enqueue('brief', '"dead"') > 0 AS added;
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('brief');
SELECT pgjobs.cancel(pgjobs.enqueue('long', '"cancelled"'));
SELECT pgjobs.enqueue('long', '"dead, not kept"') > 0 AS added;
SELECT pgjobs.fail(id, token, retry => false) FROM pgjobs.claim('long');
SELECT payload, state FROM pgjobs.jobs ORDER BY id;
SELECT h.payload, date_trunc('day', keep_until) - date_trunc('day', finished_at) AS days,
    tableoid::regclass::text = to_char(keep_until, '"pgjobs.history_"YYYYMMDD') AS partition
FROM pgjobs.history h WHERE payload IS NOT NULL ORDER BY id;

-- A week of partitions for each retention.
SELECT pgjobs._keep_history(now()) >= 0 AS kept;
SELECT count(*) AS missing FROM generate_series(0, 6) n, unnest(ARRAY[1, 3, 400]) retention
WHERE NOT EXISTS (SELECT FROM pg_temp.leaf WHERE day = current_date + n + retention);
BEGIN;
SELECT pgjobs._keep_history(now() + interval '2 days') > 0 AS dropped;  -- yesterday's and today's
SELECT payload, state FROM pgjobs.jobs ORDER BY id;                     -- completed yesterday: gone
SELECT pgjobs._keep_history(now() + interval '4 days') > 0 AS dropped;
SELECT payload, state FROM pgjobs.jobs ORDER BY id;
SELECT count(*) AS too_old FROM pg_temp.leaf WHERE day < (now() + interval '4 days')::date;
SELECT count(*) AS missing FROM generate_series(4, 10) n, unnest(ARRAY[1, 3, 400]) retention
WHERE NOT EXISTS (SELECT FROM pg_temp.leaf WHERE day = current_date + n + retention);
SELECT pgjobs._keep_history(now() + interval '402 days') > 0 AS dropped;
SELECT payload, state FROM pgjobs.jobs ORDER BY id;
ROLLBACK;
SELECT payload, state FROM pgjobs.jobs ORDER BY id;  -- all still there

-- Jobs can finish when their partition is not there: it is made.
SELECT pgjobs.create_queue('later', retention => '1000 days');
DO $$
DECLARE
    leaf text;
BEGIN
    FOR leaf IN SELECT name FROM pg_temp.leaf WHERE day > current_date + 900 LOOP
        EXECUTE format('DROP TABLE pgjobs.%I', leaf);
    END LOOP;
END $$;
SELECT pgjobs.enqueue('later', '"made"') > 0 AS added;
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('later');
SELECT payload, state FROM pgjobs.jobs WHERE queue = 'later';
SELECT count(*) FROM pg_temp.leaf WHERE day > current_date + 900;

-- What alter_queue changes holds for jobs that finish later.
SELECT pgjobs.alter_queue('brief', retention => '10 days');
SELECT pgjobs.enqueue('brief', '"kept longer"') > 0 AS added;
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('brief');
SELECT payload, date_trunc('day', keep_until) - date_trunc('day', finished_at) AS days FROM pgjobs.history
WHERE payload IN ('"completed"', '"kept longer"') ORDER BY id;

-- No partition belongs to the extension: it would lose its rows in a dump.
SELECT count(*) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relispartition;

SELECT pgjobs.drop_queue('brief'), pgjobs.drop_queue('long'), pgjobs.drop_queue('later');
SELECT count(*) FROM pgjobs.history;

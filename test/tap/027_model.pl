# The same random history by pgjobs' calls and by plain SQL statements on a table beside: they choose
# the same jobs in the same order, and leave the same rows. What the clock says is taken over; all
# else the statements work out for themselves. MODEL_SEED repeats a run, MODEL_STEPS makes it longer.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $seed = $ENV{MODEL_SEED} // int(rand(1_000_000));
my $steps = $ENV{MODEL_STEPS} // 4000;
diag("seed $seed") if $ENV{MODEL_SEED};
note("MODEL_SEED=$seed MODEL_STEPS=$steps");

my $node = new_server('main', conf => 'fsync = off');
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('q', ARRAY['one', 'two'], lease => '1 day', max_attempts => 3, backoff => '1 hour', notify => 'off');
    CREATE TABLE model (id bigint PRIMARY KEY, state text, stage int, priority int, due_at timestamptz, attempt int, rev int);
    CREATE TABLE held (id bigint PRIMARY KEY, token bigint);
    CREATE TABLE differences (step int, call text, job bigint, detail text);

    -- When a job of the model is due is what its row says.
    CREATE FUNCTION due(of_id bigint) RETURNS timestamptz LANGUAGE sql RETURN (SELECT j.due_at FROM pgjobs.job j WHERE j.id = of_id);

    CREATE FUNCTION enqueue_some(n int) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        p int := floor(random() * 5)::int - 2;
        ids bigint[];
    BEGIN
        IF n = 1 THEN
            ids := ARRAY[pgjobs.enqueue('q', priority => p, run_at => now() - floor(random() * 3) * interval '1 minute')];
        ELSE
            ids := pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[n]), priority => p);
        END IF;
        INSERT INTO model SELECT i, 'ready', 1, p, due(i), 0, 1 FROM unnest(ids) i;
    END $$;

    CREATE FUNCTION claim_some(step int, n int) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        real bigint[];
        expected bigint[];
    BEGIN
        WITH c AS MATERIALIZED (SELECT row_number() OVER () AS place, id, token FROM pgjobs.claim('q', n)),
            noted AS (INSERT INTO held SELECT id, token FROM c)
        SELECT coalesce(array_agg(id ORDER BY place), '{}') INTO real FROM c;
        expected := ARRAY(SELECT m.id FROM model m WHERE m.state = 'ready'
            ORDER BY m.stage DESC, m.priority, m.due_at, m.id LIMIT n FOR NO KEY UPDATE SKIP LOCKED);
        UPDATE model SET state = 'running', attempt = attempt + 1, rev = rev + 1 WHERE id = ANY (expected);
        IF real <> expected THEN
            INSERT INTO differences VALUES (step, 'claim', NULL, format('%s, not %s', real, expected));
        END IF;
    END $$;

    -- Calls on running jobs; the model's answer to each.
    CREATE FUNCTION work(step int, call text, job bigint, token bigint) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        answer text;
        expected text;
        m model;
    BEGIN
        SELECT * INTO STRICT m FROM model WHERE id = job;
        CASE call
        WHEN 'complete' THEN
            answer := pgjobs.complete(job, token);
            UPDATE model SET state = CASE stage WHEN 1 THEN 'ready' ELSE 'completed' END, stage = 2,
                attempt = CASE stage WHEN 1 THEN 0 ELSE attempt END, rev = rev + 1,
                due_at = CASE stage WHEN 1 THEN due(job) ELSE due_at END WHERE id = job RETURNING state INTO expected;
        WHEN 'fail' THEN
            answer := pgjobs.fail(job, token, 'error');
            UPDATE model SET state = CASE WHEN attempt < 3 THEN 'scheduled' ELSE 'dead' END, rev = rev + 1,
                due_at = CASE WHEN attempt < 3 THEN due(job) ELSE due_at END WHERE id = job RETURNING state INTO expected;
        WHEN 'give up' THEN
            answer := pgjobs.fail(job, token, retry => false);
            UPDATE model SET state = 'dead', rev = rev + 1 WHERE id = job RETURNING state INTO expected;
        WHEN 'release' THEN
            PERFORM pgjobs.release(job, token);
            UPDATE model SET state = 'ready', attempt = attempt - 1, rev = rev + 1 WHERE id = job;
        WHEN 'snooze' THEN
            PERFORM pgjobs.snooze(job, token, '1 hour');
            UPDATE model SET state = 'scheduled', attempt = attempt - 1, rev = rev + 1, due_at = due(job) WHERE id = job;
        WHEN 'extend' THEN
            PERFORM pgjobs.extend(job, token);
        END CASE;
        IF call <> 'extend' THEN
            DELETE FROM held WHERE id = job;
        END IF;
        IF answer IS DISTINCT FROM expected THEN
            INSERT INTO differences VALUES (step, call, job, format('%s, not %s', answer, expected));
        END IF;
    END $$;

    -- Calls on any job.
    CREATE FUNCTION manage(step int, call text, job bigint) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        p int := floor(random() * 5)::int - 2;
        answer boolean;
        expected boolean;
    BEGIN
        CASE call
        WHEN 'cancel' THEN
            answer := pgjobs.cancel(job);
            UPDATE model SET state = 'cancelled', rev = rev + 1 WHERE id = job AND state IN ('ready', 'scheduled', 'running');
        WHEN 'reprioritize' THEN
            answer := pgjobs.reprioritize(job, p);
            UPDATE model SET priority = p WHERE id = job AND state IN ('ready', 'scheduled', 'running');
        WHEN 'retry' THEN
            answer := pgjobs.retry(job);
            UPDATE model SET stage = CASE state WHEN 'completed' THEN 1 ELSE stage END, state = 'ready', attempt = 0, rev = rev + 1,
                due_at = due(job) WHERE id = job AND state IN ('completed', 'dead', 'cancelled');
        END CASE;
        expected := FOUND;
        DELETE FROM held h USING model m WHERE h.id = m.id AND m.state <> 'running';
        IF answer IS DISTINCT FROM expected THEN
            INSERT INTO differences VALUES (step, call, job, format('%s, not %s', answer, expected));
        END IF;
    END $$;

    CREATE PROCEDURE history(seed float, steps int) LANGUAGE plpgsql AS $$
    DECLARE
        h held;
        chance float;
    BEGIN
        PERFORM setseed(seed);
        FOR step IN 1..steps LOOP
            chance := random();
            SELECT * INTO h FROM held ORDER BY random() LIMIT 1;
            IF chance < 0.15 THEN
                PERFORM enqueue_some(1);
            ELSIF chance < 0.25 THEN
                PERFORM enqueue_some(1 + floor(random() * 8)::int);
            ELSIF chance < 0.45 OR h.id IS NULL THEN
                PERFORM claim_some(step, 1 + floor(random() * 5)::int);
            ELSIF chance < 0.9 THEN
                PERFORM work(step, (ARRAY['complete', 'complete', 'fail', 'fail', 'give up', 'release', 'snooze', 'extend'])[1 + floor(random() * 8)::int], h.id, h.token);
            ELSE
                PERFORM manage(step, (ARRAY['cancel', 'reprioritize', 'retry'])[1 + floor(random() * 3)::int],
                    1 + floor(random() * (SELECT max(id) FROM model))::bigint);
            END IF;
            IF step % 100 = 0 THEN -- an hour passes
                PERFORM pgjobs._promote(clock_timestamp() + interval '2 hours');
                UPDATE model SET state = 'ready', rev = rev + 1 WHERE state = 'scheduled';
            END IF;
            IF random() < 0.1 THEN
                ROLLBACK;
            ELSE
                COMMIT;
            END IF;
        END LOOP;
    END $$;
});
$node->safe_psql('postgres', "CALL history($seed / 1000000.0, $steps)");

is($node->safe_psql('postgres', 'SELECT * FROM differences ORDER BY step LIMIT 5'), '', 'every call did what the statements did');
my $both = q{
    FROM (SELECT j.id, CASE WHEN j.waiting = 1 THEN 'scheduled' WHEN j.token IS NULL THEN 'ready' ELSE 'running' END AS state,
            j.stage::int, j.priority::int, j.due_at, j.attempt, j.rev FROM pgjobs.job j
        UNION ALL SELECT h.id, (ARRAY['completed', 'dead', 'cancelled'])[h.state + 1], h.stage, h.priority, h.due_at, h.attempt, h.rev
        FROM pgjobs.history h) r};
is($node->safe_psql('postgres', "(SELECT r.* $both EXCEPT SELECT * FROM model) UNION ALL (SELECT * FROM model EXCEPT SELECT r.* $both) LIMIT 6"),
    '', 'and left the same rows');
my %states = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT state, count(*) FROM model GROUP BY 1');
note(join ', ', map { "$_ $states{$_}" } sort keys %states);
cmp_ok($states{$_} // 0, '>', 10, "some jobs are $_") for qw(completed dead cancelled ready);
is($node->safe_psql('postgres', 'SELECT pgjobs._check_frontier()'), 0, 'nothing is hidden');
$node->stop;
done_testing();

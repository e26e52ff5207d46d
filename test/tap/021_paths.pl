# Rows are written directly, or by the executor where a user has hung something on the tables. The
# same random history of calls gives the same answers and leaves the same rows on both ways.
# PATHS_SEED repeats a run, PATHS_STEPS makes it longer.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $seed = $ENV{PATHS_SEED} // int(rand(1_000_000));
my $steps = $ENV{PATHS_STEPS} // 3000;
diag("seed $seed") if $ENV{PATHS_SEED};
note("PATHS_SEED=$seed PATHS_STEPS=$steps");

# Duties run when they are called, and at no other time.
my $node = new_server('main', bare => 1, conf => "fsync = off\ntimezone = 'UTC'");

my $history = q{
    CREATE TABLE held (id bigint, token bigint, spent boolean DEFAULT false);
    CREATE TABLE answers (step int, call text, answer text);

    CREATE FUNCTION pick(VARIADIC list text[]) RETURNS text VOLATILE LANGUAGE sql
        AS 'SELECT list[1 + floor(random() * cardinality(list))::int]';

    CREATE FUNCTION any_job() RETURNS bigint VOLATILE LANGUAGE sql
        AS 'SELECT 1 + floor(random() ^ 0.2 * (SELECT last_value FROM pgjobs.job_id_seq))::bigint';

    -- A job that was claimed, now and then with a token that is not good any more.
    CREATE FUNCTION a_held(OUT id bigint, OUT token bigint) VOLATILE LANGUAGE plpgsql AS $$
    BEGIN
        SELECT h.id, h.token INTO id, token FROM held h WHERE NOT spent OR h.id % 7 = 0
            ORDER BY h.id DESC, h.ctid DESC OFFSET floor(random() * 12)::int LIMIT 1;
        IF random() < 0.05 THEN
            token := token + 1;
        END IF;
    END $$;

    CREATE FUNCTION spend(ids bigint[]) RETURNS void LANGUAGE sql
        AS 'UPDATE held SET spent = true WHERE id = ANY (ids)';

    CREATE FUNCTION call_one(INOUT call text, OUT answer text) VOLATILE LANGUAGE plpgsql AS $$
    DECLARE
        q text := pick('long', 'long', 'brief');
        p int := floor(random() * 14)::int - 3;
        k int := floor(random() * 15)::int;
        n int := 1 + floor(random() ^ 3 * 40)::int;
        -- Sizes from inline to out of line, some that do not compress.
        body jsonb := jsonb_build_object('n', p, 'text', repeat(k::text, n * 20),
            'noise', (SELECT string_agg(md5((k * m)::text), '') FROM generate_series(1, n) m));
        ago timestamptz := now() - (1 + floor(random() * 50)) * interval '1 hour';
        key text := CASE WHEN random() < 0.4 THEN repeat(md5(k::text), 1 + k % 7) END;
        h record;
        ids bigint[];
        tokens bigint[];
    BEGIN
        SELECT * INTO h FROM a_held();
        CASE call
        WHEN 'enqueue' THEN
            answer := pgjobs.enqueue(q, body, priority => p, unique_key => key,
                on_conflict => pick('keep', 'replace', 'error'),
                run_at => CASE k % 4 WHEN 0 THEN ago WHEN 1 THEN now() + interval '1 day' END,
                expires_at => CASE k % 5 WHEN 0 THEN now() + interval '2 days' END);
        WHEN 'enqueue_many' THEN
            answer := pgjobs.enqueue_many(q, array_fill(body, ARRAY[n]), priority => p,
                unique_keys => CASE WHEN k % 3 = 0 THEN ARRAY(SELECT nullif(m % 5, 0)::text FROM generate_series(1, n) m) END,
                on_conflict => pick('keep', 'replace'),
                headers => CASE WHEN k % 3 = 1 THEN array_fill('{"trace": "t"}'::jsonb, ARRAY[n]) END);
        WHEN 'claim' THEN
            WITH claimed AS MATERIALIZED (SELECT * FROM pgjobs.claim(q, n, worker => 'w' || k,
                    stage => CASE WHEN k = 3 AND q = 'long' THEN 'second' END)),
                noted AS (INSERT INTO held SELECT id, token FROM claimed)
            SELECT string_agg(concat_ws(' ', id, stage, attempt, md5(payload::text), result, headers), ', ') INTO answer
                FROM claimed;
        WHEN 'complete' THEN
            answer := pgjobs.complete(h.id, h.token, CASE WHEN k % 3 > 0 THEN body END);
            PERFORM spend(ARRAY[h.id]);
        WHEN 'complete_many', 'fail_many', 'extend_many' THEN
            SELECT array_agg(l.id), array_agg(l.token) INTO ids, tokens
                FROM generate_series(1, n) m, LATERAL (SELECT * FROM a_held() WHERE m > 0) l WHERE l.id IS NOT NULL;
            CASE call
            WHEN 'complete_many' THEN
                answer := pgjobs.complete_many(ids, tokens,
                    CASE WHEN k % 2 = 0 THEN array_fill(body, ARRAY[cardinality(ids)]) END);
                PERFORM spend(ids);
            WHEN 'fail_many' THEN
                answer := pgjobs.fail_many(ids, tokens, retry => k % 4 > 0);
                PERFORM spend(ids);
            ELSE
                answer := pgjobs.extend_many(ids, tokens, '3 days');
            END CASE;
        WHEN 'fail' THEN
            answer := pgjobs.fail(h.id, h.token, repeat('e', n), retry => k % 5 > 0,
                retry_in => (k % 3) * interval '1 hour');
            PERFORM spend(ARRAY[h.id]);
        WHEN 'release' THEN
            PERFORM pgjobs.release(h.id, h.token), spend(ARRAY[h.id]);
        WHEN 'snooze' THEN
            PERFORM pgjobs.snooze(h.id, h.token, (k % 2) * interval '1 hour'), spend(ARRAY[h.id]);
        WHEN 'extend' THEN
            PERFORM pgjobs.extend(h.id, h.token, '2 days');
        WHEN 'progress' THEN
            PERFORM pgjobs.progress(h.id, h.token, k / 20.0, repeat('p', n));
        WHEN 'cancel' THEN
            answer := pgjobs.cancel(any_job());
        WHEN 'reprioritize' THEN
            answer := pgjobs.reprioritize(any_job(), p);
        WHEN 'reschedule' THEN
            answer := pgjobs.reschedule(any_job(), CASE WHEN k % 2 = 0 THEN ago ELSE now() + interval '5 days' END);
        WHEN 'retry' THEN
            answer := pgjobs.retry(any_job());
        WHEN 'redrive' THEN
            answer := pgjobs.redrive('long', 3);
        WHEN 'purge' THEN
            answer := pgjobs.purge_queue(q);
        WHEN '_promote' THEN
            answer := pgjobs._promote(now() + k * interval '1 hour');
        WHEN '_expire' THEN
            answer := pgjobs._expire(now() + k * interval '5 hours');
        ELSE
            answer := pgjobs._reap(now() + interval '2 days' * (k % 2));
        END CASE;
    EXCEPTION WHEN OTHERS THEN
        answer := SQLSTATE;
        -- What cannot be anybody's mistake.
        IF SQLSTATE !~ '^(PJ001|22023|23505|22004)$' THEN
            answer := SQLSTATE || ' ' || SQLERRM;
        END IF;
    END $$;

    CREATE PROCEDURE history(seed float, steps int) LANGUAGE plpgsql AS $$
    DECLARE
        r record;
    BEGIN
        PERFORM setseed(seed);
        FOR step IN 1..steps LOOP
            FOR i IN 1..1 + floor(random() ^ 4 * 4)::int LOOP
                SELECT * INTO r FROM call_one(pick('enqueue', 'enqueue', 'enqueue', 'enqueue_many', 'claim', 'claim',
                    'claim', 'claim', 'complete', 'complete', 'complete_many', 'fail', 'fail', 'fail_many', 'release',
                    'snooze', 'extend', 'extend_many', 'progress', 'cancel', 'reprioritize', 'reprioritize',
                    'reschedule', 'retry', 'redrive', CASE WHEN step % 40 = 0 THEN 'purge' ELSE 'complete_many' END,
                    '_promote', '_expire', CASE WHEN step % 10 = 0 THEN '_reap' ELSE 'claim' END));
                INSERT INTO answers VALUES (step, r.call, r.answer);
            END LOOP;
            IF random() < 0.1 THEN
                ROLLBACK;
            ELSE
                COMMIT;
            END IF;
        END LOOP;
    END $$;
};

# Everything that does not depend on the clock or on chance.
my %rows = (
    jobs => q{SELECT concat_ws('|', j.id, q.name, stage, priority, waiting, attempt, j.max_attempts, rev, token IS NOT NULL,
        started_at IS NOT NULL, worker, fraction, note, md5(payload::text), headers, md5(result::text), unique_key, error,
        done_token IS NOT NULL, expires_at IS NOT NULL, jsonb_array_length(attempts),
        row_number() OVER (ORDER BY due_at, j.id)) FROM pgjobs.job j JOIN pgjobs.queue q ON q.id = queue_id ORDER BY j.id},
    history => q{SELECT concat_ws('|', j.id, q.name, stage, priority, state, attempt, rev, worker, md5(payload::text), headers,
        md5(result::text), unique_key, error, done_token IS NOT NULL, jsonb_array_length(attempts))
        FROM pgjobs.history j JOIN pgjobs.queue q ON q.id = queue_id ORDER BY finished_at, j.id},
    answers => q{SELECT concat_ws('|', step, call, answer) FROM answers ORDER BY ctid},
);

my %users = (
    direct => '',
    trigger => q{
        CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER pass BEFORE INSERT OR UPDATE ON pgjobs.job FOR EACH ROW EXECUTE FUNCTION pass();
        CREATE TRIGGER pass BEFORE INSERT ON pgjobs.history FOR EACH ROW EXECUTE FUNCTION pass()},
    more => q{
        ALTER TABLE pgjobs.job ADD COLUMN mine int NOT NULL DEFAULT 1;
        ALTER TABLE pgjobs.history ADD COLUMN mine int NOT NULL DEFAULT 1;
        CREATE INDEX ON pgjobs.job (mine, attempt);
        CREATE INDEX ON pgjobs.history (mine, attempt)},
);

my %found;
for my $database (sort keys %users) {
    $node->safe_psql('postgres', "CREATE DATABASE $database");
    $node->safe_psql($database, "CREATE EXTENSION pgjobs; CREATE EXTENSION amcheck; $users{$database}");
    $node->safe_psql($database, q{
        SELECT pgjobs.create_queue('dead', lease => '1 day', retention => '0');
        SELECT pgjobs.create_queue('long', stages => ARRAY['first', 'second', 'third'], lease => '1 day',
            max_attempts => 4, dead_letter => 'dead', backoff => '0');
        SELECT pgjobs.create_queue('brief', lease => '1 day', max_attempts => 3, retention => '0', dead_retention => '1 day',
            backoff => '0')});
    $node->safe_psql($database, $history);
    my $seconds = timed(sub { $node->safe_psql($database, "CALL history($seed / 1000000.0, $steps)") });
    note(sprintf '%s: %.1f s', $database, $seconds);
    note($node->safe_psql($database, q{SELECT call, count(*), count(*) FILTER (WHERE answer ~ '^[0-9A-Z]{5}$' AND answer ~ '[A-Z]|^2[23]') AS refused
        FROM answers GROUP BY 1 ORDER BY 1})) if $database eq 'direct';
    $found{$database}{$_} = $node->safe_psql($database, $rows{$_}) for keys %rows;
    is($node->safe_psql($database, q{SELECT call, answer FROM answers WHERE answer ~ '^[0-9A-Z]{5} .*[a-z]{3}' AND call <> 'claim' LIMIT 5}),
        '', "$database: no unexpected error");
    is($node->safe_psql($database, q{SELECT pgjobs._check_frontier()}), 0, "$database: nothing is hidden");
    is($node->safe_psql($database, q{SELECT pgjobs._check_leases()}), 0, "$database: every lease is listed");
    is($node->safe_psql($database, q{
        SELECT count(bt_index_check(indexrelid, true)) > 5 FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE a.amname = 'btree' AND c.relnamespace = 'pgjobs'::regnamespace AND c.relkind = 'i'}),
        't', "$database: the indexes have an entry for every row");
    is($node->safe_psql($database, q{SELECT count(*) FROM verify_heapam('pgjobs.job')}), 0, "$database: the table is sound");
}

for my $database (grep { $_ ne 'direct' } sort keys %users) {
    for my $what (sort keys %rows) {
        my @direct = split /\n/, $found{direct}{$what};
        my @other = split /\n/, $found{$database}{$what};
        cmp_ok(scalar @direct, '>', 10, "there are $what");
        my ($i) = grep { ($direct[$_] // 'nothing') ne ($other[$_] // 'nothing') } 0 .. ($#direct > $#other ? $#direct : $#other);
        ok(!defined $i, "$database: the same $what") or diag("seed $seed: directly: $direct[$i]\n$database: $other[$i]");
    }
}

done_testing();

# Sessions that add, claim, finish, give back, cancel, replace and undo at random, side by side:
# at no moment does a ready job stand where claims do not look, and in the end all of them are
# claimed. CHURN_SECONDS makes it longer.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $seconds = $ENV{CHURN_SECONDS} // 7;
my $node = new_server('main', conf => q{
fsync = off
deadlock_timeout = 20ms
max_connections = 40
});
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('q', stages => ARRAY['first', 'second'], lease => '1 hour');
    SELECT pgjobs.create_queue('brief', retention => '0', lease => '1 hour');
    CREATE TABLE trouble (what text);

    -- One step of a session.
    CREATE FUNCTION step(ways int) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        q text := CASE WHEN random() < 0.7 THEN 'q' ELSE 'brief' END;
        jobs bigint[];
        tokens bigint[];
        way int := floor(random() * ways);
        known bigint := COALESCE((SELECT id FROM pgjobs.job TABLESAMPLE SYSTEM (20) ORDER BY random() LIMIT 1), 0);
    BEGIN
        IF way < 5 THEN
            PERFORM pgjobs.enqueue(q, to_jsonb(random()), priority => (random() * 11)::int - 5,
                run_at => now() - random() * interval '1 minute',
                unique_key => CASE WHEN random() < 0.3 THEN (random() * 20)::int::text END,
                on_conflict => CASE WHEN random() < 0.5 THEN 'keep' ELSE 'replace' END);
        ELSIF way < 12 THEN
            SELECT array_agg(id), array_agg(token) INTO jobs, tokens
                FROM pgjobs.claim(q, 1 + (random() * 8)::int);
            FOR i IN 1..COALESCE(cardinality(jobs), 0) LOOP
                CASE (random() * 4)::int
                WHEN 0 THEN PERFORM pgjobs.fail(jobs[i], tokens[i], 'again', retry_in => '0');
                WHEN 1 THEN PERFORM pgjobs.release(jobs[i], tokens[i]);
                WHEN 2 THEN PERFORM pgjobs.snooze(jobs[i], tokens[i], '0');
                ELSE PERFORM pgjobs.complete(jobs[i], tokens[i]);
                END CASE;
            END LOOP;
        ELSIF way = 12 THEN
            PERFORM pgjobs.cancel(known);
        ELSIF way = 13 THEN
            PERFORM pgjobs.reprioritize(known, (random() * 11)::int - 5);
        ELSIF way = 14 THEN
            PERFORM pgjobs.reschedule(known, now() - random() * interval '1 minute');
        ELSIF way = 15 THEN
            PERFORM FROM pgjobs.job WHERE id = known FOR UPDATE;
        ELSE
            UPDATE pgjobs.job SET priority = -priority WHERE id = known;
        END IF;
    END $$;

    CREATE PROCEDURE churn(until timestamptz, ways int) LANGUAGE plpgsql AS $$
    DECLARE
        steps bigint := 0;
        levels text[] := ARRAY['read committed', 'repeatable read'];
    BEGIN
        WHILE clock_timestamp() < until LOOP
            steps := steps + 1;
            FOR i IN 1..1 + (random() * 3)::int LOOP
                BEGIN
                    PERFORM step(ways);
                    IF random() < 0.2 THEN
                        RAISE 'undo';
                    END IF;
                EXCEPTION
                    WHEN raise_exception OR deadlock_detected OR serialization_failure THEN NULL;
                    WHEN OTHERS THEN
                        INSERT INTO trouble VALUES (SQLSTATE || ' ' || SQLERRM);
                END;
            END LOOP;
            -- Of the next transaction. A serializable one may fail as it commits, which would end this:
            -- those are pgbench's.
            PERFORM set_config('default_transaction_isolation', levels[1 + floor(random() * 2)::int], false);
            IF random() < 0.2 THEN
                ROLLBACK;
            ELSE
                COMMIT;
            END IF;
        END LOOP;
        RAISE NOTICE '% transactions', steps;
    END $$;

    CREATE PROCEDURE watch(until timestamptz) LANGUAGE plpgsql AS $$
    DECLARE
        hidden bigint;
        looks bigint := 0;
    BEGIN
        WHILE clock_timestamp() < until LOOP
            looks := looks + 1;
            hidden := pgjobs._check_frontier();
            IF hidden > 0 THEN
                INSERT INTO trouble VALUES (hidden || ' hidden');
            END IF;
            COMMIT;
            PERFORM pg_sleep(0.002);
        END LOOP;
        RAISE NOTICE '% looks', looks;
    END $$;
});

# Sessions that are always serializable; a transaction that could not be serialized is run again.
sub start_serializable {
    my ($ways) = @_;
    my $script = $node->basedir . '/serializable-$ways.sql';
    append_to_file($script, "SELECT step($ways) FROM generate_series(1, 3);\n");
    local $ENV{PGOPTIONS} = '-c default_transaction_isolation=serializable';
    my $output = '';
    my $run = IPC::Run::start(
        ['pgbench', '-n', '-c2', '-T', $seconds, '--max-tries=1000', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres'],
        '>&', \$output);
    return [$run, \$output];
}

sub run {
    my ($what, $ways) = @_;
    my $until = $node->safe_psql('postgres', "SELECT clock_timestamp() + '$seconds seconds'");
    my $serializable = start_serializable($ways);
    my @sessions = map { session($node) } 1 .. 9;
    start_sql($sessions[$_], "CALL churn('$until', $ways)") for 0 .. 7;
    start_sql($sessions[8], "CALL watch('$until')");
    for my $session (@sessions) {
        note(result_of($session));
        $session->quit;
    }
    my ($pgbench, $output) = @$serializable;
    ok($pgbench->finish, "$what: serializable sessions have no other error") or diag($$output);
    my ($done) = $$output =~ /processed: (\d+)/;
    my ($retried) = $$output =~ /transactions retried: (\d+)/;
    note("$done serializable transactions, $retried of them retried");
    cmp_ok($done, '>', 20, "$what: and do something");
    is($node->safe_psql('postgres', 'SELECT DISTINCT what FROM trouble'), '', "$what: no error, nothing hidden");
    is($node->safe_psql('postgres', 'SELECT pgjobs._check_frontier()'), 0, "$what: nothing hidden at the end");
    my $left = $node->safe_psql('postgres', q{
        DO $$ BEGIN
            FOR i IN 1..100000 LOOP
                PERFORM id FROM pgjobs.claim('q', 100) UNION ALL SELECT id FROM pgjobs.claim('brief', 100);
                EXIT WHEN NOT FOUND;
                COMMIT;
            END LOOP;
        END $$;
        SELECT count(*) FILTER (WHERE token IS NULL) FROM pgjobs.job WHERE waiting = 0});
    is($left, 0, "$what: all that was ready is claimed");
}

# Without plain SQL: that often makes everybody look everywhere.
run('by itself', 15);

# With a snapshot that keeps every dead row.
my $old = session($node);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgjobs.job');
run('with plain SQL and an old snapshot', 17);
$old->quit;

$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');
is($node->safe_psql('postgres', q{
    SELECT count(bt_index_check(indexrelid, true)) > 5 FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'btree' AND c.relnamespace = 'pgjobs'::regnamespace AND c.relkind = 'i'}),
    't', 'the indexes have an entry for every row');

is($node->safe_psql('postgres', q{SELECT count(*) FROM verify_heapam('pgjobs.job')}), 0, 'the table is sound');

done_testing();

# Sessions that move rows of an attached table at random, many at once and one by one, delete them and add them
# again, with savepoints and rollbacks: a row is taken back when it was worked on for too long, and never before.
# STALE_SECONDS makes it longer.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $seconds = $ENV{STALE_SECONDS} // 8;
my $node = new_server('main', conf => "fsync = off\ndeadlock_timeout = 20ms");
$node->safe_psql('postgres', q{
    CREATE TABLE runs (id int PRIMARY KEY, state text NOT NULL DEFAULT 'open');
    SELECT pgjobs.attach_table('runs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed",
        "stale_after": "0.7 seconds"}]', transitions => '{"closed": ["open"], "busy": ["open"]}');
    INSERT INTO runs SELECT n FROM generate_series(1, 3000) n;

    -- What happened to each row. Its name comes before pgjobs': the time is not later than theirs.
    CREATE TABLE moves (number bigserial, id int, state text, at timestamptz, reaped boolean);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO moves (id, state, at, reaped)
        VALUES (NEW.id, NEW.state, clock_timestamp(), current_setting('application_name') = 'pgjobs row reaper');
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OF state ON runs FOR EACH ROW EXECUTE FUNCTION note();

    CREATE FUNCTION step() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        first int := random() * 3000;
        last int := first + CASE WHEN random() < 0.5 THEN 5 ELSE 600 END;
        way int := floor(random() * 8);
        ids int[];
    BEGIN
        IF way = 7 THEN
            PERFORM pgjobs.claim_row(NULL::runs, 's', 1 + (random() * 300)::int);
            RETURN;
        END IF;
        ids := ARRAY(SELECT id FROM runs WHERE id BETWEEN first AND last AND CASE way
                WHEN 0 THEN state = 'open' WHEN 1 THEN state = 'open' WHEN 2 THEN state = 'open'
                WHEN 3 THEN state = 'busy' WHEN 4 THEN state = 'closed' WHEN 5 THEN true ELSE state = 'busy' END
            FOR UPDATE SKIP LOCKED);
        IF way <= 2 THEN
            UPDATE runs SET state = 'busy' WHERE id = ANY (ids);
        ELSIF way = 3 THEN
            UPDATE runs SET state = 'closed' WHERE id = ANY (ids);
        ELSIF way = 4 OR way = 6 THEN
            UPDATE runs SET state = 'open' WHERE id = ANY (ids);
        ELSE
            DELETE FROM runs WHERE id = ANY (ids);
            INSERT INTO runs SELECT i, CASE WHEN random() < 0.5 THEN 'open' ELSE 'busy' END FROM unnest(ids) i;
        END IF;
    END $$;
    CREATE PROCEDURE churn(until timestamptz) LANGUAGE plpgsql AS $$ BEGIN
        WHILE clock_timestamp() < until LOOP
            FOR i IN 1 .. 1 + (random() * 3)::int LOOP
                BEGIN
                    PERFORM step();
                    IF random() < 0.2 THEN RAISE 'undo'; END IF;
                EXCEPTION WHEN raise_exception OR deadlock_detected THEN NULL;
                END;
            END LOOP;
            IF random() < 0.2 THEN ROLLBACK; ELSE COMMIT; END IF;
            PERFORM pg_sleep(random() * 0.05);
        END LOOP;
    END $$;
});

my $until = $node->safe_psql('postgres', "SELECT clock_timestamp() + '$seconds seconds'");
my @sessions = map { session($node) } 1 .. 4;
start_sql($_, "CALL churn('$until')") for @sessions;
for my $session (@sessions) {
    result_of($session);
    $session->quit;
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM runs WHERE state = 'busy'}), 'every row that stays comes back');
is($node->safe_psql('postgres', 'SELECT count(*) FROM runs'), 3000, 'all are there');

# Of each row the moves are in order: whoever moved it had it locked.
my $gaps = q{
    FROM (SELECT id, at - lag(at) OVER row AS gap, lag(state) OVER row AS was, state, reaped FROM moves
          WINDOW row AS (PARTITION BY id ORDER BY number)) m WHERE reaped};
is($node->safe_psql('postgres', "SELECT count(*) $gaps AND (gap < '0.7 seconds' OR was <> 'busy' OR state <> 'open')"),
    0, 'none before its time')
    or diag($node->safe_psql('postgres', "SELECT id, was, state, gap $gaps AND (gap < '0.7 seconds' OR was <> 'busy') LIMIT 10"));
my $reaped = $node->safe_psql('postgres', "SELECT count(*) $gaps");
my $moves = $node->safe_psql('postgres', 'SELECT count(*) FROM moves');
note("$moves moves, $reaped rows taken back");
cmp_ok($reaped, '>', 500, 'enough were taken back');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pgjobs.working_row'), 'no record stays');

done_testing();

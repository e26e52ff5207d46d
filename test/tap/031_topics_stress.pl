# Many writers that commit in any order, roll back, use savepoints and prepare; readers of every kind; segments
# that come and go; a stranger's snapshot: every committed message once, in order, to everybody, soon.
# PGJOBS_STRESS_MESSAGES=1000000 for the size of the release's claim; PGJOBS_STRESS_P99 is the limit in ms.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Pgjobs;

my $messages = $ENV{PGJOBS_STRESS_MESSAGES} // 60_000;
my $limit = $ENV{PGJOBS_STRESS_P99} // 1000; # a machine that does other things
my $writers = 14;  # and two that prepare
my $batch = 3; # on average; the delays between make a rate that eight readers keep up with
my $seed = $ENV{PGJOBS_STRESS_SEED} // int(rand(2**31));
diag("PGJOBS_STRESS_SEED=$seed");

my $node = new_server('stress', conf => qq{
    fsync = off
    autovacuum_naptime = 1s
    log_autovacuum_min_duration = 0
    track_commit_timestamp = on
    max_connections = 60
    log_statement = none
});
sub run { return $node->safe_psql('postgres', $_[0]) }
run(q{
    SELECT pgjobs.create_topic('t', retention => '8 seconds');
    SELECT pgjobs.create_queue('fed'), pgjobs.create_queue('some', retention => '0');
    SELECT pgjobs.subscribe_queue('fed', 't'), pgjobs.subscribe_queue('some', 't', key_pattern => 'writer 1%');
    SELECT pgjobs.subscribe('s' || n, 't') FROM generate_series(1, 3) n;
    CREATE TABLE committed (writer integer, n integer, position bigint, key text);
    CREATE TABLE got (seq bigserial, reader text, position bigint, payload jsonb, at timestamptz);
    CREATE TABLE flags (done boolean); INSERT INTO flags VALUES (false);

    -- What a writer does in a transaction is told by the rows that it commits in "committed".
    CREATE PROCEDURE write(w integer, messages integer, batch integer) LANGUAGE plpgsql AS $$
    DECLARE
        n integer := 0;
        more integer;
    BEGIN
        PERFORM setseed(((} . $seed . q{ + w * 7919) % 10007) / 10007.0);
        WHILE n < messages LOOP
            FOR part IN 1 .. 1 + floor(random() * 2)::integer LOOP
                more := 1 + floor(random() * batch * 2)::integer;
                BEGIN
                    INSERT INTO committed SELECT w, n + i, p[i], 'writer ' || w
                    FROM pgjobs.publish_many('t', ARRAY(SELECT jsonb_build_array(w, n + i) FROM generate_series(1, more) i), array_fill('writer ' || w, ARRAY[more])) p, generate_series(1, more) i;
                    IF random() < 0.3 THEN PERFORM pg_sleep(random() * 0.004); END IF;
                    n := n + more;
                    IF random() < 0.1 THEN RAISE SQLSTATE 'ZZ000'; END IF; -- a savepoint is undone
                EXCEPTION WHEN SQLSTATE 'ZZ000' THEN NULL;
                END;
            END LOOP;
            IF random() < 0.6 THEN PERFORM pg_sleep(random() * 0.02); END IF;
            IF random() < 0.1 THEN ROLLBACK; ELSE COMMIT; END IF;
        END LOOP;
    END $$;

    CREATE PROCEDURE subscriber(name text, most integer) LANGUAGE plpgsql AS $$
    DECLARE
        ready boolean;
        over boolean;
        r record;
    BEGIN
        LOOP
            SELECT done INTO over FROM flags;
            WITH m AS MATERIALIZED (SELECT * FROM pgjobs.receive(name, most)),
                g AS (INSERT INTO got (reader, position, payload, at) SELECT name, position, payload, clock_timestamp() FROM m)
            SELECT max(token) AS token, max(position) AS position INTO r FROM m;
            IF r.token IS NOT NULL THEN
                PERFORM pgjobs.ack(name, r.token, r.position);
                IF random() < 0.02 THEN ROLLBACK; ELSE COMMIT; END IF;
            ELSE
                COMMIT;
                EXIT WHEN over;
                CALL pgjobs.wait_message(name, '200 milliseconds', ready);
            END IF;
        END LOOP;
    END $$;

    CREATE PROCEDURE watcher(name text) LANGUAGE plpgsql AS $$
    DECLARE
        over boolean;
        place bigint := 0;
        last bigint;
    BEGIN
        LOOP
            SELECT done INTO over FROM flags;
            INSERT INTO got (reader, position, payload, at) SELECT name, position, payload, clock_timestamp() FROM pgjobs.read('t', place, 500) ORDER BY position;
            SELECT max(position) INTO last FROM got WHERE reader = name AND position > place;
            COMMIT;
            IF last IS NOT NULL THEN
                place := last;
            ELSE
                EXIT WHEN over;
                PERFORM pg_sleep(0.005);
                COMMIT;
            END IF;
        END LOOP;
    END $$;
    CREATE INDEX ON got (reader, position);
});

# A report that runs all the while, and has written something.
my $stranger = session($node);
$stranger->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE report (); SELECT count(*) FROM pgjobs.topic');

# ---- everything at once ----

my %scripts;
sub begin_script {
    my ($name, $sql) = @_;
    $scripts{$name} = [ start_script($node, 'postgres', $sql) ];
}
my $began = time;
begin_script("subscriber $_", "CALL subscriber('s$_', " . 3 * 10 ** $_ . ")") for 1 .. 3;
my @levels = ('read committed', 'repeatable read', 'serializable');
begin_script("watcher $_", "SET default_transaction_isolation = '$levels[$_ - 1]'; CALL watcher('w$_')") for 1 .. 3;
begin_script('keeper', q{DO $$ BEGIN LOOP
    PERFORM pgjobs._keep_topics(clock_timestamp() + interval '1 second'); -- a segment lasts as long as a turn
    COMMIT;
    EXIT WHEN (SELECT done FROM flags);
    PERFORM pg_sleep(0.1);
    COMMIT;
END LOOP; END $$});
begin_script("writer $_", "CALL write($_, " . int($messages / 16) . ", $batch)") for 1 .. $writers;
srand($seed);
for my $writer (15, 16) {
    my $n = 0;
    my $sql = '';
    while ($n < $messages / 16) {
        my $more = 1 + int(rand(2 * $batch));
        my $key = "writer $writer";
        my $values = join ',', map { "[$writer,$_]" } $n + 1 .. $n + $more;
        $sql .= "BEGIN; INSERT INTO committed SELECT $writer, (m ->> 1)::int, pgjobs.publish('t', m, '$key'), '$key' FROM jsonb_array_elements('[$values]') m;\n";
        my $end = rand();
        if ($end < 0.3) { $sql .= "COMMIT;\n" }
        elsif ($end < 0.4) { $sql .= "ROLLBACK;\n" }
        elsif ($end < 0.9) { $sql .= "PREPARE TRANSACTION 'p$writer'; " . (rand() < 0.3 ? 'SELECT pg_sleep(0.002); ' : '') . "COMMIT PREPARED 'p$writer';\n" }
        else { $sql .= "PREPARE TRANSACTION 'p$writer'; ROLLBACK PREPARED 'p$writer';\n" }
        $n += $more;
    }
    begin_script("writer $writer", $sql);
}
for my $name (grep { /^writer/ } sort keys %scripts) {
    $scripts{$name}[0]->finish;
    is(slurp_file($scripts{$name}[1]), '', "$name: no error");
}
my $written = time;
run('UPDATE flags SET done = true');
for my $name (grep { !/^writer/ } sort keys %scripts) {
    $scripts{$name}[0]->finish;
    is(slurp_file($scripts{$name}[1]), '', "$name: no error");
}
my $read = time;

# ---- what came of it ----

my $count = run('SELECT count(*) FROM committed');
note(sprintf '%d messages in %.1f s: %.0f/s; read %.1f s later', $count, $written - $began, $count / ($written - $began), $read - $written);
cmp_ok($count, '>', $messages / 2, 'enough was committed');
is(run('SELECT count(DISTINCT position) FROM committed'), $count, 'positions are unique');
my @readers = ((map { "s$_" } 1 .. 3), (map { "w$_" } 1 .. 3));
for my $reader (@readers) {
    is(run("SELECT count(*), count(DISTINCT position) FROM got WHERE reader = '$reader'"), "$count|$count", "$reader: as many as were committed, each once");
    is(run("SELECT count(*) FROM committed c FULL JOIN (SELECT * FROM got WHERE reader = '$reader') g ON g.position = c.position AND g.payload = jsonb_build_array(c.writer, c.n) WHERE c.position IS NULL OR g.position IS NULL"),
        0, "$reader: the same ones");
    is(run("SELECT count(*) FROM (SELECT position <= lag(position) OVER (ORDER BY seq) AS back FROM got WHERE reader = '$reader') x WHERE back"), 0, "$reader: in order");
}
# A transaction's messages are in its order.
is(run('SELECT count(*) FROM (SELECT n < lag(n) OVER (PARTITION BY writer ORDER BY position) AS back FROM committed) x WHERE back'), 0, 'each writer in his order');
for my $feed (['fed', 'true'], ['some', q{key LIKE 'writer 1%'}]) {
    my ($queue, $which) = @$feed;
    ok($node->poll_query_until('postgres', "SELECT lag_messages = 0 FROM pgjobs.subscriptions WHERE queue = '$queue'"), "$queue: everything is delivered");
    is(run("SELECT count(*) FROM (SELECT * FROM committed WHERE $which) c FULL JOIN (SELECT (headers #>> '{message,position}')::bigint AS position, payload FROM pgjobs.jobs WHERE queue = '$queue') j
        ON j.position = c.position AND j.payload = jsonb_build_array(c.writer, c.n) WHERE c.position IS NULL OR j.position IS NULL"), 0, "$queue: a job for each of its messages");
    is(run("SELECT count(*) FROM pgjobs.jobs WHERE queue = '$queue'"), run("SELECT count(*) FROM committed WHERE $which"), "$queue: and one only");
    is(run("SELECT count(*) FROM (SELECT (headers #>> '{message,position}')::bigint < lag((headers #>> '{message,position}')::bigint) OVER (ORDER BY id) AS back FROM pgjobs.jobs WHERE queue = '$queue') x WHERE back"), 0,
        "$queue: in order");
}
my $segments = run('SELECT max(id) FROM pgjobs.segment');
my $left = run('SELECT count(*) FROM pgjobs.segment');
note("$segments segments were made, $left are left");
cmp_ok($segments, '>', 10, 'segments came');
cmp_ok($left, '<', $segments, 'and went') if $read - $began > 10;

# From the commit to the row in the reader's hands; who was in the way in between counts against us.
my ($median, $p99, $most) = split /\|/, run(q{
    SELECT (1000 * extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY late)))::numeric(10, 1),
        (1000 * extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY late)))::numeric(10, 1), (1000 * extract(epoch FROM max(late)))::numeric(10, 1)
    FROM (SELECT g.at - pg_xact_commit_timestamp(c.xmin) AS late FROM committed c JOIN got g USING (position) WHERE g.reader IN ('s1', 's2', 's3')) x});
diag(sprintf '%d messages, %.0f/s: from commit to receive: median %s ms, p99 %s ms, most %s ms', $count, $count / ($written - $began), $median, $p99, $most);
cmp_ok($p99, '<', $limit, 'p99 of the delay');
is($stranger->query_safe('SELECT count(*) FROM pgjobs.topic'), 1, 'the stranger was there all the while');
$stranger->query_safe('ROLLBACK');
$stranger->quit;
is(run('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left');
unlike(slurp_file($node->logfile), qr/skipping (?:vacuum|analyze) of "(?:feed|subscription|topic|segment)"/, 'nothing was kept from VACUUM');
$node->stop;

done_testing();

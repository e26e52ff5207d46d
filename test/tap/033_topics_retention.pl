# Segments are dropped while everybody publishes, reads and works off jobs. Who has the tables in his hands, a
# pg_dump or a reader's transaction, keeps them, and holds up nobody. A long snapshot makes no call slower.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use POSIX qw(WNOHANG);
use Time::HiRes qw(time);
use Pgjobs;

my $node = new_server('main', conf => "fsync = off\nlog_statement = none");
sub run { return $node->safe_psql('postgres', $_[0]) }
run(q{
    SELECT pgjobs.create_topic('t', retention => '1 second');
    SELECT pgjobs.create_queue('fed', retention => '1 minute'), pgjobs.subscribe_queue('fed', 't');
    SELECT pgjobs.create_queue('work'), pgjobs.create_queue('brief', retention => '0');
    CREATE TABLE large AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 20000) n;
    CREATE TABLE flags (done boolean); INSERT INTO flags VALUES (false);
    CREATE TABLE calls (what text, at timestamptz, ms double precision);
    CREATE PROCEDURE publish() LANGUAGE plpgsql AS $$
    DECLARE
        began timestamptz;
    BEGIN
        WHILE NOT (SELECT done FROM flags) LOOP
            began := clock_timestamp();
            PERFORM pgjobs.publish('t', '"message"');
            COMMIT;
            INSERT INTO calls VALUES ('publish', began, 1000 * extract(epoch FROM clock_timestamp() - began));
            COMMIT;
            PERFORM pg_sleep(0.001);
        END LOOP;
    END $$;
    CREATE PROCEDURE read() LANGUAGE plpgsql AS $$
    DECLARE
        began timestamptz;
        place bigint := 0;
    BEGIN
        WHILE NOT (SELECT done FROM flags) LOOP
            began := clock_timestamp();
            place := COALESCE((SELECT max(position) FROM pgjobs.read('t', place, 1000)), place);
            COMMIT;
            INSERT INTO calls VALUES ('read', began, 1000 * extract(epoch FROM clock_timestamp() - began));
            COMMIT;
            PERFORM pg_sleep(0.001);
        END LOOP;
    END $$;
    CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
    DECLARE
        began timestamptz;
    BEGIN
        WHILE NOT (SELECT done FROM flags) LOOP
            began := clock_timestamp();
            PERFORM pgjobs.enqueue(queue) FROM unnest(ARRAY['work', 'brief']) queue;
            COMMIT;
            PERFORM pgjobs.complete(id, token) FROM unnest(ARRAY['work', 'brief']) queue, pgjobs.claim(queue);
            COMMIT;
            INSERT INTO calls VALUES ('work', began, 1000 * extract(epoch FROM clock_timestamp() - began));
            COMMIT;
            PERFORM pg_sleep(0.001);
        END LOOP;
    END $$;
});
my @scripts = map { [ start_script($node, 'postgres', "CALL $_()") ] } qw(publish read work);
my $oldest = q{SELECT min(id) FROM pgjobs.segment};
my $newest = q{SELECT max(id) FROM pgjobs.segment};
my $now = sub { run('SELECT clock_timestamp()') };

# Seven or so segments at a time, and none for long.
my $first = run($newest);
ok($node->poll_query_until('postgres', "SELECT min(id) > $first FROM pgjobs.segment"), 'segments come and go');
cmp_ok(run('SELECT count(*) FROM pgjobs.segment'), '<', 30, 'few are there at a time');

# ---- somebody has the log in his hands ----

sub holds {
    my ($name, $begin, $end) = @_;
    my $offset = -s $node->logfile;
    $begin->();
    my $since = $now->();
    my $kept = run($oldest);
    my $from = run($newest);
    ok($node->poll_query_until('postgres', "SELECT max(id) > $from + 5 FROM pgjobs.segment"), "$name: segments come");
    cmp_ok(run($oldest), '<=', $kept + 1, "$name: what he has stays"); # one may have gone before
    my $until = $now->();
    for my $what ('publish', 'read', 'work') {
        my ($count, $most) = split /\|/, run("SELECT count(*), max(ms)::numeric(10, 1) FROM calls WHERE what = '$what' AND at BETWEEN '$since' AND '$until'");
        note("$name: $count calls of $what, the longest $most ms");
        cmp_ok($count, '>', 50, "$name: $what goes on");
        cmp_ok($most, '<', 1500, "$name: nobody waits"); # he was there for longer
    }
    $end->();
    ok($node->poll_query_until('postgres', "SELECT min(id) > $from FROM pgjobs.segment"), "$name: afterwards it goes");
    unlike(log_since($node, $offset), qr/(?:failed|deadlock)/, "$name: no trouble");
    return;
}

# A pg_dump that nobody listens to. One that lists a segment which goes before it is locked fails, as with any
# table: it is started again.
my $dump;
sub start_dump {
    pipe(my $reader, my $writer);
    my $pid = fork();
    if ($pid == 0) {
        open(STDOUT, '>&', $writer);
        close($reader);
        exec('pg_dump', '-d', $node->connstr('postgres')) or exit(1);
    }
    close($writer);
    return [ $pid, $reader ];
}
holds('pg_dump',
    sub {
        $dump = start_dump();
        wait_until(sub {
            $dump = start_dump() if waitpid($dump->[0], WNOHANG) > 0;
            return run(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^COPY'}) == 1;
        }) or fail('pg_dump does not wait');
    },
    sub {
        my $reader = $dump->[1];
        my $text = do { local $/; <$reader> };
        waitpid($dump->[0], 0);
        is($?, 0, 'pg_dump has finished');
        like($text, qr/COPY pgjobs\.log_\d+ /, 'with the log');
    });

# A transaction that has read the log by plain SQL.
my $session = session($node);
holds('a report', sub { $session->query_safe('BEGIN; SELECT count(*) FROM pgjobs.log') }, sub { $session->query_safe('COMMIT') });

# One that has read every table. Neither partitions of the history nor receipts go then.
my $everything = run(q{SELECT string_agg(format('TABLE pgjobs.%I LIMIT 1', relname), '; ') FROM pg_class WHERE relnamespace = 'pgjobs'::regnamespace AND relkind IN ('r', 'p')});
my $turn = q{SELECT pgjobs._keep_history(now() + '40 days') > 0, pgjobs._rotate_receipts(now() + '30 minutes')};
my $files = q{SELECT string_agg(pg_relation_filenode(oid)::text, ' ' ORDER BY relname) FROM pg_class WHERE relname ~ '^receipt_[012]$'};
my $receipts;
holds('every table',
    sub {
        $session->query_safe("BEGIN; $everything");
        $receipts = run($files);
        is(run("$turn; $files"), "f|\n$receipts", 'every table: what has been finished stays');
    },
    sub {
        $session->query_safe('COMMIT');
        ok($node->poll_query_until('postgres', $turn, 't|'), 'every table: afterwards the history goes');
        ok(wait_until(sub { run($turn); return run($files) ne $receipts }), 'every table: and the receipts');
    });

# One that has read it by read(), or keeps a cursor, has nothing in his hands.
$session->query_safe(q{BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM pgjobs.read('t', 0); FETCH 1 FROM c});
my $from = run($newest);
ok($node->poll_query_until('postgres', "SELECT min(id) > $from FROM pgjobs.segment"), 'the transaction of a reader keeps no segment');
is($session->query_safe(q{MOVE 1000 FROM c; SELECT payload FROM pgjobs.read('t', 0) LIMIT 1}), '"message"', 'and goes on');
$session->query_safe('COMMIT');

# An open publisher keeps what comes after him.
$session->query_safe(q{BEGIN; SELECT pgjobs.publish('t', '"open"')});
$from = run($newest);
ok($node->poll_query_until('postgres', "SELECT max(id) > $from + 5 FROM pgjobs.segment"), 'an open publisher: segments come');
is(run("SELECT count(*) FROM pgjobs.segment WHERE id IN ($from, $from + 1)"), 2, 'and stay');
$session->query_safe('COMMIT');
ok($node->poll_query_until('postgres', "SELECT min(id) > $from + 1 FROM pgjobs.segment"), 'afterwards they go');
run('UPDATE flags SET done = true');
for (@scripts) {
    $_->[0]->finish;
    is(slurp_file($_->[1]), '', 'no error');
}
ok($node->poll_query_until('postgres', q{SELECT lag_messages = 0 FROM pgjobs.subscriptions WHERE queue = 'fed'}), 'the queue has its jobs');
is(run(q{SELECT count(*) = count(DISTINCT headers #>> '{message,position}') AND count(*) FILTER (WHERE payload = '"open"') = 1 FROM pgjobs.jobs WHERE queue = 'fed'}), 't', 'each once');
is(run(q{SELECT count(*) = (SELECT count(*) + 1 FROM calls WHERE what = 'publish') FROM pgjobs.jobs WHERE queue = 'fed'}), 't', 'all of them');

# ---- what is there is not more than what is listed ----

ok($node->poll_query_until('postgres', q{SELECT count(*) <= 2 FROM pgjobs.segment}), 'a topic at rest comes down to its newest segment');
is(run(q{SELECT count(*) FROM pg_class c WHERE relnamespace = 'pgjobs'::regnamespace AND relkind = 'r' AND relname ~ '^log_' AND NOT EXISTS (SELECT FROM pgjobs.segment s WHERE c.relname = 'log_' || s.id)}), 0, 'no table is left behind');

# ---- a long snapshot ----

run(q{
    SELECT pgjobs.create_topic('long'), pgjobs.subscribe('s', 'long');
    SELECT pgjobs.publish_many('long', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 20000) n));
    CREATE PROCEDURE take(turns integer) LANGUAGE plpgsql AS $$
    DECLARE
        m record;
    BEGIN
        FOR n IN 1 .. turns LOOP
            SELECT * INTO m FROM pgjobs.receive('s', 1);
            COMMIT;
            PERFORM pgjobs.ack('s', m.token, m.position);
            COMMIT;
        END LOOP;
    END $$;
    CREATE FUNCTION buffers(call text) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        plan json;
    BEGIN
        EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || call INTO plan;
        RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
    END $$;
});
my $measure = q{SELECT buffers('SELECT * FROM pgjobs.receive(''s'', 1, ''1 millisecond'')')};
run('CALL take(100)');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgjobs.topic');
my $before = run($measure);
run(q{CALL pgjobs.wait_message('s', '10 seconds')});
run('CALL take(4000)');
my $after = run($measure);
note("buffers of receive before: $before, after 4000 under a snapshot: $after");
cmp_ok($after, '<', $before + 60, 'a receive looks at as few buffers as before');
$session->quit;
$node->stop;

done_testing();

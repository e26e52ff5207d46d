# The server is killed again and again while everybody publishes and reads: what was acknowledged is there,
# no position ever means two messages, and queues and subscribers get each message once.
# PGJOBS_CRASHES gives the number of crashes with each way to commit.
# allow-log: (?:server process|client backend) \(PID \d+\) was terminated by signal 9
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Pgjobs;

my $crashes = $ENV{PGJOBS_CRASHES} // 3;
my $node = new_server('crash', conf => "wal_writer_delay = 10s\nwal_writer_flush_after = 1GB\nlog_statement = none\nautovacuum_naptime = 1s");
sub run { return $node->safe_psql('postgres', "SET enable_nestloop = off;\n$_[0]") }
run(q{
    SELECT pgjobs.create_topic('t'), pgjobs.create_topic('events');
    SELECT pgjobs.create_queue('fed', retention => '1 day'), pgjobs.create_queue('idle', events_topic => 'events');
    SELECT pgjobs.subscribe_queue('fed', 't'), pgjobs.subscribe_queue('idle', 't');
    SELECT pgjobs.subscribe('s', 't');
    CREATE TABLE effects (position bigint, payload jsonb);
    CREATE PROCEDURE watch(place bigint) LANGUAGE plpgsql AS $$
    DECLARE
        m record;
    BEGIN
        LOOP
            FOR m IN SELECT * FROM pgjobs.read('t', place, 100) LOOP
                RAISE NOTICE 'seen % %', m.position, m.payload;
                place := m.position;
            END LOOP;
            COMMIT;
            PERFORM pg_sleep(0.001);
        END LOOP;
    END $$;
    CREATE PROCEDURE receive() LANGUAGE plpgsql AS $$
    DECLARE
        ready boolean;
        r record;
    BEGIN
        LOOP
            WITH m AS MATERIALIZED (SELECT * FROM pgjobs.receive('s', 20, '100 milliseconds')), e AS (INSERT INTO effects SELECT position, payload FROM m)
            SELECT max(token) AS token, max(position) AS position INTO r FROM m;
            IF r.token IS NOT NULL THEN PERFORM pgjobs.ack('s', r.token, r.position); END IF;
            COMMIT;
            CALL pgjobs.wait_message('s', '100 milliseconds', ready);
        END LOOP;
    END $$;
    CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
    DECLARE
        ready boolean;
    BEGIN
        LOOP
            PERFORM pgjobs.complete(id, token) FROM pgjobs.claim('fed', 5, lease => '1 second');
            COMMIT;
            CALL pgjobs.wait('fed', '100 milliseconds', ready);
        END LOOP;
    END $$;
});

# Positions and messages that somebody has seen, and what is to be there in the end.
my (%seen, %acknowledged);
my ($lost, $other) = (0, 0);
sub note_position {
    my ($position, $payload) = @_;
    $payload =~ s/ //g;
    if (defined $seen{$position} && $seen{$position} ne $payload) {
        diag("position $position: $seen{$position}, then $payload");
        $other++;
    }
    $seen{$position} = $payload;
    return;
}

# Kills the server, or one of its processes, and starts it again.
sub crash {
    my ($how) = @_;
    my $pid = $node->{_pid};
    if ($how eq 'backend') {
        my ($victim) = split /\n/, run(q{SELECT pid FROM pg_stat_activity WHERE query LIKE '%publish%' AND pid <> pg_backend_pid() LIMIT 1});
        kill 'KILL', $victim;
        wait_until(sub { !kill(0, $pid) }) or fail('the server goes down'); # restart_after_crash is off
    } else {
        my @children = split /\n/, `pgrep -P $pid`;
        kill 'KILL', $pid;
        kill 'KILL', $_ for $how eq 'all' ? @children : ();
    }
    wait_until(sub { !kill(0, $pid) }) or fail('the server is gone');
    # Its processes leave when they notice.
    wait_until(sub { $node->{_pid} = undef; $node->start(fail_ok => 1) }) or fail('the server starts');
    return;
}

my $round = 0;
my $place = 0;
for my $commit (('on') x $crashes, ('off') x $crashes) {
    $round++;
    my $set = "SET synchronous_commit = $commit;\n";
    my @writers = map {
        my $w = $_;
        [ start_script($node, 'postgres', $set . join '', map {
            $_ % 5 == 0 ? "DO \$\$ BEGIN PERFORM pgjobs.publish('t', '[$round,$w,$_,1]'); PERFORM pgjobs.enqueue('idle'); PERFORM pgjobs.publish('t', '[$round,$w,$_,2]'); " . ($_ % 2 ? '' : 'PERFORM 1 / 0; ') . "END \$\$;\n"
            : "SELECT 'acknowledged ' || pgjobs.publish('t', '[$round,$w,$_]') || ' [$round,$w,$_]';\n" } 1 .. 20000) ]
    } 1 .. 3;
    my @watchers = map { [ start_script($node, 'postgres', "CALL watch($place)") ] } 1 .. 2;
    my @others = map { [ start_script($node, 'postgres', $set . $_) ] } 'CALL receive()', 'CALL work()', 'CALL work()';
    my $before = run(q{SELECT count(*) FROM effects});
    ok($node->poll_query_until('postgres', "SELECT count(*) > $before + 1000 FROM effects"), "round $round ($commit): everything flows");
    if ($round % 2 == 0) { # the worker alone, in the middle of delivery
        my ($worker) = workers($node, 'postgres');
        run("SELECT pg_terminate_backend($worker)") if $worker;
        ok(wait_for_worker($node, 'postgres', not => $worker // 0), 'another worker comes');
        $before = run(q{SELECT count(*) FROM effects});
        ok($node->poll_query_until('postgres', "SELECT count(*) > $before + 500 FROM effects"), 'and goes on');
    }
    crash((qw(all postmaster backend))[$round % 3]);
    $_->[0]->finish for @writers, @watchers, @others;

    my %now = map { split /\|/ } split /\n/, run(q{SELECT position, replace(payload::text, ' ', '') FROM pgjobs.log WHERE segment = 1 ORDER BY position});
    for my $script (@writers) {
        for (split /\n/, slurp_file($script->[2])) {
            next unless /^acknowledged (\d+) (\[.*\])$/;
            note_position($1, $2);
            if ($commit eq 'on') { $acknowledged{$1} = $2 }
            elsif (!exists $now{$1}) { $lost++ }
        }
    }
    my $watched = 0;
    for my $script (@watchers) {
        my $last = 0;
        for (split /\n/, slurp_file($script->[1])) {
            next unless /seen (\d+) (\[.*\])$/;
            note_position($1, $2);
            $watched++;
            $other++ if $1 <= $last;
            $last = $1;
        }
    }
    cmp_ok($watched, '>', 500, 'watchers saw much');
    note_position($_, $now{$_}) for keys %now;
    my @missing = grep { !defined $now{$_} || $now{$_} ne $acknowledged{$_} } keys %acknowledged;
    is(scalar @missing, 0, 'what was acknowledged is there');
    is($other, 0, 'no position meant two messages');
    $place = run(q{SELECT max(position) FROM pgjobs.read('t', 0, 10000)}) // 0;
    my $most = (sort { $b <=> $a } keys %seen)[0];
    my $new = run(qq{SELECT pgjobs.publish('t', '[$round,0,0]')});
    cmp_ok($new, '>', $most, 'new positions are above all that were seen');
    note_position($new, "[$round,0,0]");
}
note("$lost messages that were acknowledged without a flush were lost");
cmp_ok($lost, '>', 0, 'crashes lose what was not flushed: the test can see something');
cmp_ok(scalar keys %acknowledged, '>', 1000, 'much was acknowledged');

# ---- in the end each message was received once, and is one job ----

run(q{WITH m AS MATERIALIZED (SELECT * FROM pgjobs.receive('s', 10000)), e AS (INSERT INTO effects SELECT position, payload FROM m) SELECT pgjobs.ack('s', max(token), max(position)) FROM m HAVING count(*) > 0}) for 1 .. 3;
my $count = run('SELECT count(*) FROM pgjobs.log WHERE segment = 1');
is(run('SELECT count(*), count(DISTINCT position) FROM effects'), "$count|$count", 'received: as many as there are, each once');
is(run('SELECT count(*) FROM effects e JOIN pgjobs.log l ON l.segment = 1 AND l.position = e.position AND l.payload = e.payload'), $count, 'and the same');
ok($node->poll_query_until('postgres', q{SELECT bool_and(lag_messages = 0) FROM pgjobs.subscriptions WHERE queue IS NOT NULL}), 'delivered');
is(run(q{SELECT count(*), count(DISTINCT headers #>> '{message,position}') FROM pgjobs.jobs WHERE queue = 'fed'}), "$count|$count", 'jobs and history: one for each message');
is(run(q{SELECT count(*) FROM pgjobs.jobs j JOIN pgjobs.log l ON l.segment = 1 AND l.position = (j.headers #>> '{message,position}')::bigint AND l.payload = j.payload WHERE queue = 'fed'}), $count, 'of that message');
# Events and jobs are of one transaction.
is(run(q{SELECT count(*) FROM (SELECT id FROM pgjobs.jobs WHERE queue = 'idle') j FULL JOIN (SELECT (payload ->> 'job')::bigint AS id FROM pgjobs.log WHERE segment = 2) e USING (id) WHERE j.id IS NULL OR e.id IS NULL}), 0,
    'each job has its event, each event its job');
is(run(q{SELECT count(*) FROM (SELECT id FROM pgjobs.jobs WHERE queue = 'idle' AND headers IS NOT NULL) j}), $count, 'a queue with events of its own gets its jobs, too');
$node->stop;

done_testing();

# What comes back after signals, crashes and restarts, and what a restart must not lose.
#
# Signals are sent to processes of ours on purpose:
# allow-log: was terminated by signal 9: Killed
# allow-log: WARNING:  terminating connection because of crash of another server process
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $node = new_server('main', conf => 'restart_after_crash = on');
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue(q) FROM unnest(ARRAY['q', 'hold', 'lease', 'two_phase']) q;
    SELECT pgjobs.enqueue('q', '"first"');
});

# ---- signals ----

my %process = (
    'pgjobs worker' => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs worker' AND datname = 'postgres'},
    'pgjobs launcher' => q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs launcher'},
);

# Waits until there is exactly one such process; more than one at any time is a failure.
my $twins = 0;
sub the_one {
    my ($what, $not) = @_;
    my $pid;
    my $found = wait_until(sub {
        my ($code, $out) = $node->psql('template1', $process{$what});
        return 0 if $code != 0;
        my @pids = split /\n/, $out;
        $twins++ if @pids > 1;
        $pid = $pids[0];
        return @pids == 1 && $pid != ($not // 0);
    }, 30);
    return $found ? $pid : undef;
}

# A job that is due soon is made ready: the whole chain works.
sub works {
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    wait_until(sub { $node->psql('postgres', 'SELECT 1') == 0 }, 30);
    my $seconds = timed(sub {
        my $ready = $node->safe_psql('postgres', q{
            SELECT pgjobs.enqueue('q', delay => '100 ms');
            CALL pgjobs.wait('q', '20 seconds');
            SELECT count(*) FROM (SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q')) x;
        });
        like($ready, qr/\nt\n1\z/, "$what: a job that becomes due is ready");
    });
    note(sprintf '%s: ready after %.0f ms', $what, 1000 * $seconds);
    return;
}

# First the job that is ready from the start.
$node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q')});
works('start');

for my $what (sort keys %process) {
    for my $signal (qw(TERM INT)) {
        for my $round (1 .. 3) {
            my $pid = the_one($what);
            $node->safe_psql('postgres', $signal eq 'TERM' ? "SELECT pg_terminate_backend($pid)" : "SELECT pg_cancel_backend($pid)");
            # Who is terminated is replaced when there is something to do.
            works("$what after SIG$signal, round $round");
            my $back = the_one($what, $signal eq 'TERM' ? $pid : 0);
            ok($back, "$what after SIG$signal, round $round");
            is($back, $pid, "$what survives a cancel") if $signal eq 'INT';
        }
    }
}

# A worker that is terminated in the middle of its work, when no client does anything that could tell the
# next one.
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('many');
    SELECT count(pgjobs.enqueue('many', delay => n * interval '100 us')) FROM generate_series(1, 20000) n;
});
my $end = time + 2;
my $terminated = 0;
while (time < $end) {
    my ($pid) = workers($node, 'postgres');
    $terminated += kill 'TERM', $pid if $pid;
    Time::HiRes::usleep(rand(30_000)); # at any moment of its work: that is the point
}
ok($node->poll_query_until('postgres', q{SELECT ready = 20000 FROM pgjobs.queues WHERE name = 'many'}),
    "a worker terminated $terminated times forgets nothing");
$node->safe_psql('postgres', q{SELECT pgjobs.drop_queue('many', true)});

# A crash of one of ours restarts the server, as of any process.
for my $what (sort keys %process) {
    for my $signal (qw(QUIT KILL)) {
        my $pid = the_one($what);
        my $offset = -s $node->logfile;
        kill $signal, $pid;
        $node->wait_for_log(qr/database system is ready to accept connections/, $offset);
        ok(the_one('pgjobs launcher'), "launcher after SIG$signal to $what");
        works("$what after SIG$signal");
        ok(the_one('pgjobs worker'), "worker after SIG$signal to $what");
    }
}

# ---- what sessions held ----

for my $how ('kill -9 of a backend', 'immediate restart', 'fast restart') {
    my $holder = session($node);
    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('hold'), pgjobs.enqueue('lease', '"long"'), pgjobs.enqueue('lease', '"short"', priority => 1)});
    is($holder->query(q{SELECT count(*) FROM pgjobs.claim('hold', hold => true)}), 1, 'a session holds a job');
    # Claims by themselves may be lost in a crash; this one must not.
    $node->safe_psql('postgres', q{
        BEGIN;
        SELECT count(*) FROM pgjobs.claim('lease', lease => '10 minutes');
        SELECT count(*) FROM pgjobs.claim('lease', lease => '1 second');
        CREATE TABLE durable ();
        DROP TABLE durable;
        COMMIT;
    });
    my $offset = -s $node->logfile;
    if ($how =~ /kill/) {
        my ($pid) = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query ~ 'hold => true' AND pid <> pg_backend_pid()});
        kill 'KILL', $pid;
        $node->wait_for_log(qr/database system is ready to accept connections/, $offset);
        wait_until(sub { $node->psql('postgres', 'SELECT 1') == 0 }, 30);
    } else {
        $node->stop($how =~ /(\w+)/);
        $node->start;
    }
    eval { $holder->{run}->kill_kill };
    ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE queue = 'hold' AND state = 'running'}),
        "$how: what a session held is void");
    ok($node->poll_query_until('postgres', q{SELECT state = 'ready' FROM pgjobs.jobs WHERE queue = 'lease' AND payload = '"short"' AND finished_at IS NULL}),
        "$how: a lease that ends is reaped");
    is($node->safe_psql('postgres', q{SELECT state FROM pgjobs.jobs WHERE queue = 'lease' AND payload = '"long"' AND finished_at IS NULL}),
        'running', "$how: a lease that does not end is kept");
    is($node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token) FROM pgjobs.job WHERE payload = '"long"'}),
        'completed', "$how: and its token is good");
    $node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('hold'), pgjobs.purge_queue('lease')});
    works($how);
}

# Waiting clients see a fast restart as a closed connection, not as an answer.
my $waiter = session($node);
start_sql($waiter, q{CALL pgjobs.wait('q', '30 seconds')});
wait_until_waiting($node, 'postgres', 1);
$node->restart;
eval { $waiter->{run}->kill_kill };
works('restart with a waiter');

# ---- prepared transactions ----

is_state($node, 'postgres', q{SELECT pgjobs.enqueue('hold'); BEGIN; SELECT count(*) FROM pgjobs.claim('hold', hold => true); PREPARE TRANSACTION 'no'},
    '0A000', 'a transaction with a session lease cannot be prepared');

# How a change that was prepared is seen by those who wait for it: with and without a restart between.
sub two_phase {
    my ($name, $prepare, $verb, $wait, $expected, $restart) = @_;
    my $what = "$name, $verb" . ($restart ? ' after a restart' : '');
    $node->safe_psql('postgres', "BEGIN; $prepare; PREPARE TRANSACTION 'x'");
    if ($restart) {
        $node->stop('immediate');
        $node->start;
    }
    my $session = session($node);
    start_sql($session, "$wait; SELECT 'at ' || extract(epoch FROM clock_timestamp())");
    wait_until_waiting($node, 'postgres', 1);
    my $begin = time;
    $node->safe_psql('postgres', "$verb PREPARED 'x'");
    my $result = result_of($session);
    like($result, $expected, "$what: told");
    my ($at) = $result =~ /^at ([\d.]+)$/m;
    note(sprintf '%s: told after %.1f ms', $what, 1000 * ($at - $begin)) if $at;
    cmp_ok(($at // 1e12) - $begin, '<=', 3, "$what: soon");
    $session->quit;
    return;
}
my $take = q{SELECT count(*) FROM (SELECT pgjobs.complete(id, token) FROM pgjobs.claim('two_phase', 10)) x};
for my $restart (0, 1) {
    two_phase('enqueue', q{SELECT pgjobs.enqueue('two_phase')}, 'COMMIT',
        q{CALL pgjobs.wait('two_phase', '20 seconds')}, qr/^t$/m, $restart);
    is($node->safe_psql('postgres', $take), 1, 'the job is there');

    two_phase('delayed enqueue', q{SELECT pgjobs.enqueue('two_phase', delay => '1 millisecond')}, 'COMMIT',
        q{CALL pgjobs.wait('two_phase', '20 seconds')}, qr/^t$/m, $restart);
    is($node->safe_psql('postgres', $take), 1, 'the job is there');

    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    two_phase('claim', q{SELECT count(*) FROM pgjobs.claim('two_phase')}, 'ROLLBACK',
        q{CALL pgjobs.wait('two_phase', '20 seconds')}, qr/^t$/m, $restart);

    two_phase('claim', q{SELECT count(*) FROM pgjobs.claim('two_phase', lease => '10 ms')}, 'COMMIT',
        q{CALL pgjobs.wait('two_phase', '20 seconds')}, qr/^t$/m, $restart);
    is($node->safe_psql('postgres', q{SELECT attempt, state FROM pgjobs.jobs WHERE queue = 'two_phase' AND finished_at IS NULL}),
        '1|ready', 'the lease of a prepared claim is reaped');
    $node->safe_psql('postgres', $take);

    my $id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    two_phase('complete', q{SELECT pgjobs.complete(id, token, '"done"') FROM pgjobs.claim('two_phase')}, 'COMMIT',
        qq{CALL pgjobs.await($id, '20 seconds')}, qr/^completed\|"done"$/m, $restart);

    $id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    two_phase('fail', q{SELECT pgjobs.fail(id, token, 'broken', retry => false) FROM pgjobs.claim('two_phase')}, 'COMMIT',
        qq{CALL pgjobs.await($id, '20 seconds')}, qr/^dead\|/m, $restart);
    is($node->safe_psql('postgres', "SELECT error FROM pgjobs.jobs WHERE id = $id"), 'broken', 'with its error');

    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    two_phase('fail with another attempt', q{SELECT pgjobs.fail(id, token, 'again', retry_in => '1 ms') FROM pgjobs.claim('two_phase')}, 'COMMIT',
        q{CALL pgjobs.wait('two_phase', '20 seconds')}, qr/^t$/m, $restart);
    is($node->safe_psql('postgres', $take), 1, 'the job is there');

    $id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    two_phase('cancel', "SELECT pgjobs.cancel($id)", 'COMMIT', qq{CALL pgjobs.await($id, '20 seconds')}, qr/^cancelled\|/m, $restart);
    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    two_phase('cancel', q{SELECT pgjobs.cancel(id) FROM pgjobs.job WHERE queue_id = (SELECT id FROM pgjobs.queue WHERE name = 'two_phase')}, 'ROLLBACK',
        q{CALL pgjobs.wait('two_phase', '20 seconds')}, qr/^t$/m, $restart);
    is($node->safe_psql('postgres', $take), 1, 'the job is there');

    # A running job whose completion is rolled back stays its worker's.
    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('two_phase')});
    my ($job, $token) = split /\|/, $node->safe_psql('postgres',
        q{BEGIN; CREATE TEMP TABLE t AS SELECT id, token FROM pgjobs.claim('two_phase'); SELECT id, token FROM t; COMMIT});
    $node->safe_psql('postgres', qq{BEGIN; SELECT pgjobs.complete($job, $token); PREPARE TRANSACTION 'y'});
    $node->restart if $restart;
    $node->safe_psql('postgres', q{ROLLBACK PREPARED 'y'});
    is($node->safe_psql('postgres', qq{SELECT pgjobs.complete($job, $token)}), 'completed', 'a rolled-back completion can be repeated');
}

# A long prepared claim: nothing else suffers, and later its lease is reaped.
$node->safe_psql('postgres', q{
    SELECT pgjobs.enqueue('two_phase');
    BEGIN;
    SELECT count(*) FROM pgjobs.claim('two_phase', lease => '500 ms');
    PREPARE TRANSACTION 'long';
});
works('beside a prepared claim');
$node->restart;
works('beside a prepared claim after a restart');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim('two_phase')}), 0, 'nobody else gets the job');
$node->safe_psql('postgres', q{COMMIT PREPARED 'long'});
ok($node->poll_query_until('postgres', q{SELECT state = 'ready' FROM pgjobs.jobs WHERE queue = 'two_phase' AND finished_at IS NULL}), 'reaped at last');

is($twins, 0, 'never two of a kind');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'q' AND state <> 'completed'}), 0, 'no job is lost');
$node->stop;
done_testing();

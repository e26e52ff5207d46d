# CALL wait and CALL await: they wake at once, strand nobody, hold nothing, and cost nothing while idle.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

# ---- idle, while the other tests run on another server ----

# Every transaction of any process is in its log; autovacuum's are not ours.
my $quiet = new_server('quiet', conf => "autovacuum = off\nlog_min_messages = debug5");
$quiet->safe_psql('postgres', q{SELECT pgjobs.create_queue('q'); SELECT pgjobs.create_queue('other')});
my @sleepers = map { session($quiet) } 1 .. 16;
start_sql($_, q{CALL pgjobs.wait('q', '15 minutes')}) for @sleepers;
wait_until_waiting($quiet, 'postgres', 16);
# The worker comes, does something, and stays as long as there are waiters.
$quiet->safe_psql('postgres', q{SELECT pgjobs.enqueue('other', delay => '20 ms')});
$quiet->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'other' AND state = 'ready'});
my $worker = wait_for_worker($quiet, 'postgres');

sub transactions {
    my ($offset) = @_;
    return scalar(() = log_since($quiet, $offset) =~ /DEBUG:  StartTransaction\(1\)/g);
}
my ($before, $unchanged) = (-1, 0);
wait_until(sub { # that nothing is under way any more
    my $now = transactions(0);
    $unchanged = $now == $before ? $unchanged + 1 : 0;
    $before = $now;
    return $unchanged == 20;
});
cmp_ok($before, '>', 50, 'the log tells of transactions');
my $quiet_since = time;
my $quiet_from = -s $quiet->logfile;

# ---- the other server ----

my $node = new_server('main');
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue(q) FROM unnest(ARRAY['q', 'other', 'empty']) q;
    SELECT pgjobs.create_queue('staged', ARRAY['one', 'two']);
});

sub await_result {
    my ($sql) = @_;
    my $waiter = session($node);
    start_sql($waiter, $sql);
    wait_until_waiting($node, 'postgres', 1) or fail('does not wait');
    return $waiter;
}

# What happens to a waiter when something is done: its result, and after how many ms.
sub wakes {
    my ($call, $action, $expected, $name) = @_;
    my $waiter = await_result("$call\n;SELECT 'at ' || extract(epoch FROM clock_timestamp())");
    my $begin = time;
    $node->safe_psql('postgres', $action);
    my $result = result_of($waiter);
    $waiter->quit;
    my ($at) = $result =~ /^at ([\d.]+)$/m;
    like($result, $expected, $name);
    note(sprintf '%s: %.1f ms after the client was started', $name, 1000 * ($at - $begin)) if $at;
    cmp_ok(($at // 0) - $begin, '<=', 3, "$name: at once");
    return;
}
my $all = q{SELECT count(*) FROM (SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q', 100)) x};

# ---- how fast ----

# From the producer's view of the clock, in its transaction, to the worker's, after it was woken.
my $consumer = session($node);
my $producer = session($node);
my @late;
for (1 .. 50) {
    start_sql($consumer, q{CALL pgjobs.wait('q', '20 seconds'); SELECT 'at ' || extract(epoch FROM clock_timestamp()) FROM pgjobs.claim('q')});
    wait_until_waiting($node, 'postgres', 1);
    my ($sent) = $producer->query(q{SELECT 'at ' || extract(epoch FROM clock_timestamp()) FROM pgjobs.enqueue('q')}) =~ /([\d.]+)$/;
    my ($at) = result_of($consumer) =~ /^at ([\d.]+)$/m;
    push @late, 1000 * (($at // 1e12) - $sent);
}
my ($median) = figures('from the enqueue to a claim by the client that was woken', @late);
cmp_ok($median, '<=', 50, 'woken at once');
$node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('q')});

# ---- answers ----

is($node->safe_psql('postgres', q{CALL pgjobs.wait('q', '0')}), 'f', 'no time: no');
is($node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q') > 0; CALL pgjobs.wait('q', '0')}), "t\nt", 'there is something already');
$node->safe_psql('postgres', $all);
my $took = timed(sub { is($node->safe_psql('postgres', q{CALL pgjobs.wait('q', '300 ms')}), 'f', 'the time is over') });
cmp_ok($took, '>=', 0.3, 'not before');
cmp_ok($took, '<=', 2, 'nor long after');
is_state($node, 'postgres', q{CALL pgjobs.wait('nothing', '1 second')}, '42704', 'no such queue');
is_state($node, 'postgres', q{CALL pgjobs.wait('staged', '1 second', stage => 'three')}, '42704', 'no such stage');
is_state($node, 'postgres', q{BEGIN; CALL pgjobs.wait('q', '1 second')}, '25001', 'in a transaction block');
is_state($node, 'postgres', q{BEGIN; CALL pgjobs.await(1, '1 second')}, '25001', 'await in a transaction block');
is_state($node, 'postgres', q{DO $$ DECLARE r boolean; BEGIN PERFORM pgjobs.enqueue('other'); CALL pgjobs.wait('q', '1 second', r); END $$}, '25001', 'after other work');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'other'}), 0, 'which was not committed');
is_state($node, 'postgres', q{DO $$ DECLARE r boolean; BEGIN CALL pgjobs.wait('q', '10 ms', r); IF r THEN RAISE 'ready'; END IF; END $$}, '00000', 'in a DO block that has written nothing');

# What a driver sends as a pipeline, with one Sync behind it, is a transaction without BEGIN. Its SQLSTATE.
sub pipeline {
    my ($first, $call) = @_;
    my $script = $node->basedir . '/pipeline';
    unlink $script;
    append_to_file($script, "\\startpipeline\n$first;\n$call;\n\\endpipeline\n");
    my $from = -s $node->logfile;
    my $done = run_log([ 'pgbench', '-n', '-M', 'extended', '-t', 1, '-f', $script, '-d', $node->connstr('postgres') ]);
    return $done ? '00000' : log_since($node, $from) =~ / (\w{5}) \S+ ERROR: / ? $1 : 'no answer';
}
$node->safe_psql('postgres', q{
    CREATE TABLE written (n integer);
    CREATE TABLE rows (id integer PRIMARY KEY, state text);
    SELECT pgjobs.attach_table('rows', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}]');
    SELECT pgjobs.create_topic('t'), pgjobs.subscribe('s', 't');
});
my $open_job = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('other', delay => '1 hour')});
for my $call (q{pgjobs.wait('q', '0')}, "pgjobs.await($open_job, '0')", q{pgjobs.wait_row('rows', 's', '0')}, q{pgjobs.wait_message('s', '0')}) {
    is(pipeline('SELECT 1', "CALL $call"), '00000', "$call in a pipeline that has only read");
    is(pipeline('INSERT INTO written VALUES (9)', "CALL $call"), '25001', "$call in a pipeline that has written");
    is($node->safe_psql('postgres', 'SELECT count(*) FROM written'), 0, 'which was not committed');
}
$node->safe_psql('postgres', "SELECT pgjobs.cancel($open_job)");

wakes(q{CALL pgjobs.wait('q', '20 seconds')}, q{SELECT pgjobs.enqueue('q')}, qr/^t$/m, 'enqueue wakes');
$node->safe_psql('postgres', $all);
wakes(q{CALL pgjobs.wait('q', '20 seconds')}, q{SELECT pgjobs.enqueue('q', delay => '100 ms')}, qr/^t$/m, 'a delayed job wakes');
is($node->safe_psql('postgres', $all), 1, 'the job is there');
wakes(q{CALL pgjobs.wait('q', '700 ms')}, q{SELECT pgjobs.enqueue('other'); BEGIN; SELECT pgjobs.enqueue('q'); ROLLBACK}, qr/^f$/m, 'other queues and what is rolled back do not');

# Everything that makes a job ready.
my $id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', unique_key => 'k')});
my ($token) = $node->safe_psql('postgres', q{SELECT token FROM pgjobs.claim('q')});
for my $case (
    [ 'release', "SELECT pgjobs.release($id, $token)" ],
    [ 'fail', "SELECT pgjobs.fail($id, (SELECT token FROM pgjobs.job WHERE id = $id), 'x', retry_in => '0')" ],
    [ 'snooze', "SELECT pgjobs.snooze($id, (SELECT token FROM pgjobs.job WHERE id = $id), '10 ms')" ],
    [ 'retry', "SELECT pgjobs.cancel($id), pgjobs.retry($id)" ],
    [ 'retry of a dead one', "SELECT pgjobs.fail($id, (SELECT token FROM pgjobs.job WHERE id = $id), 'x', retry => false); SELECT pgjobs.redrive('q')" ])
{
    wakes(q{CALL pgjobs.wait('q', '20 seconds')}, $case->[1], qr/^t$/m, "$case->[0] wakes");
    $node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim('q')});
}
$node->safe_psql('postgres', "SELECT pgjobs.cancel($id)");
$id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', delay => '1 hour')});
wakes(q{CALL pgjobs.wait('q', '20 seconds')}, "SELECT pgjobs.reschedule($id, now())", qr/^t$/m, 'reschedule wakes');
$node->safe_psql('postgres', $all);
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q'); SELECT pgjobs.pause_queue('q')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim('q')}), 0, 'a paused queue hands out nothing');
wakes(q{CALL pgjobs.wait('q', '20 seconds')}, q{SELECT pgjobs.resume_queue('q')}, qr/^t$/m, 'the end of a pause wakes');
$node->safe_psql('postgres', $all);
# What a transaction had claimed is free again when it rolls back.
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
$producer->query_safe(q{BEGIN; SELECT count(*) FROM pgjobs.claim('q')});
my $third = await_result(q{CALL pgjobs.wait('q', '5 seconds')});
$took = timed(sub { $producer->query_safe('ROLLBACK'); result_of($third) });
note(sprintf 'told %.0f ms after the rollback of a claim', 1000 * $took);
cmp_ok($took, '<=', 1, 'a claim that is rolled back wakes');
$third->quit;
$node->safe_psql('postgres', $all);

# Stages.
wakes(q{CALL pgjobs.wait('staged', '600 ms', stage => 'two')}, q{SELECT pgjobs.enqueue('staged')}, qr/^f$/m, 'another stage does not wake');
wakes(q{CALL pgjobs.wait('staged', '20 seconds', stage => 'two')}, q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('staged')}, qr/^t$/m, 'the next stage does');
wakes(q{CALL pgjobs.wait('staged', '600 ms', stage => 'one')}, q{SELECT pgjobs.enqueue('staged', stage => 'two')}, qr/^f$/m, 'a later stage does not wake the first');
$node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('staged')});
my @both = map { await_result("CALL pgjobs.wait('staged', '20 seconds', stage => '$_')") } qw(one two);
wait_until_waiting($node, 'postgres', 2);
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('staged', stage => 'two')});
is(result_of($both[1]), 't', 'the right one of two is woken');
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('staged')});
is(result_of($both[0]), 't', 'and then the other');
$_->quit for @both;

# The end of a queue, also while it is paused.
wakes(q{CALL pgjobs.wait('empty', '20 seconds')}, q{SELECT pgjobs.pause_queue('empty'), pgjobs.drop_queue('empty')}, qr/ERROR:  42704:/, 'a dropped queue ends the wait');

# ---- many, and some that are gone ----

my @waiters = map { session($node) } 1 .. 8;
start_sql($_, q{CALL pgjobs.wait('q', '20 seconds'); SELECT count(*) FROM pgjobs.claim('q')}) for @waiters;
wait_until_waiting($node, 'postgres', 8);
$took = timed(sub {
    $node->safe_psql('postgres', q{SELECT cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[8])))});
    is(result_of($_), "t\n1", 'one of eight') for @waiters;
});
note(sprintf 'eight jobs, eight waiters: %.0f ms', 1000 * $took);
cmp_ok($took, '<=', 3, 'at once');

# A waiter that is told and then does not take the job: the next one is, soon.
for my $n (0 .. 3) {
    start_sql($waiters[$n], q{CALL pgjobs.wait('q', '20 seconds'); SELECT 'at ' || extract(epoch FROM clock_timestamp())});
    wait_until_waiting($node, 'postgres', $n + 1);
}
my $begin = time;
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
for my $n (0 .. 3) {
    my ($at) = result_of($waiters[$n]) =~ /^at ([\d.]+)$/m;
    note(sprintf 'waiter %d of one job that nobody takes: told after %.0f ms', $n + 1, 1000 * (($at // 1e9) - $begin));
    cmp_ok(($at // 1e9) - $begin, '<=', 1, 'told');
}
$node->safe_psql('postgres', $all);

# The same with clients that are killed while they sleep, cancelled or terminated, when the job comes.
for my $how ('kill', 'pg_cancel_backend', 'pg_terminate_backend', 'both at once') {
    my @gone = map { session($node) } 1 .. 3;
    for my $n (0 .. $#gone) {
        start_sql($gone[$n], q{CALL pgjobs.wait('q', '20 seconds')});
        wait_until_waiting($node, 'postgres', $n + 1);
    }
    start_sql($consumer, q{CALL pgjobs.wait('q', '20 seconds'); SELECT count(*) FROM pgjobs.claim('q')});
    wait_until_waiting($node, 'postgres', 4);
    my $others = q{FROM pg_stat_activity WHERE query = $q$CALL pgjobs.wait('q', '20 seconds')$q$ AND state = 'active' AND pid <> pg_backend_pid() AND pid <> }
      . $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query ~ 'CALL pgjobs.wait' AND state = 'active' AND pid <> pg_backend_pid() ORDER BY query_start DESC LIMIT 1});
    my $seconds = timed(sub {
        if ($how eq 'kill') { $_->{run}->signal('KILL') for @gone; $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')}) }
        elsif ($how eq 'both at once') { $node->safe_psql('postgres', "SELECT pgjobs.enqueue('q'), (SELECT count(pg_terminate_backend(pid)) $others)") }
        else { $node->safe_psql('postgres', "SELECT pgjobs.enqueue('q')"); $node->safe_psql('postgres', "SELECT $how(pid) $others") }
        is(result_of($consumer), "t\n1", "waiters gone by $how: the last one gets the job");
    });
    note(sprintf '%s: %.0f ms', $how, 1000 * $seconds);
    cmp_ok($seconds, '<=', 3, 'soon');
    eval { $_->{run}->kill_kill } for @gone;
}

# An end by statement_timeout, and the session lives.
start_sql($consumer, q{SET statement_timeout = '200 ms'; CALL pgjobs.wait('q', '20 seconds'); RESET statement_timeout; CALL pgjobs.wait('q', '10 ms')});
like(result_of($consumer), qr/^f\n.*ERROR:  57014:/, 'statement_timeout ends a wait, and the next one works');

# ---- what it holds: nothing ----

for my $isolation ('read committed', 'repeatable read', 'serializable') {
    my $waiter = await_result("SET default_transaction_isolation = '$isolation'; CALL pgjobs.wait('q', '20 seconds')");
    my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query ~ 'CALL pgjobs.wait' AND state = 'active' AND pid <> pg_backend_pid()});
    is($node->safe_psql('postgres', "SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = $pid"), 't', "$isolation: no snapshot, no xid");
    is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype <> 'virtualxid'"), 0, "$isolation: no lock");
    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
    is(result_of($waiter), 't', "$isolation: woken");
    start_sql($waiter, q{SELECT count(*) FROM (SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q')) x});
    is(result_of($waiter), 1, "$isolation: claimed");
    my $job = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
    start_sql($waiter, "CALL pgjobs.await($job, '20 seconds')");
    wait_until_waiting($node, 'postgres', 1);
    is($node->safe_psql('postgres', "SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = $pid"), 't', "$isolation: await holds no snapshot");
    $node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token, '{"a": 1}') FROM pgjobs.claim('q')});
    is(result_of($waiter), 'completed|{"a": 1}', "$isolation: await sees the end");
    $waiter->quit;
}

# ---- await ----

my $sleep = q{CALL pgjobs.await(%d, '20 seconds')};
for my $case (
    [ 'completed', qr/^completed\|"fine"$/m, q{SELECT pgjobs.complete(id, token, '"fine"') FROM pgjobs.claim('q')} ],
    [ 'dead', qr/^dead\|$/m, q{SELECT pgjobs.fail(id, token, 'no', retry => false) FROM pgjobs.claim('q')} ],
    [ 'cancelled', qr/^cancelled\|$/m, q{SELECT pgjobs.cancel(id) FROM pgjobs.jobs WHERE queue = 'q' AND state = 'ready'} ])
{
    my $job = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
    wakes(sprintf($sleep, $job), $case->[2], $case->[1], "await: $case->[0]");
    like($node->safe_psql('postgres', sprintf $sleep, $job), $case->[1], 'and again, when it is over');
}
my $big = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
wakes(sprintf($sleep, $big), q{SELECT pgjobs.complete(id, token, to_jsonb(repeat('x', 30000))) FROM pgjobs.claim('q')}, qr/^completed\|"x{30000}"$/m, 'await: a large result');
my $open = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', delay => '1 hour')});
is($node->safe_psql('postgres', "CALL pgjobs.await($open, '100 ms')"), 'scheduled|', 'await: the time is over');
is_state($node, 'postgres', q{CALL pgjobs.await(99999999, '1 second')}, '42704', 'await: no such job');
wakes(sprintf($sleep, $open), q{SELECT pgjobs.purge_queue('q')}, qr/ERROR:  42704:/, 'await: a purged job');

# ---- idle ----

# Longer than idle_exit, after which the worker would leave, and than any period of ours.
wait_until(sub { time > $quiet_since + 65 });
is(transactions($quiet_from), 0, 'sixteen waiters, more than a minute, no transaction');
is(join(' ', workers($quiet, 'postgres')), $worker, 'the worker is there');
$quiet->safe_psql('postgres', q{SELECT cardinality(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[16])))});
is(join('', map { result_of($_) } @sleepers), 't' x 16, 'and all are woken');
$_->quit for @sleepers, @waiters, $consumer, $producer;
$_->stop for $quiet, $node;

done_testing();

# wait_message wakes at once by whatever lets a reader go on, holds nothing, strands nobody; topics over a
# restart, with prepared publishers, and when their places run out.
# allow-log: no place is left in shared memory for topic
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $node = new_server('main', conf => 'pgjobs.max_topics = 8');
$node->safe_psql('postgres', q{SELECT pgjobs.create_topic('t'), pgjobs.create_topic('other'), pgjobs.subscribe('s', 't'), pgjobs.subscribe('o', 'other')});

sub run { return $node->safe_psql('postgres', $_[0]) }
my $take = q{SELECT pgjobs.ack('s', token, position) FROM (SELECT max(token) AS token, max(position) AS position FROM pgjobs.receive('s')) r WHERE token IS NOT NULL};

sub waiter {
    my ($name, $timeout) = @_;
    my $session = session($node);
    start_sql($session, "CALL pgjobs.wait_message('$name', '" . ($timeout // '30 seconds') . "')\n;SELECT 'at ' || extract(epoch FROM clock_timestamp())");
    return $session;
}

# What happens to a waiter when something is done: its result, within `most` seconds.
sub wakes {
    my ($action, $expected, $name, $most) = @_;
    my $session = waiter('s');
    wait_until_waiting($node, 'postgres', 1) or fail('does not wait');
    my $begin = time;
    $action->();
    my $acted = time;
    my $result = result_of($session);
    $session->quit;
    my ($at) = $result =~ /^at ([\d.]+)$/m;
    like($result, $expected, $name);
    note(sprintf '%s: %.1f ms after the action began, %.1f ms after it ended', $name, 1000 * (($at // time) - $begin), 1000 * (($at // time) - $acted));
    cmp_ok(($at // time) - $acted, '<', $most // 0.5, "$name: at once");
    return;
}

# ---- what wakes ----

wakes(sub { run(q{SELECT pgjobs.publish('t', '1')}) }, qr/^t$/m, 'a commit');
run($take);
my ($one, $two, $reader) = map { session($node) } 1 .. 3;
# Who is in the way ends: by rollback, by a savepoint's, by commit.
for my $end ('ROLLBACK', 'ROLLBACK TO a', 'COMMIT') {
    $one->query_safe(q{BEGIN; SAVEPOINT a; SELECT pgjobs.publish('t', '"in the way"')});
    run(q{SELECT pgjobs.publish('t', '2')});
    wakes(sub { $one->query_safe($end) }, qr/^t$/m, "$end of who was in the way");
    $one->query_safe('COMMIT') if $end eq 'ROLLBACK TO a';
    run($take);
}
# One in the way goes, another is left.
$one->query_safe(q{BEGIN; SELECT pgjobs.publish('t', '1')});
$two->query_safe(q{BEGIN; SELECT pgjobs.publish('t', '2')});
my $session = waiter('s');
wait_until_waiting($node, 'postgres', 1);
$two->query_safe('COMMIT');
is(run(q{SELECT count(*) FROM pgjobs.receive('s')}), 0, 'nothing to receive before the other one ends');
is(run(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL pgjobs.wait_message%' AND state = 'active' AND wait_event = 'Extension'}), 1, 'and the waiter waits on');
$one->query_safe('COMMIT');
like(result_of($session), qr/^t$/m, 'then he is called');
$session->quit;
run($take);

# A reader has the subscription: his lease ends, he acknowledges, rolls back, is moved, or his session ends.
run(q{SELECT pgjobs.publish_many('t', '{1,2,3}')});
run(q{SELECT count(*) FROM pgjobs.receive('s', 1, '2 seconds')});
wakes(sub { }, qr/^t$/m, 'the end of a lease', 2.5);
my $lease = sub { return $reader->query_safe(q{SELECT token || ' ' || position FROM pgjobs.receive('s', 1, '1 hour')}) };
my ($token, $position) = split ' ', $lease->();
wakes(sub { run("SELECT pgjobs.ack('s', $token, $position)") }, qr/^t$/m, 'an acknowledgement');
$lease->();
wakes(sub { run(q{SELECT pgjobs.seek('s', 0)}) }, qr/^t$/m, 'a move');
for my $end ('ROLLBACK', 'COMMIT') {
    $reader->query_safe('BEGIN');
    ($token, $position) = split ' ', $lease->();
    $reader->query_safe("SELECT pgjobs.ack('s', $token, $position)");
    wakes(sub { $reader->query_safe($end) }, qr/^t$/m, "$end of a reader's transaction");
}
$reader->query_safe('BEGIN');
$lease->();
wakes(sub { $reader->quit }, qr/^t$/m, 'the end of a session in the middle');
# Gone: he is told.
run($take);
wakes(sub { run(q{SELECT pgjobs.unsubscribe('s')}) }, qr/42704/, 'unsubscribe');
run(q{SELECT pgjobs.subscribe('s', 't')});
wakes(sub { run(q{SELECT pgjobs.drop_topic('t')}) }, qr/42704/, 'drop_topic');
run(q{SELECT pgjobs.create_topic('t'), pgjobs.subscribe('s', 't')});
# Another topic's message wakes nobody.
$session = waiter('s');
wait_until_waiting($node, 'postgres', 1);
run(q{SELECT pgjobs.publish('other', '1')});
is(run(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL pgjobs.wait_message%' AND state = 'active' AND wait_event = 'Extension'}), 1, 'a message of another topic wakes nobody');
run(q{SELECT pgjobs.publish('t', '1')});
like(result_of($session), qr/^t$/m, 'its own does');
$session->quit;
is(run(q{CALL pgjobs.wait_message('o', '0')}), 't', 'a message that is there');
run($take);
my $seconds = timed(sub { is(run(q{CALL pgjobs.wait_message('s', '300 milliseconds')}), 'f', 'the time is over') });
cmp_ok($seconds, '>=', 0.3, 'not before');

# ---- several waiters ----

# Of one subscription one is called; if he takes nothing, the next one is. Those of another subscription each.
run(q{SELECT pgjobs.subscribe('s2', 't')});
my @waiters = map { waiter('s') } 1 .. 4;
my $other = waiter('s2');
wait_until_waiting($node, 'postgres', 5);
run(q{SELECT pgjobs.publish('t', '1')});
like(result_of($_), qr/^t$/m, 'every waiter of a message that nobody takes is called in the end') for @waiters, $other;
run($take);
$_->quit for @waiters, $other;
@waiters = map { waiter('s', '1500 milliseconds') } 1 .. 4;
wait_until_waiting($node, 'postgres', 4);
my $taker = session($node);
start_sql($taker, qq{CALL pgjobs.wait_message('s', '10 seconds')\n;$take});
run(q{SELECT pgjobs.publish('t', '2'); } . $take);
my @results = map { result_of($_) } @waiters;
cmp_ok(scalar(grep { /^f$/m } @results), '>=', 2, 'a message that was taken is not announced to everybody');
run(q{SELECT pgjobs.publish('t', '3')});
result_of($taker);
$_->quit for @waiters, $taker;

# Who waits holds no snapshot and no lock.
$session = waiter('s');
wait_until_waiting($node, 'postgres', 1);
is(run(q{SELECT count(*) FILTER (WHERE backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) || ' ' || count(*) FROM pg_stat_activity WHERE query LIKE 'CALL pgjobs.wait_message%' AND state = 'active' AND pid <> pg_backend_pid()}), '0 1', 'no snapshot is held');
is(run(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.query LIKE 'CALL pgjobs.wait_message%' AND a.state = 'active' AND a.pid <> pg_backend_pid() AND l.locktype <> 'virtualxid'}), 0, 'nor a lock');
run(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL pgjobs.wait_message%' AND pid <> pg_backend_pid()});
eval { $session->quit };
run($take);

# ---- latency ----

my $consumer = session($node);
my @late;
for (1 .. 50) {
    start_sql($consumer, q{CALL pgjobs.wait_message('s', '20 seconds'); SELECT 'late ' || extract(epoch FROM clock_timestamp() - max(published_at)) FROM pgjobs.receive('s')});
    wait_until_waiting($node, 'postgres', 1);
    $two->query_safe(q{SELECT pgjobs.publish('t', '1')});
    push @late, 1000 * $1 if result_of($consumer) =~ /^late ([\d.]+)$/m;
    run(q{SELECT pgjobs.ack('s', token, sent_to) FROM pgjobs.subscription WHERE name = 's'});
}
is(scalar @late, 50, 'each message was received');
my ($median) = figures('from publish to receive', @late);
cmp_ok($median, '<', 50, 'at once');

# ---- restart ----

my $before = run(q{SELECT max(position) FROM pgjobs.read('t', 0, 10000)});
my $seen = run(q{SELECT count(*) FROM pgjobs.read('t', 0, 10000)});
run(q{SELECT pgjobs.create_queue('fed'), pgjobs.create_queue('late')});
run(q{SELECT pgjobs.subscribe_queue('fed', 't', 'p%')});
run(q{SELECT pgjobs.subscribe_queue('fed', 'other')});
run(q{BEGIN; SELECT pgjobs.publish('t', '"prepared 1"', 'p1'); PREPARE TRANSACTION 'one'});
run(q{BEGIN; SELECT pgjobs.publish('t', '"prepared 2"', 'p2'); PREPARE TRANSACTION 'two'});
run(q{SELECT pgjobs.create_topic('solo')});
run(q{BEGIN; SELECT pgjobs.subscribe_queue('late', 'solo'); PREPARE TRANSACTION 'feed'});
run(q{SELECT pgjobs.publish('solo', '"1"')});
run(q{SELECT pgjobs.publish('t', '"after"', 'p3')});
is(run(q{SELECT count(*) FROM pgjobs.receive('s')}), 0, 'a prepared publisher is in the way');
for my $mode ('fast', 'immediate') {
    $node->stop($mode);
    $node->start;
    is(run("SELECT count(*) FROM pgjobs.read('t', 0, 10000)"), $seen, "messages from before are there, and no more ($mode)");
    is(run(q{SELECT count(*) FROM pgjobs.receive('s')}), 0, 'a prepared publisher is in the way');
    my $new = run(q{SELECT pgjobs.publish('t', '"new"')});
    cmp_ok($new, '>', $before, 'positions rise');
    $before = $new;
}
run(q{SELECT pgjobs.subscribe('restarted', 't')});
my $w = waiter('s');
wait_until_waiting($node, 'postgres', 1);
run(q{ROLLBACK PREPARED 'one'});
is(run(q{SELECT count(*) FROM pgjobs.read('t', 0, 10000)}), $seen, 'one is left');
run(q{COMMIT PREPARED 'two'});
like(result_of($w), qr/^t$/m, 'COMMIT PREPARED wakes');
$w->quit;
is(run(q{SELECT string_agg(payload #>> '{}', ', ' ORDER BY position) FROM pgjobs.receive('s')}), 'prepared 2, after, new, new', 'in order');
is(run(q{SELECT string_agg(payload #>> '{}', ', ' ORDER BY position) FROM pgjobs.receive('restarted')}), 'prepared 2, after, new, new', 'who subscribed while it was prepared misses nothing');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pgjobs.jobs WHERE queue = 'fed'}), 'a queue gets its jobs');
# A queue whose subscription was prepared before the start is served like any other.
run(q{COMMIT PREPARED 'feed'});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'late'}), 'what was published since');
run(q{SELECT pgjobs.publish('solo', '"2"')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pgjobs.jobs WHERE queue = 'late'}), 'and what comes after');
is(run(q{SELECT string_agg(payload #>> '{}', ', ' ORDER BY id) FROM pgjobs.jobs WHERE queue = 'late'}), '1, 2', 'each once');
run(q{SELECT pgjobs.drop_topic('solo')});

# ---- no place is left ----

# Topics that were rolled back, or dropped, have none.
for (1 .. 12) {
    run(q{BEGIN; SELECT pgjobs.create_topic('brief'); SELECT pgjobs.publish('brief', '1'); ROLLBACK});
    run(q{BEGIN; SAVEPOINT a; SELECT pgjobs.create_topic('brief'); SELECT pgjobs.publish('brief', '1'); ROLLBACK TO a; COMMIT});
    run(q{SELECT pgjobs.create_topic('brief'); SELECT pgjobs.publish('brief', '1'); SELECT pgjobs.drop_topic('brief')});
}
my $made = 0;
my $state = '00000';
while ($state eq '00000' && $made < 20) {
    $made++;
    $state = sqlstate_of($node, 'postgres', "SELECT pgjobs.create_topic('many$made')");
}
is($state, '53400', 'a clear error');
is($made, 7, 'when there are eight topics');
my ($code, $out, $err) = $node->psql('postgres', "SELECT pgjobs.create_topic('many$made')");
like($err, qr/pgjobs\.max_topics is 8.*Raise pgjobs\.max_topics/s, 'that says what to do');
is(run(q{SELECT pgjobs.publish('t', '1') > 0}), 't', 'the others work');
run("SELECT pgjobs.drop_topic('many1')");
is_state($node, 'postgres', "SELECT pgjobs.create_topic('many$made')", '00000', 'a dropped topic makes room');
# A smaller limit after a restart: who comes first has a place.
$node->append_conf('postgresql.conf', 'pgjobs.max_topics = 3');
$node->restart;
is(run(q{SELECT pgjobs.publish('t', '1') > 0}), 't', 'the first ones work');
my @states = map { sqlstate_of($node, 'postgres', "SELECT pgjobs.publish('many$_', '1')") } 2 .. 7;
is(join(' ', sort @states), join(' ', ('00000') x (grep { $_ eq '00000' } @states), ('53400') x (grep { $_ eq '53400' } @states)), 'publish: a place, or the same error');
cmp_ok(scalar(grep { $_ eq '53400' } @states), '>=', 4, 'for most of them');
is(run(q{SELECT ok FROM pgjobs.health() WHERE name = 'topics'}), 'f', 'health() says it');
is(run(q{SELECT count(*) FROM pgjobs.topics}), 8, 'the view shows all of them');
is(run(q{SELECT count(*) FROM pgjobs.subscriptions}), run(q{SELECT (SELECT count(*) FROM pgjobs.subscription) + (SELECT count(*) FROM pgjobs.feed)}), 'and all subscriptions');
$node->append_conf('postgresql.conf', 'pgjobs.max_topics = 8');
$node->restart;
run(qq{SELECT pgjobs.publish('many$_', '1')}) for 2 .. 7;
run(q{CREATE DATABASE second});
$node->safe_psql('second', q{CREATE EXTENSION pgjobs});
is_state($node, 'second', q{SELECT pgjobs.create_topic('t')}, '53400', 'places are shared by all databases');
run('DROP EXTENSION pgjobs');
is_state($node, 'second', q{SELECT pgjobs.create_topic('t' || n) FROM generate_series(1, 8) n}, '00000', 'DROP EXTENSION makes room');
run('DROP DATABASE second');
run(q{CREATE EXTENSION pgjobs});
is_state($node, 'postgres', q{SELECT pgjobs.create_topic('t' || n) FROM generate_series(1, 8) n}, '00000', 'DROP DATABASE too');
$_->quit for $one, $two, $consumer;
$node->stop;

done_testing();

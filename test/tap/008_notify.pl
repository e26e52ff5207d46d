# Notifications: what a listener hears, in which order, and what it never hears.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Pgjobs;

my $node = new_server('main', init => { allows_streaming => 1 }, conf => 'pgjobs.event_buffer = 256');
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('wake');
    SELECT pgjobs.create_queue('silent', notify => 'off');
    SELECT pgjobs.create_queue('told', ARRAY['one', 'two'], notify => 'events', backoff => '100 ms');
    SELECT pgjobs.create_queue('a.b-c', notify => 'events');
});

# A listener tells what has arrived whenever it runs a statement.
my $listener;
my @heard;    # [channel, payload] of all so far
sub listen_to {
    $listener = session($node);
    $listener->query_safe(qq{LISTEN "pgjobs_$_"}) for @_;
    @heard = ();
    return;
}
sub hear {
    my $output = $listener->query('SELECT 1');
    while ($output =~ /^Asynchronous notification "([^"]+)"(?: with payload "(.*)")? received/mg) {
        push @heard, [ $1, $2 // '' ];
    }
    return;
}
# Waits until something matching was heard.
sub hear_until {
    my ($condition, $timeout) = @_;
    return wait_until(sub { hear(); $condition->() }, $timeout // 10);
}
# A fact at the end of the line: when it is heard, all that was said before is.
my $last = 0;
sub hear_all {
    my ($queue) = @_;
    my $stop = $node->safe_psql('postgres', "SELECT pgjobs.enqueue('$queue', priority => 100)");
    my $found = hear_until(sub { grep { $_->[1] =~ /"job": $stop\b/ } @heard });
    $node->safe_psql('postgres', "SELECT pgjobs.cancel($stop)");
    hear_until(sub { grep { $_->[1] =~ /"job": $stop\b.*cancelled/ } @heard }) && $found or fail('the stop was not heard');
    @heard = grep { $_->[1] !~ /"job": $stop\b/ } @heard;
    return;
}
sub events { return map { decode_json($_->[1]) } grep { $_->[1] ne '' } @heard }

listen_to(qw(wake silent told a.b-c));
hear_all('told');
@heard = ();

# ---- wakeup ----

my $took = timed(sub {
    $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('wake')});
    ok(hear_until(sub { @heard }), 'a job of a queue with wakeup is told');
});
note(sprintf 'heard after %.0f ms', 1000 * $took);
is_deeply($heard[0], [ 'pgjobs_wake', '' ], 'with an empty payload');
@heard = ();
$node->safe_psql('postgres', q{SELECT count(pgjobs.enqueue('wake')) FROM generate_series(1, 500)});
ok(hear_until(sub { @heard }), 'many jobs');
hear_all('told');
is(scalar(grep { $_->[0] eq 'pgjobs_wake' } @heard), 1, 'of one transaction are one wake-up');
@heard = ();
$node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('wake', 10)});
hear_all('told');
is(scalar @heard, 0, 'nobody is woken for what is done');
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('wake', delay => '2 seconds')});
hear_all('told');
is(scalar @heard, 0, 'nor for what is not due');
ok(hear_until(sub { @heard }), 'but when it is due');
is_deeply(\@heard, [ [ 'pgjobs_wake', '' ] ], 'once');
@heard = ();

# ---- off ----

$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('silent'); SELECT pgjobs.complete(id, token) FROM pgjobs.claim('silent')});
hear_all('told');
is(scalar @heard, 0, 'off sends nothing');

# ---- events ----

sub states { return join ' ', map { "$_->{stage}:$_->{state}:$_->{attempt}" } @_ }

# The whole life of a job.
my $id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('told', delay => '100 ms')});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'told' AND state = 'ready'});
$node->safe_psql('postgres', $_) for
    q{SELECT pgjobs.release(id, token) FROM pgjobs.claim('told')},
    q{SELECT pgjobs.fail(id, token, 'x', retry_in => '50 ms') FROM pgjobs.claim('told')};
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'told' AND state = 'ready'});
$node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim('told', lease => '50 ms')});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'told' AND state = 'ready'});
$node->safe_psql('postgres', $_) for
    q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('told')},
    q{SELECT pgjobs.fail(id, token, 'x', retry => false) FROM pgjobs.claim('told')},
    "SELECT pgjobs.retry($id)",
    q{SELECT pgjobs.snooze(id, token, '50 ms') FROM pgjobs.claim('told')};
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'told' AND state = 'ready'});
$node->safe_psql('postgres', $_) for
    q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('told')},
    "SELECT pgjobs.retry($id)",
    "SELECT pgjobs.cancel($id)";
hear_all('told');
my @life = events();
is(states(@life), join(' ',
    'one:scheduled:0', 'one:ready:0', 'one:running:1', 'one:ready:0', 'one:running:1', 'one:scheduled:1', 'one:ready:1',
    'one:running:2', 'one:ready:2', 'one:running:3', 'two:ready:0', 'two:running:1', 'two:dead:1',
    'two:ready:0', 'two:running:1', 'two:scheduled:0', 'two:ready:0', 'two:running:1', 'two:completed:1',
    'one:ready:0', 'one:cancelled:0'), 'every state of a life is told, in order');
my @revs = map { $_->{rev} } @life;
is(join(' ', @revs), join(' ', map { $revs[0] + $_ } 0 .. $#revs), 'rev counts them');
is_deeply([ sort keys %{ $life[0] } ], [qw(at attempt job queue rev stage state)], 'the members of an event');
is($life[0]{queue}, 'told', 'queue');
is($life[0]{job}, $id, 'job');
like($life[0]{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/, 'at is a time');
is($node->safe_psql('postgres', "SELECT '$life[0]{at}'::timestamptz BETWEEN now() - interval '1 minute' AND now()"), 't', 'of now');
is((grep { $_->[0] ne 'pgjobs_told' } @heard), 0, 'all on its channel');
is($node->safe_psql('postgres', "SELECT rev FROM pgjobs.job($id)"), $revs[-1], 'rev is the job\'s');
@heard = ();

# A name that needs quotes.
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('a.b-c', '{"secret": 1}')});
hear_all('told');
is(scalar(grep { $_->[0] eq 'pgjobs_a.b-c' } @heard), 1, 'a name with dots and dashes');
unlike($heard[0][1], qr/secret/, 'no payload is told');
@heard = ();

# ---- what did not happen ----

my ($kept) = $node->safe_psql('postgres', q{
    BEGIN; SELECT pgjobs.enqueue('told'); ROLLBACK;
    BEGIN; SAVEPOINT s; SELECT pgjobs.enqueue('told'); ROLLBACK TO s; COMMIT;
    BEGIN;
    SAVEPOINT a; SELECT pgjobs.enqueue('told'); ROLLBACK TO a;
    SAVEPOINT b; SELECT pgjobs.enqueue('told'); RELEASE b;
    SAVEPOINT c; SAVEPOINT d; SELECT pgjobs.enqueue('told'); RELEASE d; ROLLBACK TO c;
    COMMIT;
    DO $$ BEGIN PERFORM pgjobs.enqueue('told'); RAISE 'x'; EXCEPTION WHEN raise_exception THEN NULL; END $$;
    BEGIN; SELECT count(*) FROM pgjobs.claim('told', 1); ROLLBACK;
}) =~ /\d+\n(?:\d+\n)\d+\n(\d+)\n/;
hear_all('told');
is(join(' ', map { "$_->{job}:$_->{state}" } events()), "$kept:ready", 'what is rolled back is not told');
$node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('told')});
hear_all('told');
@heard = ();

# Several changes of one job in one transaction: all told, the last one last.
$node->safe_psql('postgres', q{BEGIN; SELECT pgjobs.enqueue('told'); SELECT pgjobs.complete(id, token, next_stage => 'two') FROM pgjobs.claim('told'); COMMIT});
hear_all('told');
is((events())[-1]{stage}, 'two', 'the last change of a transaction is told last');
$node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('told')});
hear_all('told');
@heard = ();

# ---- too much ----

$node->safe_psql('postgres', q{SELECT cardinality(pgjobs.enqueue_many('told', array_fill('{}'::jsonb, ARRAY[5000])))});
ok(hear_until(sub { grep { $_->[1] =~ /resync/ } @heard }), 'too much for one transaction: resync');
is_deeply([ map { decode_json($_->[1]) } grep { $_->[1] =~ /resync/ } @heard ]->[0], { queue => 'told', resync => JSON::PP::true }, 'its shape');
cmp_ok(scalar @heard, '<=', 1002, 'and not all of it: ' . @heard);
hear_all('told');
@heard = ();
my @busy = map { [ start_script($node, 'postgres', join '', map { "SELECT pgjobs.complete_many(array_agg(id), array_agg(token)) FROM pgjobs.claim('told', 400);\n" } 1 .. 5) ] } 1 .. 3;
$_->[0]->finish for @busy;
ok(hear_until(sub { grep { $_->[1] =~ /resync/ } @heard }), 'the ring is full: resync');
hear_all('told');
$node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('told')});
hear_all('told');
@heard = ();
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('told')});
hear_all('told');
is(states(events()), 'one:ready:0', 'after that events are told again');

# ---- the caller never notifies ----

my $tx = session($node);
$tx->query_safe('BEGIN');
$tx->query_safe(q{SELECT pgjobs.enqueue('told'), pgjobs.enqueue('wake')});
$tx->query_safe(q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('told')});
is($tx->query(q{SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND database = 0 AND pid = pg_backend_pid()}), 0, 'no lock of NOTIFY');
$tx->query_safe(q{PREPARE TRANSACTION 'x'});
pass('it can be prepared');
hear_all('told');
@heard = ();
$tx->query_safe(q{COMMIT PREPARED 'x'});
ok(hear_until(sub { (grep { $_->[1] =~ /resync/ } @heard) && grep { $_->[0] eq 'pgjobs_wake' } @heard }), 'what was prepared is a resync');
$tx->quit;

# ---- after a restart, and after a worker that was killed ----

# Nobody looks after the database until somebody listens; then each queue that notifies says once that something may
# have been lost, and nothing else.
sub is_told_once {
    my ($when) = @_;
    listen_to(qw(wake silent told a.b-c));
    $node->append_conf('postgresql.conf', q{pgjobs.databases = ''});
    $node->reload;
    hear_until(sub { @heard >= 3 });
    hear_all('told');
    is_deeply([ sort map { "$_->[0] $_->[1]" } @heard ],
        [ 'pgjobs_a.b-c {"queue": "a.b-c", "resync": true}', 'pgjobs_told {"queue": "told", "resync": true}', 'pgjobs_wake ' ],
        "once $when: look");
    $listener->quit;
    return;
}

$listener->quit;
for my $how ('fast', 'immediate') {
    $node->append_conf('postgresql.conf', q{pgjobs.databases = 'nowhere'});
    $node->stop($how);
    $node->start;
    is_told_once("after a start behind a stop that is $how");
}
listen_to('told', 'wake');
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('told')});
hear_all('told');
ok((grep { ($_->{state} // '') eq 'ready' } events()), 'told after a restart');
$node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('told')});
hear_all('told');
@heard = ();
my $n = 0;
my $end = time + 3;
my ($run) = start_script($node, 'postgres', join '', map { "SELECT pgjobs.enqueue('told');\n" } 1 .. 1500);
while (time < $end) {
    my ($pid) = workers($node, 'postgres');
    $n += kill 'TERM', $pid if $pid;
    hear();
    usleep(rand(50_000)); # at any moment of its work: that is the point
}
$run->finish;
hear_all('told');
my %seen = map { ($_->{job} // 0) => 1 } events();
my $missing = grep { !$seen{$_} } split /\n/, $node->safe_psql('postgres', q{SELECT id FROM pgjobs.jobs WHERE queue = 'told' AND state = 'ready'});
ok($missing == 0 || (grep { $_->[1] =~ /resync/ } @heard), "a worker terminated $n times: no silence ($missing not told one by one)");
$listener->quit;

# ---- alter_queue ----

listen_to('told');
$node->safe_psql('postgres', q{SELECT pgjobs.alter_queue('told', notify => 'off'); SELECT pgjobs.enqueue('told')});
$node->safe_psql('postgres', q{SELECT pgjobs.alter_queue('told', notify => 'events')});
hear_all('told');
is((scalar grep { $_->[1] !~ /resync/ } @heard), 0, 'switched off and on again');
$listener->quit;

# ---- after a promotion ----

$node->append_conf('postgresql.conf', q{pgjobs.databases = 'nowhere'});
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
$node = $standby;
is_told_once('after a promotion');
$node->stop;

done_testing();

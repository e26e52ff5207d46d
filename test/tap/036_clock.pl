# Somebody sets the clock of the server: forward, nobody's job is taken away who is alive; back, no
# lease lasts longer; nobody waits longer than he said.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

# A clock of the server's own: test/faults/clock.cpp.
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($file, $library) = ("$dir/clock", "$dir/clock.so");
system_or_bail('g++', '-shared', '-fPIC', '-O2', '-o', $library, "$ENV{PGJOBS_SOURCE}/test/faults/clock.cpp");
sub set_clock {
    my ($seconds) = @_;
    open my $clock, -e $file ? '+<' : '>', $file or die; # the server has it in its memory
    binmode $clock;
    print $clock pack('qq', $seconds * 1_000_000, 0) or die;
    close $clock or die;
    return;
}
set_clock(0);
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
sub start_server {
    local @ENV{qw(LD_PRELOAD PGJOBS_CLOCK)} = ($library, $file);
    return $node->start;
}
start_server();
$node->safe_psql('postgres', q{
    CREATE EXTENSION pgjobs;
    SELECT pgjobs.create_queue('q', lease => '3 seconds');
    SELECT pgjobs.create_topic('t');
    SELECT pgjobs.subscribe('s', 't');
    CREATE TABLE rows (id int PRIMARY KEY, state text DEFAULT 'open');
    SELECT pgjobs.attach_table('rows', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "3 seconds"}]');
    INSERT INTO rows VALUES (1);
});
my $claim = q{SELECT pgjobs.enqueue('q') \g /dev/null
    SELECT id, token FROM pgjobs.claim('q')};
sub state_of { return $node->safe_psql('postgres', "SELECT state FROM pgjobs.jobs WHERE id = $_[0]") }
sub becomes_ready { my ($id) = @_; return timed(sub { wait_until(sub { state_of($id) eq 'ready' }, 30) }) }

# ---- forward: a lease's time for a heartbeat ----

my ($alive, $token) = split /\|/, $node->safe_psql('postgres', $claim);
my ($dead) = split /\|/, $node->safe_psql('postgres', $claim);
my $offset = -s $node->logfile;
set_clock(3600);
ok($node->wait_for_log(qr/clock was set forward by 3(?:599|600)\d\d\d ms/, $offset), 'the worker sees it');
is(state_of($alive), 'running', 'nothing is taken back at once');
$node->safe_psql('postgres', "SELECT pgjobs.extend($alive, $token, '1 hour')");
cmp_ok(becomes_ready($dead), '<', 8, 'what nobody has renewed is');
is(state_of($alive), 'running', 'what somebody has is not');
is($node->safe_psql('postgres', "SELECT pgjobs.complete($alive, $token)"), 'completed', 'his token is good');

# ---- back: leases end when they would have ----

my ($long) = split /\|/, $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', priority => -1) \g /dev/null
    SELECT id, token FROM pgjobs.claim('q', lease => '2 minutes')});
($dead) = split /\|/, $node->safe_psql('postgres', $claim);
my $beating = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', priority => -1) \g /dev/null
    SELECT pgjobs.extend(id, token) IS NOT NULL, id FROM pgjobs.claim('q')}) =~ s/^t\|//r;
$node->safe_psql('postgres', q{SELECT pgjobs.publish('t', '1'); SELECT pgjobs.receive('s', lease => '4 seconds')});
$node->safe_psql('postgres', q{SELECT pgjobs.claim_row(NULL::rows, 's')});
my $waiter = session($node);
start_sql($waiter, q{CALL pgjobs.wait_message('s', '20 seconds')});
wait_until_waiting($node, 'postgres', 1);
my $short = session($node);
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('empty')});
start_sql($short, q{CALL pgjobs.wait('empty', '2 seconds')});
wait_until_waiting($node, 'postgres', 2);
$offset = -s $node->logfile;
set_clock(0);
my $seconds = timed(sub { is(result_of($short), 'f', 'who waits waits as long as he said') });
cmp_ok($seconds, '<', 5, 'and no hour longer');
ok($node->wait_for_log(qr/clock was set back by \d+ ms/, $offset), 'the worker sees it');
cmp_ok(becomes_ready($dead), '<', 8, 'a lease of before ends');
cmp_ok(becomes_ready($beating), '<', 8, 'so does one that a heartbeat had renewed');
is(result_of($waiter), 't', 'and that of a reader');
cmp_ok(timed(sub { $node->poll_query_until('postgres', q{SELECT state = 'open' FROM rows}) }), '<', 8, 'and a row of an attached table');
is(state_of($long), 'running', 'a long one goes on');
is($node->safe_psql('postgres', "SELECT lease_expires_at < now() + interval '2 minutes' FROM pgjobs.jobs WHERE id = $long"), 't', 'for its own time');
($dead) = split /\|/, $node->safe_psql('postgres', $claim);
cmp_ok(becomes_ready($dead), '<', 6, 'leases given now are what they were');
# ---- nothing of the kind ----

$offset = -s $node->logfile;
set_clock(1);
($dead) = split /\|/, $node->safe_psql('postgres', $claim);
cmp_ok(becomes_ready($dead), '<', 6, 'a second is within the tolerance');
unlike(log_since($node, $offset), qr/clock was set/, 'and nothing to speak of');
$waiter->quit;
$short->quit;

# ---- nobody polls ----

# A job is scheduled, the worker has left: the launcher sleeps until the job is due, or the clock is set.
$node->safe_psql('postgres', 'ALTER SYSTEM SET pgjobs.idle_exit = 1');
$node->reload;
my $later = $node->safe_psql('postgres', q{SELECT pgjobs.purge_queue('q') \g /dev/null
    SELECT pgjobs.enqueue('q', delay => '1 hour')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pgjobs worker'}), 'the worker leaves');
my $launcher = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs launcher'});
sub times_asleep { return slurp_file("/proc/$launcher/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : undef }
my $before;
ok(wait_until(sub { my $was = $before // -1; $before = times_asleep(); $was == $before }), 'the launcher sleeps');
sleep 12; # what is looked for is that nothing happens
is(times_asleep(), $before, 'and sleeps');
set_clock(3601);
cmp_ok(becomes_ready($later), '<', 8, 'until the clock is set');

# ---- messages ----

# Published an hour ahead, then by the clock that was set back, and after a restart.
set_clock(7200);
$node->safe_psql('postgres', q{SELECT pgjobs.publish('t', '"ahead"')});
set_clock(3600);
$node->safe_psql('postgres', q{SELECT pgjobs.publish('t', '"behind"')});
$node->stop('immediate');
start_server();
$node->safe_psql('postgres', q{
    SELECT pgjobs.publish('t', '"after a restart"');
    CREATE FUNCTION first_since(at timestamptz) RETURNS bigint[] LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pgjobs.seek('s', to_time => at), pgjobs.subscribe('new', 't', from_time => at);
        RETURN ARRAY[(SELECT position FROM pgjobs.receive('s', 1)), (SELECT position FROM pgjobs.receive('new', 1))];
    END $$;
    CREATE FUNCTION checked(at timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$ DECLARE
        first bigint := (SELECT min(position) FROM pgjobs.log WHERE published_at >= at);
        found bigint[] := first_since(at);
    BEGIN
        PERFORM pgjobs.unsubscribe('new');
        RETURN found = ARRAY[first, first];
    END $$;
});
my $log = q{SELECT count(*), bool_and(step >= '0') FROM (SELECT published_at - lag(published_at, 1, published_at) OVER (ORDER BY position) AS step FROM pgjobs.log) x};
is($node->safe_psql('postgres', $log), '4|t', 'times of messages never go back');
is($node->safe_psql('postgres', q{SELECT bool_and(checked(at)) FROM (SELECT published_at AS at FROM pgjobs.log UNION SELECT published_at + '1 us' FROM pgjobs.log UNION SELECT clock_timestamp()) x}), 't', 'and a place in time is that of the first message since');
is($node->safe_psql('postgres', q{
    SELECT pgjobs._keep_topics(clock_timestamp() + '2 days');
    SELECT pgjobs.publish('t', '"in another segment"') > 0;
    SELECT pgjobs._keep_topics(clock_timestamp() + '8 days 23 hours');
    SELECT count(*) FROM pgjobs.log;
    SELECT pgjobs._keep_topics(clock_timestamp() + '9 days');
    SELECT count(*) FROM pgjobs.log;
}), "0\nt\n0\n5\n1\n1", 'messages are kept for their time');

# ---- back, while the figures wait for a lock, and everybody behind them ----

my ($writer, $counter) = (session($node), session($node));
set_clock(3600);
$writer->query_safe(q{BEGIN; SELECT pgjobs.enqueue('q')});
start_sql($counter, q{SELECT pgjobs._recount()});
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'pgjobs.job'::regclass AND NOT granted}), 'somebody counts, and waits');
set_clock(0);
my $behind = timed(sub { $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')}) });
cmp_ok($behind, '<', 20, 'nobody waits behind him for an hour');
like(result_of($counter), qr/ERROR:  57014/, 'he gives up by the clock that nobody sets');
$writer->query_safe('COMMIT');
$_->quit for $writer, $counter;

$node->stop;
done_testing();

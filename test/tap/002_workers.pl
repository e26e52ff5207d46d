# Launcher and workers: who gets one, what it does and when, when it leaves and comes back.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $node = new_server('main');

# Figures come from the server's clock, and what a client sees: that it is woken. The promise is 50 ms
# (100 ms for sessions); a busy machine gets more before a test fails.
my $generous = 400;

# ---- who has a worker ----

$node->safe_psql('postgres', 'CREATE DATABASE without');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(one two three);
$node->safe_psql($_, q{
    CREATE EXTENSION pgjobs;
    SELECT pgjobs.create_queue('q');
    SELECT pgjobs.enqueue('q', delay => '100 ms');
}) for qw(one two three);
ok($node->poll_query_until($_, q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE state = 'ready'}),
    "$_: created while the server runs, found without configuration") for qw(one two three);
is(scalar workers($node, $_), 1, "$_ has one worker") for qw(one two three);
is(scalar workers($node, $_), 0, "$_ has none") for qw(without template1);
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgjobs launcher'}),
    1, 'one launcher');

$node->safe_psql($_, q{SELECT pgjobs.enqueue('q', delay => '700 ms')}) for qw(one two three);
$node->restart;
ok($node->poll_query_until($_, q{SELECT count(*) = 2 FROM pgjobs.jobs WHERE state = 'ready'}),
    "$_: found at the start of the server") for qw(one two three);

# ---- due times ----

$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue(q) FROM unnest(ARRAY['delay', 'lease', 'hold', 'expire', 'far']) q;
});

# One client: it makes something due soon, sleeps until it is told, and says how late that was.
sub lateness {
    my ($what, $count, $script) = @_;
    my @late = map { $node->safe_psql('postgres', $script) =~ /^late (-?[\d.]+)$/m ? $1 : 1e9 } 1 .. $count;
    my ($median, $most) = figures($what, @late);
    cmp_ok($late[$_], '>=', 0, "$what: not early") for 0 .. $#late;
    cmp_ok($median, '<=', $generous, "$what: in time");
    return;
}
my $late = q{SELECT 'late ' || round(1000 * extract(epoch FROM clock_timestamp() - :'due'::timestamptz), 2);};

lateness('a delayed job is ready', 7, qq{
    SELECT now() + '250 ms' AS due \\gset
    SELECT pgjobs.enqueue('delay', run_at => :'due');
    CALL pgjobs.wait('delay', '10 seconds');
    $late
    SELECT count(*) FROM pgjobs.claim('delay', 10);
});
lateness('an expired lease is reaped', 7, qq{
    SELECT pgjobs.enqueue('lease');
    SELECT lease_expires_at AS due FROM pgjobs.claim('lease', lease => '250 ms') \\gset
    CALL pgjobs.wait('lease', '10 seconds');
    $late
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('lease');
});
lateness('a job that expires is cancelled', 5, qq{
    SELECT now() + '250 ms' AS due \\gset
    SELECT pgjobs.enqueue('expire', expires_at => :'due') AS id \\gset
    CALL pgjobs.await(:id, '10 seconds');
    $late
});
is($node->safe_psql('postgres', q{SELECT DISTINCT state FROM pgjobs.jobs WHERE queue = 'expire'}),
    'cancelled', 'what has expired is cancelled');

# Many at one time.
is($node->safe_psql('postgres', q{
    SELECT cardinality(pgjobs.enqueue_many('far', array_agg('{}'::jsonb), delay => '600 ms')) FROM generate_series(1, 2000);
}), 2000, 'two thousand due in the same moment');
my $seconds = timed(sub {
    $node->poll_query_until('postgres', q{SELECT count(*) = 2000 FROM pgjobs.jobs WHERE queue = 'far' AND state = 'ready'});
});
note(sprintf 'two thousand ready after %.0f ms', 1000 * $seconds);
cmp_ok($seconds, '<', 5, 'all are ready soon');

# A lease that is extended is not reaped: another one is, which ends later than the first would have.
is($node->safe_psql('postgres', q{
    SELECT pgjobs.enqueue('lease');
    SELECT id, token FROM pgjobs.claim('lease', lease => '300 ms') \gset
    SELECT pgjobs.extend(:id, :token, '30 seconds') > now();
    SELECT count(pgjobs.enqueue('lease'));
    SELECT count(*) FROM pgjobs.claim('lease', lease => '310 ms');
    CALL pgjobs.wait('lease', '20 seconds');
    SELECT pgjobs.complete(:id, :token);
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('lease');
}) =~ s/\A\d+\n//r, "t\n1\n1\nt\ncompleted\ncompleted", 'an extended lease lasts');

# ---- statistics ----

# What autovacuum goes by. The last batch counts, too, though the worker sleeps after it.
$node->safe_psql('postgres', 'CREATE DATABASE counted');
$node->safe_psql('counted', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q')});
for my $round (1 .. 3) {
    my $ready = 2000 * $round;
    $node->safe_psql('counted', q{SELECT count(pgjobs.enqueue('q', delay => '300 ms')) FROM generate_series(1, 2000)});
    ok($node->poll_query_until('counted', "SELECT ready = $ready FROM pgjobs.queues"), 'jobs become ready');
    ok(wait_until(sub { $node->safe_psql('counted', q{SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = 'pgjobs.job'::regclass}) >= $ready }, 2), 'and are counted as changed within two seconds')
        or diag($node->safe_psql('counted', q{SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = 'pgjobs.job'::regclass}));
    is($node->safe_psql('counted', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgjobs worker' AND (state IS NULL OR query = '')}), 0, 'workers say what they do');
}

# ---- sessions that hold ----

sub held_by_session {
    my ($what, $end, $begun) = @_;
    my @late;
    for (1 .. 4) {
        my $holder = session($node);
        my $waiter = session($node);
        $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('hold')});
        $holder->query_safe(q{SELECT count(*) FROM pgjobs.claim('hold', hold => true)});
        $holder->query_safe($begun) if $begun;
        start_sql($waiter, q{CALL pgjobs.wait('hold', '20 seconds'); SELECT 'at ' || extract(epoch FROM clock_timestamp())});
        wait_until_waiting($node, 'postgres', 1);
        my $begin = time;
        $end->($holder);
        my ($at) = result_of($waiter) =~ /^at ([\d.]+)$/m;
        push @late, 1000 * (($at // 1e9) - $begin);
        $node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('hold')});
        $waiter->quit;
    }
    my ($median) = figures("$what: the job is ready again", @late);
    cmp_ok($median, '<=', $generous, "$what: the job is ready again in time");
    return;
}
held_by_session('the client leaves', sub { $_[0]->quit });
held_by_session('the client is killed', sub { $_[0]->{run}->signal('KILL') });
held_by_session('pg_terminate_backend', sub {
    $node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'hold => true' AND pid <> pg_backend_pid()});
});
held_by_session('DISCARD ALL', sub { $_[0]->query('DISCARD ALL') });
# It has locked the row that it holds: who takes it back must wait for the rollback.
for my $verb ('complete(id, token)', 'progress(id, token, 0.5)') {
    my $begun = qq{BEGIN; SELECT count(pgjobs.$verb) FROM pgjobs.job WHERE token IS NOT NULL AND queue_id = (SELECT id FROM pgjobs.queue WHERE name = 'hold')};
    held_by_session("the client leaves within a transaction, after $verb", sub { $_[0]->quit }, $begun);
    held_by_session("the client is killed within a transaction, after $verb", sub { $_[0]->{run}->signal('KILL') }, $begun);
    held_by_session("pg_terminate_backend within a transaction, after $verb", sub {
        $node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'pgjobs.(complete|progress)' AND state = 'idle in transaction' AND pid <> pg_backend_pid()});
    }, $begun);
}

# The session goes on after DISCARD ALL, and may hold again.
my $again = session($node);
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('hold')});
is($again->query(q{SELECT count(*) FROM pgjobs.claim('hold', hold => true)}), 1, 'held');
$again->query('DISCARD ALL');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'hold' AND state = 'ready'}), 'given back');
is($again->query(q{SELECT count(*) FROM pgjobs.claim('hold', hold => true)}), 1, 'held again');
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('delay', delay => '200 ms')});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE queue = 'delay' AND state = 'ready'});
is($node->safe_psql('postgres', q{SELECT state FROM pgjobs.jobs WHERE queue = 'hold' AND finished_at IS NULL}),
    'running', 'a new hold outlives the end of the one before');
is($again->query(q{SELECT pgjobs.complete(id, (SELECT j.token FROM pgjobs.job j WHERE j.id = v.id)) FROM pgjobs.jobs v WHERE queue = 'hold' AND state = 'running'}),
    'completed', 'and can be completed');
$again->quit;
$node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('delay')});

# ---- a copy by CREATE DATABASE ... TEMPLATE ----

$node->safe_psql('one', q{SELECT count(*) FROM pgjobs.claim('q', lease => '1500 ms')});
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE one');
is_state($node, 'copy', q{SELECT pgjobs.claim('q')}, 'PJ004', 'a copied database is quarantined: claim');
is_state($node, 'copy', q{CALL pgjobs.wait('q', '1 second')}, 'PJ004', 'a copied database is quarantined: wait');
ok($node->poll_query_until('one', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE state = 'running'}), 'the original goes on');
is($node->safe_psql('copy', q{SELECT count(*) FROM pgjobs.jobs WHERE state = 'running' AND lease_expires_at < now()}),
    1, 'nobody touches the copy');
$node->safe_psql('copy', 'SELECT pgjobs.resume()');
ok($node->poll_query_until('copy', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE state = 'running'}), 'until resume()');
is($node->safe_psql('copy', q{SELECT count(*) FROM pgjobs.claim('q', 10)}), 2, 'then it works');

# ---- leaving and coming back ----

$node->append_conf('postgresql.conf', 'pgjobs.idle_exit = 1');
$node->reload;
ok(wait_until(sub { !workers($node, 'two') && !workers($node, 'three') }, 20), 'idle workers leave');
$node->safe_psql('two', q{SELECT pgjobs.enqueue('q', run_at => now() + '4 seconds', priority => 7)});
ok(wait_until(sub { !workers($node, 'two') }, 3), 'nobody stays for a job that is due in four seconds');
my ($ready, $behind) = split /\|/, $node->safe_psql('two', q{
    CALL pgjobs.wait('q', '1 millisecond');
    SELECT count(*) FROM pgjobs.claim('q', 2);
    CALL pgjobs.wait('q', '20 seconds');
    SELECT count(*) || '|' || round(1000 * extract(epoch FROM clock_timestamp() - max(run_at))) FROM pgjobs.jobs WHERE priority = 7 AND state = 'ready';
}) =~ /(\d+\|-?\d+)\z/ ? $1 : '0|1e9';
is($ready, 1, 'the job is ready all the same');
note("late $behind ms");
cmp_ok($behind, '<=', $generous, 'and in time');

# Without a client that waits.
ok(wait_until(sub { !workers($node, 'three') }, 20), 'no worker');
$node->safe_psql('three', q{SELECT pgjobs.enqueue('q', run_at => now() + '4 seconds', priority => 7)});
ok(wait_until(sub { !workers($node, 'three') }, 3), 'no worker yet');
ok($node->poll_query_until('three', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE priority = 7 AND state = 'ready'}), 'the launcher remembers');
is($node->safe_psql('three', q{SELECT clock_timestamp() - run_at < '1 second' FROM pgjobs.jobs WHERE priority = 7}), 't', 'and in time');

# Who holds keeps the worker; a session that ends while there is none brings one.
my $stays = session($node, database => 'three');
$stays->query_safe(q{SELECT count(*) FROM pgjobs.claim('q', hold => true)});
# A session that holds needs no worker yet: its end starts one. Something else brings it.
$node->safe_psql('three', q{SELECT pgjobs.enqueue('q', delay => '20 ms')});
ok(wait_for_worker($node, 'three', timeout => 20), 'a worker');
ok(!wait_until(sub { !workers($node, 'three') }, 2.5), 'it stays as long as a session holds a job');
$stays->quit;
ok($node->poll_query_until('three', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE state = 'running'}), 'the job is back');
ok(wait_until(sub { !workers($node, 'three') }, 20), 'then it leaves');

# ---- pgjobs.databases ----

$node->append_conf('postgresql.conf', q{pgjobs.databases = 'postgres, "two"'});
$node->reload;
ok(wait_until(sub { $node->safe_psql('postgres', 'SHOW pgjobs.databases') ne '' }, 20), 'the setting is read at reload');
$node->safe_psql($_, q{SELECT pgjobs.enqueue('q', delay => '200 ms', priority => 8)}) for qw(two three);
ok($node->poll_query_until('two', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE priority = 8 AND state = 'ready'}), 'a listed database is looked after');
ok(!wait_until(sub { workers($node, 'three') }, 1), 'another one is not');
is($node->safe_psql('three', q{SELECT state FROM pgjobs.jobs WHERE priority = 8}), 'scheduled', 'its jobs wait');
$node->append_conf('postgresql.conf', q{pgjobs.databases = ''});
$node->reload;
ok($node->poll_query_until('three', q{SELECT count(*) = 1 FROM pgjobs.jobs WHERE priority = 8 AND state = 'ready'}), 'all databases again');
$node->stop;

# ---- no slot for a worker ----

my $small = new_server('small', conf => q{
    max_worker_processes = 2
    max_logical_replication_workers = 0
    pgjobs.idle_exit = 1
}, bare => 1);
my $offset = -s $small->logfile;
$small->safe_psql('postgres', "CREATE DATABASE $_") for qw(first second);
$small->safe_psql('first', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q')});
my $first = session($small, database => 'first');
$first->query_safe(q{SELECT count(*) FROM pgjobs.claim('q', hold => true)});
ok(wait_for_worker($small, 'first'), 'the only slot is taken');
$small->safe_psql('second', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q', delay => '100 ms')});
$small->wait_for_log(qr/could not start a worker/, $offset);
pass('the log says so');
$small->safe_psql('second', q{SELECT pgjobs.enqueue('q', delay => '100 ms') FROM generate_series(1, 20)});
$first->quit;
ok($small->poll_query_until('second', q{SELECT count(*) = 21 FROM pgjobs.jobs WHERE state = 'ready'}), 'it works as soon as there is a slot');
my @lines = log_since($small, $offset) =~ /could not start a worker/g;
is(scalar @lines, 1, 'one line a minute at most');
$small->stop;

done_testing();

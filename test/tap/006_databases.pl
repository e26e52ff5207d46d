# Nothing of ours stands in the way of commands on databases, of shutdown, or of dropping the extension.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => 'allow_in_place_tablespaces = on');
$node->safe_psql('postgres', q{
    CREATE ROLE boss LOGIN SUPERUSER;
    CREATE ROLE owner LOGIN CREATEDB;
    CREATE ROLE stranger LOGIN CREATEDB;
});
$node->safe_psql('postgres', $_) for q{CREATE TABLESPACE space LOCATION ''}, q{GRANT CREATE ON TABLESPACE space, pg_default TO owner};

sub make_database {
    my ($name, $owner) = @_;
    $node->safe_psql('postgres', "CREATE DATABASE $name OWNER $owner");
    $node->safe_psql($name, q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q')});
    return;
}

# The worker is there and has its hands full.
sub keep_busy {
    my ($name) = @_;
    $node->safe_psql($name, q{SELECT count(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[400]), delay => n * interval '30 ms')) FROM generate_series(1, 3) n});
    wait_for_worker($node, $name);
    return;
}

# As `role`, from the maintenance database; the time it took and what it said.
sub try_as {
    my ($role, $sql) = @_;
    my ($code, $out, $err);
    my $seconds = timed(sub {
        ($code, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);
    });
    return ($code, $seconds, $err);
}

sub succeeds {
    my ($role, $times, $what) = @_;
    my (@seconds, @errors);
    for my $statement (@$times) {
        my ($code, $seconds, $err) = try_as($role, $statement->[1]) if keep_busy($statement->[0]) || 1;
        push @seconds, 1000 * $seconds;
        push @errors, $err if $code != 0;
    }
    is("@errors", '', "$what by $role");
    my (undef, $most) = figures("$what by $role", @seconds);
    cmp_ok($most, '<=', 2000, "$what by $role: at once");
    return;
}

for my $role (qw(boss owner)) {
    make_database('app', $role);
    succeeds($role, [ map { [ 'app', "CREATE DATABASE copy$_ TEMPLATE app" ] } 1 .. 5 ], 'CREATE DATABASE TEMPLATE');
    $node->safe_psql('postgres', "DROP DATABASE copy$_") for 1 .. 5;
    succeeds($role, [ map { [ $_ % 2 ? 'app' : 'app2', 'ALTER DATABASE ' . ($_ % 2 ? 'app RENAME TO app2' : 'app2 RENAME TO app') ] } 1 .. 6 ], 'RENAME');
    succeeds($role, [ map { [ 'app', 'ALTER DATABASE app SET TABLESPACE ' . ($_ % 2 ? 'space' : 'pg_default') ] } 1 .. 6 ], 'SET TABLESPACE');

    # After all that its jobs are still looked after.
    ok($node->poll_query_until('app', q{SELECT scheduled = 0 AND ready > 0 FROM pgjobs.queues}), 'every job became ready');

    make_database("drop$_", $role) for 1 .. 5;
    succeeds($role, [ map { [ "drop$_", "DROP DATABASE drop$_" ] } 1 .. 5 ], 'DROP DATABASE');
    $node->safe_psql('postgres', 'DROP DATABASE app');
}

# ---- failing and rolling back ----

make_database('app', 'owner');
$node->safe_psql('postgres', 'CREATE DATABASE taken');
for my $failing (
    [ '42P04', 'ALTER DATABASE app RENAME TO taken' ],
    [ '42P04', 'CREATE DATABASE taken TEMPLATE app' ],
    [ '42704', 'ALTER DATABASE app SET TABLESPACE nowhere' ],
    [ 'undone', 'BEGIN; ALTER DATABASE app RENAME TO other; ROLLBACK' ],
    [ 'in use', 'DROP DATABASE app' ])
{
    my ($expected, $sql) = @$failing;
    my $client = $expected eq 'in use' ? session($node, database => 'app') : undef;
    keep_busy('app');
    my ($code, undef, $err) = try_as('boss', $sql);
    $expected = '55006' if $client;
    if ($expected eq 'undone') { is($code, 0, $sql) }
    else { like($err, qr/ERROR:  $expected:/, "fails: $sql") }
    $client->quit if $client;
    ok($node->poll_query_until('app', q{SELECT scheduled = 0 FROM pgjobs.queues}), 'the worker is back');
    my $ready = timed(sub {
        $node->safe_psql('app', q{SELECT pgjobs.create_queue('soon'); SELECT pgjobs.enqueue('soon', delay => '50 ms'); CALL pgjobs.wait('soon', '20 seconds'); SELECT pgjobs.drop_queue('soon', true)});
    });
    cmp_ok($ready, '<=', 5, 'and works');
}

# ---- who may not, does not ----

keep_busy('app');
my ($worker) = workers($node, 'app');
for my $sql ('DROP DATABASE app', 'ALTER DATABASE app RENAME TO mine', 'CREATE DATABASE mine TEMPLATE app', 'ALTER DATABASE app SET TABLESPACE space',
    'DROP DATABASE app WITH (FORCE)') {
    my (undef, undef, $err) = try_as('stranger', $sql);
    like($err, qr/ERROR:  42501:/, "a stranger: $sql");
    is(join(' ', workers($node, 'app')), $worker, 'the worker has not noticed');
}
my (undef, undef, $error) = try_as('stranger', 'CREATE DATABASE fine TEMPLATE template1');
is($error, '', 'a stranger may use a template');

# An open transaction that has only touched a database's name does not keep other databases waiting.
my $renaming = session($node);
$renaming->query_safe('BEGIN');
$renaming->query_safe('ALTER DATABASE taken RENAME TO renamed');
$node->safe_psql('app', q{SELECT pgjobs.create_queue('x'); SELECT pgjobs.enqueue('x', delay => '50 ms')});
is($node->safe_psql('app', q{CALL pgjobs.wait('x', '20 seconds')}), 't', 'other databases go on');
$renaming->query_safe('ROLLBACK');
$renaming->quit;

# ---- DROP EXTENSION under load ----

my @waiters = map { session($node, database => 'app') } 1 .. 3;
my $loop = join '', map { qq{
    SELECT pgjobs.enqueue('q', delay => '1 millisecond');
    SELECT pgjobs.enqueue('q');
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q', 3);
    SELECT count(*) FROM pgjobs.claim('q', 1, hold => true);
    CALL pgjobs.wait('q', '10 ms');
} } 1 .. 3000;
$node->safe_psql('app', q{SELECT pgjobs.create_queue('empty')});
my $offset = -s $node->logfile;
start_sql($_, q{CALL pgjobs.wait('empty', '60 seconds')}) for @waiters;
my @clients = map { [ start_script($node, 'app', $loop) ] } 1 .. 3;
wait_until_waiting($node, 'app', 3);
ok($node->poll_query_until('app', q{SELECT count(*) > 300 FROM pgjobs.history WHERE state = 0}), 'the load is on');
my $dropped = timed(sub { is_state($node, 'app', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION under load') });
note(sprintf 'dropped after %.0f ms', 1000 * $dropped);
cmp_ok($dropped, '<=', 5, 'soon');
like(result_of($_), qr/ERROR:  42704:/, 'a waiter is told') for @waiters;
for my $client (@clients) {
    my ($run, $errors) = @$client;
    $run->finish;
    my %seen;
    $seen{$_}++ for slurp_file($errors) =~ /ERROR:  (\w+):/g;
    # No schema, no function; and the calls that were under way.
    delete @seen{qw(3F000 42883 42P01 42704)};
    is(join(' ', sort keys %seen), '', 'clients get no other errors');
}
ok(wait_until(sub { !workers($node, 'app') }, 20), 'the worker has left');
my $log = log_since($node, $offset);
unlike($log, qr/XX000|terminated by signal/, 'nothing broke');
my @complaints = $log =~ /pgjobs worker \w{5} (?:LOG|ERROR)/g;
cmp_ok(scalar @complaints, '<=', 2, 'the worker does not go on about it: ' . @complaints);
is($node->safe_psql('app', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs'}), 0, 'nothing is left');
$_->quit for @waiters;

# ---- coming and going ----

$offset = -s $node->logfile;
my @seconds;
for my $round (1 .. 20) {
    $node->safe_psql('app', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q', delay => '20 ms')});
    $node->safe_psql('app', q{CALL pgjobs.wait('q', '20 seconds')}) eq 't' or fail("round $round: not ready") if $round % 5 == 0;
    push @seconds, 1000 * timed(sub { $node->safe_psql('app', 'DROP EXTENSION pgjobs') });
}
my (undef, $most) = figures('DROP EXTENSION', @seconds);
cmp_ok($most, '<=', 5000, 'twenty times CREATE and DROP EXTENSION');
is($node->safe_psql('app', q{BEGIN; CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q', delay => '1 ms') > 0; ROLLBACK}) , "\nt", 'created and rolled back');
$node->safe_psql('app', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q')});
is($node->safe_psql('app', q{BEGIN; DROP EXTENSION pgjobs; ROLLBACK; SELECT pgjobs.enqueue('q', delay => '20 ms') > 0; CALL pgjobs.wait('q', '20 seconds')}), "t\nt", 'dropped and rolled back');
$log = log_since($node, $offset);
@complaints = $log =~ /pgjobs worker \w{5} (?:LOG|ERROR)/g;
cmp_ok(scalar @complaints, '<=', 3, 'the worker says little: ' . @complaints);

# A schema of that name that is not ours.
$node->safe_psql('postgres', 'CREATE DATABASE foreign_one');
$node->safe_psql('foreign_one', q{CREATE SCHEMA pgjobs; CREATE TABLE pgjobs.job (id text, token text); CREATE TABLE pgjobs.queue (); CREATE TABLE pgjobs.home (); CREATE VIEW pgjobs.history AS SELECT 1 AS x});
$offset = -s $node->logfile;
$node->restart;
ok($node->poll_query_until('app', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pgjobs launcher'}), 'restarted');
$node->safe_psql('foreign_one', q{INSERT INTO pgjobs.job VALUES ('a', 'b'); DROP TABLE pgjobs.home});
is($node->safe_psql('app', q{SELECT pgjobs.enqueue('q', delay => '20 ms') > 0; CALL pgjobs.wait('q', '20 seconds')}), "t\nt", 'the neighbour works');
ok(wait_until(sub { !workers($node, 'foreign_one') }, 10), 'no worker for a schema that is not ours');
unlike(log_since($node, $offset), qr/pgjobs worker \w{5} (?:LOG|ERROR)/, 'and not a word about it');

# ---- shutdown ----

for my $standby ('', 'nope') {
    $node->append_conf('postgresql.conf', "synchronous_standby_names = '$standby'");
    $node->reload;
    wait_until(sub { $node->safe_psql('postgres', 'SHOW synchronous_standby_names') eq $standby }, 10);
    my @sleeping = map { session($node, database => 'app') } 1 .. 4;
    $_->query_safe('SET synchronous_commit = local') for @sleeping;
    $sleeping[0]->query_safe(q{SELECT count(pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[5000]), delay => n * interval '30 ms')) FROM generate_series(1, 5) n});
    $sleeping[0]->query_safe(q{SELECT pgjobs.purge_queue('none'), pgjobs.drop_queue('none', true)}) if $standby;
    $sleeping[0]->query_safe(q{SELECT pgjobs.create_queue('none')});
    start_sql($_, q{CALL pgjobs.wait('none', '60 seconds')}) for @sleeping;
    wait_until_waiting($node, 'app', 4);
    my $stopped = timed(sub { $node->stop('fast') });
    note(sprintf 'stopped after %.0f ms', 1000 * $stopped);
    cmp_ok($stopped, '<=', 5, "fast shutdown with worker and waiters" . ($standby && ', and a standby that never answers'));
    eval { $_->{run}->kill_kill } for @sleeping;
    $node->start unless $standby;
}

done_testing();

# The extension, databases and catalogs come, go and change while everything runs: nothing crashes, nobody waits
# long, and nothing is executed where it is not at home (failures E1 to E20, what the other tests leave).
#
# The server looks tables up by oid while it reads a statement, and finds those gone that are being dropped:
# allow-log: could not open relation with OID
# Nobody holds DROP EXTENSION and a client apart who have each something that the other needs:
# allow-log: deadlock detected
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', init => { allows_streaming => 'logical' }, conf => qq{
    backtrace_functions = 'relation_open'
    pgjobs.max_queues = 64
    pgjobs.max_leases = 64
});

# ---- CREATE and DROP EXTENSION again and again, under load (E3) ----

# Clients that go on whatever they are told, until the end.
$node->safe_psql('postgres', 'CREATE DATABASE app');
my $load = join '', map { qq{
    SELECT pgjobs.create_queue('q', notify => 'events');
    SELECT pgjobs.enqueue('q', delay => '1 millisecond'), pgjobs.enqueue('q');
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q', 3);
    SELECT count(*) FROM pgjobs.claim('q', 1, hold => true);
    SELECT count(*) FROM pgjobs.claim('q', 1, lease => '5 ms');
    SELECT count(*) FROM pgjobs.jobs; SELECT count(*) FROM pgjobs.health();
    CALL pgjobs.wait('q', '5 ms');
    SELECT pgjobs.create_topic('t'); SELECT pgjobs.subscribe('s', 't'); SELECT pgjobs.publish('t', '1'); SELECT count(*) FROM pgjobs.receive('s');
} } 1 .. 100;
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/load.sql", $load);
my @clients = map {
    IPC::Run::start([ 'sh', '-c', "until [ -e $dir/enough ]; do psql -XAtq -v VERBOSITY=sqlstate -d '${\$node->connstr('app')}' -f $dir/load.sql >/dev/null 2>>$dir/errors.$_; done" ]);
} 1 .. 3;
my $offset = -s $node->logfile;
my (@create, @drop, @errors);
my $done = 0;
for my $round (1 .. 50) {
    my ($code, $out, $err);
    push @create, 1000 * timed(sub { ($code, $out, $err) = $node->psql('app', 'CREATE EXTENSION pgjobs') });
    push @errors, $err if $code != 0;
    # Some work is done between.
    wait_until(sub {
        my ($ok, $count) = $node->psql('app', 'SELECT count(*) FROM pgjobs.job');
        return $ok == 0 && $count > 0;
    }, 10) and $done++ if $round % 5 == 0;
    push @drop, 1000 * timed(sub {
        do { ($code, $out, $err) = $node->psql('app', 'DROP EXTENSION pgjobs') } while $err =~ /deadlock detected/;
    });
    push @errors, $err if $code != 0;
}
is("@errors", '', 'fifty times CREATE and DROP EXTENSION under load');
cmp_ok($done, '>=', 8, "with work between: $done of 10 times");
my (undef, $most) = figures('CREATE EXTENSION', @create);
cmp_ok($most, '<', 5000, 'CREATE EXTENSION does not wait');
(undef, $most) = figures('DROP EXTENSION', @drop);
cmp_ok($most, '<', 5000, 'nor does DROP EXTENSION');
my %seen;
append_to_file("$dir/enough", '');
$_->finish for @clients;
$seen{$_}++ for map { slurp_file("$dir/errors.$_") =~ /(?:ERROR|FATAL):  (\w+)/g } 1 .. 3;
# No schema, no function, no table, no such queue; it is there already; dropped under one's hands.
my %expected = map { $_ => 1 } qw(3F000 42883 42P01 42704 42710 40P01 PJ001 XX000);
is(join(' ', sort grep { !$expected{$_} } keys %seen), '', 'clients hear of nothing else: ' . join ' ', map { "$_ $seen{$_}" } sort keys %seen);
unlike(log_since($node, $offset), qr/ XX000 [^\n]*\n(?:[^\n]*BACKTRACE:[^\n]*\n|\t[^\n]*\n)*?\t[^\n]*pgjobs\.so/, 'nothing of ours looks for what is gone');
ok(wait_until(sub { !workers($node, 'app') }, 20), 'the worker has left');

# ---- databases made from a template that has the extension (E1) ----

$node->safe_psql('postgres', 'CREATE DATABASE model');
$node->safe_psql('model', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q', '"of the template"', delay => '1 ms')});
$node->safe_psql('postgres', 'ALTER DATABASE model IS_TEMPLATE true ALLOW_CONNECTIONS false');
my @times;
for my $round (1 .. 20) {
    push @times, 1000 * timed(sub { $node->safe_psql('postgres', 'CREATE DATABASE shortlived TEMPLATE model') });
    # The worker is there and busy.
    $node->safe_psql('shortlived', q{SELECT pgjobs.create_queue('own'); SELECT count(pgjobs.enqueue('own', delay => n * interval '1 ms')) FROM generate_series(1, 50) n}) if $round % 2;
    wait_for_worker($node, 'shortlived') if $round % 2;
    is($node->safe_psql('shortlived', q{SELECT quarantined FROM pgjobs.queues WHERE name = 'q'}), 't', 'what comes from the template is quarantined') if $round == 1;
    push @times, 1000 * timed(sub { $node->safe_psql('postgres', 'DROP DATABASE shortlived') });
}
(undef, $most) = figures('CREATE and DROP DATABASE', @times);
cmp_ok($most, '<=', 2000, 'twenty databases come and go at once');

# ---- a catalog that is not as the library expects it (E4) ----

$node->safe_psql('postgres', 'CREATE DATABASE strange');
$node->safe_psql('strange', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q', '{a,b}'), pgjobs.create_topic('t'); SELECT pgjobs.subscribe('s', 't'); SELECT pgjobs.enqueue('q', delay => '1 s')});
my $calls = q{
    SELECT pgjobs.enqueue('q', unique_key => 'k'); SELECT pgjobs.enqueue_many('q', '{1,2}'); SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q', 2);
    SELECT pgjobs.fail(id, token, 'e') FROM pgjobs.claim('q'); SELECT * FROM pgjobs.jobs; SELECT * FROM pgjobs.health(); SELECT pgjobs.metrics();
    SELECT pgjobs.publish('t', '1'); SELECT * FROM pgjobs.receive('s'); SELECT pgjobs.retry(1); SELECT pgjobs.why(1); SELECT * FROM pgjobs.queues;
    SELECT pgjobs.create_queue('another'); SELECT pgjobs.drop_queue('another', true); SELECT pgjobs._keep_history(now()); SELECT pgjobs._reap(now());
    SELECT pgjobs._recount(); SELECT pgjobs.resume(); SELECT pgjobs._deliver(now()); SELECT pgjobs._keep_topics(now()); CALL pgjobs.wait('q', '0');
};
my @columns = split /\n/, $node->safe_psql('strange', q{
    SELECT format('%I RENAME COLUMN %I', c.relname, a.attname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'pgjobs'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND c.relname !~ 'receipt_[12]'
    UNION ALL SELECT format('%I RENAME', c.relname) FROM pg_class c WHERE c.relnamespace = 'pgjobs'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition});
cmp_ok(scalar @columns, '>', 80, 'columns and tables are renamed: ' . @columns);
$offset = -s $node->logfile;
my %states;
for my $column (@columns) {
    my ($name) = $column =~ /(\w+|"[^"]+")$/;
    my ($table) = $column =~ /^(\S+)/;
    my $whole = $column =~ /RENAME$/;
    my ($there, $back) = $whole ? ("$table RENAME TO gone", "gone RENAME TO $table") : ("$column TO gone", "$table RENAME COLUMN gone TO $name");
    my ($code, $out, $err) = $node->psql('strange', "ALTER TABLE pgjobs.$there", on_error_stop => 1);
    next if $code != 0; # an inherited one
    ($code, $out, $err) = $node->psql('strange', $calls, extra_params => [ '-v', 'VERBOSITY=sqlstate' ], on_error_stop => 0);
    $states{$_}++ for $err =~ /ERROR:  (\w+)/g;
    $node->psql('strange', "ALTER TABLE pgjobs.$back");
}
note(join ' ', map { "$_ $states{$_}" } sort keys %states);
cmp_ok($states{'42703'} // 0, '>', 50, 'calls fail');
ok($node->poll_query_until('strange', q{SELECT state = 'ready' FROM pgjobs.jobs WHERE id = 1}), 'and go on when all is as it was, the worker too');
my $log = log_since($node, $offset);
unlike($log, qr/terminated by signal|PANIC|TRAP/, 'nobody crashes');

# ---- many more queues and leases than there are places for (E20) ----

$node->safe_psql('postgres', q{
    SELECT count(pgjobs.create_queue('queue_' || n)) FROM generate_series(1, 640) n;
    SELECT count(pgjobs.enqueue('queue_' || n, to_jsonb(n))) FROM generate_series(1, 640) n;
    SELECT count(pgjobs.enqueue('queue_' || n, to_jsonb(n), delay => '10 ms')) FROM generate_series(1, 640) n;
});
ok($node->poll_query_until('postgres', q{SELECT sum(ready) = 1280 FROM pgjobs.queues}), 'ten times as many queues as places: all jobs become ready');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT c.id) FROM generate_series(1, 640) n, pgjobs.claim('queue_' || n, 1, lease => '100 ms') c}), '640|640', 'each can be claimed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM generate_series(1, 640) n, pgjobs.claim('queue_' || n, 1, lease => '1 hour') c}), '640', 'with more leases than places');
ok($node->poll_query_until('postgres', q{SELECT sum(ready) = 640 AND sum(running) = 640 FROM pgjobs.queues}), 'those that are over are reaped, the others not');
is($node->safe_psql('postgres', q{SELECT count(pgjobs.complete(id, token)) FROM pgjobs.job WHERE token IS NOT NULL}), 640, 'and their tokens are good');
is($node->safe_psql('postgres', 'SELECT pgjobs._check_frontier()'), 0, 'nothing stands where claims do not look');

# ---- no slot for the process that takes stale rows back (E7) ----

my $small = new_server('small', conf => qq{
    max_worker_processes = 2
    max_logical_replication_workers = 0
});
$small->safe_psql('postgres', q{
    CREATE TABLE runs (id int PRIMARY KEY, state text DEFAULT 'busy');
    INSERT INTO runs VALUES (1);
    SELECT pgjobs.create_queue('q');
    SELECT pgjobs.attach_table('runs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 second"}]');
});
ok($small->poll_query_until('postgres', q{SELECT due_at < now() - interval '2 seconds' FROM pgjobs.working_row}), 'a stale row, and no slot for its process');
$small->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', delay => '50 ms')});
is($small->safe_psql('postgres', q{CALL pgjobs.wait('q', '20 seconds')}), 't', 'everything else is looked after');
is($small->safe_psql('postgres', 'SELECT state FROM runs'), 'busy', 'the row waits');
my @told = slurp_file($small->logfile) =~ /could not start a process that takes stale rows back/g;
is(scalar @told, 1, 'the log says so once a minute');
$small->append_conf('postgresql.conf', 'max_worker_processes = 8');
$small->restart;
ok($small->poll_query_until('postgres', q{SELECT state = 'open' FROM runs}), 'until there is one');
$small->stop;

# ---- jobs that logical replication brings (E16) ----

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', q{
    CREATE EXTENSION pgjobs;
    SELECT pgjobs.create_queue('q');
    SELECT pgjobs.enqueue('q', to_jsonb(n)) FROM generate_series(1, 10) n;
    SELECT count(*) FROM pgjobs.claim('q', 3, lease => '1 second');
    SELECT pgjobs.enqueue('q', '"late"', delay => '1 second');
    CREATE PUBLICATION jobs FOR TABLE pgjobs.queue, pgjobs.stage, pgjobs.acl, pgjobs.job;
});
my $copy = new_server('copy');
$copy->safe_psql('postgres', qq{CREATE SUBSCRIPTION jobs CONNECTION '${\$node->connstr} dbname=source' PUBLICATION jobs WITH (two_phase)});
$copy->wait_for_subscription_sync($node, 'jobs', 'postgres');
$node->safe_psql('source', q{SELECT pgjobs.enqueue('q', '"streamed"', delay => '1 ms')});
$node->wait_for_catchup('jobs', 'replay', $node->safe_psql('source', 'SELECT pg_current_wal_lsn()'));
is($copy->safe_psql('postgres', 'SELECT count(*) FROM pgjobs.job'), 12, 'they are there');
is($copy->safe_psql('postgres', 'SELECT quarantined FROM pgjobs.queues'), 't', 'in a queue that is not at home');
is_state($copy, 'postgres', q{SELECT pgjobs.claim('q')}, 'PJ004', 'nobody gets them');
is_state($copy, 'postgres', q{CALL pgjobs.wait('q', '1 s')}, 'PJ004', 'or waits for them');
# The source's worker does what is to be done; that is replicated. The copy's touches nothing.
ok($node->poll_query_until('source', q{SELECT count(*) = 12 FROM pgjobs.jobs WHERE state = 'ready'}), 'at home leases end and delays are over');
$node->wait_for_catchup('jobs', 'replay', $node->safe_psql('source', 'SELECT pg_current_wal_lsn()'));
my $rows = q{SELECT md5(string_agg(j::text, ',' ORDER BY id)) FROM pgjobs.job j};
is($copy->safe_psql('postgres', $rows), $node->safe_psql('source', $rows), 'and the copy is a copy');
# What comes after resume() is announced as if it had been enqueued here.
is($copy->safe_psql('postgres', q{SELECT pgjobs.resume(); SELECT count(*) FROM pgjobs.claim('q', 100)}), "\n12", 'until resume()');
my $waiter = session($copy);
start_sql($waiter, q{CALL pgjobs.wait('q', '20 seconds')});
wait_until_waiting($copy, 'postgres', 1);
$node->safe_psql('source', q{SELECT pgjobs.enqueue('q', '"after"'), pgjobs.enqueue('q', '"first"', priority => -1, delay => '10 ms')});
my $arrived = timed(sub { is(result_of($waiter), 't', 'a job that is replicated wakes who waits') });
cmp_ok($arrived, '<', 5, 'soon');
ok($node->poll_query_until('source', q{SELECT count(*) = 14 FROM pgjobs.jobs WHERE state = 'ready'}), 'one becomes ready at home');
$node->wait_for_catchup('jobs', 'replay', $node->safe_psql('source', 'SELECT pg_current_wal_lsn()'));
is($copy->safe_psql('postgres', q{SELECT string_agg(payload::text, ' ') FROM pgjobs.claim('q', 10)}), '"first" "after"', 'they are claimed in order');
is($copy->safe_psql('postgres', 'SELECT pgjobs._check_frontier()'), 0, 'nothing is hidden');
# Prepared transactions are replicated when they are prepared, and what ends them is no statement of a session.
ok($copy->poll_query_until('postgres', q{SELECT subtwophasestate = 'e' FROM pg_subscription}), 'prepared transactions are replicated');
for my $story ([ q{SELECT pgjobs.enqueue('q', '"prepared"', run_at => now() - interval '1 hour')}, 'COMMIT', 'prepared' ],
    [ q{SELECT pgjobs.cancel(id) FROM pgjobs.jobs WHERE payload = '"kept"'}, 'ROLLBACK', 'kept' ])
{
    my ($prepare, $verb, $job) = @$story;
    $node->safe_psql('source', qq{
        SELECT pgjobs.enqueue('q', '"kept"') WHERE '$job' = 'kept';
        BEGIN; $prepare; PREPARE TRANSACTION 'x';
        SELECT pgjobs.enqueue('q', '"beside"');
    });
    $node->wait_for_catchup('jobs', 'replay', $node->safe_psql('source', 'SELECT pg_current_wal_lsn()'));
    is($copy->safe_psql('postgres', q{SELECT count(*) FROM pg_prepared_xacts; SELECT payload FROM pgjobs.claim('q', 10); SELECT payload FROM pgjobs.claim('q', 10)}), qq{1\n"beside"}, "$verb PREPARED: before it, others are claimed");
    start_sql($waiter, q{CALL pgjobs.wait('q', '20 seconds')});
    wait_until_waiting($copy, 'postgres', 1);
    $node->safe_psql('source', "$verb PREPARED 'x'");
    my $told = timed(sub { is(result_of($waiter), 't', "$verb PREPARED wakes who waits") });
    cmp_ok($told, '<', 2, 'soon');
    is($copy->safe_psql('postgres', q{SELECT pgjobs._check_frontier(); SELECT payload FROM pgjobs.claim('q', 10)}), qq{0\n"$job"}, 'and the job is found');
}
$copy->safe_psql('postgres', 'DROP SUBSCRIPTION jobs');
my $last = $copy->safe_psql('postgres', 'SELECT pgjobs.resume(); SELECT max(id) FROM pgjobs.job') =~ s/^\n//r;
is($copy->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')}), $last + 1, 'new jobs have new ids');
$copy->stop;
$node->stop;

done_testing();

# What a review found: rows that somebody holds must not hide others, a notification that could not
# be sent is sent later, an extension that comes by COMMIT PREPARED gets its worker, counters of a
# queue are for those who may see it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use Pgjobs;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('review', conf => <<~'CONF');
    max_prepared_transactions = 5
    pgjobs.idle_exit = 1
    wal_level = replica
    max_wal_senders = 1
    CONF

sub state_of {
    my ($id) = @_;
    return $node->safe_psql('postgres', "SELECT state FROM pgjobs.jobs WHERE id = $id");
}

# ---- more rows are locked than a duty takes in a batch ----

$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('delayed');
    SELECT count(pgjobs.enqueue('delayed', delay => '1 second')) FROM generate_series(1, 1500);
    CREATE TABLE held AS SELECT id FROM pgjobs.jobs WHERE queue = 'delayed';
    BEGIN;
    SELECT count(pgjobs.reprioritize(id, 5)) FROM held;
    PREPARE TRANSACTION 'reprioritized';
});
my $late = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('delayed', delay => '1 second')});
ok(wait_until(sub { state_of($late) eq 'ready' }), 'a delayed job behind 1500 locked ones becomes ready');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'reprioritized'});
ok(wait_until(sub { $node->safe_psql('postgres',
            q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'delayed' AND state = 'ready'}) == 1501 }),
    'and the others when they are free');

$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('expiring');
    SELECT count(pgjobs.enqueue('expiring', expires_at => now() + '2 seconds')) FROM generate_series(1, 1500);
    BEGIN;
    SELECT count(pgjobs.reprioritize(id, 5)) FROM pgjobs.jobs WHERE queue = 'expiring';
    PREPARE TRANSACTION 'expiring';
});
$late = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('expiring', expires_at => now() + '2 seconds')});
ok(wait_until(sub { state_of($late) eq 'cancelled' }), 'a job behind 1500 locked ones expires');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'expiring'});

$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('leased');
    SELECT count(pgjobs.enqueue('leased')) FROM generate_series(1, 5001);
    CREATE TABLE claimed AS SELECT id, token FROM pgjobs.claim('leased', 5000, lease => '1 second');
    BEGIN;
    SELECT count(pgjobs.complete(id, token)) FROM claimed;
    PREPARE TRANSACTION 'completed';
});
$late = $node->safe_psql('postgres', q{SELECT id FROM pgjobs.claim('leased', lease => '1 second')});
ok(wait_until(sub { state_of($late) eq 'ready' }), 'a lease ends while 5000 others that are over are locked');
$node->safe_psql('postgres', q{COMMIT PREPARED 'completed'});

# ---- NOTIFY fails for a while ----

# A commit that waits for its standby holds the lock that every NOTIFY needs.
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('told')});
my $listener = session($node);
$listener->query_safe('LISTEN pgjobs_told');
my $offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'nobody'");
$node->reload;
ok(wait_until(sub { $node->safe_psql('postgres', 'SHOW synchronous_standby_names') eq 'nobody' }), 'commits wait');
my $notifier = session($node);
start_sql($notifier, 'BEGIN; CREATE TABLE waits (); NOTIFY somebody; COMMIT;');
ok(wait_until(sub { $node->safe_psql('postgres',
            q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) == 1 }), 'one does');
$node->safe_psql('postgres', q{SET synchronous_commit = local; SELECT pgjobs.enqueue('told')});
ok(wait_until(sub { log_since($node, $offset) =~ /tried again in 1600 ms/ }), 'notifying fails');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
result_of($notifier);
ok(wait_until(sub { $listener->query_safe('SELECT 1') =~ /"pgjobs_told"/ }),
    'the listener hears of it when NOTIFY works again');
$_->quit for $listener, $notifier;

# ---- the extension comes by COMMIT PREPARED ----

$node->safe_psql('postgres', 'CREATE DATABASE later');
ok(wait_until(sub { !workers($node, 'later') }), 'a database without the extension has no worker');
$node->safe_psql('later', q{BEGIN; CREATE EXTENSION pgjobs; PREPARE TRANSACTION 'extension'});
ok(wait_until(sub { !workers($node, 'later') }), 'nor has one whose extension is prepared');
$node->safe_psql('later', q{COMMIT PREPARED 'extension'});
$late = $node->safe_psql('later', q{
    SELECT pgjobs.create_queue('q');
    SELECT pgjobs.enqueue('q', delay => '100 milliseconds')});
$late =~ s/\s//g;
ok(wait_until(sub { $node->safe_psql('later', "SELECT state FROM pgjobs.jobs WHERE id = $late") eq 'ready' }),
    'its delayed job becomes ready');

# ---- counters ----

$node->safe_psql('postgres', q{
    CREATE ROLE watcher LOGIN;
    SELECT pgjobs.create_queue('seen');
    SELECT pgjobs.enqueue('seen');
    SELECT pgjobs.grant_queue('seen', 'watcher', '{monitor}')});
is($node->safe_psql('postgres', q{
        SELECT q.name FROM generate_series(1, 20) n, LATERAL pgjobs._queue_counters(n) c
        JOIN pgjobs.queues q ON true WHERE c.enqueued > 0}, extra_params => [ '-U', 'watcher' ]),
    'seen', 'a role counts what happens in the queues that it may see, and in no other');

$node->stop;
done_testing();

# Heartbeats are kept in shared memory. A crash of the server loses them, and still nobody gets a job
# before the end that its worker was told.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'pgjobs'});
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION pgjobs;
	SELECT pgjobs.create_queue('work', lease => '4 seconds', durable_claims => true, backoff => '0');
	SELECT pgjobs.enqueue('work')});

sub value { my ($sql) = @_; return $node->safe_psql('postgres', $sql) }

my ($id, $token, $claimed_until) =
  split /\|/, value(q{SELECT id, token, lease_expires_at FROM pgjobs.claim('work')});
my $row = value(q{SELECT ctid, xmin FROM pgjobs.job});
ok($node->poll_query_until('postgres', qq{SELECT clock_timestamp() > '$claimed_until'::timestamptz - interval '1 second'}),
	'most of the lease is over');
my $promised = value("SELECT pgjobs.extend($id, $token)");
is(value(q{SELECT ctid, xmin FROM pgjobs.job}), $row, 'the heartbeat wrote no row');
is(value("SELECT lease_expires_at = '$promised' FROM pgjobs.jobs"), 't', 'the view shows the new end');

$node->stop('immediate');
$node->start;
is(value("SELECT state FROM pgjobs.jobs WHERE id = $id"), 'running', 'after a crash the job runs on');
ok($node->poll_query_until('postgres', qq{SELECT clock_timestamp() > '$promised'::timestamptz - interval '500 milliseconds'}),
	'the promised end comes near');
my $again = value("SELECT pgjobs.extend($id, $token)");
is(value("SELECT '$again'::timestamptz > '$promised'::timestamptz"), 't', 'the worker is still there');

$node->stop('immediate');
$node->start;
my $since = value(q{SELECT clock_timestamp()});
ok($node->poll_query_until('postgres', "SELECT attempt = 2 FROM pgjobs.claim('work')"), 'without a heartbeat somebody else gets it');
is(value("SELECT started_at >= '$again'::timestamptz FROM pgjobs.jobs WHERE id = $id"), 't', 'but not before the end that was told');
is(value("SELECT started_at < '$since'::timestamptz + interval '10 seconds' FROM pgjobs.jobs WHERE id = $id"), 't',
	'and not much later than a lease after the start');
$node->stop;
done_testing();

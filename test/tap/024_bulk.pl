# A million jobs in one transaction: the session does not grow with them, and they wake up once.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $most = 200 * 1024 * 1024;    # bytes of memory, for a million jobs
my $jobs = 1_000_000;

my $node = new_server('main', conf => "shared_buffers = 256MB\nmax_wal_size = 8GB\nfsync = off");
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('q', lease => '1 hour')});

my $listener = session($node);
$listener->query_safe(q{LISTEN "pgjobs_q"});

my $producer = session($node);
$producer->query_safe('BEGIN');
is($producer->query_safe(qq{SELECT count(pgjobs.enqueue('q', to_jsonb(n))) FROM generate_series(1, $jobs) n}),
    $jobs, 'a million jobs are added one by one in a statement');
my $memory = $producer->query_safe('SELECT sum(total_bytes) FROM pg_backend_memory_contexts');
cmp_ok($memory, '<', $most, "the session's memory stays small");
note sprintf '%.1f MB', $memory / 1024 / 1024;
is($node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim('q')}), 0, 'nobody sees them yet');
$producer->query_safe('COMMIT');
$node->poll_query_until('postgres', q{SELECT ready >= 1000000 FROM pgjobs.queues});

my $heard = '';
ok(wait_until(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /Asynchronous/ }, 10), 'the commit is heard');
# What comes last is heard behind all that came before.
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('last'); SELECT pg_notify('pgjobs_q', 'last')});
wait_until(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /payload "last"/ }, 10);
my @calls = $heard =~ /Asynchronous notification "pgjobs_q"(?! with payload "last")/g;
is(scalar @calls, 1, 'once');

# A batch as large as claims and completes go.
my $done = $node->safe_psql('postgres', q{
    SELECT cardinality(pgjobs.complete_many(array_agg(id), array_agg(token))) FROM pgjobs.claim('q', 10000)});
is($done, 10000, 'ten thousand are claimed and completed in one statement');
is($node->safe_psql('postgres', q{SELECT ready FROM pgjobs.queues WHERE name = 'q'}), $jobs - 10000, 'the others wait');
is($node->safe_psql('postgres', q{SELECT pgjobs._check_frontier()}), 0, 'and would be found');

$producer->quit;
$listener->quit;
$node->stop;
done_testing();

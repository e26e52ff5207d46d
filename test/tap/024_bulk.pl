# A million jobs in one transaction: the session does not grow with them, and they wake up once. Many workers at once
# make no MultiXacts and no subtransactions.
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

# ---- what the server runs out of, and where its caches overflow ----

my $multixacts = q{SELECT next_multixact_id FROM pg_control_checkpoint()};
my $xids = q{SELECT pg_snapshot_xmax(pg_current_snapshot())};
$node->safe_psql('postgres', 'CHECKPOINT');
my $before = $node->safe_psql('postgres', $multixacts);
my $xid = $node->safe_psql('postgres', $xids);
my $script = $node->basedir . '/worker';
append_to_file($script, q{
\set key random(1, 20)
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q');
SELECT pgjobs.fail(id, token, retry_in => '0') FROM pgjobs.claim('q');
SELECT cardinality(pgjobs.complete_many(array_agg(id ORDER BY id DESC), array_agg(token ORDER BY id DESC))) FROM pgjobs.claim('q', 20);
SELECT pgjobs.enqueue('q', unique_key => ':key', on_conflict => 'replace', priority => -1);
BEGIN;
SELECT id, token FROM pgjobs.claim('q') \gset
SELECT pgjobs.extend(:id, :token), pgjobs.progress(:id, :token, 0.5);
SELECT pgjobs.complete(:id, :token);
COMMIT;
SELECT pgjobs.cancel(:id - 1);
});
$node->command_ok([ 'pgbench', '-n', '-c', 8, '-t', 500, '-f', $script, '-d', $node->connstr('postgres') ], 'eight workers');
is($node->safe_psql('postgres', q{SELECT ready < 1000000 - 10000 - 8 * 500 * 21 FROM pgjobs.queues WHERE name = 'q'}), 't', 'work off much');
$node->safe_psql('postgres', 'CHECKPOINT');
my $made = $node->safe_psql('postgres', $multixacts) - $before;
cmp_ok($made, '<=', 10, 'without MultiXacts');
# Six transactions in each turn; a subtransaction that writes would take an id of its own.
my $ids = $node->safe_psql('postgres', $xids) - $xid;
note("$ids ids of transactions, $made MultiXacts");
cmp_ok($ids, '<=', 8 * 500 * 6 + 500, 'without subtransactions');

$producer->quit;
$listener->quit;
$node->stop;
done_testing();

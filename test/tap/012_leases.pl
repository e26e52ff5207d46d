# The list of leases under load: callbacks of two transactions may run in another order than their
# commits, and a lease must not be forgotten for that.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => q{
synchronous_commit = off
pgjobs.max_leases = 65536
});
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('pipe', ARRAY['one', 'two', 'three'], notify => 'off', lease => '1 hour');
    SELECT pgjobs.enqueue_many('pipe', array_fill('{}'::jsonb, ARRAY[4]));
});

# Few jobs go from hand to hand through the stages, to workers that sleep until the commit before
# wakes them: the woken one often runs before the other's callback is through. Some jobs are left
# running.
my $script = "$PostgreSQL::Test::Utils::tmp_check/hands.sql";
append_to_file($script, q{
CALL pgjobs.wait('pipe', '50 ms');
SELECT count(*) AS found, COALESCE(max(id), 0) AS job, COALESCE(max(token), 1) AS token FROM pgjobs.claim('pipe') \gset
\set keep random(1, 50)
\if :found = 0
SELECT pgjobs.enqueue('pipe');
\elif :keep > 1
SELECT pgjobs.complete(:job, :token);
\endif
});
# On one processor, the woken one takes it from the one that wakes.
my ($processor) = slurp_file('/proc/self/status') =~ /^Cpus_allowed_list:\s*(\d+)/m;
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
system_or_bail('taskset', '-cp', $processor, $postmaster);
$node->command_ok([ 'taskset', '-c', $processor, 'pgbench', '-n', '-c', '8', '-j', '2', '-t', '400', '-f', $script, 'postgres' ],
    'jobs went from hand to hand');
cmp_ok($node->safe_psql('postgres', q{SELECT sum(running) FROM pgjobs.stages WHERE queue = 'pipe'}), '>', 10,
    'some are still running');
is($node->safe_psql('postgres', 'SELECT pgjobs._check_leases()'), 0, 'every running job is in the list');

# More running jobs than places: they are found in the table.
my $small = new_server('small', conf => q{
pgjobs.max_leases = 64
});
$small->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('q', notify => 'off', lease => '2 seconds');
    SELECT pgjobs.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[500]));
    SELECT count(*) FROM pgjobs.claim('q', 500);
});
ok($small->poll_query_until('postgres', q{SELECT count(*) = 500 FROM pgjobs.jobs WHERE state = 'ready'}),
    'all leases end, also those that have no place');

done_testing();

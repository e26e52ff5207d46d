# A running job is found at every moment, also while somebody moves it in its indexes: a verb that
# misses the row would call the lease lost.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => 'synchronous_commit = off');
my ($id, $token) = split /\|/, $node->safe_psql('postgres', q{
    SELECT NULL FROM (SELECT pgjobs.create_queue('q', notify => 'off', lease => '1 hour')) x \g /dev/null
    SELECT pgjobs.enqueue('q') \g /dev/null
    SELECT id, token FROM pgjobs.claim('q');
});

sub script {
    my ($name, $sql) = @_;
    my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
    append_to_file($file, $sql);
    return $file;
}

# Another priority is another place in the index: a new entry each time.
my $move = script('move', "\\set p random(-1000, 1000)\nSELECT pgjobs.reprioritize($id, :p);\n");
my $hold = script('hold', "SELECT pgjobs.extend($id, $token);\n");
$node->command_ok([ 'pgbench', '-n', '-M', 'prepared', '-c', '6', '-j', '2', '-t', '4000', '-f', $move, '-f', $hold,
        'postgres' ], 'no heartbeat was refused while the row moved');
is($node->safe_psql('postgres', "SELECT state FROM pgjobs.jobs WHERE id = $id"), 'running', 'the job is still running');

done_testing();

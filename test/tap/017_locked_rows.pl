# Who waits learns that a row is free again that somebody had only locked.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main');
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('q')});
my $id = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q')});
my $holder = session($node);
my $waiter = session($node);

for my $end (qw(COMMIT ROLLBACK)) {
    # A token that is not the job's: the row is locked to see that, and left as it is.
    $holder->query_safe('BEGIN');
    $holder->query_safe("SELECT pgjobs.complete_many(ARRAY[$id], ARRAY[1])");
    start_sql($waiter, q{CALL pgjobs.wait('q', '60 seconds')});
    ok(wait_until_waiting($node, 'postgres', 1), 'the row is locked: nothing to claim');
    my $seconds = timed(sub {
        $holder->query_safe($end);
        is(result_of($waiter), 't', "it is free after $end");
    });
    cmp_ok($seconds, '<', 20, 'and that is told');
}
$_->quit for $holder, $waiter;

done_testing();

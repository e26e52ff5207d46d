# Who waits learns that a row is free again that somebody had in his hands and left ready.
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

for my $end ('COMMIT', 'ROLLBACK', 'ROLLBACK TO s') {
    $holder->query_safe('BEGIN; SAVEPOINT s');
    $holder->query_safe("SELECT pgjobs.reprioritize($id, 5)");
    start_sql($waiter, q{CALL pgjobs.wait('q', '60 seconds')});
    ok(wait_until_waiting($node, 'postgres', 1), 'the row is locked: nothing to claim');
    my $seconds = timed(sub {
        $holder->query_safe($end);
        is(result_of($waiter), 't', "it is free after $end");
    });
    cmp_ok($seconds, '<', 20, 'and that is told');
    $holder->query_safe('ROLLBACK') if $end =~ /TO/;
}

# Who locks a row by plain SQL and leaves it as it is says nothing. The waiter looks again by itself.
$holder->query_safe('BEGIN; SELECT FROM pgjobs.job FOR UPDATE');
start_sql($waiter, q{CALL pgjobs.wait('q', '60 seconds')});
ok(wait_until_waiting($node, 'postgres', 1), 'the row is locked by plain SQL: nothing to claim');
my $seconds = timed(sub {
    $holder->query_safe('COMMIT');
    is(result_of($waiter), 't', 'it is free');
});
cmp_ok($seconds, '<', 20, 'and that is found out');
$_->quit for $holder, $waiter;

done_testing();

# A job completed where no history is kept leaves a receipt: over a restart, for one who awaits it,
# and gone after its turns.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main');
sub sql { return $node->safe_psql('postgres', @_) }
sub claimed { return split /\|/, sql(q{SELECT id, token FROM pgjobs.claim('q')}) }

sql(q{SELECT pgjobs.create_queue('q', retention => '0', lease => '1 hour')});
sql(q{SELECT pgjobs.enqueue('q') FROM generate_series(1, 4)});

my ($id, $token) = claimed();
my $waiter = session($node);
start_sql($waiter, "CALL pgjobs.await($id, '60 seconds')");
ok(wait_until_waiting($node, 'postgres', 1), 'somebody awaits the job');
is(sql("SELECT pgjobs.complete($id, $token)"), 'completed', 'it is completed');
is(result_of($waiter), 'completed|', 'who awaited it is told');
is_state($node, 'postgres', "CALL pgjobs.await($id, '0')", '42704', 'who comes later finds no job');

my ($other, $other_token) = claimed();
is(sql("BEGIN; SELECT pgjobs.complete($other, $other_token); PREPARE TRANSACTION 'p'"), 'completed', 'another is completed and prepared');

for my $stop (qw(fast immediate)) {
    $waiter->quit if $stop eq 'fast';
    $node->stop($stop);
    $node->start;
    is(sql("SELECT pgjobs.complete($id, $token)"), 'completed', "the same token is accepted after a restart ($stop)");
    is_state($node, 'postgres', "SELECT pgjobs.complete($id, $token + 1)", 'PJ001', 'and no other');
}

# A table in use is left for another time, be it by a prepared transaction.
my $turns = q{SELECT pgjobs._rotate_receipts(now() + n * interval '15 minutes') FROM generate_series(1, 2) n};
my $seconds = timed(sub { sql($turns) });
cmp_ok($seconds, '<', 20, 'the duty waits for nobody');
is(sql("SELECT pgjobs.complete($id, $token)"), 'completed', 'what could not be emptied is still there');
sql(q{COMMIT PREPARED 'p'});
is(sql("SELECT pgjobs.complete($other, $other_token)"), 'completed', 'a repeat of what was prepared');
sql($turns);
is_state($node, 'postgres', "SELECT pgjobs.complete($_->[0], $_->[1])", 'PJ001', 'two turns on it is gone')
    for [ $id, $token ], [ $other, $other_token ];
is(sql(q{SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ '^receipt_.$'}), 0, 'and the tables are empty');

done_testing();

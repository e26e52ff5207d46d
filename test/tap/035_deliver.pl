# A queue that subscribes to a topic gets its jobs at 20,000 a second and more, and while it does, the other
# duties of the worker have their turn.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $messages = 600_000;
my $node = new_server('main');
sub run { return $node->safe_psql('postgres', $_[0]) }

run(q{SELECT pgjobs.create_topic('t'), pgjobs.create_queue('fed'), pgjobs.create_queue('leased');
      SELECT pgjobs.subscribe_queue('fed', 't'), pgjobs.enqueue('leased'), pgjobs.enqueue('leased', delay => '300 milliseconds')});
# One commit: all of it is there at once.
run(qq{BEGIN; SELECT sum(cardinality(pgjobs.publish_many('t', array_fill('{"n": 1}'::jsonb, ARRAY[1000])))) FROM generate_series(1, $messages / 1000);
       SELECT id FROM pgjobs.claim('leased', lease => '300 milliseconds'); COMMIT});
my $began = time;
ok($node->poll_query_until('postgres', q{SELECT ready = 2 FROM pgjobs.queues WHERE name = 'leased'}), 'a lease ends, a job is promoted');
cmp_ok(run(q{SELECT lag_messages FROM pgjobs.subscriptions WHERE queue = 'fed'}), '>', 0, 'while messages are waiting');
ok($node->poll_query_until('postgres', q{SELECT lag_messages = 0 FROM pgjobs.subscriptions WHERE queue = 'fed'}), 'all are delivered');
my $rate = $messages / (time - $began);
note(sprintf '%.0f messages/s became jobs', $rate);
is(run(q{SELECT count(*) || ' ' || count(DISTINCT headers->'message'->>'position') FROM pgjobs.jobs WHERE queue = 'fed'}),
    "$messages $messages", 'each once');
done_testing();

# Listeners that stand still and listeners that end: nobody's commit waits for them, and who goes by the topic misses
# nothing (failures D2, D4).
# allow-log: NOTIFY queue is \d+% full
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $version = `pg_config --version` =~ /(\d+)/ ? $1 : 0;
my $node = new_server('main', conf => "fsync = off\n" . ($version >= 17 ? 'max_notify_queue_pages = 64' : ''));
sub sql { return $node->safe_psql('postgres', @_) }
sql(q{SELECT pgjobs.create_queue('q'), pgjobs.create_topic('t'), pgjobs.create_queue('told', notify => 'events', events_topic => 't')});

# ---- one that ends, again and again (D4) ----

# Events are heard until the session ends. Another listens anew, then reads what it does not have yet from the topic.
my $position = 0;
my (@read, $listener);
sub pid_of { return $_[0]->query('SELECT pg_backend_pid()') =~ /^(\d+)$/m ? $1 : 0 }
sub listen_anew {
    $listener = session($node);
    $listener->query_safe('LISTEN pgjobs_told');
    catch_up();
    return;
}
sub catch_up {
    for (split /\n/, sql("SELECT position, payload ->> 'job' FROM pgjobs.read('t', $position, 10000)")) {
        ($position, my $job) = split /\|/;
        push @read, $job;
    }
    return;
}
listen_anew();
my ($ended, $told) = (0, 0);
for my $round (1 .. 20) {
    # It is told while others go on, looks, and is ended.
    my ($producer) = start_script($node, 'postgres', join '', map { "SELECT pgjobs.enqueue('told');\n" } 1 .. 100);
    $told++ if wait_until(sub { sql(q{SELECT pgjobs.enqueue('told')}); $listener->query('SELECT 1') =~ /Asynchronous/ }, 20);
    catch_up();
    $ended++ if sql('SELECT pg_terminate_backend(' . pid_of($listener) . ', 10000)') eq 't';
    eval { $listener->{run}->kill_kill };
    listen_anew();
    $producer->finish;
}
catch_up();
is("$told $ended", '20 20', 'a listener is told, and ended, twenty times');
is("@read", sql(q{SELECT string_agg(payload ->> 'job', ' ' ORDER BY position) FROM pgjobs.log}), 'each event is read once, in order');
is(scalar @read, sql('SELECT count(*) FROM pgjobs.job'), 'all of them');
cmp_ok(scalar @read, '>', 2000, 'many');
$listener->quit;

# ---- one that stands still in a transaction (D2) ----

# It keeps the server's queue of notifications from being emptied.
$listener = session($node);
$listener->query_safe('LISTEN pgjobs_q');
my $pid = pid_of($listener);
$listener->query_safe('BEGIN');
my $script = PostgreSQL::Test::Utils::tempdir() . '/enqueue';
append_to_file($script, q{SELECT pgjobs.enqueue('q')});
$node->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '5000', '-f', $script, 'postgres' ], '20,000 commits');
my $pages = sql('SELECT pg_notification_queue_usage()') * ($version >= 17 ? 64 : 1 << 20); # 8 kB each
cmp_ok($pages, '<', 10, 'leave next to nothing in the queue of notifications, where one for each would take 80 pages');

# Others can fill it nevertheless, where it is small.
if ($version >= 17) {
    $node->psql('postgres', q{SELECT count(pg_notify('foreign', repeat('x', 7000) || n)) FROM generate_series(1, 200) n});
    cmp_ok(sql('SELECT pg_notification_queue_usage()'), '>', 0.9, 'the queue of notifications is full');
    is_state($node, 'postgres', q{SELECT pg_notify('foreign', repeat('x', 7000))}, '54000', 'no commit can notify');
    is(sql(q{SELECT pgjobs.enqueue('told') > 0; SELECT pgjobs.complete(id, token) FROM pgjobs.claim('told')}), "t\ncompleted", 'jobs flow');
    like(sql(q{SELECT detail FROM pgjobs.health() WHERE NOT ok}), qr/% full: a listener sits in a transaction; the oldest is that of process $pid$/, 'health() names who it is');
    my $other = session($node);
    $other->query_safe('LISTEN pgjobs_told');
    $listener->query_safe('COMMIT');
    ok(wait_until(sub { $other->query('SELECT 1') =~ /resync/ }, 20), 'once it goes on, others are told to look');
    $other->quit;
}
$listener->quit;
$node->stop;
done_testing();

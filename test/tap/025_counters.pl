# The figures behind the views stay right, whatever happens to the server and to the transactions that
# change jobs. Where they are not known the table is counted, so that the views are right at any time.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('counters');
my $counted = q{SELECT bool_and(f.counted) FROM pgjobs.queue q, pgjobs._figures(q.id) f};

sub sql { return $node->safe_psql('postgres', @_) }
sub shown { return sql(q{SELECT string_agg(concat_ws('/', name, ready, running, scheduled), ' ' ORDER BY name) FROM pgjobs.queues}) }

sub is_shown {
    my ($expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(shown(), $expected, $name);
}

sub is_counted {
    my ($name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($node->poll_query_until('postgres', $counted), "$name: the worker has counted");
    is(sql('SELECT pgjobs._recount()'), 0, "$name: rightly");
}

sql(q{
    SELECT pgjobs.create_queue('a', retention => '0'), pgjobs.create_queue('b', ARRAY['one', 'two']);
    SELECT pgjobs.enqueue_many('a', '{1,2,3}'), pgjobs.enqueue('b', delay => '1 day');
    SELECT count(*) FROM pgjobs.claim('a', lease => '1 day')});
is(sql($counted), 't', 'what is new is counted from its beginning');
is_shown('a/2/1/0 b/0/0/1', 'figures');

# ---- crash and restart ----

$node->stop('immediate');
$node->start;
is_shown('a/2/1/0 b/0/0/1', 'after a crash');
is_counted('after a crash');
$node->restart;
is_shown('a/2/1/0 b/0/0/1', 'after a restart');
is_counted('after a restart');

# ---- prepared transactions ----

sql(q{BEGIN; SELECT pgjobs.enqueue('a'); SELECT count(*) FROM pgjobs.claim('a'); PREPARE TRANSACTION 'one'});
is_shown('a/2/1/0 b/0/0/1', 'prepared: nothing has changed');
is(sql($counted), 'f', 'prepared: not known');
sql(q{SELECT pgjobs.enqueue('b')});
is_shown('a/2/1/0 b/1/0/1', 'prepared: others go on');
is(sqlstate_of($node, 'postgres', q{SET lock_timeout = '1s'; SELECT pgjobs._recount()}), '55P03', 'prepared: nobody can count');
sql(q{COMMIT PREPARED 'one'});
is_shown('a/2/2/0 b/1/0/1', 'COMMIT PREPARED');
is_counted('COMMIT PREPARED');
sql(q{BEGIN; SELECT pgjobs.enqueue('a'); PREPARE TRANSACTION 'two'});
$node->stop('immediate');
$node->start;
is_shown('a/2/2/0 b/1/0/1', 'prepared, and a crash');
sql(q{ROLLBACK PREPARED 'two'});
is_shown('a/2/2/0 b/1/0/1', 'ROLLBACK PREPARED');
is_counted('ROLLBACK PREPARED');
sql(q{BEGIN; SELECT pgjobs.enqueue('a'); PREPARE TRANSACTION 'three'});
$node->restart;
sql(q{COMMIT PREPARED 'three'});
is_shown('a/3/2/0 b/1/0/1', 'prepared, a restart, COMMIT PREPARED');
is_counted('prepared, a restart, COMMIT PREPARED');
sql(q{BEGIN; SELECT pgjobs.create_queue('c'), pgjobs.enqueue('c'); PREPARE TRANSACTION 'four'});
sql(q{COMMIT PREPARED 'four'});
is_shown('a/3/2/0 b/1/0/1 c/1/0/0', 'a queue of a prepared transaction');
is_counted('a queue of a prepared transaction');

# ---- a transaction that stays open ----

my $open = session($node);
$open->query_safe(q{BEGIN; SELECT pgjobs.enqueue('a')});
sql('SELECT pgjobs._reset_hints()');
is_shown('a/3/2/0 b/1/0/1 c/1/0/0', 'nobody can count while a transaction has changed jobs');
is(sql($counted), 'f', 'not known');
my $slowest = 0;
for (1 .. 20) {
    my $seconds = timed(sub { sql(q{SELECT pgjobs.enqueue('a'); SELECT pgjobs.complete(id, token) FROM pgjobs.claim('a')}) });
    $slowest = $seconds if $seconds > $slowest;
}
cmp_ok($slowest, '<', 2, 'others are not held up');
$open->query_safe('COMMIT');
is_shown('a/4/2/0 b/1/0/1 c/1/0/0', 'it commits');
is_counted('it commits');
$open->quit;

# ---- who looks does not count ----

my $looks = q{
    SELECT sum(ready) > 1000 FROM pgjobs.queues;
    SELECT sum(ready) > 1000 FROM pgjobs.stages;
    SELECT pg_stat_get_xact_numscans('pgjobs.job'::regclass);};
sql(q{SELECT pgjobs.enqueue_many('a', array_fill('1'::jsonb, ARRAY[1000]))});
is(sql("BEGIN; $looks COMMIT"), "t\nt\n0", 'the views do not read the table');
$open = session($node);
$open->query_safe(q{BEGIN; SELECT pgjobs.enqueue('a')});
sql('SELECT pgjobs._reset_hints()');
is(sql("BEGIN; $looks COMMIT"), "t\nt\n2", 'but once each where they must');
$open->query_safe('ROLLBACK');
$open->quit;

# ---- many clients ----

sql(q{SELECT pgjobs.alter_queue('b', backoff => '0'), pgjobs.alter_queue('a', notify => 'events')});
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/life.sql", q{
\set n random(1, 5)
\set p random(-1, 1)
\set what random(1, 8)
SELECT pgjobs.enqueue_many('a', array_fill('1'::jsonb, ARRAY[:n]), priority => :p);
SELECT pgjobs.enqueue('b', delay => '5 milliseconds');
BEGIN;
SELECT count(*) FROM pgjobs.claim('a', :n);
SAVEPOINT s;
SELECT pgjobs.complete_many(array_agg(id), array_agg(token)) FROM pgjobs.claim('b', 3) HAVING count(*) > 0;
\if :what = 1
ROLLBACK TO s;
\endif
\if :what = 2
ROLLBACK;
\else
COMMIT;
\endif
SELECT CASE :what WHEN 3 THEN pgjobs.release(id, token)::text WHEN 4 THEN pgjobs.fail(id, token) WHEN 5 THEN pgjobs.cancel(id)::text
    WHEN 6 THEN pgjobs.snooze(id, token, '1 millisecond')::text ELSE pgjobs.complete(id, token) END FROM pgjobs.claim('a', 4);
\if :what = 7
SELECT pgjobs.purge_queue('c');
\endif
} =~ s/\\if :what = (\d)/\\set yes :what = $1\n\\if :yes/gr);
my $figures;
my $pgbench = IPC::Run::start(
    [ 'pgbench', '-n', '-c', 8, '-j', 2, '-T', 10, '-f', "$dir/life.sql", $node->connstr('postgres') ],
    '<', \undef, '>', \$figures, '2>', "$dir/err");
# Meanwhile somebody forgets everything again and again, each time when the clients have gone on, and the
# worker counts.
my $counts = 0;
while ($pgbench->pumpable) {
    my $last = sql('SELECT last_value FROM pgjobs.job_id_seq');
    while ($pgbench->pumpable && sql('SELECT last_value FROM pgjobs.job_id_seq') < $last + 500) {
        $pgbench->pump_nb;
    }
    sql('SELECT pgjobs._reset_hints()');
    $counts++;
}
cmp_ok($counts, '>=', 3, "everything was forgotten $counts times");
$pgbench->finish;
like($figures, qr/number of transactions actually processed: [1-9]/, 'clients have worked');
note($figures);
unlike(slurp_file("$dir/err"), qr/error|abort/i, 'without errors');
ok($node->poll_query_until('postgres', $counted), 'all is counted, in spite of them');
ok($node->poll_query_until('postgres', q{SELECT pgjobs._promote(now()) = 0}), 'nothing moves any more');
is(sql('SELECT pgjobs._recount()'), 0, 'and all figures are right');
is(sql(q{SELECT sum(ready + running + scheduled + blocked) = (SELECT count(*) FROM pgjobs.job) FROM pgjobs.stages}), 't', 'as the views show');

$node->stop;
done_testing();

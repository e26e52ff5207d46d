# What a claim looks at: a few pages, whatever was in the queue before, whoever keeps dead rows, however much waits,
# and whatever the planner thinks. Counted, not timed.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $most = 50;        # buffers of a claim
my $dead = 20_000;
my $node = new_server('main', conf => "fsync = off\nautovacuum = off\nshared_buffers = 256MB");
sub sql { return $node->safe_psql('postgres', $_[0]) }
sql(q{
    CREATE FUNCTION cost(queue text, stage text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        plan json;
    BEGIN
        PERFORM FROM pgjobs.claim('warm'); -- what the session looks up once is not what a claim costs
        EXECUTE format('EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM pgjobs.claim(%L)', queue) INTO plan;
        RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
    END $$;
    CREATE FUNCTION work_off(queue text, OUT jobs bigint) LANGUAGE plpgsql AS $$
    BEGIN
        SELECT count(pgjobs.complete(id, token)) INTO jobs FROM pgjobs.claim(queue, 10000);
    END $$;
    SELECT pgjobs.create_queue(q, lease => '1 hour') FROM unnest(ARRAY['warm', 'q']) q;
});
my $session = session($node);

sub running { return sql(q{SELECT COALESCE(string_agg(payload #>> '{}', ' ' ORDER BY started_at), '') FROM pgjobs.jobs WHERE queue = 'q' AND state = 'running'}) }

# A claim takes the job with the payload, or none, and looks at few pages.
sub is_cheap {
    my ($payload, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $before = running();
    my $cost = $session->query_safe(q{SELECT cost('q')});
    note("$name: $cost buffers");
    cmp_ok($cost, '<=', $most, "$name: few pages");
    return is(running(), join(' ', grep { length } $before, $payload), "$name: the right job");
}

sub add {
    my ($payload, $more) = @_;
    return sql(qq{SELECT pgjobs.enqueue('q', '"$payload"'} . ($more // '') . ')');
}

sub worked_off {
    my $done = 0;
    while (my $jobs = sql(q{SELECT jobs FROM work_off('q')})) { $done += $jobs }
    return $done;
}

sub add_many {
    my ($count, $priority) = @_;
    return sql("SELECT cardinality(pgjobs.enqueue_many('q', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, $count) n), priority => $priority))");
}

sub forget_running { return sql(q{SELECT pgjobs.cancel(id) FROM pgjobs.jobs WHERE queue = 'q' AND state = 'running'}) }

# ---- nothing there ----

is_cheap('', 'an empty queue');
add('first');
is_cheap('first', 'a job in it');
forget_running();

# ---- dead rows that somebody keeps ----

# A transaction with a snapshot, a client that does not read its answer, and a prepared transaction that nobody ends.
my $reader = session($node);
my $snapshot = 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pgjobs.job';
$reader->query_safe($snapshot);
pipe(my $unread, my $writer);
my $deaf = fork();
if ($deaf == 0) {
    open(STDOUT, '>&', $writer);
    exec('psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'COPY (SELECT md5(n::text) FROM generate_series(1, 10000000) n) TO STDOUT') or exit(1);
}
wait_until(sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'}) == 1 }) or fail('the client reads');
sql(q{BEGIN; CREATE TABLE unfinished (); PREPARE TRANSACTION 'orphan'});
for (
    [ 'with all of them', sub { } ],
    [ 'without the snapshot', sub { $reader->query_safe('COMMIT') } ],
    [ 'with the prepared transaction alone', sub { kill('KILL', $deaf); waitpid($deaf, 0) } ])
{
    my ($name, $change) = @$_;
    $change->();
    add_many($dead, 5);
    is(worked_off(), $dead, "$name: many jobs are worked off");
    is_cheap('', "$name: a claim of nothing");
    add('late', ', priority => 5');
    is_cheap('late', "$name: a new job");
    add('urgent'); # in front of all that is dead
    is_cheap('urgent', "$name: an urgent one");
    is_cheap('', "$name: then nothing");
    forget_running();
}
sql(q{ROLLBACK PREPARED 'orphan'});
$reader->query_safe($snapshot);

# A prepared transaction that has added a job holds the bound, until it ends.
sql(q{BEGIN; SELECT pgjobs.enqueue('q', '"prepared"', priority => 5); PREPARE TRANSACTION 'job'});
add_many($dead, 5);
worked_off();
sql(q{COMMIT PREPARED 'job'});
wait_until(sub { sql(q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'q' AND state = 'ready'}) == 1 });
is(sql(q{SELECT payload FROM pgjobs.claim('q')}), '"prepared"', 'a prepared job');
sql(q{SELECT FROM pgjobs.claim('q')});
is_cheap('', 'afterwards: a claim of nothing');
forget_running();

# ---- jobs that come back in front of dead ones ----

for (
    [ 'released', q{SELECT pgjobs.release(id, token)} ],
    [ 'failed', q{SELECT pgjobs.fail(id, token, retry_in => '0')} ],
    [ 'reaped', q{SELECT pgjobs._reap(now() + interval '2 hours')} ])
{
    my ($name, $call) = @$_;
    add($_) for qw(one two);
    sql(q{SELECT FROM pgjobs.claim('q', 2)});
    add_many($dead, 0);
    is(worked_off(), $dead, "$name: many jobs are worked off");
    sql("$call FROM pgjobs.job WHERE token IS NOT NULL AND payload = '\"one\"'");
    is(sql(q{SELECT state FROM pgjobs.jobs WHERE payload = '"one"' AND finished_at IS NULL}), 'ready', "$name: one of the first is ready again");
    is_cheap('one', "$name: it is claimed");
    is_cheap($name eq 'reaped' ? 'two' : '', "$name: then the next");
    is_cheap('', "$name: then nothing");
    forget_running();
}

# ---- others add jobs all the time ----

add_many($dead, 0);
worked_off();
for my $n (1 .. 200) {
    $session->query_safe(q{BEGIN; SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q')});
    add($n);
    $session->query_safe('COMMIT');
}
is(worked_off(), 1, 'one is left of 200 that came while a claimer was under way');
is_cheap('', 'a claim of nothing');
append_to_file($node->basedir . '/load', q{
SELECT pgjobs.enqueue('q');
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q');
});
$node->command_ok([ 'pgbench', '-n', '-c', 8, '-t', 250, '-f', $node->basedir . '/load', '-d', $node->connstr('postgres') ], 'eight clients');
worked_off();
is_cheap('', 'after them: a claim of nothing');
$reader->quit;

# ---- much waits, and the planner knows nothing ----

add_many(200_000, 0);
sql('ANALYZE pgjobs.job');
my @scans = map { "SET enable_$_ = off" } qw(indexscan indexonlyscan bitmapscan);
my $first = q{BEGIN; SELECT string_agg(payload #>> '{}', ' ') FROM pgjobs.claim('q', 5); ROLLBACK};
is($session->query_safe($first), '1 2 3 4 5', 'the order of claims');
is_cheap('1', '200,000 jobs');
$session->query_safe(join('; ', @scans));
is($session->query_safe($first), '2 3 4 5 6', 'the order of claims without index scans');
is_cheap('2', '200,000 jobs without index scans');
sql('TRUNCATE pgjobs.job');
is_cheap('', 'statistics of jobs that are gone: a claim of nothing');
add('new');
is_cheap('new', 'statistics of jobs that are gone: a job');
$session->query_safe('RESET ALL');
add_many($dead, 0);
worked_off();
add('kept');
sql('VACUUM FULL pgjobs.job');
is_cheap('kept', 'after VACUUM FULL');
is_cheap('', 'after VACUUM FULL: nothing');

is(sql('SELECT pgjobs._check_frontier()'), 0, 'nothing is hidden');
$session->quit;
$node->stop;
done_testing();

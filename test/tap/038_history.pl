# Partitions of the history come and go while others read them and finish jobs. Who reads delays dropping and
# nothing else; who finishes waits for one who makes the partition that he needs, or drops it. No worker is
# there: it would make what is to be missing.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => "pgjobs.databases = 'nowhere'\nfsync = off\nautovacuum = off");
sub sql { return $node->safe_psql('postgres', $_[0]) }
sql(q{
    CREATE FUNCTION leaves(earliest interval, latest interval) RETURNS SETOF regclass LANGUAGE sql AS $$
        SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
        WHERE inhparent = 'pgjobs.history'::regclass
            AND relname BETWEEN to_char(now() + earliest, '"history_"YYYYMMDD') AND to_char(now() + latest, '"history_"YYYYMMDD') $$;
    SELECT pgjobs.create_queue('q', retention => '1 day'), pgjobs.create_queue('later', retention => '1000 days');
});
my ($reader, $keeper, @worker) = map { session($node) } 1 .. 4;

# Partitions are there for the next week, but none for the jobs of "later".
sub begin_anew {
    sql(q{
        SELECT pgjobs._keep_history(now());
        DO $$
        DECLARE
            leaf regclass;
        BEGIN
            FOR leaf IN SELECT leaves('900 days', '2000 days') LOOP
                EXECUTE format('DROP TABLE %s', leaf);
            END LOOP;
        END $$;
    });
    return;
}

# How many partitions a keeper of next month's leaves.
my $keep = q{SELECT pgjobs._keep_history(now() + '40 days')};
my $old = q{SELECT count(*) FROM leaves('0', '39 days')};

sub finish {
    my ($queue) = @_;
    return "SELECT pgjobs.complete(id, token) FROM (SELECT pgjobs.enqueue('$queue')) e, pgjobs.claim('$queue')";
}

sub waits {
    my ($session, $sql, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    start_sql($session, $sql);
    return ok(wait_until(sub { sql(q{SELECT count(*) FROM pg_locks WHERE NOT granted}) > 0 }), $name);
}

# ---- who is in the way of dropping ----

for my $case (
    [ 'a reader of all', 'SELECT count(*) FROM pgjobs.history', 'all' ],
    [ 'a reader of one', q{DO $$ BEGIN EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', (SELECT min(l::text) FROM leaves('1 day', '9 days') l)); END $$}, 1 ],
    [ 'who finishes a job', finish('q'), 1 ])
{
    my ($name, $does, $left) = @$case;
    begin_anew();
    my $all = sql($old);
    $reader->query_safe("BEGIN; $does");
    sql($keep);
    is(sql($old), $left eq 'all' ? $all : $left, "$name keeps what he has");
    is(sql(finish('q')), 'completed', "$name: a job is finished");
    is(sql(finish('later')), 'completed', "$name: a job is finished for which there is no partition");
    $reader->query_safe('COMMIT');
    sql($keep);
    is(sql($old), 0, "$name: afterwards all goes");
}

# ---- while partitions are dropped ----

for my $end ('COMMIT', 'ROLLBACK') {
    begin_anew();
    my $all = sql($old);
    $keeper->query_safe("BEGIN; $keep");
    waits($worker[0], finish('q'), 'who needs a partition that is being dropped waits');
    $keeper->query_safe($end);
    is(result_of($worker[0]), 'completed', "and finishes his job after $end");
    is(sql($old), $end eq 'COMMIT' ? 1 : $all, 'there, or in a new one');
}

# ---- while one is made ----

for my $end ('COMMIT', 'ROLLBACK') {
    begin_anew();
    $worker[0]->query_safe('BEGIN; ' . finish('later'));
    my $before = sql(q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'later' AND state = 'completed'});
    is(sql(finish('q')), 'completed', 'while one makes a partition, jobs are finished elsewhere');
    waits($worker[1], finish('later'), 'another who needs it waits');
    $worker[0]->query_safe($end);
    is(result_of($worker[1]), 'completed', "and has it, or makes it, after $end");
    is(sql(q{SELECT count(*) FROM leaves('900 days', '2000 days')}), 1, 'it is there once');
    is(sql(q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'later' AND state = 'completed'}), $before + ($end eq 'COMMIT' ? 2 : 1), 'with the jobs');
}

is(sql('SELECT pgjobs._check_frontier()'), 0, 'nothing is hidden');
$_->quit for $reader, $keeper, @worker;
$node->stop;
done_testing();

# The frontier and prepared transactions, over restarts; and its places in shared memory.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => "pgjobs.max_queues = 64\nfsync = off");
sub sql { return $node->safe_psql('postgres', @_) }

# The payloads of jobs that a claim gives, in order.
sub claims {
    my ($queue, $most) = @_;
    return sql("SELECT payload FROM pgjobs.claim('$queue', $most)") =~ s/\n/ /gr;
}

sub is_claimed {
    my ($queue, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(sql('SELECT pgjobs._check_frontier()'), 0, "$name: nothing is hidden");
    is(claims($queue, 100), $expected, "$name: claims find it at once");
}

sub start_again {
    sql(q{DELETE FROM pgjobs.job});
    sql(q{SELECT pgjobs.enqueue(q, to_jsonb(n)) FROM generate_series(1, 3) n, unnest(ARRAY['a', 'b', 'c']) q});
}

sql(q{SELECT pgjobs.create_queue(q, lease => '1 hour') FROM unnest(ARRAY['a', 'b', 'c']) q});

# ---- prepared, over a restart ----

for my $stop ('', 'fast', 'immediate') {
    my $when = $stop ? "after a restart ($stop)" : 'without a restart';
    start_again();
    sql(q{BEGIN; SELECT id FROM pgjobs.claim('a'); PREPARE TRANSACTION 'a'});
    sql(q{
        BEGIN;
        SELECT pgjobs.enqueue('b', '"early"', run_at => now() - interval '1 hour');
        SELECT pgjobs.enqueue('b', '"urgent"', priority => -7);
        PREPARE TRANSACTION 'b'});
    sql(q{BEGIN; SELECT id FROM pgjobs.claim('c'); PREPARE TRANSACTION 'c'});
    sql(q{BEGIN; SELECT pgjobs.enqueue('c', '"late"'); PREPARE TRANSACTION 'd'});
    if ($stop) {
        $node->stop($stop);
        $node->start;
    }

    is(claims('a', 1), 2, "a prepared claim $when: its job is passed");
    sql(q{ROLLBACK PREPARED 'a'});
    is_claimed('a', '1 3', "prepared claim rolled back $when");

    is(claims('b', 100), '1 2 3', "prepared jobs $when: not seen");
    is(claims('b', 100), '', "prepared jobs $when: not seen once more");
    sql(q{COMMIT PREPARED 'b'});
    is_claimed('b', '"urgent" "early"', "prepared jobs committed $when");

    is(claims('c', 100), '2 3', "a prepared claim and a prepared job $when");
    sql(q{COMMIT PREPARED 'c'});
    is_claimed('c', '', "prepared claim committed $when");
    sql(q{COMMIT PREPARED 'd'});
    is_claimed('c', '"late"', "then the prepared job $when");
}

# ---- many at once ----

start_again();
sql(qq{BEGIN; SELECT pgjobs.enqueue('a', '"p$_"', priority => $_ % 5 - 2); PREPARE TRANSACTION 'p$_'}) for 1 .. 18;
is(claims('a', 100), '1 2 3', 'of 18 prepared transactions nothing is seen');
my $number = 0;
for my $p (map { $_ * 7 % 19 } 1 .. 18) {
    # One commits, one is rolled back, while claims look on.
    my $keep = $number++ % 2;
    sql(($keep ? 'COMMIT' : 'ROLLBACK') . " PREPARED 'p$p'");
    is(claims('a', 2), $keep ? qq{"p$p"} : '', "p$p is claimed " . ($keep ? 'once it is committed' : 'never'));
}
is_claimed('a', '', 'after all of them');

# More runs than a pin has places.
start_again();
sql(q{BEGIN; SELECT pgjobs.enqueue('a', to_jsonb(p), priority => p) FROM generate_series(-6, 6) p; PREPARE TRANSACTION 'many'});
is(claims('a', 100), '1 2 3', 'a prepared transaction of many priorities');
sql(q{COMMIT PREPARED 'many'});
is_claimed('a', join(' ', -6 .. 6), 'a prepared transaction of many priorities');

# ---- places ----

# A dropped queue gives its place back, so that a claim where nothing is ready still reads no index.
sql(q{DO $$ BEGIN
    FOR i IN 1..200 LOOP
        PERFORM pgjobs.create_queue('t' || i % 7, stages => ARRAY['a', 'b', 'c']);
        PERFORM FROM pgjobs.claim('t' || i % 7);
        COMMIT;
        PERFORM pgjobs.drop_queue('t' || i % 7);
        COMMIT;
    END LOOP;
END $$});
sql(q{SELECT pgjobs.create_queue('last')});
sql(q{SELECT FROM pgjobs.claim('last')}) for 1 .. 2;
is(sql(q{BEGIN; SELECT FROM pgjobs.claim('last') WHERE false; SELECT pg_stat_get_xact_numscans('pgjobs.job_due'::regclass); COMMIT}) =~ s/\s//gr,
    0, 'queues come and go, and the last still has a frontier');

done_testing();

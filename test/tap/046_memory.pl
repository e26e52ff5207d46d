# A session that gets no more memory: the call fails with 53200, the session goes on, and nothing is lost or hidden.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => "fsync = off\nautovacuum = off");
sub sql { return $node->safe_psql('postgres', @_) }
sql(q{
    SELECT pgjobs.create_queue('big'), pgjobs.create_queue('many', ARRAY['a', 'b']), pgjobs.create_topic('t'), pgjobs.subscribe('s', 't');
    SELECT count(pgjobs.enqueue('big', to_jsonb(repeat('x', 1000000)))) FROM generate_series(1, 200);
});

# Bytes of address space that the session's process may have beyond what it has; none: as many as it wants.
sub limit {
    my ($pid, $more) = @_;
    my ($size) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
    system_or_bail('prlimit', '--pid', $pid, '--as=' . (defined $more ? $size * 1024 + $more : 'unlimited') . ':unlimited');
    return;
}

# Calls for so many jobs, messages.
sub calls {
    my ($many) = @_;
    return map { s/:many/$many/gr }
        q{SELECT cardinality(pgjobs.enqueue_many('many', (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, :many) n)))},
        q{SELECT count(pgjobs.enqueue('many', priority => n % 20, unique_key => clock_timestamp()::text)) FROM generate_series(1, :many) n},
        q{SELECT cardinality(pgjobs.complete_many(array_agg(id), array_agg(token))) FROM pgjobs.claim('many', :many)},
        q{DO $$ BEGIN PERFORM pgjobs.fail(id, token, repeat('e', 100), retry => id % 2 = 0) FROM pgjobs.claim('many', :many);
            EXCEPTION WHEN out_of_memory THEN PERFORM pgjobs.enqueue('many'); RAISE; END $$},
        q{SELECT count(*) FROM pgjobs.claim('many', :many, hold => true)},
        q{SELECT cardinality(pgjobs.publish_many('t', (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, :many) n)))},
        q{SELECT count(*) FROM pgjobs.receive('s', :many)},
        q{SELECT pgjobs.seek('s', 0)},
        q{SELECT count(*) FROM pgjobs.jobs WHERE state = 'running'};
}

# What calls need only once, for code, stack and caches, they have before; the rest is theirs to ask for.
sub warm_session {
    my $session = session($node);
    my $pid = $session->query_safe('SELECT pg_backend_pid()');
    $session->query_safe("$_;") for calls(3), q{SELECT length(jsonb_agg(payload)::text) FROM (SELECT payload FROM pgjobs.jobs WHERE queue = 'big' LIMIT 1) x};
    return ($session, $pid);
}

# ---- 200 jobs of a megabyte each ----

my ($session, $pid) = warm_session();
limit($pid, 50 * 1024 * 1024);
start_sql($session, q{SELECT length(jsonb_agg(payload)::text) FROM pgjobs.claim('big', 200)});
like(result_of($session), qr/ERROR:  53200/, 'all payloads at once are too many');
is($session->query_safe(q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'big' AND state = 'ready' AND attempt = 0}), 200, 'the jobs are as they were');
is($session->query_safe(q{SELECT count(payload) FROM pgjobs.claim('big', 200)}), 200, 'one by one they are not');
is($session->query_safe(q{SELECT count(pgjobs.complete(id, token)) FROM pgjobs.job WHERE queue_id = (SELECT id FROM pgjobs.queue WHERE name = 'big')}), 200, 'and the session works on');
$session->quit;

# ---- less and less memory for everything ----

my (%states, @broken);
for my $more (map { $_ * 128 * 1024 } 0 .. 11) {
    my ($session, $pid) = warm_session();
    limit($pid, $more);
    for my $call (calls(3000)) {
        start_sql($session, $call);
        my $result = result_of($session);
        $states{ $result =~ /(?:ERROR|FATAL|PANIC):  (\w+)/ ? $1 : 'done' }++;
    }
    limit($pid);
    start_sql($session, join ';', calls(3));
    my $result = result_of($session);
    push @broken, $result if $result =~ /ERROR|FATAL/;
    $session->quit;
}
note(join ', ', map { "$_: $states{$_}" } sort keys %states);
is(join(' ', sort keys %states), '53200 done', 'calls fail for lack of memory, and for nothing else');
cmp_ok($states{'53200'} // 0, '>=', 2, 'some do');
cmp_ok($states{done}, '>=', 20, 'others do not');
is("@broken", '', 'every session goes on');
is(sql('SELECT pgjobs._check_frontier()'), 0, 'nothing is hidden');
is(sql('SELECT pgjobs._recount()'), 0, 'the figures are right');
is(sql(q{SELECT string_agg(name, ' ') FROM pgjobs.health() WHERE NOT ok}), '', 'health');
$node->stop;
done_testing();

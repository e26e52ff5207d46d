# What is inside a job or a message reaches nobody who may not see it (failures S-6): not in results, errors,
# hints or details of any function, not in views, not in what others see of our processes, not in notifications,
# and not in the server's log as it is by default.
# allow-log: pgjobs could not take row \d+ of the table
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => 'log_statement = none'); # the default; the tests' servers log all
my $log = -s $node->logfile;
my $stages = q{'[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 second"}]'};

# Every secret has the same word in it. It comes from a table, for the text of a statement that fails is logged.
$node->safe_psql('postgres', q{
    CREATE TABLE secret AS SELECT '"canary"'::jsonb AS j, '{"canary": "canary"}'::jsonb AS h, 'canary'::text AS t;
    SELECT pgjobs.create_queue('letters'), pgjobs.create_topic('t'), pgjobs.create_topic('events');
    SELECT pgjobs.create_queue('q', '{a,b}', notify => 'events', dead_letter => 'letters', events_topic => 'events', max_attempts => 2, backoff => '1 ms', backoff_max => '1 ms');
    SELECT pgjobs.create_queue('theirs'), pgjobs.create_topic('topic_of_theirs'), pgjobs.create_queue('fed');
    CREATE ROLE monitor LOGIN; CREATE ROLE watcher LOGIN; CREATE ROLE tenant LOGIN; CREATE ROLE stranger LOGIN;
    SELECT pgjobs.grant_queue(q, 'monitor', '{monitor}') FROM unnest('{q,letters,fed}'::text[]) q;
    SELECT pgjobs.grant_topic(t, 'monitor', '{monitor}') FROM unnest('{t,events}'::text[]) t;
    GRANT pg_monitor TO watcher;
    SELECT pgjobs.grant_queue('theirs', 'tenant', '{produce,work,operate,monitor,own}'), pgjobs.grant_topic('topic_of_theirs', 'tenant', '{publish,subscribe,monitor,own}');
    GRANT USAGE ON SCHEMA pgjobs TO monitor, watcher, tenant;
    GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO monitor, watcher, tenant;
    GRANT SELECT ON pgjobs.jobs, pgjobs.attempts, pgjobs.queues, pgjobs.stages, pgjobs.workers, pgjobs.topics, pgjobs.subscriptions, pgjobs.attached_tables TO monitor, watcher, tenant;
});
my $listener = session($node, user => 'stranger');
$listener->query_safe("LISTEN pgjobs_$_") for qw(q letters theirs fed);
$listener->query_safe("LISTEN $_") for qw(pgjobs told);

# ---- secrets wherever one can be, and everything that can go wrong with them ----

my $life = qq{
    SELECT pgjobs.enqueue('q', j, headers => h, unique_key => t || n) FROM secret, generate_series(1, 12) n;
    SELECT pgjobs.enqueue('q', j, unique_key => t || 'late', delay => '10 ms', expires_at => now() + '1 hour') FROM secret;
    SELECT pgjobs.enqueue('q', j, headers => h, expires_at => clock_timestamp() + '10 ms') FROM secret;
    SELECT pgjobs.complete(c.id, c.token, j) FROM secret, pgjobs.claim('q', 1) c;
    SELECT pgjobs.complete(c.id, c.token, j) FROM secret, pgjobs.claim('q', 1, stage => 'b') c;
    SELECT pgjobs.fail(c.id, c.token, t, retry => false) FROM secret, pgjobs.claim('q', 1) c;
    SELECT pgjobs.progress(c.id, c.token, 0.5, t), pgjobs.fail(c.id, c.token, t) FROM secret, pgjobs.claim('q', 1, worker => 'w') c;
    SELECT count(*) FROM pgjobs.claim('q', 2, lease => '10 ms');
    SELECT pgjobs.progress(c.id, c.token, 0.5, t) FROM secret, pgjobs.claim('q', 1) c;
    SELECT pgjobs.cancel(id) FROM (SELECT id FROM pgjobs.jobs WHERE queue = 'q' AND state = 'ready' LIMIT 1) x;
    SELECT pgjobs.subscribe('s', 't'), pgjobs.subscribe_queue('fed', 't', '%') FROM secret;
    SELECT pgjobs.publish('t', j, t || n, h) FROM secret, generate_series(1, 3) n;
    SELECT count(*) FROM pgjobs.receive('s', 2, '1 hour');
    CREATE TABLE runs (id int PRIMARY KEY, state text DEFAULT 'open', what text);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'not now' USING DETAIL = 'of the trigger'; END \$\$;
    SELECT pgjobs.attach_table('runs', 'state', $stages, channel => 'told', topic => 'events');
    INSERT INTO runs (id, what) SELECT n, t FROM secret, generate_series(1, 3) n;
    SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's', 2);
    CREATE TRIGGER refuse BEFORE UPDATE ON runs FOR EACH ROW WHEN (NEW.id = 1 AND NEW.state = 'open') EXECUTE FUNCTION refuse();
};
$node->safe_psql('postgres', $life);
my @failing = (
    [ '23505', q{SELECT pgjobs.enqueue('q', j, unique_key => t || '12', on_conflict => 'error') FROM secret} ],
    [ '23505', q{SELECT pgjobs.enqueue_many('q', ARRAY[j], unique_keys => ARRAY[t || '12'], on_conflict => 'error') FROM secret} ],
    [ '23505', q{SELECT pgjobs.enqueue_batch('q', jsonb_build_array(jsonb_build_object('payload', j, 'unique_key', t || '12', 'on_conflict', 'error'))) FROM secret} ],
    [ 'PJ001', q{SELECT pgjobs.complete(id, 1, j) FROM secret, pgjobs.jobs WHERE queue = 'q'} ],
    [ 'PJ001', q{SELECT pgjobs.fail(id, 1, t) FROM secret, pgjobs.jobs WHERE queue = 'q'} ],
    [ 'PJ001', q{SELECT pgjobs.progress(id, 1, 0.1, t) FROM secret, pgjobs.jobs WHERE queue = 'q'} ],
    [ '54000', q{SELECT pgjobs.enqueue('q', to_jsonb(repeat(t, 200000))) FROM secret} ],
    [ '54000', q{SELECT pgjobs.publish('t', to_jsonb(repeat(t, 200000))) FROM secret} ],
    [ '22023', q{SELECT pgjobs.enqueue('q', j, headers => j) FROM secret} ],
    [ '22023', q{SELECT pgjobs.enqueue('q', j, unique_key => repeat(t, 1000)) FROM secret} ],
    [ '22023', q{SELECT pgjobs.publish('t', j, repeat(t, 1000)) FROM secret} ],
    [ 'PJ001', q{SELECT pgjobs.ack('s', 1, 1)} ],
);
for my $case (@failing) {
    my ($expected, $sql) = @$case;
    my ($code, undef, $err) = $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
    like($err, qr/ERROR:  $expected/, "fails: $sql");
}
ok($node->poll_query_until('postgres', q{SELECT count(*) FILTER (WHERE queue = 'fed') = 3 AND count(*) FILTER (WHERE state IN ('scheduled', 'running')) <= 1 FROM pgjobs.jobs}),
    'the worker has reaped, promoted, expired and delivered');
ok($node->poll_query_until('postgres', q{SELECT state = 'open' FROM runs WHERE id = 2}), 'and had stale rows taken back');
# A dead job's key is taken by another meanwhile.
my $dead = $node->safe_psql('postgres', q{SELECT id FROM pgjobs.jobs WHERE queue = 'q' AND state = 'dead' LIMIT 1});
$node->safe_psql('postgres', "SELECT pgjobs.enqueue('q', unique_key => (SELECT unique_key FROM pgjobs.jobs WHERE id = $dead))");
is_state($node, 'postgres', "SELECT pgjobs.retry($dead)", '23505', 'fails: retry of a job whose key is taken');

# ---- everything that others can ask ----

# Every function with arguments of its types: all ids and names there are, and a token that is not theirs.
my %value = (
    'bigint' => 'j.id', 'bigint[]' => 'ARRAY[j.id]', 'integer' => '1', 'smallint' => '1::smallint', 'text' => "'%s'", 'text[]' => "ARRAY['monitor']",
    'name' => "'tenant'", 'jsonb' => "'{}'::jsonb", 'jsonb[]' => "ARRAY['{}'::jsonb]", 'boolean' => 'true', 'interval' => "interval '1 second'",
    'timestamp with time zone' => 'now()', 'double precision' => '0.5', 'regclass' => "'runs'::regclass", 'anyelement' => 'NULL::runs', 'interval[]' => "ARRAY[interval '1 s']",
);
my @functions = split /\n/, $node->safe_psql('postgres', q{
    SELECT p.proname || '|' || array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (t, n) ORDER BY n), ';')
    FROM pg_proc p WHERE p.pronamespace = 'pgjobs'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype ORDER BY 1});
cmp_ok(scalar @functions, '>', 70, 'functions are called: ' . @functions);
my @views = split /\n/, $node->safe_psql('postgres', q{SELECT relname FROM pg_class WHERE relnamespace = 'pgjobs'::regnamespace AND relkind = 'v'});
my $ids = join ',', split /\n/, $node->safe_psql('postgres', 'SELECT id FROM pgjobs.jobs ORDER BY 1');
my @unknown;
my $calls = '';
for my $function (@functions) {
    my ($name, @types) = split /[|;]/, $function;
    push @unknown, grep { !exists $value{$_} } @types;
    for my $place (qw(q letters t s fed)) {
        my $arguments = join ', ', map { sprintf($value{$_} // 'NULL', $place) } @types;
        $calls .= "SELECT pgjobs.$name($arguments) FROM (SELECT unnest('{$ids}'::bigint[]) AS id) j;\n";
        last unless grep { $_ eq 'text' } @types;
    }
}
is("@unknown", '', 'of every type');
$calls .= "SELECT v.* FROM pgjobs.$_ v;\n" for @views;
$calls .= "CALL pgjobs.await($_, '0');\n" for split /,/, $ids;
$calls .= qq{
    CALL pgjobs.wait('q', '0'); CALL pgjobs.wait_message('s', '0'); CALL pgjobs.wait_row('runs', 's', '0');
    SELECT a.* FROM pg_stat_activity a WHERE backend_type LIKE 'pgjobs%';
    SELECT s.* FROM pg_stats s; SELECT l.* FROM pg_locks l; SELECT p.* FROM pg_prepared_xacts p; SELECT d.* FROM pg_db_role_setting d; SELECT s.* FROM pg_shmem_allocations s;
};
my $state = q{SELECT md5(string_agg(j::text, ',' ORDER BY j.id)) FROM pgjobs.job j WHERE queue_id <> (SELECT id FROM pgjobs.queue WHERE name = 'theirs')};
my $before = $node->safe_psql('postgres', $state);
for my $role (qw(monitor watcher tenant)) {
    my ($code, $out, $err) = $node->psql('postgres', $calls, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ], on_error_stop => 0);
    cmp_ok(length($out) + length($err), '>', 10_000, "$role has been answered");
    unlike($_, qr/canary/, "$role sees no secret") for $out, $err;
}
is($node->safe_psql('postgres', $state), $before, 'and has changed nothing');
# The test sees what there is to see.
my ($code, $out) = $node->psql('postgres', $calls =~ s/SELECT pgjobs\.(?!job|why).*\n//gr, on_error_stop => 0);
cmp_ok(scalar(() = $out =~ /canary/g), '>', 20, 'who may see secrets does');

# ---- what is told and logged ----

my $heard = '';
wait_until(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /pgjobs_q/ && $heard =~ /told/ });
like($heard, qr/notification "pgjobs_q".*"state"/, 'a stranger hears of jobs');
like($heard, qr/notification "told"/, 'and rows');
unlike($heard, qr/canary/, 'but no secret');
$node->stop;
my $logged = log_since($node, $log);
$logged =~ s/^[^\n]* STATEMENT:  [^\n]*\n(?:\t[^\n]*\n)*//mg; # what clients have said themselves
like($logged, qr/ERROR:  an open job with this unique key exists/, 'the log has the errors');
like($logged, qr/pgjobs could not take row 1 of the table/, 'and those of the worker');
unlike($logged, qr/canary/, 'and no secret') or diag(join "\n", grep { /canary/ } split /\n/, $logged);

done_testing();

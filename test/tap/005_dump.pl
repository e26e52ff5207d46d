# pg_dump and pg_restore keep everything, and the restored copy touches nothing until resume().
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('source');
my $dir = PostgreSQL::Test::Utils::tempdir();

# ---- jobs in every state ----

$node->safe_psql('postgres', q{
    CREATE ROLE producer LOGIN;
    CREATE ROLE worker LOGIN;
    CREATE ROLE "Odd name" LOGIN;
    SELECT pgjobs.create_queue('dead_letters');
    SELECT pgjobs.create_queue('main', ARRAY['first', 'second'], max_attempts => 3, notify => 'events', dead_letter => 'dead_letters');
    SELECT pgjobs.create_queue('receipts', retention => '0', dead_retention => '0');
    SELECT pgjobs.create_queue('short', retention => '1 hour');
    SELECT pgjobs.create_queue('stopped');
    SELECT pgjobs.pause_queue('stopped');
    SELECT pgjobs.grant_queue('main', 'producer', ARRAY['produce', 'monitor']);
    SELECT pgjobs.grant_queue('main', 'worker', ARRAY['work']);
    SELECT pgjobs.grant_queue('short', 'Odd name', ARRAY['own', 'operate']);

    SELECT pgjobs.enqueue('main', jsonb_build_object('n', n), priority => n % 5, headers => '{"trace": "ä\"€"}', unique_key => 'key ' || n)
        FROM generate_series(1, 300) n;
    SELECT pgjobs.enqueue('main', '"later"', delay => '2 seconds', unique_key => 'later');
    SELECT pgjobs.enqueue('main', '"much later"', delay => '10 years', expires_at => now() + '20 years');
    SELECT pgjobs.enqueue('stopped', '"stopped"');
    SELECT pgjobs.complete(id, token, '"half"') FROM pgjobs.claim('main', 20);                 -- ready, second stage
    SELECT pgjobs.complete(id, token, '"whole"') FROM pgjobs.claim('main', 5, stage => 'second');  -- completed
    SELECT pgjobs.fail(id, token, 'broken', retry => false) FROM pgjobs.claim('main', 7);      -- dead
    SELECT pgjobs.fail(id, token, 'again') FROM pgjobs.claim('main', 6, stage => 'first');     -- scheduled
    SELECT pgjobs.cancel(id) FROM (SELECT id FROM pgjobs.jobs WHERE queue = 'main' AND state = 'ready' ORDER BY id LIMIT 4) x;
    SELECT count(*) FROM pgjobs.claim('main', 9, lease => '1 hour', worker => 'w1', stage => 'first');      -- running
    SELECT count(*) FROM pgjobs.claim('main', 3, lease => '2 seconds', worker => 'w2', stage => 'first');   -- soon expired
    SELECT pgjobs.progress(id, token, 0.25, 'a note') FROM pgjobs.job WHERE worker = 'w1';
    SELECT pgjobs.enqueue(q) FROM unnest(ARRAY['receipts', 'receipts', 'short', 'short']) q;
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('receipts', 1);
    SELECT pgjobs.fail(id, token, 'broken', retry => false) FROM pgjobs.claim('receipts', 1);
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('short', 1);

    -- Topics: messages in two segments, holes, readers in the middle.
    SELECT pgjobs.create_topic('builds', retention => '30 days'), pgjobs.create_topic('empty');
    SELECT pgjobs.subscribe('early', 'builds'), pgjobs.subscribe_queue('stopped', 'builds', key_pattern => 'k%');
    SELECT pgjobs.publish_many('builds', ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, 50) n), keys => ARRAY(SELECT CASE WHEN n % 10 = 0 THEN 'k' || n END FROM generate_series(1, 50) n));
    SELECT pgjobs._deliver(clock_timestamp()), pgjobs._keep_topics(clock_timestamp() + '10 days');
    SELECT pgjobs.publish('builds', to_jsonb(repeat('ä"', 9000)), headers => '{"h": 1}');
    BEGIN; SELECT pgjobs.publish('builds', '"hole"'); ROLLBACK;
    SELECT pgjobs.ack('early', max(token), max(position)) FROM pgjobs.receive('early', 20);
    SELECT count(*) FROM pgjobs.receive('early', 10, '1 hour');
    SELECT pgjobs.grant_topic('builds', 'producer', ARRAY['publish']), pgjobs.grant_topic('builds', 'Odd name', ARRAY['own', 'subscribe']);
});
my $holder = session($node);
$holder->query_safe(q{SELECT count(*) FROM pgjobs.claim('main', 2, hold => true, stage => 'first')});

# What may not change: every row of every table, but for oids, and what the views make of them. The home
# stays behind.
my %rows = (
    queue => 'SELECT q FROM pgjobs.queue q',
    stage => 'SELECT s FROM pgjobs.stage s',
    acl => 'SELECT (queue_id, role_name, rights) FROM pgjobs.acl',
    job => 'SELECT j FROM pgjobs.job j',
    history => 'SELECT h FROM pgjobs.history h',
    topic => 'SELECT t FROM pgjobs.topic t',
    topic_acl => 'SELECT (topic_id, role_name, rights) FROM pgjobs.topic_acl',
    segment => 'SELECT s FROM pgjobs.segment s',
    log => 'SELECT l FROM pgjobs.log l',
    subscription => 'SELECT s FROM pgjobs.subscription s',
    feed => 'SELECT f FROM pgjobs.feed f',
    log_segments => q{SELECT (c.relname, pg_get_expr(c.relpartbound, c.oid)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'pgjobs.log'::regclass},
    jobs => 'SELECT v FROM pgjobs.jobs v',
    attempts => 'SELECT v FROM pgjobs.attempts v',
    rights => q{SELECT (p.oid::regprocedure, a.grantee::regrole, a.privilege_type) FROM pg_proc p, aclexplode(p.proacl) a
        WHERE p.pronamespace = 'pgjobs'::regnamespace AND a.grantee > 0},
    partitions => q{SELECT (c.relname, pg_get_expr(c.relpartbound, c.oid)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'pgjobs.history'::regclass},
    sequences => q{SELECT (nextval('pgjobs.job_id_seq') > (SELECT max(id) FROM (SELECT id FROM pgjobs.job UNION ALL SELECT id FROM pgjobs.history) x),
        nextval('pgjobs.queue_id_seq') > (SELECT max(id) FROM pgjobs.queue))},
);
sub content {
    my ($server, $database) = @_;
    my %content;
    for my $what (grep { $_ ne 'sequences' } keys %rows) {
        $content{$what} = $server->safe_psql($database,
            "SET timezone = 'UTC'; SELECT count(*), md5(string_agg(r, ',' ORDER BY r COLLATE \"C\")) FROM (SELECT ($rows{$what})::text AS r) x"
              =~ s/SELECT \((SELECT)(.*)\)::text AS r/SELECT s.r::text AS r FROM ($1$2) AS s (r)/sr);
    }
    return \%content;
}
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM pgjobs.jobs}),
    'cancelled completed dead ready running scheduled', 'jobs in every state');

# The worker stands still while we compare: nothing is due for a moment.
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE worker = 'w2' AND state = 'running'});
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE state = 'scheduled' AND run_at < now() + '1 minute'});
$node->safe_psql('postgres', q{
    SELECT count(*) FROM pgjobs.claim('main', 3, lease => '1 second', worker => 'w2', stage => 'first');
    SELECT pgjobs.pause_queue('main');
    SELECT pgjobs.enqueue('main', '"soon"', delay => '1 second');
});
# From here on the server does nothing by itself.
$node->append_conf('postgresql.conf', q{pgjobs.databases = 'nowhere'});
$node->restart;
my $before = content($node, 'postgres');
note("$_: $before->{$_}") for sort keys %$before;

# ---- dumping and restoring ----

my $plain = "$dir/plain.sql";
command_ok([ 'pg_dump', '-f', $plain, '-d', $node->connstr('postgres') ], 'pg_dump, plain');
command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", '-d', $node->connstr('postgres') ], 'pg_dump, custom');
command_ok([ 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", '-d', $node->connstr('postgres') ], 'pg_dump, directory, two processes');
command_ok([ 'pg_dump', '-s', '-f', "$dir/structure.sql", '-d', $node->connstr('postgres') ], 'pg_dump, structure only');
unlike(slurp_file("$dir/structure.sql"), qr/^COPY|setval/m, 'has no rows, and no sequence has counted');
command_ok([ 'pg_dump', '-a', '-f', "$dir/data.sql", '-d', $node->connstr('postgres') ], 'pg_dump, data only');
command_ok([ 'pg_dump', '-a', '--disable-triggers', '-f', "$dir/untold.sql", '-d', $node->connstr('postgres') ], 'pg_dump, data only, past the triggers');

# Another cluster, with the same roles and other oids, whose worker is there all the time.
my $other = new_server('other', bare => 1);
$other->safe_psql('postgres', q{
    CREATE ROLE nobody;
    CREATE ROLE "Odd name" LOGIN;
    CREATE ROLE worker LOGIN;
    CREATE ROLE producer LOGIN;
});
my $offset = -s $other->logfile;
my @psql = ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f');
my %restore = (
    plain => [ [ @psql, $plain ] ],
    custom => [ [ 'pg_restore', '--exit-on-error', '-j2', "$dir/custom" ] ],
    directory => [ [ 'pg_restore', '--exit-on-error', '-j2', "$dir/directory" ] ],
    apart => [ [ @psql, "$dir/structure.sql" ], [ @psql, "$dir/data.sql" ] ],
    untold => [ [ @psql, "$dir/structure.sql" ], [ @psql, "$dir/untold.sql" ] ],
);
for my $format (sort keys %restore) {
    $other->safe_psql('postgres', "CREATE DATABASE $format");
    for my $step (@{ $restore{$format} }) {
        command_ok([ @$step, '-d', $other->connstr($format) ], "restored: $format");
    }
}

# Three seconds after the leases ended and the delay was over, at least.
ok($other->poll_query_until('plain', q{SELECT max(lease_expires_at) FILTER (WHERE worker = 'w2') < now() - interval '1 second' FROM pgjobs.jobs WHERE state = 'running'}), 'time passes');
for my $format (sort keys %restore) {
    my $after = content($other, $format);
    is($after->{$_}, $before->{$_}, "$format: $_ as before") for sort keys %$before;
    is($other->safe_psql($format, $rows{sequences}), '(t,t)', "$format: ids go on");
    is($other->safe_psql($format, q{SELECT count(*) FROM pgjobs.queues WHERE NOT quarantined}), 0, "$format: quarantined");
    is_state($other, $format, q{SELECT pgjobs.claim('main')}, 'PJ004', "$format: claim");
    is_state($other, $format, q{CALL pgjobs.wait('main', '1 second')}, 'PJ004', "$format: wait");
}
unlike(log_since($other, $offset), qr/pgjobs worker [0-9A-Z]{5} (?:LOG|ERROR|WARNING)/, 'the workers had no trouble');

# ---- a dump of the copy is the same dump ----

command_ok([ 'pg_dump', '-f', "$dir/again.sql", '-d', $other->connstr('plain') ], 'the copy is dumped');
my $first = slurp_file($plain);
my $again = slurp_file("$dir/again.sql");
# Oids of roles differ between clusters, we have drawn from the sequences, and COPY may put a row into a page
# before that of its predecessor.
for ($first, $again) {
    s/^\\(?:un)?restrict .*\n//mg;
    s/^SELECT pg_catalog\.setval.*$//mg;
    s/^(\d+\t)\d+(\t(?:producer|worker|Odd name)\t)/$1oid$2/mg;
    s/^(COPY [^\n]* FROM stdin;\n)(.*?)(^\\\.\n)/$1 . join('', sort split \/^\/m, $2) . $3/gmse;
}
is($again, $first, 'pg_dump of the copy equals pg_dump of the original');

# ---- resume ----

is_state($other, 'plain', 'SELECT pgjobs.resume()', '00000', 'resume()');
is($other->safe_psql('plain', q{SELECT count(*) FROM pgjobs.queues WHERE quarantined}), 0, 'no quarantine');
ok($other->poll_query_until('plain', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE state = 'running' AND worker = 'w2'}), 'expired leases are reaped');
ok($other->poll_query_until('plain', q{SELECT count(*) = 0 FROM pgjobs.job WHERE token IS NOT NULL AND hold_session IS NOT NULL}), 'what a session held elsewhere is ready');
ok($other->poll_query_until('plain', q{SELECT state = 'ready' FROM pgjobs.jobs WHERE payload = '"soon"'}), 'what was due becomes ready');
is($other->safe_psql('plain', q{SELECT count(*) FROM pgjobs.jobs WHERE state = 'running' AND worker = 'w1'}), 9, 'leases that last go on');
is($other->safe_psql('plain', q{SELECT pgjobs.complete(id, token) FROM pgjobs.job WHERE worker = 'w1' ORDER BY id LIMIT 1}), 'ready', 'their tokens are good');
is($other->safe_psql('plain', q{SELECT paused FROM pgjobs.queues WHERE name = 'stopped'}), 't', 'a paused queue is paused');
is($other->safe_psql('plain', q{
    SELECT pgjobs.resume_queue('main');
    SELECT pgjobs.enqueue('main', unique_key => 'key 299') = (SELECT id FROM pgjobs.jobs WHERE unique_key = 'key 299' AND finished_at IS NULL);
    SELECT count(*) > 200 FROM pgjobs.claim('main', 1000);
}), "\nt\nt", 'unique keys hold, and jobs flow');
is($other->safe_psql('plain', q{SELECT pgjobs.redrive('main')}), 7, 'dead jobs can be redriven');

# Whatever way the rows came, claims find all, and the figures are right.
for my $format (qw(apart untold)) {
    $other->safe_psql($format, q{SELECT pgjobs.resume(), pgjobs.resume_queue('main')});
    ok($other->poll_query_until($format, q{SELECT count(*) = 0 FROM pgjobs.job WHERE lease_expires_at < now() + '1 minute' OR hold_session IS NOT NULL OR (waiting = 1 AND due_at < now() + '1 minute')}), "$format: what was due, had a lease, or was held elsewhere, is ready");
    my $ready = $other->safe_psql($format, q{SELECT count(*) FROM pgjobs.jobs WHERE queue = 'main' AND state = 'ready'});
    cmp_ok($ready, '>', 250, "$format: many are");
    is($other->safe_psql($format, q{
        SELECT count(*) FROM pgjobs.claim('main', 1000, lease => '1 hour');
        SELECT pgjobs._check_frontier();
    }), "$ready\n0", "$format: all ready jobs are claimed");
    ok($other->poll_query_until($format, q{SELECT bool_and(f.counted) FROM pgjobs.queue q, pgjobs._figures(q.id) f}), "$format: jobs are counted");
    is($other->safe_psql($format, 'SELECT pgjobs._recount()'), 0, "$format: rightly");
    is($other->safe_psql($format, q{SELECT string_agg(name || ': ' || detail, ', ') FROM pgjobs.health() WHERE NOT ok}), '', "$format: health");
}

# Rights are found by name.
is_state($other, 'plain', q{SET SESSION AUTHORIZATION producer; SELECT pgjobs.enqueue('main')}, '00000', 'who could produce can');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION producer; SELECT pgjobs.claim('main')}, '42501', 'and still cannot work');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION worker; SELECT pgjobs.claim('main')}, '00000', 'who could work can');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION "Odd name"; SELECT pgjobs.grant_queue('short', 'nobody', ARRAY['work'])}, '00000', 'who owned a queue does');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION "Odd name"; SELECT pgjobs.enqueue('main')}, '42501', 'and no other');

# ---- topics ----

is($other->safe_psql('plain', q{SELECT count(*) FROM pgjobs.receive('early')}), 0, 'a lease goes on');
is($other->safe_psql('plain', q{SELECT pgjobs.ack('early', token, sent_to) FROM pgjobs.subscription; SELECT min(payload ->> 'n'), count(*) FROM pgjobs.receive('early')}), "\n31|21", 'its token is good');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION producer; SELECT pgjobs.publish('builds', '1')}, '00000', 'who could publish can');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION producer; SELECT pgjobs.read('builds', 0)}, '42501', 'and still cannot read');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION "Odd name"; SELECT pgjobs.grant_topic('builds', 'nobody', ARRAY['subscribe'])}, '00000', 'who owned a topic does');
is_state($other, 'plain', q{SET SESSION AUTHORIZATION worker; SELECT pgjobs.publish('builds', '1')}, '42501', 'and no other');

# ---- partitions ----

my $days = q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgjobs.history'::regclass};
cmp_ok($other->safe_psql('plain', $days), '>=', 7, 'there are partitions');
cmp_ok($other->safe_psql('plain', q{SELECT pgjobs._keep_history(now() + interval '40 days')}), '>=', 7, 'restored partitions are dropped when their day is over');
is($other->safe_psql('plain', q{SELECT count(*) FROM pgjobs.history}), 0, 'with all that was in them');
is_state($other, 'custom', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION after a restore');
is($other->safe_psql('custom', q{
    SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'history%' OR relname LIKE 'job%')
         + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs')
         + (SELECT count(*) FROM pg_proc WHERE probin LIKE '%pgjobs%')}), 0, 'leaves nothing');

# ---- the structure alone ----

# As applications keep it beside their source: partitions without rows, and ids begin anew.
$other->safe_psql('postgres', 'CREATE DATABASE empty');
command_ok([ @psql, "$dir/structure.sql", '-d', $other->connstr('empty') ], 'the structure alone');
is($other->safe_psql('empty', q{
    SELECT pgjobs.create_topic('t'), pgjobs.create_topic('t2'), pgjobs.create_queue('q');
    SELECT pgjobs.publish('t2', '1');
    SELECT payload FROM pgjobs.read('t2', 0);
    SELECT pgjobs.enqueue('q');
    SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q');
    SELECT string_agg(name, ' ') FROM pgjobs.health() WHERE NOT ok;
}), "||\n1\n1\n1\ncompleted\n", 'is as good as a new one');
is_state($other, 'empty', 'DROP EXTENSION pgjobs', '00000', 'and can be dropped');

# ---- the owner of a database, who is no superuser ----

$other->safe_psql('postgres', q{CREATE ROLE boss LOGIN CREATEDB; CREATE DATABASE his OWNER boss});
$other->safe_psql('his', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.grant_queue('q', 'worker', '{work}'); SELECT pgjobs.enqueue('q', '"kept"')});
is_state($other, 'his', q{SET SESSION AUTHORIZATION boss; CREATE TABLE own AS SELECT 'kept' AS a}, '00000', 'a table of his own');
my @as_boss = ('-U', 'boss', '-d', $other->connstr('his'));
command_fails_like([ 'pg_dump', @as_boss ], qr/permission denied for schema pgjobs/, 'he cannot dump what is of pgjobs');
command_ok([ 'pg_dump', '-N', 'pgjobs', '-Fc', '-f', "$dir/without", @as_boss ], 'he can dump all else');
$other->safe_psql('postgres', 'GRANT pg_read_all_data TO boss');
command_ok([ 'pg_dump', '-Fc', '-f', "$dir/his", @as_boss ], 'and everything as who may read all data');

# A superuser restores what is of pgjobs.
is_state($other, 'postgres', qq{SET SESSION AUTHORIZATION boss; CREATE DATABASE again_$_}, '00000') for 1 .. 3;
@as_boss = ('pg_restore', '--exit-on-error', '--no-comments', '-U', 'boss');
command_fails_like([ @as_boss, '-d', $other->connstr('again_1'), "$dir/his" ], qr/permission denied to create extension "pgjobs"/, 'he cannot restore it');
$other->safe_psql($_, 'CREATE EXTENSION pgjobs') for qw(again_2 again_3);
command_ok([ 'pg_restore', '--exit-on-error', '-n', 'pgjobs', '-d', $other->connstr('again_2'), "$dir/his" ], 'a superuser can');
command_ok([ @as_boss, '-N', 'pgjobs', '-d', $other->connstr('again_2'), "$dir/his" ], 'and he all else');
is($other->safe_psql('again_2', q{SELECT a FROM own; SELECT pgjobs.resume(); SET SESSION AUTHORIZATION worker; SELECT payload FROM pgjobs.claim('q')}),
    qq{kept\n\n"kept"}, 'all is there');
command_ok([ @as_boss, '--no-privileges', '-d', $other->connstr('again_3'), "$dir/without" ], 'without what is of pgjobs he restores alone');
is($other->safe_psql('again_3', q{SELECT a FROM own; SELECT pgjobs.create_queue('q')}), "kept\n", 'and begins anew');

is_state($node, 'postgres', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION of the original');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs'}), 0, 'leaves nothing');
$node->safe_psql('postgres', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('main')});
$holder->{run}->kill_kill;
$other->stop;
$node->stop;

done_testing();

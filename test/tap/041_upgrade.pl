# pg_upgrade: a cluster with jobs in every state, topics, attached tables and history becomes a new one, by
# copying and by links; nothing is lost, no quarantine, and everything goes on where it was.
# PGJOBS_OLD_SERVER names the prefix of another PostgreSQL, with pgjobs in it, to upgrade from.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $prefix = $ENV{PGJOBS_OLD_SERVER};
my @install = $prefix ? (install_path => $prefix) : ();
my @alike = ('--locale', 'C', '--encoding', 'UTF8');
my $stages = q{'[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "%s"}]'};

sub bindir {
    my ($node) = @_;
    my ($out) = run_command([ $node->installed_command('pg_config'), '--bindir' ]);
    return $out;
}

# A server that knows pgjobs and has everything in it that there is.
sub full_server {
    my ($name) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name, @install);
    $node->init(extra => \@alike);
    $node->append_conf('postgresql.conf', 'max_prepared_transactions = 20'); # an older one takes no TEMP_CONFIG
    $node->start;
    $node->safe_psql('postgres', qq{
        CREATE EXTENSION pgjobs;
        CREATE ROLE producer LOGIN;
        CREATE ROLE owner LOGIN;
        SELECT pgjobs.create_queue('letters'), pgjobs.create_topic('t', retention => '30 days'), pgjobs.create_topic('events');
        SELECT pgjobs.create_queue('q', ARRAY['first', 'last'], max_attempts => 3, notify => 'events', dead_letter => 'letters', events_topic => 'events');
        SELECT pgjobs.create_queue('forgetful', retention => '0'), pgjobs.create_queue('fed');
        SELECT pgjobs.grant_queue('q', 'producer', ARRAY['produce', 'work']), pgjobs.grant_topic('t', 'producer', ARRAY['publish']);
        SELECT pgjobs.enqueue('q', jsonb_build_object('n', n), priority => n % 5, unique_key => 'key ' || n) FROM generate_series(1, 200) n;
        SELECT pgjobs.enqueue('q', to_jsonb(repeat('long ', 50000)), headers => '{"h": 1}');
        SELECT pgjobs.complete(id, token, '"half"') FROM pgjobs.claim('q', 20);
        SELECT pgjobs.complete(id, token, '"whole"') FROM pgjobs.claim('q', 5, stage => 'last');
        SELECT pgjobs.fail(id, token, 'broken', retry => false) FROM pgjobs.claim('q', 7);
        SELECT pgjobs.fail(id, token, 'again', retry_in => '1 hour') FROM pgjobs.claim('q', 6);
        SELECT pgjobs.cancel(id) FROM (SELECT id FROM pgjobs.jobs WHERE queue = 'q' AND state = 'ready' ORDER BY id LIMIT 4) x;
        SELECT count(*) FROM pgjobs.claim('q', 9, lease => '1 hour', worker => 'w1');
        SELECT pgjobs.enqueue('forgetful');
        SELECT pgjobs.complete(id, token) FROM pgjobs.claim('forgetful');
        SELECT pgjobs.subscribe('s', 't'), pgjobs.subscribe_queue('fed', 't', 'k%');
        SELECT pgjobs.publish_many('t', ARRAY(SELECT to_jsonb(n) FROM generate_series(1, 50) n), keys => ARRAY(SELECT 'k' || n FROM generate_series(1, 50) n));
        SELECT pgjobs._deliver(clock_timestamp()), pgjobs._keep_topics(clock_timestamp() + '10 days');
        SELECT pgjobs.publish('t', to_jsonb(repeat('x', 9000)));
        SELECT pgjobs.ack('s', max(token), max(position)) FROM pgjobs.receive('s', 20);
        CREATE TYPE run_state AS ENUM ('open', 'busy', 'closed');
        CREATE TABLE runs (id int PRIMARY KEY, state run_state DEFAULT 'open', at timestamptz, fence bigint);
        CREATE TABLE parts (id int, state text DEFAULT 'open', PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
        ALTER TABLE runs OWNER TO owner;
        SELECT pgjobs.attach_table('runs', 'state', ${\sprintf($stages, '2 seconds')}, changed_at => 'at', token => 'fence', topic => 'events');
        SELECT pgjobs.attach_table('parts', 'state', ${\sprintf($stages, '1 hour')});
        INSERT INTO runs (id) SELECT generate_series(1, 20);
        INSERT INTO parts (id) SELECT generate_series(1, 20);
        SELECT count(*) FROM pgjobs.claim_row(NULL::parts, 's', 3);
    });
    $node->safe_psql('postgres', 'CREATE DATABASE other');
    $node->safe_psql('other', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q', delay => '1 second')});
    $node->poll_query_until('postgres', q{SELECT bool_and(lag_messages = 0) FROM pgjobs.subscriptions WHERE queue IS NOT NULL})
      or die 'not delivered';
    # Rows that become stale while nobody is there.
    $node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's', 4)});
    return $node;
}

# Every row of every table of ours, and what the views make of them.
my @content = (
    map({ "SELECT r FROM pgjobs.$_ r" } qw(queue stage acl home job history receipt_0 receipt_1 receipt_2 topic topic_acl segment log subscription feed working_row)),
    map({ "SELECT r FROM pgjobs.$_ r" } qw(jobs attempts topics attached_tables)),
    'SELECT (queue, number, stage, ready, running, scheduled, blocked) FROM pgjobs.stages',
    q{SELECT (p.oid::regprocedure, a.grantee::regrole, a.privilege_type) FROM pg_proc p, aclexplode(p.proacl) a WHERE p.pronamespace = 'pgjobs'::regnamespace},
    q{SELECT (c.relname, c.relowner::regrole, c.reloptions, pg_get_expr(c.relpartbound, c.oid), ARRAY(
        SELECT a FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner ORDER BY a))
        FROM pg_class c WHERE c.relnamespace = 'pgjobs'::regnamespace},
    q{SELECT (t.tgrelid::regclass, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid)) FROM pg_trigger t WHERE NOT t.tgisinternal},
    q{SELECT (s.schemaname, s.sequencename, s.last_value) FROM pg_sequences s},
    # From 17 on, arrays and the row types of tables are members, too.
    q{SELECT (i.type, i.identity, d.deptype) FROM pg_depend d CROSS JOIN pg_identify_object(d.classid, d.objid, d.objsubid) i JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'pgjobs' AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid AND (t.typcategory = 'A' OR c.relkind <> 'c'))},
    q{SELECT unnest(extconfig)::regclass FROM pg_extension WHERE extname = 'pgjobs'},
    'SELECT r FROM runs r', 'SELECT r FROM parts r',
);
sub content {
    my ($node) = @_;
    return map { $_ => $node->safe_psql('postgres', "SET timezone = 'UTC'; SELECT count(*), md5(string_agg(r::text, ',' ORDER BY r::text COLLATE \"C\")) FROM ($_) AS x (r)") } @content;
}

# From 18 on, checksums are what a new cluster has.
sub new_cluster {
    my ($name, $old) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(extra => [ @alike, $node->pg_version >= 18 && $old->pg_version < 18 ? '--no-data-checksums' : () ]);
    return $node;
}

sub upgrade_command {
    my ($old, $new, @options) = @_;
    return [ 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', bindir($old), '-B', bindir($new),
        '-s', $new->host, '-p', $old->port, '-P', $new->port, @options ];
}

chdir PostgreSQL::Test::Utils::tempdir() or die $!; # where it leaves its own

sub upgrade {
    my ($mode) = @_;
    my $old = full_server("old_$mode");
    my $holder = session($old);
    $holder->query_safe(q{SELECT count(*) FROM pgjobs.claim('q', 2, hold => true)});
    # The worker does nothing while we look; but if it ran while pg_upgrade has the servers in its hands, it would
    # have enough to do: leases, delays and rows that are over.
    $old->append_conf('postgresql.conf', q{pgjobs.databases = 'nowhere'});
    $old->restart;
    $holder->{run}->kill_kill;
    my %before = content($old);
    $old->stop;
    $old->append_conf('postgresql.conf', q{pgjobs.databases = ''});

    my $new = new_cluster("new_$mode", $old);
    my $began = time;
    command_ok(upgrade_command($old, $new, $mode eq 'link' ? '--link' : ()), "pg_upgrade, $mode");
    note(sprintf 'pg_upgrade, %s: %.1f s', $mode, time - $began);

    $new->append_conf('postgresql.conf', q{pgjobs.databases = 'nowhere'});
    $new->start;
    is($new->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.queues WHERE quarantined}), 0, "$mode: no quarantine");
    my %after = content($new);
    is($after{$_}, $before{$_}, "$mode: as before: $_") for @content;
    is_state($new, 'postgres', q{SELECT pgjobs.enqueue('q', unique_key => 'key 199', on_conflict => 'error')}, '23505', "$mode: keys are unique");

    # Life goes on.
    my $offset = -s $new->logfile;
    $new->append_conf('postgresql.conf', q{pgjobs.databases = ''});
    $new->restart;
    ok($new->poll_query_until('postgres', q{SELECT count(*) = 0 FROM runs WHERE state = 'busy'}), "$mode: stale rows come back");
    ok($new->poll_query_until('other', q{SELECT state = 'ready' FROM pgjobs.jobs}), "$mode: what was due in another database becomes ready");
    ok($new->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pgjobs.job WHERE hold_session IS NOT NULL}), "$mode: what a session held is void");
    is($new->safe_psql('postgres', q{SELECT count(pgjobs.complete(id, token)) FROM pgjobs.job WHERE worker = 'w1'}), 9, "$mode: tokens are good");
    is($new->safe_psql('postgres', q{SELECT pgjobs.enqueue('q') > (SELECT max(id) FROM pgjobs.history)}), 't', "$mode: ids go on");
    is($new->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.receive('s')}), 31, "$mode: a subscription goes on where it was");
    is($new->safe_psql('postgres', q{SELECT pgjobs.publish('t', '1') > last_position FROM pgjobs.topics WHERE name = 't'}), 't', "$mode: positions go on");
    is($new->safe_psql('postgres', q{SET ROLE producer; SELECT pgjobs.publish('t', '2', 'k') > 0, pgjobs.enqueue('q') > 0}), 't|t', "$mode: rights are kept");
    ok($new->poll_query_until('postgres', q{SELECT count(*) = 51 FROM pgjobs.jobs WHERE queue = 'fed'}), "$mode: a feed goes on");
    is($new->safe_psql('postgres', q{SELECT string_agg(name || ': ' || detail, ', ') FROM pgjobs.health() WHERE NOT ok}), '', "$mode: health");
    is($new->safe_psql('postgres', q{SELECT pgjobs._check_frontier()}), 0, "$mode: every ready job stands where claims look");
    cmp_ok($new->safe_psql('postgres', q{SELECT pgjobs._keep_history(now() + interval '40 days')}), '>=', 7, "$mode: partitions are dropped when their day is over");
    is_state($new, 'postgres', q{SELECT pgjobs._keep_history(now())}, '00000', "$mode: and made");
    unlike(log_since($new, $offset), qr/pgjobs worker [0-9A-Z]{5} (?:LOG|ERROR|WARNING)/, "$mode: the worker has no trouble");
    is_state($new, 'postgres', 'DROP EXTENSION pgjobs', '00000', "$mode: DROP EXTENSION");
    is($new->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs'}), 0, "$mode: leaves nothing");
    $new->stop;
    return;
}

upgrade($_) for qw(copy link);

# A new server that does not preload the library is upgraded to all the same; it says then what is missing.
my $old = full_server('old_bare');
$old->stop;
my $new = new_cluster('new_bare', $old);
$new->adjust_conf('postgresql.conf', 'shared_preload_libraries', q{''});
command_ok(upgrade_command($old, $new), 'pg_upgrade to a server that does not preload');
$new->start;
is_state($new, 'postgres', q{SELECT pgjobs.enqueue('q')}, '55000', 'which says so');
$new->adjust_conf('postgresql.conf', 'shared_preload_libraries', q{'pgjobs'});
$new->restart;
is($new->safe_psql('postgres', q{SELECT pgjobs.enqueue('q') > 200; SELECT count(*) > 150 FROM pgjobs.job}), "t\nt", 'and loses nothing');
$new->stop;

done_testing();

# Attached tables: stale rows come back by themselves, through a process that is the owner; waiters are
# woken, changes are announced; a crash loses nothing.
# allow-log: pgjobs could not take row 13 of the table
# allow-log: FATAL: +terminating background worker "pgjobs row reaper" due to administrator command
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $node = new_server('main', conf => q{max_worker_processes = 16});
my $stages = q{'[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "failed": "bad", "stale_after": "%s"}]'};
my $second = sprintf $stages, '1 second';
my $hour = sprintf $stages, '1 hour';

# ---- stale rows ----

$node->safe_psql('postgres', qq{
    CREATE ROLE owner LOGIN;
    CREATE ROLE nologin;
    CREATE TABLE runs (id int PRIMARY KEY, state text DEFAULT 'open', fence bigint, who text);
    CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
        IF NEW.id = 13 AND NEW.state = 'open' THEN RAISE 'not this one'; END IF;
        NEW.who := session_user || ' ' || current_user;
        RETURN NEW;
    END \$\$;
    CREATE TRIGGER who BEFORE UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION who();
    CREATE TABLE late (id int PRIMARY KEY, state text DEFAULT 'open', who text);
    CREATE TRIGGER who BEFORE UPDATE ON late FOR EACH ROW EXECUTE FUNCTION who();
    ALTER TABLE runs OWNER TO owner;
    ALTER TABLE late OWNER TO nologin;
    SELECT pgjobs.attach_table('runs', 'state', $second, token => 'fence');
    SELECT pgjobs.attach_table('late', 'state', $second);
    INSERT INTO runs (id) VALUES (1), (2), (13);
});
my $began = time;
my $fence = $node->safe_psql('postgres', q{SELECT fence FROM pgjobs.claim_row(NULL::runs, 's')});
ok($node->poll_query_until('postgres', q{SELECT state = 'open' FROM runs WHERE id = 1}), 'a stale row comes back');
my $seconds = time - $began;
note(sprintf 'after %.0f ms', 1000 * $seconds);
cmp_ok($seconds, '>=', 1, 'not before it was stale');
cmp_ok($seconds, '<', 10, 'soon');
is($node->safe_psql('postgres', 'SELECT who FROM runs WHERE id = 1'), 'owner owner', 'taken back by a session of the owner');
is_state($node, 'postgres', "SELECT pgjobs.finish_row('runs', '1', 's', token => $fence)", 'PJ001', 'who had it is refused');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pgjobs row reaper'}), 'the process leaves');

# One that cannot be taken back does not stop the others.
$node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's', 10)});
ok($node->poll_query_until('postgres', q{SELECT string_agg(id::text, ',' ORDER BY id) = '1,2' FROM runs WHERE state = 'open'}), 'the others come back');
ok($node->poll_query_until('postgres', q{SELECT due_at > now() + '40 seconds' FROM pgjobs.working_row WHERE key = '13'}), 'it is tried again later');
$node->safe_psql('postgres', q{UPDATE runs SET state = 'bad' WHERE id = 13});

# Nor among many that came at once, where its key alone raises.
$node->safe_psql('postgres', qq{
    CREATE TABLE trouble (id int);
    CREATE FUNCTION fine(id int) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN
        IF EXISTS (SELECT FROM public.trouble t WHERE t.id = fine.id) THEN RAISE 'not this one'; END IF;
        RETURN true;
    END \$\$;
    CREATE DOMAIN number AS int CHECK (public.fine(VALUE));
    CREATE TABLE picky (id number PRIMARY KEY, state text DEFAULT 'open');
    SELECT pgjobs.attach_table('picky', 'state', $second);
    INSERT INTO picky SELECT n FROM generate_series(1, 300) n;
    INSERT INTO trouble VALUES (13);
    UPDATE picky SET state = 'busy';
});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 299 FROM picky WHERE state = 'open'}), 'the others come back');
is($node->safe_psql('postgres', q{SELECT string_agg(id::text, ' ') FROM picky WHERE state = 'busy'}), '13', 'but for that one');
$node->safe_psql('postgres', q{TRUNCATE trouble; UPDATE picky SET state = 'bad' WHERE id = 13});

# A row that somebody has locked comes back when he has gone.
my $locker = session($node);
$node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's', 2)});
$locker->query_safe(q{BEGIN; SELECT FROM runs WHERE id = 1 FOR UPDATE});
ok($node->poll_query_until('postgres', q{SELECT state = 'open' FROM runs WHERE id = 2}), 'one that is locked does not stop the others');
is($node->safe_psql('postgres', q{SELECT state FROM runs WHERE id = 1}), 'busy', 'and is not taken');
$locker->query_safe('COMMIT');
ok($node->poll_query_until('postgres', q{SELECT state = 'open' FROM runs WHERE id = 1}), 'but afterwards');

# The owner may not log in: before 17, a superuser's process becomes he, restricted, where nothing deferred can be fired.
$node->safe_psql('postgres', q{INSERT INTO late (id) VALUES (1); SELECT count(*) FROM pgjobs.claim_row(NULL::late, 's')});
ok($node->poll_query_until('postgres', q{SELECT state = 'open' FROM late}), 'a stale row of one who may not log in');
like($node->safe_psql('postgres', 'SELECT who FROM late'), qr/ nologin$/, 'with his rights');

my (undef, undef, $warning) = $node->psql('postgres', qq{
    SELECT pgjobs.detach_table('late');
    CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION who();
    SET log_min_messages = error;
    SELECT pgjobs.attach_table('late', 'state', $second);
    SELECT pgjobs.detach_table('late')});
my $before_17 = $node->pg_version < 17;
is($warning =~ /WARNING:  stale rows of table "late" cannot be taken back/ ? 1 : 0, $before_17 ? 1 : 0, 'who attaches such a table is told that');

# ---- waiting ----

my $waiter = session($node);
sub waits {
    my ($event, $name) = @_;
    start_sql($waiter, q{CALL pgjobs.wait_row('runs', 's', '1 minute')});
    wait_until_waiting($node, 'postgres', 1);
    my $begin = time;
    $event->();
    is(result_of($waiter), 't', $name);
    return 1000 * (time - $begin);
}
my $busy = q{UPDATE runs SET state = 'busy' WHERE state = 'open'};
$node->safe_psql('postgres', $busy);
$node->safe_psql('postgres', q{UPDATE runs SET state = 'closed' WHERE state = 'busy'});
my $writer = session($node);
$writer->query_safe('SELECT 1');
my @times;
for (1 .. 20) {
    push @times, waits(sub { $writer->query_safe("INSERT INTO runs (id) VALUES (100 + $_)") }, 'woken by an INSERT');
    $writer->query_safe("$busy; UPDATE runs SET state = 'closed' WHERE state = 'busy'");
}
my ($median) = figures('from INSERT to the answer', @times);
cmp_ok($median, '<', 1000, 'at once');
$writer->query_safe('INSERT INTO runs (id) VALUES (200)');
$writer->query_safe("BEGIN; SELECT id FROM pgjobs.claim_row(NULL::runs, 's')");
waits(sub { $writer->query_safe('ROLLBACK') }, 'woken when a claim is undone');
$writer->query_safe("BEGIN; SELECT id FROM pgjobs.claim_row(NULL::runs, 's')");
waits(sub { $writer->query_safe('COMMIT') }, 'woken when a stale row comes back');
$writer->query_safe("$busy; UPDATE runs SET state = 'closed' WHERE state = 'busy'");
is($node->safe_psql('postgres', q{CALL pgjobs.wait_row('runs', 's', '100 ms')}), 'f', 'and not when there is none');
$writer->query_safe("BEGIN; INSERT INTO runs (id) VALUES (201); PREPARE TRANSACTION 'p'");
waits(sub { $writer->query_safe("COMMIT PREPARED 'p'") }, 'woken by COMMIT PREPARED');
$writer->query_safe("$busy; UPDATE runs SET state = 'closed' WHERE state = 'busy'");
start_sql($waiter, q{CALL pgjobs.wait_row('runs', 's', '1 minute')});
wait_until_waiting($node, 'postgres', 1);
$writer->query_safe(q{SELECT pgjobs.detach_table('runs')});
like(result_of($waiter), qr/55000/, 'who waits learns that the table is detached');
$writer->query_safe("SELECT pgjobs.attach_table('runs', 'state', $hour, token => 'fence', channel => 'told')");
start_sql($waiter, q{CALL pgjobs.wait_row('runs', 's', '1 minute')});
wait_until_waiting($node, 'postgres', 1);
$writer->query_safe('ALTER TABLE runs RENAME TO was');
$writer->query_safe('CREATE TABLE other (LIKE was INCLUDING DEFAULTS, PRIMARY KEY (id)); DROP TABLE was; ALTER TABLE other RENAME TO runs');
like(result_of($waiter), qr/42P01/, 'and that it is dropped');

# ---- announcements ----

$node->safe_psql('postgres', qq{
    SELECT pgjobs.attach_table('runs', 'state', $hour, token => 'fence', channel => 'told')});
my $listener = session($node);
my $heard = '';
sub hear { # until something matches
    my ($pattern, $name) = @_;
    ok(wait_until(sub {
        $heard .= $listener->query('SELECT 1');
        return $heard =~ $pattern;
    }), $name) or diag($heard);
    my $all = $heard;
    $heard = '';
    return $all;
}
$listener->query_safe('LISTEN told');
$node->safe_psql('postgres', 'INSERT INTO runs (id) VALUES (1)');
hear(qr/"table": "public.runs", "key": "1", "from": null, "to": "open", "at": "/, 'an INSERT is announced');
$node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's')});
hear(qr/"key": "1", "from": "open", "to": "busy"/, 'a claim is');
$node->safe_psql('postgres', q{BEGIN; UPDATE runs SET state = 'closed'; ROLLBACK; BEGIN; SAVEPOINT s; UPDATE runs SET state = 'bad'; ROLLBACK TO s; COMMIT;
    UPDATE runs SET state = 'open'});
my $all = hear(qr/"from": "busy", "to": "open"/, 'a plain UPDATE is');
unlike($all, qr/closed|bad/, 'what is undone is not');
$node->safe_psql('postgres', 'INSERT INTO runs (id) SELECT 1000 + n FROM generate_series(1, 3000) n');
$all = hear(qr/"resync": true/, 'more than 1000 changes end in a resync');
is(scalar(() = $all =~ /"to": "open"/g), 1000, 'after the first 1000');
$node->safe_psql('postgres', q{BEGIN; UPDATE runs SET state = 'busy' WHERE id = 1; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'});
hear(qr/"table": "public.runs", "resync": true/, 'a prepared transaction is told by a resync');

# ---- a crash ----

is($node->safe_psql('postgres', 'SELECT count(*) FROM pgjobs.working_row'), 1, 'a row is under way');
$node->safe_psql('postgres', qq{
    SELECT pgjobs.detach_table('runs');
    SELECT pgjobs.attach_table('runs', 'state', $second, token => 'fence', channel => 'told');
    SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's', 5)});
$node->stop('immediate');
$_->{run}->kill_kill for $waiter, $writer, $locker, $listener;
$node->start;
$listener = session($node);
$listener->query_safe('LISTEN told');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM runs WHERE state = 'busy'}), 'after a crash stale rows come back');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pgjobs.working_row'), 0, 'all of them');
hear(qr/"from": "busy", "to": "open"/, 'and are announced');
is($node->safe_psql('postgres', q{SELECT string_agg(name || ': ' || detail, ', ') FROM pgjobs.health() WHERE NOT ok}), '', 'health');

# ---- the database is dropped while the owner's process is at work ----

$node->safe_psql('postgres', 'CREATE DATABASE doomed');
$node->safe_psql('doomed', qq{
    CREATE EXTENSION pgjobs;
    CREATE TABLE runs (id int PRIMARY KEY, state text DEFAULT 'open');
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END \$\$;
    CREATE TRIGGER slow BEFORE UPDATE ON runs FOR EACH ROW WHEN (NEW.state = 'open') EXECUTE FUNCTION slow();
    ALTER TABLE runs OWNER TO owner;
    SELECT pgjobs.attach_table('runs', 'state', $second);
    INSERT INTO runs VALUES (1);
    SELECT count(*) FROM pgjobs.claim_row(NULL::runs, 's');
});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pgjobs row reaper' AND datname = 'doomed' AND wait_event = 'PgSleep'}), 'a slow trigger');
# The next worker does not know that process, and starts no second one beside it.
my ($worker) = workers($node, 'doomed');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
ok(wait_for_worker($node, 'doomed', not => $worker), 'another worker');
ok(!wait_until(sub { $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgjobs row reaper' AND datname = 'doomed'}) > 1 }, 2), 'one process at a time');
cmp_ok(timed(sub { is_state($node, 'postgres', 'DROP DATABASE doomed', '00000', 'DROP DATABASE') }), '<', 4, 'does not wait for it');

# ---- DROP EXTENSION ----

$node->safe_psql('postgres', q{CREATE INDEX mine ON runs (state)});
is_state($node, 'postgres', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION');
is($node->safe_psql('postgres', q{
    SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'runs'::regclass;
    SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'pgjobs%';
    UPDATE runs SET state = 'whatever' WHERE id = 1;
    SELECT count(*) > 3000 FROM runs}), "mine other_pkey\n0\nt", 'the table stays, triggers and index go');
$listener->{run}->kill_kill;
$node->stop;

done_testing();

# Attached tables are dumped, restored, copied and replicated.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('source', init => { allows_streaming => 'logical' });
my $dir = PostgreSQL::Test::Utils::tempdir();
my $stages = q{'[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "failed": "it''s \\\\ bad", "stale_after": "2 seconds"}]'};
$node->safe_psql('postgres', qq{
    CREATE ROLE owner LOGIN;
    CREATE SCHEMA "My app";
    GRANT USAGE ON SCHEMA "My app" TO owner;
    CREATE TYPE "My app".state AS ENUM ('open', 'busy', 'closed', 'it''s \\ bad');
    CREATE TABLE "My app"."Runs" (junk int, id int PRIMARY KEY, "State" "My app".state DEFAULT 'open', at timestamptz, fence bigint);
    ALTER TABLE "My app"."Runs" DROP COLUMN junk;
    ALTER TABLE "My app"."Runs" OWNER TO owner;
    CREATE TABLE parts (id int PRIMARY KEY, state text DEFAULT 'open') PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
    SELECT pgjobs.attach_table('"My app"."Runs"', 'State', $stages, changed_at => 'at', token => 'fence', channel => 'told', priority => 'at');
    SELECT pgjobs.attach_table('parts', 'state', $stages);
    ALTER TABLE "My app"."Runs" RENAME COLUMN fence TO "the Fence";
    INSERT INTO "My app"."Runs" (id) VALUES (1), (2), (3);
    INSERT INTO parts VALUES (1), (2), (11);
});

# ---- dump and restore ----

my $settings = q{SELECT target, stage, waiting, working, done, failed, stale_after, status_column, changed_at_column, token_column, priority_column, channel, enabled
    FROM pgjobs.attached_tables ORDER BY 1, 2};
my $before = $node->safe_psql('postgres', $settings);
$node->append_conf('postgresql.conf', q{pgjobs.databases = 'nowhere'});
$node->restart;
$node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim_row(NULL::"My app"."Runs", 's', 2); SELECT count(*) FROM pgjobs.claim_row(NULL::parts, 's')});
command_ok([ 'pg_dump', '-f', "$dir/plain.sql", '-d', $node->connstr('postgres') ], 'pg_dump');
command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", '-d', $node->connstr('postgres') ], 'pg_dump, custom');
command_ok([ 'pg_dump', '-s', '-f', "$dir/structure.sql", '-d', $node->connstr('postgres') ], 'pg_dump, structure');
command_ok([ 'pg_dump', '-a', '--disable-triggers', '-f', "$dir/data.sql", '-d', $node->connstr('postgres') ], 'pg_dump, data past the triggers');
my $other = new_server('other', bare => 1);
$other->safe_psql('postgres', 'CREATE TABLE before (); CREATE ROLE owner LOGIN; CREATE DATABASE plain; CREATE DATABASE custom; CREATE DATABASE untold');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", '-d', $other->connstr('plain') ], 'restored');
command_ok([ 'pg_restore', '--exit-on-error', '-j2', '-d', $other->connstr('custom'), "$dir/custom" ], 'restored, custom');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('untold'), '-f', "$dir/structure.sql", '-f', "$dir/data.sql" ], 'restored, data behind the structure');
for my $copy ('plain', 'custom', 'untold') {
    is($other->safe_psql($copy, $settings), $before, "$copy: the settings");
    is($other->safe_psql($copy, 'SELECT bool_and(quarantined) FROM pgjobs.attached_tables'), 't', "$copy: quarantined");
    like($other->safe_psql($copy, q{SELECT detail FROM pgjobs.health() WHERE NOT ok AND name = 'attached tables'}), qr/is quarantined/, "$copy: health() says so");
    is_state($other, $copy, q{SELECT count(*) FROM pgjobs.claim_row(NULL::parts, 's')}, 'PJ004', "$copy: claim_row");
    is_state($other, $copy, q{CALL pgjobs.wait_row('parts', 's', '0')}, 'PJ004', "$copy: wait_row");
    is_state($other, $copy, q{UPDATE parts SET state = 'closed' WHERE id = 2}, 'PJ003', "$copy: plain changes are judged");
    is_state($other, $copy, q{UPDATE parts SET state = 'busy' WHERE id = 11}, '00000', "$copy: and made");
    is_state($other, $copy, q{SELECT pgjobs.create_queue('new')}, '00000', "$copy: a new queue");
    is($other->safe_psql($copy, 'SELECT bool_and(quarantined) FROM pgjobs.attached_tables'), 't', "$copy: does not end the quarantine");
}
command_ok([ 'pg_dump', '-f', "$dir/again.sql", '-d', $other->connstr('custom'), '-t', 'parts*', '-t', '"My app".*' ], 'the copy is dumped');
command_ok([ 'pg_dump', '-f', "$dir/once.sql", '-d', $node->connstr('postgres'), '-t', 'parts*', '-t', '"My app".*' ], 'and the original');
my ($once, $again) = map { slurp_file("$dir/$_.sql") } 'once', 'again';
for ($once, $again) {
    s/^\\(?:un)?restrict .*\n//mg;
    s/^(COPY [^\n]* FROM stdin;\n)(.*?)(^\\\.\n)/$1$3/gms;
}
is($again, $once, 'both dumps are the same');

# Nothing is taken back in the copy, however long it waits: until resume().
ok($other->poll_query_until('plain', q{SELECT clock_timestamp() > max(due_at) + '2 seconds' FROM pgjobs.working_row}), 'time passes');
is($other->safe_psql('plain', q{SELECT count(*) FROM parts WHERE state = 'busy'}), 2, 'rows stay as they are');
is_state($other, 'plain', 'SELECT pgjobs.resume()', '00000', 'resume()');
ok($other->poll_query_until('plain', q{SELECT (SELECT count(*) FROM parts WHERE state = 'busy') + (SELECT count(*) FROM "My app"."Runs" WHERE "State" = 'busy') = 0}), 'stale rows come back');
is($other->safe_psql('plain', q{SELECT count(*) FROM pgjobs.claim_row(NULL::"My app"."Runs", 's', 10)}), 3, 'rows are claimed');
is($other->safe_psql('plain', q{
    SELECT pgjobs.detach_table('parts');
    SELECT pgjobs.detach_table('"My app"."Runs"');
    SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'pgjobs%') + (SELECT count(*) FROM pg_class WHERE relname ~ 'pgjobs_waiting')}),
    "\n\n0", 'detach_table removes everything');
my $triggers = q{SELECT string_agg(format('%s %s %s', tgrelid::regclass, tgname, tgenabled), ', ' ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger WHERE tgname ~ '^pgjobs_'};
is($other->safe_psql('untold', "SELECT pgjobs.resume(); $triggers"), "\n" . $node->safe_psql('postgres', $triggers), 'resume() makes of triggers that were off what they were');
is_state($other, 'custom', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION in the other copy');
is($other->safe_psql('custom', q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'pgjobs%'}), 0, 'takes the triggers');

# ---- a copy by TEMPLATE ----

$node->append_conf('postgresql.conf', q{pgjobs.databases = ''});
$node->restart;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM parts WHERE state = 'busy'}), 'stale rows come back in the original');
$node->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.claim_row(NULL::parts, 's', 3)});
$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM parts WHERE state = 'busy'}), 'and again');
is($node->safe_psql('copy', q{SELECT count(*) FROM parts WHERE state = 'busy'}), 3, 'but not in the copy');
is_state($node, 'copy', q{SELECT count(*) FROM pgjobs.claim_row(NULL::parts, 's')}, 'PJ004', 'which is quarantined');
$node->safe_psql('copy', 'SELECT pgjobs.resume()');
ok($node->poll_query_until('copy', q{SELECT count(*) = 0 FROM parts WHERE state = 'busy'}), 'until resume()');
$other->stop;

# ---- logical replication ----

my $replica = new_server('replica');
$replica->safe_psql('postgres', qq{
    CREATE TABLE flow (id int PRIMARY KEY, state text, at timestamptz, fence bigint);
    SELECT pgjobs.attach_table('flow', 'state', $stages, changed_at => 'at', token => 'fence', channel => 'told')});
$node->safe_psql('postgres', q{
    CREATE TABLE flow (id int PRIMARY KEY, state text, at timestamptz, fence bigint);
    INSERT INTO flow VALUES (1, 'open'), (2, 'open');
    CREATE PUBLICATION flow FOR TABLE flow});
my $listener = session($replica);
$listener->query_safe('LISTEN told');
my $waiter = session($replica);
start_sql($waiter, q{CALL pgjobs.wait_row('flow', 's', '1 minute')});
wait_until_waiting($replica, 'postgres', 1);
$replica->safe_psql('postgres', q{CREATE SUBSCRIPTION flow CONNECTION '} . $node->connstr . q{ dbname=postgres' PUBLICATION flow});
$replica->wait_for_subscription_sync($node, 'flow');
is(result_of($waiter), 't', 'a waiter is woken by what is replicated');
$node->safe_psql('postgres', q{UPDATE flow SET state = 'closed', at = '2001-01-01', fence = 5 WHERE id = 1});
$node->wait_for_catchup('flow');
is($replica->safe_psql('postgres', q{SELECT state, at < '2002-01-01', fence FROM flow WHERE id = 1}), 'closed|t|5', 'a change that is not allowed here is applied as it is');
my $heard = '';
ok(wait_until(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /"key": "1", "from": "open", "to": "closed"/ }), 'and announced') or diag($heard);
$node->safe_psql('postgres', q{UPDATE flow SET state = 'busy' WHERE id = 2});
$node->wait_for_catchup('flow');
ok($replica->poll_query_until('postgres', q{SELECT state = 'open' FROM flow WHERE id = 2}), 'a replicated row that is stale here comes back here');
$_->{run}->kill_kill for $listener, $waiter;
$replica->safe_psql('postgres', 'DROP SUBSCRIPTION flow');
$replica->stop;
$node->stop;

done_testing();

# pg_dump while messages are published and read, and a restore elsewhere: nobody receives there until
# resume(); then each subscription and each feed goes on where the dump has it, and nothing comes twice.
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
sub run { return $node->safe_psql('postgres', $_[0]) }
run(q{
    SELECT pgjobs.create_topic('t', retention => '10 minutes'), pgjobs.create_topic('other');
    SELECT pgjobs.create_queue('fed'), pgjobs.create_queue('done'), pgjobs.create_queue('source', events_topic => 'other');
    SELECT pgjobs.subscribe_queue('fed', 't'), pgjobs.subscribe_queue('done', 't', 'even');
    SELECT pgjobs.subscribe('s', 't'), pgjobs.subscribe('lazy', 't'), pgjobs.subscribe('lent', 't');
    CREATE TABLE got (position bigint, n bigint);
    CREATE TABLE flags (done boolean); INSERT INTO flags VALUES (false);
    CREATE PROCEDURE publish(w integer) LANGUAGE plpgsql AS $$
    DECLARE
        n bigint := 0;
    BEGIN
        WHILE NOT (SELECT done FROM flags) LOOP
            n := n + 1;
            PERFORM pgjobs.publish('t', jsonb_build_array(w, n), key => CASE WHEN n % 2 = 0 THEN 'even' END);
            IF n % 7 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
            IF n % 50 = 0 THEN PERFORM pgjobs._keep_topics(clock_timestamp() + interval '2 minutes'); COMMIT; END IF;
        END LOOP;
    END $$;
    -- What it has received stands beside its place, in one transaction.
    CREATE PROCEDURE receive() LANGUAGE plpgsql AS $$
    DECLARE
        r record;
    BEGIN
        WHILE NOT (SELECT done FROM flags) LOOP
            WITH m AS MATERIALIZED (SELECT * FROM pgjobs.receive('s', 7)), g AS (INSERT INTO got SELECT position FROM m)
            SELECT max(token) AS token, max(position) AS position INTO r FROM m;
            IF r.token IS NOT NULL THEN PERFORM pgjobs.ack('s', r.token, r.position); END IF;
            COMMIT;
        END LOOP;
    END $$;
    CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
    BEGIN
        WHILE NOT (SELECT done FROM flags) LOOP
            PERFORM pgjobs.complete_many(array_agg(id), array_agg(token)) FROM pgjobs.claim('done', 10) HAVING count(*) > 0;
            COMMIT;
        END LOOP;
    END $$;
});
my @scripts = map { [ start_script($node, 'postgres', $_) ] } 'CALL publish(1)', 'CALL publish(2)', 'CALL receive()', 'CALL work()';
$node->poll_query_until('postgres', 'SELECT count(*) > 500 FROM got');
my ($lent) = run(q{SELECT max(token) || ' ' || max(position) FROM pgjobs.receive('lent', 5, '1 hour')});
command_ok([ 'pg_dump', '-Fc', '-f', "$dir/busy", '-d', $node->connstr('postgres') ], 'pg_dump while everything goes on');
my $later = run('SELECT count(*) FROM got');
$node->poll_query_until('postgres', "SELECT count(*) > $later FROM got");
run('UPDATE flags SET done = true');
for (@scripts) {
    $_->[0]->finish;
    is(slurp_file($_->[1]), '', 'no error');
}
# Once more, at rest.
ok($node->poll_query_until('postgres', q{SELECT bool_and(lag_messages = 0) FROM pgjobs.subscriptions WHERE queue IS NOT NULL}), 'delivered');
command_ok([ 'pg_dump', '-f', "$dir/rest.sql", '-d', $node->connstr('postgres') ], 'pg_dump at rest');

my $other = new_server('other', bare => 1);
my $offset = -s $other->logfile;
for my $name ('busy', 'busy2', 'rest', 'rest2', 'never') {
    $other->safe_psql('postgres', "CREATE DATABASE $name");
    command_ok($name =~ /busy/ ? [ 'pg_restore', '--exit-on-error', '-j2', '-d', $other->connstr($name), "$dir/busy" ]
        : [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/rest.sql", '-d', $other->connstr($name) ], "restored: $name");
}

# ---- DROP EXTENSION right after it, and after resume ----

my $rest = q{SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgjobs' OR relname ~ '^(log_|position_)')
    || ' ' || (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs')};
is_state($other, 'busy2', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION right after a restore');
is($other->safe_psql('busy2', $rest), '0 0', 'leaves nothing');
is_state($other, 'busy2', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_topic('t'), pgjobs.publish('t', '1')}, '00000', 'and it can be made again');
is_state($other, 'rest2', q{SELECT pgjobs.resume()}, '00000', 'resume');
is_state($other, 'rest2', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION after resume()');
is($other->safe_psql('rest2', $rest), '0 0', 'leaves nothing');
# Who may not drop it changes nothing.
$other->safe_psql('never', 'CREATE ROLE stranger');
is_state($other, 'never', 'SET ROLE stranger; DROP EXTENSION pgjobs', '42501', 'a stranger cannot');
is_state($other, 'never', 'BEGIN; DROP EXTENSION pgjobs; ROLLBACK', '00000', 'rolled back');
is($other->safe_psql('never', q{SELECT count(*) > 0 FROM pgjobs.read('t', 0, 10000)}), 't', 'all is there');

# ---- quarantine ----

for my $name ('busy', 'rest') {
    my $sql = sub { $other->safe_psql($name, $_[0]) };
    is($sql->(q{SELECT bool_and(quarantined) FROM pgjobs.topics}), 't', "$name: quarantined");
    is_state($other, $name, q{SELECT pgjobs.receive('s')}, 'PJ004', "$name: receive");
    is_state($other, $name, q{CALL pgjobs.wait_message('s', '1 second')}, 'PJ004', "$name: wait_message");
    my $jobs = $sql->(q{SELECT count(*) FROM pgjobs.jobs});
    my $last = $sql->(q{SELECT max(position) FROM pgjobs.log l JOIN pgjobs.segment s ON s.id = l.segment WHERE s.topic_id = 1});
    is($sql->("SELECT pgjobs.publish('t', '[3, 1]', 'even') > $last"), 't', "$name: publish works, positions rise");
    is($sql->(q{SELECT count(*) > 100 FROM pgjobs.read('t', 0, 10000)}), 't', "$name: read works");
    is($sql->(q{SELECT pgjobs._deliver(clock_timestamp())}), 0, "$name: nothing is delivered");
    is($sql->(q{SELECT pgjobs._keep_topics(clock_timestamp() + '1 year')}), 0, "$name: nothing is dropped");
    is($sql->(q{SELECT count(*) FROM pgjobs.jobs}), $jobs, "$name: no job was made");

    # ---- resume ----

    $sql->('SELECT pgjobs.resume()');
    is($sql->(q{SELECT bool_or(quarantined) FROM pgjobs.topics}), 'f', "$name: resumed");
    $sql->(q{SELECT pgjobs.publish('t', '[3, 2]')});
    # What was got before and what comes now are all messages, each once.
    $sql->(q{INSERT INTO got SELECT position FROM pgjobs.receive('s', 10000)});
    is($sql->(q{SELECT count(*) - count(DISTINCT position) FROM got}), 0, "$name: nothing was received twice");
    is($sql->(q{SELECT count(*) FROM (SELECT position FROM pgjobs.read('t', 0, 10000) WHERE payload <> 'null') m WHERE NOT EXISTS (SELECT FROM got g WHERE g.position = m.position)}), 0, "$name: nothing was missed");
    is($sql->(q{SELECT (SELECT count(*) FROM pgjobs.receive('lazy', 10000)) = (SELECT count(*) FROM pgjobs.read('t', 0, 10000))}), 't', "$name: who had read nothing gets all of it");
    my ($token, $position) = split ' ', $lent;
    is($sql->(q{SELECT count(*) FROM pgjobs.receive('lent')}), 0, "$name: a lease holds");
    is_state($other, $name, "SELECT pgjobs.ack('lent', $token, $position)", '00000', "$name: its token is good");
    ok($other->poll_query_until($name, q{SELECT bool_and(lag_messages = 0) FROM pgjobs.subscriptions WHERE queue IS NOT NULL}), "$name: queues get their jobs");
    for my $feed (['fed', 'true'], ['done', q{key = 'even'}]) {
        my ($queue, $which) = @$feed;
        is($sql->("SELECT count(*) || ' ' || count(*) FILTER (WHERE j.n = 1) FROM (SELECT position FROM pgjobs.read('t', 0, 10000) WHERE $which) m
            FULL JOIN (SELECT (headers #>> '{message,position}')::bigint AS position, count(*) AS n FROM pgjobs.jobs WHERE queue = '$queue' GROUP BY 1) j USING (position)"),
            $sql->("SELECT count(*) || ' ' || count(*) FROM pgjobs.read('t', 0, 10000) WHERE $which"), "$name: $queue has one job for each");
    }
    $sql->(q{SELECT pgjobs.subscribe('events', 'other'); SELECT pgjobs.enqueue('source')});
    is($sql->(q{SELECT payload ->> 'to' FROM pgjobs.receive('events')}), 'ready', "$name: events are published");
    is($sql->(q{SELECT count(*) FROM pg_depend WHERE refobjid = 'pgjobs.log'::regclass AND deptype = 'a' AND objid IN (SELECT oid FROM pg_class WHERE relkind = 'S')}), 2, "$name: sequences go with the extension");
}

# ---- a copy by CREATE DATABASE ----

$other->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE rest');
is_state($other, 'copy', q{SELECT pgjobs.receive('s')}, 'PJ004', 'a copy is quarantined');
my ($here) = $other->safe_psql('copy', q{SELECT pgjobs.publish('t', '"copy"')});
my ($there) = $other->safe_psql('rest', q{SELECT pgjobs.publish('t', '"rest"')});
is($other->safe_psql('copy', "SELECT payload FROM pgjobs.read('t', $here - 1)"), '"copy"', 'each has its own log');
is($other->safe_psql('rest', "SELECT payload FROM pgjobs.read('t', $there - 1)"), '"rest"', 'from there on');
is_state($other, 'copy', 'SELECT pgjobs.resume()', '00000', 'resume');
is($other->safe_psql('copy', q{SELECT string_agg(payload::text, ' ') FROM pgjobs.receive('events')}), '', 'a lease holds there, too');
is_state($other, 'copy', 'DROP EXTENSION pgjobs', '00000', 'DROP EXTENSION in the copy');
is($other->safe_psql('rest', q{SELECT pgjobs.publish('t', '1') > 0}), 't', 'does not touch the original');
# But one gave way to a DROP EXTENSION that took its time, perhaps.
unlike(log_since($other, $offset), qr/pgjobs worker [0-9A-Z]{5} (?!LOG:  pgjobs: \w+ failed: canceling statement due to lock timeout)(?:LOG|ERROR|WARNING)/, 'the workers had no trouble');
$other->stop;
$node->stop;

done_testing();

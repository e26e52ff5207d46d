# A hot standby answers or refuses properly; after promotion everything goes on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

# Nobody reaps and promotes there, so that the standby has what is overdue, however slow the machine is.
my $primary = new_server('primary', init => { allows_streaming => 1 }, conf => q{pgjobs.databases = 'nowhere'});
$primary->safe_psql('postgres', q{
    CREATE ROLE someone LOGIN;
    SELECT pgjobs.create_queue('q', ARRAY['a', 'b']);
    SELECT pgjobs.create_queue('hold');
    CREATE TABLE t (id int PRIMARY KEY, s text);
    SELECT pgjobs.enqueue('q', '"ready"');
    SELECT pgjobs.enqueue('q', '"later"', delay => '1 second');
    SELECT pgjobs.create_topic('t');
    SELECT pgjobs.subscribe('s', 't');
    SELECT pgjobs.subscribe('lent', 't');
    SELECT pgjobs.subscribe_queue('hold', 't', 'k%');
    SELECT pgjobs.publish_many('t', '{1,2,3}', '{k,k,l}');
});
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', q{pgjobs.databases = ''});
$standby->start;

# Running ones too: a short and a long lease, and one that a session holds.
$primary->safe_psql('postgres', q{
    SELECT pgjobs.enqueue('q', '"short"', priority => -2), pgjobs.enqueue('q', '"long"', priority => -1), pgjobs.enqueue('hold', '"held"');
});
my $holder = session($primary);
my ($id, $token) = split /\|/, $primary->safe_psql('postgres', q{
    BEGIN;
    SET LOCAL client_min_messages = error;
    CREATE TEMP TABLE t AS SELECT id FROM pgjobs.claim('q', lease => '1 second');
    SELECT id, token FROM pgjobs.claim('q', lease => '1 hour');
    COMMIT;
});
$holder->query_safe(q{SELECT count(*) FROM pgjobs.claim('hold', hold => true)});
my ($lent, $sent) = split /\|/, $primary->safe_psql('postgres', q{SELECT max(token), max(position) FROM pgjobs.receive('lent', 2, '1 hour')});
# Prepared transactions, each with something beside it that others may have.
$primary->safe_psql('postgres', 'CREATE DATABASE prepared');
$primary->safe_psql('prepared', q{
    CREATE EXTENSION pgjobs;
    SELECT pgjobs.create_queue('q'), pgjobs.create_topic('t');
    SELECT pgjobs.enqueue('q', to_jsonb(n)) FROM generate_series(1, 5) n;
    SELECT pgjobs.publish('t', '0');
    BEGIN; SELECT FROM pgjobs.claim('q'); PREPARE TRANSACTION 'claim';
    BEGIN; SELECT FROM pgjobs.claim('q'); PREPARE TRANSACTION 'claim undone';
    SELECT FROM pgjobs.claim('q');
    BEGIN; SELECT pgjobs.complete(id, token) FROM pgjobs.job WHERE token > 0; PREPARE TRANSACTION 'complete';
    BEGIN; SELECT pgjobs.enqueue('q', '"early"', run_at => now() - interval '1 hour'); PREPARE TRANSACTION 'enqueue';
    BEGIN; SELECT pgjobs.enqueue('q', '"undone"', priority => -7), pgjobs.publish('t', '"undone"'); PREPARE TRANSACTION 'enqueue undone';
    BEGIN; SELECT pgjobs.publish('t', '1'); PREPARE TRANSACTION 'publish';
    SELECT pgjobs.publish('t', '2');
});
$primary->safe_psql('postgres', 'CREATE TABLE flush ()'); # claims alone may not be flushed yet
$primary->wait_for_catchup($standby);

# ---- reading ----

is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgjobs%'}), 0, 'no process of ours on a standby');
my %reading = (
    q{SELECT payload #>> '{}', state FROM pgjobs.jobs ORDER BY id} => "ready|ready\nlater|scheduled\nshort|running\nlong|running\nheld|running",
    q{SELECT name, ready, scheduled, running FROM pgjobs.queues ORDER BY name} => "hold|0|0|1\nq|1|1|2",
    q{SELECT queue, stage, ready, running FROM pgjobs.stages ORDER BY queue, number} => "hold|work|0|1\nq|a|1|2\nq|b|0|0",
    q{SELECT enqueued, claimed, completed, dead, cancelled FROM pgjobs.queues WHERE name = 'q'} => '||||',
    q{SELECT oldest_ready_age > '0' FROM pgjobs.queues WHERE name = 'q'} => 't',
    q{SELECT string_agg(name, ', ') FROM pgjobs.health() WHERE NOT ok AND name <> 'scheduled jobs'} => '',
    q{SELECT pgjobs.metrics() ~ 'pgjobs_jobs\{queue="q",stage="a",state="running"\} 2\n' AND pgjobs.metrics() !~ '_total'} => 't',
    q{SELECT count(*) FROM pgjobs.attempts} => 3,
    q{SELECT queue, running FROM pgjobs.workers ORDER BY queue} => "hold|1\nq|2",
    qq{SELECT state, payload FROM pgjobs.job($id)} => 'running|"long"',
    q{SELECT version() IS NOT NULL FROM pgjobs.version()} => 't',
    q{SELECT quarantined FROM pgjobs.queues WHERE name = 'q'} => 'f',
    q{SELECT name, quarantined, last_position, first_position, segments, subscriptions FROM pgjobs.topics} => 't|f|||1|3',
    q{SELECT name, queue, position, lag_messages, lag_time FROM pgjobs.subscriptions ORDER BY name, queue} => "lent||0||\ns||0||\n|hold|0||",
    q{SELECT count(*) FROM pgjobs.log} => 3,
);
is($standby->safe_psql('postgres', $_), $reading{$_}, $_) for sort keys %reading;
like($standby->safe_psql('postgres', "SELECT pgjobs.why($id)"), qr/run/, 'why()');
is_state($standby, 'postgres', 'SELECT pgjobs.why(123456789)', '42704', 'why() of nothing');

# ---- writing ----

# With good arguments, so that only the standby is in the way. A call for every routine: whatever is
# not here, nor above, is found by the check below.
my %writing = (
    create_queue => q{'new'}, alter_queue => q{'q', lease => '1 minute'}, drop_queue => q{'q', true},
    pause_queue => q{'q'}, resume_queue => q{'q'}, purge_queue => q{'q'}, resume => '',
    enqueue => q{'q'}, enqueue_many => q{'q', ARRAY['{}'::jsonb]}, enqueue_batch => q{'q', '[{}]'},
    claim => q{'q'}, complete => "$id, $token", complete_many => "ARRAY[$id], ARRAY[$token]",
    complete_and_claim => "'q', ARRAY[$id], ARRAY[$token]",
    fail => "$id, $token", fail_many => "ARRAY[$id], ARRAY[$token]", release => "$id, $token",
    snooze => "$id, $token, '1 minute'", extend => "$id, $token", extend_many => "ARRAY[$id], ARRAY[$token]",
    progress => "$id, $token, 0.5", cancel => $id, retry => $id, redrive => q{'q'},
    reschedule => "$id, now()", reprioritize => "$id, 1",
    grant_queue => q{'q', 'someone', ARRAY['work']}, revoke_queue => q{'q', 'someone', ARRAY['work']},
    _recount => '', _rotate_receipts => 'now()', _reset_hints => '', _check_frontier => '', _reap => 'now()', _promote => 'now()', _expire => 'now()', _keep_history => 'now()',
    attach_table => q{'t', 's', '[]'}, detach_table => q{'t'}, claim_row => q{NULL::t, 's'}, finish_row => q{'t', '1', 's'}, _reap_rows => 'now()',
    create_topic => q{'new'}, alter_topic => q{'t', '1 day'}, drop_topic => q{'t'}, publish => q{'t', '1'}, publish_many => q{'t', '{1}'},
    read => q{'t', 0}, subscribe => q{'new', 't'}, unsubscribe => q{'s'}, receive => q{'s'}, ack => "'lent', $lent, $sent", seek => q{'s', 0},
    subscribe_queue => q{'q', 't'}, unsubscribe_queue => q{'hold', 't'}, wait_message => q{'s', '1 second'},
    grant_topic => q{'t', 'someone', ARRAY['own']}, revoke_topic => q{'t', 'someone', ARRAY['own']}, _keep_topics => 'now()', _deliver => 'now()',
    wait_row => q{'t', 's', '1 second'}, wait => q{'q', '1 second'}, await => "$id, '1 second'",
);
for my $name (sort keys %writing) {
    my $verb = $name =~ /^(?:a?wait|wait_\w+)$/ ? 'CALL' : 'SELECT';
    is_state($standby, 'postgres', "$verb pgjobs.$name($writing{$name})", '25006', "$name on a standby");
}
my @known = (keys %writing, qw(version job why _visible_queues _queue_counters _figures health metrics _installed));
my $others = $standby->safe_psql('postgres', q{
    SELECT string_agg(proname, ', ') FROM pg_proc
    WHERE pronamespace = 'pgjobs'::regnamespace AND prorettype <> 'trigger'::regtype
        AND proname NOT LIKE '\\_%' AND proname <> ALL (string_to_array('} . join(',', @known) . q{', ','))});
is($others, '', 'there is no routine that this test does not know');
is_state($standby, 'postgres', 'DROP EXTENSION pgjobs', '25006', 'DROP EXTENSION on a standby');

# ---- promotion ----

$primary->stop('immediate');
eval { $holder->{run}->kill_kill };
my $claims = q{SELECT payload FROM pgjobs.claim('q', 100)};
my $messages = q{SELECT string_agg(payload::text, ' ' ORDER BY position) FROM pgjobs.read('t', 0)};
my $seconds = timed(sub {
    $standby->promote;
    is($standby->safe_psql('prepared', "$claims; $claims; $messages"), "4\n5\n0", 'at once: what was prepared on the primary is passed');
    like($standby->safe_psql('postgres', q{
        CALL pgjobs.wait('hold', '20 seconds');
        SELECT payload FROM pgjobs.claim('hold');
    }), qr/^t\n"held"$/, 'what a session held is ready after promotion');
});
note(sprintf 'held job claimed %.0f ms after the begin of the promotion', 1000 * $seconds);
cmp_ok($seconds, '<', 10, 'soon');
ok(wait_for_worker($standby, 'postgres'), 'a worker');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE payload = '"short"' AND state = 'running'}), 'an expired lease is reaped');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pgjobs.jobs WHERE payload = '"later"' AND state = 'scheduled'}), 'a delayed job becomes ready');
is($standby->safe_psql('postgres', "SELECT pgjobs.complete($id, $token)"), 'ready', 'a lease that lasts goes on');
is($standby->safe_psql('postgres', q{
    SELECT pgjobs.enqueue('q', '"new"') > 0;
    SELECT count(*) FROM pgjobs.claim('q', 10);
}), "t\n5", 'jobs flow');
is($standby->safe_psql('postgres', q{SELECT count(DISTINCT id) = count(*) FROM pgjobs.jobs}), 't', 'ids are new');
ok($standby->poll_query_until('postgres', q{SELECT bool_and(f.counted) FROM pgjobs.queue q, pgjobs._figures(q.id) f}), 'jobs are counted');
is($standby->safe_psql('postgres', 'SELECT pgjobs._recount()'), 0, 'rightly');

# ---- what was prepared on the primary ends ----

ok(wait_for_worker($standby, 'prepared'), 'a worker there, too');
is($standby->safe_psql('prepared', "$claims; $messages"), '0', 'what was prepared is passed');
for my $end (
    [ q{COMMIT PREPARED 'enqueue'}, '"early"', '0' ],
    [ q{ROLLBACK PREPARED 'claim undone'}, '2', '0' ],
    [ q{COMMIT PREPARED 'claim'}, '', '0' ],
    [ q{COMMIT PREPARED 'complete'}, '', '0' ],
    [ q{COMMIT PREPARED 'publish'}, '', '0' ],
    [ q{ROLLBACK PREPARED 'enqueue undone'}, '', '0 1 2' ])
{
    my ($verb, $job, $log) = @$end;
    is($standby->safe_psql('prepared', "$verb; SELECT pgjobs._check_frontier(); $claims; $messages"),
        join("\n", 0, grep({ $_ ne '' } $job), $log), "$verb: found at once");
}
ok($standby->poll_query_until('prepared', q{SELECT bool_and(f.counted) FROM pgjobs.queue q, pgjobs._figures(q.id) f}), 'jobs are counted');
is($standby->safe_psql('prepared', q{SELECT pgjobs._recount(); SELECT ready, running FROM pgjobs.queues}), "0\n0|5", 'rightly');

# ---- topics ----

my $last = 3; # what was published before
ok($standby->safe_psql('postgres', q{SELECT pgjobs.publish('t', '4')}) > $last, 'positions rise');
is($standby->safe_psql('postgres', q{SELECT string_agg(payload::text, ' ') FROM pgjobs.read('t', 0)}), '1 2 3 4', 'all messages are there');
is($standby->safe_psql('postgres', q{SELECT string_agg(payload::text, ' ') FROM pgjobs.receive('s')}), '1 2 3 4', 'for subscriptions, too');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pgjobs.receive('lent')}), 0, 'a lease holds');
is($standby->safe_psql('postgres', "SELECT pgjobs.ack('lent', $lent, $sent); SELECT string_agg(payload::text, ' ') FROM pgjobs.receive('lent')"), "\n3 4", 'its token is good');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pgjobs.jobs WHERE queue = 'hold' AND headers -> 'message' ->> 'key' = 'k'}), 'a queue gets its jobs');
$standby->stop;

done_testing();

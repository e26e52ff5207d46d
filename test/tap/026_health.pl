# health() says what is wrong, and nothing else; metrics() is OpenMetrics.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('health', init => { allows_streaming => 1 }, conf => q{
pgjobs.max_leases = 64
hot_standby_feedback = on
});

sub sql { return $node->safe_psql('postgres', @_) }
sub wrong { return sql(q{SELECT string_agg(name, ', ') FROM pgjobs.health() WHERE NOT ok}) }
sub detail { return sql("SELECT detail FROM pgjobs.health() WHERE name = '$_[0]'") }

sub is_wrong {
    my ($expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($node->poll_query_until('postgres', qq{SELECT string_agg(name, ', ') IS NOT DISTINCT FROM nullif('$expected', '') FROM pgjobs.health() WHERE NOT ok}), $name)
        or diag(wrong());
}

# ---- all is well ----

is_wrong('', 'a fresh server');
sql(q{
    SELECT pgjobs.create_queue('q', ARRAY['a', 'b']), pgjobs.create_queue('many');
    SELECT pgjobs.enqueue_many('q', '{1,2,3}'), pgjobs.enqueue('q', delay => '1 day')});
sql(q{SELECT count(*) FROM pgjobs.claim('q')});
is_wrong('', 'with jobs');
is(sql(q{SELECT count(*), count(DISTINCT name), bool_and(detail <> '') FROM pgjobs.health()}), '19|19|t', 'each thing once, with a word about it');
like(detail('worker'), qr/^running, pid \d+$/, 'worker');
like(detail('figures'), qr/^known of all 3 stages/, 'figures');
like(detail('lease list'), qr/^1 running/, 'leases');
like(detail('server'), qr/^version \d/, 'server');
is(detail('version'), sql('SELECT pgjobs.version()'), 'version');

# ---- what is wrong ----

my $open = session($node);
my $pid = $open->query_safe('SELECT pg_backend_pid()');
$open->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
like(detail('vacuum'), qr/process $pid, 0 s/, 'who has a snapshot is named');
is_wrong('', 'which is no fault, yet');
$open->query_safe('ROLLBACK');
$open->quit;

sql(q{BEGIN; SELECT pgjobs.enqueue('q'); PREPARE TRANSACTION 'p'});
like(detail('prepared transactions'), qr/^1 with jobs/, 'a prepared transaction');
like(detail('vacuum'), qr/prepared transaction p/, 'holds back vacuum');
sql(q{ROLLBACK PREPARED 'p'});

sql(q{ALTER TABLE pgjobs.job DISABLE TRIGGER changed});
is_wrong('table', 'a trigger is off');
sql(q{ALTER TABLE pgjobs.job ENABLE ALWAYS TRIGGER changed});
sql(q{UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgjobs.job_due'::regclass});
is_wrong('table', 'an index is invalid');
sql(q{REINDEX INDEX pgjobs.job_due});
is_wrong('', 'which REINDEX repairs');
my $alone = session($node);
$alone->query_safe('BEGIN; LOCK TABLE pgjobs.job');
is(wrong(), 'table', 'somebody needs the table alone: not waited for');
$alone->query_safe('ROLLBACK');
$alone->quit;

sql(q{DELETE FROM pgjobs.home});
is_wrong('quarantine', 'a quarantine');
like(detail('quarantine'), qr{^2 queues and 0 topics, such as "(?:many|q)"}, 'with a name');
sql(q{SELECT pgjobs.resume()});
is_wrong('', 'which resume() ends');

sql(q{SELECT pgjobs.enqueue_many('many', array_fill('1'::jsonb, ARRAY[100]))});
sql(q{SELECT count(*) FROM pgjobs.claim('many', 100)});
is_wrong('lease list', 'more running jobs than places');
sql(q{SELECT pgjobs.drop_queue('many', true)});
is_wrong('', 'and when they are gone');

# Nothing is handed out; what is there already is finished, and the duties go on (E12).
sql(q{
    SELECT pgjobs.create_queue('clone'), pgjobs.create_topic('t'), pgjobs.subscribe('s', 't'), pgjobs.publish('t', '1');
    CREATE TABLE runs (id int PRIMARY KEY, state text NOT NULL DEFAULT 'open');
    SELECT pgjobs.attach_table('runs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}]');
    INSERT INTO runs VALUES (1);
    SELECT pgjobs.enqueue('clone', '1'), pgjobs.enqueue('clone', '2'), pgjobs.enqueue('clone', '3')});
my ($id, $token) = split /\|/, sql(q{SELECT id, token FROM pgjobs.claim('clone')});
my $short = sql(q{SELECT id FROM pgjobs.claim('clone', lease => '1 second')});
$node->append_conf('postgresql.conf', "pgjobs.execute = off");
$node->reload;
is_wrong('execute', 'no job is handed out');
is(sql("SELECT count(*) FROM $_"), 0, $_) for q{pgjobs.claim('clone')}, q{pgjobs.complete_and_claim('clone', '{}', '{}')}, q{pgjobs.claim_row(NULL::runs, 's')}, q{pgjobs.receive('s')};
is(sql("CALL pgjobs.$_"), 'f', $_) for q{wait('clone', '10 ms')}, q{wait_row('runs', 's', '10 ms')}, q{wait_message('s', '10 ms')};
like(sql("SELECT pgjobs.why($id + 2)"), qr/pgjobs\.execute is off/, 'why() says so');
is(sql("SELECT pgjobs.complete($id, $token)"), 'completed', 'what is there is finished');
ok($node->poll_query_until('postgres', "SELECT state = 'ready' FROM pgjobs.job($short)"), 'and leases end');
my $waiter = session($node);
start_sql($waiter, q{CALL pgjobs.wait('clone', '20 seconds')});
wait_until_waiting($node, 'postgres', 1);
$node->append_conf('postgresql.conf', "pgjobs.execute = on");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pgjobs.claim('clone')}), 'until it is on');
sql(q{SELECT pgjobs.enqueue('clone')});
is(result_of($waiter), 't', 'which who waits hears');
sql(q{SELECT pgjobs.drop_queue('clone', true), pgjobs.drop_topic('t'); DROP TABLE runs});
is_wrong('', 'and all is well');
# The worker reads the configuration first, and sleeps when the launcher finds that it is not wanted any more.
my $worker = wait_for_worker($node, 'postgres');
my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs launcher'});
sub times_asleep { return slurp_file("/proc/$worker/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : undef }
my $before = times_asleep();
kill STOP => $launcher;
$node->append_conf('postgresql.conf', "pgjobs.execute = on\npgjobs.databases = 'nowhere'");
$node->reload;
ok(wait_until(sub { times_asleep() > $before }), 'the worker reads the configuration');
kill CONT => $launcher;
cmp_ok(timed(sub { is_wrong('worker', 'no worker for this database') }), '<', 20, 'as soon as it is not wanted');
sql(q{UPDATE pgjobs.job SET due_at = now() - interval '1 hour' WHERE waiting = 1});
is_wrong('worker, scheduled jobs', 'whose jobs are late');
like(detail('scheduled jobs'), qr/since 60 min/, 'by how much');
$node->append_conf('postgresql.conf', "pgjobs.databases = ''");
$node->reload;
is_wrong('', 'until it has come');

# A slot that nobody uses.
sql(q{SELECT pg_create_physical_replication_slot('s')});
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('feedback');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_slot_name = 's'\nwal_receiver_status_interval = 1");
$standby->start;
ok($node->poll_query_until('postgres', q{SELECT xmin IS NOT NULL FROM pg_replication_slots}), 'a standby with feedback');
is_wrong('', 'is no fault');
$standby->stop;
is_wrong('vacuum', 'that has gone is');
like(detail('vacuum'), qr/replication slot s/, 'with the name of its slot');
sql(q{SELECT pg_drop_replication_slot('s')});

# ---- figures ----

$node->safe_psql('postgres', q{
    SELECT pgjobs.pause_queue('q');
    SELECT pgjobs.enqueue('q', run_at => now() - interval '1 hour', stage => 'b')});
my $text = sql('SELECT pgjobs.metrics()') =~ s/\n*\z/\n/r; # psql adds one, safe_psql takes it away
note($text);
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/metrics", $text);
my %samples;
if (ok($text =~ s/# EOF\n\z//, 'the end')) {
    # One family after the other: TYPE, HELP, samples of its name and type.
    my ($family, $type, %seen) = ('', '');
    my @bad;
    for my $line (split /\n/, $text) {
        if ($line =~ /^# TYPE ([a-z_]+) (gauge|counter|info)$/) {
            ($family, $type) = ($1, $2);
            push @bad, "twice: $line" if $seen{$family}++;
        } elsif ($line =~ /^# UNIT ([a-z_]+) ([a-z]+)$/) {
            push @bad, $line if $1 ne $family || $family !~ /_$2$/;
        } elsif ($line =~ /^# HELP ([a-z_]+) ([^\\]+)$/) {
            push @bad, $line if $1 ne $family;
        } elsif ($line =~ /^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? (-?\d+(?:\.\d+)?)$/) {
            my ($name, $labels, $value) = ($1, $2 // '', $3);
            push @bad, $line if $name ne $family . { gauge => '', counter => '_total', info => '_info' }->{$type};
            push @bad, "twice: $line" if exists $samples{"$name$labels"};
            $samples{"$name$labels"} = $value;
        } else {
            push @bad, $line;
        }
    }
    is("@bad", '', 'each line is of the format');
}
my %expected = (
    'pgjobs_info{version="' . sql('SELECT pgjobs.version()') . '"}' => 1,
    'pgjobs_jobs{queue="q",stage="a",state="running"}' => 1,
    'pgjobs_jobs{queue="q",stage="a",state="ready"}' => 3,
    'pgjobs_jobs{queue="q",stage="a",state="scheduled"}' => 0,
    'pgjobs_jobs{queue="q",stage="b",state="ready"}' => 1,
    'pgjobs_jobs{queue="q",stage="b",state="blocked"}' => 0,
    'pgjobs_enqueued_total{queue="q"}' => 5,
    'pgjobs_claimed_total{queue="q"}' => 1,
    'pgjobs_completed_total{queue="q"}' => 0,
    'pgjobs_queue_paused{queue="q"}' => 1,
    'pgjobs_queue_quarantined{queue="q"}' => 0,
    'pgjobs_launcher_up' => 1,
    'pgjobs_worker_up' => 1,
    'pgjobs_waiters' => 0,
    'pgjobs_leases' => 1,
    'pgjobs_prepared_transactions' => 0,
    'pgjobs_notification_queue_usage_ratio' => '0.000000',
);
is($samples{$_}, $expected{$_}, $_) for sort keys %expected;
my $age = $samples{'pgjobs_oldest_ready_age_seconds{queue="q",stage="b"}'};
ok($age > 3600 && $age < 4000, 'age of the oldest ready job');
# The parser of those who made the format, where it is installed.
SKIP: {
    skip 'python3-prometheus-client is not installed', 1
        if system('/usr/bin/python3 -c "import prometheus_client" 2>/dev/null');
    my $parse = 'import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as p; '
        . 'print(len(list(p(open(sys.argv[1]).read()))))';
    command_like([ '/usr/bin/python3', '-c', $parse, "$dir/metrics" ], qr/^1\d\n/, 'prometheus_client reads it');
}

$node->stop;
done_testing();

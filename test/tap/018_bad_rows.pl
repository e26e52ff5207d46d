# One row that raises must not stop the others: whatever fails in front of them, the other jobs are
# reaped, promoted and expired at their time, and the bad one when it can be.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Pgjobs;

my $node = new_server('main');
my $good = 1200; # more than two batches
my $in_time = 5; # seconds; it takes a tenth of one, on a machine that is not busy

# Raises for jobs whose payload is "bad", as a user's trigger may.
$node->safe_psql('postgres', q{
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.payload = '"bad"' THEN RAISE 'no way'; END IF;
        RETURN COALESCE(NEW, OLD);
    END $$;
    CREATE FUNCTION refuse_in_history() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.payload = '"bad"' THEN RAISE 'no way'; END IF;
        RETURN NEW;
    END $$;
});

sub count_of {
    my ($queue, $state) = @_;
    return $node->safe_psql('postgres', "SELECT count(*) FROM pgjobs.jobs WHERE queue = '$queue' AND state = '$state'");
}
sub state_of {
    my ($job) = @_;
    return $node->safe_psql('postgres', "SELECT state FROM pgjobs.jobs WHERE id = $job");
}

sub sql {
    my ($statement) = @_;
    return sub { $node->safe_psql('postgres', $statement) };
}

# `produce` makes a job with the payload "bad" and $good others in the queue, all due at the same time.
# `cause` breaks the bad one and `repair` ends that; in between, the others go from state `before` to `after`.
sub passes_over {
    my ($what, %case) = @_;
    my $queue = $case{queue};
    my $offset = -s $node->logfile;
    $case{cause}->();
    $node->safe_psql('postgres', $case{produce});
    my $bad = $node->safe_psql('postgres', qq{SELECT max(id) FROM pgjobs.job WHERE payload = '"bad"'});
    $node->poll_query_until('postgres', "SELECT $case{due} <= clock_timestamp() FROM pgjobs.job WHERE id = $bad");
    my $seconds = timed(sub { wait_until(sub { count_of($queue, $case{after}) == $good }, 30) });
    note(sprintf '%s: %d others after %.0f ms', $what, $good, 1000 * $seconds);
    cmp_ok($seconds, '<', $in_time, "$what: the others are done in time");
    is(state_of($bad), $case{before}, "$what: the bad one is not");

    # It is tried again and again, and that is not all in the log.
    my $late = $node->safe_psql('postgres', $case{again});
    ok(wait_until(sub { state_of($late) eq $case{after} }, 30), "$what: others that come later are done");
    my $log = log_since($node, $offset);
    like($log, qr/LOG:  pgjobs: \w+ job $bad failed: $case{error}/, "$what: the log names the bad job");
    like($log, qr/SQLSTATE $case{sqlstate};/, "$what: and tells the error");
    my @lines = $log =~ /job $bad failed/g;
    cmp_ok(scalar @lines, '<=', 3, "$what: not more than a few times");
    unlike($log, qr/tried again in \d+ ms/, "$what: the duty did not fail as a whole");

    $case{repair}->();
    ok(wait_until(sub { state_of($bad) eq ($case{finally} // $case{after}) }, 90), "$what: in the end the bad one is done");
    return;
}

# ---- reaping ----

my $claimed = q{
    SELECT count(pgjobs.enqueue('%1$s', CASE n WHEN 0 THEN '"bad"' ELSE '"good"' END::jsonb)) FROM generate_series(0, 1200) n;
    SELECT count(*) FROM pgjobs.claim('%1$s', 2000, lease => '1 second');
};
my $claimed_later = q{
    SELECT NULL FROM (SELECT pgjobs.enqueue('%1$s', priority => 9)) x \g /dev/null
    SELECT id FROM pgjobs.claim('%1$s', lease => '100 ms');
};
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue(q, max_attempts => 9) FROM unnest(ARRAY['raise', 'after', 'letters', 'sends']) q});
passes_over('reaping, a trigger raises', queue => 'raise', before => 'running', after => 'ready', due => 'lease_expires_at',
    produce => sprintf($claimed, 'raise'), again => sprintf($claimed_later, 'raise'),
    error => 'no way', sqlstate => 'P0001',
    cause => sql(q{CREATE TRIGGER refuse BEFORE UPDATE ON pgjobs.job FOR EACH ROW WHEN (NEW.token IS NULL) EXECUTE FUNCTION refuse()}),
    repair => sql('DROP TRIGGER refuse ON pgjobs.job'));
$node->safe_psql('postgres', q{SELECT pgjobs.drop_queue('raise', true)});

# Its error comes when the batch is through.
passes_over('reaping, a trigger raises afterwards', queue => 'after', before => 'running', after => 'ready', due => 'lease_expires_at',
    produce => sprintf($claimed, 'after'), again => sprintf($claimed_later, 'after'),
    error => 'no way', sqlstate => 'P0001',
    cause => sql(q{CREATE TRIGGER refuse AFTER UPDATE ON pgjobs.job FOR EACH ROW WHEN (NEW.token IS NULL) EXECUTE FUNCTION refuse()}),
    repair => sql('DROP TRIGGER refuse ON pgjobs.job'));
$node->safe_psql('postgres', q{SELECT pgjobs.drop_queue('after', true)});

# Somebody is about to drop the queue for its dead letters.
my $dropper = session($node);
$node->safe_psql('postgres', q{SELECT pgjobs.alter_queue('sends', max_attempts => 1, dead_letter => 'letters')});
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('others', max_attempts => 9)});
passes_over('reaping, its dead-letter queue is locked', queue => 'others', before => 'running', after => 'ready', due => 'lease_expires_at',
    produce => q{
        SELECT pgjobs.enqueue('sends', '"bad"');
        SELECT count(pgjobs.enqueue('others')) FROM generate_series(1, 1200);
        SELECT count(*) FROM pgjobs.claim('sends', lease => '1 second');
        SELECT count(*) FROM pgjobs.claim('others', 2000, lease => '1 second');
    },
    again => sprintf($claimed_later, 'others'), finally => 'dead',
    error => 'canceling statement due to lock timeout', sqlstate => '55P03',
    cause => sub { $dropper->query_safe($_) for 'BEGIN', q{SELECT pgjobs.drop_queue('letters', true)} },
    repair => sub { $dropper->query_safe('ROLLBACK') });
$dropper->quit;

# ---- promoting ----

$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('delayed'), pgjobs.create_queue('expiring')});
passes_over('promoting', queue => 'delayed', before => 'scheduled', after => 'ready', due => 'due_at',
    produce => q{
        SELECT clock_timestamp() + '1 second' AS due \gset
        SELECT pgjobs.enqueue('delayed', '"bad"', run_at => :'due');
        SELECT count(pgjobs.enqueue('delayed', run_at => :'due')) FROM generate_series(1, 1200);
    },
    again => q{SELECT pgjobs.enqueue('delayed', delay => '50 ms')},
    error => 'no way', sqlstate => 'P0001',
    cause => sql(q{CREATE TRIGGER refuse BEFORE UPDATE ON pgjobs.job FOR EACH ROW WHEN (OLD.waiting = 1) EXECUTE FUNCTION refuse()}),
    repair => sql('DROP TRIGGER refuse ON pgjobs.job'));

# ---- expiring ----

passes_over('expiring', queue => 'expiring', before => 'ready', after => 'cancelled', due => 'expires_at',
    produce => q{
        SELECT clock_timestamp() + '2 seconds' AS due \gset
        SELECT pgjobs.enqueue('expiring', '"bad"', expires_at => :'due');
        SELECT count(pgjobs.enqueue('expiring', expires_at => :'due')) FROM generate_series(1, 1200);
    },
    again => q{SELECT pgjobs.enqueue('expiring', expires_at => clock_timestamp() + '100 ms')},
    error => 'no way', sqlstate => 'P0001',
    cause => sql(q{CREATE TRIGGER refuse BEFORE INSERT ON pgjobs.history FOR EACH ROW EXECUTE FUNCTION refuse_in_history()}),
    repair => sql('DROP TRIGGER refuse ON pgjobs.history'));

# ---- many ----

# A failing row costs a transaction, not a turn: all of a queue may fail before the others.
my $offset = -s $node->logfile;
$node->safe_psql('postgres', q{
    CREATE TRIGGER refuse BEFORE UPDATE ON pgjobs.job FOR EACH ROW WHEN (OLD.waiting = 1) EXECUTE FUNCTION refuse();
    SELECT clock_timestamp() + '1 second' AS due \gset
    SELECT count(pgjobs.enqueue('delayed', '"bad"', run_at => :'due')) FROM generate_series(1, 3000);
});
my $last = $node->safe_psql('postgres', q{SELECT pgjobs.enqueue('delayed', delay => '1 second')});
ok(wait_until(sub { state_of($last) eq 'ready' }, 30), 'a job behind 3000 bad ones is done');
my @lines = log_since($node, $offset) =~ /promoting job \d+ failed/g;
cmp_ok(scalar @lines, '<=', 200, 'not every one of them has a line in the log');
$node->safe_psql('postgres', 'DROP TRIGGER refuse ON pgjobs.job');
ok(wait_until(sub { count_of('delayed', 'scheduled') == 0 }, 90), 'and then they are done too');
is($node->safe_psql('postgres', 'SELECT pgjobs._check_leases()'), 0, 'every running job is in the list');

$node->stop;
done_testing();

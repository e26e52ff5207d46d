# What the owner of an attached table has written (triggers, policies, checks, functions in indexes) never
# runs with other rights than his or his caller's, whoever calls and whichever process does the work; it
# leaves nothing in the sessions of others, and keeps nobody from being served (failures S-4).
# allow-log: pgjobs could not take row \d+ of the table
# allow-log: FATAL: +terminating background worker "pgjobs row reaper" due to administrator command
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main');
$node->safe_psql('postgres', q{
    CREATE ROLE owner LOGIN;
    CREATE ROLE worker LOGIN;
    CREATE ROLE locked_out;
    CREATE TABLE seen (what text, who name, session name);
    GRANT ALL ON seen TO PUBLIC;
    GRANT CREATE, USAGE ON SCHEMA public TO owner;
    GRANT USAGE ON SCHEMA pgjobs TO owner, worker;
    GRANT EXECUTE ON ROUTINE pgjobs.attach_table, pgjobs.detach_table, pgjobs.claim_row, pgjobs.finish_row, pgjobs.wait_row TO owner, worker;
});

# A session of its own for each call: whatever is cached, a session that finds a table anew plans anew.
sub as {
    my ($role, $sql) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($code, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ], on_error_stop => 1);
    return $code == 0 ? $out : $err;
}

# Who was called since the last time, besides those who may be.
sub strangers {
    my (@allowed) = @_;
    my $list = join ', ', map { "'$_'" } @allowed;
    return as('postgres', "SELECT string_agg(DISTINCT what || ' as ' || who, '; ') FROM seen WHERE who NOT IN ($list); TRUNCATE seen");
}
sub nobody_but {
    my ($allowed, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(strangers(@$allowed), '', $name);
}

# Everything of his that a statement on his table can call. Only an immutable function can be in an index;
# what it calls need not be.
is(as('owner', q{
    CREATE FUNCTION tell(what text) RETURNS integer LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.seen VALUES (what, current_user, session_user);
        RETURN 1;
    END $$;
    CREATE FUNCTION spy(what text, i anyelement) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN RETURN public.tell(what); END $$;
    CREATE DOMAIN key AS text CHECK (public.spy('CHECK of a domain', VALUE) = 1);
    CREATE TABLE runs (id key PRIMARY KEY, state text DEFAULT 'open', at timestamptz, fence bigint, sort integer,
        made integer GENERATED ALWAYS AS (public.spy('generated column', sort)) STORED,
        pgjobs_row integer DEFAULT 7,
        CHECK (public.spy('CHECK of the table', state) = 1));
    CREATE INDEX ON runs ((public.spy('index expression', sort)));
    CREATE INDEX ON runs ((public.spy('constant in an index', 1) + sort));
    CREATE INDEX ON runs (sort) WHERE public.spy('constant in a predicate', 2) = 1;
    CREATE INDEX ON runs (state, sort, id) WHERE public.spy('predicate', sort) = 1;
    CREATE STATISTICS of_runs ON (public.spy('statistics', sort)), (id) FROM runs;
    CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM public.tell(TG_NAME);
        -- What a trigger sets in a session that is not his own does not stay.
        PERFORM set_config('work_mem', '4321kB', false);
        PERFORM set_config('default_transaction_read_only', 'on', false);
        PERFORM set_config('search_path', 'evil', false);
        RETURN NEW;
    END $$;
    CREATE TRIGGER before_row BEFORE UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION told();
    CREATE TRIGGER after_row AFTER UPDATE ON runs FOR EACH ROW WHEN (public.spy('WHEN', NEW.sort) = 1) EXECUTE FUNCTION told();
    CREATE TRIGGER after_statement AFTER UPDATE ON runs FOR EACH STATEMENT EXECUTE FUNCTION told();
    CREATE CONSTRAINT TRIGGER late_row AFTER UPDATE ON runs DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION told();
    CREATE POLICY seeing ON runs USING (public.spy('policy', id) = 1);
    ALTER TABLE runs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE runs FORCE ROW LEVEL SECURITY;
    GRANT SELECT, UPDATE ON runs TO worker;
    INSERT INTO runs (id, sort) SELECT n, n FROM generate_series(1, 8) n;
}), '', 'a hostile table');
as('postgres', q{SELECT count(*) FROM runs WHERE state = 'none' AND sort = 1});
like(strangers('owner'), qr/constant in a predicate as postgres/, 'the trap is good: a superuser who as much as reads the table falls into it');

# ---- whoever calls ----

my $stages = q{'[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]'};
as('owner', q{UPDATE runs SET state = 'busy' WHERE id IN ('7', '8')});
is(as('owner', qq{SELECT pgjobs.attach_table('public.runs', 'state', $stages, changed_at => 'at', token => 'fence', priority => 'sort')}), '', 'attach_table');
nobody_but([ 'owner' ], 'attach_table by the owner');
is(as('postgres', 'SELECT count(*) FROM pgjobs.working_row'), 2, 'which has looked at the rows');
is(as('worker', q{SELECT string_agg(r.id || ' ' || r.pgjobs_row, ',' ORDER BY r.sort) FROM pgjobs.claim_row(NULL::public.runs, 's', 4) r}), '1 7,2 7,3 7,4 7',
    'whole rows are claimed, whatever their columns are called');
is(as('worker', q{SELECT pgjobs.finish_row('public.runs', '1', 's')}), 't', 'and finished');
is(as('worker', q{CALL pgjobs.wait_row('public.runs', 's', '1 second')}), 't', 'and waited for');
nobody_but([ 'owner', 'worker' ], 'claim_row, finish_row and wait_row');
my $settings = q{SELECT current_setting('work_mem') || ' ' || current_setting('search_path') || ' ' || current_setting('default_transaction_read_only')};
my $usual = as('postgres', $settings);
is(as('postgres', "SELECT pgjobs._reap_rows(clock_timestamp() + interval '2 hours') > 0; $settings"), "t\n$usual", 'a trigger leaves no setting in the session of an administrator');
nobody_but([ 'owner' ], '_reap_rows by a superuser');
as('postgres', q{SELECT count(*) FROM pgjobs.attached_tables; SELECT count(*) FROM pgjobs.health(); SELECT pgjobs.metrics()});
nobody_but([ 'owner' ], 'views, health and metrics');

# A policy hides a row from its owner: it is looked at as the owner, and not forgotten.
is(as('owner', q{UPDATE runs SET state = 'busy' WHERE id = '2'}), '', 'a busy row');
is(as('owner', q{CREATE POLICY hiding ON runs AS RESTRICTIVE USING (state <> 'busy')}), '', 'a policy');
is(as('postgres', q{SELECT pgjobs._reap_rows(clock_timestamp() + interval '4 hours')}), 0, 'a row that its owner may not see is not taken back');
is(as('postgres', 'SELECT count(*) FROM pgjobs.working_row'), 1, 'nor forgotten');
nobody_but([ 'owner' ], 'whether it is still there is looked at as the owner');
is(as('owner', 'DROP POLICY hiding ON runs'), '', 'no policy');
is(as('postgres', q{DELETE FROM pgjobs.home; SELECT pgjobs.resume()}), '', 'resume()');
nobody_but([ 'owner' ], 'resume() by a superuser');
is(as('postgres', q{SELECT pgjobs.detach_table('public.runs')}), '', 'detach_table');
is(as('postgres', qq{SELECT pgjobs.attach_table('public.runs', 'state', $stages)}), '', 'attach_table');
nobody_but([ 'owner' ], 'detach_table and attach_table by a superuser');

# A deferred trigger would be fired at the commit of whoever took the row back. There it cannot be his.
is(as('owner', q{
    DROP TRIGGER late_row ON runs;
    CREATE CONSTRAINT TRIGGER late_row AFTER UPDATE ON runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION told();
    UPDATE runs SET state = 'busy' WHERE id = '3'}), '', 'a deferred trigger');
strangers('owner');
like(as('postgres', q{SELECT pgjobs._reap_rows(clock_timestamp() + interval '8 hours')}), qr/ERROR:  42501: cannot fire deferred trigger/, 'raises there');
nobody_but([ 'owner' ], 'instead of being fired');

# What he may not do as himself he may not do there, and less.
is(as('owner', q{
    DROP TRIGGER late_row ON runs; DROP TRIGGER before_row ON runs; DROP TRIGGER after_row ON runs; DROP TRIGGER after_statement ON runs;
    CREATE FUNCTION try() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE TG_ARGV[0]; RETURN NEW; END $$}), '', 'a trigger that tries');
for my $what ('RESET ROLE', 'SET ROLE postgres', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION postgres', 'ALTER ROLE owner SUPERUSER',
    'CREATE TEMP TABLE mine ()', 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'SELECT count(*) FROM pgjobs.job', 'SET session_replication_role = replica',
    q{COPY runs TO '/tmp/x'}, 'SELECT pgjobs._recount()')
{
    as('owner', "CREATE OR REPLACE TRIGGER trying BEFORE UPDATE ON runs FOR EACH ROW WHEN (NEW.state = 'open') EXECUTE FUNCTION try(\$\$$what\$\$)");
    like(as('postgres', q{SELECT pgjobs._reap_rows(clock_timestamp() + interval '8 hours')}), qr/ERROR:  (?:42501|0A000|55000)/, "refused: $what");
}
as('owner', 'DROP TRIGGER trying ON runs');
is(as('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'owner'}), 'f', 'he is what he was');

# ---- whichever process does it ----

# Waits until no row is busy; a superuser would have to read the table for that.
sub all_open {
    my ($name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(wait_until(sub { as('worker', q{SELECT count(*) FROM public.runs WHERE state = 'busy'}) eq '0' }), $name);
}
my $second = $stages =~ s/1 hour/1 second/r;
as('postgres', qq{SELECT pgjobs.detach_table('public.runs'); SELECT pgjobs.attach_table('public.runs', 'state', $second)});
as('owner', q{
    CREATE TRIGGER before_row BEFORE UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION told();
    UPDATE runs SET state = 'busy'});
all_open('the process of an owner who may log in');
nobody_but([ 'owner', 'worker' ], 'is he');
as('postgres', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO worker');
as('worker', q{SELECT count(*) FROM pgjobs.claim_row(NULL::public.runs, 's', 10)});
my ($worker) = workers($node, 'postgres');
all_open('the process for an owner who cannot connect');
is(as('postgres', q{SELECT count(*) FROM seen WHERE session = 'postgres'}) > 0 ? 1 : 0, 1, "is a superuser's");
nobody_but([ 'owner', 'worker' ], 'and becomes the owner');

# The worker itself runs nothing of his: what he sets does not reach it.
is(join(' ', workers($node, 'postgres')), $worker, 'the worker is the same');
as('postgres', q{SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q', delay => '50 ms')});
is(as('postgres', q{CALL pgjobs.wait('q', '20 seconds')}), 't', 'and does its duties');
as('postgres', 'GRANT CONNECT ON DATABASE postgres TO PUBLIC');

# An owner whose triggers do not end, and who will not be told, does not keep others from being served.
as('postgres', q{ALTER ROLE owner SET statement_timeout = '300ms'});
is(as('owner', qq{
    CREATE TABLE endless (id int PRIMARY KEY, state text DEFAULT 'busy');
    INSERT INTO endless SELECT n FROM generate_series(1, 50) n;
    CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS \$\$
    BEGIN
        LOOP
            BEGIN
                PERFORM pg_sleep(60);
            EXCEPTION WHEN query_canceled THEN NULL;
            END;
        END LOOP;
    END \$\$;
    CREATE TRIGGER stay BEFORE UPDATE ON endless FOR EACH ROW EXECUTE FUNCTION stay();
    SELECT pgjobs.attach_table('public.endless', 'state', $second)}), '', 'a table whose triggers do not end');
my $offset = -s $node->logfile;
$node->wait_for_log(qr/terminating background worker "pgjobs row reaper"/, $offset);
pass('its process is ended');
as('worker', q{SELECT count(*) FROM pgjobs.claim_row(NULL::public.runs, 's', 10)});
all_open('and another table has its turn');
is(as('postgres', q{SELECT count(*) FROM endless WHERE state = 'busy'}), 50, 'while those rows wait');
is(as('owner', 'DROP TABLE endless'), '', 'they can be dropped');

# A function that raises when it is told to stop ends by itself: two of them, and the rest waits.
is(as('owner', qq{
    CREATE TABLE slow (id int PRIMARY KEY, state text DEFAULT 'busy');
    INSERT INTO slow SELECT n FROM generate_series(1, 50) n;
    CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END \$\$;
    CREATE TRIGGER sleep BEFORE UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION sleep();
    SELECT pgjobs.attach_table('public.slow', 'state', $second)}), '', 'a table whose triggers are slow');
$offset = -s $node->logfile;
ok(wait_until(sub { 2 <= (() = log_since($node, $offset) =~ /pgjobs could not take row/g) }), 'two rows are tried');
as('worker', q{SELECT count(*) FROM pgjobs.claim_row(NULL::public.runs, 's', 10)});
all_open('then another table has its turn');
is(scalar(() = log_since($node, $offset) =~ /pgjobs could not take row/g), 2, 'before more of them');

# ---- who may signal others ----

# The launcher has no role, the worker is a superuser: neither is theirs. An owner's process is, and nothing is lost by it.
as('postgres', q{CREATE ROLE signaller LOGIN IN ROLE pg_signal_backend; ALTER ROLE owner RESET statement_timeout; SELECT pgjobs.enqueue('q', delay => '1 hour')});
sub pids { return split /\n/, as('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs $_[0]'") }
for my $what (qw(launcher worker)) {
    my ($pid) = pids($what);
    like(as('signaller', "SELECT $_($pid)"), qr/ERROR:  42501/, "$_: not the $what") for qw(pg_cancel_backend pg_terminate_backend);
    is(join(' ', pids($what)), $pid, 'which is still there');
}
is(as('owner', qq{
    DROP TABLE slow;
    CREATE TABLE slower (id int PRIMARY KEY, state text DEFAULT 'busy');
    INSERT INTO slower SELECT n FROM generate_series(1, 50) n;
    CREATE TRIGGER sleep BEFORE UPDATE ON slower FOR EACH ROW EXECUTE FUNCTION sleep();
    SELECT pgjobs.attach_table('public.slower', 'state', $second)}), '', 'a process of an owner is at work');
my @reaper;
ok(wait_until(sub { @reaper = pids('row reaper'); @reaper == 1 }), 'which is seen');
$offset = -s $node->logfile;
ok(wait_until(sub { as('signaller', "SELECT pg_cancel_backend($reaper[0])"); log_since($node, $offset) =~ /could not take row/ }), 'can be cancelled: a row fails');
ok(wait_until(sub { ($reaper[0]) = pids('row reaper'); $reaper[0] && as('signaller', "SELECT pg_terminate_backend($reaper[0])") eq 't' }), 'and terminated');
as('worker', q{SELECT count(*) FROM pgjobs.claim_row(NULL::public.runs, 's', 10)});
all_open('others come');
$node->stop;

done_testing();

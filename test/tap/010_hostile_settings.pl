# Whatever a database, a role or a session has set: functions answer the same and workers go on.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => 'allow_in_place_tablespaces = on');
$node->safe_psql('postgres', $_) for q{CREATE TABLESPACE elsewhere LOCATION ''}, 'CREATE SCHEMA evil';
# What a careless search_path would find first.
$node->safe_psql('postgres', q{
    CREATE TABLE evil.job (id bigint); CREATE TABLE evil.queue (id int); CREATE TABLE evil.home (id int);
    CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$;
    CREATE FUNCTION evil.count(anyelement) RETURNS bigint LANGUAGE sql AS $$ SELECT 1/0::bigint $$;
    CREATE FUNCTION evil.text_eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT 1/0 = 1 $$;
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.text_eq);
    CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = pg_catalog.int8ne);
    CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = pg_catalog.int4ne);
});
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue('q', ARRAY['a', 'b'], notify => 'events', retention => '3 days', max_attempts => 2)});

# A life of several jobs through client and worker; the client resets what would stop any client.
my $story = q{
    SELECT pgjobs.enqueue('q', '{"n": 1}', delay => '30 ms', unique_key => 'k') AS id \gset
    CALL pgjobs.wait('q', '20 seconds');
    SELECT id OPERATOR(pg_catalog.=) :id FROM pgjobs.claim('q', lease => '30 ms');
    CALL pgjobs.wait('q', '20 seconds');
    SELECT pgjobs.complete(id, token, '"x"') FROM pgjobs.claim('q');
    SELECT pgjobs.complete(id, token, result) FROM pgjobs.claim('q', stage => 'b');
    CALL pgjobs.await(:id, '20 seconds');
    SELECT state, attempt FROM pgjobs.job(:id);
    SELECT pg_catalog.cardinality(pgjobs.enqueue_many('q', ARRAY['{}', '{}']::pg_catalog.jsonb[], unique_keys => ARRAY['x', 'y']));
    SELECT pgjobs.fail(id, token, 'e', retry => false) FROM pgjobs.claim('q', 2);
    SELECT pgjobs.redrive('q');
    SELECT pgjobs.cancel(id) FROM pgjobs.claim('q', 2);
    SELECT pgjobs.enqueue('q', expires_at => pg_catalog.clock_timestamp() + '30 ms') AS id \gset
    CALL pgjobs.await(:id, '20 seconds');
    SELECT pg_catalog.count(*) FROM pgjobs.jobs WHERE state OPERATOR(pg_catalog.=) 'running';
};
my $expected = "t\nt\nt\nready\ncompleted\ncompleted|\"x\"\ncompleted|1\n2\ndead\ndead\n2\nt\nt\ncancelled|\n0";

sub check {
    my ($name, %options) = @_;
    my ($code, $out, $err) = $node->psql('postgres', ($options{reset} // '') . $story,
        on_error_stop => 1, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
    is($out . ($err =~ /ERROR/ ? $err : ''), $expected, $name);
    return;
}
check('as it comes');

# A worker that has these settings from its start on.
sub fresh_worker {
    my $old = join ' ', workers($node, 'postgres');
    $node->safe_psql('template1', q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'pgjobs worker'});
    wait_until(sub { !$old || join(' ', workers($node, 'postgres')) ne $old }, 10);
    return;
}

my @hostile = (
    [ search_path => q{evil, pg_catalog, public} ],
    [ default_transaction_isolation => 'serializable' ],
    [ default_transaction_deferrable => 'on' ],
    [ statement_timeout => q{'1ms'}, 'SET statement_timeout = 0;' ],
    [ lock_timeout => q{'1ms'} ],
    [ idle_in_transaction_session_timeout => q{'1ms'} ],
    [ TimeZone => q{'Australia/Lord_Howe'} ],
    [ DateStyle => q{'German, DMY'} ],
    [ IntervalStyle => q{'iso_8601'} ],
    [ session_replication_role => 'replica' ],
    [ row_security => 'off' ],
    [ default_tablespace => 'elsewhere' ],
    [ default_table_access_method => q{'heap'} ],
    [ client_encoding => 'LATIN1' ],
    [ standard_conforming_strings => 'off' ],
    [ escape_string_warning => 'off' ],
    [ enable_indexscan => 'off' ],
    [ enable_seqscan => 'off' ],
    [ check_function_bodies => 'off' ],
    [ bytea_output => q{'escape'} ],
    [ synchronous_commit => 'off' ],
    [ client_min_messages => 'debug5' ],
    [ log_statement => 'none' ],
    [ transform_null_equals => 'on' ],
    [ array_nulls => 'off' ],
    [ quote_all_identifiers => 'on' ],
    [ work_mem => q{'64kB'} ],
);
for my $setting (@hostile) {
    my ($name, $value, $reset) = @$setting;
    # Plain commands, to be undone by a session that has none of it.
    $node->safe_psql('template1', "ALTER DATABASE postgres SET $name = $value");
    fresh_worker();
    check("$name = $value", reset => $reset);
    $node->safe_psql('template1', "ALTER DATABASE postgres RESET $name");
}

# All at once, for every role.
for my $setting (@hostile) {
    next if $setting->[0] eq 'client_min_messages';
    $node->safe_psql('template1', "ALTER ROLE ALL SET $setting->[0] = $setting->[1]", extra_params => [ '-v', 'x=1' ]) if $setting->[0] ne 'statement_timeout';
}
fresh_worker();
check('all at once');
my $keep = q{SELECT pgjobs._keep_history(pg_catalog.now())};
is_state($node, 'postgres', $keep, '00000', 'partitions can be made');
$node->safe_psql('template1', "ALTER ROLE ALL RESET $_->[0]") for @hostile;

# Partitions are where the database is, whatever default_tablespace says.
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'pgjobs'::regnamespace AND reltablespace <> 0}), 0, 'nothing of ours is elsewhere');

# A frozen database: the worker leaves it alone, and goes on when that ends.
$node->safe_psql('postgres', q{SELECT pgjobs.enqueue('q', '"frozen"', delay => '1 second')});
$node->safe_psql('template1', 'ALTER DATABASE postgres SET default_transaction_read_only = on');
fresh_worker();
my $offset = -s $node->logfile;
is_state($node, 'postgres', q{SELECT pgjobs.enqueue('q')}, '25006', 'a client that does not say otherwise is refused');
ok(!wait_until(sub { $node->safe_psql('postgres', q{SELECT state FROM pgjobs.jobs WHERE payload = '"frozen"'}) ne 'scheduled' }, 2.5), 'the worker idles');
unlike(log_since($node, $offset), qr/pgjobs worker \w{5} ERROR|failed/, 'without a complaint');
is(scalar workers($node, 'postgres'), 0, 'and is not there');
$node->safe_psql('template1', 'ALTER DATABASE postgres RESET default_transaction_read_only');
# It looks again once a minute; a restart makes it look now.
$node->restart;
ok($node->poll_query_until('postgres', q{SELECT state = 'ready' FROM pgjobs.jobs WHERE payload = '"frozen"'}), 'then it goes on');
$node->stop;

done_testing();

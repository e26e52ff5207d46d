# Preloading: what works without it, what says how to get it, and what a preloaded server shows.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main');
my $line = qr/shared_preload_libraries = 'pgjobs'/;

# A database that was made while the library was preloaded: its functions exist.
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('q');
    SELECT pgjobs.enqueue('q');
});

like($node->safe_psql('postgres', 'SELECT pgjobs.version()'), qr/^\d+\.\d+\.\d+$/, 'a preloaded server has a version');
is($node->safe_psql('postgres', 'SELECT extversion = pgjobs.version() FROM pg_extension WHERE extname = $$pgjobs$$'),
    't', 'library and catalog are of one version');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgjobs launcher'}),
    1, 'one launcher');
ok(wait_for_worker($node, 'postgres'), 'one worker');

# ---- the same without preloading ----

$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', q{''});
$node->restart;
my $offset = -s $node->logfile;

is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pgjobs%'}),
    0, 'no process of ours without preloading');

my ($code, $out, $err) = $node->psql('postgres', q{LOAD 'pgjobs'});
is("$code$out$err", '0', 'LOAD is quiet');
is($node->safe_psql('postgres', q{LOAD 'pgjobs'; SELECT count(*) FROM pg_settings WHERE name LIKE 'pgjobs.%'}),
    0, 'LOAD defines no setting');

$node->safe_psql('postgres', 'CREATE DATABASE other');
($code, $out, $err) =
  $node->psql('other', 'CREATE EXTENSION pgjobs', extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/ERROR:  55000:/, 'CREATE EXTENSION fails with 55000');
like($err, $line, 'and its hint has the line to add');
is($node->safe_psql('other', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs'}), 0, 'nothing is left behind');

# Every function and procedure, private ones too, called with NULLs for what has no default.
my @routines = split /\n/, $node->safe_psql('postgres', q{
    SELECT CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT ' END || p.oid::regproc || '(' || array_to_string(ARRAY(
            SELECT 'NULL::' || CASE t WHEN 'anyelement'::regtype THEN 'pgjobs.queue' ELSE format_type(t, NULL) END
            FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (t, n)), ', ') || ')'
    FROM pg_proc p
    WHERE p.pronamespace = 'pgjobs'::regnamespace AND p.prorettype <> 'trigger'::regtype
    ORDER BY 1
});
cmp_ok(scalar @routines, '>=', 35, 'there are functions to try: ' . @routines);
my @wrong;
for my $call (@routines) {
    (undef, undef, $err) = $node->psql('postgres', $call, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
    push @wrong, "$call: $err" unless $err =~ /ERROR:  55000:/ && $err =~ $line;
}
is("@wrong", '', 'every function fails with 55000 and the line to add');

for my $dml (q{INSERT INTO pgjobs.home VALUES (1, 1)}, q{DELETE FROM pgjobs.job}, q{TRUNCATE pgjobs.job}) {
    is_state($node, 'postgres', $dml, '55000', "triggers too: $dml");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM pgjobs.job'), 1, 'the job is still there');
unlike(log_since($node, $offset), qr/terminated by signal|PANIC/, 'nobody crashed');

# What needs no library of ours: dropping.
$node->safe_psql('postgres', 'DROP EXTENSION pgjobs');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'pgjobs'}), 0, 'DROP EXTENSION works');

# ---- and back ----

$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', q{'pgjobs'});
$node->restart;
$node->safe_psql('other', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'); SELECT pgjobs.enqueue('q')});
is($node->safe_psql('other', q{SELECT count(*) FROM pgjobs.claim('q')}), 1, 'with the line added, all is well');
ok(wait_for_worker($node, 'other'), 'and a worker is there');
$node->stop;

done_testing();

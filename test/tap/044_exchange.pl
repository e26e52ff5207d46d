# The library is exchanged by a newer one while the server runs, as a package's upgrade does (E5): everything goes on
# with the old one until the restart; then the new one works with the old objects until ALTER EXTENSION (E4).
# The newer one is this one with another number.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

# ---- a PostgreSQL of one's own ----

# It finds its directories from where its program is.
my $root = PostgreSQL::Test::Utils::tempdir();
sub directory_of {
    my ($what) = @_;
    my ($out) = run_command([ $ENV{PG_CONFIG} // 'pg_config', "--$what" ]);
    return $out;
}
my %own;
for my $what (qw(bindir pkglibdir sharedir)) {
    my $from = directory_of($what);
    $own{$what} = "$root$from";
    make_path($own{$what});
    system_or_bail('sh', '-c', qq{cd '$from' && tar -ch --exclude ./bitcode --exclude ./pgxs . | tar -x -C '$own{$what}'});
}
my $library = "$own{pkglibdir}/pgjobs.so";
my $updates = "$own{sharedir}/extension";
my $old = slurp_file($library);
my ($version) = slurp_file("$updates/pgjobs.control") =~ /^default_version = '(.*)'/m;
my $newer = $version =~ s/^./9/r;
(my $new = $old) =~ s/\Q$version\E/$newer/g;

my $node = PostgreSQL::Test::Cluster->new('main', install_path => $own{bindir} =~ s{/bin$}{}r);
$node->init;
$node->start;
sub sql { return $node->safe_psql('postgres', @_) }
sql(q{
    CREATE EXTENSION pgjobs;
    SELECT pgjobs.create_queue('q');
    SELECT pgjobs.enqueue('q', '"before"'), pgjobs.enqueue('q', '"later"', delay => '1 day');
});
my ($loaded) = slurp_file('/proc/' . (workers($node, 'postgres'))[0] . '/maps') =~ m{(\S+/pgjobs\.so)};
is($loaded, $library, 'the server has its own library');

# ---- exchanged ----

append_to_file("$library.new", $new);
rename "$library.new", $library or die $!;
append_to_file("$updates/pgjobs--$version--$newer.sql", qq{
    SELECT pgjobs._require_version('$newer');
    CREATE FUNCTION pgjobs.news() RETURNS text LANGUAGE c AS 'MODULE_PATHNAME', 'pgjobs_version';
});
is(sql('SELECT pgjobs.version()'), $version, 'new sessions have the old library');
my $session = session($node);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
is(scalar(() = slurp_file("/proc/$pid/maps") =~ /r-xp [^\n]*pgjobs\.so/g), 1, 'and no other');
$session->quit;
is(sql(q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q')}), 'completed', 'jobs are worked on');
sql('CREATE DATABASE another');
$node->safe_psql('another', q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q'), pgjobs.enqueue('q', delay => '10 ms')});
ok($node->poll_query_until('another', q{SELECT state = 'ready' FROM pgjobs.jobs}), 'a new database gets its worker');
my ($code, $out, $err) = $node->psql('postgres', "ALTER EXTENSION pgjobs UPDATE TO '$newer'", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/ERROR:  55000: the server runs version \Q$version\E of pgjobs, not "\Q$newer\E"\nHINT:  [^\n]*restart the server/, 'ALTER EXTENSION asks for a restart');
is(sql(q{SELECT extversion FROM pg_extension WHERE extname = 'pgjobs'}), $version, 'and changes nothing');
is(sql(q{SELECT detail FROM pgjobs.health() WHERE name = 'version' AND ok}), $version, 'which is as it should be');

# ---- restarted, then updated ----

$node->restart;
is(sql('SELECT pgjobs.version()'), $newer, 'after the restart there is the new library');
like(sql(q{SELECT detail FROM pgjobs.health() WHERE name = 'version' AND NOT ok}), qr/^\Q$version\E, but the loaded library is \Q$newer\E: .*ALTER EXTENSION pgjobs UPDATE/, 'health() says what to do');
sql(q{SELECT pgjobs.enqueue('q', '"between"', delay => '10 ms')});
is(sql(q{CALL pgjobs.wait('q', '20 seconds')}), 't', 'the old objects work');
is(sql(q{SELECT payload, pgjobs.complete(id, token) FROM pgjobs.claim('q')}), '"between"|completed', 'with the new library');
sql("ALTER EXTENSION pgjobs UPDATE TO '$newer'");
is(sql('SELECT pgjobs.news()'), $newer, 'ALTER EXTENSION brings what is new');
is(sql(q{SELECT count(*) FROM pgjobs.health() WHERE NOT ok}), 0, 'and all is well');
is(sql(q{SELECT string_agg(payload #>> '{}' || ' ' || state, ', ' ORDER BY id) FROM pgjobs.jobs}), 'before completed, later scheduled, between completed', 'nothing was lost');
$node->stop;

done_testing();

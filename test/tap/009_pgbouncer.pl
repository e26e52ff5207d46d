# Through pgbouncer in transaction mode: every call is one statement, so nothing depends on a session.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'pgbouncer is not installed' unless $pgbouncer;

my $node = new_server('main');
$node->safe_psql('postgres', q{SELECT pgjobs.create_queue(q) FROM unnest(ARRAY['q', 'answers']) q; CREATE TABLE done (id bigint)});

# A pooler of our own, with two connections to the server.
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $user = getpwuid($>);
my $port = PostgreSQL::Test::Cluster::get_free_port();
append_to_file("$dir/pgbouncer.ini", <<"END");
[databases]
postgres = host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=postgres
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 50
pidfile = $dir/pgbouncer.pid
logfile = $dir/pgbouncer.log
ignore_startup_parameters = extra_float_digits
END
$node->safe_psql('postgres', 'SELECT 1');
# With auth_type any the server's user is the pool's.
append_to_file("$dir/pgbouncer.ini", "");
my $ini = slurp_file("$dir/pgbouncer.ini");
$ini =~ s/dbname=postgres/dbname=postgres user=$user/;
unlink "$dir/pgbouncer.ini";
append_to_file("$dir/pgbouncer.ini", $ini);
system_or_bail($pgbouncer, '-q', '-d', "$dir/pgbouncer.ini");
END { system('kill', slurp_file("$dir/pgbouncer.pid") =~ s/\s//gr) if $dir && -e "$dir/pgbouncer.pid" }

my $pool = "host=$dir port=$port dbname=postgres";
sub through {
    my ($sql) = @_;
    my ($out, $err);
    IPC::Run::run([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $pool, '-f', '-' ], '<', \$sql, '>', \$out, '2>', \$err);
    return "$out$err" =~ s/\n\z//r;
}
ok(wait_until(sub { through('SELECT 1') eq '1' }, 10), 'pgbouncer answers');

# ---- each call ----

is(through(q{SELECT pgjobs.enqueue('q') > 0; CALL pgjobs.wait('q', '10 seconds')}), "t\nt", 'enqueue and wait');
is(through(q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q')}), 'completed', 'claim and complete');
is(through(q{CALL pgjobs.wait('q', '100 ms')}), 'f', 'wait with nothing to do');
is(through(q{SELECT pgjobs.enqueue('q') AS id \gset
SELECT count(*) FROM pgjobs.claim('q', worker => 'pooled') \g /dev/null
CALL pgjobs.await(:id, '100 ms')}), 'running|', 'await');
like(through(q{BEGIN; CALL pgjobs.wait('q', '1 second');}), qr/ERROR:  25001:/, 'wait in a transaction block');
$node->safe_psql('postgres', q{SELECT pgjobs.complete(id, token) FROM pgjobs.job});

# ---- many clients over two connections ----

sub client {
    my ($name, $sql) = @_;
    my $file = "$dir/$name";
    append_to_file("$file.sql", $sql);
    return [ IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $pool, '-f', "$file.sql" ],
        '<', \undef, '>', "$file.out", '2>', "$file.err"), "$file.err" ];
}
my $began = $node->safe_psql('postgres', q{SELECT max(id) FROM pgjobs.jobs});
my $seconds = timed(sub {
    # Workers wait, claim and complete; what is completed is noted in the same transaction.
    my @clients = map { client("worker$_", qq{
        CALL pgjobs.wait('q', '200 ms');
        WITH c AS (SELECT id, token FROM pgjobs.claim('q', 4)), d AS (SELECT id, pgjobs.complete(id, token) FROM c)
        INSERT INTO done SELECT id FROM d;
    } x 60) } 1 .. 6;
    push @clients, map { client("producer$_", qq{
        SELECT pgjobs.enqueue('q') AS id \\gset
        SELECT pgjobs.enqueue_many('q', ARRAY['{}', '{}']::jsonb[]);
    } x 40) } 1 .. 4;
    push @clients, map { client("asker$_", qq{
        SELECT pgjobs.enqueue('q') AS id \\gset
        CALL pgjobs.await(:id, '10 seconds');
    } x 5) } 1 .. 4;
    $_->[0]->finish for @clients;
    is(join('', map { slurp_file($_->[1]) } @clients), '', 'no client had an error');
});
note(sprintf 'fourteen clients: %.1f s', $seconds);
through(q{WITH c AS (SELECT id, token FROM pgjobs.claim('q', 1000)), d AS (SELECT id, pgjobs.complete(id, token) FROM c) INSERT INTO done SELECT id FROM d;});
is($node->safe_psql('postgres', "SELECT count(*), count(*) FILTER (WHERE state = 'completed') FROM pgjobs.jobs WHERE id > $began"), '500|500', 'nothing is lost');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM done'), '500|500', 'and every job was done once');
is($node->safe_psql('postgres', q{SELECT count(*) <= 2 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()}), 't', 'over two connections');
is(join(' ', map { slurp_file($_) =~ /:\s*f$/m ? 1 : () } glob "$dir/*.err"), '', 'none of the awaits timed out');

system_or_bail('kill', slurp_file("$dir/pgbouncer.pid") =~ s/\s//gr);
ok(wait_until(sub { !-e "$dir/pgbouncer.pid" }, 10), 'pgbouncer ends');
$node->stop;
done_testing();

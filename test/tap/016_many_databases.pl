# More databases than places in shared memory: those without the extension need none for long.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', conf => q{
pgjobs.max_databases = 3
pgjobs.idle_exit = 1s
}, bare => 1);
$node->safe_psql('postgres', "CREATE DATABASE d$_") for 1 .. 7;

# Databases 2 and 7 have the extension, made before and after the server looked at all of them.
for my $database (qw(d2 d7)) {
    $node->safe_psql($database, q{CREATE EXTENSION pgjobs; SELECT pgjobs.create_queue('q')});
    $node->safe_psql($database, q{SELECT pgjobs.enqueue('q', delay => '300 ms')});
    ok($node->poll_query_until($database, q{SELECT state = 'ready' FROM pgjobs.jobs}), "$database has its worker");
}

# After a restart they are found again among the others.
$node->safe_psql($_, q{SELECT pgjobs.enqueue('q', delay => '2 seconds')}) for qw(d2 d7);
$node->restart;
ok($node->poll_query_until($_, q{SELECT bool_and(state = 'ready') FROM pgjobs.jobs}), "$_ is found after a restart")
  for qw(d2 d7);
unlike(slurp_file($node->logfile), qr/cannot take more/, 'there was room for all that need it');

# More with the extension than places: the log says so, and what to do.
my $offset = -s $node->logfile;
$node->safe_psql($_, 'CREATE EXTENSION pgjobs') for qw(d1 d3);
$node->wait_for_log(qr/looks after 3 databases and cannot take more.*\n.*HINT:  Raise pgjobs.max_databases/, $offset);
pass('the log names the setting');

done_testing();

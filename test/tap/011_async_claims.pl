# Claims do not wait for the disk, and nothing else is made asynchronous by them: what has been
# written but not flushed after a commit shows it.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

# The WAL writer would flush behind our back; so would a commit with fsync off count as flushed.
my $node = new_server('main', conf => q{
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
autovacuum = off
bgwriter_delay = 10s
checkpoint_timeout = 1h
pgjobs.idle_exit = 1s
});
$node->safe_psql('postgres', q{
    SELECT pgjobs.create_queue('fast', notify => 'off', lease => '1 hour');
    SELECT pgjobs.create_queue('sure', notify => 'off', lease => '1 hour', durable_claims => true);
    SELECT pgjobs.enqueue_many('fast', array_fill('{}'::jsonb, ARRAY[100]));
    SELECT pgjobs.enqueue_many('sure', array_fill('{}'::jsonb, ARRAY[100]));
    CREATE TABLE orders (job bigint);
    CREATE TABLE scratch (n int);
});

# Whether the last transaction of the session waited for the disk. A flushed transaction before it
# makes sure that only its own WAL can be unflushed.
sub waited {
    my ($sql) = @_;
    my $output = $node->safe_psql('postgres', qq{
        SET synchronous_commit = on;
        INSERT INTO scratch VALUES (1);
        $sql;
        SELECT 'flushed ' || (pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn());
    });
    return $output =~ /flushed true/ ? 1 : 0;
}

# The worker writes too: it must have gone.
ok(wait_until(sub { !workers($node, 'postgres') }), 'the worker has gone');

is(waited(q{SELECT id FROM pgjobs.claim('fast')}), 0, 'a claim alone does not wait');
is(waited(q{BEGIN; SELECT id FROM pgjobs.claim('fast'); SELECT id FROM pgjobs.claim('fast'); COMMIT}),
    0, 'nor do two claims in a block');
is(waited(q{BEGIN; SAVEPOINT s; SELECT id FROM pgjobs.claim('fast'); RELEASE s; COMMIT}),
    0, 'nor a claim in a savepoint');
is(waited(q{SELECT id FROM pgjobs.claim('sure')}), 1, 'it does with durable_claims');
is(waited(q{BEGIN; SELECT id FROM pgjobs.claim('sure'); SELECT id FROM pgjobs.claim('fast'); COMMIT}),
    1, 'also with another claim behind it');

is(waited(q{INSERT INTO orders SELECT id FROM pgjobs.claim('fast')}), 1, 'one statement that also inserts waits');
is(waited(q{WITH j AS MATERIALIZED (SELECT id FROM pgjobs.claim('fast')) INSERT INTO orders SELECT id FROM j}),
    1, 'also by WITH');
is(waited(q{BEGIN; SELECT id FROM pgjobs.claim('fast'); INSERT INTO orders VALUES (1); COMMIT}),
    1, 'a write after the claim waits');
is(waited(q{BEGIN; INSERT INTO orders VALUES (1); SELECT id FROM pgjobs.claim('fast'); COMMIT}),
    1, 'a write before the claim waits');
is(waited(q{BEGIN; SELECT id FROM pgjobs.claim('fast'); INSERT INTO orders VALUES (1);
            SELECT id FROM pgjobs.claim('fast'); COMMIT}), 1, 'a write between two claims waits');
is(waited(q{BEGIN; SELECT id FROM pgjobs.claim('fast'); SELECT pgjobs.enqueue('fast'); COMMIT}),
    1, 'claim and enqueue wait');
is(waited(q{SELECT pgjobs.complete(id, token) FROM pgjobs.claim('fast')}), 1, 'claim and complete wait');
is(waited(q{SELECT pgjobs.enqueue('fast')}), 1, 'enqueue waits');

# Several statements before one Sync, as a driver's pipeline sends them, are one transaction.
my $script = "$PostgreSQL::Test::Utils::tmp_check/pipeline.sql";
append_to_file($script, q{
\startpipeline
SELECT id FROM pgjobs.claim('fast');
INSERT INTO orders VALUES (2);
\endpipeline
});
$node->safe_psql('postgres', 'INSERT INTO scratch VALUES (1)');
$node->command_ok([ 'pgbench', '-n', '-M', 'extended', '-t', '1', '-f', $script, 'postgres' ], 'a pipeline');
is($node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()'),
    't', 'a pipeline that also inserts waits');

# The session's own setting stays.
is($node->safe_psql('postgres', q{SET synchronous_commit = on; SELECT count(*) FROM pgjobs.claim('fast');
    SHOW synchronous_commit}), "1\non", 'the setting is as before');

# What was acknowledged without the disk may be gone after a crash; then the token is refused.
my ($id, $token) = split /\|/, $node->safe_psql('postgres', q{INSERT INTO scratch VALUES (1);
    SELECT id, token FROM pgjobs.claim('fast')});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', "SELECT state, attempt FROM pgjobs.jobs WHERE id = $id"), 'ready|0',
    'an unflushed claim has never happened');
is_state($node, 'postgres', "SELECT pgjobs.complete($id, $token)", 'PJ001', 'and its token is refused');
my ($again, $other) = split /\|/, $node->safe_psql('postgres', q{SELECT id, token FROM pgjobs.claim('fast')});
isnt($other, $token, 'the next claim has another token');

done_testing();

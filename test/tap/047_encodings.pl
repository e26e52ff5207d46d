# Texts in databases of other encodings: payloads, keys, errors, workers, notes, states, messages, notifications and
# dumps bring back the bytes that went in, and what is cut is cut between characters.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Pgjobs;

my $node = new_server('main', bare => 1, conf => 'max_worker_processes = 32');
my $dir = PostgreSQL::Test::Utils::tempdir();

# What the client speaks, a text in it, and a letter that has so many bytes in the database.
my %kinds = (
    UTF8 => [ 'UTF8', 'Zoë €€', 'ë', 2 ],
    LATIN1 => [ 'UTF8', 'Zoë ÿ', 'ë', 1 ],
    EUC_JP => [ 'UTF8', '東京 ab', '京', 2 ],
    SQL_ASCII => [ 'SQL_ASCII', "Zo\xeb \xff\x80", "\xeb", 1 ],
);
for my $encoding (sort keys %kinds) {
    my ($client, $text, $letter, $bytes) = @{ $kinds{$encoding} };
    my $database = lc $encoding;
    local $ENV{PGCLIENTENCODING} = $client;
    my $sql = sub { return $node->safe_psql($database, $_[0]) };
    my $is = sub {
        my ($statement, $expected, $name) = @_;
        local $Test::Builder::Level = $Test::Builder::Level + 1;
        return is($sql->($statement), $expected, "$encoding: $name");
    };
    $node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'");
    $sql->(qq{
        CREATE EXTENSION pgjobs;
        SELECT pgjobs.create_topic('t'), pgjobs.create_topic('events'), pgjobs.create_queue('fed');
        SELECT pgjobs.create_queue('q', events_topic => 'events'), pgjobs.subscribe_queue('fed', 't', '%$letter%');
        CREATE TABLE runs (id text PRIMARY KEY, state text);
        SELECT pgjobs.attach_table('runs', 'state', '[{"stage": "s", "waiting": "$text", "working": "busy", "done": "closed"}]', channel => 'told');
    });

    # A job's life.
    $is->(qq{SELECT pgjobs.enqueue('q', to_jsonb('$text'::text), unique_key => '$text', headers => '{"$text": 1}') = pgjobs.enqueue('q', unique_key => '$text')}, 't', 'a unique key');
    $is->(qq{SELECT payload #>> '{}', headers FROM pgjobs.claim('q', worker => '$text')}, qq{$text|{"$text": 1}}, 'a job');
    $is->(qq{SELECT pgjobs.progress(id, token, 0.5, '$text') FROM pgjobs.job}, '', 'progress');
    $is->(q{SELECT worker, note FROM pgjobs.job}, "$text|$text", 'worker and note');
    $is->(qq{SELECT pgjobs.fail(id, token, '$text: ' || repeat('$letter', 9000), retry => false) FROM pgjobs.job}, 'dead', 'an error');
    $is->(qq{SELECT octet_length(error) BETWEEN 8192 - $bytes + 1 AND 8192, error = left('$text: ' || repeat('$letter', 9000), length(error)) FROM pgjobs.jobs}, 't|t', 'is cut between characters');
    $is->(q{SELECT DISTINCT payload ->> 'worker', payload ->> 'error_class' FROM pgjobs.read('events', 0) WHERE payload ->> 'to' = 'dead'}, "$text|error", 'events');
    $is->(q{SELECT payload #>> '{}', unique_key, pgjobs.metrics() <> '' FROM pgjobs.jobs}, "$text|$text|t", 'the history');

    # A message becomes a job.
    $sql->(qq{SELECT pgjobs.publish('t', to_jsonb('$text'::text), key => '$text', headers => '{"$text": 1}'); SELECT pgjobs.publish('t', '1', key => 'Zoe')});
    $is->(q{CALL pgjobs.wait('fed', '20 seconds')}, 't', 'a queue that subscribes');
    $is->(q{SELECT payload #>> '{}', headers -> 'message' ->> 'key' FROM pgjobs.claim('fed', 5)}, "$text|$text", 'gets its message');

    # Rows and what is told of them.
    my $listener = session($node, database => $database);
    $listener->query_safe('LISTEN told');
    $sql->(qq{INSERT INTO runs VALUES ('$text', '$text')});
    $is->(q{SELECT id, state FROM pgjobs.claim_row(NULL::runs, 's')}, "$text|busy", 'a row');
    $is->(qq{SELECT pgjobs.finish_row('runs', '$text', 's')}, 't', 'finished');
    my $heard = '';
    ok(wait_until(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /"to": "closed"/ }, 20), "$encoding: told");
    like($heard, qr/"key": "\Q$text\E", "from": "\Q$text\E", "to": "busy"/, "$encoding: as it is");
    $listener->quit;
    $is->(q{SELECT pgjobs._check_frontier(), string_agg(name, ' ') FROM pgjobs.health() WHERE NOT ok}, '0|', 'health');

    # Dump and restore, into a database that has the letters, too.
    command_ok([ 'pg_dump', '-f', "$dir/$database.sql", $node->connstr($database) ], "$encoding: pg_dump");
    for my $other (grep { $_ eq $encoding || $client eq 'UTF8' && $_ eq 'UTF8' } keys %kinds) {
        my $copy = lc "${database}_$other";
        $node->safe_psql('postgres', "CREATE DATABASE $copy TEMPLATE template0 ENCODING '$other' LOCALE 'C'");
        command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/$database.sql", $node->connstr($copy) ], "$encoding: restored as $other");
        my $rows = q{SELECT string_agg(r, ',' ORDER BY r COLLATE "C") FROM (SELECT v::text FROM pgjobs.jobs v UNION ALL SELECT m::text FROM pgjobs.read('t', 0) m UNION ALL SELECT t::text FROM runs t) x (r)};
        is($node->safe_psql($copy, $rows), $sql->($rows), "$encoding: as it was, as $other");
    }
}
$node->stop;
done_testing();

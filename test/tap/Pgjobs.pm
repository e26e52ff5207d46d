# What the tap tests share: servers, sessions that go on in the background, processes, figures.
package Pgjobs;

use strict;
use warnings;
use Exporter qw(import);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(
  new_server session start_sql result_of sqlstate_of is_state workers wait_for_worker
  wait_until_waiting wait_until timed figures log_since start_script
);

# A running server with the extension in database postgres.
sub new_server {
    my ($name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(%{ $options{init} // {} });
    $node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
    $node->start;
    $node->safe_psql('postgres', 'CREATE EXTENSION pgjobs') unless $options{bare};
    return $node;
}

# ---- sessions ----

# A psql that stays, and goes on after errors, whose SQLSTATEs it shows.
sub session {
    my ($node, %options) = @_;
    my @extra = ('-v', 'VERBOSITY=verbose');
    push @extra, '-U', $options{user} if $options{user};
    return $node->background_psql($options{database} // 'postgres',
        on_error_stop => 0, extra_params => \@extra);
}

my $statement = 0;

# Sends a statement and does not wait for its end; result_of() does.
sub start_sql {
    my ($session, $sql) = @_;
    $session->{stdout} = $session->{stderr} = '';
    $session->{marker} = 'end of statement ' . ++$statement;
    $session->{stdin} .= "$sql\n;\n\\echo '$session->{marker}'\n\\warn '$session->{marker}'\n";
    $session->{run}->pump_nb while length $session->{stdin};
}

# The output of what start_sql() has sent, with errors behind it.
sub result_of {
    my ($session) = @_;
    my $end = qr/^\Q$session->{marker}\E\n/m; # a pipe may bring half a line
    $session->{timeout}->start; # from now on, however long ago the session began
    pump_until($session->{run}, $session->{timeout}, \$session->{stdout}, $end);
    pump_until($session->{run}, $session->{timeout}, \$session->{stderr}, $end);
    my $output = "$session->{stdout}$session->{stderr}";
    $session->{stdout} = $session->{stderr} = '';
    $output =~ s/^\Q$session->{marker}\E\n//mg;
    $output =~ s/\n\z//;
    return $output;
}

# A psql that runs a script by itself; its output goes to a file, errors too. Returns the harness and the file.
sub start_script {
    my ($node, $database, $sql) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/script';
    append_to_file("$file.sql", $sql);
    my $run = IPC::Run::start(
        [ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($database), '-f', "$file.sql" ],
        '<', \undef, '>', "$file.out", '2>', "$file.err");
    return ($run, "$file.err", "$file.out");
}

# The SQLSTATE with which a statement fails; 00000 if it does not.
sub sqlstate_of {
    my ($node, $database, $sql, @more) = @_;
    my ($code, $out, $err) = $node->psql($database, $sql,
        extra_params => [ '-v', 'VERBOSITY=verbose', @more ], on_error_stop => 1);
    return '00000' if $code == 0;
    return $err =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}):/ ? $1 : "no SQLSTATE in: $err";
}

sub is_state {
    my ($node, $database, $sql, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(sqlstate_of($node, $database, $sql), $expected, $name // $sql);
}

# ---- processes ----

# Pids of the workers of a database.
sub workers {
    my ($node, $database) = @_;
    return split /\n/, $node->safe_psql('template1',
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs worker' AND datname = '$database'");
}

# Waits until the database has exactly one worker, other than `not`; returns its pid.
sub wait_for_worker {
    my ($node, $database, %options) = @_;
    my $not = $options{not} // 0;
    my $pid;
    wait_until(sub {
        my @pids = workers($node, $database);
        $pid = $pids[0];
        return @pids == 1 && $pid != $not;
    }, $options{timeout}) or return;
    return $pid;
}

# Waits until so many sessions sleep in CALL pgjobs.wait or await.
sub wait_until_waiting {
    my ($node, $database, $count) = @_;
    return wait_until(sub {
        $count <= $node->safe_psql('template1',
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '$database' AND state = 'active'
             AND query ~ 'CALL pgjobs.(wait|await)' AND wait_event = 'Extension'");
    });
}

# ---- time ----

# Waits for a condition; false when it does not hold within the timeout (s).
sub wait_until {
    my ($condition, $timeout) = @_;
    my $end = time + ($timeout // $PostgreSQL::Test::Utils::timeout_default);
    until ($condition->()) {
        return 0 if time > $end;
        usleep(20_000);
    }
    return 1;
}

# How long it takes, in seconds.
sub timed {
    my ($body) = @_;
    my $begin = time;
    $body->();
    return time - $begin;
}

# Tells median and maximum of figures, in ms; returns them.
sub figures {
    my ($what, @values) = @_;
    my @sorted = sort { $a <=> $b } @values;
    my ($median, $most) = ($sorted[ $#sorted / 2 ], $sorted[-1]);
    note(sprintf '%s: median %.1f ms, most %.1f ms of %d', $what, $median, $most, scalar @sorted);
    return ($median, $most);
}

sub log_since {
    my ($node, $offset) = @_;
    return slurp_file($node->logfile, $offset);
}

1;

#!/usr/bin/env bash
# A worker in bash, with psql and nothing else.
#
#   worker.sh QUEUE STAGE COMMAND [ARGUMENT ...]
#
# Takes one job after the other from a stage of a queue and runs COMMAND for it: the job is its stdin
# (JSON: id, payload, attempt, ...), its stdout is the result (JSON or nothing). Exit status 0 completes
# the job, any other fails it, with stderr as the error. PGHOST, PGDATABASE, ... say where the server is.
#
# Every statement is a connection of its own, so a job is held by a time lease, extended by heartbeats.
# SIGTERM gives the present job back and ends the worker.
set -euo pipefail

[ $# -ge 3 ] || {
    sed -n '4s/^# *//p' "$0" >&2
    exit 2
}
queue=$1 stage=$2
shift 2
export PGAPPNAME=${PGAPPNAME:-worker.sh-$$} # pgjobs shows it as the worker's name

tmp=$(mktemp -d)
mkfifo "$tmp/output"
job='' id='' token='' beat='' handler='' waiting=''

log() { echo "$(date +%T) $PGAPPNAME: $*"; }

# Runs one statement; a row is a line, a tab between columns. Values go in as psql variables, which
# psql quotes where the statement says :'name': never paste them into its text.
# psql takes the place of the shell that calls this, so always say (sql ...), $(sql ...) or sql ... &
sql() { # STATEMENT [-v name=value ...]
    exec psql -XqAt -F $'\t' -v ON_ERROR_STOP=1 -v VERBOSITY=verbose "${@:2}" <<<"$1" 2>"$tmp/error"
}

# Says something about the present job until the server has heard it: a complete that had arrived
# is accepted again. Fails if the answer is no. PJ001 is the fence: the job is somebody else's by now.
tell() { # STATEMENT [-v name=value ...]
    until (sql "$@" -v id="$id" -v token="$token") >/dev/null; do
        if grep -q '^ERROR:' "$tmp/error"; then
            log "job $id, refused: $(sed -n 's/^ERROR:  //p' "$tmp/error")"
            return 1
        fi
        back_off
    done
}

pause=1
back_off() {
    log "next try in $pause s: $(head -n 1 "$tmp/error")"
    sleep "$pause"
    pause=$((pause < 16 ? pause * 2 : 30))
}

# Waits for a job and claims it. None is no error: somebody else was quicker.
next_job() {
    job=''
    # The server does the waiting, in the background here because `wait` lets a signal through.
    sql "CALL pgjobs.wait(:'queue', '30 seconds', stage => :'stage')" \
        -v queue="$queue" -v stage="$stage" >"$tmp/answer" &
    waiting=$!
    wait "$waiting" || return
    waiting=''
    [ "$(<"$tmp/answer")" = t ] || return 0
    # beat: a third of the lease, by the server's clock. A jsonb's text has no tab or line break.
    (sql "SELECT j.id, j.token, extract(epoch FROM j.lease_expires_at - clock_timestamp()) / 3, to_jsonb(j)
          FROM pgjobs.claim(:'queue', stage => :'stage') AS j" \
        -v queue="$queue" -v stage="$stage") >"$tmp/answer" || return
    IFS=$'\t' read -r id token beat job <"$tmp/answer" || true
}

work() { # COMMAND [ARGUMENT ...]
    local output='' line='' status=0
    "$@" <<<"$job" >"$tmp/output" 2>"$tmp/stderr" &
    handler=$!
    # The end of its output is its end, and each pause in the output is time for a heartbeat. That is
    # no process of its own, on purpose: a worker that hangs or is stopped must lose its job.
    exec {reader}<"$tmp/output"
    while status=0 && read -r -t "$beat" -u "$reader" line || status=$?; do
        output+=$line
        [ "$status" -ne 1 ] || break # end of output; a timeout is more than 128
        [ "$status" -eq 0 ] || tell "SELECT pgjobs.extend(:id, :token)" || {
            kill "$handler" 2>/dev/null || true
            job='' # nothing of it is ours to report
            break
        }
    done
    exec {reader}<&-
    status=0
    wait "$handler" || status=$?
    handler=''
    [ -n "$job" ] || return 0

    if [ "$status" -ne 0 ]; then
        tell "SELECT pgjobs.fail(:id, :token, :'error')" \
            -v error="exit status $status: $(tail -c 2000 "$tmp/stderr")" || true
    elif ! tell "SELECT pgjobs.complete(:id, :token, nullif(:'result', '')::jsonb)" -v result="$output" &&
        ! grep -q PJ001 "$tmp/error"; then
        tell "SELECT pgjobs.fail(:id, :token, 'the output is not JSON', retry => false)" || true
    fi
    log "job $id: exit status $status"
    job=''
}

leave() {
    [ -z "$waiting" ] || { kill -INT "$waiting" && wait "$waiting"; } 2>/dev/null || true # psql cancels
    [ -z "$handler" ] || kill "$handler" 2>/dev/null || true
    [ -z "$job" ] || (sql "SELECT pgjobs.release(:id, :token)" -v id="$id" -v token="$token") >/dev/null || true
    rm -rf "$tmp"
}
trap leave EXIT
trap 'exit 0' TERM INT

while true; do
    if next_job; then
        pause=1
        [ -z "$job" ] || work "$@"
    else
        back_off
    fi
done

#!/usr/bin/env bash
# A worker on the rows of an attached table: waits, claims, works, finishes. See docs/own-table.md.
#
#   row_worker.sh TABLE STAGE COMMAND [ARGUMENT ...]
#
# The table has a primary key `id` and a column `token`. The command gets the row as JSON on its
# stdin; an exit status other than 0 fails the row. What is said about a row goes to stderr.
set -euo pipefail

table=$1 stage=$2
shift 2

ask() { # STATEMENT [-v name=value ...]
    psql -XqAt -v ON_ERROR_STOP=1 -v VERBOSITY=verbose -v table="$table" -v stage="$stage" "${@:2}" <<<"$1"
}

while true; do
    [ "$(ask "CALL pgjobs.wait_row(:'table', :'stage', '1 minute')")" = t ] || continue
    # The row type is a name, so it stands in the statement as an identifier.
    row=$(ask "SELECT r.id, r.token, to_jsonb(r) FROM pgjobs.claim_row(NULL::$table, :'stage') r")
    [ -n "$row" ] || continue # somebody else was quicker
    IFS='|' read -r id token json <<<"$row"
    if "$@" <<<"$json"; then ok=true; else ok=false; fi
    if answer=$(ask "SELECT pgjobs.finish_row(:'table', :'id', :'stage', ok => :ok, token => :token)" \
        -v id="$id" -v token="$token" -v ok=$ok 2>&1); then
        echo "row $id, $stage: $ok" >&2
    else
        echo "row $id, refused: ${answer#*ERROR:  }" | head -n 1 >&2
    fi
done

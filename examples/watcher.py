#!/usr/bin/python3
"""Follows a queue and prints a line for each change, without taking part in the work.

  watcher.py QUEUE          the queue needs notify => 'events'

An event says which job changed and how, but never carries its payload, for any role may LISTEN.
Events are a help for who is there, not a record: they may come late, out of order or, under
overload, be summed up as "resync". So: drop what is older than what you know, and look at
pgjobs.jobs when told to, and at the start. (Who must miss nothing subscribes to a topic.)
"""

import json
import os
import signal
import sys
import time

import psycopg
from psycopg import sql

COLOURS = {"grey": 90, "red": 31, "green": 32, "yellow": 33, "blue": 34}
if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
    COLOURS = {}

WIDTH = 40  # of a job's title

known = {}  # job -> {"rev", "stage", "state", "attempt"}, as last told
titles = {}  # job -> what to call it


def say(job, symbol, colour, stage, text):
    now = time.time()
    clock = f"{time.strftime('%T', time.localtime(now))}.{int(now * 10) % 10}"
    line = f"{symbol} {titles[job]:{WIDTH}}  {stage:<11} {text}"
    if colour in COLOURS:
        clock, line = f"\033[90m{clock}\033[0m", f"\033[{COLOURS[colour]}m{line}\033[0m"
    print(clock, "", line, flush=True)


def look_up(conn, statement, *values):
    row = conn.execute(statement, values).fetchone()
    return row[0] if row and row[0] is not None else ""


def tell(conn, job, new):
    """Prints what is new about a job, in the words of somebody who watches."""
    old = known.get(job, {"stage": new["stage"], "state": None, "attempt": 0})
    known[job] = new
    if job not in titles:
        title = "SELECT coalesce(payload->>'title', payload::text) FROM pgjobs.jobs WHERE id = %s"
        text = f"#{job:<4} {look_up(conn, title, job)}"
        titles[job] = text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"

    stage, state, attempt = new["stage"], new["state"], new["attempt"]
    if stage != old["stage"]:
        say(job, "✓", "blue", old["stage"], f"done, now waiting for {stage}")
    if state == "running":
        who = "SELECT worker FROM pgjobs.attempts WHERE (job_id, stage, attempt) = (%s, %s, %s)"
        again = f", attempt {attempt}" if attempt > 1 else ""
        say(job, "▶", "yellow" if again else None, stage, look_up(conn, who, job, stage, attempt) + again)
    elif state == "completed":
        summary = "SELECT coalesce(result->>'summary', result::text) FROM pgjobs.jobs WHERE id = %s"
        text = look_up(conn, summary, job) or "completed"
        say(job, "✔", "red" if text.startswith("failed") else "green", stage, text)
    elif state == "ready" and old["state"] == "running" and stage == old["stage"]:
        say(job, "↻", "yellow", stage, f"attempt {old['attempt']} was given up, ready again")
    elif state == "scheduled" and old["state"] == "running":
        say(job, "↻", "yellow", stage, f"attempt {attempt} failed, to be tried again")
    elif state in ("dead", "cancelled"):
        why = "SELECT error FROM pgjobs.jobs WHERE id = %s"
        say(job, "✘", "red", stage, f"{state} {look_up(conn, why, job)[:60]!r}")
    elif stage == old["stage"] and (old["state"] or state != "ready"):
        say(job, "·", "grey", stage, state)  # that there is a new job is no news until somebody takes it


def resync(conn, queue):
    """Reads the table once and tells whatever no event has told."""
    rows = conn.execute(
        "SELECT id, stage, state, attempt FROM pgjobs.jobs WHERE queue = %s ORDER BY id", (queue,)
    ).fetchall()
    for job, stage, state, attempt in rows:
        old = known.get(job, {"rev": 0})
        new = {"rev": old["rev"], "stage": stage, "state": state, "attempt": attempt}
        if new != old:
            tell(conn, job, new)


def watch(queue):
    # Two connections: one hears, one asks.
    with psycopg.connect(autocommit=True) as ears, psycopg.connect(autocommit=True) as conn:
        try:
            # First LISTEN, then look: what happens in between is seen twice rather than never.
            ears.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"pgjobs_{queue}")))
            resync(conn, queue)
            for notice in ears.notifies():
                event = json.loads(notice.payload)
                if event.get("resync"):
                    resync(conn, queue)
                elif event["rev"] > known.get(event["job"], {"rev": 0})["rev"]:
                    tell(conn, event["job"], {key: event[key] for key in ("rev", "stage", "state", "attempt")})
        except KeyboardInterrupt:
            resync(conn, queue)  # the last word


if len(sys.argv) != 2:
    sys.exit(__doc__.splitlines()[2].strip())
os.environ.setdefault("PGAPPNAME", "watcher.py")
signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt, like Ctrl-C
while True:
    try:
        watch(sys.argv[1])
        break
    except psycopg.OperationalError as error:
        print(f"reconnecting: {error}".strip(), file=sys.stderr)
        time.sleep(1)
    except KeyboardInterrupt:
        break

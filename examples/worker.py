#!/usr/bin/python3
"""A worker in Python, with psycopg 3.

  worker.py QUEUE STAGE COMMAND [ARGUMENT ...]

Takes one job after the other from a stage of a queue and runs COMMAND for it: the job is its stdin
(JSON: id, payload, attempt, ...), its stdout is the result (JSON or nothing). Exit status 0 completes
the job, any other fails it, with stderr as the error. PGHOST, PGDATABASE, ... say where the server is.

It has a connection of its own, so it holds its job by a session lease (hold => true): the job is
its own for as long as the session lives, with no heartbeat, and is ready again some milliseconds
after the session ends, however that comes. SIGTERM gives the present job back and ends the worker.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psycopg
from psycopg.types.json import Jsonb

if len(sys.argv) < 4:
    sys.exit(__doc__.splitlines()[2].strip())
QUEUE, STAGE, *COMMAND = sys.argv[1:]
NAME = os.environ.get("PGAPPNAME", f"worker.py-{os.getpid()}")  # pgjobs shows it as the worker's name
CHECK = 2  # seconds


def log(*words):
    print(time.strftime("%T"), NAME + ":", *words, flush=True)


def run(conn, job):
    """Runs the command for a job; returns its exit status, stdout and stderr."""
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    question = json.dumps(job)
    try:
        while True:
            try:
                out, err = process.communicate(question, timeout=CHECK)
                return process.returncode, out, err
            except subprocess.TimeoutExpired:
                question = None  # it has been sent
                # Is the job still mine, or was it cancelled? For a time lease the same call is the
                # heartbeat: leave hold => true out, and let CHECK be a third of the lease. (Work
                # that keeps this thread busy needs another thread, with its own connection.)
                conn.execute("SELECT pgjobs.extend(%s, %s)", (job["id"], job["token"]))
    finally:
        process.terminate()  # does nothing to one that has ended


def work(conn, job):
    mine = job["id"], job["token"]
    try:
        status, out, err = run(conn, job)
        if status == 0:
            result = Jsonb(json.loads(out)) if out.strip() else None
            state = conn.execute("SELECT pgjobs.complete(%s, %s, %s)", (*mine, result)).fetchone()[0]
        else:
            error = f"exit status {status}: {err[-2000:]}"
            state = conn.execute("SELECT pgjobs.fail(%s, %s, %s)", (*mine, error)).fetchone()[0]
        log(f"job {job['id']}: exit status {status}, now {state}")
    except json.JSONDecodeError as error:
        conn.execute("SELECT pgjobs.fail(%s, %s, %s, retry => false)", (*mine, f"no JSON: {error}"))
    except KeyboardInterrupt:
        with contextlib.suppress(psycopg.Error):  # the end of the session would do it, too
            conn.execute("SELECT pgjobs.release(%s, %s)", mine)
        raise
    except psycopg.Error as error:
        # The fence: the job is somebody else's by now, or nobody's, and nothing of ours has counted.
        if error.sqlstate != "PJ001":
            raise
        log(f"job {job['id']}, refused: PJ001: {error.diag.message_primary}")


def serve(conn):
    while True:
        # The server does the waiting, without polling and without a transaction left open.
        wait = "CALL pgjobs.wait(%s, '30 seconds', stage => %s)"
        if conn.execute(wait, (QUEUE, STAGE)).fetchone()[0]:
            claim = "SELECT to_jsonb(j) FROM pgjobs.claim(%s, hold => true, stage => %s) AS j"
            row = conn.execute(claim, (QUEUE, STAGE)).fetchone()
            if row:  # somebody else may have been quicker
                work(conn, row[0])


signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt, like Ctrl-C
pause = 1
try:
    while True:
        try:
            # autocommit: each call is its own transaction, and `wait` accepts no other way.
            with psycopg.connect(autocommit=True, application_name=NAME) as conn:
                pause = 1
                serve(conn)
        except psycopg.OperationalError as error:
            # The session is gone and so are its leases: no job to think of, start afresh.
            log(f"next try in {pause} s:", *str(error).splitlines()[:1])
            time.sleep(pause)
            pause = min(2 * pause, 30)
except KeyboardInterrupt:
    log("stopped")

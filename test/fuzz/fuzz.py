"""What the fuzzers share: a server of their own with the database of world.sql, and the verdict
when they are done. Data, log and report.json of a run stay in its directory."""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import time

import psycopg
import psycopg.sql

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "faults"))
import invariants  # noqa: E402
from server import ROOT, Server  # noqa: E402

SETTINGS = [
    "fsync=off",  # nothing here dies with the machine
    "max_connections=40",
    "max_prepared_transactions=40",
    "max_worker_processes=16",
    "max_wal_size=4GB",
    "log_checkpoints=off",
    "log_min_messages=warning",
    # Errors by the hundred thousand; the client knows its statements.
    "log_error_verbosity=terse",
    "log_min_error_statement=panic",
]


class Fuzz:
    """A run: prepare(), what the fuzzer does, verdict()."""
    settings = ()
    allowed_in_log = ()

    def __init__(self, options):
        self.options = options
        self.directory = os.path.realpath(options.directory)
        self.server = Server(os.path.join(self.directory, "cluster"), SETTINGS + list(self.settings))
        self.passed = self.failed = 0
        self.report = {}

    def test(self, good, what, *why):
        if good:
            self.passed += 1
            print(f"ok {what}", flush=True)
        else:
            self.failed += 1
            print("\n    ".join([f"not ok {what}", *map(str, why)]), flush=True)
        return good

    def prepare(self):
        self.server.tool("drop")
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        self.server.create()
        world = os.path.join(HERE, "world.sql")
        self.server.tool("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", world)
        self.epoch = self.server.epoch()

    # ---- the verdict ----

    def verdict(self):
        self.test(self.server.epoch() == self.epoch, "the server has never been restarted")
        with self.server.connect(options="-c lock_timeout=10s") as connection:
            for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
                connection.execute(psycopg.sql.SQL("ROLLBACK PREPARED {}").format(gid))
            broken = self.come_to_rest(connection)
            self.test(not broken, "tables, indexes and the frontier are sound", *broken)
            wrong = connection.execute("SELECT pgjobs._recount()").fetchone()[0]
            self.test(wrong == 0, "the figures in shared memory are right", f"{wrong} were wrong")
            wrong = self.lives(connection)
            self.test(not wrong, "a job, a message and a row live their lives", *wrong)
        # tools/cluster has asked for them.
        cores = [name for name in os.listdir(os.path.join(self.directory, "cluster", "data"))
                 if name.startswith("core")]
        self.test(not cores, "no core was left", *cores)
        self.check_log()
        self.server.tool("stop", "fast", check=False)

    @staticmethod
    def come_to_rest(connection):
        """What is broken, once the worker has had its time: a check reads what it is writing."""
        broken = None
        for _ in range(5):
            try:
                broken = list(invariants.broken(connection))
            except psycopg.Error as error:
                broken = [error]
            if not broken:
                break
            time.sleep(0.5)
        return broken

    @staticmethod
    def lives(connection):
        """What does not work any more."""
        wrong = []

        def is_true(query):
            try:
                if connection.execute(query).fetchone() != (True,):
                    wrong.append(query)
            except psycopg.Error as error:
                wrong.append(f"{query}: {error.sqlstate} {error}")

        for command in ("SELECT pgjobs.drop_queue('life', true)", "SELECT pgjobs.drop_topic('lives')",
                        "DROP TABLE fuzz.life", "SELECT pgjobs.resume()"):
            try:
                connection.execute(command)
            except psycopg.Error:
                pass
        connection.execute("SELECT pgjobs.create_queue('life', ARRAY['one', 'two'])")
        connection.execute("SELECT pgjobs.create_topic('lives')")
        connection.execute("CREATE TABLE fuzz.life (id int PRIMARY KEY, status text)")
        is_true("SELECT pgjobs.enqueue('life', '1') > 0")
        is_true("SELECT pgjobs.complete(id, token) = 'ready' FROM pgjobs.claim('life')")
        is_true("SELECT pgjobs.fail(id, token, retry => false) = 'dead' FROM pgjobs.claim('life')")
        is_true("SELECT pgjobs.redrive('life') = 1")
        is_true("SELECT pgjobs.complete(id, token) = 'completed' FROM pgjobs.claim('life')")
        connection.execute("SELECT pgjobs.subscribe('lived', 'lives')")
        is_true("SELECT pgjobs.publish('lives', '1') > 0")
        is_true("SELECT pgjobs.ack('lived', token, position)::text = ''"
                " FROM pgjobs.receive('lived')")
        connection.execute(
            "SELECT pgjobs.attach_table('fuzz.life', 'status', '[{\"stage\": \"do\", \"waiting\": \"new\","
            " \"working\": \"doing\", \"done\": \"done\"}]')")
        connection.execute("INSERT INTO fuzz.life VALUES (1, 'new')")
        is_true("SELECT status = 'doing' FROM pgjobs.claim_row(NULL::fuzz.life, 'do')")
        is_true("SELECT pgjobs.finish_row('fuzz.life', '1', 'do')")
        return wrong

    def check_log(self):
        allowed = [x for pattern in self.allowed_in_log for x in ("--allow", pattern)]
        checked = subprocess.run([os.path.join(ROOT, "test/check-log"), *allowed, self.server.log],
                                 capture_output=True, check=False)
        self.test(checked.returncode == 0, "the server's log has nothing that must not be there",
                  *checked.stdout.decode(errors="backslashreplace").splitlines()[:20],
                  checked.stderr.decode(errors="backslashreplace"))


def routines(connection):
    """All of them, from the catalog, so that a new one joins by itself."""
    rows = connection.execute(
        "SELECT p.proname, CASE WHEN p.prokind = 'p' THEN 'procedure' WHEN p.prorettype ="
        " 'trigger'::regtype THEN 'trigger' ELSE 'function' END, p.pronargs, p.pronargdefaults,"
        " p.proargnames, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t)"
        " FROM pg_proc p WHERE p.pronamespace = 'pgjobs'::regnamespace ORDER BY 1").fetchall()
    return [{"name": name, "kind": kind,
             "arguments": [{"name": names[i], "type": types[i], "optional": i >= count - defaults}
                           for i in range(count)]}
            for name, kind, count, defaults, names, types in rows]


def arguments(about, name):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=secrets.randbits(62))
    parser.add_argument("--directory", default=os.path.join(ROOT, "build", "fuzz", name),
                        help="is emptied first")
    return parser


def main(fuzz_class, parser):
    options = parser.parse_args()
    program = os.path.relpath(sys.argv[0], ROOT)
    command = " ".join([program] + [f"--{name.replace('_', '-')} {value}"
                                    for name, value in vars(options).items()])
    print(command, flush=True)
    began = time.monotonic()
    fuzz = fuzz_class(options)
    try:
        fuzz.prepare()
        fuzz.run()
        fuzz.verdict()
    finally:
        if sys.exc_info()[0] is not None:
            fuzz.test(False, "the run came to its end", sys.exc_info()[1])
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
                                capture_output=True, text=True, check=False).stdout.strip()
        fuzz.report |= {"commit": commit, "options": vars(options), "passed": fuzz.passed,
                        "failed": fuzz.failed, "seconds": round(time.monotonic() - began, 1)}
        with open(os.path.join(fuzz.directory, "report.json"), "w", encoding="utf-8") as file:
            json.dump(fuzz.report, file, indent=1)
        if fuzz.failed:
            print(f"\nagain: {command}\nkept: {fuzz.directory}")
        print(f"{fuzz.passed} passed, {fuzz.failed} failed")
    sys.exit(1 if fuzz.failed else 0)

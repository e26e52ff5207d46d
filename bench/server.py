"""The private cluster that is measured, and what it costs: CPU time and WAL."""

import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", "bench")
CLUSTER = os.path.join(BUILD, "cluster")

SETTINGS = [
    "shared_buffers=1GB",
    "max_wal_size=32GB",
    "min_wal_size=4GB",
    "checkpoint_timeout=1h",  # none during a run: each run begins with one
    "max_connections=300",
]


def cluster(*arguments):
    return subprocess.run([os.path.join(ROOT, "tools", "cluster"), *arguments], check=True,
                          stdout=subprocess.PIPE, text=True).stdout


class Server:
    def start(self):
        cluster("drop", CLUSTER)
        cluster("start", CLUSTER, *SETTINGS)
        pairs = re.findall(r"export (\w+)='?([^'\n]*)'?", cluster("env", CLUSTER))
        self.environment = {**os.environ, **dict(pairs)}
        with open(os.path.join(CLUSTER, "data", "postmaster.pid"), encoding="ascii") as file:
            self.postmaster = int(file.readline())

    def drop(self):
        cluster("drop", CLUSTER)

    def sql(self, database, *statements):
        """Runs them, each on its own; returns what the last one printed."""
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database]
        for statement in statements:
            command += ["-c", statement]
        result = subprocess.run(command, env=self.environment, check=False, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"in database {database}: {result.stderr.strip()}")
        return result.stdout.strip()

    def snapshot(self, database):
        """A transaction that sees the present for as long as it stays open; close() ends it."""
        process = subprocess.Popen(["psql", "-XAtq", "-d", database], env=self.environment, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT 'open' FROM pg_class LIMIT 1;\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "open":
            raise RuntimeError("no snapshot")
        return process

    def cpu(self):
        """CPU seconds of the server: its living processes and those that it has reaped."""
        seconds = 0
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                    fields = file.read().rpartition(")")[2].split()
                if int(entry) == self.postmaster:
                    seconds += sum(int(f) for f in fields[13:15]) / os.sysconf("SC_CLK_TCK")
                elif int(fields[1]) != self.postmaster:
                    continue
                # Nanoseconds: the ticks of hundreds of idle processes would all be rounded to none.
                with open(f"/proc/{entry}/schedstat", encoding="utf-8") as file:
                    seconds += int(file.read().split()[0]) / 1e9
            except OSError:
                continue  # it has just ended
        return seconds

    def wal(self):
        return int(self.sql("postgres", "SELECT pg_current_wal_insert_lsn() - '0/0'"))

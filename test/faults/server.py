"""A throw-away server that can be killed without mercy and comes back."""

import ctypes
import os
import re
import signal
import subprocess
import time

import psycopg

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
PR_SET_CHILD_SUBREAPER = 36


def state_and_parent(pid):
    """From /proc; (None, None) when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0], int(fields[1])
    except OSError:
        return None, None


def children_of(pid):
    return [int(name) for name in os.listdir("/proc")
            if name.isdigit() and state_and_parent(int(name))[1] == pid]


class Server:
    def __init__(self, directory, settings):
        self.directory = directory
        self.settings = settings
        self.orphans = set()
        self.log_read = 0
        # The orphans of a killed postmaster become ours, whatever process 1 does with its own.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def tool(self, verb, *arguments, check=True):
        return subprocess.run([os.path.join(ROOT, "tools/cluster"), verb, self.directory,
                               *arguments], check=check, capture_output=True, text=True)

    def start(self):
        started = self.tool("start", *self.settings, check=False)
        return started.returncode == 0, started.stderr

    def create(self):
        self.tool("drop")
        started, message = self.start()
        if not started:
            raise RuntimeError(message)
        self.learn()

    def learn(self):
        """Where it is, once it runs."""
        exports = dict(re.findall(r"export PG(\w+)='(.*)'", self.tool("env").stdout))
        self.conninfo = (f"host={exports['HOST']} port={exports['PORT']} user=postgres "
                         "dbname=postgres")
        self.log = os.path.join(self.directory, "log")

    def connect(self):
        # Whatever the settings of the server are that the clients use.
        return psycopg.connect(self.conninfo, autocommit=True, connect_timeout=5,
                               application_name="nemesis",
                               options="-c default_transaction_isolation=read\\ committed")

    def postmaster(self):
        with open(os.path.join(self.directory, "data", "postmaster.pid"), encoding="ascii") as file:
            return int(file.readline())

    def epoch(self, deadline=30):
        """When the shared memory of this server was made, us; waits until it accepts."""
        end = time.monotonic() + deadline
        while True:
            try:
                with self.connect() as connection:
                    row = connection.execute(
                        "SELECT (extract(epoch FROM backend_start) * 1000000)::bigint"
                        " FROM pg_stat_activity WHERE backend_type = 'checkpointer'").fetchone()
                if row is not None:
                    return row[0]
            except psycopg.Error:
                if time.monotonic() > end:
                    raise
            time.sleep(0.02)

    # ---- faults ----

    def kill(self, everybody):
        """SIGKILL for the postmaster; with `everybody`, for all its processes at once."""
        postmaster = self.postmaster()
        os.kill(postmaster, signal.SIGSTOP)  # it starts nothing meanwhile
        children = children_of(postmaster)
        self.orphans.update(children)
        os.kill(postmaster, signal.SIGKILL)
        if everybody:
            for child in children:
                try:
                    os.kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.orphans.add(postmaster)
        while state_and_parent(postmaster)[0] not in (None, "Z"):
            time.sleep(0.001)
        self.reap()

    def kill_one(self, pid):
        os.kill(pid, signal.SIGKILL)

    def reap(self):
        for pid in list(self.orphans):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    self.orphans.discard(pid)
            except ChildProcessError:
                if state_and_parent(pid)[0] is None:
                    self.orphans.discard(pid)

    def restart(self, deadline=30):
        """Starts it again; waits for orphans, which may hold the shared memory for a moment."""
        end = time.monotonic() + deadline
        while True:
            self.reap()
            started, message = self.start()
            if started:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"the server does not start again; its processes: "
                                   f"{sorted(self.orphans)}\n{message}")
            time.sleep(0.1)

    def redo_end(self):
        """Where the log ended that the last recovery found, as a number; None without a redo."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.log_read)
            text = file.read()
        self.log_read += len(text.encode())
        found = re.findall(r"redo done at ([0-9A-F]+)/([0-9A-F]+)", text)
        return (int(found[-1][0], 16) << 32) + int(found[-1][1], 16) if found else None

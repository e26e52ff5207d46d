"""Surroundings in which the history test must come out the same: a pooler in between, another
isolation level for everybody, settings that nobody would want."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import psycopg

# Of every role and so of every session, of the workers too. What makes a client's own statements
# fail, timeouts for one, is looked at in test/tap/010_hostile_settings.pl.
HOSTILE = {
    "search_path": "evil, public",
    "default_transaction_deferrable": "on",
    "TimeZone": "Australia/Lord_Howe",
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "session_replication_role": "replica",
    "row_security": "off",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "enable_indexscan": "off",
    "enable_seqscan": "off",
    "check_function_bodies": "off",
    "bytea_output": "escape",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "work_mem": "64kB",
}
EVIL = """
    CREATE SCHEMA evil;
    CREATE TABLE evil.job (id bigint);
    CREATE TABLE evil.queue (id int);
    CREATE TABLE evil.home (id int);
    CREATE TABLE evil.topic (id int);
    CREATE FUNCTION evil.random_token() RETURNS bigint LANGUAGE sql AS 'SELECT 1/0::bigint'
"""


def make_hostile(connection):
    for statement in EVIL.split(";"):
        connection.execute(statement)
    for name, value in HOSTILE.items():
        words = ", ".join(f"'{word}'" for word in value.split(", ")) if name == "search_path" \
            else f"'{value}'"
        connection.execute(f"ALTER ROLE ALL SET {name} = {words}")
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                       " WHERE backend_type = 'pgjobs worker'")


class Pooler:
    """pgbouncer in transaction mode, in front of a server."""

    def __init__(self, directory, conninfo):
        self.directory = directory
        self.process = None
        # A socket's path must be short; the pooler refuses to run as root.
        self.home = f"/tmp/pgjobs-pooler.{os.getpid()}"
        shutil.rmtree(self.home, ignore_errors=True)
        os.mkdir(self.home, 0o755)
        self.conninfo = f"host={self.home} port=6543 user=postgres dbname=postgres"
        server = " ".join(x for x in conninfo.split() if not x.startswith("application_name"))
        pathlib.Path(self.home, "pgbouncer.ini").write_text(f"""
[databases]
postgres = {server}
[pgbouncer]
listen_addr =
listen_port = 6543
unix_socket_dir = {self.home}
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_login_retry = 0.1
logfile = {self.home}/log
""", encoding="ascii")
        self.as_server = []
        if os.geteuid() == 0:
            shutil.chown(self.home, "postgres")
            self.as_server = ["runuser", "-u", "postgres", "--"]

    def start(self):
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
        self.process = subprocess.Popen(
            [*self.as_server, program, "-q", os.path.join(self.home, "pgbouncer.ini")],
            stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(self.conninfo).close()
                return
            except psycopg.Error:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def kill(self):
        """Without a word to anybody."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def remove(self):
        self.kill()
        shutil.copy(os.path.join(self.home, "log"), os.path.join(self.directory, "pgbouncer.log"))
        shutil.rmtree(self.home)

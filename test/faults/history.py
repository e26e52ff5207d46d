"""Clients that do random things to pgjobs and write down what they asked and what they heard.

One process per client. Every operation writes two lines of JSON to the client's own file: `invoke`
before it is sent, and one of `ok`, `fail` (the server says that it did not happen) or `info` (nobody
knows: the connection was lost, or the server was shutting down). Times are `t`, monotonic ns, one
clock for all processes of the machine, and `w`, wall time in us, the server's clock too.
checker.py says what must hold of these lines.
"""

import dataclasses
import json
import os
import random
import sys
import time

import psycopg

import topic_history

KEPT_TOKENS = 200  # of leases that ended, for calls that must be refused
STALLS = (3, 9)  # s from one to the next, however slow the machine is
MANY_OPEN = 60  # jobs of one client that are not finished: no more are added

# Leases and delays are short, so that all of this happens often; us.
QUEUES = {
    "plain": {"stages": ["work"], "lease": 2_000_000, "durable": False},
    "durable": {"stages": ["work"], "lease": 1_500_000, "durable": True},
    "staged": {"stages": ["prepare", "build", "ship"], "lease": 2_000_000, "durable": False},
    "durable.staged": {"stages": ["prepare", "build"], "lease": 1_000_000, "durable": True},
}
ONCE = "once"  # a queue of which nobody claims
MAX_ATTEMPTS = 6
BACKOFF = 200_000
BACKOFF_MAX = 1_000_000


def wall():
    return time.time_ns() // 1000


def interval(microseconds):
    return f"{microseconds} microseconds"


class Lost(Exception):
    """Nobody knows whether it happened; the connection is no good."""


class Refused(Exception):
    """It did not happen."""

    def __init__(self, sqlstate):
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def end_prepared(connection, recorder, gid):
    """Ends a prepared transaction as its gid says and returns that. Not there: somebody did, or it
    was never prepared, of which nothing is known."""
    process, tx, outcome = gid.split("/")
    try:
        connection.execute(f"{'COMMIT' if outcome == 'ok' else 'ROLLBACK'} PREPARED '{gid}'")
    except psycopg.Error as error:
        if error.sqlstate == "42704":
            return "info"
        raise
    recorder.write("end", process=int(process), tx=int(tx), outcome=outcome, prepared=True)
    return outcome


class Recorder:
    """Appends records to one file. A killed process loses at most the record that it did not write."""

    def __init__(self, path, process):
        self.process = process
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, kind, **fields):
        record = {"p": self.process, "t": time.monotonic_ns(), "w": wall(), "type": kind, **fields}
        os.write(self.fd, json.dumps(record).encode() + b"\n")


def unknown_outcome(error, connection):
    """Whether an error leaves open what happened (failures: 57P01-57P03, 08xxx, 40003, no answer)."""
    state = error.sqlstate
    if state is None:
        return True
    if state in ("57P01", "57P02", "57P03", "40003") or state.startswith("08"):
        return True
    return connection.broken


@dataclasses.dataclass
class Lease:
    job: int
    token: int
    queue: str
    stage: str
    key: str
    effect: bool  # complete inserts into effects in the same transaction
    lease: int | None  # us
    until: int | None  # wall us, this process's clock; None: a session lease without an end
    session: str
    tried: bool = False  # complete was sent before, and nobody knows whether it happened


class Client(topic_history.TopicClient):
    def __init__(self, process, seed, directory, conninfo, isolation=None, pooled=False,
                 places=False):
        super().__init__()
        self.process = process
        self.random = random.Random(seed)
        self.directory = directory
        self.conninfo = conninfo
        self.isolation = isolation  # None: a random one for each session
        self.places = places  # notes for all that is acknowledged where the log ended
        self.pooled = pooled  # sessions are not ours: no settings, no leases of sessions
        self.recorder = Recorder(os.path.join(directory, f"history-{process}.jsonl"), process)
        self.connection = None
        self.session = None
        self.epoch = None
        self.number = 0
        self.tx = None
        self.held = []
        self.ended = []  # leases that have ended, as far as we know or not
        self.jobs = []
        self.finished = []  # jobs that are dead, cancelled or completed, by what we heard
        self.open = 0
        self.unsure = None  # the key of a job of which nobody knows whether it was added
        self.prepared = {}  # transactions by gid: when to end them, and the leases that they took
        self.stall_due = time.monotonic() + self.random.uniform(*STALLS)
        self.draining = False

    # ---- connections ----

    def flag(self, name):
        return os.path.exists(os.path.join(self.directory, name))

    def connect(self):
        isolation = self.isolation or self.random.choices(
            ["read committed", "repeatable read", "serializable"], [6, 2, 2])[0]
        settings = {} if self.pooled else {
            "options": "-c default_transaction_isolation=" + isolation.replace(" ", "\\ ")}
        while not self.flag("stop"):
            try:
                self.connection = psycopg.connect(
                    self.conninfo, autocommit=True, connect_timeout=5,
                    prepare_threshold=None if self.pooled else 5,
                    application_name=f"client {self.process}", **settings)
                row = self.connection.execute(
                    "SELECT (extract(epoch FROM backend_start) * 1000000)::bigint,"
                    " pg_backend_pid() FROM pg_stat_activity"
                    " WHERE backend_type = 'checkpointer'").fetchone()
            except psycopg.Error:
                time.sleep(0.02)
                continue
            if row is None:  # the server has just begun
                self.connection.close()
                continue
            self.epoch = row[0]
            self.number += 1
            self.session = f"{self.process}:{self.number}"
            self.recorder.write("session", s=self.session, e=self.epoch, pid=row[1],
                                isolation=isolation)
            return True
        return False

    def disconnect(self):
        if self.connection is None:
            return
        self.recorder.write("close", s=self.session)
        self.connection.close()
        self.connection = None
        self.tx = None

    # ---- one operation ----

    def operate(self, f, args, query, params, read=lambda rows: None, lsn=False):
        """Sends one statement and writes both records. Raises Lost or Refused."""
        self.number += 1
        number = self.number
        self.recorder.write("invoke", i=number, f=f, s=self.session, e=self.epoch, tx=self.tx,
                            args=args)
        try:
            cursor = self.connection.execute(query, params)
            result = read(cursor.fetchall() if cursor.description else [])
        except psycopg.Error as error:
            self.fail(number, error)
        self.recorder.write("ok", i=number, res=result)
        if (self.places or lsn and result) and self.tx is None:
            self.note_place(i=number)
        return number, result

    def note_place(self, **what):
        """Where the log ended after the commit: a crash that kept this kept that."""
        try:
            row = self.connection.execute(
                "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        except psycopg.Error as error:
            self.lose(error)
        self.recorder.write("lsn", lsn=int(row[0]), **what)

    def fail(self, number, error):
        lost = unknown_outcome(error, self.connection)
        self.recorder.write("info" if lost else "fail", i=number, sqlstate=error.sqlstate,
                            msg=str(error).splitlines()[0][:200] if str(error) else "")
        if lost:
            self.lose(error)
        raise Refused(error.sqlstate) from error

    def lose(self, error):
        if self.tx is not None:  # COMMIT was not sent
            self.recorder.write("end", tx=self.tx, outcome="fail")
        self.disconnect()
        raise Lost from error

    # ---- transactions ----

    def begin(self):
        self.number += 1
        self.tx = self.number
        try:
            self.connection.execute("BEGIN")
        except psycopg.Error as error:
            self.lose(error)

    def rollback(self):
        if self.tx is None or self.connection is None:
            return
        tx, self.tx = self.tx, None
        self.recorder.write("end", tx=tx, outcome="fail")
        try:
            self.connection.execute("ROLLBACK")
        except psycopg.Error as error:
            self.lose(error)

    def commit(self):
        tx, self.tx = self.tx, None
        try:
            self.connection.execute("COMMIT")
        except psycopg.Error as error:
            lost = unknown_outcome(error, self.connection)
            self.recorder.write("end", tx=tx, outcome="info" if lost else "fail",
                                sqlstate=error.sqlstate)
            if lost:
                self.lose(error)
            raise Refused(error.sqlstate) from error
        self.recorder.write("end", tx=tx, outcome="ok")
        if self.places:
            self.note_place(tx=tx)

    def prepare(self, take):
        """Leaves the transaction prepared. The gid says how it will end, whoever does that."""
        tx, self.tx = self.tx, None
        gid = f"{self.process}/{tx}/{'ok' if self.random.random() < 0.7 else 'fail'}"
        self.prepared[gid] = (time.monotonic() + self.random.uniform(0, 2.5), take)
        try:
            self.connection.execute(f"PREPARE TRANSACTION '{gid}'")
        except psycopg.Error as error:
            if unknown_outcome(error, self.connection):
                self.lose(error)
            del self.prepared[gid]
            self.recorder.write("end", tx=tx, outcome="fail", sqlstate=error.sqlstate)
            raise Refused(error.sqlstate) from error

    def finish_prepared(self, gid):
        take = self.prepared.pop(gid)[1]
        try:
            outcome = end_prepared(self.connection, self.recorder, gid)
        except psycopg.Error as error:
            if self.connection.broken:
                self.prepared[gid] = (0, take)
                self.lose(error)
            raise Refused(error.sqlstate) from error
        if outcome == "ok":
            self.held += take

    def in_transaction(self, body):
        """Runs body in a transaction; rolls back and returns False when it says False."""
        self.begin()
        try:
            if body() is False:
                self.rollback()
                return False
            self.commit()
        except Refused:
            self.rollback()
            raise
        return True

    # ---- producing ----

    def new_key(self):
        self.number += 1
        return f"{self.process}-{self.number}", self.random.random() < 0.5

    def enqueue(self, queue=None):
        queue = queue or self.random.choice(list(QUEUES))
        key, effect = self.new_key()
        args = {"queue": queue, "key": key, "delay": None, "priority": 0, "max_attempts": None,
                "unique_key": None, "on_conflict": "keep"}
        if self.random.random() < 0.25:
            args["delay"] = self.random.randrange(50_000, 2_000_000)
        if self.random.random() < 0.3:
            args["priority"] = self.random.randrange(-3, 4)
        if self.random.random() < 0.2:
            args["max_attempts"] = self.random.randrange(1, 4)
        if self.random.random() < 0.2:
            args["unique_key"] = f"u{self.random.randrange(12)}"
            args["on_conflict"] = self.random.choice(["keep", "keep", "replace", "error"])
        payload = json.dumps({"k": key, "effect": effect, "pad": "x" * self.random.choice([0, 500])})
        _, job = self.operate(
            "enqueue", args,
            "SELECT pgjobs.enqueue(%s, %s::jsonb, delay => %s::interval, priority => %s::bigint,"
            " max_attempts => %s::bigint, unique_key => %s, on_conflict => %s)",
            (queue, payload, None if args["delay"] is None else interval(args["delay"]),
             args["priority"], args["max_attempts"], args["unique_key"], args["on_conflict"]),
            lambda rows: rows[0][0])
        self.jobs = (self.jobs + [job])[-100:]
        self.open += 1
        return job

    def enqueue_once(self):
        """A producer who must have one job: without an answer he sends it again, with the same key."""
        self.unsure = self.unsure or self.new_key()[0]
        self.operate("enqueue_once", {"key": self.unsure},
                     "SELECT pgjobs.enqueue(%s, %s::jsonb, unique_key => %s, on_conflict => 'keep')",
                     (ONCE, json.dumps({"k": self.unsure}), self.unsure), lambda rows: rows[0][0])
        self.unsure = None

    def enqueue_many(self):
        queue = self.random.choice(list(QUEUES))
        keys = [self.new_key() for _ in range(self.random.randrange(2, 8))]
        payloads = [json.dumps({"k": key, "effect": effect}) for key, effect in keys]
        _, jobs = self.operate(
            "enqueue_many", {"queue": queue, "keys": [key for key, _ in keys]},
            "SELECT pgjobs.enqueue_many(%s, %s::jsonb[])", (queue, payloads),
            lambda rows: rows[0][0])
        self.jobs = (self.jobs + jobs)[-100:]
        self.open += len(jobs)

    # ---- working ----

    def claim(self, queue=None, most=None):
        queue = queue or self.random.choice(list(QUEUES))
        most = most or self.random.randrange(1, 6)
        stage = self.random.choice([None, None, self.random.choice(QUEUES[queue]["stages"])])
        lease = self.random.choice([None, None, None, 1_000_000])
        hold = self.tx is None and not self.draining and not self.pooled and \
            self.random.random() < 0.12
        if hold:
            lease = self.random.choice([None, 2_000_000])
        if self.draining:
            stage = None
        effective = lease if lease is not None or hold else QUEUES[queue]["lease"]
        worker = f"{self.process}:{self.number + 1}"  # the operation's own name
        number, rows = self.operate(
            "claim",
            {"queue": queue, "n": most, "stage": stage, "lease": effective, "hold": hold,
             "worker": worker},
            "SELECT c.id, c.token, c.stage, c.attempt, c.max_attempts, c.payload->>'k',"
            " (c.payload->'effect')::boolean,"
            " (extract(epoch FROM c.lease_expires_at) * 1000000)::bigint,"
            " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
            " FROM pgjobs.claim(%s, %s::bigint, stage => %s, lease => %s::interval,"
            " hold => %s, worker => %s) c",
            (queue, most, stage, None if lease is None else interval(lease), hold, worker),
            lambda rows: [{"job": r[0], "token": r[1], "stage": r[2], "attempt": r[3],
                           "max_attempts": r[4], "key": r[5], "effect": r[6], "until": r[7],
                           "now": r[8]} for r in rows],
            lsn=True)
        assert worker == f"{self.process}:{number}"
        leases = [Lease(r["job"], r["token"], queue, r["stage"], r["key"], r["effect"], effective,
                        None if r["until"] is None else wall() + r["until"] - r["now"],
                        self.session) for r in rows]
        if self.tx is None:
            self.held += leases
        return leases

    def end(self, lease):
        if lease in self.held:
            self.held.remove(lease)
        self.ended = (self.ended + [lease])[-KEPT_TOKENS:]

    def effect(self, lease):
        """The work's own row; not twice if we do not know whether the first try happened."""
        self.connection.execute(
            "INSERT INTO effects (job, stage, token, key) SELECT %s::bigint, %s, %s::bigint, %s"
            " WHERE NOT EXISTS (SELECT FROM effects WHERE token = %s::bigint)",
            (lease.job, lease.stage, lease.token, lease.key, lease.token))

    def call_complete(self, lease, **more):
        self.recorder.write("exec", job=lease.job, token=lease.token)
        _, state = self.operate(
            "complete",
            {"job": lease.job, "token": lease.token, "stage": lease.stage, "queue": lease.queue,
             "effect": lease.effect, **more},
            "SELECT pgjobs.complete(%s::bigint, %s::bigint, %s::jsonb)",
            (lease.job, lease.token, json.dumps({"by": self.session})), lambda rows: rows[0][0])
        return state

    def complete(self, lease, **more):
        """Completes the job, with its effect in the same transaction where it has one."""
        lease.tried = True
        heard = []

        def body():
            if self.random.random() < 0.5:
                self.guarded(lambda: self.effect(lease))
                heard.append(self.call_complete(lease, **more))
            else:
                heard.append(self.call_complete(lease, **more))
                self.guarded(lambda: self.effect(lease))

        if lease.effect:
            self.in_transaction(body)
        else:
            heard.append(self.call_complete(lease, **more))
        self.end(lease)
        if heard[-1] == "completed" and "repeat" not in more:
            self.open -= 1
            self.finished = (self.finished + [lease.job])[-50:]

    def guarded(self, body):
        """A statement of the application's own."""
        try:
            body()
        except psycopg.Error as error:
            if unknown_outcome(error, self.connection):
                self.lose(error)
            raise Refused(error.sqlstate) from error

    def complete_many(self):
        leases = self.random.sample(self.held, min(len(self.held), self.random.randrange(2, 5)))
        if self.random.random() < 0.3 and self.ended:
            leases.append(self.random.choice(self.ended))  # lost, most likely
        effects = any(lease.effect for lease in leases)
        on_lost = "error" if effects else "skip"
        for lease in leases:
            self.recorder.write("exec", job=lease.job, token=lease.token)
            lease.tried = True

        def call():
            return self.operate(
                "complete_many",
                {"jobs": [[x.job, x.token, x.queue, x.stage, x.effect] for x in leases],
                 "on_lost": on_lost},
                "SELECT pgjobs.complete_many(%s::bigint[], %s::bigint[], on_lost => %s)",
                ([x.job for x in leases], [x.token for x in leases], on_lost),
                lambda rows: rows[0][0])

        def body():
            call()
            for lease in leases:
                if lease.effect:
                    self.guarded(lambda lease=lease: self.effect(lease))

        if effects:
            self.in_transaction(body)
        else:
            call()
        for lease in leases:
            self.end(lease)
            self.open -= 1

    def on_lease(self, f, lease, extra, query, params, read=lambda rows: rows[0][0]):
        return self.operate(f, {"job": lease.job, "token": lease.token, "stage": lease.stage,
                                "queue": lease.queue, **extra},
                            query, (lease.job, lease.token, *params), read)[1]

    def extend(self, lease):
        length = self.random.choice([None, 1_000_000, 2_500_000])
        lasts = length or QUEUES[lease.queue]["lease"]
        self.on_lease(
            "extend", lease, {"lease": lasts},
            "SELECT (extract(epoch FROM pgjobs.extend(%s::bigint, %s::bigint, %s::interval))"
            " * 1000000)::bigint", (None if length is None else interval(length),))
        lease.until = max(lease.until or 0, wall() + lasts)

    def progress(self, lease):
        self.on_lease("progress", lease, {},
                      "SELECT pgjobs.progress(%s::bigint, %s::bigint, %s::float8, %s)",
                      (self.random.random(), "on the way"))

    def fail_job(self, lease):
        retry = self.random.random() < 0.8
        retry_in = self.random.choice([None, self.random.randrange(0, 800_000)])
        state = self.on_lease(
            "fail", lease, {"retry": retry, "retry_in": retry_in},
            "SELECT pgjobs.fail(%s::bigint, %s::bigint, 'no luck', retry => %s,"
            " retry_in => %s::interval)",
            (retry, None if retry_in is None else interval(retry_in)))
        self.end(lease)
        if state == "dead":
            self.open -= 1
            self.finished = (self.finished + [lease.job])[-50:]

    def release(self, lease):
        self.on_lease("release", lease, {}, "SELECT pgjobs.release(%s::bigint, %s::bigint)", ())
        self.end(lease)

    def snooze(self, lease):
        delay = self.random.randrange(0, 1_000_000)
        self.on_lease("snooze", lease, {"delay": delay},
                      "SELECT pgjobs.snooze(%s::bigint, %s::bigint, %s::interval)",
                      (interval(delay),))
        self.end(lease)

    # ---- managing ----

    def cancel(self):
        job = self.random.choice(self.jobs)
        _, done = self.operate("cancel", {"job": job}, "SELECT pgjobs.cancel(%s::bigint)", (job,),
                               lambda rows: rows[0][0])
        if done:
            self.open -= 1
            self.finished = (self.finished + [job])[-50:]

    def retry(self):
        job = self.finished.pop(self.random.randrange(len(self.finished)))
        _, done = self.operate("retry", {"job": job}, "SELECT pgjobs.retry(%s::bigint)", (job,),
                               lambda rows: rows[0][0])
        self.open += bool(done)

    def wait(self):
        queue = self.random.choice(list(QUEUES))
        timeout = 50_000 if self.draining else self.random.randrange(10_000, 400_000)
        _, ready = self.operate("wait", {"queue": queue, "timeout": timeout},
                                "CALL pgjobs.wait(%s, %s::interval)", (queue, interval(timeout)),
                                lambda rows: rows[0][0])
        if ready:
            self.claim(queue)

    # ---- stories ----

    def stall(self):
        """A zombie: sleeps past the end of its lease, then goes on as if nothing had happened."""
        lease = self.random.choice([x for x in self.held if x.until is not None])
        if self.random.random() < 0.6:  # it has been at work for a while, and has said so
            time.sleep(self.random.uniform(0.1, 0.6))
            self.extend(lease)
            if self.random.random() < 0.7:
                self.progress(lease)
        self.recorder.write("stall", job=lease.job, token=lease.token)
        time.sleep(max(0, lease.until - wall()) / 1e6 + self.random.uniform(0.05, 0.6))
        self.end(lease)
        if self.random.random() < 0.3:
            self.extend(lease)
        self.complete(lease, zombie=True)

    def old_token(self):
        """A call with a token whose time is over, or that is one's own once more."""
        lease = self.random.choice(self.ended)
        verb = self.random.choice([self.extend, self.progress, self.fail_job, self.release,
                                   self.snooze])
        verb(lease)

    def repeat(self):
        lease = self.random.choice(self.ended)
        if lease.effect and not lease.tried:
            return
        if lease.effect:
            self.complete(lease, repeat=True)
        else:
            self.call_complete(lease, repeat=True)

    def work_in_transaction(self):
        """Claim, effect and complete in one transaction, sometimes rolled back."""
        finished = []

        def body():
            leases = self.claim(most=self.random.randrange(1, 4))
            if not leases:
                return False
            for lease in leases:
                if lease.effect:
                    self.guarded(lambda lease=lease: self.effect(lease))
                state = self.call_complete(lease)
                finished.append((lease, state))
            return self.random.random() < 0.8

        if self.in_transaction(body):
            for lease, state in finished:
                self.end(lease)
                self.open -= state == "completed"

    def savepoints(self):
        """Some operations in a transaction, some of them rolled back to a savepoint."""
        leases = []

        def some():
            self.random.choice([self.enqueue, self.enqueue, self.publish,
                                lambda: leases.extend(self.claim())])()

        def body():
            some()
            first = self.number
            kept = len(leases)
            self.guarded(lambda: self.connection.execute("SAVEPOINT s"))
            some()
            if self.held and self.random.random() < 0.5:
                lease = self.random.choice(self.held)
                self.call_complete(dataclasses.replace(lease, effect=False), savepoint=True)
            self.guarded(lambda: self.connection.execute("ROLLBACK TO s"))
            del leases[kept:]
            self.recorder.write("undo", after=first, upto=self.number)
            some()
            return self.random.random() < 0.85

        if self.in_transaction(body):
            self.held += leases

    def two_phases(self):
        """A transaction that is prepared, and ended later, perhaps by the server's next life."""
        take = []
        spent = []

        def some():
            leases = [x for x in self.held if x.until is not None and not x.effect
                      and x not in spent]
            verb = self.random.choice(["enqueue", "publish", "claim",
                                       "complete" if leases else "claim"])
            if verb == "enqueue":
                self.enqueue()
            elif verb == "publish":
                self.publish()
            elif verb == "claim":
                take.extend(self.claim(most=2))
            else:
                spent.append(self.random.choice(leases))
                self.call_complete(spent[-1])

        self.begin()
        try:
            for _ in range(self.random.randrange(1, 4)):
                some()
            self.prepare(take)
        except Refused:
            self.rollback()
            raise
        for lease in spent:
            self.end(lease)

    # ---- the loop ----

    def choices(self):
        choices = {self.wait: 2, self.claim: 12 if len(self.held) < 10 else 1}
        if self.open < MANY_OPEN:
            choices |= {self.enqueue: 14, self.enqueue_many: 3, self.savepoints: 3}
        choices |= {self.work_in_transaction: 5, self.publish: 6, self.receive: 5, self.read: 2,
                    self.read_in_transaction: 1, self.enqueue_once: 20 if self.unsure else 4}
        if self.batches:
            choices[self.ack] = 4
        if self.old_batches:
            choices[self.old_ack] = 1
        if self.held:
            choices |= {self.complete: 18, self.extend: 5, self.progress: 3, self.fail_job: 6,
                        self.release: 2, self.snooze: 2, self.complete_many: 3}
        if len(self.prepared) < 2 and self.open < MANY_OPEN:
            choices[self.two_phases] = 0.6
        if self.ended:
            choices |= {self.old_token: 2, self.repeat: 3}
        if self.jobs:
            choices[self.cancel] = 1
        if self.finished:
            choices[self.retry] = 1.5
        return choices

    def step(self):
        if self.flag(ONCE):
            self.enqueue_once()
            return
        for gid, (due, _) in self.prepared.items():
            if due <= time.monotonic():
                self.finish_prepared(gid)
                return
        if self.stall_due <= time.monotonic() and any(x.until is not None for x in self.held):
            self.stall_due = time.monotonic() + self.random.uniform(*STALLS)
            self.stall()
            return
        choices = self.choices()
        verb = self.random.choices(list(choices), list(choices.values()))[0]
        if verb in (self.complete, self.extend, self.progress, self.fail_job, self.release,
                    self.snooze):
            self.on_held(verb, self.random.choice(self.held))
        else:
            verb()

    def on_held(self, verb, lease):
        try:
            verb(lease)
        except Refused as refused:
            if refused.sqlstate == "PJ001":
                self.end(lease)
            raise

    def drain_step(self):
        if self.prepared:
            self.finish_prepared(next(iter(self.prepared)))
            return
        if self.unsure:
            self.enqueue_once()
            return
        if self.held:
            self.on_held(self.complete, self.held[0])
            return
        for queue in self.random.sample(list(QUEUES), len(QUEUES)):
            if self.claim(queue, 5):
                return
        if not self.drain_topics():
            self.wait()

    def guarded_step(self, step):
        try:
            step()
        except Refused:
            pass
        except Lost:
            self.after_loss()
        if self.connection is not None and self.tx is not None:
            try:
                self.rollback()
            except Lost:
                self.after_loss()

    def after_loss(self):
        """Sessions' leases are gone. What was tried is tried again later, mostly, with its token."""
        for lease in list(self.held):
            if lease.until is None or (lease.tried and self.random.random() < 0.3):
                self.end(lease)

    def run(self):
        while not self.flag("stop"):
            if self.connection is None and not self.connect():
                break
            if not self.draining and self.flag("drain"):
                self.draining = True
            self.guarded_step(self.drain_step if self.draining else self.step)
            if self.random.random() < 0.3:
                time.sleep(self.random.uniform(0, 0.02))
            if not self.draining and self.random.random() < 0.002 and self.connection:
                self.disconnect()
        self.disconnect()


if __name__ == "__main__":
    Client(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4],
           **json.loads(sys.argv[5])).run()

"""Schedules of a few sessions in which one is held at a point inside of pgjobs while others go on. Nobody
else is there."""

import contextlib
import itertools
import json
import threading
import time

import psycopg

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
PATIENCE = 10  # s
WAITERS = 8
CALLS = 20  # of which the first are lost
LOST = 6
MOST_LATE = 0.25  # s
# What somebody does to a ready job that a claim has seen and not yet taken, and what the claim then
# gets: the job as it is now, or nothing.
CHANGES = {
    "replaced": ("SELECT pgjobs.enqueue('race', '2', unique_key => 'k', on_conflict => 'replace')", ["2"]),
    "moved in the order": ("SELECT pgjobs.reprioritize(%(job)s, 7)", ["1"]),
    "claimed and given back": ("SELECT pgjobs.release(id, token) FROM pgjobs.claim('race')", ["1"]),
    "put off": ("SELECT pgjobs.reschedule(%(job)s, now() + '1 hour')", []),
    "cancelled": ("SELECT pgjobs.cancel(%(job)s)", []),
    "claimed": ("SELECT FROM pgjobs.claim('race')", []),
    "handed to the next stage": ("SELECT pgjobs.complete(id, token) FROM pgjobs.claim('race')", []),
}


class Races:
    """`run` is an InjectRun, whose server is there and has no clients yet."""

    def __init__(self, run):
        self.run = run

    def wait_until(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise RuntimeError(f"waited in vain until {what}")
            time.sleep(0.002)

    @contextlib.contextmanager
    def held(self, connection, point, query):
        """The session executes the query and stands still at the point while the body runs. Yields the
        rows, which are there afterwards."""
        rows = []
        self.run.arm(point, f"{connection.info.backend_pid} hold")
        thread = threading.Thread(target=lambda: rows.extend(connection.execute(query).fetchall()))
        thread.start()
        self.wait_until(lambda: self.run.is_held(point), f"somebody is at {point}")
        yield rows
        self.run.fired(point)
        thread.join()

    @contextlib.contextmanager
    def sessions(self, count):
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.run.server.connect()) for _ in range(count)]

    # ---- a job that changes under a claim's eyes ----

    def change(self, what, isolation):
        """A claim has found a ready job, and then it is changed. It takes what is there now or leaves
        it, and whoever passed the row meanwhile learns of that."""
        query, wanted = CHANGES[what]
        with self.sessions(2) as (claimer, other):
            other.execute("SELECT pgjobs.create_queue('race', ARRAY['a', 'b'])")
            job = other.execute("SELECT pgjobs.enqueue('race', '1', unique_key => 'k')").fetchone()[0]
            claimer.execute(f"BEGIN ISOLATION LEVEL {isolation}")
            with self.held(claimer, "claim-visited",
                           "SELECT payload::text, lease_expires_at - interval '60 s'"
                           " FROM pgjobs.claim('race', stage => 'a', lease => '60 s')") as got:
                other.execute(query, {"job": job})
                changed = other.execute("SELECT clock_timestamp()").fetchone()[0]
            passed = other.execute("SELECT id FROM pgjobs.claim('race')").fetchall()
            claimer.execute("ROLLBACK" if wanted else "COMMIT")
            wrong = other.execute("SELECT pgjobs._check_frontier()").fetchone()[0]
            left = other.execute("SELECT state FROM pgjobs.jobs WHERE queue = 'race'").fetchone()[0]
            claimed = other.execute("SELECT id FROM pgjobs.claim('race')").fetchall()
            other.execute("SELECT pgjobs.drop_queue('race', true)")
        self.run.test([row[0] for row in got] == wanted and all(row[1] >= changed for row in got),
                      f"a claim has seen a job which then is {what}; {isolation}: it gets "
                      f"{wanted or 'nothing'}", f"got {got}, changed at {changed}")
        self.run.test(not passed and not wrong and len(claimed) == (left == "ready"),
                      "and others find it as soon as it is free",
                      f"{passed} before that, {wrong} hidden, {left}, claimed {claimed}")

    # ---- events ----

    def events(self):
        """The one who has added a job commits, and tells that only when the job was claimed."""
        heard = []
        with self.sessions(3) as (producer, worker, listener):
            worker.execute("SELECT pgjobs.create_queue('race', notify => 'events')")
            listener.add_notify_handler(lambda notify: heard.append(json.loads(notify.payload)))
            listener.execute("LISTEN pgjobs_race")

            def hear(count):
                self.wait_until(lambda: listener.execute("SELECT 1") and len(heard) >= count,
                                f"{count} events are heard")

            with self.held(producer, "commit-untold", "SELECT pgjobs.enqueue('race')") as added:
                claimed = worker.execute("SELECT id FROM pgjobs.claim('race')").fetchall()
                hear(1)
            hear(2)
            worker.execute("SELECT pgjobs.drop_queue('race', true)")
        self.run.test(claimed == added, "a job is there as soon as its commit is, told or not",
                      f"added {added}, claimed {claimed}")
        told = [(event["state"], event["rev"] - heard[0]["rev"]) for event in heard]
        self.run.test(told == [("running", 0), ("ready", -1)], "events that come late say so: rev", heard)

    # ---- calls that are lost ----

    def lost_calls(self):
        """Somebody is called and does not come: another sees the job a little later."""
        latencies = []
        with self.sessions(2) as (producer, other), self.workers(other):
            for n in range(CALLS):
                self.wait_until(lambda: self.waiting(other) == WAITERS, "all wait")
                if n < LOST:
                    self.run.arm("wake-lost", f"{producer.info.backend_pid} drop")
                began = time.monotonic()
                job = producer.execute("SELECT pgjobs.enqueue('race')").fetchone()[0]
                self.wait_until(lambda job=job: other.execute(
                    "SELECT state FROM pgjobs.jobs WHERE id = %s", (job,)).fetchone()[0] == "completed",
                    "somebody takes the job")
                latencies.append(time.monotonic() - began)
                if n < LOST and self.run.fired("wake-lost") is None:
                    raise RuntimeError("nobody was called")
        shown = [f"{1000 * latency:.0f}" for latency in latencies]
        self.run.test(max(latencies) < MOST_LATE, "a job whose call is lost is taken within a quarter of a"
                      f" second: after {', '.join(shown[:LOST])} ms", shown)
        self.run.test(max(latencies[LOST:]) < MOST_LATE, "and so are those after that", shown)

    @staticmethod
    def waiting(connection):
        return connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'Extension'"
                                  " AND query LIKE 'CALL%'").fetchone()[0]

    @contextlib.contextmanager
    def workers(self, connection):
        """Sessions that wait for jobs and complete them, until the queue is gone."""
        def work():
            with self.run.server.connect() as worker, contextlib.suppress(psycopg.errors.UndefinedObject):
                while True:
                    if worker.execute("CALL pgjobs.wait('race', '3 seconds')").fetchone()[0]:
                        worker.execute("SELECT pgjobs.complete(id, token) FROM pgjobs.claim('race')")

        connection.execute("SELECT pgjobs.create_queue('race')")
        threads = [threading.Thread(target=work) for _ in range(WAITERS)]
        for thread in threads:
            thread.start()
        yield
        connection.execute("SELECT pgjobs.drop_queue('race', true)")
        for thread in threads:
            thread.join()

    def lost_call_of_reader(self):
        """The same with a message and two who wait for it."""
        with self.sessions(3) as (producer, *readers):
            producer.execute("SELECT pgjobs.create_topic('race'), pgjobs.subscribe('race', 'race')")
            threads = []
            answers = []
            for reader in readers:
                def wait(reader=reader):
                    reader.execute("CALL pgjobs.wait_message('race', '3 seconds')")
                    answers.append(time.monotonic())
                threads.append(threading.Thread(target=wait))
                threads[-1].start()
            self.wait_until(lambda: self.waiting(producer) == len(readers), "both wait")
            self.run.arm("wake-lost", f"{producer.info.backend_pid} drop")
            began = time.monotonic()
            producer.execute("SELECT pgjobs.publish('race', '1')")
            for thread in threads:
                thread.join()
            lost = self.run.fired("wake-lost") is not None
            producer.execute("SELECT pgjobs.drop_topic('race')")
        first = min(answers) - began
        self.run.test(lost and first < MOST_LATE, "so is a message", f"{lost}, after {1000 * first:.0f} ms")

    # ---- a topic that is dropped ----

    def dropped_topic(self):
        """Somebody is about to look at it, and then keeps no place in shared memory for what is gone."""
        wrong = None
        with self.sessions(2) as (looker, other):
            places = int(other.execute("SHOW pgjobs.max_topics").fetchone()[0])
            try:
                for _ in range(places + 1):
                    other.execute("SELECT pgjobs.create_topic('race')")
                    with self.held(looker, "place-sought",
                                   "SELECT last_position FROM pgjobs.topics WHERE name = 'race'"):
                        other.execute("SELECT pgjobs.drop_topic('race')")
            except psycopg.Error as error:
                wrong = error
        self.run.test(wrong is None, f"{places + 1} topics are dropped under the eyes of somebody", wrong)

    def all(self):
        for what, isolation in itertools.product(CHANGES, ISOLATION):
            self.change(what, isolation)
        self.events()
        self.lost_calls()
        self.lost_call_of_reader()
        self.dropped_topic()

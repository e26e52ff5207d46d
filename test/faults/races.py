"""Schedules of a few sessions in which one is held at a point inside of pgjobs while others go on. Nobody
else is there."""

import contextlib
import itertools
import threading
import time

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
PATIENCE = 10  # s
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

    def all(self):
        for what, isolation in itertools.product(CHANGES, ISOLATION):
            self.change(what, isolation)

"""What the clients of the history do not do: queues that come and go, segments and partitions that are
made and dropped, topics of a second's retention, rows of an attached table."""

import random
import threading

import psycopg

# What a turn may meet: an injected error, another who was faster, a lease that is over.
EXPECTED = ("PJ099", "PJ001", "23505", "40P01")
ROWS = """
    CREATE TABLE runs (id bigserial PRIMARY KEY, state text NOT NULL DEFAULT 'open', token bigint);
    CREATE TABLE run_effects (run bigint NOT NULL);
    SELECT pgjobs.attach_table('runs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy",
        "done": "closed", "failed": "bad", "stale_after": "1 second"}]', token => 'token');
"""
CLAIM_ROWS = "SELECT id, token FROM pgjobs.claim_row(NULL::runs, 's', 5)"
# A row that is worked on has a record: its own, or one with many.
WITHOUT_RECORD = """
    SELECT r.id FROM runs r WHERE state = 'busy' AND NOT EXISTS (
        SELECT FROM pgjobs.working_row w WHERE w.target = 'runs'::regclass
        AND (w.key = r.id::text OR r.id::text = ANY (w.keys)))"""
WRONG_EFFECTS = """
    SELECT r.id, r.state, count(e.run) FROM runs r LEFT JOIN run_effects e ON e.run = r.id
    GROUP BY r.id HAVING r.state <> 'closed' OR count(e.run) <> 1"""


class Sideline:
    """`connect` makes connections; `wanted` says whether a fault is to happen at a point whose name
    begins so."""

    def __init__(self, connect, wanted, seed):
        self.connect = connect
        self.wanted = wanted
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self.failures = []
        self.threads = [threading.Thread(target=self.loop, args=(turn,), daemon=True)
                        for turn in (self.queues, self.topics, self.rows)]

    def prepare(self):
        with self.connect() as connection:
            connection.execute(ROWS)

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def loop(self, turn):
        connection = None
        number = 0
        while not self.stopping.wait(0.05):
            number += 1
            try:
                if connection is None:
                    connection = self.connect()
                turn(connection, f"side{number}")
            except psycopg.Error as error:
                lost = connection is None or connection.broken
                if lost:
                    connection = None
                elif error.sqlstate not in EXPECTED:
                    self.failures.append(f"{turn.__name__}: {error.sqlstate} {error}")
        if connection is not None:
            connection.close()

    def queues(self, connection, name):
        """Queues that come and go, jobs that leave receipts, jobs that are revived and redriven, and
        the history's partitions for dead ones, which are all made anew."""
        if self.wanted("partition-"):
            connection.execute("SELECT pgjobs._keep_history(now() + '60 days')")
        connection.execute("SELECT pgjobs.create_queue(%s, retention => '0', max_attempts => 1)", (name,))
        connection.execute("SELECT pgjobs.enqueue_many(%s, array_fill('{}'::jsonb, ARRAY[3]))", (name,))
        connection.execute("SELECT pgjobs.enqueue(%s, unique_key => 'k')", (name,))
        connection.execute("SELECT pgjobs.enqueue(%s, unique_key => 'k', on_conflict => 'replace')",
                           (name,))
        connection.execute("SELECT pgjobs.complete(id, token) FROM pgjobs.claim(%s, 2)", (name,))
        connection.execute("SELECT pgjobs.fail(id, token) FROM pgjobs.claim(%s)", (name,))
        connection.execute("SELECT pgjobs.redrive(%s)", (name,))
        connection.execute("SELECT pgjobs.drop_queue(%s, true)", (name,))

    def topics(self, connection, name):
        """A topic whose first segments are dropped again; the clients' topics get new ones."""
        connection.execute("SELECT pgjobs.create_topic(%s, retention => '1 second')", (name,))
        connection.execute("SELECT pgjobs.subscribe(%s, %s)", (name, name))
        connection.execute("SELECT pgjobs.publish(%s, '1')", (name,))
        if self.wanted("segment-"):
            for days in (2, 4):
                connection.execute("SELECT pgjobs._keep_topics(now() + make_interval(days => %s))", (days,))
                connection.execute("SELECT pgjobs.publish(%s, '2')", (name,))
        connection.execute("SELECT pgjobs.drop_topic(%s)", (name,))

    def rows(self, connection, _):
        """Rows are finished with an effect in the same transaction, or forgotten until they are stale."""
        connection.execute("INSERT INTO runs SELECT FROM generate_series(1, 2)")
        for run, token in connection.execute(CLAIM_ROWS).fetchall():
            if self.random.random() < 0.7:
                self.finish(connection, run, token)

    @staticmethod
    def finish(connection, run, token):
        with connection.transaction():
            connection.execute("INSERT INTO run_effects VALUES (%s)", (run,))
            connection.execute("SELECT pgjobs.finish_row('runs', %s, 's', token => %s::bigint)",
                               (str(run), token))

    def check_rows(self, connection):
        """After the end: says what is wrong with the table's rows."""
        yield from (f"no record of row {row}"
                    for (row,) in connection.execute(WITHOUT_RECORD).fetchall())
        connection.execute("SELECT pgjobs._reap_rows(now() + '1 hour')")
        while rows := connection.execute(CLAIM_ROWS).fetchall():
            for run, token in rows:
                self.finish(connection, run, token)
        yield from (f"row {run} is {state} and has {count} effects"
                    for run, state, count in connection.execute(WRONG_EFFECTS).fetchall())

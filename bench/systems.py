"""The queues that are compared: how each is installed, emptied for a run, and filled."""

import dataclasses

PAYLOAD = '{"to": "ada@example.org", "template": "welcome", "retries": 3, "note": "about a hundred bytes"}'

# The planner knows nothing of a table that was empty a moment ago: it shall not guess badly. What is off
# costs a lot in its eyes, too much for the compiler to stay idle.
PLANS = ["""DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database());
    EXECUTE format('ALTER DATABASE %I SET enable_bitmapscan = off', current_database());
    EXECUTE format('ALTER DATABASE %I SET jit = off', current_database());
END $$"""]

# What makes a database ready, once.
INSTALL = {
    "pgjobs": ["""
        CREATE EXTENSION pgjobs;
        CREATE TABLE bare (LIKE pgjobs.job INCLUDING DEFAULTS INCLUDING INDEXES);
        CREATE SEQUENCE bare_id;
    """],
    "textbook": [*PLANS, """
        CREATE TABLE textbook (id bigserial PRIMARY KEY, state text NOT NULL DEFAULT 'ready',
            priority integer NOT NULL DEFAULT 0, run_at timestamptz NOT NULL DEFAULT now(),
            attempt integer NOT NULL DEFAULT 0, locked_at timestamptz, payload jsonb NOT NULL);
        CREATE INDEX textbook_ready ON textbook (priority, run_at, id) WHERE state = 'ready';
        ALTER TABLE textbook SET (autovacuum_vacuum_scale_factor = 0.05);
        CREATE TABLE textbook_history (id bigint PRIMARY KEY, priority integer NOT NULL,
            run_at timestamptz NOT NULL, attempt integer NOT NULL, locked_at timestamptz,
            payload jsonb NOT NULL, finished_at timestamptz NOT NULL);
        CREATE FUNCTION textbook_notify() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NOTIFY textbook; RETURN NULL; END $$;
        CREATE TRIGGER notify AFTER INSERT ON textbook FOR EACH STATEMENT
            EXECUTE FUNCTION textbook_notify();
    """],
    "pgq": ["CREATE EXTENSION pgq"],
    "graphile": PLANS,
    "pgboss": PLANS,
}


@dataclasses.dataclass(frozen=True)
class System:
    database: str
    driver: str  # its name for the load generator
    clean: list  # empties it and sets it up for the next run
    peer: bool = False  # its client library is on node


def pgjobs(driver="pgjobs", notify="off", retention="0"):
    return System("pgjobs", driver, [
        "SELECT pgjobs.drop_queue(name, true) FROM pgjobs.queue",
        "TRUNCATE pgjobs.job, pgjobs.history, bare",
        f"SELECT pgjobs.create_queue('q', notify => '{notify}', retention => '{retention}', lease => '1 hour')",
    ])


def topic(subscriptions=1):
    return System("pgjobs", "pgjobs-topic", [
        "SELECT pgjobs.drop_topic(name) FROM pgjobs.topic",
        "SELECT pgjobs.create_topic('t')",
        "SELECT pgjobs.subscribe('s', 't')",
        f"SELECT pgjobs.subscribe('s' || i, 't') FROM generate_series(2, {subscriptions}) i",
    ])


def textbook(driver="textbook", notify=False):
    return System("textbook", driver, [
        "TRUNCATE textbook, textbook_history",
        f"ALTER TABLE textbook {'ENABLE' if notify else 'DISABLE'} TRIGGER notify",
    ])


SYSTEMS = {
    "textbook": textbook(),
    "textbook-notify": textbook(notify=True),
    "textbook-kept": textbook("textbook-kept"),
    "pgjobs": pgjobs(),
    "pgjobs-combined": pgjobs("pgjobs-combined"),
    "pgjobs-wakeup": pgjobs(notify="wakeup"),
    "pgjobs-events": pgjobs(notify="events"),
    "pgjobs-kept": pgjobs(retention="1 day"),
    "pgjobs-topic": topic(),
    "pgjobs-topic-100": topic(100),
    "bare": pgjobs("bare"),
    "pgq": System("pgq", "pgq", [
        "SELECT pgq.unregister_consumer('q', 'bench') FROM pgq.queue WHERE queue_name = 'q'",
        "SELECT pgq.drop_queue('q') FROM pgq.queue WHERE queue_name = 'q'",
        "SELECT pgq.create_queue('q')",
        # A tick at each call of the ticker: it is called often.
        "SELECT pgq.set_queue_config('q', 'ticker_max_count', '1')",
        "SELECT pgq.set_queue_config('q', 'ticker_max_lag', '1 millisecond')",
        "SELECT pgq.register_consumer('q', 'bench')",
    ]),
}

# They run on node, each with the API of its own that is quickest.
SYSTEMS |= {
    "graphile-worker": System("graphile", "graphile-worker", [
        "TRUNCATE graphile_worker._private_jobs, graphile_worker._private_job_queues"], peer=True),
    "pg-boss": System("pgboss", "pg-boss", ["TRUNCATE pgboss.job CASCADE"], peer=True),
}

TABLES = {"pgjobs": "pgjobs.job", "textbook": "textbook"}

FILL = {
    "pgjobs": """SELECT sum(cardinality(pgjobs.enqueue_many('q', array_fill('%(payload)s'::jsonb, ARRAY[1000]),
        delay => %(delay)s))) FROM generate_series(1, %(count)s / 1000)""",
    "textbook": """INSERT INTO textbook (payload, run_at)
        SELECT '%(payload)s', now() + coalesce(%(delay)s, interval '0') FROM generate_series(1, %(count)s)""",
}


def fill(system, count, delay=None):
    """Statements that add so many thousand jobs."""
    delay = f"interval '{delay}'" if delay else "NULL"
    return [FILL[system.database] % {"payload": PAYLOAD, "delay": delay, "count": min(100000, count - done)}
            for done in range(0, count, 100000)]

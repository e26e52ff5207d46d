"""What the clients of history.py do with topics: they publish, receive and acknowledge under a
lease, in transactions too, and read along. topic_checker.py says what must hold of that."""

import json

TOPICS = {"news": ("fast", "slow"), "alerts": ("pager",)}
SUBSCRIPTIONS = {name: topic for topic, names in TOPICS.items() for name in names}
COPIES = ("copies", "news")  # a queue that gets a job for each message of a topic
LEASES = (300_000, 1_000_000)  # us
KEPT_LEASES = 50  # that ended, for calls that must be refused


def create(connection):
    connection.execute("SELECT pgjobs.create_queue(%s, lease => '1 second')", COPIES[:1])
    for topic, names in TOPICS.items():
        connection.execute("SELECT pgjobs.create_topic(%s, retention => '1 year')", (topic,))
        for name in names:
            connection.execute("SELECT pgjobs.subscribe(%s, %s)", (name, topic))
    connection.execute("SELECT pgjobs.subscribe_queue(%s, %s)", COPIES)


def behind(connection):
    """How many readers have not yet come to the end."""
    return connection.execute(
        "SELECT count(*) FROM pgjobs.subscriptions WHERE topic = ANY (%s) AND lag_messages > 0",
        (list(TOPICS),)).fetchone()[0]


def final(connection):
    """The topics at the end, in the transaction of the caller."""
    log = connection.execute(
        "SELECT t.name, l.position, l.payload->>'m' FROM pgjobs.log l"
        " JOIN pgjobs.segment s ON s.id = l.segment JOIN pgjobs.topic t ON t.id = s.topic_id"
        " WHERE t.name = ANY (%s) ORDER BY 1, 2", (list(TOPICS),)).fetchall()
    positions = connection.execute("SELECT name, position FROM pgjobs.subscriptions"
                                   " WHERE queue IS NULL").fetchall()
    copies = connection.execute(
        "SELECT (headers->'message'->>'position')::bigint, payload->>'m' FROM pgjobs.jobs"
        " WHERE queue = %s", COPIES[:1]).fetchall()
    return {"log": log, "positions": dict(positions), "copies": copies}


class TopicClient:
    """The part of history.Client that deals with topics."""

    def __init__(self):
        self.batches = {}  # by subscription: the token of a lease and the positions under it
        self.old_batches = []
        self.seen = dict.fromkeys(TOPICS, 0)

    def publish(self):
        topic = self.random.choice(list(TOPICS))
        keys = [self.new_key()[0] for _ in range(self.random.choice([1, 1, 1, 5]))]
        payloads = [json.dumps({"m": key, "pad": "x" * self.random.choice([0, 300])})
                    for key in keys]
        self.operate("publish", {"topic": topic, "keys": keys},
                     "SELECT pgjobs.publish_many(%s, %s::jsonb[])", (topic, payloads),
                     lambda rows: rows[0][0])

    def receive(self, subscription=None, most=None):
        """The batch and its token; in a transaction it is the caller's to keep."""
        subscription = subscription or self.random.choice(list(SUBSCRIPTIONS))
        most = most or self.random.randrange(1, 20)
        lease = self.random.choice(LEASES)
        token, before = self.batches.get(subscription, (None, []))
        if self.random.random() < 0.6:
            token, before = None, []  # another reader, who does not know of it
        _, rows = self.operate(
            "receive", {"subscription": subscription, "n": most, "lease": lease, "token": token},
            "SELECT position, payload->>'m', token FROM pgjobs.receive(%s, %s::bigint,"
            " %s::interval, token => %s::bigint)",
            (subscription, most, f"{lease} microseconds", token),
            lambda rows: [dict(zip(("position", "key", "token"), row)) for row in rows], lsn=True)
        if not rows:
            return None
        batch = (rows[0]["token"], before + [row["position"] for row in rows])
        if self.tx is None:
            self.batches[subscription] = batch
        return batch

    def call_ack(self, subscription, token, up_to):
        self.operate("ack", {"subscription": subscription, "token": token, "up_to": up_to},
                     "SELECT pgjobs.ack(%s, %s::bigint, %s::bigint)", (subscription, token, up_to))

    def ack(self, subscription=None):
        subscription = subscription or self.random.choice(list(self.batches))
        token, positions = self.batches[subscription]
        all_of_them = self.draining or self.random.random() < 0.8
        up_to = positions[-1] if all_of_them else self.random.choice(positions)
        if all_of_them:  # it is over, whatever the answer is
            self.forget_batch(subscription)
        self.call_ack(subscription, token, up_to)

    def forget_batch(self, subscription):
        token, positions = self.batches.pop(subscription)
        self.old_batches = (self.old_batches + [(subscription, token, positions)])[-KEPT_LEASES:]

    def old_ack(self):
        """Of a lease whose time is over, or once more."""
        subscription, token, positions = self.random.choice(self.old_batches)
        self.call_ack(subscription, token, self.random.choice(positions))

    def read_in_transaction(self):
        """Receive and acknowledge together, sometimes rolled back."""
        subscription = self.random.choice(list(SUBSCRIPTIONS))

        def body():
            batch = self.receive(subscription)
            if batch is None:
                return False
            self.call_ack(subscription, batch[0], batch[1][-1])
            return self.random.random() < 0.8

        self.in_transaction(body)

    def read(self):
        """Without a subscription: this process keeps its own place."""
        topic = self.random.choice(list(TOPICS))
        _, rows = self.operate(
            "read", {"topic": topic, "after": self.seen[topic]},
            "SELECT position, payload->>'m' FROM pgjobs.read(%s, %s::bigint, 20)",
            (topic, self.seen[topic]),
            lambda rows: [dict(zip(("position", "key"), row)) for row in rows])
        if rows:
            self.seen[topic] = rows[-1]["position"]

    def drain_topics(self):
        """True if there was something to do."""
        for subscription in self.random.sample(list(SUBSCRIPTIONS), len(SUBSCRIPTIONS)):
            if subscription in self.batches:
                self.ack(subscription)
                return True
            if self.receive(subscription, 100):
                self.ack(subscription)
                return True
        return False

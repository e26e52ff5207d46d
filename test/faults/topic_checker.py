"""The rules P1 to P7 of checker.py: what must hold of topics, subscriptions and their readers."""

import bisect
import collections
import itertools
import math


class Highest:
    """The highest value that there was at a time."""

    def __init__(self, pairs):
        pairs = sorted(pairs)
        self.times = [time for time, _ in pairs]
        self.values = list(itertools.accumulate((value for _, value in pairs), max))

    def at(self, time):
        n = bisect.bisect_right(self.times, time)
        return self.values[n - 1] if n else 0


class Topics:
    """A reader's lease is like a claim: a crash may take it back, see checker.Claim."""

    def __init__(self, checker, topic_of):
        self.checker = checker
        self.wrong = checker.wrong
        self.counts = checker.counts
        self.topic_of = topic_of  # by subscription
        self.log = collections.defaultdict(dict)  # by topic: key by position
        for topic, position, key in checker.final.get("log", ()):
            self.log[topic][position] = key
        self.places = {topic: sorted(keys) for topic, keys in self.log.items()}
        self.by_f = collections.defaultdict(list)
        for op in checker.ops:
            if op.f in ("publish", "receive", "ack", "read"):
                self.by_f[op.f].append(op)
        self.batches = collections.defaultdict(list)  # what somebody got, by subscription
        self.acks = collections.defaultdict(list)
        for op in self.by_f["receive"]:
            if op.res:
                self.batches[op.args["subscription"]].append(op)
        for op in self.by_f["ack"]:
            self.acks[op.args["subscription"]].append(op)
        self.by_token = collections.defaultdict(list)
        self.acks_of = collections.defaultdict(list)
        self.acks_in = collections.defaultdict(list)  # a transaction
        for batches in self.batches.values():
            for op in batches:
                self.by_token[op.res[0]["token"]].append(op)
        for op in self.by_f["ack"]:
            self.acks_of[op.args["token"]].append(op)
            if op.tx is not None:
                self.acks_in[(op.p, op.tx)].append(op)
        # Whoever was believed by its token had received, and so had all before it in the log.
        for op in self.by_f["ack"]:
            if op.type == "ok":
                for batch in self.by_token[op.args["token"]]:
                    batch.durable = True

    # ---- P1, P2, P3 ----

    def check_publishes(self):
        asked = {}
        for op in self.by_f["publish"]:
            topic, keys, positions = op.args["topic"], op.args["keys"], op.res
            for key in keys:
                asked[key] = (op, topic)
            if op.type != "ok":
                continue
            self.counts["messages acknowledged"] += len(keys)
            if len(positions) != len(keys):
                self.wrong("P1", None, f"{op.name}: {len(keys)} messages, {len(positions)} "
                                       "positions")
            for key, position in zip(keys, positions):
                there = self.log[topic].get(position)
                if there != key:
                    self.wrong("P1", None, f"{op.name} was told position {position} of {topic} "
                                           f"for {key}; there is {there}")
        found = collections.Counter()
        for topic, keys in self.log.items():
            for position, key in keys.items():
                found[key] += 1
                op, wanted = asked.get(key, (None, None))
                if op is None or wanted != topic:
                    self.wrong("P2", None, f"nobody published {key} ({topic} {position})")
                elif op.type == "fail":
                    self.wrong("P2", None, f"{op.name} did not happen; {key} is at {topic} "
                                           f"{position}")
        for key, count in found.items():
            if count > 1:
                self.wrong("P2", None, f"{key} is there {count} times")

    def check_order(self):
        for topic in {op.args["topic"] for op in self.by_f["publish"]}:
            ops = [op for op in self.by_f["publish"] if op.args["topic"] == topic and op.res]
            given = collections.Counter(position for op in ops for position in op.res)
            for position, count in given.items():
                if count > 1:
                    self.wrong("P3", None, f"position {position} of {topic} was given {count} "
                                           "times")
            answered = sorted(ops, key=lambda op: op.t1)
            highest = 0
            n = 0
            for op in ops:  # by t0
                while answered[n].t1 <= op.t0:
                    highest = max(highest, *answered[n].res)
                    n += 1
                if op.res != sorted(op.res) or op.res[0] <= highest:
                    self.wrong("P3", None, f"{op.name} got {op.res} of {topic}, and {highest} "
                                           "had been given before")

    # ---- P4 ----

    def between(self, topic, after, last):
        """Positions of the log behind one and up to the other."""
        places = self.places.get(topic, [])
        return places[bisect.bisect_right(places, after):bisect.bisect_right(places, last)]

    def check_content(self, op, topic, after):
        got = [row["position"] for row in op.res]
        for row in op.res:
            there = self.log[topic].get(row["position"])
            if there != row["key"]:
                self.wrong("P4", None, f"{op.name} {op.f} got {row['key']} at {topic} "
                                       f"{row['position']}; there is {there}")
        wanted = self.between(topic, after, max(got))
        if got != wanted:
            self.wrong("P4", None, f"{op.name} {op.f} got positions {got} of {topic}, which has "
                                   f"{wanted}")

    def check_contents(self):
        for op in self.by_f["read"]:
            if op.res:
                self.check_content(op, op.args["topic"], op.args["after"])
        for subscription, batches in self.batches.items():
            for op in batches:
                self.counts["messages received"] += len(op.res)
                self.check_content(op, self.topic_of[subscription], op.res[0]["position"] - 1)

    # ---- P5 ----

    def check_starts(self):
        for subscription, batches in self.batches.items():
            acks = self.acks[subscription]
            surely = Highest((ack.t1, ack.args["up_to"]) for ack in acks if ack.type == "ok")
            perhaps = Highest((ack.t0, ack.args["up_to"]) for ack in acks if ack.may())
            for op in batches:
                first = op.res[0]["position"]
                if first <= surely.at(op.t0):
                    self.wrong("P5", None, f"{op.name} got {first} of {subscription} again, after "
                                           f"{surely.at(op.t0)} was acknowledged")
                reached = max(perhaps.at(op.t1), self.reached_by_itself(op))
                skipped = self.between(self.topic_of[subscription], reached, first - 1)
                if skipped:
                    self.wrong("P5", None, f"{op.name} got {first} of {subscription}; nobody had "
                                           f"acknowledged {skipped[-1]}")

    def reached_by_itself(self, op):
        """Where its own lease or transaction may have come to."""
        places = [row["position"] for batch in self.by_token[op.args["token"]]
                  if batch is not op and batch.t0 <= op.t1 and batch.may_be_seen_by(op)
                  for row in batch.res]
        places += [ack.args["up_to"] for ack in self.acks_in[(op.p, op.tx)]]
        return max(places, default=0)

    def check_samples(self):
        """Positions as the view has shown them."""
        before = {}
        for record in sorted(self.checker.records, key=lambda record: record["t"]):
            for name, position in record.get("positions", {}).items():
                if position < before.get(name, 0):
                    self.wrong("P5", None, f"{name} was at {before[name]} and is at {position}")
                before[name] = position

    # ---- P6 ----

    def later(self, op, until=math.inf):
        """Batches that others got of the same subscription, called after this one's answer."""
        for other in self.batches[op.args["subscription"]]:
            if other.w0 >= until:
                return
            if other.t0 >= op.t1 and other.res[0]["token"] != op.res[0]["token"]:
                yield other

    def check_leases(self):
        for batches in self.batches.values():
            for op in batches:
                if op.type != "ok":
                    continue
                until = op.w0 + op.args["lease"]
                for other in self.later(op, until):
                    ended = any(ack.t0 <= other.t1 and ack.may_be_seen_by(other)
                                for ack in self.acks_of[op.res[0]["token"]])
                    clear = not self.checker.clock.was_set_between(op.t0, other.t1)
                    if other.w1 < until and op.counts_for(other) and not ended and clear:
                        self.wrong("P6", None, f"{other.name} received while the lease of "
                                               f"{op.name} lasted")

    def overtaken(self, token, op):
        """A batch that somebody else had got before this operation was called."""
        for batch in self.by_token[token]:
            for other in self.later(batch):
                if other.type == "ok" and other.t1 <= op.t0 and other.counts_for(op):
                    return other
        return None

    def check_fences(self):
        for op in self.by_f["ack"]:
            if op.type == "fail" and op.sqlstate == "PJ001":
                self.counts["readers refused"] += 1
            if op.type != "ok":
                continue
            self.counts["acknowledgements"] += 1
            token, up_to = op.args["token"], op.args["up_to"]
            other = self.overtaken(token, op)
            if other is not None and not any(
                    ack is not op and ack.may() and ack.args["up_to"] >= up_to
                    and ack.t0 <= other.t1 for ack in self.acks_of[token]):
                self.wrong("P6", None, f"{op.name} was accepted; {other.name} had received since")
        for op in self.by_f["receive"]:
            token = op.args["token"]
            if token is not None and op.type == "ok" and op.res and \
                    op.res[0]["token"] == token and self.overtaken(token, op):
                self.wrong("P6", None, f"{op.name} went on under a lease that was lost")

    # ---- P7 ----

    def check_end(self):
        for subscription, topic in self.topic_of.items():
            places = self.places.get(topic, [])
            got = {row["position"] for op in self.batches[subscription] for row in op.res}
            missed = [position for position in places if position not in got]
            if missed:
                self.wrong("P7", None, f"nobody got {missed[:10]} of {subscription}")
            at = self.checker.final.get("positions", {}).get(subscription, 0)
            if places and at < places[-1]:
                self.wrong("P7", None, f"{subscription} is at {at}, the end at {places[-1]}")

    def check_copies(self, topic):
        copies = collections.Counter(map(tuple, self.checker.final.get("copies", ())))
        wanted = collections.Counter(self.log[topic].items())
        if copies != wanted:
            self.wrong("P7", None, f"messages without a job: {list(wanted - copies)[:10]}, jobs "
                                   f"without a message: {list(copies - wanted)[:10]}")

    def check(self, copied):
        self.check_publishes()
        self.check_order()
        self.check_contents()
        self.check_starts()
        self.check_samples()
        self.check_leases()
        self.check_fences()
        self.check_end()
        self.check_copies(copied)

"""Values for the arguments of pgjobs' functions: good ones, so that calls get deep, and bad ones of
every kind. Both are bytes as a client would send them, or None for NULL."""

import json
import os
import re

MEGABYTE = 1 << 20
with open(os.path.join(os.path.dirname(__file__), "..", "..", "pgjobs.control"), encoding="utf-8") as control:
    VERSION = re.search(r"^default_version = '(.*)'", control.read(), re.MULTILINE)[1].encode()

TEXTS = [
    b"", b" ", b"a", b"work", b"NULL", b"-1", b"0", b"{}", b"''", b"\\", b"\\'", b"'", b'"', b"$1", b"%", b"%s%n%x",
    b"%%", b"%1$s", b"a b", b"x\ty", b"x\ny", b"\x01", b"\x7f", b"Plain", b"plain ", b"plain\n", b"pgjobs", b"*",
    b"x'; DROP TABLE pgjobs.job; --", b'x"; DROP TABLE pgjobs.job; --', b"$$", b"../../etc/passwd", b"public", b"none",
    b"a" * 47, b"a" * 48, b"a" * 49, b"a" * 63, b"a" * 64, b"a" * 255, b"a" * 256, b"%" * 300, b"'" * 300, b"a" * 8192,
    "ä".encode(), "ä".encode() * 150, "\U0001f600".encode() * 75, "e\u0301\u202e\u200d\ufeff".encode(),
    b"\xff", b"\xfe\xff", b"ab\xe2\x82", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3(", b"a\x00b",
    b"x" * 62 + "ä".encode(), b"%" * 2000 + b"\\",
]
INTEGERS = [str(n).encode() for n in
            [0, 1, -1, 2, 7, 100, 101, 10000, 10001] +
            [sign * (1 << bits) + d for bits in (15, 16, 31, 32, 53, 63) for sign in (1, -1)
             for d in (-1, 0, 1)]] + [b"", b" 7 ", b"1e3", b"0x10", b"NaN", b"9" * 40]
FLOATS = [b"0", b"-0", b"1", b"0.5", b"1.0000000000000002", b"-1e-300", b"NaN", b"Infinity", b"-Infinity",
          b"1e308", b"5e-324", b"1e400", b""]
INTERVALS = [b"0", b"-1 us", b"1 us", b"999 us", b"1 ms", b"-1 day", b"1 month -30 days", b"1 mon -31 days", b"100 years",
             b"36525 days", b"36525 days 1 us", b"178000000 years", b"-178000000 years", b"infinity", b"-infinity",
             b"2147483647 days", b"-2147483648 days", b"2147483647 months 2147483647 days 2562047788:00:54.775807",
             b"-2147483648 months -2147483648 days -2562047788:00:54.775808", b"2562047788:00:54.775807", b"", b"soon"]
TIMES = [b"infinity", b"-infinity", b"epoch", b"now", b"4714-11-24 00:00:00+00 BC", b"294276-12-31 23:59:59.999999+00",
         b"294277-01-01 00:00+00", b"0001-01-01", b"1999-12-31 23:59:59.999999+00", b"2000-01-01 00:00+00", b"tomorrow",
         b"2100-02-30", b"9999-12-31", b"allballs", b""]
BOOLEANS = [b"t", b"f", b"maybe", b""]
DOCUMENTS = [b"null", b"true", b"0", b'""', b"[]", b"{}", b"[[]]", b'"x"', b"-0.0", b"1e1000", b"1" * 20000, b"",
             b"{", b"{'a': 1}", b'{"a": "\\u0000"}', b'{"a": "\\ud800"}', b'{"a": 1, "a": 2}', b'{"": ""}', b'[null]',
             b"[1, [2, [3]]]", b'{"new": []}', b'{"new": "done"}', b'[{}]', b'[{"payload": null}]',
             b"[" * 300 + b"]" * 300, b"[" * 20000 + b"]" * 20000, b'{"a":' * 300 + b"1" + b"}" * 300,
             b'"' + b"\\\\" * 300 + b'"', b'{"a": "\xff"}', '{"ä\U0001f600": "\u202e"}'.encode(),
             b'[{"stage": "do", "waiting": "", "working": "", "done": ""}]',
             b'[{"stage": "do", "waiting": "a", "working": "a", "done": "a", "stale_after": "-1 s"}]',
             b'[{"stage": 1, "waiting": [], "working": {}, "done": null}]',
             b'[{"run_at": "infinity"}]', b'[{"priority": 1e300}]', b'[{"priority": 0.5}]', b'[{"delay": "-1 s"}]',
             b'[{"max_attempts": 0}, {}]', b'[{"unique_key": 7}]', b'[{"stage": "\\u0001"}]', b'[{"headers": []}]']
RELATIONS = [b"fuzz.own", b"fuzz.pair", b"fuzz.scratch", b"fuzz.parted", b"fuzz.parted_1", b"fuzz.seen", b"fuzz.own_pkey",
             b"fuzz.own_id_seq", b"pgjobs.job", b"pgjobs.jobs", b"pgjobs.history", b"pgjobs.job_id_seq", b"pg_class",
             b"pg_toast.pg_toast_1255", b"information_schema.tables", b"0", b"1", b"4294967295", b"-", b"nowhere", b"a.b.c.d",
             b'"', b'"x""y"']
# Of which the arguments of triggers are made.
WORDS = [b"home", b"1", b"channel", b"topic", b"column", b"stage", b"transition", b"status", b"changed_at", b"token",
         b"priority", b"new", b"doing", b"done", b"", b"1000000", b"-1", b"news"]
# As SQL, for they must have a type.
ROWS = [b"NULL::fuzz.own", b"NULL::fuzz.pair", b"NULL::fuzz.scratch", b"NULL::fuzz.parted", b"NULL::fuzz.seen",
        b"NULL::pgjobs.job", b"NULL::pgjobs.claimed_job", b"NULL::pg_class", b"NULL::integer", b"7", b"'{}'::jsonb",
        b"NULL::text[]", b"ROW(1, 2)", b"NULL::fuzz.own[]", b"NULL::fuzz.status", b"ROW(1, 'new', now(), 1, 1)::fuzz.own",
        b"NULL::record", b"NULL", b"'x'::text"]

BAD = {
    "text": TEXTS, "name": TEXTS, "bigint": INTEGERS, "integer": INTEGERS, "smallint": INTEGERS,
    "double precision": FLOATS, "interval": INTERVALS, "timestamp with time zone": TIMES, "boolean": BOOLEANS,
    "jsonb": DOCUMENTS, "regclass": RELATIONS, "anyelement": ROWS,
}

QUEUES = [b"plain", b"ci", b"short", b"dead", b"fed"] + [b"made%d" % n for n in range(4)]
TOPICS = [b"happened", b"news"] + [b"told%d" % n for n in range(3)]
SUBSCRIPTIONS = [b"s1", b"s2", b"s3", b"s4"]
STAGES = [b"work", b"a", b"b", b"c", b"do"]
KEYS = [b"k%d" % n for n in range(6)]
ROLES = [b"fuzz_owner", b"fuzz_worker", b"fuzz_nobody"]
ROW_STAGES = json.dumps([{"stage": "do", "waiting": "new", "working": "doing", "done": "done",
                          "failed": "failed", "stale_after": "1 second"}]).encode()


def array(elements):
    """An array as text."""
    def element(value):
        if value is None:
            return b"NULL"
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return b"{" + b",".join(map(element, elements)) + b"}"


class Values:
    """Draws arguments, for one session, which remembers what it got: jobs with their tokens,
    subscriptions with theirs, positions."""

    def __init__(self, random):
        self.random = random
        self.jobs = [(b"1", b"1")]
        self.leases = [(b"s1", b"1")]
        self.positions = [b"1"]
        self.good = {
            "queue": QUEUES, "topic": TOPICS, "subscription": SUBSCRIPTIONS, "stage": STAGES, "next_stage": STAGES,
            "dead_letter": [b"dead", b""], "events_topic": [b"happened", b""], "unique_key": KEYS, "key": KEYS + [b"1", b"5"],
            "unique_keys": KEYS, "keys": KEYS, "on_conflict": [b"keep", b"replace", b"error"],
            "on_lost": [b"skip", b"error"], "notify": [b"off", b"wakeup", b"events"], "role": ROLES,
            "privilege": [b"monitor", b"operate"], "key_pattern": [b"k%", b"%", b"k_", b"\\%"],
            "privileges": [b"produce", b"work", b"operate", b"monitor", b"own", b"publish", b"subscribe"],
            "status": [b"status"], "changed_at name": [b"changed_at"], "token name": [b"token"], "priority name": [b"priority"],
            "channel": [b"pair", b"a channel"], "target": [b"fuzz.own", b"fuzz.pair", b"fuzz.scratch"],
            "of": ROWS[:2], "max_jobs": [b"1", b"2", b"5", b"100"], "max_messages": [b"1", b"5", b"100"],
            "max_rows": [b"1", b"3"], "priority bigint": [b"-3", b"0", b"3"], "max_attempts": [b"1", b"2", b"25"],
            "fraction": [b"0", b"0.5", b"1"], "timeout": [b"0", b"1 ms", b"2 ms"], "transitions": [b'{"done": ["new"]}'],
            "headers jsonb": [b'{"h": 1}', b"{}"], "stages jsonb": [ROW_STAGES], "worker": [b"w1", b"w2"], "retry": BOOLEANS[:2],
            "jobs": [b"[{}]", b'[{"payload": {"a": 1}, "delay": "1 ms"}, {"unique_key": "k1", "on_conflict": "replace"}]',
                     b'[{"payload": 1, "priority": 2, "headers": {"a": "b"}, "max_attempts": 3}]'],
            "version": [VERSION], "queue_id": [b"%d" % n for n in range(1, 9)], "topic_id": [b"%d" % n for n in range(1, 9)],
        }
        self.of_type = {
            "text": [b"hello", b"k1", b"work"], "name": [b"status"], "bigint": [b"0", b"1", b"10"], "integer": [b"1", b"2"],
            "smallint": [b"1", b"2"], "double precision": [b"0.25"], "interval": [b"1 ms", b"50 ms", b"1 s", b"1 day"],
            "timestamp with time zone": [b"now", b"yesterday", b"2040-01-01 00:00+00"], "boolean": BOOLEANS[:2],
            "jsonb": [b'{"a": 1}', b"1", b'"text"', b"[1, 2]"], "regclass": RELATIONS[:4], "anyelement": ROWS[:4],
        }

    def begin(self):
        """Before the arguments of one call: they belong together."""
        self.count = self.random.choice((0, 1, 1, 2, 3, 10))
        self.chosen = [self.random.choice(self.jobs) for _ in range(max(self.count, 1))]
        self.lease = self.random.choice(self.leases)

    def learn(self, subscription, names, rows):
        """Remembers what a result says."""
        for row in rows[:10]:
            named = dict(zip(names, row))
            if named.get("id") and named.get("token"):
                self.jobs.append((named["id"], named["token"]))
            if named.get("position"):
                self.positions.append(named["position"])
                if named.get("token") and subscription:
                    self.leases.append((subscription, named["token"]))
            for value in named.values() if len(names) == 1 and names[0].startswith("enqueue") else ():
                for job in (value or b"").strip(b"{}").split(b",")[:3]:
                    self.jobs.append((job, self.random.choice(self.jobs)[1]))
        for pool in (self.jobs, self.leases, self.positions):
            del pool[:-40]

    def good_value(self, function, name, kind):
        about_topics = "topic" in function or function in ("ack", "receive", "seek")
        if kind.endswith("[]"):
            return self.good_array(name, kind)
        if name == "name":
            return self.random.choice(TOPICS if "topic" in function else QUEUES)
        if name == "id":
            return self.chosen[0][0]
        if name == "token" and kind == "bigint":
            return self.lease[1] if about_topics else self.chosen[0][1]
        if name == "subscription" and self.random.random() < 0.7:
            return self.lease[0]
        if name in ("after", "up_to", "to_position", "from_position", "place"):
            return self.random.choice(self.positions)
        pool = self.good.get(f"{name} {kind}") or self.good.get(name) or self.of_type.get(kind)
        return self.random.choice(pool) if pool else None

    def good_array(self, name, kind):
        if name == "ids":
            return array([job for job, _ in self.chosen][:self.count])
        if name == "tokens":
            return array([token for _, token in self.chosen][:self.count])
        if name == "stages":
            return array(STAGES[:self.random.choice((1, 3))])
        pool = self.good.get(name) or self.good.get(f"{name} {kind[:-2]}") or \
            self.of_type.get(kind[:-2], [b"1"])
        return array(self.random.choice(pool) for _ in range(self.count))

    def bad_value(self, name, kind):
        draw = self.random.random()
        if kind == "anyelement":
            return self.random.choice(ROWS)
        if draw < 0.15:
            return None
        if kind.endswith("[]"):
            return self.bad_array(name, kind)
        if name == "timeout" and draw < 0.98:  # nobody has the time
            return self.random.choice((b"-1 us", b"", b"infinity", b"178000000 years", b"0.4 us"))
        if kind == "text" and draw > 0.999:
            return self.random.choice((b"x", b"%", "ä".encode())) * (8 * MEGABYTE)
        if kind == "jsonb" and draw > 0.998:
            return b'"' + b"x" * self.random.choice((MEGABYTE - 100, MEGABYTE, 8 * MEGABYTE)) + b'"'
        if draw > 0.95:  # of another type
            return self.random.choice(self.random.choice(list(BAD.values())))
        return self.random.choice(BAD.get(kind, TEXTS))

    def bad_array(self, name, kind):
        one = self.good_array(name, kind)[1:-1] or b"1"
        element = one.split(b",", maxsplit=1)[0]
        shape = self.random.randrange(11)
        if shape == 0:
            return b"{}"
        if shape == 1:
            return b"{{" + element + b"},{" + element + b"}}"
        if shape == 2:
            return b"[5:5]={" + element + b"}"
        if shape == 3:
            return b"[-2147483648:-2147483648]={" + element + b"}"
        if shape == 4:
            return b"[2147483646:2147483646]={" + element + b"}"
        if shape == 5:
            return b"{NULL," + one + b"}"
        if shape == 6:
            return b"{{{{{{" + element + b"}}}}}}"
        if shape == 7:
            many = self.random.choices((101, 1001, 10001, 30000), (60, 30, 9, 1))[0]
            return b"{" + b",".join([element] * many) + b"}"
        if shape == 8:  # the same twice
            return b"{" + element + b"," + element + b"}"
        return array(self.bad_value("", kind[:-2]) for _ in range(self.random.choice((1, 2, self.count))))

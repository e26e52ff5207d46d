"""Says whether a history of operations and the tables at its end keep pgjobs' promises.

    result = check(records, final)      result.violations is empty if they do

records: dictionaries as history.py writes them, of all processes. final: {"jobs": [{id, queue,
stage, state, attempt, max_attempts, key, unique_key, worker, done_token, attempts, open}],
"effects": [{job, stage, token}]}, read when everything had been worked off.

An operation is `ok` (its result arrived and, in a transaction, so did the commit's), `fail` (it did
not happen) or `info` (nobody knows). A claim may be undone by a crash unless its queue has
durable_claims or the log was flushed beyond it; such a claim counts while its server lives and is
`info` afterwards. Rules:

  S1  a job whose enqueue was acknowledged is there at the end
  S2  every job at the end was asked for, and its enqueue was not refused
  S3  it is there once and in a final state; a unique key has one open job at a time
  S4  a completed job has an execution with its accepted token; effects that committed with a
      complete are there exactly once, and none else
  S5  tokens are distinct; attempts of a stage rise; a claim gives no more than was asked for
  S6  a token that is not the current one is refused, and so is one that has ended
  S7  nobody gets a job while a lease of it lasts
  S8  a lease is as long as promised and extend never shortens it
  S9  attempts at the end are the claims that happened; dead only with no attempt left or on demand
  S11 nothing is claimed before its time
  S12 a job that was sent again, with the same unique key, until its answer came is there once
  F1  what was acknowledged as final is final: one outcome, and no claim afterwards
  F2  a stage that was completed is not worked on again
  F3  a repeated complete gives the same answer again
  A1  enqueue_many adds all or nothing
  E1  errors are those that the contract names
  L1  some order of all the operations on a job, one after the other, gives the answers (linear.py)

and of topics (topic_checker.py):

  P1  an acknowledged message is in the log, at the position that was given to it
  P2  every message there was published, once, and its publish was not refused
  P3  positions rise in the order of publishing, and none is given out twice
  P4  a batch is what the log has from its first message to its last
  P5  a subscription goes on where it was acknowledged: nothing is skipped, nothing comes again
  P6  while a reader's lease lasts nobody else receives; an old token is refused
  P7  at the end everybody has got everything, and each message has become one job where queues
      subscribe
"""

import collections
import dataclasses
import json
import math

import linear
import server_clock
import topic_checker
import topic_history

ENDINGS = ("complete", "fail", "release", "snooze")
FENCED = ENDINGS + ("extend", "progress")
INFINITY = math.inf
# What a correct server may answer: fences, unique keys, conflicts of serializable transactions, a disk
# that is full, and PJ099 where a build for tests was told to fail.
EXPECTED_ERRORS = {
    "PJ001": FENCED + ("complete_many", "ack", "receive"),
    "23505": ("enqueue", "retry"),
    "40001": None,
    "40P01": None,
    "25P02": None,
    "53100": None,
    "PJ099": None,
}


@dataclasses.dataclass
class Op:
    p: object
    i: int
    f: str
    args: dict
    session: str
    epoch: int
    tx: int | None
    t0: int
    w0: int
    t1: float = INFINITY
    w1: float = INFINITY
    type: str = "info"
    res: object = None
    sqlstate: str | None = None
    lsn: int | None = None
    prepared: bool = False  # in a transaction whose second phase never waits for less than the disk
    durable: bool = False  # a claim or a reader's lease that no crash takes back

    @property
    def name(self):
        return f"{self.p}:{self.i}"

    def may(self):
        return self.type != "fail"

    def counts_for(self, other):
        """Whether it had happened, as seen by an operation that came later."""
        return self.type == "ok" and (self.durable or self.epoch == other.epoch)

    def may_be_seen_by(self, other):
        """A transaction sees what it did itself, even if it is rolled back later."""
        return self.may() or self.tx is not None and (self.p, self.tx) == (other.p, other.tx)


@dataclasses.dataclass
class Claim:
    """One job of a claim."""
    op: Op
    job: int
    token: int
    stage: str
    attempt: int
    max_attempts: int
    until: int | None
    now: int
    durable: bool
    at: float = 0

    def counts_for(self, op):
        """Whether the claim had happened, as seen by an operation that came later."""
        return self.op.type == "ok" and (self.durable or self.op.epoch == op.epoch)


@dataclasses.dataclass
class Result:
    counts: collections.Counter
    errors: collections.Counter
    violations: list  # (rule, job, text)


class Checker:
    def __init__(self, records, final):
        self.records = records
        self.final = final
        self.violations = []
        self.counts = collections.Counter()
        self.errors = collections.Counter()
        self.queues = {}
        self.nemesis = []
        self.clock = server_clock.ServerClock(
            r for r in records if r["type"] == "nemesis" and r["f"] == "clock")
        self.kill_time = {}  # of an epoch
        self.flushed = {}  # end of the log that a crash left, by epoch
        self.session_end = {}
        self.executions = collections.defaultdict(set)
        self.read()
        self.index()

    def wrong(self, rule, job, text):
        self.violations.append((rule, job, text))

    # ---- reading ----

    def read(self):
        ops = {}
        ends = {}
        places = {}
        undone = []
        sessions = {}
        for record in sorted(self.records, key=lambda r: r["t"]):
            kind = record["type"]
            key = (record["p"], record.get("i"))
            if kind == "invoke":
                ops[key] = Op(record["p"], record["i"], record["f"], record["args"], record["s"],
                              record["e"], record.get("tx"), record["t"], record["w"])
            elif kind in ("ok", "fail", "info"):
                op = ops[key]
                op.type, op.t1, op.w1 = kind, record["t"], record["w"]
                op.res, op.sqlstate = record.get("res"), record.get("sqlstate")
                self.clock.translate(op)
                if kind == "fail":
                    self.errors[f"{op.f} {op.sqlstate}"] += 1
                    allowed = EXPECTED_ERRORS.get(op.sqlstate, ())
                    if allowed is not None and op.f not in allowed:
                        self.wrong("E1", None, f"{op.name} {op.f}: {op.sqlstate} "
                                               f"{record.get('msg')}")
            elif kind == "lsn":
                if "tx" in record:
                    places[(record["p"], record["tx"])] = record["lsn"]
                else:
                    ops[key].lsn = record["lsn"]
            elif kind == "end":
                ends[(record.get("process", record["p"]), record["tx"])] = record
                self.counts["prepared transactions"] += record.get("prepared", False)
            elif kind == "undo":
                undone.append(record)
            elif kind == "exec":
                self.executions[record["job"]].add(record["token"])
            elif kind == "session":
                sessions[record["s"]] = record
            elif kind == "close":
                self.session_end.setdefault(record["s"], record["t"])
            elif kind == "queue":
                self.queues[record["name"]] = record
            elif kind == "sample":
                for queue, unique_key, count in record["twice"]:
                    self.wrong("S3", None, f"{count} open jobs of queue {queue} have the unique "
                                           f"key {unique_key}")
                self.counts["samples"] += 1
            elif kind == "stall":
                self.counts["stalls"] += 1
            elif kind == "nemesis":
                self.nemesis.append(record)
        self.resolve_transactions(ops, ends, undone)
        self.read_nemesis(sessions)
        if self.final.get("asynchronous"):
            self.forget_unreplicated(ops, places)
        self.ops = sorted(ops.values(), key=lambda op: op.t0)

    def resolve_transactions(self, ops, ends, undone):
        """What was said inside a transaction holds if it committed, from then on."""
        for record in undone:
            for number in range(record["after"] + 1, record["upto"] + 1):
                op = ops.get((record["p"], number))
                if op is not None:
                    op.type = "fail"
        for op in ops.values():
            if op.tx is None or op.type == "fail":
                continue
            end = ends.get((op.p, op.tx))
            if end is None:
                op.type = "info"
                continue
            op.type = end["outcome"]
            op.prepared = end.get("prepared", False)
            op.t1, op.w1 = end["t"], end["w"]

    def read_nemesis(self, sessions):
        for record in self.nemesis:
            self.counts[f"nemesis {record['f']}"] += 1
            if record["f"] == "kill":
                self.kill_time[record["e"]] = record["t"]
            elif record["f"] == "up":
                self.flushed[record["ended"]] = record["redo"]
            elif record["f"] == "kill-client":
                for session, opened in sessions.items():
                    if opened["p"] == record["victim"]:
                        self.end_session(session, record["t"])
        for session, opened in sessions.items():
            if opened["e"] in self.kill_time:
                self.end_session(session, self.kill_time[opened["e"]])

    def forget_unreplicated(self, ops, places):
        """The standby that was promoted did not have what was acknowledged behind the end of its log,
        or of which nobody knows where it was: that may have happened or not."""
        keys = {row["id"]: row["key"] for row in self.final["jobs"]}
        for op in ops.values():
            end = self.flushed.get(op.epoch)
            lsn = op.lsn if op.tx is None else places.get((op.p, op.tx))
            if end is None or op.type == "ok" and lsn is not None and lsn <= end:
                continue
            if op.f == "claim" and op.res is not None:
                # Ids that the standby never heard of are given out again, be the claim undone or not.
                op.res = [row for row in op.res if keys.get(row["job"], row["key"]) == row["key"]]
            if op.type != "ok":
                continue
            self.counts["acknowledged and not replicated"] += lsn is not None
            op.type = "info"
            if op.f in ("publish", "receive", "read"):
                op.res = None  # and so are positions

    def end_session(self, session, at):
        self.session_end[session] = min(at, self.session_end.get(session, at))

    # ---- indexing ----

    def index(self):
        self.claims = collections.defaultdict(list)  # by job
        self.by_token = {}
        self.on_token = collections.defaultdict(list)
        self.on_job = collections.defaultdict(list)  # cancel, retry
        self.enqueues = []
        for op in self.ops:
            if op.type == "ok":
                self.counts["acked"] += 1
            self.counts[f"{op.f} {op.type}"] += 1
            if op.f == "claim":
                self.add_claims(op)
            elif op.f in FENCED:
                self.on_token[op.args["token"]].append(op)
            elif op.f == "complete_many":
                self.add_completes(op)
            elif op.f in ("cancel", "retry"):
                self.on_job[op.args["job"]].append(op)
            elif op.f in ("enqueue", "enqueue_many"):
                self.enqueues.append(op)
            elif op.f == "receive":
                op.durable = self.outlives_a_crash(op)
        self.confirm_claims()
        self.jobs = collections.defaultdict(list)
        for row in self.final["jobs"]:
            self.jobs[row["id"]].append(row)
        self.effects = collections.defaultdict(list)
        for row in self.final["effects"]:
            self.effects[row["token"]].append(row)

    def outlives_a_crash(self, op):
        """Whether what did not wait for the disk had reached it, or never had to."""
        if op.prepared or op.epoch not in self.kill_time and op.type == "ok":
            return True
        flushed = self.flushed.get(op.epoch)
        return op.lsn is not None and flushed is not None and op.lsn <= flushed

    def add_claims(self, op):
        durable = self.queues[op.args["queue"]]["durable"] or self.outlives_a_crash(op)
        for row in op.res or ():
            claim = Claim(op, row["job"], row["token"], row["stage"], row["attempt"],
                          row["max_attempts"], row["until"], row["now"], durable)
            lease = op.args["lease"]
            claim.at = row["now"] if row["until"] is None else row["until"] - lease
            if row["token"] in self.by_token:
                self.wrong("S5", row["job"], f"token {row['token']} was given out twice")
            self.by_token[row["token"]] = claim
            self.claims[row["job"]].append(claim)

    def add_completes(self, op):
        for job, token, queue, stage, effect in op.args["jobs"]:
            one = dataclasses.replace(op, f="complete")
            one.args = {"job": job, "token": token, "queue": queue, "stage": stage,
                        "effect": effect, "many": True}
            if op.type == "ok":
                done = job in op.res
                one.type = "ok" if done else "fail"
                one.sqlstate = None if done else "PJ001"
                last = self.queues[queue]["stages"][-1] == stage
                one.res = ("completed" if last else "ready") if done else None
                # The answer has ids only: of two tokens of one job it does not say which it was.
                if done and op.args["on_lost"] == "skip" and \
                        sum(x[0] == job for x in op.args["jobs"]) > 1:
                    one.type = "info"
            self.on_token[token].append(one)

    def confirm_claims(self):
        """Whoever was believed by its token had claimed, and so had all before it in the log. A
        heartbeat writes nothing: it says so only of a server that has started since."""
        for token, ops in self.on_token.items():
            claim = self.by_token.get(token)
            if claim is not None and any(
                    op.type == "ok" and (op.f != "extend" or op.epoch != claim.op.epoch)
                    for op in ops):
                claim.durable = True
        for claims in self.claims.values():
            for claim in claims:
                if claim.op.type == "ok" and not claim.durable:
                    self.counts["claims that a crash may have undone"] += 1
            claims.sort(key=lambda claim: claim.at)

    def retries(self, job):
        return [op for op in self.on_job[job] if op.f == "retry" and op.may() and
                op.res is not False]

    # ---- S1, S2, S3, A1 ----

    def check_jobs(self):
        asked = {}
        refused = set()
        by_unique = collections.defaultdict(set)
        for op in self.enqueues:
            keys = op.args["keys"] if op.f == "enqueue_many" else [op.args["key"]]
            for key in keys:
                asked[key] = op
                if op.type == "fail":
                    refused.add(key)
                if op.args.get("unique_key"):
                    by_unique[(op.args["queue"], op.args["unique_key"])].add(key)
        self.check_acknowledged(by_unique)
        for job, rows in self.jobs.items():
            if len(rows) > 1:
                self.wrong("S3", job, f"is there {len(rows)} times: "
                                      f"{[row['state'] for row in rows]}")
            for row in rows:
                if row["open"]:
                    self.wrong("S3", job, f"has no final state but is {row['state']}")
                if row["key"] not in asked:
                    self.wrong("S2", job, f"nobody asked for it (key {row['key']})")
                elif row["key"] in refused:
                    self.wrong("S2", job, f"its enqueue did not happen (key {row['key']})")
        self.check_many()

    def check_acknowledged(self, by_unique):
        ids = {}
        acked = set()
        for op in self.enqueues:
            if op.type != "ok":
                continue
            many = op.f == "enqueue_many"
            if many and len(op.res) != len(op.args["keys"]):
                self.wrong("A1", None, f"{op.name}: {len(op.args['keys'])} jobs, "
                                       f"{len(op.res)} ids")
            pairs = zip(op.args["keys"], op.res) if many else [(op.args["key"], op.res)]
            unique = op.args.get("unique_key")
            for key, job in pairs:
                acked.add(job)
                rows = self.jobs.get(job)
                if not rows:
                    self.wrong("S1", job, f"acknowledged by {op.name} (key {key}) and lost")
                    continue
                good = by_unique[(op.args["queue"], unique)] if unique else {key}
                if rows[0]["key"] not in good:
                    self.wrong("S1", job, f"was added as {key} and has become {rows[0]['key']}")
                if not unique and ids.setdefault(job, key) != key:
                    self.wrong("S1", job, f"was given to {key} and to {ids[job]}")
        self.counts["jobs acknowledged"] = len(acked)
        self.counts["jobs recovered"] = len(set(self.jobs) - acked)
        for rows in self.jobs.values():
            self.counts[f"jobs {rows[0]['state']}"] += 1

    def check_many(self):
        present = collections.Counter(row["key"] for row in self.final["jobs"])
        for op in self.enqueues:
            if op.f == "enqueue_many":
                there = sum(present[key] > 0 for key in op.args["keys"])
                if there not in (0, len(op.args["keys"])):
                    self.wrong("A1", None, f"{op.name} added {there} of {len(op.args['keys'])}")

    # ---- S12 ----

    def check_once(self):
        there = collections.defaultdict(set)
        for key, job in self.final.get("once", ()):
            there[key].add(job)
        asked = collections.defaultdict(list)
        for op in self.ops:
            if op.f == "enqueue_once":
                asked[op.args["key"]].append(op)
        for key in asked | there:
            ops, jobs = asked.get(key, []), there.get(key, set())
            self.counts["jobs sent again"] += len(ops) > 1
            answers = {op.res for op in ops if op.type == "ok"}
            possible = any(op.may() for op in ops)
            if len(jobs) > possible or not answers <= jobs:
                self.wrong("S12", None, f"{key} was asked for {len(ops)} times, its answers are "
                                        f"{sorted(answers)}; there is {sorted(jobs)}")

    # ---- S4 ----

    def check_effects(self):
        for token, rows in self.effects.items():
            job = rows[0]["job"]
            if len(rows) > 1:
                self.wrong("S4", job, f"token {token} has {len(rows)} effects")
            if not any(op.f == "complete" and op.may() for op in self.on_token[token]):
                self.wrong("S4", job, f"has an effect of token {token}, whose complete did not "
                                      "happen")
        for token, ops in self.on_token.items():
            for op in ops:
                if op.f == "complete" and op.type == "ok" and op.args.get("effect") and \
                        token not in self.effects:
                    self.wrong("S4", op.args["job"], f"{op.name} committed its effect with the "
                                                     f"complete of token {token}; it is gone")
        for job, rows in self.jobs.items():
            row = rows[0]
            if row["state"] == "completed":
                self.check_completed(job, row)

    def check_completed(self, job, row):
        token = row["done_token"]
        if token not in self.executions[job]:
            self.wrong("S4", job, f"was completed by token {token}, which no worker executed")
        if not any(op.f == "complete" and op.may() for op in self.on_token[token]):
            self.wrong("S4", job, f"was completed by token {token}, whose complete did not happen")
        effects = self.effects.get(token, [])
        if row["effect"] and len(effects) != 1:
            self.wrong("S4", job, f"its accepted token {token} has {len(effects)} effects")

    # ---- S5, S7, S8, S11 ----

    def check_claims(self):
        for op in self.ops:
            if op.f == "claim" and op.res is not None and len(op.res) > op.args["n"]:
                self.wrong("S5", None, f"{op.name} asked for {op.args['n']} jobs, got "
                                       f"{len(op.res)}")
        for job, claims in self.claims.items():
            for n, claim in enumerate(claims):
                self.check_lease(claim)
                if claim.attempt > claim.max_attempts:
                    self.wrong("S5", job, f"attempt {claim.attempt} of {claim.max_attempts}")
                for before in claims[:n]:
                    if before.counts_for(claim.op):
                        self.check_pair(job, before, claim)

    def check_lease(self, claim):
        lease = claim.op.args["lease"]
        if claim.until is None:
            if lease is not None:
                self.wrong("S8", claim.job, f"{claim.op.name} asked for a lease and got none")
        elif claim.until < claim.op.w0 + lease:
            self.wrong("S8", claim.job,
                       f"{claim.op.name} got a lease that is "
                       f"{claim.op.w0 + lease - claim.until} us too short")
        until = claim.until
        for op in sorted(self.on_token[claim.token], key=lambda op: op.t1):
            if op.f != "extend" or op.type != "ok" or op.res is None:
                continue
            if until is not None and op.res < until and \
                    not self.clock.was_set_between(claim.op.t0, op.t1):
                self.wrong("S8", claim.job, f"{op.name} shortened the lease")
            if op.res < op.w0 + op.args["lease"]:
                self.wrong("S8", claim.job, f"{op.name} extended by too little")
            until = op.res

    def check_pair(self, job, before, claim):
        """Of two claims that both happened, in this order."""
        ended = [op for op in self.on_token[before.token]
                 if op.f in ENDINGS and op.may_be_seen_by(claim.op) and op.t0 <= claim.op.t1]
        cancelled = any(op.f == "cancel" and op.may() and op.res is not False and
                        op.t0 <= claim.op.t1 for op in self.on_job[job])
        retried = any(op.t0 <= claim.op.t1 and op.t1 >= before.op.t0 for op in self.retries(job))
        if not retried and claim.stage == before.stage and before.op.t1 <= claim.op.t0:
            given_back = any(op.f in ("release", "snooze") for op in ended)
            if claim.attempt < before.attempt + (not given_back):
                self.wrong("S5", job, f"attempt {claim.attempt} by {claim.op.name} follows "
                                      f"attempt {before.attempt} by {before.op.name}")
        if ended or cancelled or before.op.t1 > claim.op.t0:
            return
        lasts = INFINITY if before.until is None else before.until
        for op in self.on_token[before.token]:
            if op.f == "extend" and op.type == "ok" and op.t1 <= claim.op.t0 and op.res is not None:
                lasts = max(lasts, op.res) if lasts != INFINITY else op.res
        if claim.at >= lasts:
            self.counts["leases that expired"] += 1
            return
        if self.clock.was_set_between(before.op.t0, claim.op.t1):
            self.counts["leases whose time is not known"] += 1
            return
        if before.op.args["hold"] and \
                self.session_end.get(before.op.session, INFINITY) <= claim.op.t1:
            self.counts["sessions that ended with jobs"] += 1
            return
        self.wrong("S7", job, f"{claim.op.name} got it {(lasts - claim.at) / 1000:.1f} ms before "
                              f"the lease of {before.op.name} was over")

    def check_times(self):
        """S11: nothing is claimed before its time."""
        self.replaced = set()  # jobs and unique keys that may have got another time
        for op in self.enqueues:
            if op.args.get("on_conflict") == "replace" and op.may():
                self.replaced |= {op.res, (op.args["queue"], op.args["unique_key"])}
        for op in self.enqueues:
            delay = op.args.get("delay")
            if op.type == "ok" and delay and not op.args.get("unique_key"):
                self.not_before(op.res, op, op.w0 + delay, first=True)
        for ops in self.on_token.values():
            for op in ops:
                if op.type != "ok" or op.args.get("many"):
                    continue
                if op.f == "snooze":
                    self.not_before(op.args["job"], op, op.w0 + op.args["delay"])
                elif op.f == "fail" and op.res == "scheduled":
                    self.not_before(op.args["job"], op, op.w0 + self.shortest_wait(op))

    def shortest_wait(self, op):
        if op.args["retry_in"] is not None:
            return op.args["retry_in"]
        queue = self.queues[op.args["queue"]]
        claim = self.by_token.get(op.args["token"])
        attempt = claim.attempt if claim is not None else 1
        return min(queue["backoff"] * 2 ** (attempt - 1), queue["backoff_max"]) // 2

    def not_before(self, job, op, due, first=False):
        row = self.jobs[job][0] if self.jobs.get(job) else {"queue": None, "unique_key": None}
        if job in self.replaced or (row["queue"], row["unique_key"]) in self.replaced or \
                any(r.t1 >= op.t0 for r in self.retries(job)):
            return
        for claim in self.claims[job]:
            if (first or claim.op.t0 >= op.t1) and claim.at < due and \
                    not self.clock.was_set_between(op.t0, claim.op.t1):
                self.wrong("S11", job, f"{claim.op.name} got it {(due - claim.at) / 1000:.1f} ms "
                                       f"before the time that {op.name} set")

    # ---- S6, F3 ----

    def check_fences(self):
        for token, ops in self.on_token.items():
            claim = self.by_token.get(token)
            for op in ops:
                if op.type == "ok":
                    if claim is not None:
                        self.check_fence(claim, op, ops)
                elif op.type == "fail" and op.sqlstate == "PJ001":
                    self.counts["refusals"] += 1
                    self.counts["zombies refused"] += bool(op.args.get("zombie"))
                    self.check_refusal(op, ops)
            answers = {op.res for op in ops if op.f == "complete" and op.type == "ok"}
            if len(answers) > 1:
                self.wrong("F3", ops[0].args["job"], f"token {token} completed it with different "
                                                     f"answers: {sorted(answers)}")

    def check_fence(self, claim, op, ops):
        job = claim.job
        accepted = [x for x in ops if x.f == "complete" and x.may() and x is not op]
        if claim.op.type == "fail" and claim.op.tx != op.tx:
            self.wrong("S6", job, f"{op.name} {op.f} was accepted; the claim of its token was "
                                  "rolled back")
        if op.args["job"] != job:
            self.wrong("S6", job, f"{op.name}: the token belongs to job {job}")
        for other in self.claims[job]:
            if other.token != claim.token and other.at > claim.at and \
                    other.op.t1 <= op.t0 and other.counts_for(op) and \
                    not self.repeats(op, accepted, other.op.t1):
                self.wrong("S6", job, f"{op.name} {op.f} was accepted with the token of "
                                      f"{claim.op.name}, but {other.op.name} had claimed it since")
        for other in ops:
            if other is not op and other.f in ENDINGS and other.type == "ok" and \
                    other.t1 <= op.t0 and not (op.f == "complete" == other.f):
                self.wrong("S6", job, f"{op.name} {op.f} was accepted, but {other.name} "
                                      f"{other.f} had ended that lease")
        for other in self.on_job[job]:
            if other.f == "cancel" and other.type == "ok" and other.res and \
                    claim.op.t1 <= other.t0 and other.t1 <= op.t0 and \
                    not self.repeats(op, accepted, other.t1):
                self.wrong("S6", job, f"{op.name} {op.f} was accepted, but {other.name} had "
                                      "cancelled the job")

    @staticmethod
    def repeats(op, accepted, before):
        """Whether a complete of the same token may have happened before another call, whose answer
        came at `before`: calls that overlap may have happened in either order."""
        return op.f == "complete" and any(x.t0 <= before for x in accepted)

    def check_refusal(self, op, ops):
        """F3: what was accepted last is accepted again."""
        if op.f != "complete" or op.args.get("many"):
            return
        job = op.args["job"]
        first = [x for x in ops if x.f == "complete" and x.type == "ok" and x.t1 <= op.t0]
        if not first or self.retries(job):
            return
        others = [x for claim in self.claims[job] if claim.token != op.args["token"]
                  for x in self.on_token[claim.token] if x.f == "complete" and x.may()]
        if not others:
            self.wrong("F3", job, f"{op.name} repeated {first[0].name}, which was accepted, and "
                                  "was refused")
        self.counts["repeats refused"] += 1

    # ---- F1, F2 ----

    def final_acks(self, job):
        """Acknowledged ends of the job, the first of each token."""
        acks = []
        for claim in self.claims[job]:
            ends = [op for op in self.on_token[claim.token] if op.type == "ok" and
                    (op.f == "complete" and op.res == "completed" or
                     op.f == "fail" and op.res == "dead")]
            if ends:
                acks.append(min(ends, key=lambda op: op.t1))
        acks += [op for op in self.on_job[job] if op.f == "cancel" and op.type == "ok" and op.res]
        return acks

    def check_endings(self):
        for job in set(self.claims) | set(self.on_job):
            retries = self.retries(job)
            acks = self.final_acks(job)
            if len(acks) > 1 + len(retries):
                self.wrong("F1", job, f"has {len(acks)} acknowledged ends and {len(retries)} "
                                      f"retries: {[f'{op.name} {op.f}' for op in acks]}")
            self.check_completions(job, retries)
            if retries:
                self.counts["jobs retried by hand"] += 1
                continue
            for ack in acks:
                self.check_end(job, ack)

    def check_end(self, job, ack):
        state = "cancelled" if ack.f == "cancel" else ack.res
        for row in self.jobs.get(job, ()):
            if row["state"] != state:
                self.wrong("F1", job, f"{ack.name} was told {state}; at the end it is "
                                      f"{row['state']}")
            elif ack.f == "complete" and row["done_token"] != ack.args["token"]:
                self.wrong("F1", job, f"was completed by token {ack.args['token']}; at the end "
                                      f"it is {row['done_token']}")
        for claim in self.claims[job]:
            if claim.op.t0 >= ack.t1:
                self.wrong("F1", job, f"{claim.op.name} got it after its end ({ack.name} {ack.f})")

    def check_completions(self, job, retries):
        """One accepted token per stage, and no way back."""
        accepted = {}
        for claim in self.claims[job]:
            done = [op for op in self.on_token[claim.token]
                    if op.f == "complete" and op.type == "ok"]
            if done:
                accepted[claim.token] = min(done, key=lambda op: op.t1)
        stages = collections.Counter(op.args["stage"] for op in accepted.values())
        for stage, count in stages.items():
            if count > 1 + len(retries):
                self.wrong("F1", job, f"stage {stage} was completed by {count} tokens, with "
                                      f"{len(retries)} retries")
        if retries:
            return
        for op in accepted.values():
            order = self.queues[op.args["queue"]]["stages"]
            for claim in self.claims[job]:
                if claim.op.t0 >= op.t1 and \
                        order.index(claim.stage) <= order.index(op.args["stage"]):
                    self.wrong("F2", job, f"{claim.op.name} got it in stage {claim.stage} after "
                                          f"{op.name} had completed stage {op.args['stage']}")

    # ---- S9 ----

    def check_attempts(self):
        for job, rows in self.jobs.items():
            row = rows[0]
            self.counts["attempts expired"] += sum(
                a["outcome"] == "expired" for a in row["attempts"])
            self.counts["attempts failed"] += sum(a["outcome"] == "failed" for a in row["attempts"])
            self.counts["executions more than once"] += max(0, len(self.executions[job]) -
                                                            len({c.stage for c in self.claims[job]}))
            self.check_workers(job, row)
            if not self.retries(job):
                self.check_attempt_count(job, row)
            if row["state"] == "dead" and row["attempt"] < row["max_attempts"] and \
                    not any(op.f == "fail" and op.may() and not op.args["retry"]
                            for claim in self.claims[job] for op in self.on_token[claim.token]):
                self.wrong("S9", job, f"is dead after attempt {row['attempt']} of "
                                      f"{row['max_attempts']}, and nobody asked for that")
            if row["state"] == "cancelled" and \
                    not any(op.f == "cancel" and op.may() for op in self.on_job[job]):
                self.wrong("S9", job, "is cancelled, and nobody asked for that")

    def claim_ops(self):
        if not hasattr(self, "_claim_ops"):
            self._claim_ops = {op.name: op for op in self.ops if op.f == "claim"}
        return self._claim_ops

    def check_workers(self, job, row):
        """Every recorded attempt was begun by a claim that happened, or may have."""
        for attempt in row["attempts"]:
            op = self.claim_ops().get(attempt["worker"])
            if op is None:
                self.wrong("S9", job, f"has an attempt of {attempt['worker']}, who never claimed")
            elif op.type == "fail":
                self.wrong("S9", job, f"has an attempt of {op.name}, whose claim did not happen")
            elif op.type == "ok" and not any(r["job"] == job for r in op.res):
                self.wrong("S9", job, f"has an attempt of {op.name}, who did not get it")

    def count_undone(self):
        """Claims that somebody had, and that a crash took back."""
        for claims in self.claims.values():
            for before, claim in zip(claims, claims[1:]):
                self.counts["claims that a crash took back"] += (
                    before.op.type == "ok" and not before.durable
                    and before.op.epoch != claim.op.epoch and before.stage == claim.stage
                    and before.attempt >= claim.attempt)

    def check_attempt_count(self, job, row):
        claims = [c for c in self.claims[job] if c.stage == row["stage"]]
        happened = {c.op.name for c in claims if c.op.type == "ok" and c.durable}
        possible = {c.op.name for c in claims if c.op.may()} | {
            a["worker"] for a in row["attempts"] if a["stage"] in (None, row["stage"])}
        back = collections.Counter()
        for claim in claims:
            backs = [op for op in self.on_token[claim.token]
                     if op.f in ("release", "snooze") and op.may()]
            if backs:
                sure = claim.op.name in happened and any(op.type == "ok" for op in backs)
                back["sure" if sure else "possible"] += 1
        low = len(happened) - back["sure"] - back["possible"]
        high = len(possible) - back["sure"]
        if not low <= row["attempt"] <= high:
            self.wrong("S9", job, f"is at attempt {row['attempt']}; {len(happened)} claims "
                                  f"happened, {len(possible) - len(happened)} may have, "
                                  f"{back['sure']} were given back")

    # ---- L1 ----

    def check_orders(self):
        """A job's own history; what it was asked for under a unique key is somebody else's too."""
        added = collections.defaultdict(list)
        by_key = collections.defaultdict(list)  # a unique key with its queue, too: jobs are replaced
        for op in self.enqueues:
            many = op.f == "enqueue_many"
            if op.type == "ok":
                for job in op.res if many else [op.res]:
                    added[job].append(op)
            elif op.type == "info":
                unique = op.args.get("unique_key")
                for key in [(op.args["queue"], unique)] if unique else \
                        op.args["keys"] if many else [op.args["key"]]:
                    by_key[key].append(op)
        ghosts = collections.defaultdict(list)
        for op in self.ops:
            if op.f == "claim" and op.type == "info" and op.res is None:
                ghosts[op.args["queue"]].append(op.t0)
        for job, rows in self.jobs.items():
            row = rows[0]
            if len(rows) > 1 or row["open"]:
                continue  # that is wrong enough
            enqueues = added[job] + by_key.get(row["key"], []) + \
                by_key.get((row["queue"], row["unique_key"]), [])
            wrong = linear.possible(list(self.events(job, row, enqueues)),
                                    self.facts(job, row, ghosts[row["queue"]]))
            self.counts["operations in order"] += not wrong
            if wrong:
                self.wrong("L1", job, wrong)

    def facts(self, job, row, ghosts):
        claims = {claim.token: claim for claim in self.claims[job] if claim.op.may()}
        ends = {}
        for token, claim in claims.items():
            session = INFINITY
            until = claim.until
            if claim.op.args["hold"]:
                session = self.session_end.get(claim.op.session, INFINITY)
                extended = any(op.f == "extend" and op.may() for op in self.on_token[token])
                until = claim.now if extended else until
            if self.clock.records:
                until = claim.now  # nobody knows when it was over
            ends[token] = (INFINITY if until is None else until, session)
        undone = {token: self.kill_time[claim.op.epoch] for token, claim in claims.items()
                  if claim.op.epoch in self.kill_time and not claim.durable}
        most_attempts = [row["max_attempts"]] + [claim.max_attempts for claim in claims.values()]
        return linear.Facts(self.queues[row["queue"]]["stages"], claims, ghosts, ends, undone,
                            most_attempts)

    def events(self, job, row, enqueues):
        for op in enqueues:
            yield event_of(op, "enqueue")
        for claim in self.claims[job]:
            if claim.op.may():
                yield event_of(claim.op, "claim", claim)
                for op in self.on_token[claim.token]:
                    if op.may():
                        yield event_of(op, op.f)
                    elif op.sqlstate == "PJ001" and op.tx is None:
                        yield event_of(op, "refused", sure=True)
        for op in self.on_job[job]:
            if op.may():
                yield event_of(op, "no" if op.res is False else op.f)
        yield linear.Event(INFINITY, INFINITY, INFINITY, True, "end", None, row)

    # ---- all ----

    def check_topics(self):
        if "log" in self.final:
            topic_checker.Topics(self, topic_history.SUBSCRIPTIONS).check(topic_history.COPIES[1])

    def check(self):
        self.check_jobs()
        self.check_once()
        self.check_effects()
        self.check_claims()
        self.check_times()
        self.check_fences()
        self.check_endings()
        self.check_attempts()
        self.count_undone()
        self.check_orders()
        self.check_topics()
        return Result(self.counts, self.errors, self.violations)


def event_of(op, f, what=None, sure=None):
    """For linear.py. What nobody knows of may happen late, or never."""
    sure = op.type == "ok" if sure is None else sure
    return linear.Event(op.t0, op.t1 if sure else INFINITY, op.w1 if sure else INFINITY, sure, f,
                        op, what)


def check(records, final):
    return Checker(records, final).check()


def story(records, final, job):
    """Every record that names the job, in order, for a person to read."""
    tokens = set()
    ops = {}
    lines = []
    for record in sorted(records, key=lambda r: r["t"]):
        key = (record["p"], record.get("i"))
        text = json.dumps(record)
        if record["type"] == "invoke":
            ops[key] = record
            if record["args"].get("job") == job or any(
                    x[0] == job for x in record["args"].get("jobs", ())):
                lines.append(text)
        elif record["type"] in ("ok", "fail", "info") and key in ops:
            asked = ops[key]
            got = [r for r in record.get("res") or () if isinstance(r, dict) and r["job"] == job] \
                if asked["f"] == "claim" else []
            named = asked["f"].startswith("enqueue") and (
                record.get("res") == job or
                isinstance(record.get("res"), list) and job in record["res"])
            if got or named:
                lines.append(json.dumps(asked))
                tokens.update(r["token"] for r in got)
                lines.append(json.dumps({**record, "res": got} if got else record))
            elif asked["args"].get("job") == job or any(
                    x[0] == job for x in asked["args"].get("jobs", ())):
                lines.append(text)
        elif record["type"] == "nemesis" or record.get("job") == job:
            lines.append(text)
    lines += [json.dumps({"final": row}) for row in final["jobs"] if row["id"] == job]
    lines += [json.dumps({"effect": row}) for row in final["effects"] if row["job"] == job]
    return lines

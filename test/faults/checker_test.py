#!/usr/bin/python3
"""The checker against histories made by hand: a correct one passes, and each way in which pgjobs
could break a promise is caught by the rule that names it. Needs no server.

    test/faults/checker_test.py
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import checker  # noqa: E402

LEASE = 1_000_000
MS = 1000  # us


class History:
    """Writes records with a clock that moves by a millisecond with each, and the final tables."""

    def __init__(self):
        self.records = []
        self.final = {"jobs": [], "effects": []}
        self.now = 1_000_000_000  # us
        self.number = 0
        self.epoch = 1
        self.write("nemesis", type="queue", name="q", stages=["one", "two"], lease=LEASE,
                   durable=False, backoff=200 * MS, backoff_max=1000 * MS)
        self.write("nemesis", type="queue", name="d", stages=["work"], lease=LEASE, durable=True,
                   backoff=200 * MS, backoff_max=1000 * MS)
        self.sessions()

    def write(self, process, **record):
        self.now += MS
        self.records.append({"p": process, "t": self.now * 1000, "w": self.now, **record})
        return self.records[-1]

    def sessions(self):
        for process in (1, 2, 3):
            self.write(process, type="session", s=f"{process}:{self.epoch}", e=self.epoch, pid=1)

    def sleep(self, us):
        self.now += us

    def op(self, process, f, args, res=None, outcome="ok", sqlstate=None, tx=None, **more):
        """Returns the records; the result may be a function of the time of the invocation."""
        self.number += 1
        number = self.number
        invoke = self.write(process, type="invoke", i=number, f=f, s=f"{process}:{self.epoch}",
                            e=self.epoch, tx=tx, args=args)
        answer = res(invoke["w"] + MS // 2, number) if callable(res) else res
        if outcome is None:
            return invoke, None
        done = {"type": outcome, "i": number, **more}
        if outcome == "ok":
            done["res"] = answer
        else:
            done["sqlstate"] = sqlstate
        return invoke, self.write(process, **done)

    def enqueue(self, job, key=None, process=1, queue="q", **more):
        args = {"queue": queue, "key": key or f"k{job}", "delay": None, "unique_key": None,
                **more.pop("args", {})}
        return self.op(process, "enqueue", args, job, **more)

    def claim(self, job, token, attempt=1, stage="one", process=1, queue="q", lease=LEASE,
              hold=False, shorter=0, lsn=None, **more):
        def rows(now, _):
            return [{"job": job, "token": token, "stage": stage, "attempt": attempt,
                     "max_attempts": 3, "key": f"k{job}", "effect": False, "now": now,
                     "until": None if lease is None else now + lease - shorter}]

        args = {"queue": queue, "n": 1, "stage": None, "lease": lease, "hold": hold}
        invoke, done = self.op(process, "claim", args, rows, **more)
        if lsn is not None:
            self.write(process, type="lsn", i=done["i"], lsn=lsn)
        return f"{process}:{invoke['i']}"

    def call(self, f, job, token, res=None, process=1, stage="one", queue="q", **more):
        args = {"job": job, "token": token, "stage": stage, "queue": queue, **more.pop("args", {})}
        return self.op(process, f, args, res, **more)

    def complete(self, job, token, res="ready", process=1, **more):
        self.write(process, type="exec", job=job, token=token)
        return self.call("complete", job, token, res, process, **more)

    def refused(self, f, job, token, **more):
        return self.call(f, job, token, outcome="fail", sqlstate="PJ001", **more)

    def manage(self, f, job, res=True, process=2, **more):
        return self.op(process, f, {"job": job}, res, **more)

    def crash(self, redo):
        self.write("nemesis", type="nemesis", f="kill", mode="group", e=self.epoch)
        self.write("nemesis", type="nemesis", f="up", ended=self.epoch, epoch=self.epoch + 1,
                   redo=redo)
        self.epoch += 1
        self.sessions()

    def end(self, job, state="completed", token=None, stage="two", attempt=1, attempts=(),
            key=None, effect=False, **more):
        """A row of the final tables. attempts: (stage, worker, outcome)."""
        self.final["jobs"].append({
            "id": job, "queue": "q", "stage": stage, "state": state, "attempt": attempt,
            "max_attempts": 3, "key": key or f"k{job}", "effect": effect, "unique_key": None,
            "worker": None, "done_token": token, "open": state in ("ready", "running"),
            "attempts": [dict(zip(("stage", "worker", "outcome"), a)) for a in attempts], **more})

    def effect(self, job, token):
        self.final["effects"].append({"job": job, "stage": "two", "token": token})

    # ---- topics ----

    def publish(self, position, key=None, process=1, **more):
        """In the log too, unless it is said not to have happened."""
        key = key or f"m{position}"
        if more.get("outcome", "ok") == "ok":
            self.final.setdefault("log", []).append(("alerts", position, key))
        return self.op(process, "publish", {"topic": "alerts", "keys": [key]}, [position], **more)

    def receive(self, positions, token, process=2, after=None, lsn=None):
        args = {"subscription": "pager", "n": 9, "lease": LEASE, "token": after}
        _, done = self.op(process, "receive", args, [
            {"position": n, "key": f"m{n}", "token": token} for n in positions])
        if lsn is not None:
            self.write(process, type="lsn", i=done["i"], lsn=lsn)

    def ack(self, token, up_to, process=2, **more):
        return self.op(process, "ack", {"subscription": "pager", "token": token, "up_to": up_to},
                       **more)

    def at_position(self, position):
        """What the view shows, now and at the end."""
        self.write("nemesis", type="sample", twice=[], processes={}, positions={"pager": position})
        self.final["positions"] = {"pager": position}

    def rules(self):
        return {rule for rule, _, _ in checker.check(self.records, self.final).violations}


# ---- histories without a fault ----


def simple(history, job=1, token=10):
    """Enqueue, two stages, an expired lease, a zombie refused, a repeat: what happens every day."""
    history.enqueue(job)
    first = history.claim(job, token)
    history.sleep(2 * LEASE)
    second = history.claim(job, token + 1, attempt=2, process=2)
    history.refused("complete", job, token)
    history.call("extend", job, token + 1, lambda now, _: now + LEASE, process=2,
                 args={"lease": LEASE})
    history.complete(job, token + 1, process=2)
    history.complete(job, token + 1, process=2)
    third = history.claim(job, token + 2, stage="two", process=3)
    history.complete(job, token + 2, "completed", process=3, stage="two", args={"effect": True})
    history.effect(job, token + 2)
    history.end(job, token=token + 2, effect=True, attempts=[
        ("one", first, "expired"), ("one", second, "completed"), ("two", third, "completed")])
    return history


def good_simple(history):
    simple(history)


def good_async_claim_undone(history):
    """A claim that did not wait for the disk is undone by a crash: same attempt, early, again."""
    history.enqueue(1)
    history.claim(1, 10, lsn=500)
    history.crash(redo=400)
    second = history.claim(1, 11, process=2)
    history.refused("complete", 1, 10)
    history.complete(1, 11, process=2)
    third = history.claim(1, 12, stage="two")
    history.complete(1, 12, "completed", stage="two")
    history.end(1, token=12, attempts=[("one", second, "completed"), ("two", third, "completed")])


def good_reaping_undone(history):
    """The crash takes back a claim and the reaping before it: the lease before is good again."""
    history.enqueue(1)
    first = history.claim(1, 10, lsn=300)
    history.sleep(2 * LEASE)
    history.claim(1, 11, attempt=2, process=2, lsn=500)
    history.crash(redo=400)
    history.complete(1, 10)
    second = history.claim(1, 12, stage="two")
    history.complete(1, 12, "completed", stage="two")
    history.end(1, token=12, attempts=[("one", first, "completed"), ("two", second, "completed")])


def good_last_claim_undone(history):
    """The crash takes back a claim, but not the one before, and not its reaping."""
    history.enqueue(1)
    first = history.claim(1, 10)
    history.sleep(2 * LEASE)
    history.claim(1, 11, attempt=2, process=2)
    history.crash(redo=0)
    second = history.claim(1, 12, attempt=2)
    history.complete(1, 12)
    third = history.claim(1, 13, stage="two")
    history.complete(1, 13, "completed", stage="two")
    history.end(1, token=13, attempts=[("one", first, "expired"), ("one", second, "completed"),
                                       ("two", third, "completed")])


def good_unknown_complete(history):
    """The answer of a complete is lost with the server; it had happened, and is repeated."""
    history.enqueue(1, queue="d")
    worker = history.claim(1, 10, queue="d", stage="work")
    history.complete(1, 10, outcome="info", queue="d", stage="work")
    history.crash(redo=900)
    history.complete(1, 10, "completed", queue="d", stage="work")
    history.end(1, queue="d", token=10, stage="work", attempts=[("work", worker, "completed")])


def good_claim_overlaps_complete(history):
    """A claim is sent before the complete that hands it the next stage; then that is repeated."""
    history.enqueue(1)
    first = history.claim(1, 10)
    args = {"queue": "q", "n": 1, "stage": None, "lease": LEASE, "hold": False}
    invoke, _ = history.op(2, "claim", args, outcome=None)
    history.complete(1, 10, outcome="info")
    now = history.now
    history.write(2, type="ok", i=invoke["i"], res=[
        {"job": 1, "token": 11, "stage": "two", "attempt": 1, "max_attempts": 3, "key": "k1",
         "effect": False, "now": now, "until": now + LEASE}])
    history.complete(1, 10)
    history.complete(1, 11, "completed", process=2, stage="two")
    history.end(1, token=11, attempts=[("one", first, "completed"),
                                       ("two", f"2:{invoke['i']}", "completed")])


def good_hold_ends_with_session(history):
    history.enqueue(1)
    first = history.claim(1, 10, lease=None, hold=True)
    history.write(1, type="close", s="1:1")
    second = history.claim(1, 11, attempt=2, process=2)
    history.call("fail", 1, 11, "dead", process=2, args={"retry": False, "retry_in": None})
    history.end(1, "dead", stage="one", attempt=2,
                attempts=[("one", first, "expired"), ("one", second, "failed")])


def good_retry_by_hand(history):
    history.enqueue(1)
    worker = history.claim(1, 10)
    history.call("fail", 1, 10, "dead", args={"retry": False, "retry_in": None})
    history.manage("retry", 1)
    again = history.claim(1, 11)
    history.call("release", 1, 11)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0, attempts=[("one", worker, "failed")])
    assert again


def good_replaced(history):
    """A replacing enqueue gives the job another time."""
    unique = {"unique_key": "u"}
    history.enqueue(1, args={"delay": 500 * MS, **unique})
    history.claim(1, 10, outcome="info")
    history.enqueue(1, key="k1b", args={"on_conflict": "replace", **unique})
    history.claim(1, 11)
    history.call("fail", 1, 11, "scheduled", args={"retry": True, "retry_in": 500 * MS})
    history.enqueue(1, key="k1c", args={"on_conflict": "replace", **unique})
    history.claim(1, 12, attempt=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2, key="k1c", unique_key="u")


def good_replaced_whose_answer_was_lost(history):
    unique = {"unique_key": "u"}
    history.enqueue(1, outcome="info", args=unique)
    history.claim(1, 10)
    history.call("release", 1, 10)
    history.enqueue(1, key="k1b", args={"on_conflict": "replace", **unique})
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0, key="k1b", unique_key="u")


def good_id_of_an_unreplicated_job(history):
    """The primary's last jobs are not on the standby, which gives their ids to others."""
    history.final["asynchronous"] = True
    history.enqueue(1)
    history.claim(1, 10, tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.crash(redo=400)
    history.enqueue(1, key="k2", args={"delay": 500 * MS})
    history.sleep(600 * MS)
    worker = history.claim(1, 11, process=2)
    history.complete(1, 11, process=2)
    last = history.claim(1, 12, stage="two")
    history.complete(1, 12, "completed", stage="two")
    history.end(1, token=12, key="k2", attempts=[("one", worker, "completed"), ("two", last, "completed")])


def send(history, answer=7, **more):
    history.op(1, "enqueue_once", {"key": "o"}, answer, **more)


def good_sent_again(history):
    send(history, outcome="info")
    history.crash(redo=100)
    send(history)
    history.final["once"] = [("o", 7)]


def good_rolled_back_claim(history):
    """A claim rolled back with its transaction counts no attempt, and leaves no lease."""
    history.enqueue(1)
    history.claim(1, 10, tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.claim(1, 11, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def good_rolled_back_together(history):
    """A transaction completes a job, claims its next stage, and is rolled back."""
    history.enqueue(1)
    history.claim(1, 10)
    history.complete(1, 10, tx=77)
    history.claim(1, 11, stage="two", tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def read_along(history, upto=4):
    """Publishing, a batch, a reader who is late and is refused, another batch, a repeated ack."""
    for position in range(1, 4):
        history.publish(position)
    history.receive([1, 2], 20)
    history.sleep(2 * LEASE)
    history.receive([1, 2, 3], 21, process=3)
    history.ack(20, 2, outcome="fail", sqlstate="PJ001")
    history.publish(4)
    history.ack(21, 3, process=3)
    history.ack(21, 3, process=3)
    history.at_position(3)
    if upto == 4:
        history.receive([4], 22)
        history.ack(22, 4)
        history.at_position(4)


def good_read_along(history):
    read_along(history)


def good_goes_on(history):
    """Two batches under one lease, acknowledged together."""
    for position in (1, 2, 3):
        history.publish(position)
    history.receive([1], 20)
    history.receive([2, 3], 20, after=20)
    history.ack(20, 3)
    history.at_position(3)


def good_lease_undone(history):
    """A crash takes a reader's lease back; somebody else receives at once."""
    history.publish(1)
    history.receive([1], 20, lsn=500)
    history.crash(redo=400)
    history.receive([1], 21, process=3)
    history.ack(20, 1, outcome="fail", sqlstate="PJ001")
    history.ack(21, 1, process=3)
    history.at_position(1)


def good_unknown_publish_and_ack(history):
    history.publish(1, outcome="info")
    history.final["log"] = [("alerts", 1, "m1")]
    history.publish(3)
    history.receive([1, 3], 20)
    history.ack(20, 1, outcome="info")
    history.crash(redo=900)
    history.receive([3], 21)
    history.ack(21, 3)
    history.at_position(3)


# ---- faults ----


def lost_job(history):
    simple(history)
    history.enqueue(2)


def lost_by_crash(history):
    """The enqueue was acknowledged before its commit was safe."""
    history.enqueue(2)
    history.crash(redo=0)
    simple(history)


def job_from_nowhere(history):
    simple(history)
    history.end(9, "dead", attempt=3)


def refused_enqueue_happened(history):
    simple(history)
    history.enqueue(None, key="kx", outcome="fail", sqlstate="23505")
    history.end(2, "dead", key="kx", attempt=3)


def rolled_back_enqueue_happened(history):
    simple(history)
    history.enqueue(2, tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.end(2, "dead", attempt=3)


def savepoint_enqueue_happened(history):
    simple(history)
    history.enqueue(2, tx=77)
    history.write(1, type="undo", after=history.number - 1, upto=history.number)
    history.write(1, type="end", tx=77, outcome="ok")
    history.end(2, "dead", attempt=3)


def final_twice(history):
    simple(history)
    history.final["jobs"].append(dict(history.final["jobs"][0]))


def still_open(history):
    simple(history)
    history.enqueue(2)
    history.end(2, "running", attempt=1)


def unique_key_twice(history):
    simple(history)
    history.write("nemesis", type="sample", twice=[["q", "u1", 2]], processes={})


def two_jobs_one_id(history):
    simple(history)
    history.enqueue(1, key="k1b", process=3)


def part_of_many(history):
    simple(history)
    history.op(1, "enqueue_many", {"queue": "q", "keys": ["m1", "m2"]}, outcome="info")
    history.end(5, "dead", attempt=3, key="m1")


def duplicate_completion(history):
    """Two workers, two tokens, one job, both told that they had completed it."""
    history.enqueue(1, queue="d")
    first = history.claim(1, 10, queue="d", stage="work")
    history.sleep(2 * LEASE)
    second = history.claim(1, 11, attempt=2, queue="d", stage="work", process=2)
    history.complete(1, 11, "completed", process=2, queue="d", stage="work")
    history.complete(1, 10, "completed", queue="d", stage="work")
    history.end(1, token=10, stage="work", attempt=2,
                attempts=[("work", first, "expired"), ("work", second, "completed")])


def zombie(history, f="complete", res="ready", **args):
    """After the lease was over and the job claimed again, the first worker is believed."""
    history.enqueue(1)
    history.claim(1, 10)
    history.sleep(2 * LEASE)
    history.claim(1, 11, attempt=2, process=2)
    history.write(1, type="exec", job=1, token=10)
    history.call(f, 1, 10, res, args=args)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def zombie_extends(history):
    zombie(history, "extend", lambda now, _: now + LEASE, lease=LEASE)


def zombie_fails(history):
    zombie(history, "fail", "scheduled", retry=True, retry_in=0)


def zombie_releases(history):
    zombie(history, "release", None)


def many_with_an_old_token(history, on_lost="error"):
    """complete_many with two tokens of one job, one of them spent, says that both were right."""
    history.enqueue(1)
    history.claim(1, 10)
    history.call("release", 1, 10)
    history.claim(1, 11)
    history.op(1, "complete_many", {"on_lost": on_lost, "jobs": [
        [1, token, "q", "one", False] for token in (10, 11)]}, [1])
    history.manage("cancel", 1)
    history.end(1, "cancelled", attempt=0)


def good_many_with_an_old_token(history):
    """It may leave out the spent one."""
    many_with_an_old_token(history, "skip")


def token_after_release(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.call("release", 1, 10)
    history.call("progress", 1, 10)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0)


def token_after_cancel(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.manage("cancel", 1)
    history.call("progress", 1, 10)
    history.end(1, "cancelled", stage="one", attempt=1)


def token_of_rolled_back_claim(history):
    history.enqueue(1)
    history.claim(1, 10, tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.call("progress", 1, 10)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0)


def token_twice(history):
    """As after a crash with tokens that are counted instead of drawn."""
    history.enqueue(1)
    history.enqueue(2)
    history.claim(1, 10)
    history.crash(redo=0)
    history.claim(2, 10, process=2)
    history.manage("cancel", 1)
    history.manage("cancel", 2)
    history.end(1, "cancelled", stage="one", attempt=0)
    history.end(2, "cancelled", stage="one", attempt=1)


def shortened_lease(history):
    history.enqueue(1)
    history.claim(1, 10, shorter=5 * MS)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def extend_shortens(history):
    history.enqueue(1)
    history.claim(1, 10, lease=3 * LEASE)
    history.call("extend", 1, 10, lambda now, _: now + LEASE, args={"lease": LEASE})
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def early_reclaim(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.sleep(LEASE // 2)
    history.claim(1, 11, attempt=2, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def early_reclaim_after_extend(history):
    """The reaper saw the old end of a lease that had been extended."""
    history.enqueue(1)
    history.claim(1, 10)
    history.call("extend", 1, 10, lambda now, _: now + 3 * LEASE, args={"lease": 3 * LEASE})
    history.sleep(2 * LEASE)
    history.claim(1, 11, attempt=2, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def early_reclaim_after_crash(history):
    """With durable_claims no crash undoes a claim."""
    history.enqueue(1, queue="d")
    history.claim(1, 10, queue="d", stage="work")
    history.crash(redo=0)
    history.claim(1, 11, attempt=2, queue="d", stage="work", process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="work", attempt=2)


def early_reclaim_of_flushed(history):
    """Without them, what was flushed before the crash must hold all the same."""
    history.enqueue(1)
    history.claim(1, 10, lsn=300)
    history.crash(redo=400)
    history.claim(1, 11, attempt=2, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def held_job_given_away(history):
    history.enqueue(1)
    history.claim(1, 10, lease=None, hold=True)
    history.sleep(5 * LEASE)
    history.claim(1, 11, attempt=2, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def attempt_not_counted(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.sleep(2 * LEASE)
    history.claim(1, 11, attempt=1, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def too_many_claimed(history):
    history.enqueue(1)
    invoke, done = history.op(1, "claim", {"queue": "q", "n": 1, "stage": None, "lease": LEASE,
                                           "hold": False}, [])
    done["res"] = [{"job": 1, "token": token, "stage": "one", "attempt": 1, "max_attempts": 3,
                    "key": "k1", "effect": False, "now": invoke["w"], "until": invoke["w"] + LEASE}
                   for token in (10, 11)]
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def no_execution(history):
    simple(history)
    history.records[:] = [r for r in history.records if r["type"] != "exec"]


def effect_lost(history):
    simple(history)
    history.final["effects"].clear()


def effect_twice(history):
    simple(history)
    history.effect(1, 12)


def effect_without_complete(history):
    simple(history)
    history.effect(1, 10)


def other_token_at_the_end(history):
    simple(history)
    history.final["jobs"][0]["done_token"] = 11


def completed_came_back(history):
    simple(history)
    history.final["jobs"][0]["state"] = "dead"
    history.final["jobs"][0]["attempt"] = 3


def claimed_after_the_end(history):
    simple(history)
    history.claim(1, 13, stage="two", attempt=2)


def stage_went_back(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.complete(1, 10)
    history.crash(redo=900)
    history.claim(1, 11, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def cancelled_ran_on(history):
    history.enqueue(1)
    history.manage("cancel", 1)
    history.claim(1, 10)
    history.complete(1, 10)
    history.claim(1, 11, stage="two")
    history.complete(1, 11, "completed", stage="two")
    history.end(1, token=11)


def repeat_refused(history):
    history.enqueue(1, queue="d")
    worker = history.claim(1, 10, queue="d", stage="work")
    history.complete(1, 10, "completed", queue="d", stage="work")
    history.refused("complete", 1, 10, queue="d", stage="work")
    history.end(1, token=10, stage="work", attempts=[("work", worker, "completed")])


def repeat_answers_otherwise(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.complete(1, 10, "ready")
    history.manage("cancel", 1)
    history.complete(1, 10, "completed")
    history.end(1, "cancelled", attempt=0)


def claimed_too_early(history):
    history.enqueue(1, args={"delay": 500 * MS})
    history.claim(1, 10)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def backoff_too_short(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.call("fail", 1, 10, "scheduled", args={"retry": True, "retry_in": None})
    history.claim(1, 11, attempt=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=2)


def snooze_too_short(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.call("snooze", 1, 10, args={"delay": 500 * MS})
    history.claim(1, 11)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def dead_too_soon(history):
    history.enqueue(1)
    worker = history.claim(1, 10)
    history.end(1, "dead", stage="one", attempt=1, attempts=[("one", worker, "expired")])


def attempts_lost(history):
    history.enqueue(1)
    history.claim(1, 10)
    history.sleep(2 * LEASE)
    history.claim(1, 11, attempt=2, process=2)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=1)


def attempt_of_rolled_back_claim(history):
    history.enqueue(1)
    worker = history.claim(1, 10, tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0, attempts=[("one", worker, "expired")])


def internal_error(history):
    simple(history)
    history.call("progress", 1, 12, outcome="fail", sqlstate="XX000")


# ---- L1: what no other rule looks at ----


def spurious_refusal(history):
    """The token is the current one, the lease lasts, and the call is refused."""
    history.enqueue(1)
    worker = history.claim(1, 10)
    history.refused("extend", 1, 10)
    history.complete(1, 10)
    again = history.claim(1, 11, stage="two")
    history.complete(1, 11, "completed", stage="two")
    history.end(1, token=11, attempts=[("one", worker, "completed"), ("two", again, "completed")])


def cancel_finds_nothing(history):
    """cancel says that there is no open job, while there is one."""
    history.enqueue(1)
    history.manage("cancel", 1, res=False)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0)


def retried_while_open(history):
    history.enqueue(1)
    history.manage("retry", 1)
    history.manage("cancel", 1)
    history.end(1, "cancelled", stage="one", attempt=0)


def stage_skipped(history):
    history.enqueue(1)
    worker = history.claim(1, 10)
    history.complete(1, 10, "completed")
    again = history.claim(1, 11, stage="two")
    history.complete(1, 11, "completed", stage="two")
    history.end(1, token=11, stage="one", attempts=[("one", worker, "completed"),
                                                    ("two", again, "completed")])


# ---- topics ----


def message_lost(history):
    read_along(history)
    history.final["log"].pop(0)


def message_elsewhere(history):
    read_along(history)
    history.op(1, "publish", {"topic": "alerts", "keys": ["x"]}, [9])
    history.final["log"].append(("alerts", 10, "x"))


def message_from_nowhere(history):
    read_along(history)
    history.final["log"].append(("alerts", 9, "x"))


def message_twice(history):
    read_along(history)
    history.final["log"].append(("alerts", 9, "m4"))


def rolled_back_message(history):
    read_along(history)
    history.publish(9, tx=77)
    history.write(1, type="end", tx=77, outcome="fail")


def position_twice(history):
    """The transaction that had it first is rolled back; a reader may have seen it all the same."""
    history.publish(1, key="x", tx=77)
    history.write(1, type="end", tx=77, outcome="fail")
    history.final["log"].clear()
    history.publish(1)


def position_goes_back(history):
    history.publish(2)
    history.publish(1)


def gap_in_batch(history):
    """The reader trusts the highest position: what was under way is never seen."""
    for position in (1, 2, 3):
        history.publish(position)
    history.receive([1, 3], 20)
    history.ack(20, 3)
    history.at_position(3)


def gap_before_batch(history):
    for position in (1, 2, 3):
        history.publish(position)
    history.receive([1], 20)
    history.ack(20, 1)
    history.receive([3], 21)
    history.ack(21, 3)
    history.at_position(3)


def gap_under_a_lease(history):
    for position in (1, 2, 3):
        history.publish(position)
    history.receive([1], 20)
    history.receive([3], 20, after=20)
    history.ack(20, 3)
    history.at_position(3)


def gap_in_reading(history):
    read_along(history)
    history.op(1, "read", {"topic": "alerts", "after": 1},
               [{"position": 3, "key": "m3"}, {"position": 4, "key": "m4"}])


def other_message(history):
    read_along(history)
    history.op(1, "read", {"topic": "alerts", "after": 3}, [{"position": 4, "key": "x"}])


def disordered_batch(history):
    history.publish(1)
    history.publish(2)
    history.receive([2, 1], 20)
    history.ack(20, 2)
    history.at_position(2)


def again_after_ack(history):
    read_along(history)
    history.receive([4], 23)


def position_lower(history):
    read_along(history)
    history.at_position(2)
    history.at_position(4)


def two_readers(history):
    history.publish(1)
    history.receive([1], 20)
    history.receive([1], 21, process=3)
    history.ack(21, 1, process=3)
    history.at_position(1)


def two_readers_after_crash(history):
    """The lease had reached the disk."""
    history.publish(1)
    history.receive([1], 20, lsn=300)
    history.crash(redo=400)
    history.receive([1], 21, process=3)
    history.ack(21, 1, process=3)
    history.at_position(1)


def late_reader(history):
    history.publish(1)
    history.receive([1], 20)
    history.sleep(2 * LEASE)
    history.receive([1], 21, process=3)
    history.ack(20, 1)
    history.at_position(1)


def late_reader_goes_on(history):
    history.publish(1)
    history.publish(2)
    history.receive([1], 20)
    history.sleep(2 * LEASE)
    history.receive([1, 2], 21, process=3)
    history.receive([2], 20, after=20)
    history.ack(21, 2, process=3)
    history.at_position(2)


def nobody_got_it(history):
    read_along(history, upto=3)
    history.at_position(4)


def not_at_the_end(history):
    read_along(history, upto=3)


def message_without_job(history):
    read_along(history)
    history.op(1, "publish", {"topic": "news", "keys": ["x"]}, [1])
    history.final["log"].append(("news", 1, "x"))


def two_jobs_for_a_message(history):
    message_without_job(history)
    history.final["copies"] = [(1, "x"), (1, "x")]


# ---- S12 ----


def sent_again_and_there_twice(history):
    good_sent_again(history)
    history.final["once"].append(("o", 8))


def sent_again_and_lost(history):
    good_sent_again(history)
    history.final["once"] = []


def sent_again_and_another(history):
    good_sent_again(history)
    history.final["once"] = [("o", 8)]


def refused_and_there(history):
    send(history, outcome="fail", sqlstate="40001")
    history.final["once"] = [("o", 7)]


FAULTS = {
    lost_job: "S1", lost_by_crash: "S1", two_jobs_one_id: "S1",
    job_from_nowhere: "S2", refused_enqueue_happened: "S2", rolled_back_enqueue_happened: "S2",
    savepoint_enqueue_happened: "S2",
    final_twice: "S3", still_open: "S3", unique_key_twice: "S3",
    no_execution: "S4", effect_lost: "S4", effect_twice: "S4", effect_without_complete: "S4",
    token_twice: "S5", attempt_not_counted: "S5", too_many_claimed: "S5",
    zombie: "S6", zombie_extends: "S6", zombie_fails: "S6", zombie_releases: "S6",
    many_with_an_old_token: "S6", token_after_release: "S6", token_after_cancel: "S6",
    token_of_rolled_back_claim: "S6",
    early_reclaim: "S7", early_reclaim_after_extend: "S7", early_reclaim_after_crash: "S7",
    early_reclaim_of_flushed: "S7", held_job_given_away: "S7",
    shortened_lease: "S8", extend_shortens: "S8",
    dead_too_soon: "S9", attempts_lost: "S9", attempt_of_rolled_back_claim: "S9",
    claimed_too_early: "S11", backoff_too_short: "S11", snooze_too_short: "S11",
    sent_again_and_there_twice: "S12", sent_again_and_lost: "S12",
    sent_again_and_another: "S12", refused_and_there: "S12",
    duplicate_completion: "F1", other_token_at_the_end: "F1", completed_came_back: "F1",
    claimed_after_the_end: "F1", cancelled_ran_on: "F1",
    stage_went_back: "F2",
    repeat_refused: "F3", repeat_answers_otherwise: "F3",
    part_of_many: "A1",
    internal_error: "E1",
    spurious_refusal: "L1", cancel_finds_nothing: "L1", retried_while_open: "L1",
    stage_skipped: "L1",
    message_lost: "P1", message_elsewhere: "P1",
    message_from_nowhere: "P2", message_twice: "P2", rolled_back_message: "P2",
    position_twice: "P3", position_goes_back: "P3",
    gap_in_batch: "P4", gap_in_reading: "P4", other_message: "P4", disordered_batch: "P4",
    gap_before_batch: "P5", gap_under_a_lease: "P5", again_after_ack: "P5", position_lower: "P5",
    two_readers: "P6", two_readers_after_crash: "P6", late_reader: "P6", late_reader_goes_on: "P6",
    nobody_got_it: "P7", not_at_the_end: "P7", message_without_job: "P7",
    two_jobs_for_a_message: "P7",
}


def main():
    passed = failed = 0
    good = [f for name, f in globals().items() if name.startswith("good_")]
    for make, rule in [(make, None) for make in good] + list(FAULTS.items()):
        history = History()
        make(history)
        rules = history.rules()
        fine = rule in rules if rule else not rules
        passed += fine
        failed += not fine
        name = make.__name__.replace("_", " ")
        print(f"{'ok' if fine else 'not ok'} {passed + failed} - {name}"
              f"{f' is caught by {rule}' if rule else ' passes'}")
        if not fine:
            for violation in checker.check(history.records, history.final).violations:
                print(f"    {violation}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

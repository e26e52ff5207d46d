"""Whether one job, changed by one operation at a time, could have given a history's answers: each
operation at some moment between its call and its answer, those that nobody knows of at some moment
or never. A search through all orders; what was looked at is remembered (Wing and Gong, Lowe).

    possible(events, facts)     None if there is an order, else what is wrong

A lease ends at any moment at which that is allowed. Claims and reaping do not wait for the disk: a
crash may bring back each of the states since the last one that was on it.
"""

import collections
import dataclasses

ABSENT, WAITING, RUNNING, COMPLETED, DEAD, CANCELLED = range(6)
NAMES = {"completed": COMPLETED, "dead": DEAD, "cancelled": CANCELLED}
ENDINGS = ("complete", "fail", "release", "snooze", "cancel", "retry")  # wait for the disk
MOST_STATES = 50_000  # of one job

Event = collections.namedtuple("Event", "t0 t1 w1 sure f op what")
# crash: when one may come, ns, and the states that it may bring back; or None.
State = collections.namedtuple("State", "phase stage attempt token done crash")
NEW = State(ABSENT, 0, 0, None, frozenset(), None)


@dataclasses.dataclass
class Facts:
    """What the search may take for granted."""
    stages: list
    claims: dict  # by token: what a claim gave
    ghosts: list  # when claims were sent of which nobody knows what they took
    ends: dict  # by token: when its lease is over, wall us, and by when its session is, ns
    undone: dict  # by token: when the crash was that may have taken it back, ns
    most_attempts: list  # what it may have been allowed


def moves(state, facts, event):
    """The states that this one may turn into by itself before an event has to happen."""
    if state.crash is not None and state.crash[0] <= event.t1:
        yield from state.crash[1]
    if state.phase == RUNNING:
        until, session = facts.ends[state.token]
        claim = facts.claims[state.token]
        if until <= event.w1 or session <= event.t1:
            over = state.attempt >= claim.max_attempts
            after = state._replace(phase=DEAD if over else WAITING, token=None)
            yield with_crash(after, state, state.crash and state.crash[0])
    elif state.phase == WAITING and any(t0 <= event.t1 for t0 in facts.ghosts):
        # Somebody claimed it and never heard of that.
        if state.attempt + 1 < max(facts.most_attempts):
            yield state._replace(attempt=state.attempt + 1)
        if state.attempt + 1 >= min(facts.most_attempts):
            yield state._replace(phase=DEAD, attempt=state.attempt + 1)


def all_moves(state, facts, event):
    seen = {state}
    todo = [state]
    while todo:
        for after in moves(todo.pop(), facts, event):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


def with_crash(after, state, at):
    """What comes after a state, if a crash at that time may bring that state back."""
    if at is None:
        return after._replace(crash=None)
    earlier = state.crash[1] if state.crash and state.crash[0] == at else frozenset()
    return after._replace(crash=(at, earlier | {state._replace(crash=None)}))


def back(state, token, attempt):
    if state.phase == RUNNING and state.token == token:
        return state._replace(phase=WAITING, attempt=attempt, token=None)
    return None


def complete(state, token, facts):
    if token in state.done:
        return state
    after = back(state, token, 0)
    if after is None:
        return None
    after = after._replace(done=state.done | {token})
    if state.stage + 1 < len(facts.stages):
        return after._replace(stage=state.stage + 1)
    return after._replace(phase=COMPLETED, attempt=state.attempt)


def fail(state, op):
    after = back(state, op.args["token"], state.attempt)
    dead = op.res == "dead" or op.res is None and not op.args["retry"]
    return after and (after._replace(phase=DEAD) if dead else after)


def apply(state, event, facts):
    """The state after the event, None if its answer is wrong in this one."""
    f, op = event.f, event.op
    is_open = state.phase in (WAITING, RUNNING)
    if f == "enqueue":
        if state.phase == ABSENT:
            return state._replace(phase=WAITING)
        return state if is_open and op.args.get("unique_key") else None
    if f == "claim":
        claim = event.what
        if state.phase == WAITING and facts.stages[state.stage] == claim.stage and \
                state.attempt + 1 == claim.attempt:
            return state._replace(phase=RUNNING, attempt=claim.attempt, token=claim.token)
        return None
    if f == "cancel":
        return state._replace(phase=CANCELLED, token=None) if is_open else None
    if f == "retry":
        if state.phase < COMPLETED:
            return None
        stage = 0 if state.phase == COMPLETED else state.stage
        return state._replace(phase=WAITING, stage=stage, attempt=0, token=None)
    if f == "no":  # cancel or retry found nothing to do
        return state if is_open == (op.f == "retry") else None
    if f == "end":
        row = event.what
        same = state.phase == NAMES[row["state"]] and state.attempt == row["attempt"] and \
            facts.stages[state.stage] == row["stage"]
        return state if same else None
    token = op.args["token"]
    if f == "refused":
        return None if state.phase == RUNNING and state.token == token else state
    if f == "complete":
        return complete(state, token, facts)
    if f == "fail":
        return fail(state, op)
    if f in ("release", "snooze"):
        return back(state, token, state.attempt - 1)
    return state if state.phase == RUNNING and state.token == token else None  # a heartbeat


def possible(events, facts):
    events = sorted(events, key=lambda event: event.t1)
    sure = sum(1 << n for n, event in enumerate(events) if event.sure)
    seen = set()
    todo = [((1 << len(events)) - 1, NEW)]
    best = 0
    while todo:
        left, state = todo.pop()
        if not left & sure:
            return None
        if len(seen) > MOST_STATES:
            return f"unknown: no order among {MOST_STATES} states"
        best = max(best, len(events) - left.bit_count())
        # Nothing is before what had been answered when it was called.
        first = next(event.t1 for n, event in enumerate(events) if left & sure & 1 << n)
        for n in reversed(range(len(events))):
            event = events[n]
            if not left & 1 << n or event.t0 > first:
                continue
            for before in all_moves(state, facts, event):
                after = apply(before, event, facts)
                if after is None:
                    continue
                if event.f == "claim":
                    after = with_crash(after, state, facts.undone.get(event.what.token))
                elif event.f in ENDINGS:
                    after = after._replace(crash=None)
                node = (left & ~(1 << n), after)
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
    return f"no order of its {len(events)} operations gives these answers; {best} are possible"

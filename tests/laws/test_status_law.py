"""Law: where a log is told that a run stands is where its folded state stands, for every list of events that can follow.

A generator proposes events that fit, nearly fit or do not fit the state it has come to; what folding refuses is left out.
So histories with waits, branches, calls, undoing, migrations, rewinds and forks in any order are tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.change import Op
from eventflow.checkpoint import NO_CHECKPOINTS
from eventflow.clock import ManualClock
from eventflow.codec import Place, Stored, pack, pack_state, read_events, seal, state_digest, unpack_blob, unpack_state
from eventflow.errors import Corrupt, RunLost
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    Failure,
    Forked,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunEvent,
    RunFailed,
    RunParked,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import Entry, First, MemoryLog, Writer
from eventflow.plain import EMPTY, MAX_DEPTH, NOTHING, FrozenDict, FrozenList, freeze
from eventflow.proof import genesis
from eventflow.recovery import recover
from eventflow.run import Journal, Shop, begin
from eventflow.state import (
    STATUSES,
    WAITS,
    State,
    branch,
    branch_names,
    evolve,
    open_waits,
    standing_after,
    status_after,
)

KEY, STORE, DEFINITION = b"k" * 16, b"s" * 16, b"d" * 32
FAILURE = Failure("ValueError", "it broke", "flow.py:3")
KINDS = ["signal", "human", "timer", "child", "unknown"]
RESTORES = ["deadline", "remaining", "restart"]
START = RunStarted("r", STORE, "flow", DEFINITION, EMPTY, "a", freeze({"n": 0}), bytes(32))
Draw = Callable[[st.SearchStrategy[Any]], Any]


def deep(levels: int) -> Any:
    """A value as high as that."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return freeze(value)


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    """Any of these."""
    return st.sampled_from(values)


def mostly(value: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The first, now and then another."""
    return st.sampled_from([value] * 8 + list(others))


VALUES = one_of(None, 0, "x", FrozenList([1]), FrozenDict({"k": FrozenList()}))
NAMES, CALL_KEYS = one_of("pay", "ask#1"), one_of("1", "2")


def some_branch(state: State, *, some: bool = False) -> st.SearchStrategy[str]:
    """A branch that is there, or one that is not; `some` leaves the run as a whole out."""
    known = branch_names(state.branches) if state.branches is not None else []
    return st.sampled_from([*known * 4, *([] if some else [""] * (1 if known else 8)), "nobody"])


def proposed(kind: type, state: State, draw: Draw) -> Event:  # noqa: C901, PLR0911, PLR0912 - a line a kind
    """An event of a kind that may follow a state, and mostly can."""
    node = draw(mostly(state.node, "elsewhere"))
    change = draw(mostly((), (Op("add", ("n",), 1),), (Op("set", ("x",), FrozenDict()),)))
    if kind is Transitioned:
        return Transitioned(node, draw(one_of("a", "b")), "done", change, draw(mostly(None, FAILURE)))
    if kind is RunCompleted:
        return RunCompleted(node, change)
    if kind is AttemptFailed:
        return AttemptFailed(node, draw(st.integers(1, 3)), FAILURE, draw(one_of(0, 99)), draw(some_branch(state)))
    if kind is RunFailed:
        return RunFailed(node, FAILURE)
    if kind is RunResumed:
        budget = draw(mostly(None, freeze({"tokens": 5})))
        to = draw(mostly("", "b"))
        return RunResumed(node, DEFINITION, draw(mostly(None, freeze({"n": 1}))), "me", "", budget, change, to)
    if kind is RunParked:
        return RunParked(node, draw(st.integers(1, 9)))
    if kind in (RunSuspended, RunTimedOut, NodeSkipped):
        return kind(node)  # type: ignore[no-any-return]
    if kind in (RunPaused, RunCancelled):
        return kind()  # type: ignore[no-any-return]
    if kind is UndoBegan:
        ending = draw(mostly("failed", "cancelled", "timed_out", "completed"))
        return UndoBegan(node, ending, draw(one_of(None, FAILURE)), "me", "why")
    if kind is BranchesOpened:
        items = draw(one_of(None, None, FrozenList(range(3)), FrozenList([deep(2)] * 101), NOTHING))
        names = draw(mostly(FrozenList(["web", "files"]), FrozenList(["one/two", "%"]), FrozenList(["x", "x"])))
        return BranchesOpened(node, NOTHING if items is not None else names, items)
    if kind is BranchFinished:
        return BranchFinished(node, draw(some_branch(state, some=True)), draw(VALUES))
    if kind is BranchFailed:
        return BranchFailed(node, draw(some_branch(state, some=True)), FAILURE)
    if kind is SignalReceived:
        return SignalReceived("go", draw(VALUES), draw(st.integers(1, 5)))
    if kind is SignalRefused:
        return SignalRefused(draw(st.integers(1, 5)))
    if kind is WaitOpened:
        until, restore = draw(one_of(0, 50, 10**6)), draw(st.sampled_from(RESTORES))
        where = draw(some_branch(state))
        return WaitOpened(node, draw(mostly(*KINDS, "retry", "", "war")), "go", until, restore, EMPTY, where)
    if kind is WaitClosed:
        waiting = [name for name, _ in open_waits(state)]
        where = draw(st.sampled_from(waiting * 6 + ["", "nobody"]))
        return WaitClosed(node, draw(one_of("signal", "timeout")), draw(st.integers(0, 5)), where)
    if kind is Rewound:
        return Rewound(state.version, node, reuse=draw(mostly(EMPTY, freeze({"a/pay#1/00": [1, 2]}))))
    if kind is Forked:
        return Forked("f", STORE, "r", KEY, 1, state.version, change)
    name, key, where = draw(NAMES), draw(CALL_KEYS), draw(some_branch(state))
    if kind is EffectStarted:
        what = "undo" if state.undoing is not None else draw(one_of("call", "wait"))
        undo = draw(one_of("", "refund"))
        return EffectStarted(name, key, what, True, None, bytes(32), "ef", 1, where, undo)
    if kind is EffectFinished:
        return EffectFinished(name, key, draw(VALUES), draw(one_of(EMPTY, freeze({"calls": 1}))), branch=where)
    if kind is EffectFailed:
        return EffectFailed(name, key, FAILURE, where)
    assert kind is EffectRejected, kind
    return EffectRejected(name, key, branch=where)


FOLLOWING = [kind for kind in get_args(RunEvent) if kind is not RunStarted]
OFTEN = [BranchesOpened, BranchFinished, WaitOpened, WaitClosed, AttemptFailed, EffectStarted, EffectFinished]
RARELY = {RunCompleted, RunCancelled, RunTimedOut, RunFailed, UndoBegan, Transitioned, NodeSkipped}
WEIGHED = [kind for kind in FOLLOWING for _ in range(1 if kind in RARELY else 9 if kind in OFTEN else 3)]


def placed(state: State | None, event: Event) -> Recorded:
    """An event as the next one, with a digest of its own."""
    version = state.version + 1 if state is not None else 1
    key = b"f" * 16 if isinstance(event, Forked) or (state is not None and state.run.run_key != KEY) else KEY
    before = state.digest if state is not None else bytes(32)
    return Recorded(event, key, 1, version, version, 1, 100 * version, version.to_bytes(4) * 8, before)


def followed(state: State, draw: Draw, most: int, *, bends: bool = True) -> list[tuple[State, Event, State]]:
    """A history: each event with the state before it and the one after it."""
    steps: list[tuple[State, Event, State]] = []
    kinds = st.sampled_from([kind for kind in WEIGHED if bends or kind not in (Rewound, Forked)])
    for _ in range(draw(st.integers(0, most))):
        event = proposed(draw(kinds), state, draw)
        try:
            after = evolve(state, placed(state, event))
        except Corrupt:
            continue
        steps.append((state, event, after))
        state = after
    return steps


def begun() -> State:
    """A run that has just started."""
    return evolve(None, placed(None, START))


# --- the law -------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_the_status_that_is_told_is_the_folded_one(data: st.DataObject) -> None:
    """After each event by itself, as a log is told with an append of one."""
    for before, event, after in followed(begun(), data.draw, 25):
        assert status_after(before, event) == (after.status, after.waiting_for), event


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_the_status_after_a_list_is_the_folded_one(data: st.DataObject) -> None:
    """However a history is cut into appends; a rewind and a fork begin a list, since another state stands before them."""
    steps = followed(begun(), data.draw, 25)
    for start, (before, _, _) in enumerate(steps):
        for end in range(start + 1, len(steps) + 1):
            if end > start + 1 and isinstance(steps[end - 1][1], Rewound | Forked):
                break
            after = steps[end - 1][2]
            told = standing_after(before, [event for _, event, _ in steps[start:end]])
            assert told == (after.status, after.waiting_for)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_head_says_what_recovery_finds(data: st.DataObject) -> None:
    """A journal tells its log the status of each append; lists, what is recorded at once, and their counts are random."""

    async def work() -> None:
        log, clock = MemoryLog(), ManualClock()
        owner = clock.uuid7()
        end = log.new_owner(owner)
        shop = Shop(log, Writer(log), clock, NO_CHECKPOINTS, owner, active=data.draw(st.integers(1, 2)))
        event = replace(START, store_id=log.store_id)
        first = First(genesis(log.store_id, "r", 1, DEFINITION), Entry("flow", (), None, clock.now()))
        answer = await begin(shop, None, event, run_id="r", run_key=KEY, incarnation=1, first=first)
        found = recover(log, answer.head)
        journal = Journal(shop, found.state, answer.head.epoch, found.progress, [])
        steps = followed(found.state, data.draw, 20, bends=False)
        events = [event for _, event, _ in steps]
        while events:
            size = data.draw(st.integers(1, 4))
            now, events = events[:size], events[size:]
            try:
                if data.draw(st.booleans()):
                    await journal.record(*now)
                else:
                    await asyncio.gather(*(journal.record(one) for one in now))
            except (RunLost, Corrupt):  # it ended, or time has moved a limit
                break
            head = log.head("r")
            assert head is not None
            state = recover(log, head).state
            assert (head.status, head.waiting_for) == (state.status, state.waiting_for)
            assert state == journal.state
        shop.writer.close()
        end()

    asyncio.run(work())


# --- what holds of every state that is reached ---------------------------------------------------------------------


def recounted(state: State) -> None:
    """What a state says of its branches is what counting them says."""
    branches = state.branches
    if branches is None:
        return
    held = [branch(branches, name) for name in branch_names(branches)]
    statuses = [one["status"] for one in held]
    assert branches["left"] == sum(status in ("open", "waiting") for status in statuses)
    assert branches["standing"] == statuses.count("waiting")
    assert all(("wait" in one) is (one["status"] == "waiting") for one in held)
    assert sum(map(len, branches["of"].values())) <= len(held)
    assert {*branch_names(branches)} >= {name for bucket in branches["of"].values() for name in bucket}


def expected(state: State) -> tuple[str, str] | None:
    """Where a run that goes on stands, told from its wait and its branches alone; None where it rests or was stopped."""
    if state.ended or state.status in ("paused", "pending", "parked") or state.waiting_for == "retry":
        return None
    if state.wait is not None:
        return "waiting", state.wait["kind"]
    entries = [] if state.branches is None else [branch(state.branches, name) for name in branch_names(state.branches)]
    going = [one for one in entries if one["status"] in ("open", "waiting")]
    if going and all(one["status"] == "waiting" for one in going):
        kinds = {one["wait"]["kind"] for one in going}
        return "waiting", state.waiting_for if state.waiting_for in kinds else "one of its branches' kinds"
    return "running", ""


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_run_stands_where_its_waits_and_branches_say(data: st.DataObject) -> None:
    """It waits if it has a wait, or if every branch that is not over has one; counts are those of a recount."""
    for _, event, state in followed(begun(), data.draw, 30):
        recounted(state)
        assert state.status in STATUSES
        assert state.waiting_for in WAITS
        assert (state.status == "waiting") is (state.waiting_for != "")
        told = expected(state)
        assert told is None or told == (state.status, state.waiting_for), event
        assert state.wait is None or state.branches is None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_state_that_is_reached_comes_back_from_its_snapshot(data: st.DataObject) -> None:
    """A reader's checks let through whatever folding makes, and events come back from their bytes with the same fold."""
    state: State = begun()
    for before, event, after in followed(state, data.draw, 20):
        packed = pack_state(after)
        rows = {blob.digest: unpack_blob(blob.stored, blob.digest) for blob in packed.blobs}
        back, _ = unpack_state(packed.root, rows.fromkeys, "a test") if not rows else unpack_state(
            packed.root, lambda names, rows=rows: {name: rows[name] for name in names}, "a test"
        )  # fmt: skip
        assert all(getattr(back, part.name) == getattr(after, part.name) for part in fields(State))
        assert state_digest(back) == packed.digest
        recorded = placed(before, event)
        place = Place(recorded.run_key, 1, recorded.version, 1, recorded.time, recorded.before)
        (read,) = read_events([Stored(1, seal(pack(event), place))], lambda _: {}, strict=True)
        assert replace(evolve(before, read), digest=b"") == replace(after, digest=b"")


def test_the_deepest_values_of_branches_come_back() -> None:
    """A result, an item, what a branch waits with: each may be as deep as a value of the state."""
    value = deep(MAX_DEPTH - 1)
    state = begun()
    for event in (
        BranchesOpened("a", NOTHING, FrozenList([value, 1])),
        BranchFinished("a", "0", deep(MAX_DEPTH)),
        WaitOpened("a", "human", spec=FrozenDict({"prompt": value}), branch="1"),
    ):
        state = evolve(state, placed(state, event))
    back, _ = unpack_state(pack_state(state).root, lambda _: {}, "a test")
    assert back == state

"""State: waits and branches, what each event does to them, and what can't follow."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.change import Op
from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFinished,
    EffectStarted,
    Event,
    Failure,
    Forked,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    SignalReceived,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, MAX_INT, NOTHING, FrozenDict, FrozenList, freeze
from eventflow.state import State, branch, branch_names, evolve, open_waits, standing_after, status_after
from eventflow.state.shape import are_branches

KEY, STORE, DEFINITION = b"k" * 16, b"s" * 16, b"d" * 32
FAILURE = Failure("ValueError", "it broke", "flow.py:3 in write", retryable=True)
ERROR = ["ValueError", "it broke", "flow.py:3 in write", True]
NAMED = BranchesOpened("a", FrozenList(["web", "files"]))
MAPPED = BranchesOpened("a", NOTHING, freeze(["x", "y", "z"]))


def recorded(event: Event, version: int) -> Recorded:
    """An event with a place; the time is a hundred times the version."""
    return Recorded(event, KEY, 1, version, version, 1, version * 100, bytes([version % 256]) * 32, bytes(32))


def after(state: State, *events: Event) -> State:
    """The state after more events."""
    for event in events:
        state = evolve(state, recorded(event, state.version + 1))
    return state


def lived(*events: Event) -> State:
    """The state after a start on node a and these events."""
    start = RunStarted("r", STORE, "flow", DEFINITION, EMPTY, "a", freeze({"n": 1}), bytes(32))
    return after(evolve(None, recorded(start, 1)), *events)


def refused(state: State, event: Event) -> str:
    """Why an event can't follow a state."""
    with pytest.raises(Corrupt) as caught:
        after(state, event)
    return caught.value.problem


def of(state: State, name: str) -> dict[str, Any]:
    """How far a branch is."""
    assert state.branches is not None
    return dict(branch(state.branches, name))


def counts(state: State) -> tuple[int, int]:
    """How many branches are not over, and how many of them wait."""
    assert state.branches is not None
    return state.branches["left"], state.branches["standing"]


def opened(name: str, kind: str = "signal", **more: Any) -> WaitOpened:
    """A wait of a branch."""
    return WaitOpened("a", kind, "go", branch=name, **more)


# --- what each event does ------------------------------------------------------------------------------------------


def test_a_split_opens_its_branches() -> None:
    """By their names, or by the places of the items they work on; the run goes on."""
    state = lived(NAMED)
    assert state.branches is not None
    assert branch_names(state.branches) == ["web", "files"]
    assert (state.status, counts(state)) == ("running", (2, 0))
    assert of(state, "web") == {"status": "open", "attempt": 1}
    state = lived(MAPPED)
    assert state.branches is not None
    assert branch_names(state.branches) == ["0", "1", "2"]
    assert state.branches["items"] == ["x", "y", "z"]
    assert counts(state) == (3, 0)


def test_a_split_into_nothing_is_a_split() -> None:
    """A list may be empty; nothing is left and nothing stands."""
    state = lived(BranchesOpened("a", NOTHING, NOTHING))
    assert (state.status, counts(state)) == ("running", (0, 0))
    assert refused(state, BranchFinished("a", "0")) == "is about branch '0', which is not there"


def test_a_branch_that_ends_keeps_its_result_or_its_error() -> None:
    """The join finds it there; the other branches are as they were."""
    state = lived(NAMED, BranchFinished("a", "web", freeze({"found": 1})), BranchFailed("a", "files", FAILURE))
    assert of(state, "web") == {"status": "finished", "result": {"found": 1}}
    assert of(state, "files") == {"status": "failed", "error": ERROR}
    assert (state.status, counts(state), state.error) == ("running", (0, 0), None)


def test_a_branch_that_ends_takes_its_calls_along() -> None:
    """Those of other branches and of the node itself stay, however much alike their names are."""
    calls = [
        EffectStarted("pay", "1", "call", True, None, bytes(32), "ef", branch=name)
        for name in ("web", "web/2", "we", "", "files")
    ]
    names = FrozenList(["web", "web/2", "we", "files"])
    state = lived(BranchesOpened("a", names), *calls, BranchFinished("a", "web"))
    assert sorted(state.effects) == ["files/pay#1", "pay#1", "we/pay#1", "web%2f2/pay#1"]
    assert sorted(after(state, BranchFailed("a", "web/2", FAILURE)).effects) == ["files/pay#1", "pay#1", "we/pay#1"]


def test_an_attempt_of_a_branch_is_its_own() -> None:
    """The run neither rests nor counts it."""
    state = lived(NAMED, AttemptFailed("a", 1, FAILURE, 999, "web"))
    assert of(state, "web") == {"status": "open", "attempt": 2, "retry_at": 999}
    assert (state.status, state.attempt, state.retry_at, state.error) == ("running", 1, 0, None)


def test_an_attempt_that_fails_while_a_branch_waits_ends_the_wait() -> None:
    """The next attempt opens its own."""
    state = lived(NAMED, opened("web"), AttemptFailed("a", 1, FAILURE, 999, "web"))
    assert (of(state, "web")["status"], counts(state), open_waits(state)) == ("open", (2, 0), [])


def test_a_run_waits_once_every_branch_that_is_not_over_does() -> None:
    """For what the first of them waits for; it goes on as soon as one does."""
    state = lived(MAPPED, opened("1", "human"), BranchFinished("a", "2"))
    assert (state.status, state.waiting_for, counts(state)) == ("running", "", (2, 1))
    state = after(state, opened("0", "child"))
    assert (state.status, state.waiting_for, counts(state)) == ("waiting", "child", (2, 2))
    assert [(name, wait["id"], wait["kind"]) for name, wait in open_waits(state)] == [
        ("0", 5, "child"),
        ("1", 3, "human"),
    ]
    state = after(state, WaitClosed("a", "signal", 7, "0"))
    assert (state.status, counts(state)) == ("running", (2, 1))
    state = after(state, BranchFinished("a", "0"))
    assert (state.status, state.waiting_for, counts(state)) == ("waiting", "human", (1, 1))
    state = after(state, BranchFailed("a", "1", FAILURE))
    assert (state.status, counts(state)) == ("running", (0, 0))


def test_a_wait_of_a_branch_takes_its_message() -> None:
    """And leaves the others where they are."""
    signals = [SignalReceived("go", number, number) for number in (1, 2)]
    state = lived(NAMED, opened("web"), *signals, WaitClosed("a", "signal", 1, "web"))
    assert [one["message"] for one in state.signals] == [2]
    assert of(state, "web") == {"status": "open", "attempt": 1}


def test_what_ends_a_visit_ends_its_branches() -> None:
    """The join, a skip, the beginning of undoing, a migration to another node."""
    for event in (
        Transitioned("a", "b"), NodeSkipped("a"), UndoBegan("a", "failed"), RunCompleted("a"),
        RunResumed("a", DEFINITION, to="b"),
    ):  # fmt: skip
        state = lived(NAMED, opened("web"), opened("files"), event)
        assert (state.branches, state.wait, state.waiting_for) == (None, None, "")
        assert open_waits(lived(WaitOpened("a", "signal", "go"), event)) == []


def test_a_hundred_items_and_more_are_held_by_the_hundred() -> None:
    """A step of one copies its hundred only, and each is found whatever its number has in common with others."""
    state = lived(BranchesOpened("a", NOTHING, FrozenList(range(1_203))))
    places = ["0", "7", "99", "100", "101", "199", "999", "1000", "1202"]
    state = after(state, *(BranchFinished("a", name, int(name)) for name in places))
    assert state.branches is not None
    assert list(state.branches["of"]) == ["", "1", "9", "10", "12"]
    assert list(state.branches["of"][""]) == ["0", "7", "99"]
    assert [of(state, name)["result"] for name in places] == [*map(int, places)]
    assert counts(state) == (1_203 - len(places), 0)
    before = state.branches["of"]["1"]
    assert after(state, BranchFinished("a", "5")).branches["of"]["1"] is before  # type: ignore[index]


# --- what can't follow ---------------------------------------------------------------------------------------------

IN_A_BRANCH: list[Event] = [
    AttemptFailed("a", 1, FAILURE, 9, "web"), opened("web"), WaitClosed("a", "signal", 1, "web"),
    BranchFinished("a", "web"), BranchFailed("a", "web", FAILURE),
]  # fmt: skip


def in_branch(event: Event, name: str) -> Event:
    """The same event of another branch."""
    return replace(event, branch=name)  # type: ignore[call-arg]


@pytest.mark.parametrize("event", IN_A_BRANCH, ids=lambda event: type(event).__name__)
def test_a_branch_that_is_not_there_does_nothing(event: Event) -> None:
    """Neither of a node that has not split, nor by another name, nor by a place that is none."""
    assert refused(lived(), event) == "is about branch 'web', which is not there"
    assert "not there" in refused(lived(MAPPED), event)
    assert "not there" in refused(lived(NAMED), in_branch(event, "0"))
    for name in ("3", "-1", "00", "+1", "1.0", " 1", "²", "\u0661"):
        assert "not there" in refused(lived(MAPPED), in_branch(event, name))


@pytest.mark.parametrize("event", IN_A_BRANCH, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize(
    "end", [BranchFinished("a", "web"), BranchFailed("a", "web", FAILURE)], ids=["finished", "failed"]
)
def test_a_branch_that_is_over_does_nothing(event: Event, end: Event) -> None:
    """It ends once."""
    assert refused(lived(NAMED, end), event) == "is about branch 'web', which is over"


@pytest.mark.parametrize("event", IN_A_BRANCH, ids=lambda event: type(event).__name__)
def test_a_branch_is_of_the_node_the_run_stands_on(event: Event) -> None:
    """And of a run that goes on."""
    state = lived(NAMED, opened("web") if isinstance(event, WaitClosed) else SignalReceived("s", 1, 1))
    assert "stands on 'a'" in refused(state, replace(event, node="b"))  # type: ignore[call-arg]
    assert "follows the run's end" in refused(after(state, RunFailed("a", FAILURE)), event)
    assert after(state, event).version == state.version + 1


def test_a_branch_has_a_name() -> None:
    """An end without one is of nothing."""
    for event in (BranchFinished("a", ""), BranchFailed("a", "", FAILURE)):
        assert refused(lived(NAMED), event) == "is about a branch without a name"


def test_a_branch_waits_for_one_thing_at_a_time() -> None:
    """A second wait is refused, and so is the end of one that is not open."""
    assert refused(lived(NAMED, opened("web")), opened("web")) == "opens a wait while another is open"
    assert refused(lived(NAMED), WaitClosed("a", "signal", 1, "web")) == "closes a wait that is not open"


def test_a_node_splits_once_a_visit() -> None:
    """Where it stands, not while it waits, and into branches that can be told apart."""
    assert refused(lived(NAMED), NAMED) == "splits a node that has split already"
    assert refused(lived(WaitOpened("a", "timer")), NAMED) == "splits a node that stands still"
    assert "stands on 'a'" in refused(lived(), replace(NAMED, node="b"))
    for names in (["x", "x"], ["x", 1], [None], [["x"]]):
        assert "without names of their own" in refused(lived(), BranchesOpened("a", freeze(names)))
    assert counts(lived(NAMED, Transitioned("a", "a"), NAMED)) == (2, 0)


def test_a_run_that_has_split_waits_in_its_branches_only() -> None:
    """A wait of the whole would hide what they do."""
    assert "while its node has split" in refused(lived(NAMED), WaitOpened("a", "signal", "go"))


@pytest.mark.parametrize("kind", ["", "retry", "nap"])
@pytest.mark.parametrize("name", ["", "web"])
def test_a_wait_is_of_a_kind_that_can_be_opened(kind: str, name: str) -> None:
    """Also where nobody looks at it yet: in a run that is paused, and in a branch while others go on."""
    event = WaitOpened("a", kind, "go", branch=name)
    states = [lived(NAMED), lived(NAMED, RunPaused())] if name else [lived(), lived(RunPaused())]
    for state in states:
        assert "kind that is not known" in refused(state, event)


def test_a_refused_event_leaves_the_state_alone() -> None:
    """States are values."""
    state = lived(NAMED, opened("web"), BranchFinished("a", "files", 1))
    before = repr(state)
    for event in (*IN_A_BRANCH, NAMED, BranchFinished("a", "files"), opened("web")):
        with contextlib.suppress(Corrupt):
            after(state, event)
        assert repr(state) == before


# --- pausing, resuming, going back ---------------------------------------------------------------------------------


def test_a_paused_run_stays_paused_whatever_its_branches_do() -> None:
    """Resuming it tells where it stands by then."""
    state = lived(NAMED, RunPaused(), opened("web"), opened("files"))
    assert (state.status, counts(state)) == ("paused", (2, 2))
    state = after(state, RunResumed("a", DEFINITION))
    assert (state.status, state.waiting_for) == ("waiting", "signal")
    again = lived(NAMED, opened("web"), RunPaused(), BranchFinished("a", "files"), WaitClosed("a", "signal", 1, "web"))
    assert again.status == "paused"
    assert after(again, RunResumed("a", DEFINITION)).status == "running"


def test_a_split_in_a_run_that_rested_or_was_let_go_runs() -> None:
    """It is under way again."""
    assert lived(AttemptFailed("a", 1, FAILURE, 9), NAMED).status == "running"
    assert lived(RunSuspended("a"), NAMED).status == "running"
    assert lived(RunPaused(), NAMED).status == "paused"


def test_a_resume_leaves_branches_as_they_are() -> None:
    """Attempts, ends and waits; only limits that say so begin again."""
    events = [
        MAPPED, AttemptFailed("a", 1, FAILURE, 999, "0"), opened("1", until=1_000, restore="restart"),
        BranchFailed("a", "2", FAILURE), RunSuspended("a"), RunResumed("a", DEFINITION),
    ]  # fmt: skip
    state = lived(*events)
    assert of(state, "0") == {"status": "open", "attempt": 2, "retry_at": 999}
    assert of(state, "2") == {"status": "failed", "error": ERROR}
    wait = of(state, "1")["wait"]
    assert (wait["id"], wait["opened"], wait["until"]) == (4, 700, 1_300)
    assert counts(state) == (2, 1)


def test_a_resume_after_a_failure_begins_again_what_had_failed() -> None:
    """What finished stays, and so does what waits."""
    state = lived(
        MAPPED, BranchFinished("a", "0", 1), BranchFailed("a", "1", FAILURE), opened("2"), RunFailed("a", FAILURE),
        RunResumed("a", DEFINITION),
    )  # fmt: skip
    assert of(state, "0") == {"status": "finished", "result": 1}
    assert of(state, "1") == {"status": "open", "attempt": 1}
    assert of(state, "2")["status"] == "waiting"
    assert (state.status, counts(state)) == ("running", (2, 1))


@pytest.mark.parametrize(
    ("restore", "until", "opened_at"), [("deadline", 950, 200), ("remaining", 1_050, 400), ("restart", 1_150, 400)]
)
def test_a_limit_is_restored_as_it_says(restore: str, until: int, opened_at: int) -> None:
    """It stands, or goes on from where the run was let go, or begins anew; opened at 200, left at 300, taken up at 400."""
    state = lived(WaitOpened("a", "timer", until=950, restore=restore), RunSuspended("a"), RunResumed("a", DEFINITION))
    assert state.wait is not None
    assert (state.wait["until"], state.wait["opened"]) == (until, opened_at)


def test_a_limit_that_is_over_is_not_in_the_past() -> None:
    """Nothing is left of it; and no sum of times leaves 64 bits."""
    state = lived(
        WaitOpened("a", "timer", until=250, restore="remaining"), RunSuspended("a"), RunResumed("a", DEFINITION)
    )
    assert state.wait is not None
    assert state.wait["until"] == 400
    far = lived(
        WaitOpened("a", "timer", until=MAX_INT, restore="restart"), RunSuspended("a"), RunResumed("a", DEFINITION)
    )
    assert far.wait is not None
    assert far.wait["until"] == MAX_INT


def test_a_rewind_keeps_what_finished_and_whom_it_waits_for() -> None:
    """What was open begins again; a child is a run of its own, which is where it is."""
    state = lived(
        MAPPED, BranchFinished("a", "0", 1), opened("1"), AttemptFailed("a", 3, FAILURE, 999, "2"),
    )  # fmt: skip
    back = evolve(state, recorded(Rewound(state.version, "a"), 9))
    assert of(back, "0") == {"status": "finished", "result": 1}
    assert of(back, "1") == of(back, "2") == {"status": "open", "attempt": 1}
    assert (back.status, counts(back), back.line) == ("running", (2, 0), 9)
    state = lived(MAPPED, BranchFinished("a", "0", 1), opened("1", "child"), opened("2", "human"))
    back = evolve(state, recorded(Rewound(state.version, "a"), 9))
    assert (counts(back), of(back, "1")["wait"]["kind"]) == ((2, 1), "child")
    alone = lived(WaitOpened("a", "child", "r.1"))
    back = evolve(alone, recorded(Rewound(2, "a"), 9))
    assert (back.status, back.waiting_for, back.wait) == ("waiting", "child", alone.wait)
    assert evolve(lived(WaitOpened("a", "signal")), recorded(Rewound(2, "a"), 9)).wait is None


def test_a_fork_keeps_what_finished_unless_it_changes_the_data() -> None:
    """Then the answers are those to another question, and the node splits again."""
    state = lived(MAPPED, BranchFinished("a", "0", 1), BranchFailed("a", "1", FAILURE), opened("2", "child"))
    fork = Forked("f", STORE, "r", KEY, 1, state.version)
    child = evolve(state, recorded(fork, state.version + 1))
    assert of(child, "0") == {"status": "finished", "result": 1}
    assert of(child, "1") == of(child, "2") == {"status": "open", "attempt": 1}
    assert (child.status, counts(child), open_waits(child)) == ("running", (2, 0), [])
    changed = replace(fork, change=(Op("set", ("n",), 2),))
    assert evolve(state, recorded(changed, state.version + 1)).branches is None


# --- looking ahead, counting ---------------------------------------------------------------------------------------


def test_a_list_may_open_branches_and_end_them() -> None:
    """Where a run stands is told for the list as a whole, before any of it is written."""
    state = lived()
    lists: list[list[Event]] = [
        [NAMED, opened("web"), opened("files", "human")], [NAMED, BranchFinished("a", "web"), opened("files", "human")],
        [NAMED, opened("web"), RunPaused(), BranchFinished("a", "files")], [WaitOpened("a", "timer"), RunResumed("a", DEFINITION)],
        [NAMED, Transitioned("a", "b"), BranchesOpened("b", FrozenList(["x"])), WaitOpened("b", "child", branch="x")],
    ]  # fmt: skip
    for events in lists:
        folded = after(state, *events)
        assert standing_after(state, events) == (folded.status, folded.waiting_for)
    assert standing_after(state, []) == ("running", "")


def test_a_list_that_can_not_follow_is_refused_before_it_is_written() -> None:
    """A log is not told where such a list leads."""
    with pytest.raises(Corrupt):
        standing_after(lived(), [BranchFinished("a", "web"), NAMED])
    with pytest.raises(Corrupt):
        status_after(lived(NAMED, BranchFinished("a", "web")), BranchFinished("a", "web"))


STEPS = st.lists(
    st.tuples(st.integers(0, 130), st.sampled_from(["finish", "fail", "retry", "open", "close", "resume", "rewind"])),
    max_size=40,
)


@given(STEPS, st.sampled_from([2, 3, 120]))
@settings(max_examples=150, deadline=None)
def test_counts_are_those_of_a_recount(steps: list[tuple[int, str]], size: int) -> None:
    """After whatever happens to which branch, and after everything is taken up again."""
    items = BranchesOpened("a", NOTHING, FrozenList(range(size)))
    state = lived(items if size > 2 else NAMED)
    names = branch_names(state.branches or EMPTY)
    for number, kind in steps:
        name = names[number % size]
        event: Event = {
            "finish": BranchFinished("a", name, number), "fail": BranchFailed("a", name, FAILURE), "open": opened(name),
            "retry": AttemptFailed("a", 1, FAILURE, 9, name), "close": WaitClosed("a", "signal", 1, name),
            "resume": RunResumed("a", DEFINITION), "rewind": Rewound(state.version, "a"),
        }[kind]  # fmt: skip
        try:
            state = after(state, event)
        except Corrupt:
            continue
        held = [of(state, one)["status"] for one in names]
        assert counts(state) == (sum(one in ("open", "waiting") for one in held), held.count("waiting"))
        assert [name for name, _ in open_waits(state)] == [
            name for name, one in zip(names, held, strict=True) if one == "waiting"
        ] or size == 2
        assert are_branches(state.branches)


@pytest.mark.parametrize(
    "changes",
    [
        {"left": 1}, {"left": True}, {"standing": 0}, {"standing": None}, {"names": FrozenList(["x", "x"])}, {"names": None},
        {"items": "x"}, {"of": None}, {"of": FrozenDict({"": 1})}, {"of": FrozenDict({"": FrozenDict({"web": 1})})},
        {"of": FrozenDict({"9": FrozenDict({"web": FrozenDict({"status": "finished", "result": 1})})})}, {"more": 1},
        {"of": FrozenDict({"": FrozenDict({"nobody": FrozenDict({"status": "finished", "result": 1})})})},
    ],
    ids=str,
)  # fmt: skip
def test_branches_of_another_form_are_told(changes: dict[str, Any]) -> None:
    """What was not made by folding is found by its form, or by counting."""
    state = lived(NAMED, opened("web"))
    assert are_branches(state.branches)
    assert not are_branches(FrozenDict({**(state.branches or {}), **changes}))


def test_calls_of_branches_have_names_of_their_own() -> None:
    """One name and key in each branch, and in none, are three calls."""
    begun = [
        EffectStarted("pay", "1", "call", True, None, bytes(32), "ef", branch=name) for name in ("", "web", "files")
    ]
    state = lived(NAMED, *begun, EffectFinished("pay", "1", 5, branch="web"))
    assert {name: one["status"] for name, one in state.effects.items()} == {
        "pay#1": "started", "web/pay#1": "finished", "files/pay#1": "started",
    }  # fmt: skip

"""The sweep of crashes: it dies everywhere, comes to the same end, and finds what is planted."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
from pathlib import Path
from typing import Annotated, TypedDict

import pytest

from eventflow import Agent, Human, Parallel, RetryPolicy, Sleep, Wait, Workflow, extend
from eventflow.errors import SettingsError
from eventflow.log import LmdbLog
from eventflow.testing import Crash, Reply, SweepReport, crash_sweep

FAULTS = ["acknowledge_before_commit", "effect_before_started"]
START = {"n": 0, "paid": []}


class Bank:
    """The other side, which remembers every call by its key."""

    def __init__(self):
        self.keys = []

    def pay(self, what, *, idempotency_key):
        self.keys.append(idempotency_key)
        return what


def paying(bank=None, **options) -> Workflow:
    """A payment twice, in a loop, and an end."""
    bank = bank or Bank()

    async def pay(state, run):
        paid = await run.effect("pay", bank.pay, f"p{state['n']}", **options)
        return {"n": state["n"] + 1, "paid": [*state["paid"], paid]}

    flow = Workflow("paying").add_node("pay", pay).add_node("end", lambda state: {"done": True})
    return flow.add_edge("pay", "pay", when=lambda s: s["n"] < 2, label="more").add_edge("pay", "end").set_start("pay")


def everything() -> Workflow:
    """A node that fails once, a rest of an hour, a signal, a person."""

    def fails(state, run):
        if run.attempt == 1:
            raise OSError("once")
        return {"tried": run.attempt}

    return (
        Workflow("everything")
        .add_node("fails", fails, retry=RetryPolicy(attempts=2, delay=3_600))
        .add_node("rest", Sleep(3_600))
        .add_node("wait", Wait(signal="go", writes="got", timeout=60, default="nobody"))
        .add_node("ask", Human(prompt="well?", writes="said"))
        .add_edge("fails", "rest")
        .add_edge("rest", "wait")
        .add_edge("wait", "ask")
        .set_start("fails")
    )


def test_a_run_that_dies_at_each_boundary_comes_to_the_same_end():
    """Boundaries = crashes = recovered, before and after each commit, nothing lost, no call made again."""
    report = crash_sweep(paying(mutating=False), START)
    assert report.sound
    report.check()
    assert report.boundaries == report.crashed == report.recovered == report.possible == 16
    assert (report.lost, report.repeated, report.asked) == (0, 0, 0)
    assert [one.when for one in report.crashes[:4]] == ["before", "after"] * 2
    assert report.crashes[0].writes == "RunStarted pay"
    assert report.summary() == "workflow paying: 16 boundaries = crashes = recovered, lost 0, repeated 0"
    assert "3         before  EffectFinished pay#1     the same end" in str(report)


def test_signals_answers_rests_and_attempts_are_swept_too():
    """Hours of rest take no time; a message dies in the inbox and out of it, and is taken once."""
    report = crash_sweep(everything(), {}, signals={"go": lambda data: data["tried"] * 10}, answers={"ask": "well"})
    report.check()
    writes = [one.writes for one in report.crashes]
    assert {"message", "SignalReceived", "AttemptFailed fails", "WaitOpened wait"} <= set(writes)
    assert report.boundaries == 2 * len(set(writes)) + 4  # two messages, taken one by one


def test_what_was_said_before_a_crash_is_not_said_again():
    """Two waits for one signal get a payload each, whichever of them the run died in."""
    flow = (
        Workflow("twice")
        .add_node("one", Wait(signal="go", writes="first"))
        .add_node("two", Wait(signal="go", writes="second"))
        .add_edge("one", "two")
        .set_start("one")
    )
    report = crash_sweep(flow, signals={"go": sorted}, invariants=[lambda state: not state.signals])
    report.check()
    assert [one.writes for one in report.crashes].count("message") == 4


def test_what_is_recovered_are_the_bytes_that_lay_there(tmp_path):
    """The store in which the run died goes no further; a copy of its files from that moment does."""
    stood = []

    def witness():
        for left in tmp_path.glob("*/left"):
            versions = []
            for path in (left.parent / "store", left):
                log = LmdbLog(path, readonly=True)
                head = log.head("sweep")
                versions.append(head.version if head else 0)
                log.close()
            stood.append(tuple(versions))
        return []

    report = crash_sweep(paying(mutating=False), START, witness=witness, where=tmp_path)
    report.check()
    assert [old for old, _ in stood] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]
    assert all(old < new for old, new in stood[:-1])
    assert stood[-1] == (8, 8)  # it died when all was done
    assert [path.name for path in tmp_path.iterdir()] == ["undisturbed"]


def test_a_signal_that_nobody_sends_lets_the_limit_pass():
    """The default is the end of it, before and after each crash."""
    report = crash_sweep(everything(), {}, answers={"ask": 1})
    report.check()
    assert not any("message" in one.writes for one in report.crashes[:12])


def test_messages_sent_at_the_start_are_sent_once():
    """A body that looks for its messages itself has each of them once, whenever it died."""

    async def looks(state, run):
        while len(run.signals) < 2:
            await asyncio.sleep(0.001)
        return {"got": [one["payload"] for one in run.signals]}

    flow = Workflow("looks").add_node("looks", looks).set_start("looks")
    report = crash_sweep(flow, early=[("go", 1), ("go", 2)], view=lambda data: data["got"])
    report.check()
    assert report.crashed == report.possible > 6


def test_a_call_whose_outcome_is_unknown_is_asked_about_and_not_repeated():
    """A mutating call without reconcile stops the run; who looks finds its result, and the other side had it once."""
    banks = []

    def make():
        banks.append(Bank())
        return paying(banks[-1])

    report = crash_sweep(make, START, witness=lambda: [key for bank in banks for key in bank.keys])
    report.check()
    assert [one.asked for one in report.crashes if "Effect" in one.writes] == [0, 1, 1, 0] * 2
    assert ", asked 4" in report.summary()
    assert len(banks) == 1 + report.boundaries
    assert all(len(set(bank.keys)) == len(bank.keys) == 2 for bank in banks)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_bug_is_found(fault):
    """A log that acknowledges before it commits, or starts a call before its start is durable, fails the sweep."""
    report = crash_sweep(paying(mutating=False), START, faults=fault)
    assert not report.sound
    assert report.lost
    text = "\n".join(text for one in report.crashes for text in one.found)
    assert "was acknowledged as version" in text
    if fault == "effect_before_started":
        assert report.repeated
        assert "its call was made although its start is not in the log" in text
        assert "call pay#1 was made 2 times, 1 of them recorded as started" in text
    with pytest.raises(AssertionError, match=r"lost: .* was acknowledged") as caught:
        report.check()
    assert "crash before the commit of boundary 3 (EffectFinished pay#1):" in str(caught.value)


def test_a_bug_of_the_workflow_is_found():
    """What a node keeps in memory instead of in the state is gone after a crash, or is there twice."""

    def make():
        seen = itertools.count(1)
        return (
            Workflow("forgets")
            .add_node("a", lambda state: {"a": next(seen)})
            .add_node("b", lambda state: {"b": next(seen)})
            .add_edge("a", "b")
            .set_start("a")
        )

    report = crash_sweep(make)
    assert not report.sound
    wrong = [one for one in report.crashes if one.found]
    assert wrong[0].writes == "Transitioned a -> b"
    assert wrong[0].differences == ("data is {'a': 2, 'b': 3}, undisturbed {'a': 1, 'b': 2}",)
    assert report.recovered < report.crashed == report.boundaries


def test_a_call_beside_the_log_is_found():
    """A node that pays by itself, and not in an effect, is seen by a witness on the other side."""
    bank = Bank()

    def pay(state, run):
        bank.pay("x", idempotency_key=f"own-{run.id}")
        return {"paid": True}

    flow = Workflow("beside").add_node("pay", pay).set_start("pay")
    report = crash_sweep(flow, witness=lambda: bank.keys)
    assert report.repeated == report.boundaries
    assert "the outside had call own-sweep 2 times, 0 starts are recorded" in report.table()


def test_invariants_are_asked_of_every_end():
    """One that raises, or is False, is named with what it says."""

    def small(state):
        assert state.data["n"] < 2, "n is too large"

    def paid(state):
        return len(state.data["paid"]) == state.data["n"]

    crash_sweep(paying(mutating=False), START, invariants=[paid], every=7).check()
    with pytest.raises(AssertionError, match="the undisturbed run is not sound: invariant small: n is too large"):
        crash_sweep(paying(mutating=False), START, invariants=[small, paid])


def test_an_invariant_that_only_a_crash_breaks_is_found():
    """It is told beside its boundary."""
    asked = []

    def once(state):
        asked.append(state)
        return len(asked) != 4  # once undisturbed, then once a crash

    report = crash_sweep(paying(mutating=False), START, invariants=[once])
    assert report.crashes[1].found == ()
    assert report.crashes[2].found == ("invariant once does not hold",)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 100])
def test_a_smaller_sweep_takes_both_sides_and_the_last_boundary(every):
    """Each so many, not only befores, and in any case the first and the last."""
    report = crash_sweep(paying(mutating=False), START, every=every)
    report.check()
    assert report.possible == 16
    assert report.boundaries == len({*range(0, 16, every), 15}) - (every == 2)  # 15 is one of its own there
    assert (report.crashes[0].boundary, report.crashes[-1].boundary) == (1, 8)
    assert {one.when for one in report.crashes} == {"before", "after"}
    assert ("(of 16)" in report.summary()) == (every > 1)


def test_the_model_server_is_part_of_the_world(monkeypatch):
    """Answers of a list go to questions, so a question asked again after a crash gets the same one."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    flow = (
        Workflow("asks")
        .add_node("one", Agent(model="m", reads="question", writes="first"))
        .add_node("two", Agent(model="m", reads="first", writes="second"))
        .add_edge("one", "two")
        .set_start("one")
    )
    report = crash_sweep(flow, {"question": "?"}, model_server=["a", Reply("b")])
    report.check()
    assert report.possible == 14
    assert os.environ["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1"


def test_a_run_that_waits_for_what_nobody_says_is_given_up():
    """The sentence says what it waits for."""
    flow = Workflow("waits").add_node("wait", Wait(signal="go")).set_start("wait")
    with pytest.raises(AssertionError, match=r"waits for a signal go in node wait; say what it waits for in signals="):
        crash_sweep(flow, patience=0.1)


def test_a_node_that_asks_after_a_crash_is_told_to_go_on():
    """Who says `after_crash="ask"` is asked once for each crash in its body."""
    flow = Workflow("asks").add_node("a", lambda state: {"a": 1}, after_crash="ask").set_start("a")
    report = crash_sweep(flow)
    report.check()
    assert [one.asked for one in report.crashes] == [0, 1, 1, 0]


def test_a_run_that_goes_another_way_each_time_is_told_as_not_reached():
    """A boundary that is not there any more is no crash, and the sweep is not sound."""
    made = []

    def make():
        made.append(1)
        flow = Workflow("shrinks").add_node("a", lambda state: {}).add_node("b", lambda state: {})
        return (flow.add_edge("a", "b") if len(made) == 1 else flow).set_start("a")

    report = crash_sweep(make)
    assert not report.sound
    assert report.crashed < report.boundaries
    assert "it was not reached" in report.crashes[-1].differences[0]


def test_a_run_that_breaks_before_its_crash_is_told():
    """The other crashes are swept all the same."""
    made = []

    def make():
        made.append(1)
        signal = "other" if len(made) == 8 else "go"  # the seventh crash: what is let go counts as a fact too
        return Workflow("breaks").add_node("wait", Wait(signal=signal)).set_start("wait")

    report = crash_sweep(make, signals={"go": 1}, patience=0.2)
    assert report.crashes[6].writes == "SignalReceived"
    assert report.crashes[6].differences[0].startswith("the run failed before its crash: NeverEnds: ")
    assert report.crashed == report.recovered == report.boundaries - 1


def test_every_argument_is_in_the_docs():
    """Each argument of the sweep has its row in docs/testing.md."""
    page = (Path(__file__).parent.parent.parent / "docs" / "testing.md").read_text()
    rows = page[page.index("| argument of `crash_sweep` |") :]
    assert [name for name in inspect.signature(crash_sweep).parameters if f"| `{name}` |" not in rows] == []


def test_a_run_that_fails_undisturbed_fails_in_the_same_way_after_a_crash():
    """Its failure is its end, and is compared."""

    def fails(state):
        raise ValueError("always")

    flow = Workflow("fails").add_node("fails", fails).set_start("fails")
    report = crash_sweep(flow)
    report.check()
    assert report.possible == 4


def test_inside_a_running_event_loop_it_works_too():
    """An async test may call it."""

    async def story():
        return crash_sweep(paying(mutating=False), START, every=9)

    assert asyncio.run(story()).sound


MODULE = """
from eventflow import Workflow

def make():
    async def pay(state, run):
        return {"paid": await run.effect("pay", str, state["n"], mutating=False)}
    return Workflow("named").add_node("pay", pay).set_start("pay")

flow = make()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a workflow that a process can import by its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_flows.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize(("name", "fault"), [("named_flows:flow", ""), ("named_flows:make", FAULTS[1])])
def test_real_processes_are_killed(module, name, fault):
    """SIGKILL at boundaries of a real process, recovered by another; a planted bug is found in this way too."""
    report = crash_sweep(name, {"n": 7}, kill="process", every=2, faults=fault)
    assert report.workflow == "named"
    assert report.crashed == report.boundaries == 4
    assert report.possible == 8
    assert report.sound == (not fault)
    assert bool(report.lost) == bool(fault)


def test_a_process_that_fails_says_why(module):
    """What it wrote on stderr is in the error."""
    with pytest.raises(AssertionError, match="No module named 'nowhere'"):
        crash_sweep("nowhere:flow", kill="process")


@pytest.mark.parametrize(
    ("flow", "options"),
    [
        ("m:flow", {}),
        (paying(), {"kill": "process"}),
        (paying(), {"kill": "softly"}),
        (paying(), {"every": 0}),
        ("m;import os:flow", {"kill": "process"}),
        ("named_flows:flow", {"kill": "process", "answers": {"a": len}}),
    ],
)
def test_what_does_not_go_together_is_refused(flow, options):
    """Before anything runs."""
    with pytest.raises(SettingsError):
        crash_sweep(flow, **options)


def test_a_report_counts_what_its_crashes_found():
    """A boundary that was not reached, one that differs, one that lost and repeated."""
    crashes = (
        Crash(1, "before", "A", crashed=False, differences=("was not reached",)),
        Crash(1, "after", "A", differences=("x",)),
        Crash(2, "before", "B", lost=("l",), repeated=("r", "s"), asked=1),
        Crash(2, "after", "B"),
    )
    report = SweepReport("w", 4, crashes)
    assert (report.boundaries, report.crashed, report.recovered) == (4, 3, 2)
    assert (report.lost, report.repeated, report.asked) == (1, 2, 1)
    assert not report.sound
    assert report.summary() == "workflow w: 4 boundaries, 3 crashes, 2 recovered, lost 1, repeated 2, asked 1"
    assert "2         before  B       lost: l; repeated: r; repeated: s" in report.table()
    assert SweepReport("w", 1, crashes[3:]).sound


class Paid(TypedDict, total=False):
    """What branches that pay bring together."""

    paid: Annotated[list[str], extend]
    said: str


def side_by_side(bank) -> Workflow:
    """Three branches that pay, each the same call by name and key; one of them asks a person first."""

    async def pays(state, run):
        return {"paid": [await run.effect("pay", bank.pay, run.branch)]}

    asks = Human(prompt="well?", writes="said")
    flow = Workflow("side_by_side", state=Paid)
    return flow.add_node("pay", Parallel({"a": pays, "b": pays, "ask": asks})).set_start("pay")


def test_branches_are_swept_too():
    """Their calls are told apart, what became of one is said to the branch that asks, and nothing is paid twice."""
    banks = []

    def make():
        banks.append(Bank())
        return side_by_side(banks[-1])

    def witness():
        return [key for bank in banks for key in bank.keys]

    report = crash_sweep(make, {"paid": []}, answers={"pay": "yes"}, witness=witness)
    report.check()
    assert report.asked

"""Going back and branching off: nothing is erased, nothing is shared that must not be."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypedDict

import pytest
from stories import names, story

from eventflow import CheckpointPolicy, Engine, MemoryLog, Workflow
from eventflow.codec import read_events
from eventflow.errors import (
    AmbiguousRun,
    CheckpointNotFound,
    HasForks,
    InvalidState,
    NeedsConfirmation,
    NotPlainData,
    NotResumable,
    RunExists,
    RunFailed,
    RunLost,
    SettingsError,
    VersionNotFound,
)
from eventflow.event import EffectFinished, Forked, Rewound
from eventflow.recovery import history, recover


def counter(last=5, body=None, name="w", **options) -> Workflow:
    """Node `count` adds one to n until it is `last`; node `end` ends the run."""

    async def count(state):
        return {"n": state["n"] + 1}

    flow = Workflow(name, **options).add_node("count", body or count).add_node("end", lambda s: {"done": True})
    flow.add_edge("count", "count", when=lambda s: s["n"] < last, label="more").add_edge("count", "end")
    return flow.set_start("count")


async def counted(engine, run_id="r", **options):
    """A run that has counted from 0 to its end: version v holds n = v - 1."""
    run = await engine.start(counter(**options), {"n": 0}, run_id=run_id)
    await run.result()
    return run


# --- rewinding -----------------------------------------------------------------------------------------------------


def test_a_rewind_is_an_event_and_erases_nothing():
    """The run goes on from there under new versions and a new epoch; what it did before can still be read."""

    async def tell():
        async with Engine() as engine:
            await counted(engine)
            log = engine.log
            before = [stored.data for stored in log.read(log.head("r").run_key, 1, 99)]
            old = log.head("r")
            run = await engine.resume("r", at=3, actor="ada", why="once more")
            assert await run.result() == {"n": 5, "done": True}
            assert [stored.data for stored in log.read(old.run_key, 1, old.version)] == before
            assert log.head("r").epoch == old.epoch + 1
            rewound = run.events(after=old.version)[0]
            assert rewound.event == Rewound(3, "count", "ada", "once more")
            assert rewound.before == old.digest
            assert run.version == 12
            for version, n in ((1, 0), (3, 2), (6, 5), (8, 2), (9, 3)):
                assert recover(log, log.head("r"), version).state.data["n"] == n
            assert recover(log, log.head("r")).state == recover(log, log.head("r"), snapshots=False).state

    story(tell())


def test_a_point_is_a_version_a_checkpoint_or_a_moment():
    """All three mean a version of the run."""

    async def tell():
        async with Engine(checkpoints=CheckpointPolicy(after_node=("count",))) as engine:
            run = await counted(engine)
            moments = [one.time for one in run.events()]
            assert [mark.id for mark in engine.checkpoints("r")] == ["c-2", "c-3", "c-4", "c-5", "c-6"]
            for at in (3, "3", "c-3"):
                run = await engine.resume("r", at=at)
                await run.result()
                assert [one.event.to for one in run.events() if isinstance(one.event, Rewound)][-1] == 3
            assert moments == sorted(moments)

    story(tell())


@pytest.mark.parametrize(
    ("at", "error"),
    [
        (0, VersionNotFound),
        (8, VersionNotFound),
        ("c-99", CheckpointNotFound),
        (7, NotResumable),
        ("yesterday", SettingsError),
        (-1, SettingsError),
        ("²", SettingsError),
        ("9" * 5000, SettingsError),
    ],
)
def test_a_point_that_is_not_there_changes_nothing(at, error):
    """The run's end is no place to go on from, and what does not exist is said so."""

    async def tell():
        async with Engine() as engine:
            run = await counted(engine)
            assert run.version == 7
            with pytest.raises(error):
                await engine.resume("r", at=at)
            assert run.version == 7

    story(tell())


def paying(*, mutating=True, fail=False) -> Workflow:
    """A node that makes a call, and one behind it."""

    async def pay(state, run):
        def call():
            if fail:
                raise OSError

        with contextlib.suppress(OSError):
            await run.effect("pay", call, mutating=mutating)

    return Workflow("w").add_node("a", pay).add_node("b", lambda s: None).add_edge("a", "b").set_start("a")


@pytest.mark.parametrize("at", [1, 2])
def test_going_back_over_a_call_that_changed_something_needs_a_yes(at):
    """It would be made again; that its start lies before the point makes no difference."""

    async def tell():
        flow = paying()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            version = run.version
            with pytest.raises(NeedsConfirmation, match=r"after version \d that can't be taken back \(pay\).*--yes"):
                await engine.resume("r", at=at)
            assert run.version == version
            run = await engine.resume("r", at=at, yes=True)
            await run.result()
            assert sum(isinstance(one.event, EffectFinished) for one in run.events()) == 2

    story(tell())


@pytest.mark.parametrize(("flow", "at"), [(paying(mutating=False), 1), (paying(fail=True), 1), (paying(), 3)])
def test_going_back_over_what_did_no_harm_asks_nothing(flow, at):
    """Reading calls, failed ones, and those that stay on the line."""

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            assert (await (await engine.resume("r", at=at)).wait()).status == "completed"

    story(tell())


def test_a_question_does_not_stop_the_run_it_is_about():
    """A rewind that must be confirmed leaves a driven run alone until it is."""

    async def tell():
        hold = asyncio.Event()
        lost = []

        async def waits(state, run):
            try:
                await hold.wait()
            finally:
                try:
                    await run.effect("more", print)
                except RunLost as error:
                    lost.append(error)

        flow = paying()
        flow.add_node("c", waits).add_edge("b", "c")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.state.node != "c":
                await asyncio.sleep(0.001)
            with pytest.raises(NeedsConfirmation):
                await engine.resume("r", at=1)
            assert run.status == "running"
            again = await engine.resume("r", at=1, yes=True)
            assert len(lost) == 1
            hold.set()
            assert (await again.wait()).status == "completed"
            assert (await run.wait()).status == "completed"  # who waited before the rewind waits on
            assert names(again)[5:8] == ["RunSuspended", "Rewound", "EffectStarted"]

    story(tell())


def test_a_run_may_go_back_again_and_again_also_to_what_it_left():
    """Each version is what it was when it was written, whichever line it lies on."""

    async def tell():
        async with Engine(checkpoints=CheckpointPolicy(every=1)) as engine:
            run = await counted(engine)
            expected = {
                one.version: recover(engine.log, engine.log.head("r"), one.version).state for one in run.events()
            }
            for at in (4, 9, 2, 5, 13, 1):
                run = await engine.resume("r", at=at)
                await run.result()
                for one in run.events():
                    state = recover(engine.log, engine.log.head("r"), one.version).state
                    assert expected.setdefault(one.version, state) == state
                    assert state == recover(engine.log, engine.log.head("r"), one.version, snapshots=False).state

    story(tell())


def test_a_change_that_another_line_made_is_not_seen():
    """Lists that grew on the abandoned line are as they were."""

    async def grow(state):
        return {"n": state["n"] + 1, "log": [*state["log"], f"{state['tag']}{state['n']}"]}

    async def tell():
        flow = counter(last=700, body=grow)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0, "log": [], "tag": "a"}, run_id="r")).result()
            fork = await engine.fork("r@601", run_id="f", change={"tag": "b"})
            mine = (await fork.result())["log"]
            again = (await (await engine.resume("r", at=650)).result())["log"]
            assert mine == [f"a{n}" for n in range(600)] + [f"b{n}" for n in range(600, 700)]
            assert again == [f"a{n}" for n in range(700)]

    story(tell())


# --- forking -------------------------------------------------------------------------------------------------------


def test_a_fork_costs_one_event_and_the_chain_goes_on():
    """Its first version follows the parent's, and its first digest-before is that of the parent's event."""

    async def tell():
        async with Engine() as engine:
            run = await counted(engine)
            before = engine.log.position()
            fork = await engine.fork("r@4", run_id="f", change={"n": 100}, drive=False, actor="ada", why="what if")
            assert engine.log.position() == before + 1
            (first,) = fork.events()
            assert (first.version, first.before) == (5, run.events()[3].digest)
            assert isinstance(first.event, Forked)
            assert (first.event.parent_id, first.event.at, first.event.actor, first.event.why) == (
                "r",
                4,
                "ada",
                "what if",
            )
            assert (fork.status, fork.state.data, fork.state.node) == ("running", {"n": 100}, "count")
            parent = fork.state.run.parent
            assert (parent.run_id, parent.at) == ("r", 4)
            assert await (await engine.resume("f")).result() == {"n": 101, "done": True}
            assert run.version == 7

    story(tell())


def test_a_fork_runs_at_once_and_leaves_its_parent_alone():
    """It has an id of its own, and the state as it was, changed where asked."""

    async def tell():
        async with Engine() as engine:
            parent = await counted(engine)
            fork = await engine.fork("r@4", change={"extra": True})
            assert await fork.result() == {"n": 5, "done": True, "extra": True}
            assert await parent.result() == {"n": 5, "done": True}
            assert fork.id != "r"
            assert engine.log.entry(engine.log.head(fork.id).run_key).parent_id == "r"

    story(tell())


def test_a_fork_of_a_fork_and_its_checkpoints():
    """Lines reach through any number of runs, from snapshots as from events."""

    async def tell():
        async with Engine(checkpoints=CheckpointPolicy(every=1)) as engine:
            await counted(engine)
            await (await engine.fork("r@3", run_id="f1", change={"a": 1})).result()
            await (await engine.fork("f1@5", run_id="f2", change={"b": 2})).result()
            await (await engine.fork("f2@2", run_id="f3", change={"c": 3})).result()
            for name in ("f1", "f2", "f3"):
                head = engine.log.head(name)
                assert recover(engine.log, head).state == recover(engine.log, head, snapshots=False).state
            assert engine.get("f2").data == {"n": 5, "a": 1, "b": 2, "done": True}
            assert engine.get("f3").data == {"n": 5, "c": 3, "done": True}

    story(tell())


def test_a_fork_may_go_back_to_before_its_fork():
    """It goes on under its own name; the parent is not touched."""

    async def tell():
        async with Engine() as engine:
            parent = await counted(engine)
            fork = await engine.fork("r@5", run_id="f", change={"x": 1})
            await fork.result()
            again = await engine.resume("f", at=2)
            assert await again.result() == {"n": 5, "done": True}
            state = again.state
            assert (state.run.run_id, state.run.parent.run_id) == ("f", "r")
            assert parent.version == 7
            assert recover(engine.log, engine.log.head("f"), snapshots=False).state == state

    story(tell())


def test_a_fork_takes_a_change_by_hand():
    """A resolved change or fields; what is not plain or does not fit the type is refused, and nothing is written."""

    class Typed(TypedDict):
        n: int

    async def tell():
        flow = counter(state=Typed)
        flow = Workflow("w", state=Typed).add_node("a", lambda s: {"n": s["n"] + 1}).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 1}, run_id="r")).result()
            before = engine.log.position()
            for change, error in (({"n": "many"}, InvalidState), ({"m": 1}, InvalidState)):
                with pytest.raises(error):
                    await engine.fork("r@1", change=change)
            engine._flows.clear()
            with pytest.raises(NotPlainData):
                await engine.fork("r@1", change={"n": {1}})
            assert engine.log.position() == before
            engine._flows["w"] = flow
            assert await (await engine.fork("r@1", change={"n": 7})).result() == {"n": 8}

    story(tell())


@pytest.mark.parametrize(
    ("address", "error"), [("r@7", NotResumable), ("r@9", VersionNotFound), ("r", NotResumable), ("s@1", AmbiguousRun)]
)
def test_what_can_not_be_forked_says_why(address, error):
    """The end of a run, a version it has not, a name that fits two."""

    async def tell():
        async with Engine() as engine:
            await counted(engine)
            await counted(engine, "s1")
            await counted(engine, "s2")
            with pytest.raises(error):
                await engine.fork(address)

    story(tell())


def test_a_fork_does_not_take_an_id_that_is_in_use():
    """Both ids stay what they are."""

    async def tell():
        async with Engine() as engine:
            await counted(engine)
            with pytest.raises(RunExists):
                await engine.fork("r@2", run_id="r")
            with pytest.raises(SettingsError):
                await engine.fork("r@2", run_id="a b")

    story(tell())


def test_a_failed_run_can_be_forked_where_it_failed():
    """With the cause mended in the state, the fork goes on."""

    async def tell():
        def body(state):
            return {"x": 1 / state["d"]}

        flow = Workflow("w").add_node("a", body).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"d": 0}, run_id="r")
            with pytest.raises(RunFailed):
                await run.result()
            fork = await engine.fork("r", change={"d": 2})
            assert await fork.result() == {"d": 2, "x": 0.5}
            assert run.status == "failed"

    story(tell())


def test_a_run_of_a_workflow_that_is_not_known_here_can_be_forked_but_not_driven():
    """It costs its event, and waits for who has the workflow."""

    async def tell():
        log = MemoryLog()
        async with Engine(log) as engine:
            await counted(engine)
        async with Engine(log) as engine:
            fork = await engine.fork("r@3", run_id="f")
            assert fork.status == "running"
            assert names(fork) == ["Forked"]
        async with Engine(log, workflows=[counter()], pick_up=True) as engine:
            assert await engine.get("f").result() == {"n": 5, "done": True}

    story(tell())


def test_signals_are_not_shared_with_a_fork():
    """What was sent to the parent was sent to the parent."""

    async def tell():
        hold = asyncio.Event()

        async def waits(state, run):
            await hold.wait()
            return {"got": [one["payload"] for one in run.signals]}

        flow = Workflow("w").add_node("a", waits).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await engine.signal("r", "s", 1)
            while not run.state.signals:
                await asyncio.sleep(0.001)
            fork = await engine.fork("r", run_id="f")
            hold.set()
            assert (await run.result(), await fork.result()) == ({"got": [1]}, {"got": []})

    story(tell())


def test_a_parent_is_not_deleted_while_forks_continue_it():
    """First the forks, then the parent; the digests of what was deleted stay."""

    async def tell():
        async with Engine() as engine:
            run = await counted(engine)
            digests = [one.digest for one in run.events()]
            await (await engine.fork("r@3", run_id="f")).result()
            with pytest.raises(HasForks):
                await engine.delete("r")
            await engine.delete("f")
            await engine.delete("r")
            kept = [stored.data[-32:] for stored in engine.log.feed(0, 99)]
            assert set(digests) <= set(kept)

    story(tell())


def test_a_forks_history_is_its_own_and_its_line_reaches_back(tmp_path):
    """On disk too: events by version, the state by line."""

    async def tell():
        async with Engine(tmp_path / "s") as engine:
            await counted(engine)
            fork = await engine.fork("r@4", run_id="f")
            await fork.result()
            log, head = engine.log, engine.log.head("f")
            assert [one.version for one in history(log, head.run_key, 1, 99)] == [5, 6, 7, 8]
            assert recover(log, head, 2).state.data == {"n": 1}
            assert read_events(log.read(head.run_key, 5, 5), log.blobs)[0].event.at == 4

    story(tell())

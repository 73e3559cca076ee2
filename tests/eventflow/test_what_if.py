"""What-if runs: what answers their calls, what is made, what is denied, and that the history says which."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Annotated, Any, TypedDict

import pytest

from eventflow import Child, EffectPolicy, Engine, Map, RetryPolicy, RunFailed, Workflow, extend, recover
from eventflow.address import resolve
from eventflow.errors import DefinitionError, EffectDenied, NotResumable
from eventflow.event import EffectFinished, EffectStarted, Forked, RunResumed
from eventflow.log import MemoryLog, Query
from eventflow.state import State
from eventflow.what_if import (
    document_of,
    earlier,
    estimate,
    is_what_if,
    policy_of,
    source_after,
    told,
    verdict,
    widened,
)


def story(test: Any) -> Any:
    """A test that is a coroutine, run to its end."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


class Data(TypedDict, total=False):
    n: int
    said: Annotated[list[Any], extend]


class World:
    """What is outside: it counts who calls it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def ask(self, n: int) -> str:
        self.calls.append("ask")
        return f"answer {n}, call {len(self.calls)}"

    def pay(self, n: int) -> dict[str, int]:
        self.calls.append("pay")
        return {"paid": n}


def used(_: Any) -> dict[str, Any]:
    """What a call reports of itself."""
    return {"input_tokens": 100, "output_tokens": 20, "cost": 0.5}


def shopping(world: World) -> Workflow:
    """Ask twice, once in each of two visits, then pay."""

    async def look(state: Data, run: Any) -> Data:
        return {"said": [await run.effect("ask", world.ask, state["n"], mutating=False, usage=used)]}

    async def pay(state: Data, run: Any) -> Data:
        return {"said": [await run.effect("pay", world.pay, state["n"])]}

    return (
        Workflow("shopping", state=Data)
        .add_node("look", look)
        .add_node("pay", pay)
        .add_node("end", lambda _: {"said": ["end"]})
        .add_edge("look", "look", when=lambda state: len(state["said"]) < 2)
        .add_edge("look", "pay")
        .add_edge("pay", "end")
        .set_start("look")
    )


@pytest.fixture
def world() -> World:
    """The outside, uncalled."""
    return World()


@pytest.fixture
def flow(world: World) -> Workflow:
    """The workflow that calls it."""
    return shopping(world)


async def shopped(engine: Engine, flow: Workflow, world: World) -> list[Any]:
    """What the run `r` said, after which the world has forgotten its calls."""
    result = await (await engine.start(flow, {"n": 1}, run_id="r")).result()
    assert world.calls == ["ask", "ask", "pay"]
    world.calls.clear()
    return list(result["said"])


def sources(run: Any) -> list[str]:
    """What answered each call that a run recorded."""
    return [one.event.source for one in run.events() if isinstance(one.event, EffectFinished)]


@story
async def test_what_was_recorded_answers_in_its_order_and_nothing_is_called(flow, world):
    """Each visit of a node gets the answer of its own turn, and the history names where it is from."""
    async with Engine("memory", workflows=[flow]) as engine:
        said = await shopped(engine, flow, world)
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy())
        assert (await run.result())["said"] == said
        assert world.calls == []
        assert sources(run) == ["r@3", "r@6", "r@9"]
        assert run.state.usage == {}


@story
async def test_what_the_parent_did_before_the_fork_is_kept(flow, world):
    """From the middle of a node on: its finished call stays its own, later ones are answered."""
    async with Engine("memory", workflows=[flow]) as engine:
        said = await shopped(engine, flow, world)
        run = await engine.fork("r@6", run_id="b", effects=EffectPolicy())
        assert (await run.result())["said"] == said
        assert (world.calls, sources(run)) == ([], ["r@9"])


@story
async def test_a_changed_question_is_denied_by_one_clear_sentence(flow, world):
    """Which names the call, its input and what would allow it; the run failed, and nothing was started."""
    async with Engine("memory", workflows=[flow]) as engine:
        await shopped(engine, flow, world)
        run = await engine.fork("r@1", run_id="b", change={"n": 2}, effects=EffectPolicy())
        with pytest.raises(RunFailed, match="EffectDenied") as caught:
            await run.result()
        for part in ("'ask' (key 1)", "node 'look'", "{'args': [2]}", "--live ask", "--mock ask=JSON"):
            assert part in str(caught.value)
        assert world.calls == []
        assert not any(isinstance(one.event, EffectStarted) for one in run.events())
        assert run.state.error.retryable is False


@story
async def test_every_call_that_does_not_mutate_may_be_made_and_no_other(flow, world):
    """The star is for those alone; what mutates is denied until it is named."""
    async with Engine("memory", workflows=[flow]) as engine:
        await shopped(engine, flow, world)
        policy = EffectPolicy(live=["*"])
        run = await engine.fork("r@1", run_id="b", change={"n": 2}, effects=policy)
        with pytest.raises(RunFailed, match="'pay'"):
            await run.result()
        assert world.calls == ["ask", "ask"]
        run = await engine.resume("b", effects=EffectPolicy(live=["*", "pay"]))
        assert (await run.result())["said"][2] == {"paid": 2}
        assert world.calls == ["ask", "ask", "pay"]
        assert sources(run) == ["", "", ""]
        resumed = [one.event for one in run.events() if isinstance(one.event, RunResumed)]
        assert document_of(resumed[-1].effects)["live"] == ["*", "pay"]


@story
async def test_a_value_given_answers_and_is_marked(flow, world):
    """Whatever the input, before any record; falsy ones too."""
    async with Engine("memory", workflows=[flow]) as engine:
        await shopped(engine, flow, world)
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy(mock={"ask": None, "pay": 0}))
        assert (await run.result())["said"] == [None, None, 0, "end"]
        assert (world.calls, sources(run)) == ([], ["mock"] * 3)


@story
async def test_a_name_that_is_denied_is_not_answered_either(flow, world):
    """Not even by its own record."""
    async with Engine("memory", workflows=[flow]) as engine:
        await shopped(engine, flow, world)
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy(deny=["pay"]))
        with pytest.raises(RunFailed, match="denied by name"):
            await run.result()
        assert sources(run) == ["r@3", "r@6"]


@story
async def test_without_the_record_only_what_is_named_is_made(flow, world):
    """A fresh answer where the parent has one."""
    async with Engine("memory", workflows=[flow]) as engine:
        await shopped(engine, flow, world)
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy(live=["ask"], mock={"pay": 1}, recorded=False))
        await run.result()
        assert (world.calls, sources(run)) == (["ask", "ask"], ["", "", "mock"])


@story
async def test_the_policy_outlives_the_process(flow, world, tmp_path):
    """It is read back from the history, and what has answered once does not answer again."""
    async with Engine(tmp_path / "s", workflows=[flow]) as engine:
        said = await shopped(engine, flow, world)
        await engine.fork("r@1", run_id="b", effects=EffectPolicy(), drive=False)
        run = await engine.resume("b", stop_before=["pay"])
        await run.wait()
        assert sources(run) == ["r@3", "r@6"]
    async with Engine(tmp_path / "s", workflows=[flow]) as engine:
        run = await engine.resume("b")
        assert (await run.result())["said"] == said
        assert (world.calls, sources(run)) == ([], ["r@3", "r@6", "r@9"])


@story
async def test_it_goes_back_and_is_answered_again(flow, world):
    """What a rewind leaves behind is not spent; what it takes along keeps its mark."""
    async with Engine("memory", workflows=[flow]) as engine:
        said = await shopped(engine, flow, world)
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy())
        await run.result()
        again = await engine.resume("b", at=2)
        assert (await again.result())["said"] == said
        assert sources(again)[3:] == ["r@3", "r@6", "r@9"]
        kept = await engine.resume("b", at=2, effects="reuse")
        assert (await kept.result())["said"] == said
        assert sources(kept)[6:] == ["r@3", "r@6", "r@9"]
        assert world.calls == []


@story
async def test_a_denied_call_ends_the_run_whatever_its_code_makes_of_it(world):
    """Neither an error that is swallowed, nor another one, nor attempts, nor an error edge lead on."""
    tried: list[str] = []

    async def swallows(state: Data, run: Any) -> Data:
        tried.append(run.node)
        with contextlib.suppress(EffectDenied):
            await run.effect("pay", world.pay, 1)
        return {"n": 1}

    async def wraps(state: Data, run: Any) -> Data:
        tried.append(run.node)
        try:
            await run.effect("pay", world.pay, 1)
        except EffectDenied as error:
            raise ValueError("no") from error

    for body in (swallows, wraps):
        flow = (
            Workflow(body.__name__, state=Data)
            .add_node("first", lambda _: {})
            .add_node("body", body, retry=RetryPolicy(attempts=3, delay=0.001))
            .add_node("after", lambda _: {})
            .add_edge("first", "body")
            .add_edge("body", "after", on="failed")
            .add_edge("body", "after")
            .set_start("first")
        )
        async with Engine("memory", workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            tried.clear()
            world.calls.clear()
            run = await engine.fork("r@1", run_id="b", effects=EffectPolicy(recorded=False))
            with pytest.raises(RunFailed, match="EffectDenied"):
                await run.result()
            assert (tried, world.calls) == (["body"], [])


@story
async def test_a_branch_s_denied_call_ends_the_run_too(world):
    """However many failures its node tolerates; answers find the branch they were given in."""

    async def one(item: int, run: Any) -> Any:
        return await run.effect("ask", world.ask, 7, mutating=False)

    flow = (
        Workflow("map")
        .add_node("first", lambda _: {})
        .add_node("all", Map(one, over="items", writes="said", tolerate=2))
    )
    flow = flow.add_edge("first", "all").set_start("first")
    async with Engine("memory", workflows=[flow]) as engine:
        result = await (await engine.start(flow, {"items": [1, 2]}, run_id="r")).result()
        world.calls.clear()
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy())
        assert await run.result() == result
        run = await engine.fork("r@1", run_id="c", effects=EffectPolicy(deny=["ask"]))
        with pytest.raises(RunFailed, match="EffectDenied"):
            await run.result()
        assert world.calls == []


@story
async def test_a_child_of_a_what_if_run_is_one_too(world):
    """It may call what its caller may, and no record answers it."""
    child = shopping(world)
    flow = outer(child)
    async with Engine("memory", workflows=[flow]) as engine:
        await (await engine.start(flow, {"n": 1}, run_id="r")).result()
        world.calls.clear()
        run = await engine.fork("r@1", run_id="b", effects=EffectPolicy(mock={"ask": "given"}))
        with pytest.raises(RunFailed, match="pay"):
            await run.result()
        assert world.calls == []
        inner = [one for one in engine.log.runs(Query()) if one.head.run_id.startswith("b.")]
        assert [is_what_if(engine.log, one.head) for one in inner] == [True]


def outer(child: Workflow) -> Workflow:
    """A workflow that starts another as a part of itself."""
    return (
        Workflow("outer", state=Data)
        .add_node("first", lambda _: {})
        .add_node("inner", Child(child, reads=["n"], writes={"n": "n"}))
        .add_edge("first", "inner")
        .set_start("first")
    )


@story
async def test_what_was_not_made_is_not_taken_back(world):
    """A compensation is for calls that happened; one for a call that was really made is itself made."""
    undone: list[Any] = []

    async def pay(state: Data, run: Any) -> Data:
        await run.effect("pay", world.pay, 1)
        raise ValueError("after all not")

    flow = (
        Workflow("undo", state=Data)
        .add_node("first", lambda _: {})
        .add_node("pay", pay)
        .add_edge("first", "pay")
        .add_compensation("pay", undone.append)
        .set_start("first")
    )
    async with Engine("memory", workflows=[flow]) as engine:
        with pytest.raises(RunFailed):
            await (await engine.start(flow, {}, run_id="r")).result()
        assert undone == [{"paid": 1}]
        for policy, made in ((EffectPolicy(mock={"pay": 5}), 1), (EffectPolicy(live=["pay"], recorded=False), 2)):
            run = await engine.fork("r@1", effects=policy)
            with pytest.raises(RunFailed, match="after all not"):
                await run.result()
            assert len(undone) == made


@story
async def test_a_fork_of_one_is_one_unless_told_otherwise(flow, world):
    """Its policy and its record are inherited; another policy, or the real world, are said on the fork."""
    async with Engine("memory", workflows=[flow]) as engine:
        said = await shopped(engine, flow, world)
        await (await engine.fork("r@1", run_id="b", effects=EffectPolicy())).result()
        again = await engine.fork("b@5", run_id="c")
        assert (await again.result())["said"] == said
        assert (world.calls, sources(again)) == ([], ["r@6", "r@9"])
        real = await engine.fork("b@5", run_id="d", effects="real")
        assert (await real.result())["said"][0] == said[0]
        assert (world.calls, sources(real)) == (["ask", "pay"], ["", ""])
        heads = {name: engine.log.head(name) for name in "rbcd"}
        assert {name: is_what_if(engine.log, head) for name, head in heads.items()} == {
            "r": False, "b": True, "c": True, "d": False,
        }  # fmt: skip
        forked = engine.get("d").events()[0].event
        assert isinstance(forked, Forked)
        assert forked.effects == {}


@story
async def test_only_what_if_runs_take_a_policy_and_are_told_so(flow, world):
    """A run that makes every call stays what it is."""
    async with Engine("memory", workflows=[flow]) as engine:
        await engine.start(flow, {"n": 1}, run_id="r")
        run = await engine.fork("r@1", run_id="f", drive=False)
        with pytest.raises(NotResumable, match="no what-if run"):
            await engine.resume(run.id, effects=EffectPolicy())


@story
async def test_what_the_parent_does_later_is_none_of_its_record(flow, world):
    """The record ends where the parent stood when it was forked."""
    async with Engine("memory", workflows=[flow]) as engine:
        run = await engine.start(flow, {"n": 1}, run_id="r")
        await run.result()
        await engine.fork("r@1", run_id="half", drive=False)
        head = resolve(engine.log, "r@3").head
        state = _state_at(engine, "r@3")
        span = source_after(head, state, changed=False)
        assert (span["first"], span["last"]) == (4, head.version)
        assert [one.place for one in earlier(engine.log, {**span, "last": 8})] == ["r@6"]


def _state_at(engine: Engine, address: str) -> State:
    place = resolve(engine.log, address)
    return recover(engine.log, place.head, place.version).state


@story
async def test_refused_results_and_records_of_the_engine_answer_nothing(world):
    """A result that the node's code refused was not good enough there either."""

    async def picky(state: Data, run: Any) -> Data:
        said = await run.effect("ask", world.ask, 1, mutating=False)
        if said.endswith("call 1"):
            await run.reject("ask", why="not that one")
            said = await run.effect("ask", world.ask, 1, key="1", mutating=False)
        return {"said": [said]}

    flow = (
        Workflow("picky", state=Data).add_node("a", lambda _: {}).add_node("b", picky).add_edge("a", "b").set_start("a")
    )
    async with Engine("memory", workflows=[flow]) as engine:
        result = await (await engine.start(flow, {}, run_id="r")).result()
        run = await engine.fork("r@1", run_id="f", effects=EffectPolicy())
        assert await run.result() == result
        assert sources(run) == ["r@7"]


@story
async def test_an_estimate_is_of_the_calls_that_may_be_made(flow, world):
    """Their number, tokens and cost as the parent recorded them, and a sentence that says so."""
    async with Engine("memory", workflows=[flow]) as engine:
        await shopped(engine, flow, world)
        place = resolve(engine.log, "r@1")
        span = source_after(place.head, _state_at(engine, "r@1"), changed=False)
        likely = estimate(engine.log, span, EffectPolicy(live=["*"]))
        assert (likely.calls, likely.input_tokens, likely.output_tokens, likely.cost) == ({"ask": 2}, 200, 40, 1.0)
        assert "ask (2 times); they took 200 tokens in and 40 out, and cost 1" in str(likely)
        assert estimate(engine.log, span, EffectPolicy(live=["pay"])).calls == {"pay": 1}
        late = source_after(place.head, _state_at(engine, "r@9"), changed=False)
        assert "not known" in str(estimate(engine.log, late, EffectPolicy(live=["*"])))


def test_a_policy_says_one_thing_of_a_name():
    """And nothing of every call, but that it is made."""
    for wrong in (
        {"live": "ask"},
        {"deny": ["*"]},
        {"mock": {"*": 1}},
        {"live": ["a"], "mock": {"a": 1}},
        {"live": [1]},
    ):
        with pytest.raises(DefinitionError):
            EffectPolicy(**wrong)


def test_a_policy_is_read_back_and_widened():
    """What is said last of a name counts; what a person is told names everything."""
    plain = EffectPolicy(live=["*"], mock={"ask": 1}, deny=["pay"]).plain(None)
    assert policy_of(plain) == EffectPolicy(live=("*",), mock={"ask": 1}, deny=("pay",), recorded=False)
    after = widened(plain, EffectPolicy(live=["pay"], mock={"ask": 2}))
    assert (set(after.live), dict(after.mock), set(after.deny)) == ({"*", "pay"}, {"ask": 2}, set())
    assert told(plain) == (
        "no record answers; made: every call that does not mutate; answered by a given value: ask; denied by name: pay; "
        "all else is denied"
    )
    assert verdict(plain, "x", mutating=True) == "recorded"
    assert verdict(plain, "x", mutating=False) == "live"
    assert document_of({}) is None


def test_a_run_that_is_gone_has_no_record():
    """Nothing answers, and nothing fails."""
    assert earlier(MemoryLog(), {"run": bytes(16), "first": 1, "last": 9}) == []

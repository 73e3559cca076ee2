"""Approval of tool calls: a call that a person must allow waits as a state, and is made once or never."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pydantic
import pytest
from stories import story

from eventflow import Agent, Engine, ManualClock, Map, MemoryLog, Parallel, RetryPolicy, Tool, Workflow
from eventflow.errors import DefinitionError
from eventflow.event import EffectFinished, EffectStarted, SignalReceived, SignalRefused, WaitClosed, WaitOpened
from eventflow.plain import MAX_DEPTH
from eventflow.state import open_waits
from eventflow.testing import Call, ModelServer, Reply

BOTH = pytest.mark.parametrize("api", ["chat", "responses"])


def results(call: Call) -> list[str]:
    """What a request tells of tools, in either API."""
    if "messages" in call.body:
        return [one["content"] for one in call.body["messages"] if one["role"] == "tool"]
    return [one["output"] for one in call.body["input"] if one.get("type") == "function_call_output"]


def calls(*named: tuple[str, Any]) -> Reply:
    """A turn in which the model asks for tools."""
    return Reply(tool_calls=named)


class Item(pydantic.BaseModel):
    """A nested argument."""

    name: str


class Till:
    """A tool that pays, and what it has paid."""

    def __init__(self) -> None:
        self.paid: list[tuple[str, int]] = []

    def refund(self, order: str, amount: int = 10) -> str:
        """Give money back."""
        self.paid.append((order, amount))
        return f"refunded {amount}"

    def tool(self, **options: Any) -> Tool:
        """It, to be approved before it pays."""
        return Tool(self.refund, **({"needs_approval": True} | options))


def asking(server: ModelServer, *tools: Any, retry: RetryPolicy | None = None, **options: Any) -> Workflow:
    """One agent that reads `q`, may use tools, and writes `a`."""
    agent = Agent(model="m", reads="q", writes="a", tools=tools, base_url=server.base_url, **options)
    return Workflow("w").add_node("ask", agent, retry=retry).set_start("ask")


async def waits(run: Any, *, not_for: tuple[int, ...] = ()) -> dict[str, Any]:
    """The one wait of a run for a person, once there is one that is not among those named."""
    while True:
        found = [one for _, one in open_waits(run.state) if one["kind"] == "human" and one["id"] not in not_for]
        if found:
            return found[0]
        assert not run.state.ended, run.state.error
        await asyncio.sleep(0.002)


async def answered(flow: Workflow, *answers: Any, data: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """A run of it with an answer to each question in turn; its last state, and its events."""
    async with Engine(workflows=[flow], **options) as engine:
        run = await engine.start(flow, {"q": "?"} if data is None else data, run_id="r")
        seen: tuple[int, ...] = ()
        for answer in answers:
            wait = await waits(run, not_for=seen)
            seen += (wait["id"],)
            await engine.answer("r", answer, wait=wait["id"], actor="ana")
        return await run.wait(), [one.event for one in run.events()]


# --- asked, and answered -------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("yes", [True, {"approve": True}, {"approve": True, "why": "he asked nicely"}])
def test_a_call_waits_until_it_is_approved(api, yes):
    """Nothing is called before; the question is plain data; the answer, with who gave it, is in the log before the call."""
    till = Till()

    async def tell(server: ModelServer) -> None:
        flow = asking(server, till.tool(), api=api)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            wait = await waits(run)
            assert (run.status, run.state.waiting_for) == ("waiting", "human")
            assert till.paid == []
            assert wait["spec"]["prompt"] == 'ask wants to call refund with {"order": "7", "amount": 80}; may it?'
            assert {name: wait["spec"][name] for name in ("agent", "tool", "arguments")} == {
                "agent": "ask", "tool": "refund", "arguments": {"order": "7", "amount": 80}
            }  # fmt: skip
            await engine.answer("r", yes, actor="ana")
            assert (await run.result())["a"] == "done"
            events = [one.event for one in run.events()]
        order = [
            at for at, one in enumerate(events)
            if isinstance(one, WaitOpened | SignalReceived | WaitClosed)
            or (isinstance(one, EffectStarted) and one.name == "tool:refund")
        ]  # fmt: skip
        assert [type(events[at]).__name__ for at in order] == [
            "WaitOpened", "SignalReceived", "WaitClosed", "EffectStarted"
        ]  # fmt: skip
        assert events[order[1]].actor == "ana"
        said = [one.output for one in events if isinstance(one, EffectFinished) and one.name == "approve:refund"]
        assert said == [{"approve": True} if yes is True else yes]

    with ModelServer([calls(("refund", {"order": "7", "amount": 80})), "done"]) as server:
        story(tell(server))
        assert results(server.calls[1]) == ["refunded 80"]
    assert till.paid == [("7", 80)]


@BOTH
def test_an_edited_call_is_made_with_other_arguments_and_the_model_is_told(api):
    """The function gets what the person gave, the log has both, and the model knows what was done."""
    till = Till()
    with ModelServer([calls(("refund", {"order": "7", "amount": 80})), "done"]) as server:
        flow = asking(server, till.tool(), api=api)
        _, events = story(answered(flow, {"approve": True, "arguments": {"order": "7", "amount": 8}}))
        (result,) = results(server.calls[1])
    assert till.paid == [("7", 8)]
    assert result == (
        "The person who approved this call changed its arguments; it was made with "
        '{"order": "7", "amount": 8} and came to:\nrefunded 8'
    )
    started = {one.name: one.input for one in events if isinstance(one, EffectStarted)}
    assert started["tool:refund"] == {"arguments": {"order": "7", "amount": 8}}
    assert started["approve:refund"]["arguments"] == {"order": "7", "amount": 80}


@BOTH
@pytest.mark.parametrize(
    ("no", "told"),
    [
        (False, "error: the call was not approved"),
        ({"approve": False}, "error: the call was not approved"),
        ({"approve": False, "why": "too much"}, "error: the call was not approved: too much"),
    ],
)
def test_a_refused_call_is_not_made_and_the_model_is_told(api, no, told):
    """The refusal is the tool's result, and the model goes on."""
    till = Till()
    with ModelServer([calls(("refund", {"order": "7"})), "sorry"]) as server:
        state, events = story(answered(asking(server, till.tool(), api=api), no))
        assert results(server.calls[1]) == [told]
    assert (state.data["a"], till.paid) == ("sorry", [])
    assert not any(isinstance(one, EffectStarted) and one.name == "tool:refund" for one in events)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("yes", "must be true, false"),
        (1, "must be true, false"),
        ({"approve": "yes"}, "must be true, false"),
        ({"why": "because"}, "must be true, false"),
        ({"approve": True, "argument": {}}, "must be true, false"),
        ({"approve": True, "why": 3}, "must be a text"),
        ({"approve": True, "arguments": [1]}, "must be an object"),
        ({"approve": True, "arguments": {"order": "7", "amount": "much"}}, "amount: Input should be a valid integer"),
        ({"approve": True, "arguments": {}}, "order: Field required"),
        ({"approve": False, "arguments": {"order": "7"}}, "refuses the call, and gives arguments"),
    ],
)
def test_an_answer_that_will_not_do_allows_nothing(answer, why):
    """It is put aside with the reason, and the run waits on for another."""
    till = Till()

    async def tell(server: ModelServer) -> None:
        flow = asking(server, till.tool())
        async with Engine(workflows=[flow]) as engine, Engine(engine_log(engine)) as stranger:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            wait = await waits(run)
            await stranger.answer("r", answer)  # who does not know the workflow can't look at it first
            while not (refused := [one.event for one in run.events() if isinstance(one.event, SignalRefused)]):
                await asyncio.sleep(0.002)
            assert why in refused[0].why
            assert ((await waits(run))["id"], till.paid) == (wait["id"], [])
            await engine.answer("r", True)
            await run.result()

    with ModelServer([calls(("refund", {"order": "7"})), "done"]) as server:
        story(tell(server))
    assert till.paid == [("7", 10)]


def engine_log(engine: Engine) -> Any:
    """The store of an engine, for another one."""
    return engine.log


def test_the_schema_of_the_answer_has_the_tool_s_own_arguments():
    """It is JSON Schema, references into the tool's definitions included, so that a page can make a form of it."""

    def buy(item: Item, count: int = 1) -> str:
        """Buy."""
        return f"{count} {item.name}"

    async def tell(server: ModelServer) -> Any:
        flow = asking(server, Tool(buy, needs_approval=True))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            return (await waits(run))["spec"]["schema"]

    with ModelServer([calls(("buy", {"item": {"name": "pen"}}))]) as server:
        schema = story(tell(server))
    boolean, yes, no = schema["anyOf"]
    assert boolean == {"type": "boolean"}
    assert yes["properties"]["arguments"]["properties"]["item"] == {"$ref": "#/$defs/Item"}
    assert schema["$defs"]["Item"]["required"] == ["name"]
    assert (yes["properties"]["approve"], no["properties"]["approve"]) == ({"const": True}, {"const": False})
    assert "arguments" not in no["properties"]
    assert "$defs" not in yes["properties"]["arguments"]


def test_nobody_answers_in_time_and_the_call_is_refused():
    """A limit that is over is a refusal: what nobody allowed is not done."""
    till, clock = Till(), ManualClock()

    async def tell(server: ModelServer) -> Any:
        flow = asking(server, till.tool(approval_timeout=60))
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            await waits(run)
            clock.advance(61)
            return (await run.wait()).data["a"]

    with ModelServer([calls(("refund", {"order": "7"})), "sorry"]) as server:
        assert story(tell(server)) == "sorry"
        assert results(server.calls[1]) == ["error: the call was not approved: nobody approved it in time"]
    assert till.paid == []


# --- which calls are asked about -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_of_the_arguments_says_which_calls_need_it(is_async):
    """It sees the values the function would get, defaults among them, and is asked once for each call."""
    till, seen = Till(), []

    def much(arguments: dict[str, Any]) -> bool:
        seen.append(arguments)
        return arguments["amount"] > 50

    async def later(arguments: dict[str, Any]) -> bool:
        return much(arguments)

    tool = till.tool(needs_approval=later if is_async else much)
    turn = calls(("refund", {"order": "a"}), ("refund", {"order": "b", "amount": "60"}))
    with ModelServer([turn, "done"]) as server:
        _, events = story(answered(asking(server, tool), True))
        assert results(server.calls[1]) == ["refunded 10", "refunded 60"]
    assert till.paid == [("a", 10), ("b", 60)]
    assert seen == [{"order": "a", "amount": 10}, {"order": "b", "amount": 60}]
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


def test_a_function_that_fails_allows_nothing():
    """The node fails with its error: a broken rule is no rule."""
    till = Till()
    with ModelServer([calls(("refund", {"order": "7"}))]) as server:
        flow = asking(server, till.tool(needs_approval=lambda arguments: arguments["sum"] > 50))
        state, _ = story(answered(flow))
    assert (state.status, state.error.type, till.paid) == ("failed", "KeyError", [])


def test_calls_that_could_not_be_made_anyway_are_not_asked_about():
    """Arguments that do not fit, and tools that do not exist, the model is told of at once."""
    till = Till()
    turn = calls(("refund", {"amount": 5}), ("refund", "{"), ("steal", {}))
    with ModelServer([turn, "oh"]) as server:
        state, events = story(answered(asking(server, till.tool())))
        assert len(results(server.calls[1])) == 3
    assert (state.data["a"], till.paid) == ("oh", [])
    assert not any(isinstance(one, WaitOpened) for one in events)


def test_the_calls_of_a_turn_are_asked_about_one_by_one_and_the_others_do_not_wait():
    """Each has a wait of its own: an answer never reaches the wrong call, as where parallel interrupts share an id."""
    till, looked = Till(), []

    def look(n: int) -> int:
        """Look."""
        looked.append(n)
        return n

    turn = calls(("refund", {"order": "a"}), ("look", {"n": 1}), ("refund", {"order": "b"}), ("refund", {"order": "c"}))

    async def tell(server: ModelServer) -> Any:
        flow = asking(server, till.tool(), look)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            ids: tuple[int, ...] = ()
            for order, answer, paid in (("a", True, []), ("b", False, ["a"]), ("c", True, ["a"])):
                wait = await waits(run, not_for=ids)
                assert (wait["spec"]["arguments"]["order"], [one for one, _ in till.paid]) == (order, paid)
                assert looked == [1]
                ids += (wait["id"],)
                await engine.answer("r", answer, wait=wait["id"])
            await run.result()
            assert len(set(ids)) == 3

    with ModelServer([turn, "done"]) as server:
        story(tell(server))
        assert results(server.calls[1]) == [
            "refunded 10", "1", "error: the call was not approved", "refunded 10"
        ]  # fmt: skip
    assert [order for order, _ in till.paid] == ["a", "c"]


# --- crashes, parking, changes of code -----------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    """What a file holds, line by line; nothing if it is not there."""
    return path.read_text().split() if path.exists() else []


def resumed(path: Path, flow: Workflow, *answers: Any) -> Any:
    """What a run in a store comes to when it is taken up again and answered."""

    async def tell() -> Any:
        async with Engine(path, workflows=[flow]) as engine:
            run = await engine.resume("r")
            seen: tuple[int, ...] = ()
            for answer in answers:
                wait = await waits(run, not_for=seen)
                seen += (wait["id"],)
                await engine.answer("r", answer, wait=wait["id"])
            state = await run.wait()
            return state, [one.event for one in run.events()]

    return story(tell())


@BOTH
def test_a_kill_while_it_waits_loses_nothing_and_repeats_nothing(child, tmp_path, api):
    """No turn and no call before the question is made again on resume, as code before an interrupt is elsewhere."""
    path, done = tmp_path / "s", tmp_path / "done"

    def note(what: str) -> str:
        """Note."""
        with done.open("a") as file:
            file.write(f"{what}\n")
        return what

    turn = calls(("note", {"what": "free"}), ("careful", {"what": "asked"}))
    with ModelServer([turn, "done"]) as server:
        flow = asking(server, note, Tool(note, name="careful", needs_approval=True), api=api)

        def drive(say: Any) -> None:
            async def tell() -> None:
                async with Engine(path) as engine:
                    run = await engine.start(flow, {"q": "?"}, run_id="r")
                    await waits(run)
                    say("waiting")
                    await run.wait()

            asyncio.run(tell())

        driver = child(drive)
        driver.line()
        driver.kill()
        driver.end()
        assert lines(done) == ["free"]
        state, events = resumed(path, flow, True)
        assert len(server.calls) == 2
    assert (state.data["a"], lines(done)) == ("done", ["free", "asked"])
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


def test_a_kill_after_the_answer_neither_asks_again_nor_repeats_the_call(child, tmp_path):
    """A long call that was approved and finished is not silently dispatched again, nor is anybody asked about it twice."""
    path, done = tmp_path / "s", tmp_path / "done"

    def pay(order: str) -> str:
        """Pay."""
        with done.open("a") as file:
            file.write(f"{order}\n")
        return "paid"

    def script(call: Call) -> Reply | str:
        if call.number == 1:
            return calls(("pay", {"order": "7"}))
        return Reply("late", delay=20) if call.number == 2 else "done"

    with ModelServer(script) as server:
        flow = asking(server, Tool(pay, needs_approval=True))

        def drive() -> None:
            async def tell() -> None:
                async with Engine(path) as engine:
                    run = await engine.start(flow, {"q": "?"}, run_id="r")
                    await waits(run)
                    await engine.answer("r", True)
                    await run.wait()

            asyncio.run(tell())

        driver = child(drive)
        while len(server.calls) < 2:
            time.sleep(0.005)
        driver.kill()
        driver.end()
        state, events = resumed(path, flow)
    assert (state.data["a"], lines(done)) == ("done", ["7"])
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


def test_an_approved_call_cut_off_in_the_middle_is_settled_not_asked_about_again(child, tmp_path):
    """What was allowed stays allowed; whether it happened is another question, which `reconcile` answers."""
    path, done = tmp_path / "s", tmp_path / "done"

    def pay(order: str, idempotency_key: str) -> str:
        """Pay, and die before anybody knows."""
        with done.open("a") as file:
            file.write(f"{order}\n")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    with ModelServer([calls(("pay", {"order": "7"})), "done"]) as server:
        tool = Tool(pay, needs_approval=True, reconcile=lambda idempotency_key: "paid before")
        flow = asking(server, tool)

        def drive() -> None:
            async def tell() -> None:
                async with Engine(path) as engine:
                    run = await engine.start(flow, {"q": "?"}, run_id="r")
                    await waits(run)
                    await engine.answer("r", {"approve": True, "arguments": {"order": "8"}})
                    await run.wait()

            asyncio.run(tell())

        assert child(drive).answer() == "signal 9"
        state, events = resumed(path, flow)
        assert results(server.calls[1])[0].endswith("came to:\npaid before")
    assert (state.data["a"], lines(done)) == ("done", ["8"])
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


@BOTH
def test_a_parked_run_wakes_with_the_answer(api, monkeypatch):
    """It leaves memory while it waits, and goes on where it was."""
    monkeypatch.setattr("eventflow.engine.drive.PARK_AFTER", 0.02)
    till = Till()

    async def tell(server: ModelServer) -> Any:
        flow = asking(server, till.tool(), api=api)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            await waits(run)
            while any(task.get_name().startswith("run ") for task in asyncio.all_tasks()):
                await asyncio.sleep(0.002)
            await engine.answer("r", True)
            return await run.result()

    with ModelServer([calls(("refund", {"order": "7"})), "done"]) as server:
        assert story(tell(server))["a"] == "done"
        assert len(server.calls) == 2
    assert till.paid == [("7", 10)]


def test_an_attempt_that_fails_after_the_answer_does_not_ask_again():
    """The answer is the visit's, as every call's result is."""
    till = Till()
    script = [calls(("refund", {"order": "7"})), Reply("down", status=503), "done"]
    with ModelServer(script) as server:
        flow = asking(server, till.tool(), retry=RetryPolicy(attempts=2, delay=0))
        state, events = story(answered(flow, True))
    assert (state.data["a"], till.paid) == ("done", [("7", 10)])
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


def test_an_answer_is_for_the_call_that_was_asked_about_though_the_code_has_changed(tmp_path):
    """Which calls are asked about was decided once: a tool that needs it no more does not hand its answer to the next."""
    till, path = Till(), tmp_path / "s"
    turn = calls(("first", {"order": "a"}), ("second", {"order": "b"}))

    def flow_of(server: ModelServer, *, first: bool) -> Workflow:
        tools = [till.tool(name="first", needs_approval=first), till.tool(name="second")]
        return asking(server, *tools)

    async def begin(server: ModelServer) -> None:
        async with Engine(path) as engine:
            run = await engine.start(flow_of(server, first=True), {"q": "?"}, run_id="r")
            await waits(run)

    with ModelServer([turn, "done"]) as server:
        story(begin(server))
        resumed(path, flow_of(server, first=False), True, False)
    assert till.paid == [("a", 10)]


def test_a_question_that_is_open_is_answered_though_the_tool_does_not_need_it_any_more(tmp_path):
    """Who was asked may still refuse."""
    till, path = Till(), tmp_path / "s"

    async def begin(server: ModelServer) -> None:
        async with Engine(path) as engine:
            await waits(await engine.start(asking(server, till.tool()), {"q": "?"}, run_id="r"))

    with ModelServer([calls(("refund", {"order": "7"})), "sorry"]) as server:
        story(begin(server))
        state, _ = resumed(path, asking(server, till.refund), False)
    assert (state.data["a"], till.paid) == ("sorry", [])


def test_a_tool_that_was_called_before_it_needed_approval_is_not_asked_about(tmp_path):
    """A call that is recorded is over; asking about it afterwards would mean nothing."""
    till, path = Till(), tmp_path / "s"
    script = [calls(("refund", {"order": "7"})), Reply("down", status=400), "done"]

    async def begin(server: ModelServer) -> None:
        async with Engine(path) as engine:
            await (await engine.start(asking(server, till.refund), {"q": "?"}, run_id="r")).wait()

    with ModelServer(script) as server:
        story(begin(server))
        state, events = resumed(path, asking(server, till.tool()))
    assert (state.data["a"], till.paid) == ("done", [("7", 10)])
    assert not any(isinstance(one, WaitOpened) for one in events)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_arguments_as_deep_as_may_be_can_be_asked_about_and_those_that_are_deeper_are_told(tmp_path):
    """The question holds them one level deeper, and so does the state it stands in; the store reads it all back."""
    got = []

    def take(what: list[Any]) -> str:
        """Take."""
        got.append(what)
        return "ok"

    async def begin(flow: Workflow) -> None:
        async with Engine(tmp_path / "s") as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            await waits(run)
            await engine.checkpoint("r", snapshot=True)

    deepest = MAX_DEPTH - 2
    turn = calls(("take", {"what": nested(deepest)}), ("take", {"what": nested(deepest + 1)}))
    with ModelServer([turn, "done"]) as server:
        flow = asking(server, Tool(take, needs_approval=True))
        story(begin(flow))
        state, _ = resumed(tmp_path / "s", flow, True)
        fine, deep = results(server.calls[1])
    assert (state.data["a"], fine, got) == ("done", "ok", [nested(deepest)])
    assert deep.startswith("error: the arguments are not a JSON object")


# --- several in one function --------------------------------------------------------------------------------------


def in_turn(*bodies: Any) -> Workflow:
    """A function of the user's own that has one body after the other do its work, as far as they come."""

    async def both(state: Any, run: Any) -> Any:
        change: dict[str, Any] = {}
        for body in bodies:
            returned = await body(state, run)
            if not isinstance(returned, dict):
                return returned
            change |= returned
        return change

    return Workflow("w").add_node("both", both).set_start("both")


@pytest.mark.parametrize("second", [True, lambda arguments: True])
def test_what_one_agent_was_allowed_in_a_node_allows_the_other_nothing(second):
    """Two agents may have calls of the same id in their first turns; each is asked about."""
    till, other = Till(), Till()

    def script(call: Call) -> Reply | str:
        if results(call):
            return "done"
        name = call.body["tools"][0]["function"]["name"]
        return Reply(tool_calls=((name, {"order": "7"}, "same"),))

    with ModelServer(script) as server:
        same: dict[str, Any] = {"model": "m", "reads": "q", "base_url": server.base_url}
        one = Agent(writes="a", tools=[till.tool(needs_approval=lambda arguments: False)], **same)
        two = Agent(writes="b", tools=[other.tool(name="again", needs_approval=second)], **same)
        state, events = story(answered(in_turn(one, two), False))
    assert (till.paid, other.paid, state.data["b"]) == ([("7", 10)], [], "done")
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


def test_each_agent_in_a_node_asks_where_its_own_rule_says_so():
    """What was found out about the first one's calls says nothing of the second's."""
    till = Till()
    turns = [calls(("refund", {"order": "a"})), "one", calls(("refund", {"order": "b"})), "two"]
    with ModelServer(turns) as server:
        same: dict[str, Any] = {"model": "m", "reads": "q", "base_url": server.base_url}
        tools = [till.tool(needs_approval=lambda arguments: arguments["order"] == "c")]
        state, events = story(answered(in_turn(*(Agent(writes=one, tools=tools, **same) for one in ("a", "b")))))
    assert (state.data["b"], till.paid) == ("two", [("a", 10), ("b", 10)])
    assert not any(isinstance(one, WaitOpened) for one in events)


def test_what_was_allowed_to_a_tool_in_a_node_is_one_call():
    """The same tool with other arguments is not the call that was approved: it fails, and is not made."""
    till = Till()
    tool = till.tool(writes="paid")

    class Second:
        async def __call__(self, state: Any, run: Any) -> Any:
            return await tool({"order": "8"}, run)

    state, _ = story(answered(in_turn(tool, Second()), True, data={"order": "7"}))
    assert (state.status, state.error.type, till.paid) == ("failed", "EffectMisused", [("7", 10)])


# --- branches ------------------------------------------------------------------------------------------------------


def last_words(call: Call) -> Reply | str:
    """Ask for a refund of what the user names, then say what came of it."""
    texts = results(call)
    messages = call.body.get("messages") or call.body["input"]
    order = next(one["content"] for one in messages if one.get("role") == "user")
    return f"{order}: {texts[-1]}" if texts else calls(("refund", {"order": order}))


@BOTH
def test_agents_in_branches_ask_side_by_side(api):
    """Each branch has a question of its own; the answers may come in any order, and none goes to another branch."""
    till = Till()

    async def tell(server: ModelServer) -> Any:
        agents = {
            name: Agent(model="m", reads=name, writes=f"{name}_said", tools=[till.tool()], api=api, base_url=server.base_url)
            for name in ("left", "right")
        }  # fmt: skip
        flow = Workflow("w").add_node("both", Parallel(agents)).set_start("both")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"left": "L", "right": "R"}, run_id="r")
            while len(open_waits(run.state)) < 2:
                await asyncio.sleep(0.002)
            ids = {branch: one["id"] for branch, one in open_waits(run.state)}
            await engine.answer("r", {"approve": False, "why": "no"}, wait=ids["right"])
            await engine.answer("r", True, wait=ids["left"])
            return await run.result()

    with ModelServer(last_words) as server:
        data = story(tell(server))
        assert len(server.calls) == 4
    assert (data["left_said"], data["right_said"]) == (
        "L: refunded 10", "R: error: the call was not approved: no"
    )  # fmt: skip
    assert till.paid == [("L", 10)]


@pytest.mark.parametrize("parks", [False, True])
def test_agents_of_a_map_ask_about_each_item(parks, monkeypatch):
    """One question an item, though the run has parked meanwhile, and the finished items are not asked again."""
    if parks:
        monkeypatch.setattr("eventflow.engine.drive.PARK_AFTER", 0.02)
    till = Till()

    async def tell(server: ModelServer) -> Any:
        agent = Agent(model="m", reads=lambda item: item, writes="said", tools=[till.tool()], base_url=server.base_url)
        flow = Workflow("w").add_node("each", Map(agent, over="orders", writes="said")).set_start("each")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"orders": ["a", "b", "c"]}, run_id="r")
            while len(open_waits(run.state)) < 3:
                await asyncio.sleep(0.002)
            asked = {one["spec"]["arguments"]["order"]: one["id"] for _, one in open_waits(run.state)}
            for order, answer in (("b", True), ("c", False), ("a", True)):
                while parks and any(task.get_name().startswith("run ") for task in asyncio.all_tasks()):
                    await asyncio.sleep(0.002)
                await engine.answer("r", answer, wait=asked[order])
            return await run.result()

    with ModelServer(last_words) as server:
        data = story(tell(server))
        assert len(server.calls) == 6
    assert [one["said"].split(": ")[1] for one in data["said"]] == ["refunded 10", "refunded 10", "error"]
    assert sorted(till.paid) == [("a", 10), ("b", 10)]


# --- a tool as a node ----------------------------------------------------------------------------------------------


def paying(till: Till, **options: Any) -> Workflow:
    """A tool that pays, and where the run goes if it may not."""
    return (
        Workflow("w")
        .add_node("pay", till.tool(writes="paid", **options))
        .add_node("thank", lambda state: {"thanked": True})
        .add_node("complain", lambda state: {"complained": True})
        .add_edge("pay", "thank")
        .add_edge("pay", "complain", on="cancelled")
        .set_start("pay")
    )


@pytest.mark.parametrize(
    ("answer", "paid"),
    [(True, [("7", 10)]), ({"approve": True, "arguments": {"order": "7", "amount": 1}}, [("7", 1)]), (False, [])],
)
def test_a_tool_as_a_node_asks_too(answer, paid):
    """Approved it goes on, with other arguments if there are any; refused the node is cancelled."""
    till = Till()
    state, events = story(answered(paying(till), answer, data={"order": "7"}))
    assert till.paid == paid
    assert {"thanked", "complained"} & state.data.keys() == ({"thanked"} if paid else {"complained"})
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1


def test_a_tool_as_a_node_asks_only_where_it_must():
    """A function of the arguments says so here too."""
    till = Till()
    flow = paying(till, needs_approval=lambda arguments: arguments["order"] == "8")
    state, events = story(answered(flow, data={"order": "7"}))
    assert (till.paid, state.data["thanked"]) == ([("7", 10)], True)
    assert not any(isinstance(one, WaitOpened) for one in events)


# --- as it is written down, and from the command line --------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"needs_approval": "always"}, "needs_approval is True, False, or a function"),
        ({"needs_approval": True, "approval_timeout": 0}, "approval_timeout is in seconds, more than 0"),
        ({"needs_approval": False, "approval_timeout": 5}, "goes with needs_approval"),
    ],
)
def test_what_can_not_be_approved_is_found_where_it_is_written(options, why):
    """A slip in the terms is no quiet permission."""
    with pytest.raises(DefinitionError, match=why):
        Till().tool(**options)


def test_show_and_answer_work_from_the_command_line(run_eventflow, desk):
    """`show` tells the question, with its data for programs; `answer` is all it takes."""
    till = Till()

    async def begin(flow: Workflow) -> None:
        async with Engine("runs.eventflow") as engine:
            await waits(await engine.start(flow, {"q": "?"}, run_id="r"))

    with ModelServer([calls(("refund", {"order": "7"})), "done"]) as server:
        flow = asking(server, till.tool())
        story(begin(flow))
        assert 'ask wants to call refund with {"order": "7"}; may it?' in run_eventflow("show", "r").out
        shown = run_eventflow("show", "r", "-o", "json").json
        assert (shown["status"], shown["waiting_for"]) == ("waiting", "human")
        assert '"tool": "refund"' in run_eventflow("show", "r", "-o", "json").out
        assert run_eventflow("answer", "r", '{"approve": true}').code == 0
        state, _ = resumed(Path("runs.eventflow"), flow)
    assert (state.data["a"], till.paid) == ("done", [("7", 10)])

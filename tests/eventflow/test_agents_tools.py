"""Tools: what a model is told of them, what happens to its calls, and that no finished one is ever made again."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import os
import threading
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import Agent, Engine, RetryPolicy, Tool, Workflow, extend
from eventflow.errors import DefinitionError
from eventflow.event import EffectFailed, EffectFinished, EffectStarted
from eventflow.log import LmdbLog
from eventflow.testing import Call, ModelServer, Reply

BOTH = pytest.mark.parametrize("api", ["chat", "responses"])
ONCE = RetryPolicy(attempts=1)


def asking(server: ModelServer, *tools: Any, retry: RetryPolicy = ONCE, **options: Any) -> Workflow:
    """One agent that reads `q`, may use tools, and writes `a`."""
    agent = Agent(model="m", reads="q", writes="a", tools=tools, base_url=server.base_url, **options)
    return Workflow("w").add_node("ask", agent, retry=retry).set_start("ask")


def ended(flow: Workflow, data: dict[str, Any] | None = None, **options: Any) -> tuple[Any, list[Any]]:
    """A run driven to its end: its state and its events."""

    async def story() -> tuple[Any, list[Any]]:
        async with Engine(workflows=[flow], **options) as engine:
            run = await engine.start(flow, {"q": "?"} if data is None else data, run_id="r")
            return await run.wait(), [one.event for one in run.events()]

    return asyncio.run(asyncio.wait_for(story(), 30))


def results(call: Call) -> list[str]:
    """What a request tells of tools, in either API."""
    if "messages" in call.body:
        return [one["content"] for one in call.body["messages"] if one["role"] == "tool"]
    return [one["output"] for one in call.body["input"] if one.get("type") == "function_call_output"]


def calls(*named: tuple[str, Any]) -> Reply:
    """A turn in which the model asks for tools."""
    return Reply(tool_calls=named)


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Both are whole.
    """
    return a + b


# --- what the model is told ----------------------------------------------------------------------------------------


class Color(Enum):
    """Something with a few values."""

    RED = "red"


class Place(pydantic.BaseModel):
    """A nested argument."""

    city: str
    zip: str | None = None


def visit(
    place: Place,
    when: Annotated[dt.date, pydantic.Field(description="the day")],
    color: Color,
    mode: Literal["walk", "drive"] = "walk",
    *,
    schema: bool = False,
    idempotency_key: str,
) -> str:
    """Visit a place."""
    return f"{place.city} {when:%d.%m.} {color.name} {mode} {schema} {idempotency_key[:3]}"


def test_a_tool_is_its_function():
    """Name, description and parameters come from name, docstring and signature; what is ours to give is left out."""
    tool = Tool(visit)
    assert (tool.name, tool.description, tool.mutating) == ("visit", "Visit a place.", True)
    assert Tool(add).description == "Add two numbers.\n\nBoth are whole."
    schema = tool.schema
    assert list(schema["properties"]) == ["place", "when", "color", "mode", "schema"]
    assert schema["required"] == ["place", "when", "color"]
    assert schema["properties"]["when"] | {"title": ""} == {
        "type": "string", "format": "date", "description": "the day", "title": ""
    }  # fmt: skip
    assert schema["properties"]["mode"]["enum"] == ["walk", "drive"]
    assert schema["additionalProperties"] is False
    named = Tool(lambda x: x, name="same", description="It.", mutating=False)
    assert (named.name, named.description, named.mutating) == ("same", "It.", False)


@BOTH
def test_tools_are_offered_in_the_words_of_each_api(api):
    """The request carries each tool as the API has it; a tool of the server's own goes as it is."""
    with ModelServer(["done"]) as server:
        ended(asking(server, add, {"type": "web_search"}, api=api))
        ours, theirs = server.calls[0].body["tools"]
    parameters = Tool(add).schema
    inner = {"name": "add", "description": "Add two numbers.\n\nBoth are whole.", "parameters": parameters}
    if api == "chat":
        assert ours == {"type": "function", "function": inner}
    else:
        assert ours == {"type": "function", **inner, "strict": False}
    assert theirs == {"type": "web_search"}


class Counter:
    """Something that can be called, and something with a method."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, n: int) -> int:
        """Count by calling."""
        return n + self.step

    async def later(self, n: int) -> int:
        """Count later."""
        return n + self.step


class Later:
    """Something that can be awaited when called."""

    async def __call__(self, n: int) -> int:
        """Count later."""
        return n + 1


@pytest.mark.parametrize(
    ("function", "result"),
    [(Counter(2), "7"), (Counter(3).later, "8"), (Later(), "6"), (functools.partial(add, b=10), "15")],
    ids=["object", "method", "async object", "partial"],
)
def test_whatever_can_be_called_can_be_a_tool(function, result):
    """Methods, objects and partial functions have their own signature."""
    tool = Tool(function, name="t")
    (name,) = tool.schema["required"]
    with ModelServer([calls(("t", {name: 5})), calls(("t", {name: "x"})), "ok"]) as server:
        ended(asking(server, tool))
        assert results(server.calls[2])[0] == result
        assert "Input should be a valid integer" in results(server.calls[2])[1]


def test_no_arguments_may_be_written_in_any_way():
    """Models write an empty text, null or an empty object."""
    with ModelServer([calls(*(("now", text) for text in ("", "null", "{}"))), "ok"]) as server:
        ended(asking(server, Tool(lambda: "then", name="now")))
        assert results(server.calls[1]) == ["then"] * 3


def numbers(*all_of_them: int) -> int:
    """Take what can't be named."""
    return sum(all_of_them)


def first(one: int, /) -> int:
    """Take what can't be given by name."""
    return one


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Tool(lambda x: x), "a tool needs a name of letters"),
        (lambda: Tool(add, name="two words"), "got 'two words'"),
        (lambda: Tool(numbers), "parameter all_of_them can't be given by name"),
        (lambda: Tool(first), "parameter one can't be given by name"),
        (lambda: Tool(add, on_error="ignore"), "on_error is 'tell' or 'raise', not 'ignore'"),
        (lambda: Tool(add, reads="c"), "reads c, which its function does not take"),
    ],
)
def test_what_can_be_no_tool_is_refused_where_it_is_written(make, said):
    """What a model could not call, or nobody could name."""
    with pytest.raises(DefinitionError) as caught:
        make()
    assert said in str(caught.value)


# --- the loop ------------------------------------------------------------------------------------------------------


@BOTH
def test_each_turn_and_each_call_is_an_effect(api):
    """Two model turns with a call between them are three effects, and the model is told what the call came to."""
    with ModelServer([calls(("add", {"a": 2})), "three"]) as server:
        state, events = ended(asking(server, add, api=api))
        first, second = server.calls
    assert state.data == {"q": "?", "a": "three"}
    started = [event for event in events if isinstance(event, EffectStarted)]
    assert [(one.name, one.key, one.kind, one.mutating) for one in started] == [
        ("model", "1", "model", False),
        ("tool:add", "1.1/call_1_0", "tool", True),
        ("model", "2", "model", False),
    ]
    assert started[1].input == {"arguments": {"a": 2}}
    outputs = [event.output for event in events if isinstance(event, EffectFinished)]
    assert outputs[1] == {"result": 3}
    assert (results(first), results(second)) == ([], ["3"])
    key = "messages" if api == "chat" else "input"
    assert second.body[key][: len(first.body[key])] == first.body[key]
    assert started[2].input[key] == second.body[key]
    assert state.usage["calls"] == 2


@BOTH
def test_the_node_s_usage_is_that_of_all_turns(api):
    """What an answer cost is the sum over its turns."""
    with ModelServer([calls(("add", {"a": 2})), "three"]) as server:
        agent = Agent(model="m", reads="q", writes={"usage": "u"}, tools=[add], base_url=server.base_url, api=api)
        state, _ = ended(Workflow("w").add_node("n", agent).set_start("n"))
    assert state.data["u"] == state.usage
    assert state.usage["calls"] == 2


@BOTH
def test_calls_of_one_turn_are_made_at_once(api):
    """Two calls meet in the middle, plain or async, and their results keep the order of the calls."""
    meeting = threading.Barrier(2, timeout=10)

    def wait(name: str) -> str:
        """Wait for the other."""
        meeting.wait()
        return name

    both = asyncio.Event()
    arrived: list[str] = []

    async def wait_async(name: str) -> str:
        """Wait for the other, async."""
        arrived.append(name)
        if len(arrived) == 2:
            both.set()
        await both.wait()
        return name

    script = [
        calls(("wait", {"name": "a"}), ("wait", {"name": "b"})),
        calls(("wait_async", {"name": "c"}), ("wait_async", {"name": "d"})),
        "met",
    ]
    with ModelServer(script) as server:
        state, _ = ended(asking(server, wait, wait_async, api=api))
        assert results(server.calls[2]) == ["a", "b", "c", "d"]
    assert state.data["a"] == "met"


def test_arguments_arrive_as_the_types_they_are_declared_as():
    """Models, dates and enums are made of the JSON; the idempotency key is the effect's."""
    arguments = {"place": {"city": "Rome"}, "when": "2026-11-24", "color": "red", "schema": True}
    with ModelServer([calls(("visit", arguments)), "ok"]) as server:
        ended(asking(server, visit))
        assert results(server.calls[1]) == ["Rome 24.11. RED walk True ef-"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"a": "many"}, "error: the arguments do not fit, a: Input should be a valid integer"),
        ({}, "error: the arguments do not fit, a: Field required"),
        ({"a": 1, "c": 2}, "error: the arguments do not fit, c: Extra inputs are not permitted"),
        ("[1]", "error: the arguments are not a JSON object"),
        ('{"a": ', "error: the arguments are not a JSON object (Expecting value"),
        ('{"a": 123456789012345678901234567890}', "error: the arguments are not a JSON object (a is an integer"),
        ("[" * 100_000, "error: the arguments are not a JSON object (maximum recursion"),
    ],
    ids=["type", "missing", "unknown", "list", "broken", "huge", "deep"],
)
@BOTH
def test_arguments_that_do_not_fit_are_told_to_the_model(api, arguments, told):
    """The function is not called, the run goes on, and the model may mend its call."""
    called = []

    def add(a: int) -> int:
        """Add."""
        called.append(a)
        return a

    with ModelServer([calls(("add", arguments)), calls(("add", {"a": 1})), "mended"]) as server:
        state, events = ended(asking(server, add, api=api))
        assert results(server.calls[1])[0].startswith(told)
    assert (state.data["a"], called) == ("mended", [1])
    started = [event for event in events if isinstance(event, EffectStarted) and event.kind == "tool"]
    assert [one.mutating for one in started] == [False, True]


@BOTH
def test_a_tool_nobody_has_is_told_to_the_model(api):
    """It is told which there are; nothing is recorded for a call that can't be."""
    with ModelServer([calls(("sub", {}), ("add", {"a": 1})), "ok"]) as server:
        state, events = ended(asking(server, add, api=api))
        assert results(server.calls[1]) == ["error: there is no tool 'sub'; the tools are add", "2"]
    assert state.data["a"] == "ok"
    assert [one.name for one in events if isinstance(one, EffectStarted)] == ["model", "tool:add", "model"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_tool_s_error_is_told_to_the_model(is_async):
    """The sentence of what it raised is the call's result, recorded as such."""

    def plain(a: int) -> int:
        """Fail."""
        raise ValueError(f"no {a}")

    async def later(a: int) -> int:
        """Fail."""
        raise ValueError(f"no {a}")

    tool = Tool(later if is_async else plain, name="t")
    with ModelServer([calls(("t", {"a": 3})), "so be it"]) as server:
        state, events = ended(asking(server, tool))
        assert results(server.calls[1]) == ["error: ValueError: no 3"]
    assert state.data["a"] == "so be it"
    assert [e.output for e in events if isinstance(e, EffectFinished)][1] == {"error": "ValueError: no 3"}


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_that_is_to_be_raised_fails_the_attempt(is_async):
    """The next attempt makes that call again and no other, with the same key, and asks the model nothing anew."""
    keys: list[str] = []
    beside: list[int] = []

    def plain(idempotency_key: str) -> str:
        """Fail once."""
        keys.append(idempotency_key)
        if len(keys) == 1:
            raise OSError("down")
        return "up"

    async def later(idempotency_key: str) -> str:
        """Fail once."""
        return plain(idempotency_key)

    def other() -> str:
        """Do something beside."""
        beside.append(1)
        return "x"

    tool = Tool(later if is_async else plain, name="t", on_error="raise")
    with ModelServer([calls(("t", {}), ("other", {})), "ok"]) as server:
        state, events = ended(asking(server, tool, other, retry=RetryPolicy(attempts=2, delay=0)))
        assert len(server.calls) == 2
        assert results(server.calls[1]) == ["up", "x"]
    assert state.data["a"] == "ok"
    assert (len(keys), len(set(keys)), len(beside)) == (2, 1, 1)
    (failed,) = [event for event in events if isinstance(event, EffectFailed)]
    assert (failed.name, failed.error.type) == ("tool:t", "OSError")


@BOTH
def test_a_model_that_never_answers_is_given_up(api):
    """Past the turns it may take the run fails with a sentence, and the last turn's tools are not called."""
    called = []

    def again() -> str:
        """Go on."""
        called.append(1)
        return "more"

    with ModelServer(lambda _: calls(("again", {}))) as server:
        state, _ = ended(asking(server, again, max_turns=3, api=api, retry=RetryPolicy(attempts=3, delay=0)))
        assert len(server.calls) == 3
    assert (state.error.type, state.error.retryable, len(called)) == ("TooManyTurns", False, 2)
    assert state.error.message == (
        "the model has no answer after 3 turns and asks for more tools (again); "
        "raise max_turns= or tell it when to stop, then resume the run"
    )


def test_after_too_many_turns_the_run_goes_on_where_it_was(tmp_path):
    """With more turns allowed, a resume asks only for what is not there yet."""
    called = []

    def again() -> str:
        """Go on."""
        called.append(1)
        return "more"

    async def story(server: ModelServer) -> Any:
        flow = asking(server, again, max_turns=1)
        async with Engine(tmp_path / "s") as engine:
            await (await engine.start(flow, {"q": "?"}, run_id="r")).wait()
        async with Engine(tmp_path / "s", workflows=[asking(server, again, max_turns=2)]) as engine:
            return await (await engine.resume("r")).result()

    with ModelServer([calls(("again", {})), "enough"]) as server:
        assert asyncio.run(story(server))["a"] == "enough"
        assert (len(server.calls), len(called)) == (2, 1)


def test_calls_without_an_id_are_told_apart():
    """Some servers give none, or the same again each turn."""
    function = {"name": "add", "arguments": '{"a": 1}'}
    body = {"choices": [{"message": {"tool_calls": [{"function": function}] * 2}, "finish_reason": "tool_calls"}]}
    with ModelServer([Reply(raw=json.dumps(body))] * 2 + ["ok"]) as server:
        state, events = ended(asking(server, add))
        asked = server.calls[1].body["messages"]
        assert [one["id"] for one in asked[1]["tool_calls"]] == [one["tool_call_id"] for one in asked[2:]]
    assert state.data["a"] == "ok"
    keys = [event.key for event in events if isinstance(event, EffectStarted) and event.kind == "tool"]
    assert len(keys) == len(set(keys)) == 4


# --- results -------------------------------------------------------------------------------------------------------


class Sealed:
    """Something that is no data at all."""

    def __str__(self) -> str:
        return "sealed"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "text"),
        ({"a": [1, None, True]}, '{"a": [1, null, true]}'),
        (None, "null"),
        (Place(city="Rome"), '{"zip": null, "city": "Rome"}'),
        ({dt.date(2026, 1, 2)}, '["2026-01-02"]'),
        (Color.RED, "red"),
        (("ä", 2), '["ä", 2]'),
        ({"x": "half \ud83d"}, '{"x": "half \ufffd"}'),
        (2**70, str(2**70)),
        (Sealed(), "sealed"),
        ({"x": Sealed()}, '{"x": "sealed"}'),
    ],
    ids=str,
)
def test_whatever_a_tool_returns_the_model_is_told(value, told):
    """Text as it is, data as JSON, the rest as text: a call that was made is never lost over its result."""
    with ModelServer([calls(("t", {})), "ok"]) as server:
        state, _ = ended(asking(server, Tool(lambda: value, name="t")))
        assert results(server.calls[1]) == [told]
    assert state.data["a"] == "ok"


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_any_arguments_come_as_they_were_sent():
    """What the model wrote is what the function gets, and what is recorded."""
    got: list[Any] = []

    def keep(value: Any) -> str:
        """Keep a value."""
        got.append(value)
        return "kept"

    tool = Tool(keep)

    @settings(deadline=None, max_examples=60)
    @given(_JSON)
    def law(value: Any) -> None:
        given_, problem = tool.parsed(json.dumps({"value": value}))
        assert problem == ""
        values, problem = tool.checked(given_)
        assert (values, problem) == ({"value": value}, "")

    law()


# --- crashes -------------------------------------------------------------------------------------------------------


def ledger(path: Path, name: str) -> Any:
    """A tool whose calls outlive the process: each a line in a file."""

    def call(n: int, idempotency_key: str) -> str:
        """Write a line."""
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{name} {n} {idempotency_key}\n".encode())
        os.close(fd)
        return f"{name} {n} done"

    return call


def look_up(path: Path) -> Any:
    """Settle an unknown call from the ledger."""

    def reconcile(key: str) -> str:
        for line in path.read_text().splitlines() if path.exists() else ():
            name, n, written = line.split()
            if written == key:
                return f"{name} {n} done"
        raise LookupError(key)

    return reconcile


def script(call: Call) -> Reply | str:
    """Three turns that follow from the conversation alone: two calls at once, one more, the answer."""
    count = len(results(call))
    if count == 0:
        return calls(("pay", {"n": 1}), ("look", {"n": 2}))
    return calls(("pay", {"n": 3})) if count == 2 else "paid: " + ", ".join(results(call))


@pytest.mark.parametrize(("api", "stream"), [("chat", False), ("responses", True)])
def test_wherever_the_process_dies_no_recorded_call_is_made_again(api, stream, child, tmp_path):
    """The process is ended after each of its events in turn; the next one makes only the calls that are not recorded."""
    last = 14  # events: started, six effects of two each, completed

    def flow_of(server: ModelServer, path: Path) -> Workflow:
        pay = Tool(ledger(path / "ledger", "pay"), name="pay", reconcile=look_up(path / "ledger"))
        look = Tool(ledger(path / "ledger", "look"), name="look", mutating=False)
        return asking(server, pay, look, api=api, stream=stream)

    async def drive(flow: Workflow, path: Path, dies_at: int) -> None:
        def dies(state: Any, notice: Any) -> None:
            if getattr(notice, "version", 0) >= dies_at:
                os._exit(9)

        async with Engine(path / "s", workflows=[flow], listeners=[dies]) as engine:
            await (await engine.start(flow, {"q": "?"}, run_id="r")).wait()

    async def take_up(flow: Workflow, path: Path, *, over: bool) -> tuple[dict[str, Any], list[Any]]:
        async with Engine(path / "s", workflows=[flow]) as engine:
            run = engine.get("r") if over else await engine.resume("r")
            return await run.result(), [one.event for one in run.events()]

    def one_death(server: ModelServer, path: Path, dies_at: int) -> None:
        flow, before = flow_of(server, path), len(server.calls)
        child(lambda: asyncio.run(drive(flow, path, dies_at))).answer()
        data, events = asyncio.run(asyncio.wait_for(take_up(flow, path, over=dies_at == last), 30))
        assert data["a"] == "paid: pay 1 done, look 2 done, pay 3 done"
        lines = (path / "ledger").read_text().splitlines()
        for paid in ("pay 1 ", "pay 3 "):
            assert sum(line.startswith(paid) for line in lines) == 1, lines
        finished = [(event.name, event.key) for event in events if isinstance(event, EffectFinished)]
        assert len(finished) == len(set(finished)) == 6
        started = [event for event in events if isinstance(event, EffectStarted)]
        # A call that was started and cut off may not have got there; no call is made without a start.
        assert 3 <= len(server.calls) - before <= sum(one.kind == "model" for one in started)
        assert 1 <= sum(line.startswith("look ") for line in lines) <= sum(one.name == "tool:look" for one in started)

    with ModelServer(script) as server:
        for dies_at in range(1, last + 1):
            path = tmp_path / str(dies_at)
            path.mkdir()
            one_death(server, path, dies_at)


def test_a_mutating_tool_cut_off_by_a_crash_asks(child, tmp_path):
    """Nobody knows whether it happened: the run waits, is settled by a person, and the model is told what they said."""
    path = tmp_path / "s"

    def pay() -> str:
        """Die in the middle."""
        os._exit(9)

    with ModelServer([calls(("pay", {})), "ok"]) as server:

        def drive() -> None:
            async def story() -> None:
                async with Engine(path) as engine:
                    await (await engine.start(asking(server, pay), {"q": "?"}, run_id="r")).wait()

            asyncio.run(story())

        child(drive).answer()

        async def story() -> Any:
            async with Engine(path, workflows=[asking(server, pay)]) as engine:
                run = await engine.resume("r")
                while run.status != "waiting":
                    await asyncio.sleep(0.002)
                assert (run.state.waiting_for, len(server.calls)) == ("unknown", 1)
                await engine.settle("r", "tool:pay", key="1.1/call_1_0", output="it went through", happened=True)
                return await run.result()

        assert asyncio.run(asyncio.wait_for(story(), 30))["a"] == "ok"
        assert results(server.calls[1]) == ["it went through"]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_call_that_happened_is_settled_by_its_reconcile(kind, child, tmp_path):
    """The process dies after the payment and before its record; the next one looks it up and pays nothing."""
    path = tmp_path / "s"

    def pay(n: int, idempotency_key: str) -> str:
        """Pay, then die."""
        ledger(tmp_path / "ledger", "pay")(n, idempotency_key)
        os._exit(9)

    found = look_up(tmp_path / "ledger")

    async def found_later(key: str) -> str:
        return found(key)

    with ModelServer([calls(("pay", {"n": 1})), "ok"]) as server:
        flow = asking(server, Tool(pay, reconcile=found if kind == "plain" else found_later))

        async def start() -> None:
            async with Engine(path) as engine:
                await (await engine.start(flow, {"q": "?"}, run_id="r")).wait()

        async def go_on() -> Any:
            async with Engine(path, workflows=[flow]) as engine:
                return await (await engine.resume("r")).result()

        child(lambda: asyncio.run(start())).answer()
        assert asyncio.run(asyncio.wait_for(go_on(), 30))["a"] == "ok"
        assert results(server.calls[1]) == ["pay 1 done"]
    assert len((tmp_path / "ledger").read_text().splitlines()) == 1


def test_a_conversation_s_messages_and_tools_are_stored_once(tmp_path):
    """A turn adds what is new: its own messages; what was said before and the tools' schemas are references."""
    long = "tide " * 4_000

    def look(n: int) -> str:
        """Look something up."""
        return f"{n} {long if n == 1 else ''}"

    look.__doc__ = "Look. " + "Much can be said about it. " * 100

    def script(call: Call) -> Reply | str:
        n = len(results(call)) + 1
        return "enough" if n > 20 else calls(("look", {"n": n}))

    async def story(server: ModelServer) -> int:
        log = LmdbLog(tmp_path / "s")
        async with Engine(log) as engine:
            run = await engine.start(asking(server, look, max_turns=30), {"q": "?"}, run_id="r")
            assert (await run.result())["a"] == "enough"
            started = [one.event for one in run.events() if isinstance(one.event, EffectStarted)]
            assert started[-1].input["messages"] == server.calls[-1].body["messages"]
            assert started[-1].input["tools"] == server.calls[-1].body["tools"]
            held = sum(len(stored.data) for stored in log.feed(0, 999)) + log.usage().bytes["blobs"]
        log.close()
        return held

    with ModelServer(script) as server:
        held = asyncio.run(asyncio.wait_for(story(server), 30))
        sent = sum(len(json.dumps(call.body)) for call in server.calls)
    assert held < sent / 5


def test_a_tool_that_changes_nothing_is_called_again_after_a_kill(child, tmp_path):
    """Killed in the middle of a call, the run makes that call again with the same key, and no other."""
    path = tmp_path / "s"
    arrived, held = tmp_path / "arrived", tmp_path / "held"
    held.touch()

    async def look(idempotency_key: str) -> str:
        """Wait until it may go on."""
        with arrived.open("a") as file:
            file.write(f"{idempotency_key}\n")
        while held.exists():
            await asyncio.sleep(0.005)
        return "seen"

    with ModelServer([calls(("look", {})), "ok"]) as server:
        flow = asking(server, Tool(look, mutating=False))

        async def start() -> None:
            async with Engine(path) as engine:
                await (await engine.start(flow, {"q": "?"}, run_id="r")).wait()

        async def go_on() -> Any:
            async with Engine(path, workflows=[flow]) as engine:
                return await (await engine.resume("r")).result()

        driver = child(lambda: asyncio.run(start()))
        while not (arrived.exists() and arrived.read_text().endswith("\n")):
            time.sleep(0.005)
        driver.kill()
        driver.end()
        held.unlink()
        assert asyncio.run(asyncio.wait_for(go_on(), 30))["a"] == "ok"
        assert len(server.calls) == 2
    keys = arrived.read_text().split()
    assert (len(keys), len(set(keys))) == (2, 1)


def test_two_agents_in_one_node_keep_their_calls_apart():
    """A node of one's own may call several, one after the other; each of their calls is an effect of its own."""
    with ModelServer([calls(("add", {"a": 1})), "one", calls(("add", {"a": 2})), "two"]) as server:
        agents = [
            Agent(model="m", reads="q", writes=name, tools=[add], base_url=server.base_url) for name in ("a", "b")
        ]

        async def both(state, run):
            return {**await agents[0](state, run), **await agents[1](state, run)}

        state, events = ended(Workflow("w").add_node("n", both).set_start("n"))
    assert (state.data["a"], state.data["b"]) == ("one", "two")
    made = [(event.name, event.key) for event in events if isinstance(event, EffectFinished)]
    assert len(made) == len(set(made)) == 6


# --- a tool as a node ----------------------------------------------------------------------------------------------


class Pages(TypedDict, total=False):
    """A typed state."""

    url: str
    page: str
    found: Annotated[list[Any], extend]


def fetch(url: str, depth: int = 1) -> str:
    """Fetch a page."""
    return f"{url} to {depth}"


def test_a_tool_can_be_a_node():
    """It reads its arguments from the state, is one effect, and writes its result."""
    flow = Workflow("w", state=Pages).add_node("fetch", Tool(fetch, reads=("url",), writes="page")).set_start("fetch")
    assert flow.nodes["fetch"].kind == "tool"
    assert flow.check() == []
    state, events = ended(flow, {"url": "x"})
    assert state.data == {"url": "x", "page": "x to 1"}
    (started,) = [event for event in events if isinstance(event, EffectStarted)]
    assert (started.name, started.kind, started.mutating, started.input) == (
        "tool:fetch", "tool", True, {"arguments": {"url": "x"}}
    )  # fmt: skip
    assert Tool(fetch).fields() == (("url",), ())


def test_a_tool_s_result_goes_to_the_end_of_a_list():
    """One result is one item, a list of results is its items."""
    flow = Workflow("w", state=Pages).add_node("one", Tool(fetch, writes="found"))
    flow.add_node("more", Tool(lambda url: [url, url], name="more", writes="found")).add_edge("one", "more")
    state, _ = ended(flow.set_start("one"), {"url": "x"})
    assert state.data["found"] == ["x to 1", "x", "x"]


def test_a_tool_node_s_fields_are_checked():
    """An undeclared field is found before anything runs, a missing or unfit one before the function is called."""
    flow = Workflow("w", state=Pages).add_node("n", Tool(fetch, writes="text")).set_start("n")
    assert "writes 'text', which the workflow's state does not declare" in flow.check()[0].text
    flow = Workflow("w").add_node("n", Tool(fetch, reads=["url", "depth"], writes="page")).set_start("n")
    state, events = ended(flow, {"url": "x"})
    assert "depth: is not in the state, and the tool reads it" in state.error.message
    state, events = ended(flow, {"url": "x", "depth": "far"})
    assert "does not fit tool fetch: depth: Input should be a valid integer" in state.error.message
    assert [type(event).__name__ for event in events] == ["RunStarted", "RunFailed"]


def test_a_tool_node_that_fails_fails_the_node():
    """Its error is the node's, with retries and error edges as for any other."""
    keys = []

    def flaky(url: str, idempotency_key: str) -> str:
        """Fail once."""
        keys.append(idempotency_key)
        if len(keys) == 1:
            raise OSError("down")
        return url

    flow = Workflow("w").add_node("n", Tool(flaky, writes="page"), retry=RetryPolicy(attempts=2, delay=0))
    state, _ = ended(flow.set_start("n"), {"url": "x"})
    assert state.data["page"] == "x"
    assert (len(keys), len(set(keys))) == (2, 1)

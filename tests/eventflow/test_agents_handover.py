"""Handing over: a model says who goes on, the run goes there, and the conversation goes along."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, TypedDict

import pytest
from stories import story

from eventflow import Agent, Budget, Engine, Parallel, Tool, Workflow, extend
from eventflow.cli.flows import load_flow
from eventflow.errors import DefinitionError
from eventflow.event import Transitioned, WaitOpened
from eventflow.testing import Call, ModelServer, Reply

BOTH = pytest.mark.parametrize("api", ["chat", "responses"])


class Talk(TypedDict, total=False):
    """A conversation between a person and whoever is responsible."""

    question: str
    answer: str
    messages: Annotated[list[dict[str, Any]], extend]


async def ended(flow: Workflow, data: Any = None, **options: Any) -> tuple[Any, list[Any]]:
    """A run driven to its end: its state and its events."""
    async with Engine(workflows=[flow]) as engine:
        run = await engine.start(
            flow, {"question": "Where is my money?"} if data is None else data, run_id="r", **options
        )
        return await run.wait(), [one.event for one in run.events()]


def over(node: str, arguments: Any = None) -> Reply:
    """A turn in which the model hands over."""
    return Reply(tool_calls=((f"hand_over_to_{node}", arguments or {}),))


def desk(server: ModelServer, *, handover: Any = None, api: str = "chat", **options: Any) -> Workflow:
    """Somebody who sorts out who is responsible, two who are, and an end."""
    same: dict[str, Any] = {
        "model": "m",
        "memory": "messages",
        "writes": "answer",
        "base_url": server.base_url,
        "api": api,
    }
    ways = {"billing": "Invoices and refunds.", "support": "All else."} if handover is None else handover
    return (
        Workflow("desk", state=Talk)
        .add_node("triage", Agent(reads="question", handover=ways, **same, **options))
        .add_node("billing", Agent(reads=(), instructions="You are billing.", **same))
        .add_node("support", Agent(reads=(), instructions="You are support.", **same))
        .add_node("end", lambda state: None)
        .add_edge("triage", "end")
        .add_edge("billing", "end")
        .add_edge("support", "end")
        .set_start("triage")
    )


@BOTH
def test_a_model_hands_over_and_the_conversation_goes_along(api):
    """The run goes to the node it named; the next one sees the question, the handover and its note."""
    with ModelServer([over("billing", {"note": "he is upset"}), "It is on its way."]) as server:
        state, events = story(ended(desk(server, api=api)))
        first, second = server.calls
    assert [(one.node, one.to) for one in events if isinstance(one, Transitioned)] == [
        ("triage", "billing"), ("billing", "end")
    ]  # fmt: skip
    assert state.data["answer"] == "It is on its way."
    sent = second.body["messages"][1:] if api == "chat" else second.body["input"]
    assert sent[0] == {"role": "user", "content": "Where is my money?"}
    assert "he is upset" in str(sent[1])
    assert (sent[2].get("content") or sent[2].get("output")) == "handed over to billing"
    assert len(sent) == 3
    assert list(state.data["messages"])[:3] == sent
    assert len(state.data["messages"]) == 4
    offered = [one.get("function", one) for one in first.body["tools"]]
    assert [one["name"] for one in offered] == ["hand_over_to_billing", "hand_over_to_support"]
    assert offered[0]["description"].endswith("who answers from here on. Invoices and refunds.")
    assert "tools" not in second.body


def test_one_who_hands_nothing_over_answers_itself():
    """Its node ends as any other's, by its edges."""
    with ModelServer(["I know that."]) as server:
        state, events = story(ended(desk(server)))
    assert [(one.node, one.to) for one in events if isinstance(one, Transitioned)] == [("triage", "end")]
    assert state.data["answer"] == "I know that."


def test_names_alone_will_do():
    """Targets may be a list; the model is told their names."""
    with ModelServer([over("support"), "ok"]) as server:
        flow = desk(server, handover=["billing", "support"])
        assert story(ended(flow))[0].data["answer"] == "ok"
    assert flow.nodes["triage"].targets == ("billing", "support")
    assert flow.check() == []


def test_a_target_that_is_no_node_is_found_before_anything_runs():
    """A handover is declared as any other way on."""
    flow = Workflow("w").add_node("triage", Agent(model="m", reads="q", writes="a", handover=["billing"]))
    assert [one.text for one in flow.set_start("triage").check()] == [
        "node 'triage' may go to 'billing', which is not a node"
    ]


def test_a_node_whose_name_no_tool_can_have_gets_one_that_can():
    """Letters that the protocol does not have are replaced; the run goes to the node all the same."""
    with ModelServer([over("the_other_one"), "ok"]) as server:
        same: dict[str, Any] = {"model": "m", "reads": "question", "writes": "answer", "base_url": server.base_url}
        flow = (
            Workflow("w")
            .add_node("triage", Agent(**same, handover=["the other one"]))
            .add_node("the other one", Agent(**same))
            .set_start("triage")
        )
        assert story(ended(flow))[0].data["answer"] == "ok"


@pytest.mark.parametrize(
    ("handover", "why"),
    [
        ("billing", "takes a list of nodes"),
        (["a b", "a_b"], "'a_b' makes hand_over_to_a_b"),
        (["x" * 52], "at most 64 letters"),
        ([""], "needs nodes whose names"),
        ([3], "takes names of nodes"),
        ({"a": 3}, "a text for what each is for"),
    ],
)
def test_what_can_not_be_handed_over_to_is_refused_where_it_is_written(handover, why):
    """The sentence says what is wrong with it."""
    with pytest.raises(DefinitionError, match=why):
        Agent(model="m", reads="q", writes="a", handover=handover)


def test_a_tool_may_not_have_the_name_of_a_handover():
    """The model could not say which it means."""
    tool = Tool(lambda: 1, name="hand_over_to_a")
    with pytest.raises(DefinitionError, match="which is the name of a handover"):
        Agent(model="m", reads="q", writes="a", handover=["a"], tools=[tool])


def test_other_calls_of_the_turn_are_made_before_it_goes_on():
    """What was asked for beside the handover is done; a second handover is told that the first counts."""
    looked = []

    def look(n: int) -> int:
        """Look."""
        looked.append(n)
        return n

    turn = Reply(
        tool_calls=(("look", {"n": 1}), ("hand_over_to_support", {}), ("hand_over_to_billing", {}), ("steal", {}))
    )
    with ModelServer([turn, "ok"]) as server:
        _, events = story(ended(desk(server, tools=[look], max_turns=1)))
        told = [one["content"] for one in server.calls[1].body["messages"] if one["role"] == "tool"]
    assert looked == [1]
    assert told == [
        "1", "handed over to support", "error: it was handed over to support already",
        "error: there is no tool 'steal'; the tools are look, hand_over_to_billing, hand_over_to_support",
    ]  # fmt: skip
    assert [one.to for one in events if isinstance(one, Transitioned)] == ["support", "end"]


def test_a_call_beside_it_that_needs_approval_is_asked_about_first():
    """The run hands over once everything of the turn is settled."""
    paid = []

    def pay() -> str:
        """Pay."""
        paid.append(1)
        return "paid"

    turn = Reply(tool_calls=(("hand_over_to_support", {}), ("pay", {})))

    async def tell(server: ModelServer) -> Any:
        flow = desk(server, tools=[Tool(pay, needs_approval=True)])
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"question": "?"}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.002)
            assert run.state.node == "triage"
            await engine.answer("r", True)
            await run.result()
            return [one.event for one in run.events()]

    with ModelServer([turn, "ok"]) as server:
        events = story(tell(server))
    assert paid == [1]
    assert isinstance(next(one for one in events if isinstance(one, WaitOpened | Transitioned)), WaitOpened)
    assert [one.to for one in events if isinstance(one, Transitioned)] == ["support", "end"]


def test_those_who_hand_over_for_ever_are_stopped_by_a_budget():
    """Each handover is a step; a budget of steps ends it, and the run says why."""

    def script(call: Call) -> Reply:
        return over("b" if call.number % 2 else "a")

    with ModelServer(script) as server:
        same: dict[str, Any] = {"model": "m", "memory": "messages", "base_url": server.base_url}
        flow = (
            Workflow("w", state=Talk)
            .add_node("a", Agent(reads="question", handover=["b"], **same))
            .add_node("b", Agent(reads=(), handover=["a"], **same))
            .add_node("end", lambda state: None)
            .add_edge("a", "end")
            .add_edge("b", "end")
            .set_start("a")
        )
        state, events = story(ended(flow, budget=Budget(steps=5)))
        assert len(server.calls) == 5
    assert (state.status, state.error.type) == ("failed", "BudgetExceeded")
    assert len([one for one in events if isinstance(one, Transitioned)]) == 5


def test_an_agent_that_hands_over_is_no_branch():
    """It is said before the model is asked and paid for."""
    with ModelServer([over("b")]) as server:
        agent = Agent(model="m", reads="q", writes="a", handover=["b"], base_url=server.base_url)
        flow = Workflow("w").add_node("both", Parallel({"one": agent})).add_node("b", lambda state: None)
        state, _ = story(ended(flow.add_edge("both", "b").set_start("both"), {"q": "?"}))
        assert len(server.calls) == 0
    assert "only a node of its own goes on to another" in state.error.message


@BOTH
def test_a_kill_between_the_handover_and_the_next_answer_asks_nobody_twice(child, tmp_path, api):
    """Where it led is in the log; the one who handed over is not asked again."""
    path = tmp_path / "s"

    def script(call: Call) -> Reply | str:
        if call.number == 1:
            return over("billing")
        return Reply("late", delay=20) if call.number == 2 else "done"

    with ModelServer(script) as server:
        flow = desk(server, api=api)

        def drive() -> None:
            async def tell() -> None:
                async with Engine(path) as engine:
                    await (await engine.start(flow, {"question": "?"}, run_id="r")).wait()

            asyncio.run(tell())

        driver = child(drive)
        while len(server.calls) < 2:
            time.sleep(0.005)
        driver.kill()
        driver.end()

        async def go_on() -> Any:
            async with Engine(path, workflows=[flow]) as engine:
                return await (await engine.resume("r")).result()

        assert story(go_on())["answer"] == "done"
        assert len(server.calls) == 3
        assert server.calls[1].idempotency_key == server.calls[2].idempotency_key != server.calls[0].idempotency_key


FLOWS = '''
from eventflow import Agent, Tool, Workflow


def refund(order: str) -> str:
    """Give money back."""
    return "refunded"


agent = Agent(model="m", reads="q", writes="a", tools=[Tool(refund, needs_approval=True)], handover=["other"])
flow = (
    Workflow("w")
    .add_node("ask", agent)
    .add_node("other", lambda state: {"other": True})
    .add_node("end", lambda state: None)
    .add_edge("ask", "end")
    .add_edge("other", "end")
    .set_start("ask")
)
'''


def test_a_rehearsal_serves_approvals_and_handovers_from_the_log(desk, run_replay, monkeypatch):
    """Today's code comes to the same with what was recorded: nobody is asked, nothing is called."""
    (desk / "flows.py").write_text(FLOWS)
    flow = load_flow("flows.py:flow")

    async def tell() -> None:
        async with Engine("runs.eventflow", workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.002)
            await engine.answer("r", {"approve": True, "arguments": {"order": "8"}})
            assert (await run.result())["other"] is True

    with ModelServer([Reply(tool_calls=(("refund", {"order": "7"}),)), over("other")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        story(tell())
    rehearsed = run_replay("rehearse", "flows.py:flow", "r", "--nodes")
    assert rehearsed.code == 0, rehearsed.out + rehearsed.err
    assert "calls blocked: 0" in rehearsed.out

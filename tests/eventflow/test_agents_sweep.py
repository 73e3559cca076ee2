"""Agents die at every boundary: no turn, no call and no question is had twice, whoever was asked or handed over to."""

from __future__ import annotations

import os
from typing import Annotated, Any, TypedDict

import pytest

from eventflow import Agent, Parallel, Tool, Workflow, extend
from eventflow.testing import Call, Reply, crash_sweep

pytestmark = pytest.mark.slow
EVERY = 1 if "EVENTFLOW_FULL" in os.environ else 3


ASKED = "left"  # the order whose refund needs approval


class Talk(TypedDict, total=False):
    """A conversation."""

    question: str
    answer: str
    said: str
    messages: Annotated[list[dict[str, Any]], extend]


class Bank:
    """The other side: what was paid, by the key it came with."""

    def __init__(self) -> None:
        self.paid: dict[str, str] = {}

    def refund(self, order: str, idempotency_key: str) -> str:
        """Give money back."""
        self.paid[idempotency_key] = order
        return f"refunded {order}"

    def look(self, idempotency_key: str) -> str:
        """What became of a call."""
        if idempotency_key not in self.paid:
            raise LookupError(idempotency_key)
        return f"refunded {self.paid[idempotency_key]}"

    def tool(self) -> Tool:
        """It, as a tool that needs approval where the order is asked about."""
        return Tool(self.refund, needs_approval=lambda arguments: arguments["order"] == ASKED, reconcile=self.look)


def told(call: Call) -> int:
    """How many results of tools a request holds."""
    return sum(one["role"] == "tool" for one in call.body["messages"])


def test_an_approval_and_a_handover_survive_at_every_boundary():
    """One call that is approved, one that is not asked about, then the conversation goes to another node."""
    bank = Bank()

    def script(call: Call) -> Reply | str:
        if told(call) == 0:
            return Reply(tool_calls=(("refund", {"order": ASKED}, "a"), ("refund", {"order": "8"}, "b")))
        return Reply(tool_calls=(("hand_over_to_billing", {}, "c"),)) if told(call) == 2 else "Both are paid."

    same: dict[str, Any] = {"model": "m", "memory": "messages", "writes": "answer"}
    flow = (
        Workflow("w", state=Talk)
        .add_node("triage", Agent(reads="question", tools=[bank.tool()], handover=["billing"], **same))
        .add_node("billing", Agent(reads=(), **same))
        .add_node("end", lambda state: None)
        .add_edge("triage", "end")
        .add_edge("billing", "end")
        .set_start("triage")
    )
    report = crash_sweep(
        flow, {"question": "?", "messages": []}, answers={"triage": True}, model_server=script, every=EVERY,
        witness=lambda: list(bank.paid),
        invariants=[lambda state: state.data["answer"] == "Both are paid.", lambda state: len(state.data["messages"]) == 7],
    )  # fmt: skip
    report.check()
    assert (report.lost, report.repeated) == (0, 0)
    assert report.possible >= 20


def test_an_approval_in_a_branch_survives_at_every_boundary():
    """One branch waits for a person while the other goes on."""
    bank = Bank()

    def script(call: Call) -> Reply | str:
        text = call.body["messages"][0]["content"]
        return (
            f"{text}: {call.body['messages'][-1]['content']}"
            if told(call)
            else Reply(tool_calls=(("refund", {"order": text}, text),))
        )

    agents = {
        name: Agent(model="m", reads=lambda state, name=name: name, writes=writes, tools=[bank.tool()])
        for name, writes in (("left", "answer"), ("right", "said"))
    }  # fmt: skip
    flow = Workflow("w", state=Talk).add_node("both", Parallel(agents)).set_start("both")
    report = crash_sweep(
        flow, {"question": "?"}, answers={"both": {"approve": True}}, model_server=script, every=EVERY,
        witness=lambda: list(bank.paid),
        invariants=[lambda state: (state.data["answer"], state.data["said"]) == ("left: refunded left", "right: refunded right")],
    )  # fmt: skip
    report.check()
    assert (report.lost, report.repeated) == (0, 0)

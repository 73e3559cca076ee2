"""The approval of a tool's call by a person: what is asked, what an answer may be, and what it means for the call.

Which calls are asked about is decided once and recorded; so is each answer. A call that was approved is made, and never
asked about again, whatever happens to the process in between. Nothing here knows a model or calls a tool.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventflow.clock import NS
from eventflow.errors import InvalidState
from eventflow.plain import thaw
from eventflow.run import Visit
from eventflow.workflow import Opening, Standing

Needs = bool | Callable[[dict[str, Any]], Any]
Check = Callable[[Mapping[str, Any]], tuple[dict[str, Any], str]]
Decision = dict[str, Any]  # approve; with it, if they were given, arguments and why

LATE = "nobody approved it in time"
NEED = "approvals"  # the effect that says which calls of a turn are asked about
_SHOWN = 400  # characters of the arguments in the prompt, which is for a terminal; the spec has all of them
_WORDS = frozenset({"approve", "arguments", "why"})


class Asked(NamedTuple):
    """A call that may have to be asked about: the key of its effect, who needs to be asked, the function's values."""

    key: str
    tool: str
    needs: Needs
    values: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What a run stands still for until somebody has said whether a call may be made.

    An answer is true or false, or a dict of `approve` and, if there is something to say, `why`; with `approve` there may
    be `arguments`, which the call is then made with. They must fit the tool. When `timeout` seconds are over it is refused.
    """

    agent: str
    tool: str
    arguments: Mapping[str, Any]
    schema: Mapping[str, Any]
    check: Check
    call: str = ""
    timeout: float | None = None
    kind: str = "human"

    def opening(self, state: Any, now: int) -> Opening:  # noqa: ARG002 - as a Pause has it
        """The question for people, and the same as data for programs."""
        text = json.dumps(self.arguments, ensure_ascii=False, default=str)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        spec = {
            "prompt": f"{self.agent} wants to call {self.tool} with {shown}; may it?",
            "agent": self.agent, "tool": self.tool, "arguments": self.arguments, "call": self.call,
            "schema": answer_schema(self.schema),
        }  # fmt: skip
        return Opening("human", "", 0 if self.timeout is None else now + round(self.timeout * NS), spec=spec)

    def accepted(self, payload: Any) -> Decision:
        """An answer in its longest form. Raises InvalidState."""
        given = decided(payload)
        if "arguments" in given and (problem := self.check(given["arguments"])[1]):
            raise InvalidState("the answer.arguments", f"do not fit {self.tool}: {problem}")
        return given

    def change(self, payload: Any) -> dict[str, Any]:  # noqa: ARG002 - as a Pause has it
        """It changes no state: the answer is recorded as the result of a call."""
        return {}

    def lapsed(self) -> Decision:
        """Refused: what nobody allowed is not done."""
        return {"approve": False, "why": LATE}

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """It reads and writes nothing that is named."""
        return (), ()

    def standing(self, key: str) -> Standing:
        """What a body returns to wait for the answer about the call of a key."""
        return Standing(self, approve_name(self.tool), key)


def decided(payload: Any) -> Decision:
    """An answer in its longest form, as far as that can be told without the tool. Raises InvalidState."""
    given = {"approve": payload} if isinstance(payload, bool) else thaw(payload)
    if not isinstance(given, dict) or not isinstance(given.get("approve"), bool) or given.keys() - _WORDS:
        raise InvalidState(
            "the answer", 'must be true, false, or {"approve": true or false}, with "arguments" or "why" if need be'
        )
    if not isinstance(given.get("why", ""), str):
        raise InvalidState("the answer.why", "must be a text")
    if "arguments" in given:
        if not given["approve"]:
            raise InvalidState("the answer", "refuses the call, and gives arguments to make it with")
        if not isinstance(given["arguments"], dict):
            raise InvalidState("the answer.arguments", "must be an object")
    return given


def approve_name(tool: str) -> str:
    """The name under which the answers about a tool's calls are recorded."""
    return f"approve:{tool}"


def answer_schema(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of what may be answered about a call whose arguments have that schema."""
    inner = {key: value for key, value in arguments.items() if key != "$defs"}
    yes = {
        "type": "object", "required": ["approve"], "additionalProperties": False,
        "properties": {"approve": {"const": True}, "arguments": inner, "why": {"type": "string"}},
    }  # fmt: skip
    no = {
        "type": "object", "required": ["approve"], "additionalProperties": False,
        "properties": {"approve": {"const": False}, "why": {"type": "string"}},
    }  # fmt: skip
    schema: dict[str, Any] = {"anyOf": [{"type": "boolean"}, yes, no]}
    return {**schema, "$defs": arguments["$defs"]} if "$defs" in arguments else schema


async def asked_about(run: Visit, key: str, calls: Sequence[Asked]) -> frozenset[str]:
    """Keys of the calls a person must be asked about; found out once, then recorded under `key`.

    A call that has been made is not asked about: the tool did not need it then. One that needs it and of which the record
    says nothing is: whatever changed in between, nothing is taken for allowed.
    """
    known, said = run.recorded(NEED, key=key)
    left = [one for one in calls if one.needs and not run.recorded(f"tool:{one.tool}", key=one.key)[0]]
    if not known and left:

        async def look() -> dict[str, bool]:
            return {_place(one): await _needed(one) for one in left}

        said = await run.effect(NEED, look, key=key, kind="approval", mutating=False, asked={})
    if not said:
        return frozenset()
    listed = frozenset(one.key for one in calls if said.get(_place(one), False))
    return listed | frozenset(one.key for one in left if _place(one) not in said)


def _place(one: Asked) -> str:
    """What tells a call from the others of a visit."""
    return f"{one.tool} {one.key}"


async def _needed(one: Asked) -> bool:
    if not callable(one.needs):
        return bool(one.needs)
    said = one.needs(one.values)
    return bool(await said if inspect.isawaitable(said) else said)


def decision(run: Visit, tool: str, key: str) -> Decision | None:
    """What was said about a call; None while nobody has said anything."""
    known, said = run.recorded(approve_name(tool), key=key)
    return said if known else None


def refusal(said: Decision) -> str:
    """A refusal as it is told to whoever wanted to make the call."""
    return "the call was not approved" + (f": {said['why']}" if said.get("why") else "")

"""What a scripted model server is told to say, and what it remembers of a call; no HTTP and no wire format here."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

FRAMING = frozenset({"connection", "content-length", "content-type", "transfer-encoding"})  # the server's own headers

Arguments: TypeAlias = Mapping[str, Any] | str
ToolCall: TypeAlias = tuple[str, Arguments] | tuple[str, Arguments, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply is what one call is answered with.

    `tool_calls` are pairs of name and arguments, or triples with an id that does not depend on the order of calls;
    arguments that are a text go as they are. With a `status` of 400 or more the answer is an error whose message is `text`, whose type is `error_type` (left empty, the type that goes with the status) and whose code is `error_code`.
    `delay` is in seconds, before the first byte, `pace` in seconds before each part of a stream; `cut` closes the
    connection in the middle of the answer, and `raw` is sent instead of a body, whatever it is. A `finish_reason` of
    "stop" becomes "tool_calls" when there are tool calls; `refusal` is what a model says instead of an answer, and
    `cached_tokens` is how much of the prompt the usage calls cached. ValueError or TypeError: this could not be sent;
    better told here, where the script is written, than lost in a thread of the server.
    """

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    status: int = 200
    error_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    finish_reason: str = "stop"
    error_code: str = ""
    pace: float = 0.0
    raw: str | None = None
    refusal: str | None = None
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        if self.status != 200 and not 400 <= self.status <= 599:
            raise ValueError(f"a reply's status is 200 or 400-599, not {self.status}")
        for name, seconds in (("delay", self.delay), ("pace", self.pace)):
            if not 0 <= seconds <= threading.TIMEOUT_MAX:
                raise ValueError(f"a reply's {name} is a number of seconds from 0 on, not {seconds}")
        for name, value in self.headers.items():
            if name.lower() in FRAMING or not re.fullmatch(r"[!-9;-~]+:[ -~]*", f"{name}:{value}"):
                raise ValueError(f"the header {name!r} is the server's own, or not one line of printable ASCII")
        for _, arguments, *_ in self.tool_calls:
            arguments_text(arguments)


def arguments_text(arguments: Arguments) -> str:
    """A tool call's arguments as they are sent. Raises TypeError or ValueError for what is not JSON."""
    return arguments if isinstance(arguments, str) else json.dumps(dict(arguments))


@dataclass(frozen=True, slots=True)
class Call:
    """A call is one well-formed request for an answer.

    `number` counts from 1 in order of arrival; `body` is the decoded JSON and `digest` the SHA-256, in hex, of its
    canonical JSON (sorted keys, no spaces, ASCII). `status` is None until it is answered, and stays None where the
    answer was cut or nobody was there to take it.
    """

    number: int
    path: str
    body: Mapping[str, Any]
    digest: str
    idempotency_key: str | None = None
    status: int | None = None


Script: TypeAlias = Sequence[Reply | str] | Callable[[Call], Reply | str]


def ask(script: Script, call: Call) -> Reply:
    """What the script says to a call; where it fails, a reply that says so instead of a traceback nobody sees."""
    if not callable(script) and call.number > len(script):
        ended = f"the script has ended: it holds {len(script)} replies and this is call {call.number}"
        return Reply(ended, status=400, error_type="script_ended")
    try:
        said = script(call) if callable(script) else script[call.number - 1]
        if not isinstance(said, Reply | str):
            raise TypeError(f"a script gives Reply or str, not {type(said).__name__}")  # noqa: TRY301
        return Reply(said) if isinstance(said, str) else said
    except Exception as error:  # noqa: BLE001  # the script is the user's code; its author reads this in the answer
        return Reply(f"the script raised {type(error).__name__}: {error}", status=400, error_type="script_failed")

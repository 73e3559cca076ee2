"""Nodes in which a run stands still: for a signal, for a person, for a time.

A wait is a state of the machine, never a call inside a function: nothing before it is run again when what was waited for
comes, however long that took and whatever died meanwhile. Each wait has an id of its own; a signal that came early is
kept until somebody waits for it, and is delivered once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eventflow.clock import NS
from eventflow.errors import DefinitionError, InvalidState
from eventflow.workflow.parts import Opening, Restore


class _Nothing:
    """No default was given."""

    def __repr__(self) -> str:
        return "no default"


NO_DEFAULT: Any = _Nothing()
MESSAGE = "message"  # the signal that carries what somebody says in a conversation
ANSWER = "answer"  # the signal that answers a person's wait; the wait's id stands behind it


def answer_name(wait: int) -> str:
    """The name of the signal that answers the wait of an id."""
    return f"{ANSWER}:{wait}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Wait for a signal; its payload goes into the field `writes`.

    `timeout` is in seconds; when it is over the field gets the `default`, or, without one, the edge on "timed_out" is
    taken. `restore` says what the timeout means when the run is taken up again: the same `deadline`, the `remaining`
    seconds, or a `restart`. `type` is a type that the payload must fit, as pydantic has it; `answers` the field that
    holds what the run has to say to the message by the time it stands still again (`Engine.ask`).
    """

    signal: str
    writes: str | None = None
    timeout: float | None = None
    default: Any = NO_DEFAULT
    restore: Restore = "deadline"
    type: Any = None
    answers: str | None = None
    kind: str = "wait"

    @classmethod
    def for_message(
        cls, *, writes: str, answers: str | None = None, timeout: float | None = None, default: Any = NO_DEFAULT,
        type: Any = None,  # noqa: A002 - as in Wait
    ) -> Wait:  # fmt: skip
        """A wait for what somebody says next in a conversation (`Engine.send`, `Engine.ask`, `eventflow send`)."""
        return cls(
            signal=MESSAGE, writes=writes, answers=answers, timeout=timeout, default=default, type=type, kind="inbox"
        )

    def __post_init__(self) -> None:
        if not self.signal:
            raise DefinitionError("Wait needs the name of a signal")
        _check_timeout(self.timeout, self.default)

    def opening(self, state: Any, now: int) -> Opening:  # noqa: ARG002 - as a Pause has it
        """The signal and the limit."""
        spec = None if self.answers is None else {"answers": self.answers}
        return Opening("signal", self.signal, _until(now, self.timeout), self.restore, spec)

    def accepted(self, payload: Any) -> Any:
        """The payload, of the declared type."""
        return _typed(self.type, payload)

    def change(self, payload: Any) -> dict[str, Any]:
        """The payload into its field."""
        return {} if self.writes is None else {self.writes: payload}

    def lapsed(self) -> dict[str, Any] | None:
        """The default into its field."""
        return None if self.default is NO_DEFAULT else self.change(self.default)

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """It writes one field."""
        return (), () if self.writes is None else (self.writes,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Human:
    """Ask a person; the answer goes into the field `writes`.

    `prompt` is a text, or a function of the state that gives one. `type` is a type the answer must fit, as pydantic has
    it; `check` a function of the answer that returns a text if it will not do. `timeout`, `default` and `restore` are
    those of Wait.
    """

    prompt: str | Callable[[Any], str]
    writes: str
    type: Any = None
    check: Callable[[Any], str | None] | None = None
    timeout: float | None = None
    default: Any = NO_DEFAULT
    restore: Restore = "deadline"
    kind: str = "human"

    def __post_init__(self) -> None:
        _check_timeout(self.timeout, self.default)

    def opening(self, state: Any, now: int) -> Opening:
        """The prompt, what an answer must be, and the limit."""
        spec: dict[str, Any] = {"prompt": self.prompt if isinstance(self.prompt, str) else self.prompt(state)}
        if self.type is not None:
            spec["schema"] = _adapter(self.type).json_schema()
        return Opening("human", "", _until(now, self.timeout), self.restore, spec)

    def accepted(self, payload: Any) -> Any:
        """The answer, of the declared type and past the check."""
        answer = _typed(self.type, payload)
        problem = None if self.check is None else self.check(answer)
        if problem:
            raise InvalidState("the answer", problem)
        return answer

    def change(self, payload: Any) -> dict[str, Any]:
        """The answer into its field."""
        return {self.writes: payload}

    def lapsed(self) -> dict[str, Any] | None:
        """The default into the field."""
        return None if self.default is NO_DEFAULT else self.change(self.default)

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """It writes one field."""
        return (), (self.writes,)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Stand still for that many seconds, or as many as a function of the state says; durable, however long."""

    seconds: float | Callable[[Any], float]
    restore: Restore = "deadline"
    kind: str = "sleep"

    def __post_init__(self) -> None:
        if not callable(self.seconds) and not (isinstance(self.seconds, int | float) and self.seconds >= 0):
            raise DefinitionError(f"Sleep({self.seconds!r}) is in seconds: give a number, 0 or more")

    def opening(self, state: Any, now: int) -> Opening:
        """The moment it ends."""
        seconds = self.seconds(state) if callable(self.seconds) else self.seconds
        return Opening("timer", "", _until(now, max(float(seconds), 0.0)) or 1, self.restore)

    def accepted(self, payload: Any) -> Any:
        """Nothing is waited for but time."""
        return payload

    def change(self, payload: Any) -> dict[str, Any]:  # noqa: ARG002 - as a Pause has it
        """It changes nothing."""
        return {}

    def lapsed(self) -> dict[str, Any] | None:
        """Time over is what it waited for."""
        return {}

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """It reads and writes nothing that is named."""
        return (), ()


def _until(now: int, timeout: float | None) -> int:
    return 0 if timeout is None else now + round(timeout * NS)


def _check_timeout(timeout: float | None, default: Any) -> None:
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise DefinitionError(f"a wait's timeout={timeout!r} is in seconds: give a number of more than 0")
    if timeout is None and default is not NO_DEFAULT:
        raise DefinitionError("a wait's default is for when its timeout is over: give timeout= too")


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - only typed waits pay for the import

    return TypeAdapter(kind)


def _typed(kind: Any, payload: Any) -> Any:
    if kind is None:
        return payload
    from pydantic import ValidationError  # noqa: PLC0415 - see above

    adapter = _adapter(kind)
    try:
        return adapter.dump_python(adapter.validate_python(payload), mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(["payload", *map(str, first["loc"])])
        raise InvalidState(path, str(first["msg"])) from None

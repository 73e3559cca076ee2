"""What a rehearsed body gets as its `run`: the face of a visit, with what was recorded behind it instead of the outside.

A call is answered with what was recorded for the same name, key and input; what was not is refused and kept as a finding.
The functions given to calls are never called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from eventflow.codec import encode, unshared
from eventflow.errors import EventflowError
from eventflow.event import Failure, Recorded
from eventflow.plain import freeze, thaw
from eventflow.proof import digest
from eventflow.state import State, branch_prefix, effect_id
from replay.path import MISSING
from replay.rehearse.report import Finding, Receipt


class Scene(Protocol):
    """What was recorded around one body: the state it had, the event that ended it, the inputs and failures of its calls."""

    @property
    def state(self) -> State:
        """The state in which it ended."""
        ...

    @property
    def recorded(self) -> Recorded:
        """The event that ended it."""
        ...

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What calls were asked, by `effect_id`."""
        ...

    @property
    def failures(self) -> Mapping[str, Failure]:
        """What calls failed with, by `effect_id`."""
        ...


class NotServed(EventflowError):
    """A call in a rehearsed body has no recorded answer; nothing was called."""


class RecordedFailure(EventflowError):
    """What a recorded call failed with, told again in its words."""


class StandIn:
    """What a rehearsed body gets as its `run`: the face of a visit, with the log's answers behind it."""

    def __init__(
        self, scene: Scene, extends: Callable[[str], bool], receipt: Receipt, *, branch: str = "", attempt: int = 0
    ) -> None:
        state = scene.state
        self._scene, self._receipt, self.branch = scene, receipt, branch
        self._counts: dict[str, int] = {}
        self._resources: dict[Any, Any] = {}
        self.findings: list[Finding] = []
        self.served: set[str] = set()
        self.extends = extends
        self.id, self.node, self.attempt = state.run.run_id, state.node, attempt or state.attempt
        self.subject = state.run.subject
        self.error: Failure | None = state.error

    @property
    def tags(self) -> tuple[str, ...]:
        """The run's tags."""
        return tuple(self._scene.state.run.tags)

    @property
    def signals(self) -> tuple[dict[str, Any], ...]:
        """Messages that had come in for the run and waited to be read."""
        return tuple(self._scene.state.signals)

    def resource(self, key: Any, make: Callable[[], Any]) -> Any:
        """Something kept for this body's time."""
        if key not in self._resources:
            self._resources[key] = make()
        return self._resources[key]

    def effect(self, name: str, _function: Callable[..., Any], *args: Any, **options: Any) -> Awaitable[Any]:
        """The recorded answer to a call, awaitable. Raises NotServed, RecordedFailure when awaited."""
        identity, given = self._call(name, args, **options)  # counted now, as a visit counts

        async def answer() -> Any:
            return self._served(identity, given)

        return answer()

    def effect_sync(self, name: str, _function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The same for a plain `def` node."""
        return self._served(*self._call(name, args, **options))

    def transaction(self, name: str, _function: Callable[..., Any], *args: Any, **options: Any) -> Awaitable[Any]:
        """What a transaction on the user's own tables gave, awaitable; nothing is written."""
        return self.effect(name, _function, *args, **options)

    def transaction_sync(self, name: str, _function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The same for a plain `def` node."""
        return self.effect_sync(name, _function, *args, **options)

    def _call(
        self, name: str, args: tuple[Any, ...], *, key: str | None = None, mutating: bool = True, at_most_once: bool = False,
        reconcile: Any = None, kind: str = "call", asked: Any = None, usage: Any = None, **kwargs: Any,
    ) -> tuple[str, Any]:  # fmt: skip
        """A call's identity and its input, as a visit would record them."""
        del mutating, at_most_once, reconcile, kind, usage  # which matter only where a call is made
        self._counts[name] = self._counts.get(name, 0) + 1
        identity = effect_id(name, str(self._counts[name]) if key is None else key, self.branch)
        given: dict[str, Any] = {"args": list(args)} if args else {}
        if kwargs:
            given["kwargs"] = kwargs
        return identity, freeze(_bare(given if asked is None else asked), f"the input of effect {name!r}")

    async def reject(self, name: str, *, key: str = "1", why: str = "") -> None:
        """Nothing is refused here: the answer that was recorded last is the one that is served."""

    def reject_sync(self, name: str, *, key: str = "1", why: str = "") -> None:
        """The same for a plain `def` node."""

    def heartbeat(self) -> None:
        """Nobody waits for a sign of life here."""

    def recorded(self, name: str, *, key: str = "1") -> tuple[bool, Any]:
        """Whether a call of this visit has a recorded result, and the result."""
        identity = effect_id(name, key, self.branch)
        entry = self._scene.state.effects.get(identity)
        if entry is None or entry["status"] != "finished":
            return False, None
        self.served.add(identity)
        return True, thaw(entry["output"])

    async def patched(self, name: str) -> bool:
        """Which way the visit went at a change of its code; where it knew of none, the old way if it made calls after."""
        return self.patched_sync(name)

    def patched_sync(self, name: str) -> bool:
        """The same for a plain `def` node."""
        effects = self._own()
        entry = effects.get(effect_id(f"patch {name}", "1", self.branch))
        if entry is not None and entry["status"] == "finished":
            return bool(entry["output"])
        return all(one["kind"] == "patch" or identity in self.served for identity, one in effects.items())

    def _served(self, identity: str, given: Any) -> Any:
        entry = self._scene.state.effects.get(identity)
        if entry is None:
            raise self._refused(f"new effect {identity}: no such call was recorded in this visit", now=given)
        if entry["input_digest"] != digest(encode(given)):
            recorded = self._scene.inputs.get(identity, MISSING)
            raise self._refused(f"other input for effect {identity}", recorded, given)
        if entry["status"] == "finished":
            self.served.add(identity)
            self._receipt.served += 1
            return thaw(entry["output"])
        failure = self._scene.failures.get(identity)
        if entry["status"] == "failed" and failure is not None:
            self.served.add(identity)
            self._receipt.served += 1
            raise RecordedFailure(f"{failure.type}: {failure.message}")
        raise self._refused(f"effect {identity} has no recorded answer, it is {entry['status']}")

    def _refused(self, problem: str, recorded: Any = MISSING, now: Any = MISSING) -> NotServed:
        """The finding is kept here, since a body may catch the error."""
        self.findings.append(Finding("effect", self._scene.recorded.version, self.node, problem, recorded, now))
        return NotServed(f"{problem}; nothing was called")

    def _own(self) -> Mapping[str, Any]:
        """The calls of this body: of a branch, its own alone."""
        effects, prefix = self._scene.state.effects, branch_prefix(self.branch) if self.branch else ""
        return {identity: entry for identity, entry in effects.items() if identity.startswith(prefix)}

    def left(self) -> Iterator[Finding]:
        """Recorded answers that nobody asked for."""
        for identity, entry in self._own().items():
            if entry["status"] == "finished" and entry["kind"] != "patch" and identity not in self.served:
                problem = f"effect {identity} is not called any more"
                yield Finding("effect", self._scene.recorded.version, self.node, problem)


def _bare(value: Any) -> Any:
    """An input without marks of how it is stored."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    return unshared(value)

"""Today's bodies run on recorded states, their calls to the outside served from the log.

A body gets the recorded state and, for its `run`, a stand-in that answers each call with what was recorded for the same
name, key and input, and reports what was not. The functions given to those calls are never called. Waits, people and
sleeps are not run: what ended them is recorded, and today's node says what it makes of it. Where this runs, and what
keeps a body from reaching outside by other ways, is not decided here.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from eventflow.change import NO_CHANGE, Change, apply, extend
from eventflow.codec import encode, unshared
from eventflow.errors import EventflowError
from eventflow.event import Failure
from eventflow.plain import FrozenDict, freeze, thaw
from eventflow.proof import digest
from eventflow.state import State, effect_id
from eventflow.workflow import Go, Node, Pause, Workflow
from replay.patch import differences
from replay.path import MISSING, path_text
from replay.rehearse.report import Finding, Receipt
from replay.rehearse.routes import Outcome, Stay

MAX_EDITS = 20  # places in which one change differs that are told: enough to see what it is about


class NotServed(EventflowError):
    """A call in a rehearsed body has no recorded answer; nothing was called."""


class RecordedFailure(EventflowError):
    """What a recorded call failed with, told again in its words."""


class StandIn:
    """What a rehearsed body gets as its `run`: the face of a visit, with the log's answers behind it."""

    def __init__(self, stay: Stay, extends: Callable[[str], bool], receipt: Receipt) -> None:
        state = stay.state
        self._stay, self._receipt = stay, receipt
        self._counts: dict[str, int] = {}
        self._resources: dict[Any, Any] = {}
        self.findings: list[Finding] = []
        self.served: set[str] = set()
        self.extends = extends
        self.id, self.node, self.attempt = state.run.run_id, state.node, state.attempt
        self.subject = state.run.subject
        self.error: Failure | None = state.error

    @property
    def tags(self) -> tuple[str, ...]:
        """The run's tags."""
        return tuple(self._stay.state.run.tags)

    @property
    def signals(self) -> tuple[dict[str, Any], ...]:
        """Messages that had come in for the run and waited to be read."""
        return tuple(self._stay.state.signals)

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

    def _call(
        self, name: str, args: tuple[Any, ...], *, key: str | None = None, mutating: bool = True, at_most_once: bool = False,
        reconcile: Any = None, kind: str = "call", asked: Any = None, usage: Any = None, **kwargs: Any,
    ) -> tuple[str, Any]:  # fmt: skip
        """A call's identity and its input, as a visit would record them."""
        del mutating, at_most_once, reconcile, kind, usage  # which matter only where a call is made
        self._counts[name] = self._counts.get(name, 0) + 1
        identity = effect_id(name, str(self._counts[name]) if key is None else key)
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
        identity = effect_id(name, key)
        entry = self._stay.state.effects.get(identity)
        if entry is None or entry["status"] != "finished":
            return False, None
        self.served.add(identity)
        return True, thaw(entry["output"])

    async def patched(self, name: str) -> bool:
        """Which way the visit went at a change of its code; where it knew of none, the old way if it made calls after."""
        return self.patched_sync(name)

    def patched_sync(self, name: str) -> bool:
        """The same for a plain `def` node."""
        effects = self._stay.state.effects
        entry = effects.get(effect_id(f"patch {name}", "1"))
        if entry is not None and entry["status"] == "finished":
            return bool(entry["output"])
        return all(one["kind"] == "patch" or identity in self.served for identity, one in effects.items())

    def _served(self, identity: str, given: Any) -> Any:
        entry = self._stay.state.effects.get(identity)
        if entry is None:
            raise self._refused(f"new effect {identity}: no such call was recorded in this visit", now=given)
        if entry["input_digest"] != digest(encode(given)):
            recorded = self._stay.inputs.get(identity, MISSING)
            raise self._refused(f"other input for effect {identity}", recorded, given)
        if entry["status"] == "finished":
            self.served.add(identity)
            self._receipt.served += 1
            return thaw(entry["output"])
        failure = self._stay.failures.get(identity)
        if entry["status"] == "failed" and failure is not None:
            self.served.add(identity)
            self._receipt.served += 1
            raise RecordedFailure(f"{failure.type}: {failure.message}")
        raise self._refused(f"effect {identity} has no recorded answer, it is {entry['status']}")

    def _refused(self, problem: str, recorded: Any = MISSING, now: Any = MISSING) -> NotServed:
        """The finding is kept here, since a body may catch the error."""
        self.findings.append(Finding("effect", self._stay.recorded.version, self.node, problem, recorded, now))
        return NotServed(f"{problem}; nothing was called")

    def left(self) -> Iterator[Finding]:
        """Recorded answers that nobody asked for."""
        for identity, entry in self._stay.state.effects.items():
            if entry["status"] == "finished" and entry["kind"] != "patch" and identity not in self.served:
                problem = f"effect {identity} is not called any more"
                yield Finding("effect", self._stay.recorded.version, self.node, problem)


def _bare(value: Any) -> Any:
    """An input without marks of how it is stored."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    return unshared(value)


class Stage:
    """Runs the bodies of a workflow on recorded stays, each at most `limit` seconds long.

    `at` is told node and version before each; `attempts` is where a fence notes what was blocked.
    """

    def __init__(
        self, flow: Workflow, limit: float, *, at: Callable[[str, int], None] | None = None,
        attempts: list[str] | None = None,
    ) -> None:  # fmt: skip
        self._flow, self._limit, self._at = flow, limit, at
        self._attempts: list[str] = [] if attempts is None else attempts

    def outcome(self, stay: Stay, receipt: Receipt) -> Outcome:
        """What a stay comes to with today's body."""
        node = self._flow.nodes[stay.state.node]
        if node.pause is not None:
            return self._waited(stay, node.pause)
        if self._at is not None:
            self._at(node.name, stay.recorded.version)
        receipt.bodies += 1
        run = StandIn(stay, lambda field: self._flow.schema.reducers.get(field) is extend, receipt)
        version = stay.recorded.version
        try:
            returned = self._performed(node, run, stay, receipt)
        except TimeoutError:
            problem = f"the body takes longer than {self._limit:g} s"
            return _unknown(stay, [*run.findings, Finding("body", version, node.name, problem)])
        except Exception as error:  # noqa: BLE001 - whatever a body raises is its outcome
            return self._raised(stay, run, error)
        return self._returned(stay, run, returned)

    def _performed(self, node: Node, run: StandIn, stay: Stay, receipt: Receipt) -> Any:
        view = self._flow.schema.view(stay.state.data)
        args = (view, run) if node.takes_run else (view,)
        try:
            return _in_time(lambda: node.call(*args), self._limit, f"{node.name}@{stay.recorded.version}")
        finally:
            for attempt in self._attempts:  # a body may catch what it is refused with
                receipt.block(f"node {node.name!r}: {attempt}")
                problem = f"it tried to reach outside: {attempt}"
                run.findings.append(Finding("blocked", stay.recorded.version, node.name, problem))
            self._attempts.clear()

    def _raised(self, stay: Stay, run: StandIn, error: Exception) -> Outcome:
        """A body that raised: as recorded, if what was recorded is an error's way out."""
        if run.findings:  # it raised for want of an answer
            return _unknown(stay, run.findings)
        if stay.trigger != "done":
            return Outcome(stay.trigger, stay.event.change)
        problem = f"the body raises where it returned: {type(error).__name__}: {error}"
        return _unknown(stay, [Finding("body", stay.recorded.version, stay.state.node, problem)])

    def _returned(self, stay: Stay, run: StandIn, returned: Any) -> Outcome:
        node, version = stay.state.node, stay.recorded.version
        if run.findings:  # what it made of a missing answer says nothing
            return _unknown(stay, run.findings)
        if stay.trigger != "done":
            return _unknown(
                stay, [Finding("body", version, node, f"the body returns where {stay.trigger} was recorded")]
            )
        go = None
        if isinstance(returned, Go):
            go, returned = returned.target, returned.update
        return self._changed(stay, returned, go, list(run.left()))

    def _waited(self, stay: Stay, pause: Pause) -> Outcome:
        """What a wait comes to today with the recorded message, or when its recorded time was over."""
        node, version = stay.state.node, stay.recorded.version
        if stay.closed is None:
            return Outcome(stay.trigger, stay.event.change)
        try:
            lapsed = stay.closed.outcome == "timeout"
            update = pause.lapsed() if lapsed else pause.change(pause.accepted(stay.payload))
        except Exception as error:  # noqa: BLE001 - a check of the user's own may raise anything
            return _unknown(stay, [Finding("body", version, node, f"the recorded answer is refused: {error}")])
        if update is None:
            return Outcome("timed_out", NO_CHANGE)
        return self._changed(stay, update, None, [])

    def _changed(self, stay: Stay, returned: Any, go: str | None, found: list[Finding]) -> Outcome:
        """The change that today's update comes to, beside the recorded one."""
        node, version, state = stay.state.node, stay.recorded.version, stay.state
        try:
            change = self._flow.schema.change(returned, state.data)
            found += _differ(stay, state, change)
        except EventflowError as error:
            return _unknown(stay, [*found, Finding("body", version, node, f"what it returns can't be used: {error}")])
        return Outcome("done", change, go, tuple(found))


def _unknown(stay: Stay, found: list[Finding]) -> Outcome:
    return Outcome(stay.trigger, stay.event.change, findings=tuple(found), known=False)


def _differ(stay: Stay, state: State, change: Change) -> list[Finding]:
    """Where the states after the two changes differ: what is changed in another way to the same end is the same."""
    recorded, now = (_after(state.data, one) for one in (stay.event.change, change))
    found: list[Finding] = []
    for edit in differences(recorded, now):
        if len(found) == MAX_EDITS:
            break
        problem = f"{path_text(edit.path)} comes out otherwise"
        found.append(Finding("change", stay.recorded.version, state.node, problem, edit.was, edit.now))
    return found


def _after(data: FrozenDict, change: Change) -> FrozenDict:
    return apply(data, change) if change else data


def _in_time(work: Callable[[], Any], limit: float, name: str) -> Any:
    """What a call comes to, awaited if need be. Raises TimeoutError; what is still running then is left behind."""
    came: list[Any] = []
    raised: list[BaseException] = []

    def perform() -> None:
        try:
            value = work()
            came.append(asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value)
        except BaseException as error:  # noqa: BLE001 - told to who asked
            raised.append(error)

    thread = threading.Thread(target=perform, name=name, daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        raise TimeoutError
    if raised:
        if isinstance(raised[0], TimeoutError):  # its own, not ours
            raise RecordedFailure(f"TimeoutError: {raised[0]}") from raised[0]
        if not isinstance(raised[0], Exception):  # SystemExit and its like end a body, not a rehearsal
            raise RecordedFailure(f"{type(raised[0]).__name__}: {raised[0]}") from raised[0]
        raise raised[0]
    return came[0]


async def _awaited(value: Any) -> Any:
    return await value

"""Today's bodies run on recorded states, their calls to the outside served from the log.

A body gets the recorded state and, for its `run`, a stand-in (`replay.rehearse.standin`). Waits, people, sleeps and
children are not run: what ended them is recorded, and today's node says what it makes of it. Of a node that splits, each
branch is run where its end was recorded, and the join is asked with what they come to today. Where this runs, and what
keeps a body from reaching outside by other ways, is not decided here.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from eventflow.change import NO_CHANGE, Change, apply, extend
from eventflow.errors import EventflowError
from eventflow.event import BranchesOpened, BranchFinished, Recorded
from eventflow.plain import FrozenDict
from eventflow.state import FAILED, FINISHED, State, branch, branch_names
from eventflow.workflow import Child, Go, Node, Pause, Split, Workflow
from replay.patch import Edit, differences
from replay.path import path_text
from replay.rehearse.branches import brought, given_to, join, said_today, today_items
from replay.rehearse.report import Finding, Receipt
from replay.rehearse.routes import BranchStay, Outcome, Stay, Waited
from replay.rehearse.standin import RecordedFailure, StandIn

MAX_EDITS = 20  # places in which one change differs that are told: enough to see what it is about


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
        self._results: dict[tuple[int, str], Any] = {}  # what branches come to today, by visit and branch

    def outcome(self, stay: Stay, receipt: Receipt) -> Outcome:
        """What a stay comes to with today's body."""
        node = self._flow.nodes[stay.state.node]
        if isinstance(node.body, Split):
            return self._joined(stay, node.body)
        if node.pause is not None:
            return self._waited(stay, node.pause)
        run = self._stand_in(stay, receipt)
        view = self._flow.schema.view(stay.state.data)
        try:
            returned = self._performed(node, run, view, stay.recorded.version, receipt)
        except TimeoutError:
            return _unknown(stay, [*run.findings, self._too_long(node.name, stay.recorded.version)])
        except Exception as error:  # noqa: BLE001 - whatever a body raises is its outcome
            return self._raised(stay, run, error)
        return self._returned(stay, run, returned)

    def _stand_in(self, scene: Stay | BranchStay, receipt: Receipt, *, name: str = "", attempt: int = 0) -> StandIn:
        def extends(field: str) -> bool:
            return self._flow.schema.reducers.get(field) is extend

        return StandIn(scene, extends, receipt, branch=name, attempt=attempt)

    def _performed(self, node: Node, run: StandIn, given: Any, version: int, receipt: Receipt) -> Any:
        """What a body returns, within its time. Raises what it raises."""
        place = f"node {run.node!r}" + (f", branch {run.branch!r}" if run.branch else "")
        if self._at is not None:
            self._at(run.node, version)
        receipt.bodies += 1
        args = (given, run) if node.takes_run else (given,)
        try:
            return _in_time(lambda: node.call(*args), self._limit, f"{run.node}@{version}")
        finally:
            for attempt in self._attempts:  # a body may catch what it is refused with
                receipt.block(f"{place}: {attempt}")
                problem = f"it tried to reach outside: {attempt}"
                run.findings.append(Finding("blocked", version, run.node, problem))
            self._attempts.clear()

    def _too_long(self, node: str, version: int) -> Finding:
        return Finding("body", version, node, f"the body takes longer than {self._limit:g} s")

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
        node, version, closed = stay.state.node, stay.recorded.version, stay.wait.closed
        asked = self._asked(stay.wait, pause, self._flow.schema.view(stay.state.data), node, version)
        if closed is None:
            return Outcome(stay.trigger, stay.event.change, findings=tuple(asked))
        try:
            update = pause.lapsed() if closed.outcome == "timeout" else pause.change(pause.accepted(stay.wait.payload))
        except Exception as error:  # noqa: BLE001 - a check of the user's own may raise anything
            if stay.trigger != "done":  # as it was recorded
                return Outcome(stay.trigger, stay.event.change, findings=tuple(asked))
            problem = f"the recorded answer is refused: {error}"
            return _unknown(stay, [*asked, Finding("body", version, node, problem)])
        if update is None:
            return Outcome("timed_out", NO_CHANGE, findings=tuple(asked))
        return self._changed(stay, update, None, asked)

    def _asked(self, wait: Waited, pause: Pause, view: Any, node: str, version: int) -> list[Finding]:
        """Whether a child would be given today what it was given: its answer is of use only if so."""
        if not isinstance(pause, Child) or wait.opened is None:
            return []
        try:
            now = pause.opening(view, 0).spec
        except Exception as error:  # noqa: BLE001 - the input's function is the user's own
            return [Finding("effect", version, node, f"the child has no input today: {type(error).__name__}: {error}")]
        found = next(differences(wait.opened.spec, now or {}), None)
        if found is None:
            return []
        problem = f"other input for the child: {path_text(found.path)}"
        return [Finding("effect", version, node, problem, found.was, found.now)]

    def _changed(self, stay: Stay, returned: Any, go: str | None, found: list[Finding]) -> Outcome:
        """The change that today's update comes to, beside the recorded one."""
        node, version, state = stay.state.node, stay.recorded.version, stay.state
        try:
            change = self._flow.schema.change(returned, state.data)
            found += _differ(stay, state, change)
        except EventflowError as error:
            return _unknown(stay, [*found, Finding("body", version, node, f"what it returns can't be used: {error}")])
        return Outcome("done", change, go, tuple(found))

    # --- branches

    def split(self, state: State, recorded: Recorded, event: BranchesOpened) -> tuple[Finding, ...]:
        """What a node splits into today, where it is not what was recorded."""
        body = self._flow.nodes[state.node].body
        if not isinstance(body, Split) or event.items is None:
            return ()
        try:
            now = today_items(body, self._flow, state)
        except Exception as error:  # noqa: BLE001 - what gives the items is the user's own
            problem = f"there are no items today: {type(error).__name__}: {error}"
            return (Finding("body", recorded.version, state.node, problem),)
        return tuple(
            Finding(
                "change", recorded.version, state.node, f"item {path_text(edit.path)} is another", edit.was, edit.now
            )
            for edit in _few(event.items, now)
        )

    def branch(self, stay: BranchStay, receipt: Receipt) -> tuple[Finding, ...]:
        """What a branch comes to today, where it is not what was recorded."""
        state, name = stay.state, stay.event.branch
        node = self._flow.nodes.get(state.node)
        if node is None or not isinstance(node.body, Split) or node.body.body_name(name) not in (node.branches or {}):
            return ()  # which is told elsewhere
        run = self._stand_in(stay, receipt, name=name, attempt=_attempt(state, name))
        try:
            result, found = self._of_branch(stay, node, run, receipt)
        except TimeoutError:
            return (*run.findings, self._too_long(state.node, stay.recorded.version))
        except Exception as error:  # noqa: BLE001 - whatever a body raises is its outcome
            if not run.findings and isinstance(stay.event, BranchFinished):
                told = f"raises where it finished: {type(error).__name__}: {error}"
                run.findings.append(self._branch_finding(stay, told))
            return tuple(run.findings)
        return tuple(run.findings or [*found, *self._compared(stay, result)])

    def _branch_finding(self, stay: BranchStay, told: str) -> Finding:
        return Finding("body", stay.recorded.version, stay.state.node, f"branch {stay.event.branch!r} {told}")

    def _compared(self, stay: BranchStay, result: Any) -> Iterator[Finding]:
        """What a branch brings today beside what it brought, which the join is told."""
        if not isinstance(stay.event, BranchFinished):
            yield self._branch_finding(stay, "finishes where it failed")
            return
        self._results[stay.state.visit, stay.event.branch] = result
        for edit in _few(stay.event.result, result):
            told = f"comes out otherwise{f' at {path_text(edit.path)}' if edit.path else ''}"
            yield replace(self._branch_finding(stay, told), kind="change", recorded=edit.was, now=edit.now)

    def _of_branch(self, stay: BranchStay, split: Node, run: StandIn, receipt: Receipt) -> tuple[Any, list[Finding]]:
        """What a branch brings to the join today, and findings on the way. Raises what its body raises."""
        body, state, version = split.body, stay.state, stay.recorded.version
        assert isinstance(body, Split)  # noqa: S101 - as it was asked for
        assert split.branches is not None  # noqa: S101
        node, given = split.branches[body.body_name(run.branch)], given_to(body, self._flow, state, run.branch)
        if node.pause is None:
            returned = self._performed(node, run, given, version, receipt)
            return brought(body, self._flow, state, returned), list(run.left())
        found = self._asked(stay.wait, node.pause, given, state.node, version)
        if stay.wait.closed is None:
            raise RecordedFailure("it waited in vain")
        payload = stay.wait.payload
        return said_today(body, self._flow, state, pause=node.pause, closed=stay.wait.closed, payload=payload), found

    def _joined(self, stay: Stay, body: Split) -> Outcome:
        """What today's join makes of the branches: of what was recorded for findings, of what comes today for the guards."""
        state, version = stay.state, stay.recorded.version
        if stay.trigger != "done" or state.branches is None:
            return Outcome(stay.trigger, stay.event.change)
        names = branch_names(state.branches)
        ends = [(name, branch(state.branches, name)) for name in names]
        failed = sum(end["status"] == FAILED for _, end in ends)
        was = [(name, end["result"]) for name, end in ends if end["status"] == FINISHED]
        now = [(name, self._results.get((state.visit, name), result)) for name, result in was]
        if body.terms.verdict(len(names), len(was), failed) != "join":
            problem = f"branches that failed ({failed} of {len(names)}) are too many today"
            return _unknown(stay, [Finding("route", version, state.node, problem)])
        try:
            recorded, change = (join(body, self._flow, state, results, len(names)) for results in (was, now))
        except Exception as error:  # noqa: BLE001 - a reducer of the user's own may raise anything
            return _unknown(stay, [Finding("body", version, state.node, f"the branches can't be joined: {error}")])
        return Outcome("done", change, findings=tuple(_differ(stay, state, recorded)))


def _attempt(state: State, name: str) -> int:
    return 1 if state.branches is None else int(branch(state.branches, name).get("attempt", 1))


def _few(recorded: Any, now: Any) -> list[Edit]:
    """The first places in which two values differ."""
    return list(islice(differences(recorded, now), MAX_EDITS))


def _unknown(stay: Stay, found: list[Finding]) -> Outcome:
    return Outcome(stay.trigger, stay.event.change, findings=tuple(found), known=False)


def _differ(stay: Stay, state: State, change: Change) -> list[Finding]:
    """Where the states after the two changes differ: what is changed in another way to the same end is the same."""
    recorded, now = (_after(state.data, one) for one in (stay.event.change, change))
    return [
        Finding(
            "change",
            stay.recorded.version,
            state.node,
            f"{path_text(edit.path)} comes out otherwise",
            edit.was,
            edit.now,
        )
        for edit in _few(recorded, now)
    ]


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

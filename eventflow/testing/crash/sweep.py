"""The sweep: a run undisturbed, then one for each boundary that dies there, is recovered and compared.

A boundary is a write of the run that makes facts durable; it dies before the commit, and after it but before anybody has
learned of it. Before the commit of a call's result is the moment between the call and its finish.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from eventflow.checkpoint import CheckpointPolicy
from eventflow.errors import SettingsError
from eventflow.log import LmdbLog, Log
from eventflow.testing.crash.boundary import WHENS, BoundaryLog, When
from eventflow.testing.crash.examination import End, Invariant, end_of, lost, repeated, unsound
from eventflow.testing.crash.faults import Fault, FaultyLog
from eventflow.testing.crash.life import PATIENCE, POLICY, Life, Story, lived_apart
from eventflow.testing.crash.processes import Named, live_in_process
from eventflow.testing.crash.report import Crash, SweepReport
from eventflow.testing.crash.witness import Notes, Told, Write
from eventflow.testing.model_server import ModelServer, Script
from eventflow.testing.skipping import SkippingClock
from eventflow.workflow import Workflow

Kill = Literal["here", "process"]
Make = Callable[[], Workflow]
_OPENAI = ("OPENAI_BASE_URL", "OPENAI_API_KEY")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What holds for the whole sweep."""

    flow: Workflow | Make | str
    story: Story
    server: ModelServer | Script | None
    invariants: tuple[Invariant, ...]
    view: Callable[[Any], Any] | None
    witness: Callable[[], Iterable[str]] | None
    faults: Fault
    kill: Kill


_NOWHERE = Write(0, ())


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one life is to end: fact `at` (0: nowhere), before or after its commit."""

    at: int = 0
    when: When = "before"
    write: Write = _NOWHERE
    number: int = 0


def crash_sweep(
    flow: Workflow | Make | str, input: Any = None, *,  # noqa: A002 - the word the command line has too
    model_server: ModelServer | Script | None = None, invariants: Sequence[Invariant] = (),
    signals: Mapping[str, Any] | None = None, early: Sequence[tuple[str, Any]] = (),
    answers: Mapping[str, Any] | None = None, every: int = 1, kill: Kill = "here", view: Callable[[Any], Any] | None = None,
    witness: Callable[[], Iterable[str]] | None = None, workflows: Sequence[Workflow] = (),
    checkpoints: CheckpointPolicy = POLICY, where: str | os.PathLike[str] | None = None, faults: Fault = "",
    patience: float = PATIENCE,
) -> SweepReport:  # fmt: skip
    """Kill a workflow at every durable boundary, recover it each time, and report what differs; nothing is raised for it.

    `flow` is a Workflow, a function that makes one for each crash (with a fresh outside world), or, for
    `kill="process"`, the text MODULE:FLOW. See docs/testing.md for the rest. Raises SettingsError for what does not go
    together, and whatever the undisturbed run fails of.
    """
    _check(flow, every, kill)
    story = Story(
        flow=_UNNAMED, data={} if input is None else input, signals=dict(signals or {}), early=tuple(early),
        answers=dict(answers or {}), workflows=tuple(workflows), policy=checkpoints, patience=patience,
    )  # fmt: skip
    plan = _Plan(flow, story, model_server, tuple(invariants), view, witness, faults, kill)
    with _place(where) as path:
        undisturbed, writes, name = _undisturbed(plan, path)
        targets = _targets(writes)
        swept = [targets[index] for index in _chosen(len(targets), every)]
        return SweepReport(name, len(targets), tuple(_crash(plan, path, target, undisturbed) for target in swept))


_UNNAMED = Workflow("?")


def _check(flow: Workflow | Make | str, every: int, kill: Kill) -> None:
    if every < 1:
        raise SettingsError(f"every={every}: give 1 for each boundary, 5 for each fifth")
    if kill not in ("here", "process"):
        raise SettingsError(f'kill={kill!r}: give "here" or "process"')
    if isinstance(flow, str) != (kill == "process"):
        raise SettingsError('kill="process" needs the workflow by its name, MODULE:FLOW, and only that takes a name')


def _place(where: str | os.PathLike[str] | None) -> AbstractContextManager[Path]:
    if where is None:
        return _temporary()
    path = Path(where)
    path.mkdir(parents=True, exist_ok=True)
    return nullcontext(path)


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eventflow-sweep-") as path:
        yield Path(path)


def _targets(writes: Sequence[Write]) -> list[_Target]:
    return [
        _Target(write.first, when, write, number)
        for number, write in enumerate(writes, 1)
        for when in WHENS
    ]  # fmt: skip


def _chosen(count: int, every: int) -> list[int]:
    """Each so many, and the last; before and after a commit by turns where the step alone would always take one of them."""
    step = [number * every + (number % 2 if every % 2 == 0 else 0) for number in range(count // every + 1)]
    return sorted({*(index for index in step if index < count), count - 1})


def _undisturbed(plan: _Plan, path: Path) -> tuple[End, list[Write], str]:
    """How the run ends if nothing happens, the writes it makes, and the workflow's name."""
    case = _Case(plan, path / "undisturbed", _Target())
    with case.world():
        case.live(plan.faults)
    with case.opened() as log:
        run_id = plan.story.run_id
        problems = [*unsound(log, run_id, plan.invariants), *lost(log, case.notes.all_told())]
        if problems:
            raise AssertionError("the undisturbed run is not sound: " + "; ".join(problems))
        head = log.head(run_id)
        entry = None if head is None else log.entry(head.run_key)
        return end_of(log, run_id, plan.view), case.notes.all_writes(), entry.workflow if entry else "?"


def _crash(plan: _Plan, path: Path, target: _Target, undisturbed: End) -> Crash:
    """One crash, from a fresh store to what was found; its files are removed."""
    case = _Case(plan, path / f"{target.number}-{target.when}", target)
    writes = ", ".join(target.write.facts)
    try:
        with case.world():
            missed = _missed(case, plan.faults)
            if missed:
                return Crash(target.number, target.when, writes, crashed=False, differences=(missed,))
            return case.recovered(undisturbed, writes)
    finally:
        shutil.rmtree(case.path, ignore_errors=True)


def _missed(case: _Case, fault: Fault) -> str:
    """Live until the death that is meant; why it did not come to that, or nothing."""
    try:
        case.live(fault)
    except Exception as error:  # noqa: BLE001 - one of many crashes; the others shall be told too
        return f"the run failed before its crash: {type(error).__name__}: {error}"
    return "" if case.notes.has_died() else "it was not reached: the run made fewer facts than the time before"


class _Case:
    """One store, its lives, and the outside world around them."""

    def __init__(self, plan: _Plan, path: Path, target: _Target) -> None:
        self.plan, self.path, self.target = plan, path, target
        path.mkdir()
        self.store, self.notes = path / "store", Notes(path / "notes")
        self._seed = 2 * target.at + (target.when == "after") * 1_000_003
        self._outside: Callable[[], Iterable[str]] = tuple
        flow = plan.flow
        self.flow = flow if isinstance(flow, Workflow | str) else flow()

    @contextmanager
    def world(self) -> Iterator[None]:
        """The outside: the model server, and what the other side has seen since now."""
        with ExitStack() as stack:
            server = self.plan.server
            if server is not None:
                running = server if isinstance(server, ModelServer) else stack.enter_context(ModelServer(_kept(server)))
                stack.enter_context(_environment(running))
                self._outside = _since(lambda: [one.idempotency_key for one in running.calls if one.idempotency_key])
            elif self.plan.witness is not None:
                self._outside = _since(self.plan.witness)
            yield

    def live(self, fault: Fault = "") -> None:
        """A life on the store, to its end or to the death that is meant for it. Raises what else ends it."""
        target, doomed = self.target, self.notes.all_doomed()
        died = self.notes.has_died()
        at = 0 if died else target.at
        self._seed += 1
        if isinstance(self.flow, str):
            named = Named(self.flow, self.plan.story, self.store, self.notes.path, at, target.when, self._seed, fault)
            live_in_process(named)
            return
        story = replace(self.plan.story, flow=self.flow)
        inner = LmdbLog(self.store)
        faulty = FaultyLog(inner, fault) if fault else None
        log = BoundaryLog(cast("Log", faulty or inner), self.notes, at=at, when=target.when, die=self._leave)
        try:
            life = lived_apart(lambda: Life(story, log, SkippingClock(seed=self._seed), doomed), log)
            if life is not None:
                self.notes.ended(life.asked)
            if faulty is not None and not log.dead:
                faulty.pay()
        finally:
            inner.close()
        if log.dead:
            self.store = self._left

    @property
    def _left(self) -> Path:
        return self.path / "left"

    def _leave(self) -> None:
        """Take the store's bytes as they lie there: what is done in order afterwards, a process that ends does not do."""
        shutil.copytree(self.store, self._left)

    @contextmanager
    def opened(self) -> Iterator[Log]:
        """The store, freshly opened."""
        log = LmdbLog(self.store)
        try:
            yield log
        finally:
            log.close()

    def recovered(self, undisturbed: End, writes: str) -> Crash:
        """Recover what the crash has left, and look at it."""
        told, gone = self.notes.all_told(), []
        differences: list[str] = []
        try:
            with self.opened() as log:
                gone = lost(log, told)
            self.live()
            with self.opened() as log:
                plan, run_id = self.plan, self.plan.story.run_id
                differences = [
                    *end_of(log, run_id, plan.view).differences(undisturbed), *unsound(log, run_id, plan.invariants)
                ]  # fmt: skip
                gone += lost(log, self.notes.all_told()[len(told) :])
                again = self._repeated(log)
        except Exception as error:  # noqa: BLE001 - a recovery that fails is what a sweep is to find
            differences.append(f"recovery failed: {type(error).__name__}: {error}")
            again = []
        target = self.target
        return Crash(
            target.number, target.when, writes, True, tuple(differences), tuple(gone), tuple(again),
            self.notes.times_asked(),
        )  # fmt: skip

    def _repeated(self, log: Log) -> list[str]:
        told: list[Told] = self.notes.all_told()
        runs = dict.fromkeys([self.plan.story.run_id, *(one.run for one in told)])
        return repeated(log, runs, told, self._outside())


def _since(witness: Callable[[], Iterable[str]]) -> Callable[[], Iterable[str]]:
    """What a witness has seen from now on."""
    before = len(list(witness()))
    return lambda: list(witness())[before:]


def _kept(script: Script) -> Script:
    """A script in which the same question gets the same answer: a list's answers go to questions, not to tries."""
    if callable(script):
        return script
    answers, given, lock = iter(script), {}, threading.Lock()

    def answer(call: Any) -> Any:
        with lock:
            if call.digest not in given:
                given[call.digest] = next(answers)
            return given[call.digest]

    return answer


@contextmanager
def _environment(server: ModelServer) -> Iterator[None]:
    """Agents find the server by the environment, as the real one."""
    before = {name: os.environ.get(name) for name in _OPENAI}
    os.environ.update(OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY="none-needed")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

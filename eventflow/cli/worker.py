"""The worker: one process that takes up every unfinished run of a store whose process is gone, and drives it on.

While it works it keeps schedules, if it is given any, and drives the runs they start.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.driving import VerboseArg, lines_on_stderr, progress_of, stopping
from eventflow.cli.flows import load_flows, load_schedules
from eventflow.cli.policy import NO_OPTIONS, PolicyArgs, policy_of, quota_of, retention_of
from eventflow.cli.queues import QueueArg, queues_to_serve, waiting_in
from eventflow.cli.shell import (
    OK,
    Format,
    FormatArg,
    StoreArg,
    counted,
    open_store,
    pasteable,
    print_json,
    progress,
    store_path,
    visible,
)
from eventflow.cli.standing import left_sentence
from eventflow.clock import SystemClock
from eventflow.engine import Engine, Run
from eventflow.engine.orphans import OPEN_STATUSES
from eventflow.engine.queues import Queue
from eventflow.errors import Conflict, EventflowError, SettingsError, StoreUnusable
from eventflow.event import Recorded, RunResumed, RunStarted
from eventflow.log import Query
from eventflow.progress import parked_why
from eventflow.run import Listener, Notice
from eventflow.schedules import Schedule, run_schedules
from eventflow.state import State
from eventflow.workflow import Workflow

EVERY = 0.5  # seconds between looks for runs whose process has gone: they are to go on within a second
RATIO = 10  # a look takes at most a tenth of the time, however many runs there are to look at
SHOWN = 20  # ids of runs named in one sentence
LOOKED_AT = 100  # waiting runs of a queue looked at to tell whether any is left
BLOCKED = frozenset({"signal", "human", "child"})  # waits that no time ends: somebody has to come, or another run

SCHEMA = "eventflow.worker/1"

SchedulesArg = Annotated[
    list[str] | None,
    Parameter(
        name="--schedules", negative=(), help="Schedules to keep meanwhile: MODULE:NAME or path/to/file.py:NAME."
    ),
]


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line asked for."""

    store: str
    flows: list[Workflow]
    policy: CheckpointPolicy
    output: Format
    once: bool
    schedules: list[Schedule]
    queues: list[Queue]
    typed: tuple[str | None, Sequence[str]] = (None, ())  # the store and the workflows, as sentences name them


def worker(
    *flow: str, schedules: SchedulesArg = None, queue: QueueArg = (), once: Annotated[bool, Parameter(negative=())] = False, metrics: int | None = None,
    metrics_host: str = "127.0.0.1", checkpoints: PolicyArgs = NO_OPTIONS, store: StoreArg = None,
    output: FormatArg = "table", verbose: VerboseArg = False,
) -> int:  # fmt: skip
    """Drive every unfinished run of these workflows whose process is gone, until SIGINT or SIGTERM.

    Parameters
    ----------
    flow
        The workflows it may drive: MODULE:NAME or path/to/file.py:NAME; without any, those of the settings.
    once
        End when no run is left that can go on by itself.
    metrics
        Serve metrics for Prometheus at this port, under /metrics; 0 takes any that is free.
    metrics_host
        The address that is served at.
    """
    flows, kept, queues = load_flows(flow), _kept(schedules, once=once), queues_to_serve(queue)
    flows += [one.flow for one in kept if one.flow not in flows]
    if not flows:
        raise SettingsError("name the workflows that it may drive, as MODULE:NAME, or `workflows` in the settings")
    for one in flows:
        _ = one.digest  # one that can't be as it is written is told of now, not when a run of it is found
    open_store(store).close()  # a store that is not there must not be created by this
    job = Job(store_path(store), flows, policy_of(checkpoints), output, once, kept, queues, (store, flow))
    with _told(verbose=verbose) as listener, _served(metrics, metrics_host) as more:
        return asyncio.run(_work(job, [listener, *more]))


def _kept(names: list[str] | None, *, once: bool) -> list[Schedule]:
    """The schedules to keep; those of the settings are not for a worker that ends by itself. Raises SettingsError."""
    if once and names:
        raise SettingsError("--once ends when nothing is left to do, and a schedule always has; leave one of them out")
    return [] if once else load_schedules(names)


@contextlib.contextmanager
def _told(*, verbose: bool) -> Iterator[Listener]:
    say, done = progress(wanted=not verbose)
    try:
        yield lines_on_stderr() if verbose else progress_of(say)
    finally:
        done()


@contextlib.contextmanager
def _served(port: int | None, host: str) -> Iterator[list[Listener]]:
    if port is None:
        yield []
        return
    from eventflow.telemetry import Metrics  # noqa: PLC0415 - a tenth of a second, when it is asked for

    counts = Metrics()
    served = counts.serve(port, host)
    where = f"[{host}]" if ":" in host else host
    print(f"eventflow: metrics at http://{visible(where)}:{served.port}/metrics", file=sys.stderr, flush=True)
    try:
        yield [counts]
    finally:
        served.close()


async def _work(job: Job, listeners: Iterable[Listener]) -> int:
    started: set[str] = set()
    claimed: set[str] = set()
    engine = Engine(
        job.store,
        workflows=job.flows,
        checkpoints=job.policy,
        listeners=[*listeners, _starts(started), _claims(claimed)],
        queues=job.queues,
        retention=retention_of(),
        quota=quota_of(),
    )
    told = asyncio.Event()
    async with engine:
        shift = _Shift(engine, job, started, claimed)
        with stopping(engine, told=told):
            try:
                await shift.until(told)
            finally:
                await engine.drain()
                await shift.ended()
    shift.report()
    return OK


def _starts(started: set[str]) -> Listener:
    """A listener that notes which runs are started here, children aside: of a schedule's another process may be first."""

    def listener(state: State, notice: Notice) -> None:
        if isinstance(notice, Recorded) and isinstance(notice.event, RunStarted) and state.run.caller is None:
            started.add(state.run.run_id)

    return listener


def _claims(claimed: set[str]) -> Listener:
    """A listener that notes which runs are taken up, be it out of a queue or because their process is gone."""

    def listener(state: State, notice: Notice) -> None:
        if isinstance(notice, Recorded) and isinstance(notice.event, RunResumed):
            claimed.add(state.run.run_id)

    return listener


class _Shift:
    """The runs that are driven here, and what became of those that were."""

    def __init__(self, engine: Engine, job: Job, started: set[str], claimed: set[str]) -> None:
        self._engine, self._job, self._started, self._claimed = engine, job, started, claimed
        self._clock = SystemClock()
        self._driven: dict[asyncio.Task[None], Run] = {}
        self._left: Counter[str] = Counter()
        self._unknown: set[str] = set()  # of other workflows
        self._refused: set[str] = set()  # could not be taken up at the last look
        self._named: set[str] = set()  # and have been told of
        self._hindered: dict[str, str] = {}  # why queues could not be looked at, as last told
        self._stood: dict[str, int] = {}  # the versions of what was driven at the last look

    async def until(self, told: asyncio.Event) -> None:
        """Look for runs and drive them until told to stop, or nothing is left to drive if that is all that is asked."""
        stop = asyncio.ensure_future(told.wait())
        clock = asyncio.ensure_future(
            run_schedules(self._engine, self._job.schedules, told=self._fired, failed=_not_fired)
        )
        try:
            while not stop.done():
                began = self._clock.monotonic()
                await self._look()
                if self._job.once and self._nothing_moves():
                    self._tell_of_queues()
                    return
                rest = max(EVERY, RATIO * (self._clock.monotonic() - began))
                await self._rest(stop, rest)
        finally:
            stop.cancel()
            clock.cancel()
            await asyncio.wait({clock})

    def _fired(self, run_id: str) -> None:
        """Drive a run that a schedule has started, unless another process was first."""
        if run_id in self._started:
            self._started.discard(run_id)
            run = self._engine.get(run_id)
            if self._job.output == "table":
                _say(f"run {run.id}: started by its schedule")
            self._driven[asyncio.create_task(self._see_off(run))] = run

    async def _look(self) -> None:
        taken, unknown = await self._engine.pick_up()
        for run in taken:
            if self._job.output == "table":
                _say(f"run {run.id}: taken up at version {run.version}, node {run.state.node}")
            self._driven[asyncio.create_task(self._see_off(run))] = run
        self._take_note()
        self._tell("of other workflows, left as they are", unknown, self._unknown)
        refused = self._free() | self._engine.refused
        self._tell("not taken up, `eventflow resume RUN` tells why", refused & self._refused, self._named)
        self._refused = refused
        self._tell_of_hindrance()

    def _take_note(self) -> None:
        """See off the runs that came out of a queue since the last look."""
        ours = {run.id for run in self._driven.values()}
        for name in sorted(self._claimed - ours):
            run = self._engine.get(name)
            entry = self._engine.log.entry(run.state.run.run_key)
            if entry is None or not entry.queue:
                continue
            if self._job.output == "table":
                _say(f"run {run.id}: taken from its queue")
            self._driven[asyncio.create_task(self._see_off(run))] = run
        self._claimed.clear()

    def _free(self) -> set[str]:
        """The runs of its workflows that nobody drives, although it has just looked."""
        log, names = self._engine.log, {flow.name for flow in self._job.flows}
        found = [one for status in OPEN_STATUSES for one in log.runs(Query(status))]
        ours = {run.id for run in self._driven.values()}
        return {
            one.head.run_id for one in found
            if one.entry.workflow in names and not one.entry.queue and one.head.run_id not in ours and log.owner_gone(one.head.owner)
        }  # fmt: skip

    async def _rest(self, stop: asyncio.Future[Any], seconds: float) -> None:
        """Wait for the next look, or for what comes first: a stop, or the end of all that is driven."""
        ends = {*self._driven, stop} if self._job.once else {stop}
        deadline = self._clock.monotonic() + seconds
        while (left := deadline - self._clock.monotonic()) > 0 and not stop.done():
            await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            self._forget()
            ends -= {one for one in ends if one.done()}
            if self._job.once and not self._driven:
                return
        self._forget()

    def _forget(self) -> None:
        """Let go of what is over; an error that ends the worker is raised here."""
        for task in [one for one in self._driven if one.done()]:
            del self._driven[task]
            task.result()

    def _nothing_moves(self) -> bool:
        """Whether all that is driven waits for somebody, and has done so since the last look."""
        before, self._stood = self._stood, {run.id: run.version for run in self._driven.values()}
        if self._queued():
            return False
        if any(run.state.waiting_for not in BLOCKED for run in self._driven.values()):
            return False
        return not self._driven or before == self._stood

    def _queued(self) -> bool:
        """Whether runs of its workflows are driven out of its queues, or wait in them."""
        log, names = self._engine.log, {flow.name for flow in self._job.flows}
        return any(
            one.workflow in names and one.head.status != "waiting"
            for queue in self._job.queues for one in log.queued(queue.name, LOOKED_AT)
        )  # fmt: skip

    async def ended(self) -> None:
        """Return when all that was driven has been let go."""
        self._take_note()
        if self._driven:
            await asyncio.wait(self._driven)
        self._forget()

    # --- what is told

    async def _see_off(self, run: Run) -> None:
        try:
            state = await run.wait()
        except StoreUnusable:
            raise  # nothing can be driven any more
        except EventflowError as error:
            self._left["lost"] += 1
            said = (
                f"run {run.id}: another process has taken it over, it goes on there"  # this one was stopped, or cut off
            )
            said = said if isinstance(error, Conflict) else str(error)
            print(f"eventflow: {visible(said)}", file=sys.stderr, flush=True)
            return
        self._left[state.status] += 1
        if self._job.output == "jsonl":
            print_json({"schema": SCHEMA, **_row(run.id, state)}, lines=True)
            sys.stdout.flush()
        elif self._job.output == "table":
            left = left_sentence(state, parked_why(self._engine.log, state))
            _say(f"run {run.id}: {pasteable(left, *self._job.typed)}")

    def _tell(self, what: str, ids: Iterable[str], told: set[str]) -> None:
        """Name runs on stderr, each of them once."""
        fresh = sorted(set(ids) - told)
        told.update(fresh)
        if fresh:
            what = pasteable(what, *self._job.typed)
            named = ", ".join(fresh[:SHOWN]) + (f" and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else "")
            print(visible(f"eventflow: {what}: {named}"), file=sys.stderr, flush=True)

    def _tell_of_hindrance(self) -> None:
        """Say why a queue could not be looked at, once for as long as it stays so."""
        told, self._hindered = self._hindered, self._engine.hindered
        for name, why in self._hindered.items():
            if told.get(name) != why:
                print(f"eventflow: {visible(f'queue {name}: {why}')}", file=sys.stderr, flush=True)

    def _tell_of_queues(self) -> None:
        """Where nothing was driven: which runs of its workflows wait in queues that it does not serve."""
        if self._left or self._driven:
            return
        served, names = {queue.name for queue in self._job.queues}, {flow.name for flow in self._job.flows}
        for name, count in waiting_in(self._engine.log, names).items():
            if name not in served:
                said = f"{counted(count, 'run')} {'waits' if count == 1 else 'wait'} in queue {name}"
                print(f"eventflow: {visible(f'{said}; serve it with --queue {name}')}", file=sys.stderr, flush=True)

    def report(self) -> None:
        """Print what was done."""
        counts = dict(sorted(self._left.items()))
        self._tell("not taken up, `eventflow resume RUN` tells why", self._refused, self._named)
        if self._job.output == "json":
            print_json(
                {"schema": SCHEMA, "runs": counts, "unknown": sorted(self._unknown), "refused": sorted(self._named)}
            )
        elif self._job.output == "table":
            said = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
            total = self._left.total()
            _say(f"{total} run{'s' * (total != 1)} driven" + (f": {said}" if said else ""))


def _not_fired(what: str, error: Exception) -> None:
    """Say what a schedule could not start, and why: an error of the user's own by its type alone, it may hold secrets."""
    said = str(error) if isinstance(error, EventflowError) else type(error).__name__
    print(f"eventflow: {visible(f'{what}: not started ({said})')}", file=sys.stderr, flush=True)


def _row(run_id: str, state: State) -> dict[str, Any]:
    return {
        "run": run_id, "workflow": state.run.workflow, "status": state.status, "version": state.version,
        "node": state.node, "error": state.error.type if state.status == "failed" and state.error else None,
    }  # fmt: skip


def _say(text: str) -> None:
    print(visible(text), flush=True)

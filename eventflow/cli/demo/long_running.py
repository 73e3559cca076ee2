"""`eventflow demo long-running`: stages, interval checkpoints, a bar; Ctrl-C in the middle, and on from there.

What is told goes to stdout, a line each; the bar goes to stderr and is drawn on a terminal only. What the stages do is
said in `stages`.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import find_run
from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.demo.place import DEMO_STORE, StoreArg, fresh_id, print_checkpoints, print_hints
from eventflow.cli.demo.stages import NAME, STAGES, STEPS, long_flow, nothing_yet, steps_made
from eventflow.cli.demo.telling import tell
from eventflow.cli.driving import stopping
from eventflow.cli.shell import FAILED, OK, STOPPED, open_store, visible
from eventflow.engine import Engine, Run
from eventflow.errors import SettingsError
from eventflow.event import Recorded, Transitioned
from eventflow.recovery import history, recover
from eventflow.run import Listener, Notice
from eventflow.state import State

SECONDS = 10.0
LONGEST = 86_400.0  # a day: what is longer is a slip
CHECKPOINTS = 8  # in all, by interval: often enough to see them come, seldom enough to read between them
SHORTEST_INTERVAL = 0.02  # seconds, also where the demo shall take none
Draw = Callable[[str, int], None]


def long_run(
    *, seconds: Annotated[float | None, Parameter(help=f"How long it takes in all. [default: {SECONDS:g}]")] = None,
    resume: Annotated[str | None, Parameter(help="Go on with this run, where it was stopped.")] = None,
    store: StoreArg = None,
) -> int:  # fmt: skip
    """Five stages in many small steps, with a checkpoint at intervals: press Ctrl-C in the middle, then resume."""
    takes = SECONDS if seconds is None else seconds
    if not 0 <= takes <= LONGEST:  # refuses NaN too
        raise SettingsError(f"--seconds is {seconds}; give 0 to {LONGEST:g}")
    where = store or DEMO_STORE
    if resume is None:
        run_id = fresh_id(where, NAME)
        print(f"Run {run_id}: {len(STAGES)} stages, {STEPS} steps, about {takes:g} seconds; stop it with Ctrl-C.")
    else:
        run_id = resume
        _print_skipped(where, run_id)
    draw, done = bar()
    try:
        state = asyncio.run(_driven(where, run_id, takes, draw, anew=resume is None))
    finally:
        done()
    more = "" if seconds is None else f" --seconds {seconds:g}"
    more += "" if store is None else f" --store {shlex.quote(store)}"
    return _report(where, run_id, state, f"eventflow demo long-running --resume {run_id}{more}")


async def _driven(store: str, run_id: str, takes: float, draw: Draw, *, anew: bool) -> State:
    flow = long_flow(takes / STEPS)
    policy = CheckpointPolicy(auto=False, interval=max(takes / CHECKPOINTS, SHORTEST_INTERVAL), keep=5)

    def begin(engine: Engine) -> Awaitable[Run]:
        if anew:
            return engine.start(flow, nothing_yet(), run_id=run_id, tags=["demo"])
        return engine.resume(run_id)

    async with Engine(store, workflows=[flow], checkpoints=policy, listeners=[_telling(draw)]) as engine:
        with stopping(engine):
            run = await begin(engine)
            return await run.wait()


# --- what is told --------------------------------------------------------------------------------------------------


def _telling(draw: Draw) -> Listener:
    def listener(state: State, notice: Notice) -> None:
        made = _made(state)
        draw(state.node, made)
        if said := _line(state, notice):
            print(f"{100 * made // STEPS:3} %  {visible(said)}", flush=True)

    return listener


def _made(state: State) -> int:
    return sum(steps_made(state.data, stage) for stage in STAGES)


def _line(state: State, notice: Notice) -> str:
    """The ends of stages, checkpoints, and what `tell` knows of the run itself; nothing about a step."""
    if isinstance(notice, Recorded) and isinstance(notice.event, Transitioned):
        event = notice.event
        if event.node == event.to:
            return ""
        stage = next(one for one in STAGES if one.name == event.node)
        return f"{event.node} is done: {stage.steps} steps"
    return tell(state, notice)[5:]  # without the version


def bar() -> tuple[Draw, Callable[[], None]]:
    """A bar on stderr, on a terminal; elsewhere nothing, the lines say how far it is. How to draw it, how to end it."""
    if not sys.stderr.isatty():
        return (lambda _stage, _made: None), (lambda: None)
    from rich.console import Console  # noqa: PLC0415 - for terminals only
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    # Lines go above the bar where both are on the terminal; a stdout that goes elsewhere must not be led there.
    drawn = Progress(
        TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    task = drawn.add_task("", total=STEPS)
    drawn.start()

    def moved(stage: str, made: int) -> None:
        fresh = drawn.tasks[0].description != stage  # a stage is shown though it be over before the next drawing
        drawn.update(task, description=stage, completed=made, refresh=fresh)

    return moved, drawn.stop


def _print_skipped(store: str, run_id: str) -> None:
    """Where a run stands that is to go on, and what of it will not be done again. Raises RunNotFound, SettingsError."""
    log = open_store(store)
    try:
        state = recover(log, find_run(log, run_id, whole=True)).state
    finally:
        log.close()
    if state.run.workflow != NAME:
        raise SettingsError(
            f"run {run_id} is not one of this demo but of workflow {state.run.workflow!r}; `eventflow demo long-running` starts one"
        )
    print(f"Run {run_id} stands at version {state.version} in {state.node}, {_made(state)} of {STEPS} steps made.")
    for stage in STAGES:
        made = steps_made(state.data, stage)
        if made == stage.steps:
            print(f"skipped: {stage.name}, all its {made} steps")
        elif made:
            print(f"goes on in: {stage.name}, after {made} of its {stage.steps} steps")


def _report(store: str, run_id: str, state: State, again: str) -> int:
    if state.status == "completed":
        print(f"\n{visible(state.data['text'], lines=True)}\n")
        print(f"the log holds {_recorded(store, run_id)} steps for the {STEPS} that there are")
        print_checkpoints(store, run_id)
        print_hints(store, run_id)
        return OK
    if state.status == "failed" and state.error is not None:
        print(visible(f"eventflow: run {run_id} failed: {state.error.message}; go on: `{again}`"), file=sys.stderr)
        return FAILED
    said = f"run {run_id} was stopped in {state.node} after {_made(state)} of {STEPS} steps; go on: `{again}`"
    print(visible(f"eventflow: {said}"), file=sys.stderr)
    return STOPPED


def _recorded(store: str, run_id: str) -> int:
    """How many steps were recorded in all, by whichever process."""
    log = open_store(store)
    try:
        head = find_run(log, run_id, whole=True)
        events: list[Any] = [one.event for one in history(log, head.run_key, 1, head.version)]
        return sum(isinstance(event, Transitioned) for event in events)
    finally:
        log.close()

"""Driving runs from the command line: progress, signals of the operating system, how a run's end becomes an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.shell import (
    FAILED,
    OK,
    STOPPED,
    Format,
    print_json,
    print_standing,
    progress,
    state_document,
    visible,
)
from eventflow.engine import Engine, Run
from eventflow.event import AttemptFailed, EffectStarted, RunFailed, Transitioned
from eventflow.run import CheckpointTaken, Listener, Notice
from eventflow.state import State
from eventflow.workflow import Workflow

LAST_LOOK = 0.2  # seconds a run that was let go may take to say so; one that another process drives says nothing


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for: how to tell of the run, and what `eventflow resume RUN` needs beside the id."""

    output: Format
    verbose: bool
    again: str = ""


def drive(
    store: str, flows: list[Workflow], begin: Callable[[Engine], Awaitable[Run]], asked: Asked, *,
    checkpoints: CheckpointPolicy | None = None,
) -> int:  # fmt: skip
    """Open an engine, begin, wait for the end, print the state; returns the exit code.

    SIGINT and SIGTERM let the run go after its node (a second one, or five seconds, cuts it off): it can be resumed.
    """
    say, done = progress(wanted=not asked.verbose)
    listeners = [lines_on_stderr() if asked.verbose else progress_of(say)]
    try:
        run_id, state, here = asyncio.run(
            _driven(Engine(store, workflows=flows, checkpoints=checkpoints, listeners=listeners), begin)
        )
    finally:
        done()
    return report(run_id, state, asked, here=here)


def lines_on_stderr() -> Listener:
    """A listener that writes a log line for each event."""
    from eventflow.telemetry import log_lines, to_stderr  # noqa: PLC0415 - a twentieth of a second, when it is asked for

    to_stderr()
    return log_lines()


async def _driven(engine: Engine, begin: Callable[[Engine], Awaitable[Run]]) -> tuple[str, State, bool]:
    """The run's id, the state it was left in, and whether this process was done with it when it stopped waiting."""
    async with engine:
        with stopping(engine) as stopped:
            run = await begin(engine)
            ended, told = asyncio.ensure_future(run.wait()), asyncio.ensure_future(stopped.wait())
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if not ended.done():
                await asyncio.wait({ended}, timeout=LAST_LOOK)
            here = ended.done()
            ended.cancel()
            return run.id, (ended.result() if here else run.state), here


@contextlib.contextmanager
def stopping(engine: Engine, *, told: asyncio.Event | None = None) -> Iterator[asyncio.Event]:
    """While the block runs, SIGINT and SIGTERM drain the engine; the event is set once that is done, `told` at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    tasks: set[asyncio.Task[Any]] = set()

    async def let_go(grace: float | None) -> None:
        try:
            await engine.drain(grace)
        finally:
            stopped.set()

    def drain() -> None:
        if told is not None:
            told.set()
        tasks.add(loop.create_task(let_go(0.0 if tasks else None)))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, drain)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def report(run_id: str, state: State, asked: Asked, *, here: bool = True) -> int:
    """Print where a run was left; returns the exit code that says the same, which a sentence on stderr explains.

    `here` is False where another process drives the run and goes on doing so.
    """
    if asked.output == "table":
        print_standing(run_id, state)
    else:
        print_json(state_document(run_id, state), lines=asked.output == "jsonl")
    if state.status == "completed":
        return OK
    sentence = _sentence(run_id, state, f"eventflow resume {run_id}{asked.again}", here=here)
    print(f"eventflow: {visible(sentence)}", file=sys.stderr)
    return FAILED if state.ended else STOPPED


def _sentence(run_id: str, state: State, resume: str, *, here: bool) -> str:
    """Why a run has not completed, and what to do next."""
    if not here:
        return f"run {run_id} is driven by another process and goes on there; `eventflow show {run_id}` tells how far it is"
    if state.status == "failed" and state.error is not None:
        said = f"run {run_id} failed in node {state.node!r}: {state.error.type}: {state.error.message}"
        known = said.replace("resume the run", f"`{resume}`")
        return known if known != said else f"{said}; mend the cause, then `{resume}`"
    if state.ended:
        return f"run {run_id} was {state.status.replace('_', ' ')}; `{resume} --at VERSION` goes back to before that"
    if state.status == "paused":
        return f"run {run_id} was paused and can go on: `{resume}`"
    return f"run {run_id} was stopped and can go on: `{resume}`"


def progress_of(say: Callable[[str], None]) -> Listener:
    """A listener that says what is going on, in the line of a terminal that changes."""

    def listener(state: State, notice: Notice) -> None:
        run = state.run.run_id
        if isinstance(notice, CheckpointTaken):
            say(f"{run}: checkpoint {notice.checkpoint.id}")
        elif isinstance(notice.event, Transitioned):
            say(f"{run}: version {state.version}, in node {notice.event.to}")
        elif isinstance(notice.event, EffectStarted):
            say(f"{run}: {notice.event.name} in node {state.node}")
        elif isinstance(notice.event, AttemptFailed | RunFailed):
            say(f"{run}: {state.node} failed: {notice.event.error.message}")

    return listener

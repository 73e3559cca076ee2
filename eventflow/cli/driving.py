"""Driving runs from the command line: progress, signals of the operating system, how a run's end becomes an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.shell import FAILED, OK, STOPPED, Format, print_json, print_state, progress, state_document, visible
from eventflow.engine import Engine, Run
from eventflow.errors import Stopped
from eventflow.event import AttemptFailed, EffectStarted, RunFailed, Transitioned
from eventflow.run import CheckpointTaken, Listener, Notice
from eventflow.state import State
from eventflow.telemetry import log_lines, to_stderr
from eventflow.workflow import Workflow


def drive(
    store: str, flows: list[Workflow], begin: Callable[[Engine], Awaitable[Run]], *, output: Format, verbose: bool,
    checkpoints: CheckpointPolicy | None = None,
) -> int:  # fmt: skip
    """Open an engine, begin, wait for the end, print the state; returns the exit code.

    SIGINT and SIGTERM let the run go after its node (a second one, or five seconds, cuts it off): it can be resumed.
    """
    listeners: list[Listener] = []
    say, done = progress(wanted=not verbose)
    if verbose:
        to_stderr()
    listeners.append(log_lines() if verbose else _progress_of(say))
    try:
        return asyncio.run(_drive(store, flows, begin, output=output, checkpoints=checkpoints, listeners=listeners))
    finally:
        done()


async def _drive(
    store: str, flows: list[Workflow], begin: Callable[[Engine], Awaitable[Run]], *, output: Format,
    checkpoints: CheckpointPolicy | None, listeners: list[Listener],
) -> int:  # fmt: skip
    async with Engine(store, workflows=flows, checkpoints=checkpoints, listeners=listeners) as engine:
        with stopping(engine):
            run = await begin(engine)
            state = await run.wait()
        return report(run.id, state, output)


@contextlib.contextmanager
def stopping(engine: Engine) -> Any:
    """While the block runs, SIGINT and SIGTERM drain the engine."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[Any]] = set()

    def drain() -> None:
        grace = 0.0 if tasks else None
        tasks.add(loop.create_task(engine.drain(grace)))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, drain)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def report(run_id: str, state: State, output: Format) -> int:
    """Print where a run was left; returns the exit code that says the same."""
    if output == "table":
        _print_state(run_id, state)
    else:
        print_json(state_document(run_id, state), lines=output == "jsonl")
    if state.status == "completed":
        return OK
    if state.status in ("failed", "cancelled", "timed_out"):
        if state.error is not None:
            sentence = f"run {run_id} failed in node {state.node!r}: {state.error.type}: {state.error.message}"
            print(f"eventflow: {visible(sentence)}; mend the cause, then `eventflow resume {run_id}`", file=sys.stderr)
        return FAILED
    print(f"eventflow: {Stopped(run_id)}", file=sys.stderr)
    return STOPPED


def _print_state(run_id: str, state: State) -> None:
    print(f"run {run_id}: {state.status} at version {state.version}, node {visible(state.node)}")
    print_state(state)


def _progress_of(say: Callable[[str], None]) -> Callable[[State, Notice], None]:
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

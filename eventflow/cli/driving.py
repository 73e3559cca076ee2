"""Driving runs from the command line: progress, signals of the operating system, how a run's end becomes an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.pasting import options, pasteable
from eventflow.cli.policy import quota_of
from eventflow.cli.shell import (
    FAILED,
    OK,
    STOPPED,
    Format,
    print_json,
    progress,
    state_document,
    visible,
)
from eventflow.cli.standing import asked as asked_text
from eventflow.cli.standing import goes_on, opening_lines, print_standing
from eventflow.engine import Engine, Run
from eventflow.errors import own_place
from eventflow.event import AttemptFailed, EffectStarted, Recorded, RunFailed, RunResumed, Transitioned, WaitOpened
from eventflow.log import Log
from eventflow.progress import parked_why
from eventflow.quota import LimitNear
from eventflow.recovery import recover
from eventflow.run import CheckpointTaken, Listener, Notice, RecoveryOutOfReach
from eventflow.state import State, open_waits
from eventflow.workflow import Workflow, looked_for

VerboseArg = Annotated[
    bool, Parameter(name=["--verbose", "-v"], negative=(), help="A log line for each event, on stderr.")
]
LAST_LOOK = 0.2  # seconds a run that was let go may take to say so; one that another process drives says nothing


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asked for: how to tell of the run, and what `eventflow resume RUN` needs beside the id.

    `store` is what was typed for it.
    """

    output: Format
    verbose: bool
    again: str = ""
    store: str | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """How a run was left: its state, whether this process was done with it then, whether a signal had asked for it.

    `parked` is why it stands still, if it was parked.
    """

    run_id: str
    state: State
    here: bool
    stopped: bool
    parked: str = ""


def asked_for(output: Format, verbose: bool, flows: Iterable[str], store: str | None) -> Asked:  # noqa: FBT001 - as typed
    """How to tell of a run, and the options that resuming it from here would need again."""
    return Asked(output, verbose, options(store, flows), store)


def drive(
    store: str, flows: list[Workflow], begin: Callable[[Engine], Awaitable[Run]], asked: Asked, *,
    checkpoints: CheckpointPolicy | None = None,
) -> int:  # fmt: skip
    """Open an engine, begin, wait for the end, print the state; returns the exit code.

    SIGINT and SIGTERM let the run go after its node (a second one, or five seconds, cuts it off): it can be resumed.
    """
    left = driven(store, flows, begin, asked, checkpoints=checkpoints)
    return report(left, asked)


def driven(
    store: str, flows: list[Workflow], begin: Callable[[Engine], Awaitable[Run]], asked: Asked, *,
    checkpoints: CheckpointPolicy | None = None,
) -> Left:  # fmt: skip
    """Open an engine, begin, and wait until the run is over or let go; prints nothing but progress."""
    say, done = progress(wanted=not asked.verbose)
    stands = asyncio.Event()
    listeners = [lines_on_stderr() if asked.verbose else progress_of(say), _when_it_stands(stands)]
    if asked.output == "table":
        listeners.append(questions_on_stderr(asked.store))
    try:
        engine = Engine(store, workflows=flows, checkpoints=checkpoints, listeners=listeners, quota=quota_of())
        return asyncio.run(_driven(engine, begin, stands))
    finally:
        done()


def lines_on_stderr() -> Listener:
    """A listener that writes a log line for each event."""
    from eventflow.telemetry import log_lines, to_stderr  # noqa: PLC0415 - a twentieth of a second, when it is asked for

    to_stderr()
    return log_lines()


def questions_on_stderr(store: str | None = None) -> Listener:
    """A listener that tells of each wait for a person or a signal once, as it opens, and how it is ended.

    `store` is what was typed for it.
    """
    told: set[tuple[str, int]] = set()

    def listener(state: State, notice: Notice) -> None:
        event = notice.event if isinstance(notice, Recorded) else None
        if not isinstance(event, WaitOpened | RunResumed) or state.ended:
            return
        places = [event.branch] if isinstance(event, WaitOpened) else [where for where, _ in open_waits(state)]
        for where, wait in open_waits(state):
            if where in places and (state.run.run_id, wait["id"]) not in told:
                told.add((state.run.run_id, wait["id"]))
                for line in opening_lines(state.run.run_id, state, where, store=store):
                    print(visible(line), file=sys.stderr, flush=True)

    return listener


async def _driven(
    engine: Engine, begin: Callable[[Engine], Awaitable[Run]], stands: asyncio.Event
) -> Left:  # fmt: skip
    asked_to_stop = asyncio.Event()
    async with engine:
        with stopping(engine, told=asked_to_stop) as stopped:
            run = await begin(engine)
            ended, told = asyncio.ensure_future(run.wait()), asyncio.ensure_future(stopped.wait())
            lost = asyncio.ensure_future(_lost(engine.log, run.id, stands))
            await asyncio.wait({ended, told, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not ended.done():
                await engine.drain()
            told.cancel()
            lost.cancel()
            if not ended.done():
                await asyncio.wait({ended}, timeout=LAST_LOOK)
            here = ended.done()
            ended.cancel()
            state = ended.result() if here else run.state
            return Left(run.id, state, here, asked_to_stop.is_set(), parked_why(engine.log, state))


def _when_it_stands(stands: asyncio.Event) -> Listener:
    """A listener that sets an event whenever a run may have come to stand still."""

    def listener(state: State, notice: Notice) -> None:
        if state.status == "waiting" and isinstance(notice, Recorded):
            stands.set()

    return listener


async def _lost(log: Log, run_id: str, stands: asyncio.Event) -> None:
    """Return once a run waits for nothing but a word on what became of a call: it may take days, and needs no process."""
    while not _at_a_loss(log, run_id):
        stands.clear()
        await stands.wait()


def _at_a_loss(log: Log, run_id: str) -> bool:
    head = log.head(run_id)
    if head is None or head.status != "waiting":
        return False
    waits = open_waits(recover(log, head).state)
    kinds = [one["kind"] == "unknown" or (one["kind"] == "child" and _at_a_loss(log, one["name"])) for _, one in waits]
    return bool(kinds) and all(kinds)


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


def report(left: Left, asked: Asked) -> int:
    """Print where a run was left; returns the exit code that says the same, which a sentence on stderr explains."""
    run_id, state = left.run_id, left.state
    if asked.output == "table":
        print_standing(run_id, state, store=asked.store)
    else:
        print_json(state_document(run_id, state), lines=asked.output == "jsonl")
    if state.status == "completed":
        return OK
    sentence = pasteable(_sentence(left, asked), asked.store)
    print(f"eventflow: {visible(sentence)}", file=sys.stderr)
    return FAILED if state.ended else STOPPED


def _sentence(left: Left, asked: Asked) -> str:
    """Why a run has not completed, and what to do next."""
    run_id, state, again = left.run_id, left.state, asked.again
    resume = f"eventflow resume {run_id}{again}"
    if not left.here:
        return f"run {run_id} is driven by another process and goes on there; `eventflow show {run_id}` tells how far it is"
    if state.ended:
        return _of_ended(run_id, state, again)
    unknown = [(where, one) for where, one in open_waits(state) if one["kind"] == "unknown"]
    if unknown:
        (where, one), more = unknown[0], f" (and of {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        [(_, command)] = goes_on(run_id, where, one, store=asked.store)
        return f"run {run_id} waits to be told what became of call {one['name']}{more}: `{command}`, then `{resume}`"
    if children := [one["name"] for _, one in open_waits(state) if one["kind"] == "child"]:
        return f"run {run_id} waits for run {children[0]}; `eventflow show {children[0]}` says what that waits for, `{resume}` goes on"
    if state.status == "parked":
        known = left.parked.replace(f"`eventflow resume {run_id}`", f"`{resume}`")
        return f"run {run_id} was parked: {known}" + ("" if known != left.parked else f"; `{resume}` goes on")
    return f"run {run_id} was {'paused' if state.status == 'paused' else 'stopped'} and can go on: `{resume}`"


def _of_ended(run_id: str, state: State, again: str) -> str:
    """Why a run ended otherwise than well, and what to do next."""
    resume = f"eventflow resume {run_id}{again}"
    if state.status == "failed" and state.error is not None and state.error.type == "BudgetExceeded":
        return f"{state.error.message.partition('; resume it')[0]}; `{resume} --budget NAME=NUMBER` sets another one"
    if state.status == "failed" and state.error is not None:
        place = own_place(state.error)
        said = f"run {run_id} failed in node {state.node!r}: {state.error.type}: {state.error.message}{f' ({place})' if place else ''}"
        if state.undoing is not None and not state.undo:
            return f"{said}; what it did was taken back, `{resume} --at VERSION` goes back to before that"
        if field := looked_for(state.error.type, state.error.message, state.data):
            fork = f"`replay fork {run_id} --set {field}=JSON --run --real{again}` goes on in a new run that has it"
            meant = "" if state.error.type == "InvalidState" else f"if a field {field!r} of the state is meant, "
            return f"{said}; {meant}{fork}; or mend the node, then `{resume}`"
        known = said.replace("resume the run", f"`{resume}`")
        return known if known != said else f"{said}; mend the cause, then `{resume}`"
    if state.status == "timed_out":
        return (
            f"run {run_id} did not end in the time it was given, and was ended in node {state.node!r}; "
            f"`replay fork {run_id}@VERSION` goes on from before that, without a limit"
        )
    return f"run {run_id} was {state.status.replace('_', ' ')}; `{resume} --at VERSION` goes back to before that"


def progress_of(say: Callable[[str], None]) -> Listener:
    """A listener that says what is going on, in the line of a terminal that changes."""

    def listener(state: State, notice: Notice) -> None:
        run = state.run.run_id
        if isinstance(notice, CheckpointTaken):
            say(f"{run}: checkpoint {notice.checkpoint.id}")
        elif isinstance(notice, RecoveryOutOfReach):
            say(f"{run}: a recovery takes {notice.estimate:.3g} s, longer than it may")
        elif isinstance(notice, LimitNear):
            say(str(notice))
        elif isinstance(notice.event, Transitioned):
            say(f"{run}: version {state.version}, in node {notice.event.to}")
        elif isinstance(notice.event, EffectStarted):
            say(f"{run}: {notice.event.name} in node {state.node}")
        elif isinstance(notice.event, WaitOpened):
            wait = next((one for where, one in open_waits(state) if where == notice.event.branch), None)
            if wait is not None:
                say(f"{run}: waiting for {'an answer: ' if wait['kind'] == 'human' else ''}{asked_text(wait)}")
        elif isinstance(notice.event, AttemptFailed | RunFailed):
            say(f"{run}: {state.node} failed: {notice.event.error.message}")

    return listener

"""`eventflow demo interactive`: checkpoints by hand over a small run, in a session with prompts.

A command a line, typed or from a pipe. What is done to checkpoints is done by the functions behind `eventflow checkpoints`;
here is only the conversation. A wrong line costs a sentence, never the session.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from dataclasses import dataclass

from eventflow.address import checkpoint_at, find_run
from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli import checkpoints
from eventflow.cli.demo.flow import initial, study
from eventflow.cli.demo.model import answering, who_answers
from eventflow.cli.demo.place import DEMO_STORE, StoreArg, fresh_id, print_hints
from eventflow.cli.demo.telling import tell
from eventflow.cli.shell import OK, open_store, print_table, visible
from eventflow.engine import Engine
from eventflow.engine.rewinding import check_rewind
from eventflow.errors import CheckpointNotFound, EventflowError, SettingsError
from eventflow.event import EffectFinished, EffectStarted, Event, Rewound, Transitioned
from eventflow.recovery import history, line, recover
from eventflow.run import Notice
from eventflow.state import State

OPENS_BEFORE = "analyzer"  # in the middle: something has been done, and something is left to go on with
POLICY = CheckpointPolicy(after_node=True)
COMMANDS = (
    ("create [label]", "make a checkpoint of the run as it stands"),
    ("list", "list its checkpoints"),
    ("show c-N", "show one: its state, its node, how it is reached"),
    ("delete c-N|all", "delete one, or all; the history stays as it is"),
    ("resume [c-N]", "take the run back to a checkpoint and go on from there; without one, go on where it stands"),
    ("history", "list what has happened, and what a resume has left behind"),
    ("help", "this list"),
    ("quit", "end the session; so does the end of the input"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """What a session is about: one run in one store."""

    store: str
    run_id: str


def session(*, store: StoreArg = None) -> int:
    """Make, list, show and delete checkpoints of a run, and resume it at one, by typing; or a command a line on stdin."""
    where = store or DEMO_STORE
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is not UTF-8 is a wrong line, not the end
        sys.stdin.reconfigure(errors="backslashreplace")
    table = Table(where, fresh_id(where, "interactive"))
    with answering(os.environ) as server:  # type: ignore[arg-type]
        print(who_answers(server))
        asyncio.run(_begin(table))
        _drive(table, stop_before=OPENS_BEFORE)
        print("`help` lists the commands.")
        while (typed := _read(f"{table.run_id}> ")) is not None and typed.strip() != "quit":
            _answer(table, typed.strip())
    print(f"run {table.run_id} is kept: {_standing(table)}")
    print_hints(where, table.run_id)
    return OK


def _answer(table: Table, typed: str) -> None:
    """Do what a line says; whatever goes wrong with it is a sentence."""
    try:
        _obey(table, typed)
    except CheckpointNotFound as error:
        print(visible(f"run {table.run_id} has no checkpoint {error.checkpoint!r}; `list` shows those it has"))
    except EventflowError as error:
        print(visible(str(error)))
    except KeyboardInterrupt:
        print(f"\nrun {table.run_id} was let go: {_standing(table)}; `resume` goes on")


def _obey(table: Table, typed: str) -> None:
    word, _, rest = typed.partition(" ")
    rest = rest.strip()
    match word, rest:
        case "", "":
            pass
        case "create", label:
            checkpoints.create(table.run_id, label=label, store=table.store)
        case "list", "":
            checkpoints.list_(table.run_id, store=table.store)
        case "show", name if name:
            checkpoints.show_(table.run_id, name, store=table.store)
        case "delete", "all":
            checkpoints.delete(table.run_id, all=True, yes=True, store=table.store)
        case "delete", name if name:
            checkpoints.delete(table.run_id, (name,), yes=True, store=table.store)
        case "resume", name:
            _resume(table, name)
        case "history", "":
            _history(table)
        case "help", "":
            print_table(({"command": usage, "does": text} for usage, text in COMMANDS), ("command", "does"))
        case _:
            raise SettingsError(_usage(word, typed))


def _usage(word: str, typed: str) -> str:
    """The sentence about a line that is no command."""
    known = next((usage for usage, _ in COMMANDS if usage.split()[0] == word), None)
    return f"{typed!r} is not a command; `help` lists them" if known is None else f"write it as `{known}`"


def _read(prompt: str) -> str | None:
    """The next line, None at the end; from a pipe it is printed after its prompt, as a terminal would show it."""
    if sys.stdin is None or not sys.stdin.isatty():
        print(prompt, end="", flush=True)
        typed = sys.stdin.readline() if sys.stdin is not None else ""
        print(visible(typed.rstrip("\r\n")), flush=True)
        return typed or None
    try:
        return input(prompt)
    except EOFError:
        print()
        return None


def _sure(question: str) -> bool:
    while True:
        typed = _read(f"{question} [y/N] ")
        said = "" if typed is None else typed.strip().lower()
        if said in ("y", "yes"):
            return True
        if said in ("", "n", "no"):
            return False
        print("answer y or n")


# --- the run -------------------------------------------------------------------------------------------------------


def _engine(table: Table) -> Engine:
    def listener(state: State, notice: Notice) -> None:
        if said := tell(state, notice):
            print(visible(said), flush=True)

    return Engine(table.store, workflows=[study()], checkpoints=POLICY, listeners=[listener])


async def _begin(table: Table) -> None:
    """Start the run and let it go at once: how far it is driven is said when it is taken up."""
    async with _engine(table) as engine:
        await engine.start(study(), initial(), run_id=table.run_id, tags=["demo"])


def _drive(table: Table, *, at: str | None = None, stop_before: str = "") -> None:
    """Take the run up, drive it on, and say where it stands then."""

    async def work() -> State:
        async with _engine(table) as engine:
            run = await engine.resume(table.run_id, at=at, stop_before={stop_before} - {""})
            return await run.wait()

    state = asyncio.run(work())
    if state.status == "completed":
        print(f"\n{visible(state.data['report'], lines=True)}\n")
    print(f"run {table.run_id} is {_standing(table)}")
    if state.error is not None and state.status == "failed":
        print(visible(f"it failed: {state.error.message}; `resume` tries again"))


def _standing(table: Table) -> str:
    log = open_store(table.store)
    try:
        state = recover(log, find_run(log, table.run_id)).state
    finally:
        log.close()
    facts = len(state.data["facts"])
    return f"{state.status} at version {state.version}, node {state.node}, with {facts} facts"


def _resume(table: Table, name: str) -> None:
    log = open_store(table.store)
    try:
        head = find_run(log, table.run_id)
        if not name and head.status == "completed":
            raise SettingsError("the run is completed; `resume c-N` takes it back to a checkpoint, `list` shows which")
        if name:
            to = checkpoint_at(log, head, name)
            node = check_rewind(log, head, to, confirmed=False).node
            question = f"Take the run back from version {head.version} to {name}, in node {node}, and go on from there?"
    finally:
        log.close()
    if name and not _sure(f"{question} Nothing is erased."):
        print(f"the run stays at version {head.version}")
        return
    _drive(table, at=name or None)


# --- what has happened ---------------------------------------------------------------------------------------------


def _history(table: Table) -> None:
    log = open_store(table.store)
    try:
        head = find_run(log, table.run_id)
        valid = [(part.first, part.last) for part in line(log, head.run_key, head.version)]
        marks = {mark.version: f"{mark.id} {mark.label}" for mark in log.checkpoints(head.run_key)}
        rows = [
            {
                "version": one.version,
                "event": type(one.event).__name__,
                "what": _what(one.event),
                "checkpoint": marks.get(one.version, ""),
                "": "" if any(first <= one.version <= last for first, last in valid) else "left behind",
            }
            for one in history(log, head.run_key, 1, head.version)
        ]
    finally:
        log.close()
    print_table(rows, ("version", "event", "what", "checkpoint", ""))


def _what(event: Event) -> str:
    match event:
        case Transitioned():
            return f"{event.node} -> {event.to}"
        case EffectStarted() | EffectFinished():
            return event.name
        case Rewound():
            return f"back to version {event.to}, in {event.node}"
        case _:
            return str(getattr(event, "node", ""))

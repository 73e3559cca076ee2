"""`eventflow demo`: see it work, with no key and no server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.cli.demo.flow import POLICY, initial, study
from eventflow.cli.demo.interactive import session
from eventflow.cli.demo.long_running import long_run
from eventflow.cli.demo.model import answering, who_answers
from eventflow.cli.demo.place import DEMO_STORE, StoreArg, fresh_id, print_checkpoints, print_hints
from eventflow.cli.demo.telling import tell
from eventflow.cli.shell import FAILED, OK, open_store, progress, sub_app, visible
from eventflow.cli.slips import meant
from eventflow.engine import Engine
from eventflow.errors import SettingsError
from eventflow.event import EffectFinished, Transitioned
from eventflow.log import Log
from eventflow.recovery import history, recover
from eventflow.run import Notice
from eventflow.state import State
from eventflow.testing.model_server import ModelServer
from eventflow.verification import verify_store

app = sub_app("demo", "See it work: no key and no server needed. Without a name: recovery.")
KILLED_IN = "analyzer"
DEMOS = ("basic", "recovery", "interactive", "long-running")
app.command(session, name="interactive")
app.command(long_run, name="long-running")


@app.command
def basic(*, store: StoreArg = None, quiet: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Three agents over one text: every transition is durable, checkpoints are shown as they are made.

    Parameters
    ----------
    quiet
        Only the report and the summary.
    """
    where = store or DEMO_STORE
    run_id = fresh_id(where, "basic")
    with answering(os.environ) as server:  # type: ignore[arg-type]
        print(who_answers(server))
        say, done = progress()
        try:
            state = asyncio.run(_basic(where, run_id, quiet=quiet, say=say))
        finally:
            done()
    if state.status != "completed":
        said = state.error.message if state.error else f"the run was left {state.status}"
        print(visible(f"eventflow: run {run_id} did not complete: {said}"), file=sys.stderr)
        return FAILED
    print(f"\n{visible(state.data['report'], lines=True)}\n")
    print_checkpoints(where, run_id)
    print_hints(where, run_id)
    return OK


async def _basic(store: str, run_id: str, *, quiet: bool, say: Any) -> State:
    flow = study()
    sections = len(initial()["sections"])

    def listener(state: State, notice: Notice) -> None:
        line = tell(state, notice)
        if line and not quiet:
            print(visible(line), flush=True)
        say(f"{len(state.data['facts'])} of {sections} sections read, in {state.node}")

    async with Engine(store, workflows=[flow], checkpoints=POLICY, listeners=[listener]) as engine:
        run = await engine.start(flow, initial(), run_id=run_id, tags=["demo"])
        return await run.wait()


@app.default
def unnamed(name: Annotated[str | None, Parameter(show=False)] = None, /, *, store: StoreArg = None) -> int:
    """The one that is shown where none is named."""
    if name is not None:
        raise SettingsError(f"there is no demo {name!r}{meant(name, DEMOS)}; there are {', '.join(DEMOS)}")
    return recovery(store=store)


@app.command
def recovery(*, store: StoreArg = None) -> int:
    """Kill a workflow with SIGKILL in the middle, resume it in a new process, and count what was repeated: nothing."""
    where = store or DEMO_STORE
    run_id = fresh_id(where, "recovery")
    environment = dict(os.environ)
    with answering(environment) as server:
        print(who_answers(server))
        print(f"A first process starts run {run_id} in store {where}:\n")
        code = _child(["start", where, run_id, KILLED_IN], environment)
        if code != -9:
            print(f"eventflow: the process ended with {code} before it could be killed; see above", file=sys.stderr)
            return FAILED
        before = _calls(server)
        _print_left(where, run_id)
        print("A new process resumes it:\n")
        if _child(["resume", where, run_id], environment):
            print("eventflow: the run did not complete; see above", file=sys.stderr)
            return FAILED
        return _summary(where, run_id, server, before)


def _child(arguments: list[str], environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "eventflow.cli.demo.child", *arguments]
    sys.stdout.flush()  # what has been said so far comes before what the child says
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own module


def _calls(server: ModelServer | None) -> int:
    return 0 if server is None else len(server.calls)


def _print_left(store: str, run_id: str) -> None:
    log = open_store(store)
    try:
        head = log.head(run_id)
        if head is None:
            return
        state = recover(log, head).state
        finished = [name for name, entry in state.effects.items() if entry["status"] == "finished"]
        print(
            f"\nThe process is dead. The log is not: run {run_id} stands at version {head.version} in node {state.node},"
        )
        print(f"with {len(state.data['facts'])} facts and {len(finished)} finished model call of this node.\n")
    finally:
        log.close()


def _summary(store: str, run_id: str, server: ModelServer | None, before: int) -> int:
    log = open_store(store)
    try:
        head = log.head(run_id)
        if head is None:
            return FAILED
        state = recover(log, head).state
        events = [one.event for one in history(log, head.run_key, 1, head.version)]
        visited = [event.node for event in events if isinstance(event, Transitioned)]
        finished = sum(isinstance(event, EffectFinished) for event in events)
        skipped = visited[: visited.index(KILLED_IN)]
        print(f"\n{visible(state.data['report'], lines=True)}\n")
        print(f"skipped by the second process: {len(skipped)} finished visits of {', '.join(sorted(set(skipped)))}")
        print(f"not called again: the model call of {KILLED_IN}, whose answer was in the log")
        sound = _sound(log)
    finally:
        log.close()
    repeated = 0
    if server is not None:
        counts = server.counts()
        repeated = sum(count - 1 for count in counts.values())
        print(
            f"the model server counted {len(server.calls)} calls, {before} before the kill and "
            f"{len(server.calls) - before} after; {repeated} of them for a second time"
        )
    print(
        f"the log holds {finished} model calls, each finished once; verified: {'everything holds' if sound else 'NOT SOUND'}"
    )
    print_hints(store, run_id)
    return OK if sound and not repeated else FAILED


def _sound(log: Log) -> bool:
    *_, report = verify_store(log)
    return report.sound

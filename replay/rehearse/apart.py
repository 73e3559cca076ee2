"""A rehearsal in a process of its own: started here, listened to, and ended if it hangs.

The process is told what to do in one message and answers in several: plain data as CBOR, each after its length in four
bytes. This file also has the other end, which loads the user's code behind the fence.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from eventflow.codec import decode, encode
from eventflow.errors import EventflowError
from eventflow.log import Head, Log, open_log
from eventflow.plain import thaw
from eventflow.workflow import Workflow
from replay.export import read_history
from replay.rehearse.fence import leave_network, raise_fence
from replay.rehearse.report import Finding, Rehearsal, RunReport
from replay.rehearse.routes import rehearse_run
from replay.rehearse.stage import Stage

GRACE = 30.0  # seconds beyond a body's limit until a silent process is ended: loading a large module takes several
ENDING = 2.0  # seconds in which a process whose answers stopped is gone, if it has ended at all
MAX_MESSAGE = 64 << 20  # bytes: a report with its values; a process that says more is not one of ours


class RehearsalFailed(EventflowError):
    """A rehearsal could not be held: its process ended or hung, or the code in it could not be loaded."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rehearsal may take: seconds a body; and where its code comes from: directories first on `sys.path`."""

    body: float = 10.0
    path: tuple[str, ...] = ()
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Runs by id, and where they are recorded: a store, or an export's file."""

    place: str
    runs: tuple[str, ...]
    export: bool = False


def rehearse_apart(
    sources: Sequence[Source], flow: str, *, nodes: bool = False, limits: Limits | None = None
) -> Rehearsal:
    """Rehearse runs with the workflow of a name, in a process of its own behind the fence; bodies too with `nodes`.

    Raises RehearsalFailed.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="replay-rehearsal-") as temporary:
        asked = {
            "sources": [[_whole_path(one.place), list(one.runs), one.export] for one in sources], "flow": flow, "nodes": nodes,
            "limit": float(limits.body), "path": list(limits.path), "temporary": temporary,
        }  # fmt: skip
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": temporary}
        own = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [own, environment.get("PYTHONPATH", "")]))
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "replay.rehearse"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=limits.directory, env=environment,
        )  # fmt: skip
        try:
            return _listened(child, asked, limits.body + GRACE)
        finally:
            child.kill()
            child.communicate()


def _whole_path(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def _listened(child: subprocess.Popen[bytes], asked: dict[str, Any], patience: float) -> Rehearsal:
    """What a process answers, message by message. Raises RehearsalFailed."""
    assert child.stdin is not None  # noqa: S101 - as it was started
    assert child.stdout is not None  # noqa: S101
    _send(child.stdin.fileno(), asked)
    runs: list[RunReport] = []
    at = "the code was loaded"
    while True:
        message = _received(child.stdout, patience)
        if message is None:
            raise RehearsalFailed(f"the rehearsal's process {_how(child)} while {at}; look at the code that runs there")
        if "at" in message:
            at = f"node {message['at'][0]!r} of run {message['at'][2]} was run, version {message['at'][1]}"
        elif "report" in message:
            runs.append(RunReport.of(message["report"]))
        elif "failed" in message:
            raise RehearsalFailed(message["failed"])
        elif "done" in message:
            told = message["done"]
            return Rehearsal(told["workflow"], tuple(runs), told["skipped"], told["isolation"], tuple(told["loading"]))


def _how(child: subprocess.Popen[bytes]) -> str:
    """What became of a process that says nothing more: its end is known a moment after its silence."""
    try:
        return f"ended with {child.wait(ENDING)}"
    except subprocess.TimeoutExpired:
        return "hangs"


def _send(stream: int, message: dict[str, Any]) -> None:
    data = encode(message)
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(stream, data) :]


def _received(stream: IO[bytes], patience: float) -> dict[str, Any] | None:
    """The next message; None if none comes in time, or the other end is gone."""
    head = _exactly(stream.fileno(), 4, patience)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > MAX_MESSAGE:
        return None
    data = _exactly(stream.fileno(), size, patience)
    if len(data) < size:
        return None
    message = decode(data, "a message")
    return message if isinstance(message, dict) else None


def _exactly(stream: int, size: int, patience: float) -> bytes:
    data = b""
    while len(data) < size:
        if not select.select([stream], [], [], patience)[0]:
            break
        more = os.read(stream, size - len(data))
        if not more:
            break
        data += more
    return data


# --- the other end -------------------------------------------------------------------------------------------------


def perform() -> None:
    """What the process does: read what is asked, load the code behind the fence, answer, end."""
    out = os.dup(1)
    os.dup2(2, 1)  # what the user's code prints is none of the answer
    asked = _received(sys.stdin.buffer, GRACE)
    if asked is not None:
        try:
            _perform(out, asked)
        except EventflowError as error:
            _send(out, {"failed": str(error)})
        except KeyboardInterrupt:  # which the one who asked has been told too
            pass
    os._exit(0)  # a body that took too long may still be running


def _perform(out: int, asked: dict[str, Any]) -> None:
    from eventflow.cli.flows import load_flow  # noqa: PLC0415 - the one way from a name to a workflow

    isolation = leave_network()
    sources = [(_opened(place, export=export), runs) for place, runs, export in asked["sources"]]
    attempts: list[str] = []
    raise_fence(Path(asked["temporary"]), attempts.append)
    sys.path[:0] = asked["path"]
    flow = load_flow(asked["flow"])
    loading, skipped, limit = list(attempts), 0, asked["limit"] if asked["nodes"] else 0.0
    for log, runs in sources:
        for run_id in runs:
            head = log.head(run_id)
            report = None if head is None else _one(flow, log, head, out=out, limit=limit, attempts=attempts)
            if report is None:
                skipped += 1
            else:
                _send(out, {"report": thaw(report.plain())})
    _send(out, {"done": {"workflow": flow.name, "skipped": skipped, "isolation": isolation, "loading": loading}})


def _opened(place: str, *, export: bool) -> Log:
    return read_history(Path(place)) if export else open_log(place, readonly=True, create=False)


def _one(flow: Workflow, log: Log, head: Head, *, out: int, limit: float, attempts: list[str]) -> RunReport | None:
    """One run rehearsed, its bodies too if they have a limit; what it tried to do outside is among its findings."""

    def at(node: str, version: int) -> None:
        _send(out, {"at": [node, version, head.run_id]})

    attempts.clear()
    stage = Stage(flow, limit, at=at, attempts=attempts) if limit else None
    report = rehearse_run(flow, log, head, stage, at=at)
    if report is None or not attempts:
        return report
    found = [Finding("blocked", head.version, "", f"a guard tried to reach outside: {one}") for one in attempts]
    for one in attempts:
        report.receipt.block(one)
    return replace(report, findings=(*report.findings, *found))

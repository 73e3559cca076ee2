"""One turn of one system: a process of its own that does one job and is gone, so that none runs while another is timed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import Installed
from benchmarks.peers.systems import System
from benchmarks.peers.wire import Job, size

ROOT = Path(__file__).parents[2]
LIMIT = 1_800.0  # seconds a turn may take
SYNCS = "fsync,fdatasync,msync,sync_file_range"


class TurnFailed(Exception):
    """A worker ended without an answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one process has seen."""

    micros: list[float] = field(default_factory=list)
    seconds: float = 0.0
    latest: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    history: list[float] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    bytes: int = 0  # of the store, once the process was gone
    way: str = ""


def turn(system: System, where: Installed, job: Job) -> Turn:
    """Do a job; the store is removed afterwards. Raises TurnFailed."""
    place = Path(job.place)
    os.sync()  # what the turn before has left to be written must not be waited for in this one
    try:
        said = _answered(_program(system, where, job))
        found: dict[str, Any] = {"absent": [], "way": job.way, "bytes": size(place)}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for line in said:
        found["absent"] += [line.pop("absent")] if "absent" in line else []
        found |= line
    return Turn(**found)


def synced(system: System, where: Installed, place: Path, steps: int) -> int | None:
    """Calls that wait for the disk in a process with a run of so many steps, its server's too; None if none can count."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    calls = place.parent / "calls"
    program = _program(system, where, Job("syncs", str(place), steps, way=system.way, server=where.server))
    try:
        _answered([strace, "-f", "-qq", "-o", str(calls), "-e", f"trace={SYNCS}", *program])
        return len(re.findall(r"^\d+ +(?:fsync|fdatasync|msync|sync_file_range)\(", calls.read_text(), re.MULTILINE))
    except TurnFailed:  # tracing may be forbidden
        return None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _program(system: System, where: Installed, job: Job) -> list[str]:
    return [str(where.python), "-m", f"benchmarks.peers.{system.worker}", job.words()]


def _answered(program: Sequence[str]) -> list[dict[str, Any]]:
    try:
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise TurnFailed(f"no answer within {LIMIT:.0f} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise TurnFailed(last[-1].strip()[:300])
    return [json.loads(line) for line in lines]

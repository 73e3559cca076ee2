"""Environments for other software: each system in a virtual environment of its own, in a cache that outlives the run.

Nothing is installed but what the table of systems pins. What can't be installed is skipped, and the reason is told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.systems import System

PATIENCE = 900.0  # seconds that one installation may take
_DONE = "installed"  # the file that is written last, with what was installed


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a system can be run: its interpreter, and the program of its server if it has one."""

    python: Path
    server: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A system that can't be measured here, and why."""

    reason: str


def cache() -> Path:
    """Where environments are kept: under XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "eventflow" / "peers"


def installed(system: System, place: Path) -> Installed | Skipped:
    """A system's environment under `place`, made if it is not there in the pinned versions."""
    if not system.packages:
        return Installed(Path(sys.executable))
    home = place / system.environment
    pins = "\n".join([*system.packages, system.server, sys.version])
    python = home / "bin" / "python"
    done = home / _DONE
    if not done.is_file() or done.read_text() != pins:
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        for command in _commands(system, home, python):
            if reason := _failed(command):
                return Skipped(reason)
        done.write_text(pins)
    if not system.server:
        return Installed(python)
    found = sorted(home.glob("node_modules/*/*/bin/restate-server"))
    return Installed(python, str(found[0])) if found else Skipped(f"{system.server} has no program for this machine")


def _commands(system: System, home: Path, python: Path) -> list[Sequence[str]]:
    commands: list[Sequence[str]] = []
    if system.server:  # first, for it is what is most often not there
        commands.append(
            ["npm", "install", "--prefix", str(home), "--ignore-scripts", "--no-audit", "--no-fund", system.server]
        )
    commands.append([sys.executable, "-m", "venv", str(home)])
    commands.append([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *system.packages])
    return commands


def _failed(command: Sequence[str]) -> str:
    """Why a command did not do its work; empty if it did."""
    if shutil.which(command[0]) is None:
        return f"there is no {Path(command[0]).name} here"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"{Path(command[0]).name} took longer than {PATIENCE:.0f} s"
    if not done.returncode:
        return ""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    told = next((line for line in reversed(said) if "ERROR" in line.upper()), said[-1])
    return f"{Path(command[0]).name} can't install it: {told}"

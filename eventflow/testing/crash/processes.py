"""A life in a process of its own, which ends by SIGKILL where it is meant to: here is the side that starts it.

The workflow is imported there, by the name that the caller gave; nothing read from a store is ever imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eventflow.codec import encode
from eventflow.errors import SettingsError
from eventflow.plain import freeze
from eventflow.testing.crash.boundary import When
from eventflow.testing.crash.faults import Fault
from eventflow.testing.crash.life import Story

SPARE = 10.0  # seconds beyond a life's own patience, for its start and its end


@dataclass(frozen=True, slots=True)
class Named:
    """A life to be lived elsewhere: MODULE:FLOW, its story, its store and notes, where it dies."""

    name: str
    story: Story
    store: Path
    notes: Path
    at: int
    when: When
    seed: int
    fault: Fault

    def words(self) -> dict[str, Any]:
        """All of it as plain data. Raises SettingsError for what is a function."""
        story = self.story
        if any(map(callable, [*story.signals.values(), *story.answers.values()])) or story.workflows:
            raise SettingsError('kill="process" takes signals and answers as plain data, and one workflow')
        policy = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(story.policy).items()
        }
        return {
            "data": story.data, "run_id": story.run_id, "signals": dict(story.signals),
            "early": [list(pair) for pair in story.early], "answers": dict(story.answers), "policy": policy,
            "patience": story.patience, "store": str(self.store), "notes": str(self.notes), "at": self.at,
            "when": self.when, "seed": self.seed, "fault": self.fault,
        }  # fmt: skip


def live_in_process(life: Named) -> None:
    """Live it; returns when the process has ended as it should. Raises AssertionError with what it said otherwise."""
    module, _, name = life.name.partition(":")
    if not all(map(str.isidentifier, [*module.split("."), name])):
        raise SettingsError(f"{life.name!r} does not name a workflow; write MODULE:FLOW")
    code = f"from {module} import {name} as flow\nfrom eventflow.testing.crash.child import main\nmain(flow)"
    done = subprocess.run(  # noqa: S603 - our own program, and a name checked above
        [sys.executable, "-c", code], input=encode(freeze(life.words())), capture_output=True, check=False,
        timeout=life.story.patience + SPARE, env=_environment(),
    )  # fmt: skip
    if done.returncode not in (0, -signal.SIGKILL if life.at else 0):
        said = done.stderr.decode(errors="replace").strip()
        raise AssertionError(f"the process of {life.name} ended with {done.returncode}: {said[-2_000:]}")


def _environment() -> dict[str, str]:
    """This process's, with the same places to import from."""
    places = [str(Path.cwd()), *(place for place in sys.path if place)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}

"""A life in a process of its own: the side that lives. Its words come on stdin; it ends in order, or by its own SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from eventflow.checkpoint import CheckpointPolicy
from eventflow.codec import decode
from eventflow.log import LmdbLog, Log
from eventflow.testing.crash.boundary import BoundaryLog
from eventflow.testing.crash.faults import FaultyLog
from eventflow.testing.crash.life import Life, Story
from eventflow.testing.crash.witness import Notes
from eventflow.testing.skipping import SkippingClock
from eventflow.workflow import Workflow


def main(flow: Any) -> None:
    """Live the life of a workflow, or of what a function without arguments gives, that stdin tells of."""
    words = cast("Mapping[str, Any]", decode(sys.stdin.buffer.read(), "the words on stdin"))
    asyncio.run(_lived(flow if isinstance(flow, Workflow) else flow(), words))


async def _lived(flow: Workflow, words: Mapping[str, Any]) -> None:
    notes = Notes(Path(words["notes"]))
    inner = LmdbLog(words["store"])
    faulty = FaultyLog(inner, words["fault"]) if words["fault"] else None
    log = BoundaryLog(cast("Log", faulty or inner), notes, at=words["at"], when=words["when"], die=_end)
    life = Life(_story(flow, words), log, SkippingClock(seed=words["seed"]), notes.all_doomed())
    await life.to_its_end()
    if faulty is not None:
        faulty.pay()
    notes.ended(life.asked)
    inner.close()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _story(flow: Workflow, words: Mapping[str, Any]) -> Story:
    policy: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in words["policy"].items()
    }
    return Story(
        flow=flow, data=words["data"], run_id=words["run_id"], signals=words["signals"],
        early=[(name, payload) for name, payload in words["early"]], answers=words["answers"],
        policy=CheckpointPolicy(**policy), patience=words["patience"],
    )  # fmt: skip

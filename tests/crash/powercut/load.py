"""A store under load, in a process of its own that is recorded: `python load.py STORE WITNESS [FAULT]`.

The witness is a file outside the store. A line in it is one system call, so that the record shows what the store's callers
had been told at any moment; with each line goes the high-water mark, which is written through memory and in no call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from eventflow import CheckpointPolicy, Engine, Workflow
from eventflow.clock import SystemClock
from eventflow.errors import EventflowError
from eventflow.log import Act, Append, Appended, LmdbLog
from eventflow.retention import RetentionPolicy, prune, sweep
from eventflow.testing.crash.faults import weakly_synced

LONG = "A text that is long enough to be kept once, beside the events that refer to it. " * 30
ROUNDS = 3


class Witnessed:
    """A log that tells the witness what it is asked for before it is written, and what it acknowledged after."""

    def __init__(self, log: LmdbLog, witness: Path) -> None:
        self._log = log
        self._fd = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __getattr__(self, name: str):
        return getattr(self._log, name)

    def write(self, batch):
        begun = [[one.run_id, one.expected + len(one.events)] for one in batch if isinstance(one, Append)]
        going = [one.delete_run.run_id for one in batch if isinstance(one, Act) and one.delete_run is not None]
        self.tell(begun=begun, going=going)
        answers = self._log.write(batch)
        told = [
            [answer.head.run_id, answer.head.version - len(answer.digests) + number, digest.hex()]
            for answer in answers if isinstance(answer, Appended)
            for number, digest in enumerate(answer.digests, 1)
        ]  # fmt: skip
        self.tell(told=told, gone=[] if any(isinstance(one, EventflowError) for one in answers) else going)
        return answers

    def tell(self, **what) -> None:
        """One line: what happened, and the marks as they are now."""
        marks = {str(path.relative_to(self.path)): path.read_bytes().hex() for path in self.path.glob("data.*/mark")}
        os.write(self._fd, json.dumps({**what, "marks": marks}).encode() + b"\n")


def flow() -> Workflow:
    """Two nodes in turn: a call with a long answer, and a list that grows."""

    async def look(state, run):
        said = await run.effect("look", lambda n: f"{LONG} {n}", state["n"], mutating=False)
        return {"text": said}

    return (
        Workflow("load")
        .add_node("look", look)
        .add_node("again", lambda state: {"n": state["n"] + 1, "notes": [*state["notes"], LONG[: 40 * state["n"]]]})
        .add_node("end", lambda _: {"text": ""})
        .add_edge("look", "again")
        .add_edge("again", "look", when=lambda state: state["n"] < ROUNDS)
        .add_edge("again", "end")
        .set_start("look")
    )


async def _runs(log: Witnessed, prefix: str, count: int) -> None:
    work = flow()
    policy = CheckpointPolicy(every=5, keep=2)
    async with Engine(log, workflows=[work], checkpoints=policy) as engine:
        started = await engine.start_many(work, {f"{prefix}{n}": {"n": n % 2, "notes": []} for n in range(count)})
        for run in started:
            await run.result()
        await engine.checkpoint(f"{prefix}0", label="by hand", snapshot=True)
        await (await engine.fork(f"{prefix}0@4", run_id=f"{prefix}f", change={"n": 2})).result()
        await (await engine.resume(f"{prefix}0", at=3, yes=True)).result()
        await engine.prune_checkpoints(f"{prefix}0", keep=1)


def vacuum(log: Witnessed) -> None:
    """Move the store into a smaller file."""
    owner = os.urandom(16)
    end = log.new_owner(owner)
    try:
        log.vacuum(owner, say=lambda what: log.tell(vacuum=what))
    finally:
        end()


def main(store: Path, witness: Path, fault: str) -> None:
    """Everything a store does, once."""
    with weakly_synced(fault):
        inner = LmdbLog(store)
        log = Witnessed(inner, witness)
        asyncio.run(_runs(log, "a", 2))
        prune(log, RetentionPolicy(keep=1, statuses=("completed",)), clock=SystemClock())
        sweep(log)
        vacuum(log)
        asyncio.run(_runs(log, "b", 1))
        inner.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")

"""Files of stores with something wrong in them: opened in the usual way in a child, and examined as a stranger's.

Nothing that the usual way believes without an error is other than it was, unless an examination finds it; and no file ends
the process that asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventflow import CheckpointPolicy, Engine, Workflow
from eventflow.errors import EventflowError
from eventflow.log import Query, open_log
from eventflow.recovery import recover
from eventflow.untrusted import Examiner

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
STORES = 10_000 if FULL else 120
MINUTES = 60.0 if FULL else 15.0  # seconds, after which no more are made
PAGE = 4_096
FEWEST = 20  # stores that must have been looked at, however slow the machine is


def more(state: dict[str, Any]) -> dict[str, Any]:
    """A step that leaves a number and a long text."""
    return {"n": state["n"] + 1, "text": f"{state['n']} words " * 200}


FLOW = (
    Workflow("grows")
    .add_node("more", more)
    .add_node("end", lambda state: {"done": True})
    .add_edge("more", "more", when=lambda state: state["n"] < 6)
    .add_edge("more", "end")
    .set_start("more")
)


async def written(path: Path) -> None:
    """Make a store with some runs, long values, checkpoints and a fork."""
    async with Engine(path, workflows=[FLOW], checkpoints=CheckpointPolicy(every=3)) as engine:
        for name in ("a", "b", "c"):
            await (await engine.start(FLOW, {"n": 0}, run_id=name)).result()
        await engine.fork("a@3", run_id="d")


def said(path: Path) -> str:
    """All that a store says, as a digest. Raises EventflowError."""
    hashed = hashlib.sha256()
    with closing(open_log(path, readonly=True, create=False)) as log:
        for one in log.feed(0, 999):
            hashed.update(one.data)
        for listed in log.runs(Query()):
            state = recover(log, listed.head).state
            hashed.update(f"{listed.head.run_id} {state.version} {state.digest.hex()} {state.data!r}".encode())
    return hashed.hexdigest()


def in_a_child(path: Path) -> str:
    """What a child that opens a store finds: its digest, `refused`, or `killed`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.close(reading)
            try:
                answer = said(path)
            except EventflowError:
                answer = "refused"
            except MemoryError:
                answer = "refused"
            except Exception as error:  # noqa: BLE001 - told to the parent, which fails
                answer = f"STUMBLED {type(error).__name__}: {error}"
            os.write(writing, answer.encode()[:4_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return answer or "killed"


def spoiled(whole: bytes, dice: random.Random) -> bytes:
    """A file with a few things wrong: bits, words, sectors, pages exchanged, an end that is missing."""
    changed = bytearray(whole)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        pages = len(changed) // PAGE
        at = dice.randrange(len(changed)) if dice.random() < 0.7 else dice.randrange(min(2 * PAGE, len(changed)))
        match dice.randrange(6):
            case 0:
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                changed[at : at + 8] = dice.choice([bytes(8), b"\xff" * 8, dice.randbytes(8)])[: len(changed) - at]
            case 2:
                start = at // 512 * 512
                changed[start : start + 512] = dice.choice([bytes(512), dice.randbytes(512)])
            case 3:
                one, two = dice.randrange(pages) * PAGE, dice.randrange(pages) * PAGE
                changed[one : one + PAGE], changed[two : two + PAGE] = (
                    changed[two : two + PAGE],
                    changed[one : one + PAGE],
                )
            case 4:
                del changed[max(2, dice.randrange(pages)) * PAGE :]
            case 5:
                changed[at : at + 2] = (dice.randrange(2**16)).to_bytes(2, "little")[: len(changed) - at]
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_no_spoiled_store_is_silently_another(tmp_path: Path) -> None:
    """Refused, or what it was; what is neither, and what ends the child, an examination finds."""
    store = tmp_path / "runs"
    asyncio.run(written(store))
    sound = said(store)
    file = store / "data.1" / "data.mdb"
    whole, dice = file.read_bytes(), random.Random(7)  # noqa: S311 - a seed that can be repeated
    counts, began = dict.fromkeys(("refused", "same", "found"), 0), time.monotonic()
    with Examiner() as examiner:
        assert examiner.verify(store).findings == []
        for number in range(STORES):
            if time.monotonic() - began > MINUTES and number >= FEWEST:
                break
            copy = tmp_path / "copy"
            shutil.copytree(store, copy)
            (copy / "data.1" / "data.mdb").write_bytes(spoiled(whole, dice))
            answer = in_a_child(copy)
            assert not answer.startswith("STUMBLED"), f"store {number}: {answer}"
            findings = examiner.verify(copy).findings
            if answer not in ("refused", sound):
                assert findings, f"store {number} was {answer} and passes for sound"
                counts["found"] += 1
            else:
                counts["same" if answer == sound else "refused"] += 1
            shutil.rmtree(copy)
    assert counts["refused"]
    assert counts["same"]

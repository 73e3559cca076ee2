"""One bit turned over anywhere in a store is found out, or changes nothing that can be read or proven.

A sample with a fixed seed; EVENTFLOW_FULL takes a larger one, and one of a larger store. EVENTFLOW_FLIPS=N takes N of each (ten
thousand take some minutes), EVENTFLOW_FLIPS=all every bit of the small store's file, which takes about half an hour.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import lmdb
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bit_flips import CHANGED, KILLED, REFUSED, REPORTED, SAME, STUMBLED, Flip, Sweep, everything

from eventflow import Engine, Workflow, extend
from eventflow.cipher.signing import new_key
from eventflow.errors import EventflowError
from eventflow.log import LmdbLog
from eventflow.log.lmdb.tables import TABLES
from eventflow.sealing import Seal, read_seal, seal
from eventflow.untrusted import Examiner

FULL = "EVENTFLOW_FULL" in os.environ
ASKED = os.environ.get("EVENTFLOW_FLIPS", "")
ALL = ASKED == "all"
FLIPS = int(ASKED) if ASKED.isdecimal() else 1_500 if FULL else 800
DATA = "data.1/data.mdb"
PAGE = 4_096
LONG = "A text that is long enough to be kept once, beside the events that refer to it. " * 30
LAST = 8  # bytes of it at the end: the number of the transaction that wrote it
META = 152  # bytes of a meta page that mean something


class Data(TypedDict, total=False):
    n: int
    text: str
    notes: Annotated[list[str], extend]


def working(rounds: int) -> Workflow:
    """A workflow that calls something, keeps long texts, and goes round a few times."""

    async def look(state: Data, run: Any) -> Data:
        said = await run.effect("look", lambda n: f"{LONG} {n}", state["n"], mutating=False)
        return {"text": said, "notes": ["looked"]}

    return (
        Workflow("working", state=Data)
        .add_node("look", look)
        .add_node("again", lambda state: {"n": state["n"] + 1, "notes": [LONG]})
        .add_node("end", lambda _: {"notes": ["end"]})
        .add_edge("look", "again")
        .add_edge("again", "look", when=lambda state: state["n"] < rounds)
        .add_edge("again", "end")
        .set_start("look")
    )


async def _write(root: Path, rounds: int) -> None:
    flow = working(rounds)
    async with Engine(root, workflows=[flow]) as engine:
        await (await engine.start(flow, {"n": 1}, run_id="one", tags=["red"])).result()
        await engine.checkpoint("one", label="by hand", snapshot=True)
        await (await engine.fork("one@4", run_id="two", change={"n": rounds - 1})).result()
        await (await engine.resume("one", at=3, yes=True)).result()
        await (await engine.start(flow, {"n": rounds - 1}, run_id="gone")).result()
        await engine.delete("gone", why="it is not needed")
        await engine.fork("one@2", run_id="asleep", drive=False)
        await engine.checkpoint("asleep", snapshot=True)
        await engine.checkpoint("two", snapshot=True)


class Held:
    """A store at rest, all that it says, and a seal of it that is kept elsewhere."""

    def __init__(self, root: Path, rounds: int) -> None:
        self.root = root
        asyncio.run(_write(root, rounds))
        log = LmdbLog(root, readonly=True)
        self.right = everything(log)
        note = root.with_suffix(".note")
        note.write_text(str(seal(log, new_key("elsewhere"))))
        self.seals: Sequence[Seal] = [read_seal(note)]
        log.close()

    def bits(self, name: str = DATA) -> int:
        """How many bits a file of the store has."""
        return (self.root / name).stat().st_size * 8

    def flipped(self, bits: Iterable[int], name: str = DATA, **options: Any) -> list[Flip]:
        """What became of some bits turned over, one at a time."""
        task = {"seals": self.seals, **options}
        return Sweep(self.root, name, self.right, **task).flipped(list(bits))

    def sampled(self, count: int, seed: int = 20_261_124) -> list[Flip]:
        """What became of a sample of the bits of the store's LMDB file."""
        chosen = random.Random(seed).sample(range(self.bits()), count)  # noqa: S311 - only has to repeat
        return self.flipped(chosen)

    def examined(self, flip: Flip) -> bool:
        """Whether the public verification tells of a flip that ends who reads the store: it reads in a child process."""
        file = self.root / flip.file
        whole = file.read_bytes()
        spoiled = bytearray(whole)
        spoiled[flip.byte] ^= 1 << flip.bit
        file.write_bytes(spoiled)
        try:
            with Examiner() as examiner:
                return bool(examiner.verify(self.root, own=True).findings)
        except EventflowError:
            return True
        finally:
            file.write_bytes(whole)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Held:
    """Four runs, one of them deleted: a rewind, forks, calls, checkpoints by hand, values beside the events."""
    return Held(tmp_path_factory.mktemp("flips") / "store", 3)


def settle(held: Held, flips: Sequence[Flip]) -> Counter[str]:
    """The count of each outcome, once none of them is one that must not be."""
    wrong = [one for one in flips if one.outcome in (CHANGED, STUMBLED)]
    assert not wrong, f"{len(wrong)} of {len(flips)} flips went unnoticed, or were met with a traceback: {wrong[:5]}"
    unseen = [one for one in flips if one.outcome == KILLED and not held.examined(one)]
    assert not unseen, f"no verification tells of {unseen[:5]}"
    return Counter(one.outcome for one in flips)


def test_a_flip_anywhere_is_found_out_or_changes_nothing(small: Held, record_property) -> None:
    """Refused at opening, reported by verify, or every state, event, value and proof is what it was."""
    count = small.bits() if ALL else FLIPS
    found = settle(small, small.sampled(min(count, small.bits())))
    assert all(found[outcome] for outcome in (REFUSED, REPORTED, SAME)), found
    record_property("figures", f"{found.total():,} bits: 0 unnoticed, {found[SAME]:,} of them change nothing")


def test_a_flip_in_what_is_not_free_is_nearly_always_found_out(small: Held, tmp_path: Path) -> None:
    """Of a file without free pages, so that the sample meets rows: what LMDB itself never reads is most of the rest."""
    with lmdb.open(str(small.root / "data.1"), readonly=True, lock=False, max_dbs=len(TABLES)) as env:
        env.copy(str(tmp_path), compact=True)
    whole = (small.root / DATA).read_bytes()
    (small.root / DATA).write_bytes((tmp_path / "data.mdb").read_bytes())
    try:
        found = settle(small, small.sampled(FLIPS // 2))
    finally:
        (small.root / DATA).write_bytes(whole)
    assert found[REFUSED] + found[REPORTED] > found[SAME] / 10, found


@pytest.mark.parametrize("name", ["data.1/mark", "CURRENT"])
def test_a_flip_beside_the_file_is_found_out_too(small: Held, name: str) -> None:
    """All bits of the high-water mark and of the file that names the data directory."""
    step = 1 if FULL else 8
    settle(small, small.flipped(range(0, small.bits(name), step), name, closely=1))


def test_without_the_mark_a_flip_in_a_meta_page_rolls_the_store_back_unnoticed(small: Held) -> None:
    """The control: with it there is no such flip, so the sweep does see what it looks for."""
    numbers = [page * PAGE * 8 + bit for page in (0, 1) for bit in range((META - LAST) * 8, META * 8, 1 if FULL else 3)]
    assert not [one for one in small.flipped(numbers, closely=1, seals=()) if one.outcome == CHANGED]
    mark = small.root / "data.1" / "mark"
    kept = mark.read_bytes()
    mark.unlink()
    try:
        unnoticed = [one for one in small.flipped(numbers, closely=1, seals=()) if one.outcome == CHANGED]
    finally:
        mark.write_bytes(kept)
    assert unnoticed
    assert {one.byte // PAGE for one in unnoticed} <= {0, 1}


@pytest.mark.slow
@pytest.mark.skipif(not (FULL or ASKED), reason="EVENTFLOW_FULL=1 flips bits of a larger store, which takes a minute")
def test_flips_of_a_larger_store(tmp_path: Path) -> None:
    """Some hundred events, over more pages than one table's root holds."""
    large = Held(tmp_path / "store", 30)
    settle(large, large.sampled(FLIPS // 2 if not ASKED else FLIPS))

"""After a power cut a store opens, holds what was acknowledged, and goes on, whatever the disk has made of what was not synced.

A store under load is recorded with strace; from the record every state follows that a disk may be left in, and each is
opened by the real recovery. Two controls, a store that does not sync and one that does not sync its meta page, show that
the same judgement finds what it looks for. EVENTFLOW_STATES asks for another number of states.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from powercut import load
from powercut.judge import Recording, at_risk, judged, planned
from powercut.trace import recorded, works

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
STATES = int(os.environ.get("EVENTFLOW_STATES", "20000" if FULL else "1500"))
CONTROL_STATES = 1_000 if FULL else 250

WHY_NOT = works()

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it can")


def recording(place: Path, fault: str = "") -> Recording:
    """A store under load, recorded."""
    place.mkdir()
    store, witness, record = place / "store", place / "witness", place / "record"
    recorded([sys.executable, load.__file__, str(store), str(witness), fault], record)
    return Recording.read(store, witness, record)


def kinds(outcomes: Counter[str]) -> Counter[str]:
    """Outcomes without the numbers and paths in them."""
    found: Counter[str] = Counter()
    for said, times in outcomes.items():
        found[re.sub(r"\d+|[\w-]*/[^ ]*", "#", said)[:90]] += times
    return found


@pytest.mark.slow
def test_after_a_power_cut_everything_acknowledged_is_there(tmp_path, record_property):
    """Each state opens; versions lie between acknowledged and begun; states are folds; everything verifies and goes on."""
    made = recording(tmp_path / "sound")
    cuts = planned(made, STATES)
    assert len(cuts) == STATES
    outcomes = judged(made, cuts)
    assert kinds(outcomes) == {"": STATES}
    syncs = sum(call.name in ("fsync", "fdatasync") and call.ends for call in made.calls)
    record_property("figures", f"{STATES:,} states of a load with {syncs} syncs: 0 failed")


def test_the_load_does_what_a_store_does(tmp_path):
    """Appends, snapshots, a fork, a rewind, removals and a move to another file are in the record; so is every sync."""
    made = recording(tmp_path / "sound")
    said = (tmp_path / "sound" / "witness").read_text()
    assert {"vacuum", "going"} <= set(re.findall(r'"(vacuum|going)": (?=["\[]["\w])', said))
    assert {run for run, _ in made.digests} >= {"a0", "a1", "af", "b0", "bf"}
    assert (tmp_path / "sound" / "store" / "CURRENT").read_text() == "data.2\n"
    *_, (_, disk) = made.replayed()
    assert {
        path: content for path, content in disk.left("all", 1).items() if path.endswith(("data.mdb", "CURRENT"))
    } == {
        f"store/{path}": (tmp_path / "sound" / "store" / path).read_bytes() for path in ("CURRENT", "data.2/data.mdb")
    }


@pytest.mark.parametrize(
    ("fault", "least", "said"),
    [("skip_the_sync", 0.9, "Corrupt: "), ("skip_the_sync_of_the_meta_page", 0.3, "lost: ")],
)
def test_a_store_that_does_not_sync_is_found_out(tmp_path, fault, least, said, record_property):
    """Of states that lack written bytes, without any sync nearly none is a store; without each commit's last, events are missing."""
    made = recording(tmp_path / "broken", fault)
    cuts = at_risk(made, planned(made, 2 * CONTROL_STATES))[::2]
    assert len(cuts) > CONTROL_STATES / 4
    outcomes = judged(made, cuts)
    failed = outcomes.total() - outcomes[""]
    assert failed >= least * len(cuts), kinds(outcomes)
    assert any(one.startswith(said) for one in outcomes), kinds(outcomes)
    record_property(
        "figures", f"{fault}: {failed:,} of {len(cuts):,} states fail that lack bytes after the first acknowledgement"
    )

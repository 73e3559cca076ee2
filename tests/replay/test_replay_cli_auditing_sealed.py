"""replay verify --seal: what was done to a store by somebody who can write to it, and knows how it is made."""

from __future__ import annotations

import asyncio
import shutil
import struct

import lmdb
import pytest

from eventflow import Engine, ManualClock, Workflow
from eventflow.cipher.signing import new_key
from eventflow.codec import decode
from eventflow.log import open_log
from eventflow.log.lmdb.tables import TABLES
from eventflow.retention import compact_run
from eventflow.sealing import keep, seal

KEY = new_key("example.com/auditor")
U64 = struct.Struct(">Q")


def flow():
    """Two steps."""
    steps = (
        Workflow("steps").add_node("a", lambda state: {"n": state["n"] + 1}).add_node("b", lambda state: {"done": 1})
    )
    return steps.add_edge("a", "b").set_start("a")


def store(path, inputs, *, stop=False):
    """A store of finished runs; the same bytes for the same inputs, so that one can be made anew as it was."""
    clock, steps = ManualClock(), flow()

    async def drive():
        log = open_log(path, clock=clock)
        async with Engine(log, workflows=[steps], clock=clock) as engine:
            for number, n in enumerate(inputs):
                clock.advance(1)
                await (await engine.start(steps, {"n": n}, run_id=f"r{number}")).wait()
        log.close()

    asyncio.run(drive())
    return path


@pytest.fixture
def sealed(desk):
    """A store of three runs and a seal of it that is held elsewhere."""
    store(desk / "runs.eventflow", [1, 2, 3])
    log = open_log(desk / "runs.eventflow", readonly=True)
    (desk / "held.note").write_text(str(seal(log, KEY)))
    log.close()
    (desk / "key.pub").write_text(str(KEY.public))
    return desk


def replaced(desk, inputs):
    """The store made anew with other inputs: same id, same keys, chains that hold."""
    shutil.rmtree(desk / "runs.eventflow")
    store(desk / "runs.eventflow", inputs)


def verdicts(run_replay):
    """What is found without the seal, and with it."""
    alone = run_replay("verify", "--all", "-o", "json")
    held = run_replay("verify", "--seal", "held.note", "--key", "key.pub", "-o", "json")
    assert (held.code == 4) is (not held.json["sound"])
    return alone.json["findings"], [one["problem"] for one in held.json["findings"]]


def test_a_store_that_was_not_touched_is_what_was_sealed(run_replay, sealed):
    """Also once it has grown."""
    assert verdicts(run_replay) == ([], [])
    replaced(sealed, [1, 2, 3, 4])
    assert verdicts(run_replay) == ([], [])
    done = run_replay("verify", "--seal", "held.note", "--key", "key.pub")
    assert "the first 10 events are those that were sealed" in done.out
    assert "takes --key" in run_replay("verify", "--seal", "held.note").out


def test_a_tail_that_was_cut_off_is_found_with_the_seal_alone(run_replay, sealed):
    """The store is whole in itself."""
    replaced(sealed, [1, 2])
    alone, held = verdicts(run_replay)
    assert alone == []
    assert held == ["its last 3 of 10 sealed events are gone: a tail was cut off, or this is an old copy"]


def test_an_old_copy_is_found_with_the_seal_alone(run_replay, sealed):
    """Put back in place of the store, and gone on with."""
    shutil.copytree(sealed / "runs.eventflow", sealed / "copy")
    log = open_log(sealed / "runs.eventflow")
    log.close()
    replaced(sealed, [1, 2, 3, 4])
    log = open_log(sealed / "runs.eventflow", readonly=True)
    (sealed / "held.note").write_text(str(seal(log, KEY)))
    log.close()
    shutil.rmtree(sealed / "runs.eventflow")
    shutil.move(sealed / "copy", sealed / "runs.eventflow")
    alone, held = verdicts(run_replay)
    assert alone == []
    assert held == ["its last 3 of 13 sealed events are gone: a tail was cut off, or this is an old copy"]


def test_a_store_rewritten_whole_is_found_with_the_seal_alone(run_replay, sealed):
    """Every chain in it holds."""
    replaced(sealed, [7, 8, 9])
    alone, held = verdicts(run_replay)
    assert alone == []
    assert held == ["its first 10 events are not those that held.note seals: they were changed since"]


def test_an_edit_with_all_its_digests_made_anew_is_found_with_the_seal_alone(run_replay, sealed):
    """One input of one run is another."""
    replaced(sealed, [1, 2, 4])
    alone, held = verdicts(run_replay)
    assert alone == []
    assert held == ["its first 10 events are not those that held.note seals: they were changed since"]


def test_events_in_another_order_are_found_with_the_seal_alone(run_replay, sealed):
    """Two runs have changed places, and every index with them."""
    with lmdb.open(str(sealed / "runs.eventflow" / "data.1"), max_dbs=len(TABLES), map_size=1 << 30) as env:
        tables = {name: env.open_db(name, create=False) for name in TABLES}
        with env.begin(write=True) as txn:
            rows = [txn.get(U64.pack(place), db=tables[b"log"]) for place in (2, 5)]
            for place, data in zip((5, 2), rows, strict=True):
                event = decode(data, "an event")
                txn.put(U64.pack(place), data, db=tables[b"log"])
                txn.put(event[2] + U64.pack(event[4]), U64.pack(place), db=tables[b"runs"])
    alone, held = verdicts(run_replay)
    assert alone == []
    assert held == ["its first 10 events are not those that held.note seals: they were changed since"]


def test_another_store_in_its_place_is_found(run_replay, sealed, run_eventflow):
    """By its id."""
    shutil.rmtree(sealed / "runs.eventflow")
    open_log(sealed / "runs.eventflow").close()
    _, held = verdicts(run_replay)
    assert held[0].startswith("held.note is the seal of another store")


def test_a_seal_that_is_kept_beside_the_log_is_compared_too(run_replay, sealed):
    """By verify --all; with a key, its signature as well."""
    log = open_log(sealed / "runs.eventflow", readonly=True)
    note = seal(log, KEY)
    log.close()
    replaced(sealed, [1, 2, 4])
    keep(sealed / "runs.eventflow", note)
    done = run_replay("verify", "--all")
    assert done.code == 4
    assert "seal@10: its first 10 events are not those that 10.note seals" in done.err
    replaced(sealed, [1, 2, 3])
    keep(sealed / "runs.eventflow", note)
    assert run_replay("verify", "--all", "-o", "json").json["seals"] == 1
    other = str(new_key("example.com/auditor").public)
    done = run_replay("verify", "--all", "--key", other)
    assert done.code == 4
    assert "is not signed by the key" in done.err
    (sealed / "runs.eventflow" / "seals" / "10.note").write_text("nothing")
    assert "seals@0: the note has no signature" in run_replay("verify", "--all").err


def test_a_run_that_was_compacted_after_the_seal_is_named(run_replay, sealed):
    """The seal says nothing of the state in place of its events, which whoever compacts makes; a newer one does."""
    log = open_log(sealed / "runs.eventflow")
    compact_run(log, ManualClock(), "r1", 2)
    (sealed / "newer.note").write_text(str(seal(log, KEY)))
    log.close()
    assert verdicts(run_replay) == ([], [])
    held = run_replay("verify", "--seal", "held.note", "--key", "key.pub")
    assert (held.code, "1 run compacted after the seal (r1)" in held.out) == (0, True)
    found = {}
    for name in ("held.note", "newer.note"):
        found[name] = run_replay("verify", "--seal", name, "--key", "key.pub", "-o", "json").json["compacted_since"]
    assert found == {"held.note": ["r1"], "newer.note": []}


def test_one_run_can_be_verified_with_a_seal(run_replay, sealed):
    """The other runs are then not looked at, but for their digests."""
    document = run_replay("verify", "r1", "--seal", "held.note", "-o", "json").json
    assert (document["sound"], document["runs"], document["sealed_outside"]) == (True, 1, 10)


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--seal", "absent"], 2), (["--seal", "key.pub"], 4), (["--all", "--key", "nonsense"], 2)],
)  # fmt: skip
def test_what_is_no_seal_or_key_is_said_in_one_sentence(run_replay, sealed, argv, code):
    """Before anything is verified."""
    done = run_replay("verify", *argv)
    assert done.code == code
    assert done.sentence.startswith("replay: ")

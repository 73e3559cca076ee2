"""Shredding: a subject's values are gone from the store, from its free pages and from old backups; its proofs are not."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from eventflow import Engine
from eventflow.checkpoint import Checkpoint
from eventflow.cipher.signing import new_key
from eventflow.clock import SystemClock
from eventflow.codec import decode, encode, is_locked_message
from eventflow.errors import KeyNotFound, NoKey, RunOwned, SettingsError, Shredded, SubjectGone
from eventflow.event import SubjectReadmitted, SubjectShredded, Transitioned
from eventflow.log import STORE_RUN, Post, Upkeep, open_log
from eventflow.proof.note import parse_head
from eventflow.recovery import history, recover
from eventflow.sealing import Seal, differences, seal, surveyed
from eventflow.shredding import finish, locked_log, readmit, shred, to_shred
from eventflow.testing.author import Author
from eventflow.verification import verify_store
from tests.eventflow.test_cipher_store import FLOW, RING, WORDS, forge, found_in, is_found, lived, rows_of, until_waits

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store with two runs of eve, a fork of one, and one of bob."""
    place = tmp_path_factory.mktemp("template") / "s"
    for name, subject in (("e1", "eve"), ("e2", "eve"), ("b", "bob")):
        asyncio.run(lived(place, run_id=name, subject=subject))

    async def fork():
        async with Engine(place, workflows=[FLOW], keys=RING) as engine:
            await engine.fork("e1@3", run_id="fork")

    asyncio.run(fork())
    return place


@pytest.fixture
def store(template, tmp_path):
    """A copy of it."""
    shutil.copytree(template, tmp_path / "s")
    return tmp_path / "s"


def shredded(place, name="eve"):
    """The store with a key destroyed."""
    log = locked_log(open_log(place, keys=RING))
    what = to_shred(log, name)
    shred(log, CLOCK, what, actor="ann", why="art. 17")
    log.close()
    return what


def test_a_shredding_takes_all_runs_of_a_subject_and_their_forks(store):
    """They are named before and in the event after, with who and why."""
    what = shredded(store)
    assert (what.kind, what.name, what.runs) == ("subject", "eve", ("e1", "e2", "fork"))
    log = open_log(store, keys=RING)
    told = list(history(log, STORE_RUN, 1, log.head_of(STORE_RUN).version))[-1].event
    log.close()
    assert isinstance(told, SubjectShredded)
    assert (told.name, list(told.runs), told.actor, told.why) == ("eve", ["e1", "e2", "fork"], "ann", "art. 17")


def test_after_a_shredding_nothing_of_the_subject_can_be_read(store):
    """Not its runs, not its forks, with the master key at hand; the other subject is untouched."""
    shredded(store)
    log = open_log(store, keys=RING)
    for name in ("e1", "e2", "fork"):
        with pytest.raises(Shredded, match=f"run {name} was shredded") as told:
            recover(log, log.head(name))
        assert told.value.exit_code == 6
    assert recover(log, log.head("b")).state.data["sent"]
    log.close()
    assert found_in(store) == set()


def test_every_proof_still_holds_after_a_shredding(store):
    """The whole store verifies, the chain of shredded runs included, and so does a seal from before."""
    log = open_log(store, keys=RING)
    note = seal(log, new_key("example.com/a"))
    before = Seal(note, parse_head(note.text), store / "seals" / "x.note")
    log.close()
    shredded(store)
    log = open_log(store, keys=RING)
    report = list(verify_store(log))[-1]
    assert (report.findings, report.runs) == ([], 4)
    assert report.hidden > 20
    found = surveyed(log, log.position(), sizes=[before.head.size])
    assert list(differences(log.store_id, found, [before])) == []
    log.close()


def test_a_broken_chain_of_a_shredded_run_is_found(store):
    """What can be verified without values is verified: a changed body has another digest."""
    shredded(store)
    rows = rows_of(store, b"log")
    key = sorted(rows)[5]
    changed = bytearray(rows[key])
    changed[-40] ^= 1
    forge(store, b"log", {key: bytes(changed)})
    assert is_found(store)


def test_an_old_backup_with_the_master_key_opens_nothing_of_a_shredded_subject(store, tmp_path):
    """A copy from before, as backups are: without `keys/`; so its runs have no key there either."""
    shutil.copytree(
        store, tmp_path / "backup", ignore=lambda folder, names: [one for one in names if folder.endswith("keys")]
    )
    keys = {path.name: path.read_bytes() for path in (store / "keys").glob("*.key")}
    shredded(store)
    for path in (store / "keys").glob("*.key"):  # what the store still has is all that a restore could bring back
        shutil.copy(path, tmp_path / "backup" / "keys" / path.name)
    assert len(list((tmp_path / "backup" / "keys").iterdir())) == len(keys) - 1
    assert found_in(tmp_path / "backup") == set()
    log = open_log(tmp_path / "backup", readonly=True, keys=RING)
    for name in ("e1", "e2", "fork"):
        with pytest.raises(NoKey, match=f"run {name} is encrypted"):
            recover(log, log.head(name))
        for version in range(1, 4):
            stored = log.read(log.head(name).run_key, version, version)
            assert not any(word.encode() in one.data for one in stored for word in WORDS)
    assert recover(log, log.head("b")).state.data["sent"]
    log.close()


def test_a_copy_that_was_made_with_its_keys_can_still_be_read(store, tmp_path):
    """The control: what a shredding does not reach, and why backups leave the keys out."""
    shutil.copytree(store, tmp_path / "backup")
    shredded(store)
    log = open_log(tmp_path / "backup", readonly=True, keys=RING)
    assert recover(log, log.head("e1")).state.data["sent"]
    log.close()


def test_a_subject_that_was_shredded_gets_no_key_unasked(store):
    """A new run of it is refused and nothing is left of it, in this process and in the next; other subjects go on."""
    shredded(store)
    for _ in range(2):
        with pytest.raises(SubjectGone, match=r"'eve' was shredded.*store keys readmit eve") as told:
            asyncio.run(lived(store, run_id="e3", subject="eve"))
        assert told.value.exit_code == 5
    asyncio.run(lived(store, run_id="b2", subject="bob"))
    log = locked_log(open_log(store, keys=RING))
    assert log.head("e3") is None
    assert {one.key.name for one in log.keys.listed()} == {"bob", ""}
    log.close()


def test_a_subject_that_is_let_in_again_can_be_shredded_again(store):
    """Letting in is an event with who and why; the next shredding shuts the door anew, and who was not shredded needs none."""
    shredded(store)
    log = locked_log(open_log(store, keys=RING))
    readmit(log, CLOCK, "eve", actor="ann", why="signed up")
    told = list(history(log, STORE_RUN, 1, log.head_of(STORE_RUN).version))[-1].event
    assert told == SubjectReadmitted("eve", "ann", "signed up")
    for name in ("eve", "bob"):
        with pytest.raises(SettingsError, match="was not shredded"):
            readmit(log, CLOCK, name)
    log.close()
    asyncio.run(lived(store, run_id="e3", subject="eve"))
    shredded(store)
    with pytest.raises(SubjectGone):
        asyncio.run(lived(store, run_id="e4", subject="eve"))


def test_a_subject_that_comes_back_gets_a_key_of_its_own(store):
    """New runs of it can be read, the old ones stay shredded."""
    shredded(store)
    log = locked_log(open_log(store, keys=RING))
    readmit(log, CLOCK, "eve")
    log.close()
    asyncio.run(lived(store, run_id="e3", subject="eve"))
    log = open_log(store, keys=RING)
    assert recover(log, log.head("e3")).state.data["sent"]
    with pytest.raises(Shredded):
        recover(log, log.head("e1"))
    log.close()


def test_a_run_that_is_being_driven_is_not_shredded(tmp_path):
    """Its owner is named; once it is stopped, it can be."""

    async def driven():
        async with Engine(tmp_path / "s", workflows=[FLOW], keys=RING) as engine:
            await engine.start(FLOW, {"q": "x"}, run_id="r", subject="eve")
            with pytest.raises(RunOwned, match="r"):
                to_shred(locked_log(engine.log), "eve")

    asyncio.run(driven())
    assert shredded(tmp_path / "s").runs == ("r",)


def test_an_engine_that_held_the_key_does_not_use_it_on(tmp_path):
    """Another process destroys it: the next look at the log says so, though the key was in memory."""
    asyncio.run(until_waits(tmp_path / "s"))
    held = open_log(tmp_path / "s", keys=RING)
    assert recover(held, held.head("r")).state.data["text"]
    shredded(tmp_path / "s", "r")
    with pytest.raises(Shredded):
        recover(held, held.head("r"))
    held.close()


def test_a_held_key_is_not_used_on_for_anything_else(tmp_path):
    """Each is the first that its log is asked for after the shredding: an append, messages, checkpoints."""
    asyncio.run(until_waits(tmp_path / "s"))
    logs = [open_log(tmp_path / "s", keys=RING) for _ in range(3)]
    head = logs[0].head("r")
    mark = Checkpoint(head.version, ("manual",), 0, "", 1, bytes(32))
    logs[0].write([Post(head.run_key, encode({"name": "x"})), Upkeep(head.run_key, marks=(mark,))])
    for one in logs:
        assert [decode(data, "a message") for _, data in one.inbox(head.run_key)] == [{"name": "x"}]
        assert any(mark.digest for mark in one.checkpoints(head.run_key))
    shredded(tmp_path / "s", "r")
    assert isinstance(logs[0].write([Author(logs[0]).then(head, Transitioned("a", "a"))])[0], Shredded)
    assert all(is_locked_message(data) for _, data in logs[1].inbox(head.run_key))
    assert not any(mark.digest for mark in logs[2].checkpoints(head.run_key))
    for one in logs:
        one.close()


def test_a_shredding_that_was_cut_off_is_finished_by_the_next(store):
    """Killed after the key was overwritten and before it was told: the key is gone already, the event follows."""
    log = locked_log(open_log(store, keys=RING))
    what = to_shred(log, "eve")
    log.keys.destroy(what.key_id)
    log.close()
    log = locked_log(open_log(store, keys=RING))
    with pytest.raises(NoKey):
        recover(log, log.head("e1"))
    assert sorted(finish(log, CLOCK)) == ["e1", "e2", "fork"]
    with pytest.raises(Shredded):
        recover(log, log.head("e1"))
    assert (finish(log, CLOCK), log.keys.shelf.half_destroyed()) == ([], [])
    told = list(history(log, STORE_RUN, 1, log.head_of(STORE_RUN).version))[-1].event
    assert (told.kind, told.name) == ("subject", "eve")
    log.close()


def test_what_has_no_key_of_its_own_says_whose_it_has(store):
    """A fork is shredded with its subject; an unknown name is not found."""
    log = locked_log(open_log(store, keys=RING))
    with pytest.raises(
        SettingsError, match="has the key of subject eve; shred that, and all that is under it: e1, e2, fork"
    ):
        to_shred(log, "fork")
    with pytest.raises(KeyNotFound, match="nobody"):
        to_shred(log, "nobody")
    log.close()
    plain = open_log("memory")
    with pytest.raises(SettingsError, match="not encrypted"):
        locked_log(plain)

"""An encrypted store in use: nothing is in the open, everything comes back, and what was moved or changed is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import shutil
from pathlib import Path

import lmdb
import pytest

from eventflow import CheckpointPolicy, Child, Engine, Keyring, MemoryLog, Wait, Workflow
from eventflow.change import Op
from eventflow.cipher import MasterKey
from eventflow.cipher.files import KeyFolder
from eventflow.cipher.keyring import adopt, read_wrapped
from eventflow.clock import SystemClock
from eventflow.codec import LockedBlob, decode, encode, is_locked_message, pack_state, read_events
from eventflow.errors import Corrupt, NoKey, ProofFailed, WrongKey
from eventflow.event import Transitioned
from eventflow.exchange import export_from, items, read_export, write_sequence
from eventflow.ingest import ingest
from eventflow.log import Kept, LmdbLog, LockedLog, Post, Query, Upkeep, open_log
from eventflow.plain import freeze
from eventflow.recovery import history, recover
from eventflow.retention.sweeping import sweep
from eventflow.run import SIGNAL, message
from eventflow.shredding import shred, to_shred
from eventflow.testing.author import Author
from eventflow.testing.contract.maker import moved
from eventflow.verification import verify_run, verify_store

RING = Keyring(MasterKey(b"m" * 32))
WORDS = [
    "swordfish",
    "belladonna",
    "quicksilver",
    "nightshade",
    "foxglove",
    "hemlock",
    "oleander",
    "larkspur",
    "wolfsbane",
]
SMALL, LONG, CALL, GOT, SENT, WRONG, MORE, INNER, NESTED = WORDS


async def fetch(question):
    """A call to the outside whose input and output are secret."""
    return {"answer": f"{GOT} for {question}", "page": GOT * 300}


def broken(state):
    """Fails with a secret in its sentence."""
    raise ValueError(f"no {WRONG} here")


async def body(state, run):
    """Puts secrets into a change, a call, a long text, and a list that is cut into pieces."""
    got = await run.effect("fetch", fetch, f"{CALL}?")
    return {"got": got, "text": LONG * 500, "items": [f"{INNER} {number}" for number in range(3_000)], "n": {NESTED: 1}}


FLOW = (
    Workflow("secretive").add_node("a", body).add_node("wait", Wait(signal="go", writes="sent"))
    .add_node("b", lambda state: {"more": MORE * 200}).add_node("bad", broken)
    .add_edge("a", "wait").add_edge("wait", "b").add_edge("b", "bad").set_start("a")
)  # fmt: skip


async def lived(store, *, ring=RING, run_id="r", subject=None, policy=None):
    """One run that does everything that can leave a secret, until it fails."""
    policy = policy or CheckpointPolicy(every=1)
    async with Engine(store, workflows=[FLOW], keys=ring, checkpoints=policy) as engine:
        run = await engine.start(FLOW, {"q": SMALL}, run_id=run_id, subject=subject)
        while engine.get(run_id).status != "waiting":
            await asyncio.sleep(0.005)
        await engine.signal(run_id, "go", SENT)
        with pytest.raises(Exception, match=WRONG):
            await run.result()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store with that run."""
    place = tmp_path_factory.mktemp("template") / "s"
    asyncio.run(lived(place))
    return place


@pytest.fixture
def store(template, tmp_path):
    """A copy of it."""
    shutil.copytree(template, tmp_path / "s")
    return tmp_path / "s"


def found_in(place: Path, words=WORDS):
    """Which of the words stand somewhere in the bytes of the files below a place."""
    data = b"".join(path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file())
    return {word for word in words if word.encode() in data}


def test_nothing_a_user_wrote_is_in_the_bytes_of_an_encrypted_store(store):
    """Inputs, changes, calls, results, signals, errors, snapshots and their pieces, free pages included."""
    assert found_in(store) == set()


def test_the_same_search_finds_every_word_in_a_store_in_the_open(tmp_path):
    """The control: so that a search which finds nothing means something."""
    policy = CheckpointPolicy(every=1, compress=False)
    asyncio.run(lived(tmp_path / "s", ring=None, policy=policy))
    found = found_in(tmp_path / "s")
    # Long texts lie compressed, which keeps a word whole once at least; a failing search would find none of them.
    assert {SMALL, CALL, SENT, WRONG} <= found


def test_an_encrypted_run_recovers_to_what_it_was(store):
    """By snapshot and by folding alone, through the engine and through the log."""
    log = open_log(store, readonly=True, keys=RING)
    head = log.head("r")
    by_snapshot, folded = recover(log, head), recover(log, head, snapshots=False)
    assert by_snapshot.snapshot > 0
    assert by_snapshot.state == folded.state
    assert folded.state.data["text"] == LONG * 500
    assert folded.state.data["items"][2_999] == f"{INNER} 2999"
    assert folded.state.error.message == f"no {WRONG} here"
    report = list(verify_store(log))[-1]
    assert (report.findings, report.hidden) == ([], 0)
    assert report.snapshots > 3
    log.close()


def test_a_run_that_was_killed_goes_on_with_its_key(tmp_path, child):
    """After a SIGKILL in the middle of a step, from another process."""
    ran = child(lambda say: asyncio.run(_until_waiting(tmp_path / "s", say)))
    assert ran.line() == "waiting"
    ran.kill()
    ran.end()

    async def go_on():
        async with Engine(tmp_path / "s", workflows=[FLOW], keys=RING, pick_up=True) as engine:
            await engine.signal("r", "go", SENT)
            with pytest.raises(Exception, match=WRONG):
                await engine.get("r").result()
            assert engine.get("r").data["sent"] == SENT

    asyncio.run(go_on())
    assert found_in(tmp_path / "s") == set()


async def _until_waiting(store, say):
    async with Engine(store, workflows=[FLOW], keys=RING) as engine:
        await engine.start(FLOW, {"q": SMALL}, run_id="r")
        while engine.get("r").status != "waiting":
            await asyncio.sleep(0.005)
        say("waiting")
        await asyncio.sleep(60)


def test_a_signal_lies_encrypted_in_the_inbox(tmp_path):
    """A message that nobody has taken yet is as secret as one that was."""
    asyncio.run(until_waits(tmp_path / "s"))
    log = open_log(tmp_path / "s", keys=RING)
    head = log.head("r")
    log.write([Post(head.run_key, message(SIGNAL, name="go", payload=SENT))])
    assert decode(log.inbox(head.run_key)[0][1], "m")["payload"] == SENT
    assert is_locked_message(log.inner.inbox(head.run_key)[0][1])
    log.close()
    assert found_in(tmp_path / "s") == set()


async def until_waits(store):
    """One run, left while it waits for its signal."""
    async with Engine(store, workflows=[FLOW], keys=RING) as engine:
        await engine.start(FLOW, {"q": SMALL}, run_id="r")
        while engine.get("r").status != "waiting":
            await asyncio.sleep(0.005)


# --- from a moment on ----------------------------------------------------------------------------------------------


def test_runs_that_began_before_go_on_in_the_open_and_new_ones_are_encrypted(tmp_path):
    """A store becomes encrypted from a moment on, and says so in an event of its own."""
    plain = Workflow("plain").add_node("a", lambda state: {"n": state["n"] + "!"}).set_start("a")

    async def run(name, word, ring):
        async with Engine(tmp_path / "s", workflows=[plain], keys=ring) as engine:
            await (await engine.start(plain, {"n": word}, run_id=name)).result()

    asyncio.run(run("before", "openly", None))
    asyncio.run(run("after", "secretly", RING))
    assert found_in(tmp_path / "s", ["openly", "secretly"]) == {"openly"}
    log = open_log(tmp_path / "s", keys=RING)
    assert (log.key_id(log.head("before").run_key), len(log.key_id(log.head("after").run_key))) == (b"", 10)
    events = [type(one.event).__name__ for one in history(log, bytes(16), 1, log.head_of(bytes(16)).version)]
    assert events == ["StoreCreated", "EncryptionBegan"]
    log.close()


def test_an_encrypted_store_takes_no_new_run_without_its_keys(store):
    """It would lie in the open, in a store whose owner believes it does not."""

    async def begin():
        async with Engine(store, workflows=[FLOW]) as engine:
            await engine.start(FLOW, {"q": SMALL}, run_id="new")

    with pytest.raises(NoKey):
        asyncio.run(begin())
    assert found_in(store) == set()
    log = open_log(store, readonly=True)
    assert [one.head.run_id for one in log.runs(Query())] == ["r"]
    log.close()


def test_a_message_to_an_encrypted_run_is_refused_without_its_key(tmp_path):
    """What can't be encrypted is not written."""
    asyncio.run(until_waits(tmp_path / "s"))

    async def send():
        async with Engine(tmp_path / "s", workflows=[FLOW]) as engine:
            await engine.signal("r", "go", SENT)

    with pytest.raises(NoKey):
        asyncio.run(send())
    assert found_in(tmp_path / "s") == set()


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_wrong_master_key_is_noticed_when_the_store_is_opened(store):
    """One sentence that names both keys; nothing is written."""
    other = Keyring(MasterKey(b"n" * 32))
    with pytest.raises(WrongKey, match=other.master.id) as told:
        open_log(store, keys=other)
    assert told.value.exit_code == 6


def test_a_recovery_without_the_key_is_refused_with_one_sentence(store):
    """Reading by number and listing go on; a state can't be had."""
    log = open_log(store, readonly=True)
    with pytest.raises(NoKey, match="run r is encrypted") as told:
        recover(log, log.head("r"))
    assert told.value.exit_code == 6
    assert log.runs(Query())[0].entry.workflow == "secretive"
    log.close()


def test_an_engine_that_picks_up_leaves_runs_whose_key_is_gone(store, tmp_path):
    """It does not fail for them; others go on."""
    asyncio.run(until_waits(tmp_path / "t"))
    for path in (tmp_path / "t" / "keys").glob("*.key"):
        if path.name != "store.key":
            path.unlink()

    async def enter():
        async with Engine(tmp_path / "t", workflows=[FLOW], keys=RING, pick_up=True) as engine:
            assert engine.get("r").status == "waiting"

    asyncio.run(enter())


def test_a_fork_and_a_part_of_a_run_are_under_its_key(store):
    """What they hold came from there; a run of another subject has another key."""
    part = Workflow("part").add_node("only", lambda state: {"said": INNER}).set_start("only")
    whole = Workflow("whole").add_node("call", Child(part)).set_start("call")

    async def fork():
        async with Engine(store, workflows=[FLOW, whole, part], keys=RING) as engine:
            await engine.fork("r@3", run_id="fork")
            await (await engine.start(whole, run_id="whole")).result()

    asyncio.run(fork())
    asyncio.run(lived(store, run_id="eve-1", subject="eve"))
    asyncio.run(lived(store, run_id="eve-2", subject="eve"))
    log = open_log(store, readonly=True, keys=RING)
    keys = {name: log.key_id(log.head(name).run_key) for name in ("r", "fork", "eve-1", "eve-2", "whole")}
    keys["part"] = log.key_id(log.runs(Query(workflow="part"))[0].head.run_key)
    log.close()
    assert keys["r"] == keys["fork"] != keys["eve-1"] == keys["eve-2"]
    assert keys["r"] != keys["whole"] == keys["part"]


def test_values_are_shared_within_a_subject_and_nowhere_else(store):
    """Blobs of two subjects have other names though their texts are the same."""
    names = []
    for subject in ("eve", "eve", "bob"):
        log = open_log(store, readonly=True)
        before = set(log.blob_names(b"", 10_000))
        log.close()
        asyncio.run(lived(store, run_id=f"x{len(names)}", subject=subject))
        log = open_log(store, readonly=True)
        names.append(set(log.blob_names(b"", 10_000)) - before)
        log.close()
    assert len(names[0]) > 3
    assert len(names[1]) < len(names[0]) == len(names[2])


def test_a_snapshot_takes_pieces_for_known_by_their_keyed_names(tmp_path):
    """The second snapshot of a long list rests on the pieces that the first one wrote."""
    log = open_log(tmp_path / "s", keys=RING)
    author = Author(log)
    more = Transitioned("a", "a", change=(Op("extend", ("list",), freeze([MORE * 99] * 300)),))
    head = author.add(author.start("r"), moved("list", [LONG * 99] * 400), more)
    state = author.state(head)
    assert log.write([Upkeep(head.run_key, pack_state(state))]) == [Kept()]
    packed = pack_state(state)
    assert packed.known
    assert log.write([Upkeep(head.run_key, packed)]) == [Kept()]
    log.close()


# --- forged --------------------------------------------------------------------------------------------------------


def rows_of(store, table):
    """The rows of a table as they are stored."""
    with lmdb.open(str(store / "data.1"), max_dbs=40) as env:
        db = env.open_db(table, create=False)
        with env.begin() as txn:
            return dict(txn.cursor(db=db))


def forge(store, table, changed):
    """Put other rows in the place of some, past everything that would refuse them."""
    with lmdb.open(str(store / "data.1"), max_dbs=40) as env:
        db = env.open_db(table, create=False)
        with env.begin(write=True) as txn:
            for key, value in changed.items():
                txn.delete(key, db=db)
                txn.put(key, value, db=db)


def test_events_that_are_swapped_between_versions_or_runs_are_refused(tmp_path):
    """Each body at each other's place, under a header that fits: the key says no, whatever the chain says."""

    async def two():
        flow = (
            Workflow("f")
            .add_node("a", lambda state: {"n": state["n"] + "x"})
            .add_node("b", lambda state: {})
            .add_edge("a", "b")
            .set_start("a")
        )
        async with Engine(tmp_path / "s", workflows=[flow], keys=RING) as engine:
            for name in ("one", "two"):
                await (await engine.start(flow, {"n": name}, run_id=name, subject="eve")).result()

    asyncio.run(two())
    log = open_log(tmp_path / "s", readonly=True, keys=RING)
    stored = [one for name in ("one", "two") for one in log.read(log.head(name).run_key, 1, 9)]
    arrays = [decode(one.data, "e") for one in stored]
    tried = 0
    for here in range(len(stored)):
        for there in range(len(stored)):
            if here != there:
                moved = [*arrays[here][:9], arrays[there][9], arrays[here][10]]
                moved[1] = arrays[there][1]
                forged = type(stored[here])(stored[here].position, encode(moved), stored[here].unlock)
                with pytest.raises(Corrupt):
                    read_events([forged], log.blobs)
                tried += 1
    log.close()
    assert tried == 30


def test_a_store_s_key_does_not_open_another_store(store, tmp_path):
    """The same master key, the key's file copied over: it is bound to the store it was made in."""
    asyncio.run(lived(tmp_path / "t"))
    for path in (tmp_path / "t" / "keys").glob("*.key"):
        path.unlink()
    for path in (store / "keys").glob("*.key"):
        shutil.copy(path, tmp_path / "t" / "keys" / path.name)
    with pytest.raises(Corrupt, match="another store"):
        open_log(tmp_path / "t", keys=RING)


@pytest.mark.parametrize("table", [b"log", b"blobs", b"snapshots"])
def test_a_flipped_bit_in_what_is_stored_is_found(store, table):
    """In an event, a blob or a snapshot: reading it, or verifying the store, says so; nothing comes back wrong."""
    right = _state(store)
    rows = {key: value for key, value in rows_of(store, table).items() if len(key) <= 24 and len(value) > 60}
    for key in list(rows)[:: max(1, len(rows) // 6)]:
        value = bytearray(rows[key])
        value[len(value) // 2] ^= 4
        forge(store, table, {key: bytes(value)})
        assert is_found(store)
        with contextlib.suppress(Corrupt):
            assert _state(store) == right
        forge(store, table, {key: rows[key]})
    assert _state(store) == right


def is_found(store):
    """Whether opening the store, or verifying it, says that something is wrong."""
    try:
        log = open_log(store, readonly=True, keys=RING)
    except Corrupt:
        return True
    try:
        return bool(list(verify_store(log))[-1].findings)
    finally:
        log.close()


def _state(store):
    log = open_log(store, readonly=True, keys=RING)
    try:
        return recover(log, log.head("r")).state
    finally:
        log.close()


def test_a_backend_sees_bytes_that_are_sealed(store):
    """Without a key the inner log gives rows that name their key and nothing else."""
    log = LmdbLog(store, readonly=True)
    names = log.blob_names(b"", 100)
    assert {type(one) for one in log.blobs(names).values()} == {LockedBlob}
    assert log.snapshot(log.head("r").run_key, log.snapshots(log.head("r").run_key, 99)[0][0])[:1] == b"\x02"
    with pytest.raises(NoKey):
        read_events(log.read(log.head("r").run_key, 1, 1), log.blobs)
    log.close()


def test_a_log_in_memory_is_encrypted_too():
    """Its keys lie with the ring; a log of one's own is wrapped and not closed."""
    inner = MemoryLog()
    asyncio.run(lived(inner))
    assert isinstance(open_log(inner, keys=RING), LockedLog)
    assert inner.position() > 5
    assert not any(word.encode() in one.data for one in inner.feed(0, 1_000) for word in WORDS)


@pytest.mark.parametrize("keys", [RING, None], ids=["with the key", "without"])
def test_an_export_of_an_encrypted_run_is_sealed_and_proves_itself(store, tmp_path, keys):
    """Nothing of it is in the open, whoever made it; it is verified without a key, and says why no value can be read."""
    log = open_log(store, readonly=True, keys=keys)
    with (tmp_path / "x.cborseq").open("wb") as file:
        write_sequence(log, file, [log.head("r")])
    export = read_export(tmp_path / "x.cborseq")
    assert decode(next(iter_items((tmp_path / "x.cborseq").read_bytes())), "it")["format"] == 2
    assert (export.head("r").digest, export.head("r").status) == (log.head("r").digest, log.head("r").status)
    assert verify_run(export, export.head("r")).hidden > 5
    with pytest.raises(NoKey, match="run r is encrypted and an export holds no keys"):
        recover(export, export.head("r"))
    log.close()
    assert found_in(tmp_path, WORDS) == set()


def iter_items(data):
    """The items of an export."""
    return (data[start:end] for start, end, _ in items(data))


def test_an_export_that_lacks_a_sealed_event_does_not_hold(store):
    """What can't be read is proved by the chain all the same; only of the last event nothing tells but its key, or a seal."""
    log = open_log(store, readonly=True)
    file = io.BytesIO()
    write_sequence(log, file, [log.head("r")])
    log.close()
    whole = list(iter_items(file.getvalue()))
    events = [number for number, one in enumerate(whole) if one[0] >> 5 == 4]
    for number in (events[0], events[1], events[-2]):
        for changed in ([], [whole[number][:-40] + bytes([whole[number][-40] ^ 1]) + whole[number][-39:]]):
            cut = [*whole[:number], *changed, *whole[number + 1 : -1]]
            footer = decode(whole[-1], "it")
            footer |= {"events": footer["events"] - (not changed), "sha256": hashlib.sha256(b"".join(cut)).digest()}
            with pytest.raises((Corrupt, ProofFailed)):
                export_from(b"".join(cut) + encode(footer))


@pytest.mark.parametrize("opened", [True, False], ids=["with the key", "without"])
def test_an_encrypted_run_is_taken_in_as_it_is_and_read_with_its_key(store, tmp_path, opened):
    """Its bytes, digests and values are the same in a store of another id, once its key is there; never in the open."""
    source = open_log(store, readonly=True, keys=RING if opened else None)
    state = recover(open_log(store, readonly=True, keys=RING), source.head("r")).state
    target = LmdbLog(tmp_path / "t")
    done = ingest(source, target, pause=False)
    assert set(done.runs) == {one.head.run_id for one in source.runs(Query())}
    kept = [one.data for one in target.read(state.run.run_key, 1, 99)]
    assert kept == [one.data for one in source.read(state.run.run_key, 1, 99)]
    source.close()
    target.close()
    assert found_in(tmp_path / "t", WORDS) == set()
    with pytest.raises(NoKey):
        read_state(tmp_path / "t", None)
    here, there = KeyFolder(store / "keys"), KeyFolder(tmp_path / "t" / "keys")
    for name in here.names():
        if name != "store":
            adopt(here, there, [read_wrapped(here.read(name), "a key").key.key_id])
    assert read_state(tmp_path / "t", RING).data == state.data
    log = open_log(tmp_path / "t", keys=RING)
    assert [one.hidden for one in verify_store(log)][-1] == 0
    assert list(verify_store(log))[-1].findings == []
    log.close()


def read_state(path, keys):
    """The state of run r."""
    with contextlib.closing(open_log(path, readonly=True, keys=keys)) as log:
        return recover(log, log.head("r")).state


def test_a_key_of_a_store_that_nothing_was_taken_from_is_refused(store, tmp_path):
    """Only what the store's own stream tells of opens with another store's keys."""
    asyncio.run(lived(tmp_path / "t"))
    here, there = KeyFolder(store / "keys"), KeyFolder(tmp_path / "t" / "keys")
    for name in there.names():
        if name != "store":
            (tmp_path / "t" / "keys" / f"{name}.key").unlink()
    for name in here.names():
        there.create(name, here.read(name))
    log = open_log(tmp_path / "t", readonly=True, keys=RING)
    for wrapped in log.keys.listed():
        if wrapped.key.kind != "store":
            with pytest.raises(Corrupt, match="of another store"):
                log.keys.get(wrapped.key.key_id, "it")
    log.close()


def test_a_sweep_leaves_what_others_have_the_key_of_and_takes_what_nobody_can_read(store):
    """Without the key no blob of an encrypted run goes; after it was shredded, all of them may."""
    plain = open_log(store)
    there = set(plain.blob_names(b"", 1_000))
    assert len(there) > 3
    assert sweep(plain).blobs == 0
    plain.close()
    log = open_log(store, keys=RING)
    assert sweep(log).blobs == 0
    assert set(log.blob_names(b"", 1_000)) == there
    shred(log, SystemClock(), to_shred(log, "r"))
    assert sweep(log).blobs == len(there)
    assert list(verify_store(log))[-1].sound
    log.close()

"""Runs that are encrypted and compacted: taken out, taken in and saved, with the key and without, and never believed too much."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from eventflow import CheckpointPolicy, Engine, Keyring, Workflow
from eventflow.cipher import Keys, MasterKey
from eventflow.cipher.files import KeyFolder
from eventflow.cipher.keyring import adopt, read_wrapped
from eventflow.clock import SystemClock
from eventflow.codec import PackedState, decode, encode, pack, pack_state, root_digest
from eventflow.errors import Corrupt, EventflowError, NoKey, ProofFailed
from eventflow.event import CheckpointCreated, Vouch
from eventflow.exchange import ExportLog, export_from, items, write_sequence
from eventflow.ingest import ingest
from eventflow.log import STORE_VOUCH, Act, LmdbLog, LockedLog, Log, MemoryLog, Query, Upkeep, open_log
from eventflow.log.lmdb.salvage import PAGE
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.repair import repair
from eventflow.repair.finding import find
from eventflow.repair.proving import Proving
from eventflow.retention import compact_run
from eventflow.verification import verify_run, verify_store

RING = Keyring(MasterKey(b"m" * 32))
WORD = "swordfish"
AT = 4
FLOW = (
    Workflow("turns", state=dict)
    .add_node("a", lambda s: {"n": s["n"] + 1, "items": [f"{WORD} {n}" for n in range(s["n"] * 190)], "t": WORD * 300})
    .add_node("b", lambda _: {})
    .add_edge("a", "a", when=lambda s: s["n"] < 5, label="more")
    .add_edge("a", "b")
    .set_start("a")
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An encrypted store: Ada's a1 and a2, Eve's e1, a fork, all of which begin late; one is vouched for by itself."""
    place = tmp_path_factory.mktemp("template") / "s"

    async def work() -> None:
        async with Engine(place, workflows=[FLOW], keys=RING) as engine:
            for run_id, subject, n in (("a1", "Ada", 0), ("a2", "Ada", 1), ("e1", "Eve", 0)):
                await (await engine.start(FLOW, {"n": n}, run_id=run_id, subject=subject, tags=["x"])).result()
            await (await engine.fork("a1@2", run_id="fork")).result()
        async with Engine(place, workflows=[FLOW], keys=RING, checkpoints=CheckpointPolicy(every=1)) as engine:
            await (await engine.start(FLOW, {"n": 0}, run_id="own")).result()

    asyncio.run(work())
    with closing(open_log(place, keys=RING)) as log:
        for run_id in ("a2", "e1", "own", "fork", "a1"):
            compact_run(log, SystemClock(), run_id, AT)
        own = log.head("own").run_key
        assert 0 < dict(log.snapshots(own, AT))[AT] < STORE_VOUCH
    return place


@pytest.fixture
def store(template, tmp_path):
    """A copy of it."""
    shutil.copytree(template, tmp_path / "s")
    return tmp_path / "s"


def exported(store: Path, *ids: str, keys: Keyring | None = None) -> bytes:
    """An export of some runs, or of the whole store."""
    file = io.BytesIO()
    with closing(open_log(store, readonly=True, keys=keys)) as log:
        write_sequence(log, file, [log.head(one) for one in ids] if ids else None)
    return file.getvalue()


def with_keys(export: ExportLog, store: Path) -> Log:
    """An export that is opened with the keys of a store."""
    keys = Keys(KeyFolder(store / "keys"), export.store_id, RING, SystemClock().now)
    return cast("Log", LockedLog(cast("Log", export), keys, owns=False))


def bring_keys(store: Path, target: Path) -> None:
    """Copy the files of a store's keys but its own."""
    here, there = KeyFolder(store / "keys"), KeyFolder(target / "keys")
    for name in here.names():
        if name != "store":
            adopt(here, there, [read_wrapped(here.read(name), "a key").key.key_id])


def states(path: Path) -> dict[str, object]:
    """What the runs of a store are, where the key is; all of it holds, and all of it was read."""
    with closing(open_log(path, readonly=True, keys=RING)) as log:
        *_, report = verify_store(log)
        assert (report.findings, report.hidden, report.unopened) == ([], 0, 0)
        assert report.compacted == report.runs
        return {
            one.head.run_id: (recover(log, one.head).state, replace(one.entry, started=0)) for one in log.runs(Query())
        }


@pytest.mark.parametrize("known", [True, False], ids=["with the key", "without"])
def test_an_export_holds_what_such_a_run_begins_with_and_is_taken_in(store, tmp_path, known):
    """Sealed, whoever made it; without a key it is counted what was not compared, and with the key all of it is there."""
    data = exported(store, keys=RING if known else None)
    export = export_from(data)
    assert WORD.encode() not in data
    assert decode(next(data[start:end] for start, end, _ in items(data)), "it")["format"] == 3
    assert [verify_run(export, export.head(one)).unopened for one in ("a1", "own")] == [1, 1]
    with pytest.raises(NoKey):
        recover(export, export.head("a1"))
    source = with_keys(export, store) if known else export
    with closing(LmdbLog(tmp_path / "t")) as target:
        done = ingest(source, target, pause=False)
        again = ingest(source, target)
        assert (sorted(done.runs), again.runs) == (["a1", "a2", "e1", "fork", "own"], ())
        assert (done.unopened, done.hidden > 0) == ((0, False) if known else (5, True))
        (origin,) = target.snapshots(target.head("a1").run_key, 99)
        assert target.snapshot(target.head("a1").run_key, AT) == export.snapshot(target.head("a1").run_key, AT)
        assert (origin[0], origin[1] > STORE_VOUCH) == (AT, True)
    assert WORD.encode() not in (tmp_path / "t" / "data.1" / "data.mdb").read_bytes()
    bring_keys(store, tmp_path / "t")
    assert states(tmp_path / "t") == states(store)


@pytest.mark.parametrize("run", ["a1", "own", "fork"])
def test_one_run_is_exported_alone_and_stands_on_itself(store, tmp_path, run):
    """The act that vouches for it comes along; a fork's parent is not needed, and what is taken in can go on again."""
    export = export_from(exported(store, run))
    assert [one.head.run_id for one in export.runs(Query())] == [run]
    with closing(open_log(tmp_path / "t", keys=RING)) as target:  # a store that is encrypted itself
        assert ingest(export, target, pause=False).unopened == 1
        assert ingest(with_keys(export, store), MemoryLog(), pause=False).unopened == 0
    bring_keys(store, tmp_path / "t")
    assert export_from(exported(tmp_path / "t", run)).entry(export.head(run).run_key) == export.entry(
        export.head(run).run_key
    )
    here, there = states(tmp_path / "t")[run], states(store)[run]
    assert here == there


# --- what somebody made of it --------------------------------------------------------------------------------------


def cut(data: bytes) -> list[bytes]:
    """The items of an export."""
    return [data[start:end] for start, end, _ in items(data)]


def whole(parts: list[bytes]) -> bytes:
    """Items as an export whose end says that they are all of it."""
    footer = decode(parts[-1], "it") | {"sha256": hashlib.sha256(b"".join(parts[:-1])).digest()}
    return b"".join(parts[:-1]) + encode(footer)


def origins(parts: list[bytes]) -> dict[str, tuple[int, dict]]:
    """The origins among items by the run's id, with their place."""
    maps = {number: decode(one, "it") for number, one in enumerate(parts) if one[0] >> 5 == 5}
    return {one["entry"][0]: (number, one) for number, one in maps.items() if "origin" in one}


def changed(data: bytes, run: str, **fields: object) -> bytes:
    """An export with other fields in a run's origin, and an end that knows of it."""
    parts = cut(data)
    number, value = origins(parts)[run]
    return whole([*parts[:number], encode(value | fields), *parts[number + 1 :]])


def act_of(value: dict, edit: dict) -> bytes:
    """The act of an origin with other fields in its header."""
    array = decode(value["act"], "it")
    return encode([*array[:8], array[8] | edit, *array[9:]])


def opened(data: bytes, plain: bytes) -> bytes:
    """An export of format 2 in which a1 begins with a snapshot in the open, and an act that vouches for just that."""
    parts = cut(data)
    value = {name: one for name, one in origins(parts)["a1"][1].items() if name != "entry"}
    array = decode(value["act"], "it")
    header = {name: one for name, one in array[8].items() if name != "k"}
    header["snapshot"] = [AT, root_digest(plain, "it")]
    value |= {"root": plain, "act": encode([*array[:8], header, *array[9:]])}
    place = origins(parts)["a1"][0]
    first = encode(decode(parts[0], "it") | {"format": 2})
    return whole([first, *parts[1:place], encode(value), *parts[place + 1 :]])


def forgeries(data: bytes, plain: bytes, alone: bytes) -> dict[str, bytes]:
    """Exports of a1 and e1 that are not what eventflow made, by what was done to them."""
    parts = cut(data)
    (number, mine), (_, other) = origins(parts)["a1"], origins(parts)["e1"]
    entry = mine["entry"]
    return {
        "another run's root": changed(data, "a1", root=other["root"]),
        "another run's act": changed(data, "a1", act=other["act"]),
        "another run's origin": changed(data, "a1", **{one: other[one] for one in ("root", "by", "act")}),
        "another incarnation": changed(data, "a1", act=act_of(mine, {"incarnation": 9})),
        "another id": changed(data, "a1", act=act_of(mine, {"run_id": "a9"})),
        "another name": changed(data, "a1", entry=["a9", *entry[1:]]),
        "another version": changed(data, "a1", origin=AT + 1),
        "another key": changed(data, "a1", act=act_of(mine, {"k": b"0123456789"})),
        "no act": changed(data, "a1", act=b""),
        "in the open": changed(data, "a1", root=plain),
        "no origin": whole([*parts[:number], *parts[number + 1 :]]),
        "no entry": whole(
            [*parts[:number], encode({k: v for k, v in mine.items() if k != "entry"}), *parts[number + 1 :]]
        ),
        "a parent that is later": changed(data, "a1", entry=[*entry[:3], "p", bytes(16), AT]),
        "an odd entry": changed(data, "a1", entry=[*entry[:2], True, *entry[3:]]),
        "an older format": whole([encode(decode(parts[0], "it") | {"format": 2}), *parts[1:]]),
        "in the open, vouched for": opened(alone, plain),
    }


FORGED = [
    "another run's root", "another run's act", "another run's origin", "another incarnation", "another id", "another name",
    "another version", "another key", "no act", "in the open", "no origin", "no entry", "a parent that is later",
    "an odd entry", "an older format", "in the open, vouched for",
]  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_origin_is_refused_without_any_key(store, tmp_path, name):
    """It has to be of the run, and under the run's own key, by every word that is said of it."""
    with closing(open_log(store, readonly=True, keys=RING)) as log:
        plain = bytes(log.snapshot(log.head("a1").run_key, AT))
    forged = forgeries(exported(store, "a1", "e1"), plain, exported(store, "a1"))
    assert list(forged) == FORGED
    with pytest.raises((Corrupt, ProofFailed, EventflowError)) as refused:
        export_from(forged[name])
    assert isinstance(refused.value, EventflowError)
    with pytest.raises(EventflowError), closing(LmdbLog(tmp_path / "t")) as target:
        ingest(export_from(forged[name], check=False), target)


@pytest.mark.parametrize("name", ["a flipped byte", "another run's under the same key", "another tag"])
def test_what_only_the_key_can_tell_is_refused_with_it_and_found_later_without(store, tmp_path, name):
    """Nothing is folded on from it: the first reading with the key says that it does not hold."""
    data = exported(store, "a1", "a2")
    mine, other = (origins(cut(data))[one][1] for one in ("a1", "a2"))
    flipped = mine["root"][:-1] + bytes([mine["root"][-1] ^ 1])
    forged = {
        "a flipped byte": lambda: changed(data, "a1", root=flipped),
        "another run's under the same key": lambda: changed(data, "a1", root=other["root"]),
        "another tag": lambda: changed(data, "a1", entry=[mine["entry"][0], "other", *mine["entry"][2:]]),
    }[name]()
    export = export_from(forged)  # nothing that is in the open tells
    with closing(MemoryLog()) as target, pytest.raises(ProofFailed, match="a1"):
        ingest(with_keys(export, store), target)
    with closing(LmdbLog(tmp_path / "t")) as target:
        assert ingest(export, target, pause=False).unopened == 2
    bring_keys(store, tmp_path / "t")
    with closing(open_log(tmp_path / "t", readonly=True, keys=RING)) as log:
        *_, report = verify_store(log)
        assert {one.run for one in report.findings} == {"a1"}
        if name != "another tag":  # of the list; what the run is, is what it was
            with pytest.raises(Corrupt):
                recover(log, log.head("a1"))


def test_a_snapshot_in_the_open_is_not_believed_of_an_encrypted_run(store):
    """Whoever can write into the file, and has no key, can't say what the run was."""
    with closing(open_log(store, keys=RING)) as log:
        head = log.head("a1")
        packed = pack_state(recover(log, head).state)
        log.inner.write([Upkeep(head.run_key, replace(packed, version=head.version))])
        with pytest.raises(Corrupt, match="is not encrypted, and its run is"):
            log.snapshot(head.run_key, head.version)


def test_what_was_sealed_elsewhere_is_not_sealed_again(store):
    """A snapshot that is encrypted already is kept as it is, and opens as before."""
    with closing(open_log(store, keys=RING)) as log:
        head = log.head("a1")
        row = log.inner.snapshot(head.run_key, AT)
        event = pack(CheckpointCreated("a1", head.run_key, AT), vouch=Vouch(AT, bytes(32)))
        log.write([Act(event, 0, Upkeep(head.run_key, PackedState(AT, row, bytes(32), (), len(row))))])
        assert log.inner.snapshot(head.run_key, AT) == row


def test_an_origin_that_the_stream_does_not_name_begins_nothing(tmp_path):
    """A snapshot in the open that speaks of the right event, and says something else, is no beginning of a run that is saved."""

    async def work() -> None:
        async with Engine(tmp_path / "o", workflows=[FLOW]) as engine:
            await (await engine.start(FLOW, {"n": 3}, run_id="o")).result()

    asyncio.run(work())
    with closing(open_log(tmp_path / "o")) as log:
        compact_run(log, SystemClock(), "o", 3)
        head = log.head("o")
        state = recover(log, head, 3).state
    other = pack_state(replace(state, data=freeze({"n": 100})))
    for root, begins in ((None, True), (other.root, False)):
        found = find(tmp_path / "o")
        if root is not None:
            found.roots[head.run_key, 3] = [root]
        proving = Proving(found)
        proving.prove()
        assert (head.run_key in proving.chains) == begins


# --- saved from a damaged store ------------------------------------------------------------------------------------


@pytest.fixture
def broken(store):
    """The store without its trees."""
    with (store / "data.1" / "data.mdb").open("r+b") as file:
        file.write(bytes(2 * PAGE))
    return store


@pytest.mark.parametrize("known", [True, False], ids=["with the key", "without"])
def test_such_runs_are_saved_with_their_keys(broken, template, tmp_path, monkeypatch, known):
    """From their origin on, as they are stored; whoever has the key reads them as before."""
    if known:
        monkeypatch.setenv("EVENTFLOW_KEY", base64.b64encode(b"m" * 32).decode())
    made = repair(broken, tmp_path / "saved")
    assert (made.runs, made.lost) == (5, ())
    assert states(tmp_path / "saved") == states(template)
    assert WORD.encode() not in (tmp_path / "saved" / "data.1" / "data.mdb").read_bytes()


def test_a_damaged_origin_is_lost_where_the_key_can_tell(broken, template, tmp_path, monkeypatch):
    """Without the key nobody sees a changed byte, and it is seen once the key is there."""
    with closing(open_log(template, readonly=True)) as log:
        root = log.inner.snapshot(log.head("a2").run_key, AT)
    file = broken / "data.1" / "data.mdb"
    data = file.read_bytes()
    assert root[:60] in data
    file.write_bytes(data.replace(root[:60], root[:50] + bytes([root[50] ^ 1]) + root[51:60]))
    without = repair(broken, tmp_path / "without")
    monkeypatch.setenv("EVENTFLOW_KEY", base64.b64encode(b"m" * 32).decode())
    made = repair(broken, tmp_path / "with")
    assert (without.runs, without.lost, made.runs) == (5, (), 4)
    (lost,) = made.lost
    assert (lost.run, lost.problem.endswith("its origin does not prove itself")) == ("a2", True)
    assert set(states(tmp_path / "with")) == {"a1", "e1", "fork", "own"}
    with closing(open_log(tmp_path / "without", readonly=True)) as log:
        *_, report = verify_store(log)
        assert {one.run for one in report.findings} == {"a2"}

"""Golden histories: bytes that were written once must be read for ever, and give the same states.

Each file of this folder is one CBOR map: the stored events of a store in order of position, its blobs and snapshots as
stored, and what was right when it was written: for every version of every run the SHA-256 of its data in CBOR and the
state digest, for the last one the data itself.
EVENTFLOW_UPDATE_GOLDEN=1 writes the file of the newest format anew; a file of a released format is never written again.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from eventflow import event as facts
from eventflow.change import Op
from eventflow.clock import ManualClock
from eventflow.codec import (
    FORMAT,
    TOMBSTONE,
    Shared,
    Stored,
    decode,
    encode,
    pack,
    pack_state,
    read_events,
    root_digest,
    state_digest,
    unpack_blob,
    unpack_state,
)
from eventflow.codec.blobs import expand_small
from eventflow.codec.events import FLAG_REFS, FLAG_ZSTD, MAX_BODY, SHAPES
from eventflow.event import Failure, Recorded
from eventflow.log import STORE_RUN, Act, Appended, Entry, Head, MemoryLog, Query
from eventflow.plain import FrozenDict, FrozenList, freeze, thaw
from eventflow.proof import digest
from eventflow.recovery import recover
from eventflow.testing.author import DEFINITION, Author, written

HERE = Path(__file__).parent
NEWEST = HERE / f"format-{FORMAT}.cbor"
FILES = sorted(HERE.glob("*.cbor"))
LONG = "A long text is kept once, under its digest, and compressed. " * 40


# --- writing -------------------------------------------------------------------------------------------------------


def change(*ops: Op) -> facts.Transitioned:
    """A fact that changes the data."""
    return facts.Transitioned("a", "a", change=ops)


def write_runs(author: Author) -> None:
    """Runs that hold every fact, every operation, and every way in which a value is kept."""
    noise = random.Random(1)  # noqa: S311 - only has to repeat
    picture = base64.b64encode(noise.randbytes(2_400)).decode()
    head = author.start("golden-1", {"n": 1, "list": [], "dict": {"x": 1}}, tags=("red", "blå"), workflow="flöw")
    head = author.add(
        head,
        facts.Transitioned(
            "a", "b", "done", (Op("set", ("text",), LONG), Op("set", ("noise",), noise.randbytes(1_500)))
        ),
        facts.Transitioned(
            "b", "a", "failed", (Op("set", ("dict", "picture"), picture),), Failure("E", "why", "x.py:1")
        ),
        change(Op("set", ("short",), "ab" * 300), Op("set", ("text",), LONG + "!")),
        change(Op("add", ("n",), 2.5), Op("merge", ("dict",), FrozenDict({"y": None, "z": FrozenList([True, LONG])}))),
        change(Op("extend", ("list",), freeze(["item " * 60] * 260)), Op("delete", ("dict", "x"))),
    )
    head = author.add(head, facts.RunSuspended("a", "me", "drain"), vouch=author.snapshot(head), status="pending")
    values = [0, -1, 2**64 - 1, -(2**63), 0.0, -0.0, 1e300, float("inf"), "", "ä", b"", b"\xff", None, False, [], {}]
    head = author.add(head, facts.RunResumed("a", bytes(32)), change(Op("set", ("values",), freeze(values))))
    started = facts.EffectStarted("pay#1", "k", "tool", True, freeze({"sum": 5}), b"i" * 32, "idem", 2)
    shared = Shared(freeze([{"role": "user", "content": "x" * 200}, {"role": "assistant", "content": LONG}]))
    model = facts.EffectStarted("ask", "1", "model", False, FrozenDict({"messages": shared}), b"j" * 32, "idem-2")
    head = author.add(
        head,
        started,
        facts.EffectFailed("pay#1", "k", Failure("E", "no", retryable=False)),
        replace(started, attempt=3),
        facts.EffectFinished("pay#1", "k", freeze({"ok": [1, LONG]}), FrozenDict({"tokens": 7, "cost": 0.5})),
        model,
        facts.EffectFinished("ask", "1", "hello"),
        facts.EffectRejected("ask", "1", "me", "rude"),
        facts.SignalReceived("go", freeze({"by": LONG}), 4, "you"),
        facts.WaitOpened("a", "human", "", author.clock.now(), "remaining", freeze({"prompt": LONG})),
        facts.SignalRefused(4, "no number"),
        facts.WaitClosed("a", "timeout"),
        facts.AttemptFailed("a", 1, Failure("E", "again"), author.clock.now()),
    )
    head = author.add(head, facts.RunFailed("a", Failure("E", "broken", "y.py:2")), status="failed")
    resumed = facts.RunResumed("a", b"d" * 32, freeze({"name": "flöw", "nodes": {"a": "code"}}), "me", "mended")
    head = author.add(head, resumed, facts.RunPaused("me", "lunch"), facts.RunResumed("a", b"d" * 32))
    head = author.add(author.rewind(head, 4), facts.RunCompleted("a", (Op("set", ("end",), True),)), status="completed")
    fork = author.fork(head, 5, "golden-2", change=(Op("set", ("mine",), LONG),))
    fork = author.add(
        author.rewind(author.add(fork, change(Op("add", ("n",), -1))), 2), facts.RunCancelled("me", "enough")
    )
    write_branches(author, head)
    gone = author.start("golden-3", {"secret": 1})
    marks = facts.CheckpointCreated("golden-1", head.run_key, 5, "a label", "me", "since")
    dropped = facts.CheckpointsDeleted("golden-1", head.run_key, FrozenList([5, 6]), "me", "full")
    deleted = facts.RunDeleted("golden-3", gone.run_key, 1, 1, gone.digest, "me", "asked")
    now = author.clock.now()
    for act in (Act(pack(marks), now), Act(pack(dropped), now), Act(pack(deleted), now, delete_run=gone)):
        written(author.log, act)


def write_branches(author: Author, caller: Head) -> None:
    """A run that was started by another, and splits, waits for runs of its own, is moved, goes back and undoes."""
    head = author.add(
        called(author, "golden-4", caller),
        facts.BranchesOpened("a", FrozenList(["web", "f/il%es"])),
        facts.EffectStarted("pay", "1", "call", True, None, b"i" * 32, "idem", branch="f/il%es", undo="refund"),
        facts.EffectStarted("pay", "1", "call", True, None, b"i" * 32, "idem-2", branch="web"),
        facts.EffectFinished("pay", "1", freeze({"paid": LONG}), branch="f/il%es"),
        facts.EffectFailed("pay", "1", Failure("E", "no"), "web"),
        facts.AttemptFailed("a", 1, Failure("E", "again"), author.clock.now(), "web"),
        facts.WaitOpened("a", "child", "golden-4.child", branch="web"),
        facts.BranchFailed("a", "f/il%es", Failure("E", LONG, "z.py:3", retryable=False)),
    )
    head = author.add(head, facts.RunSuspended("a"), vouch=author.snapshot(head), status="pending")
    head = author.add(
        head, facts.RunResumed("a", bytes(32), budget=freeze({"steps": 9})), facts.WaitClosed("a", "signal", 3, "web"),
        facts.BranchFinished("a", "web", freeze({"found": [1, LONG]})),
        facts.Transitioned("a", "b", change=(Op("set", ("found",), freeze([1])),)),
        facts.BranchesOpened("b", FrozenList(), freeze([LONG, None, *range(120)])), facts.BranchFinished("b", "0", LONG),
        facts.WaitOpened("b", "unknown", "pay", spec=freeze({"key": "1"}), branch="120"),
    )  # fmt: skip
    head = author.add(head, facts.RunPaused("me"), vouch=author.snapshot(head), status="paused")
    message = FrozenDict({"name": "go", "message": 3, "payload": LONG})
    reuse = freeze({"a/pay#1/00": [11, 12]})
    back = facts.Rewound(3, "a", "me", "again", reuse, FrozenList([message]))
    resumed = facts.RunResumed("a", bytes(32), None, "me", "moved", None, (Op("set", ("migrated",), True),), "b")
    head = author.add(
        head, back, resumed, facts.EffectStarted("pay", "1", "call", True, None, b"i" * 32, "idem-3", undo="refund"),
        facts.EffectFinished("pay", "1", 5, reused=11), facts.UndoBegan("b", "timed_out", None, "", "the deadline"),
    )  # fmt: skip
    head = author.add(head, facts.RunFailed("b", Failure("E", "can't")), vouch=author.snapshot(head), status="failed")
    author.add(
        head, facts.NodeSkipped("b", "me", "known"), facts.Transitioned("b", "a"), facts.RunTimedOut("a"), status="timed_out"
    )  # fmt: skip


def write_what_if(author: Author) -> None:
    """Runs that may not call what they would: a fork, a fork of that, one that was started as a part of it."""
    head = author.start("golden-1", {"n": 1})
    begun = facts.EffectStarted("pay", "1", "call", True, None, b"i" * 32, "idem")
    head = author.add(
        head, begun, facts.EffectFinished("pay", "1", freeze({"paid": LONG})), facts.Transitioned("a", "b")
    )
    recorded = freeze({"run": head.run_key, "first": 2, "last": head.version})
    policy = freeze({"deny": ["mail"], "live": ["*"], "mock": {"pay": LONG, "ask": [1, None]}})
    whole = FrozenDict({**policy, "recorded": recorded})
    fork = author.fork(head, 1, "golden-2", effects=whole)
    fork = author.add(fork, begun, facts.EffectFinished("pay", "1", freeze({"paid": LONG}), source="golden-1@3"))
    fork = author.add(fork, facts.RunSuspended("a"), vouch=author.snapshot(fork), status="pending")
    fork = author.add(fork, facts.RunResumed("a", bytes(32), effects=policy), facts.Transitioned("a", "b"), begun)
    fork = author.add(fork, facts.EffectFinished("pay", "1", LONG, source="mock"))
    author.fork(fork, fork.version, "golden-3")
    author.fork(fork, fork.version, "golden-4", effects=FrozenDict())
    event = facts.RunStarted(
        "golden-5", author.log.store_id, "flow", DEFINITION, FrozenDict(), "a", freeze({"n": 1}), bytes(32), effects=policy
    )  # fmt: skip
    written(author.log, replace(author.first("golden-5", {"n": 1}), events=(pack(event),)))


def write_retention(author: Author) -> None:
    """What is said of runs that are kept, and of one that begins later than it did."""
    head = author.start("golden-1", {"n": 1})
    for _ in range(33):
        head = author.add(head, change(Op("add", ("n",), 1)))
    head = author.add(head, change(Op("set", ("text",), LONG)), vouch=author.snapshot(head))
    key, now = head.run_key, author.clock.now()
    for event in (
        facts.RunPinned("golden-1", key, "me", "liked"), facts.RunHeld("golden-1", key, "me", "court"),
        facts.RunReleased("golden-1", key, "you", "over"), facts.RunUnpinned("golden-1", key),
    ):  # fmt: skip
        written(author.log, Act(pack(event), now))
    vouch = facts.Vouch(34, state_digest(author.state(head, 34)))
    compacted = facts.RunCompacted("golden-1", key, 1, 1, 34, "me", "long")
    written(author.log, Act(pack(compacted, vouch=vouch), now))


def write_encryption(author: Author) -> None:
    """What a store tells of its keys; its values are in the open here, for no key lies beside a golden file."""
    head = author.start("golden-1", {"n": 1})
    for _ in range(33):
        head = author.add(head, change(Op("add", ("n",), 1)))
    head = author.add(head, change(Op("set", ("text",), LONG)), vouch=author.snapshot(head))
    for event in (
        facts.EncryptionBegan("ab" * 8, "ann"), facts.KeysRotated("cd" * 8, 3, "ann", "a year is over"),
        facts.SubjectShredded(b"k" * 10, "subject", "eve", FrozenList(["r1", "r2"]), "ann", "asked to be forgotten"),
    ):  # fmt: skip
        written(author.log, Act(pack(event), author.clock.now()))


def write_readmission(author: Author) -> None:
    """What a store tells of a subject that was shredded and came back."""
    head = author.start("golden-1", {"n": 1})
    for _ in range(33):
        head = author.add(head, change(Op("add", ("n",), 1)))
    head = author.add(head, change(Op("set", ("text",), LONG)), vouch=author.snapshot(head))
    for event in (facts.SubjectReadmitted("blå", "ann", "signed up again"), facts.SubjectReadmitted("eve")):
        written(author.log, Act(pack(event), author.clock.now()))


def write_fleet(author: Author) -> None:
    """Runs that wait in a queue for whoever claims them, and ones that stand still after crashes or at a limit."""
    head = author.start("golden-1", {"n": 1}, queue="mail", priority=-3, queue_key="kund:blå")
    for _ in range(16):
        head = author.add(head, change(Op("add", ("n",), 1)))
    head = author.add(head, facts.RunParked("a", 3, "", "its process ended three times"), status="parked")
    head = author.add(head, facts.RunResumed("a", bytes(32), actor="me", why="mended"), change(Op("add", ("n",), 1)))
    head = author.add(head, facts.RunParked("a", 0, "me", LONG), vouch=author.snapshot(head), status="parked")
    author.add(head, facts.RunCancelled("me", "enough"), status="cancelled")
    fork = author.fork(head, 18, "golden-2")
    author.add(fork, facts.RunResumed("a", bytes(32)), facts.RunParked("a", 1), status="parked")
    author.start("golden-3", {"n": 2}, queue="mail")


def write_backup(author: Author) -> None:
    """What a store tells of its copies, of the store it was copied from, and of runs that came from elsewhere."""
    head = author.start("golden-1", {"n": 1})
    for _ in range(33):
        head = author.add(head, change(Op("add", ("n",), 1)))
    head = author.add(head, change(Op("set", ("text",), LONG)), vouch=author.snapshot(head))
    other, lost = b"s" * 16, freeze([{"run": "r1", "from": 3, "why": LONG}, {"run": "r2", "from": 1, "why": "cut"}])
    for event in (
        facts.BackupMade(1, 35, head.digest, keys=True, actor="ann", why="the week is over"),
        facts.BackupMade(2, 36, head.digest), facts.StoreRestored(1, 36, 2, "ann", "the disk broke"),
        facts.StoreRestored(2, 36, 1), facts.RunsImported(other, FrozenList(["r1", "blå"]), 7, "ann", "moved"),
        facts.StoreRepaired(other, 35, lost, "ann", "a page was gone"), facts.StoreRepaired(other, 0, FrozenList()),
    ):  # fmt: skip
        written(author.log, Act(pack(event), author.clock.now()))


# Files that hold what came later, beside that of the format; each is written once.
BESIDE = {
    "what-if-1": write_what_if, "retention-1": write_retention, "encryption-1": write_encryption,
    "fleet-1": write_fleet, "backup-1": write_backup, "encryption-2": write_readmission,
}  # fmt: skip


def called(author: Author, run_id: str, caller: Head) -> Head:
    """A run that was started by another, with a deadline and a budget."""
    event = facts.RunStarted(
        run_id, author.log.store_id, "flow", DEFINITION, FrozenDict(), "a", freeze({"n": 1}), bytes(32),
        caller_id=caller.run_id, caller_key=caller.run_key, deadline=author.clock.now() + 10**12,
        budget=freeze({"tokens": 500, "cost": 0.5}),
    )  # fmt: skip
    answer = written(author.log, replace(author.first(run_id, {"n": 1}), events=(pack(event),)))
    assert isinstance(answer, Appended)
    return answer.head


def generate(write: Callable[[Author], None] = write_runs) -> bytes:
    """The file of the newest format, or one beside it, the same each time."""
    clock = ManualClock(seed=20_261_124)
    log = MemoryLog(clock=clock)
    write(Author(log, clock=clock))
    states, kept, data = [], [], {}
    for listed in reversed(log.runs(Query())):
        head = listed.head
        for version in range(1, head.version + 1):
            state = recover(log, head, version).state
            data[head.run_id] = thaw(state.data)
            states.append([head.run_id, version, digest(encode(data[head.run_id])), state_digest(state)])
        for version, by in log.snapshots(head.run_key, head.version):
            kept.append([head.run_key, version, by, log.snapshot(head.run_key, version)])
    return encode({
        "about": "events by position; [name, blob]; [run key, version, vouching version, root]; "
        "[run, version, digest of the data, state digest]; the last version's data",
        "events": [one.data for one in log.feed(0, 1 << 20)],
        "blobs": [[name, stored] for name, stored in log._blobs.items()],
        "snapshots": kept,
        "states": states,
        "data": data,
    })  # fmt: skip


# --- reading -------------------------------------------------------------------------------------------------------


class Golden:
    """As much of a log as recovery asks for, over the bytes of a golden file."""

    def __init__(self, path: Path) -> None:
        content = decode(path.read_bytes(), str(path))
        self.stored = [Stored(position, data) for position, data in enumerate(content["events"], 1)]
        self.kept = dict(content["blobs"])
        self.roots = {(key, version): (by, root) for key, version, by, root in content["snapshots"]}
        self.states, self.data = content["states"], content["data"]
        living = [one for one in self.stored if one.data[:1] != TOMBSTONE]
        self.events = read_events(living, self.blobs, strict=True)
        self.by_run: dict[bytes, dict[int, tuple[Stored, Recorded]]] = {}
        for one, recorded in zip(living, self.events, strict=True):
            self.by_run.setdefault(recorded.run_key, {})[recorded.version] = one, recorded
        self.names = {rows[min(rows)][1].event.run_id: key for key, rows in self.by_run.items() if key != STORE_RUN}  # type: ignore[union-attr]

    def head_of(self, run_key: bytes) -> Head:
        rows = self.by_run[run_key]
        last = rows[max(rows)][1]
        name = next((name for name, key in self.names.items() if key == run_key), "")
        return Head(name, run_key, 1, last.version, last.digest, 0, bytes(16), "running", "", last.time)

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        return [one for version, (one, _) in sorted(self.by_run[run_key].items()) if first <= version <= last]

    def bends(self, run_key: bytes) -> list[int]:
        bending = facts.Rewound | facts.Forked
        return sorted(version for version, (_, one) in self.by_run[run_key].items() if isinstance(one.event, bending))

    def entry(self, run_key: bytes) -> Entry:
        event = self.by_run[run_key][min(self.by_run[run_key])][1].event
        if isinstance(event, facts.Forked):
            return Entry("", (), None, 0, event.parent_id, event.parent_key, event.at)
        return Entry("", (), None, 0)

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        return {name: unpack_blob(self.kept[name], name) for name in names}

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
        found = [(version, by) for (key, version), (by, _) in self.roots.items() if key == run_key and version <= upto]
        return sorted(found, reverse=True)[:limit]

    def snapshot(self, run_key: bytes, version: int) -> bytes:
        return self.roots[run_key, version][1]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    """One golden file, read."""
    return Golden(request.param)


@pytest.mark.skipif("EVENTFLOW_UPDATE_GOLDEN" not in os.environ, reason="writes the golden file of the newest format")
def test_write_the_golden_file_anew() -> None:
    """Only when asked: what is in the file becomes what this code writes."""
    NEWEST.write_bytes(generate())


@pytest.mark.parametrize("name", BESIDE)
def test_a_file_beside_it_is_written_once(name: str) -> None:
    """Only if it is not there, and when asked; what it holds then stays."""
    path = HERE / f"{name}.cbor"
    if "EVENTFLOW_UPDATE_GOLDEN" in os.environ and not path.exists():
        path.write_bytes(generate(BESIDE[name]))
    assert path in FILES
    assert generate(BESIDE[name]) == generate(BESIDE[name])


def test_there_is_a_golden_file_of_the_newest_format() -> None:
    """Without one nothing here would be tested."""
    assert NEWEST in FILES


def test_every_fact_is_in_a_golden_file() -> None:
    """A new kind of fact needs a golden history too."""
    seen = {type(one.event) for path in FILES for one in Golden(path).events}
    assert seen == set(SHAPES)


def test_every_way_to_keep_a_value_is_in_a_golden_file() -> None:
    """Blobs as they are, compressed and out of base64; references to text, bytes and plain data; pieces of a list."""
    files = [Golden(path) for path in FILES]
    assert {stored[0] for one in files for stored in one.kept.values()} == {0, 1, 2}
    assert {flags for one in files for stored in one.stored if (flags := _flags(stored)) is not None} >= {0, 1, 2, 3}
    kinds = {ref[2] for one in files for stored in one.stored for ref in _body(stored)[1]}
    assert kinds == {0, 1, 2}
    cut = [decode(zstandard.decompress(root[1:]), "root")[3] for one in files for _, root in one.roots.values()]
    assert any(cut)


def _flags(stored: Stored) -> int | None:
    return None if stored.data[:1] == TOMBSTONE else decode(stored.data, "event")[1]


def _body(stored: Stored) -> tuple[Any, list[Any]]:
    """The body's fields and references as they are written, before compression."""
    flags = _flags(stored)
    if flags is None:
        return [], []
    data = decode(stored.data, "event")[9]
    body = decode(expand_small(data, "body", limit=MAX_BODY) if flags & FLAG_ZSTD else data, "body")
    return (body[0], body[1]) if flags & FLAG_REFS else (body, [])


def test_every_golden_event_chains_to_the_one_before(golden: Golden) -> None:
    """The digests of the stored bytes are what the next events say."""
    for rows in golden.by_run.values():
        for version, (_, recorded) in rows.items():
            if version - 1 in rows:
                assert recorded.before == digest(rows[version - 1][0].data)


def test_every_golden_state_is_what_it_was(golden: Golden) -> None:
    """At each version of each run, from the start and from snapshots: the same data, the same state digest."""
    assert len(golden.states) > 30
    for name, version, data, expected in golden.states:
        head = golden.head_of(golden.names[name])
        if version == head.version:
            assert digest(encode(golden.data[name])) == data
        for snapshots in (True, False):
            state = recover(golden, head, version, snapshots=snapshots).state  # type: ignore[arg-type]
            assert digest(encode(thaw(state.data))) == data, (name, version)
            assert state_digest(state) == expected, (name, version)


def test_every_golden_snapshot_is_vouched_for(golden: Golden) -> None:
    """Its root has the digest that an event carries, and it is the state of its version."""
    assert golden.roots
    for (key, version), (by, root) in golden.roots.items():
        vouch = golden.by_run[key][by][1].vouch
        assert vouch is not None
        assert (vouch.version, vouch.digest) == (version, root_digest(root, "root"))
        state, _ = unpack_state(root, golden.blobs, "root")
        assert state == recover(golden, golden.head_of(key), version, snapshots=False).state  # type: ignore[arg-type]


def test_every_golden_fact_is_written_as_it_was(golden: Golden) -> None:
    """Header, body and references come out the same today; only compression may differ."""
    for one, recorded in zip(golden.stored, _with_tombstones(golden), strict=True):
        if recorded is None or _refers_to_plain_data(one):
            continue
        packed = pack(recorded.event, vouch=recorded.vouch)
        body = expand_small(packed.body, "body", limit=MAX_BODY) if packed.flags & FLAG_ZSTD else packed.body
        fields, refs = decode(body, "body") if packed.flags & FLAG_REFS else (decode(body, "body"), [])
        array = decode(one.data, "event")
        assert (packed.code, thaw(packed.header)) == (array[7], array[8])
        assert encode([fields, refs]) == encode(list(_body(one)))
        assert {blob.digest for blob in packed.blobs} == {ref[1] for ref in refs}


def _with_tombstones(golden: Golden) -> list[Recorded | None]:
    by_position = {recorded.position: recorded for recorded in golden.events}
    return [by_position.get(one.position) for one in golden.stored]


def _refers_to_plain_data(stored: Stored) -> bool:
    """Whether a value was shared by whoever wrote it, which reading it does not tell."""
    return any(ref[2] == 2 for ref in _body(stored)[1])


def test_every_golden_state_is_packed_as_it_was(golden: Golden) -> None:
    """The root of each snapshot comes out the same today, byte for byte, before compression."""
    for (key, version), (_, root) in golden.roots.items():
        state = recover(golden, golden.head_of(key), version, snapshots=False).state  # type: ignore[arg-type]
        assert pack_state(state, anew=True).digest == root_digest(root, "root")


def test_the_generator_repeats() -> None:
    """The same code writes the same file, so that a difference is one of the format."""
    assert generate() == generate()

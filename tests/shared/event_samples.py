"""Events of every kind, with what is odd in each, and how a test packs, places and reads one."""

from __future__ import annotations

from typing import Any

from eventflow.change import Op
from eventflow.codec import (
    Place,
    Stored,
    pack,
    read_events,
    seal,
    unpack_blob,
)
from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BackupMade,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    CheckpointCreated,
    CheckpointsDeleted,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    EncryptionBegan,
    Event,
    Failure,
    Forked,
    KeysRotated,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompacted,
    RunCompleted,
    RunDeleted,
    RunFailed,
    RunHeld,
    RunParked,
    RunPaused,
    RunPinned,
    RunReleased,
    RunResumed,
    RunsImported,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    RunUnpinned,
    SignalReceived,
    SignalRefused,
    StoreCreated,
    StoreRepaired,
    StoreRestored,
    SubjectReadmitted,
    SubjectShredded,
    Transitioned,
    UndoBegan,
    Vouch,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import MAX_INT, MIN_INT, FrozenList, freeze

LONG = "a long text, mostly repeated; " * 100
KEY, BEFORE = b"k" * 16, b"b" * 32
PLACE = Place(KEY, 1, 7, 3, 1_767_225_600_000_000_000, BEFORE)
FAILURE = Failure("ValueError", "it broke: é", "flow.py:3", retryable=False)
DATA = freeze(
    {
        "topic": "tides",
        "notes": ["x", {"y": None}],
        "score": 0.5,
        "n": MAX_INT,
        "m": MIN_INT,
        "raw": b"\x00",
        "text": LONG,
    }
)
CHANGE = (
    Op("set", ("a",), freeze({"x": 1})), Op("delete", ("a", "b")), Op("extend", ("l",), freeze([1, LONG])),
    Op("merge", ("d", "e"), freeze({"k": None})), Op("add", ("n",), -0.0), Op("set", ("falsy",), ""),
)  # fmt: skip


SAMPLES: list[Event] = [
    RunStarted("run-1", b"s" * 16, "flow", b"d" * 32, freeze({"nodes": ["a"]}), "a", DATA, b"i" * 32, FrozenList(["t"]), "p", "me", "why"),
    RunStarted("r", b"s" * 16, "f", b"d" * 32, freeze({}), "a", freeze({}), b"i" * 32),
    Transitioned("a", "b", "failed", CHANGE, FAILURE), Transitioned("a", "b"), RunCompleted("z", CHANGE), RunCompleted("z"),
    AttemptFailed("a", 2, FAILURE, 99), RunFailed("a", FAILURE), RunResumed("a", b"d" * 32), RunSuspended("a", "me", "stop"), RunParked("a", 3, "me", "why"),
    RunResumed("a", b"d" * 32, freeze({"nodes": []}), "me", "why"), RunPaused(), RunPaused("me", "é"), RunCancelled("me", LONG),
    SignalReceived("go", freeze({"x": [LONG]}), 4, "me"), SignalReceived("go", None, 0), SignalReceived("go", False, 0),
    SignalRefused(4, "why"), WaitOpened("a", "human", "", 9, "restart", freeze({"prompt": LONG})), WaitOpened("a", "timer"),
    WaitClosed("a", "signal", 4), WaitClosed("a", "timeout"),
    EffectStarted("llm", "1", "model", False, freeze({"m": [LONG]}), b"i" * 32, "ef", 2),
    EffectStarted("pay", "k", "call", True, None, b"i" * 32, "ef"),
    EffectFinished("llm", "1", freeze({"text": LONG}), freeze({"tokens": 5})), EffectFinished("pay", "k", 0), EffectFailed("pay", "k", FAILURE),
    EffectRejected("llm", "1", "me", "why"), Rewound(3, "a", "me", "why"),
    Forked("r2", b"s" * 16, "r1", b"p" * 16, 1, 6, CHANGE, "me", "why"), StoreCreated(b"s" * 16, "me"),
    CheckpointCreated("r", b"k" * 16, 3, "before lunch", "me", "why"), CheckpointsDeleted("r", b"k" * 16, FrozenList([1, 2]), "me"),
    RunDeleted("r", b"k" * 16, 1, 9, b"h" * 32, "me", "why"),
    RunPinned("r", b"k" * 16, "me", "why"), RunUnpinned("r", b"k" * 16), RunHeld("r", b"k" * 16, "me", "court"),
    RunReleased("r", b"k" * 16, "me", "over"), RunCompacted("r", b"k" * 16, 1, 1, 9, "me", "why"),
    BackupMade(2, 99, b"h" * 32, True, "me", "why"), StoreRestored(1, 99, 2, "me", "why"),
    RunsImported(b"s" * 16, FrozenList(["r"]), 9, "me", "why"), StoreRepaired(b"s" * 16, 9, freeze([{"run": "r", "problem": "é"}]), "me"),
    KeysRotated("m" * 16, 4, "me", "why"), SubjectShredded(b"k" * 10, "subject", "é", FrozenList(["r"]), "me", "why"), EncryptionBegan("m", "me", "why"), SubjectReadmitted("é", "me", "why"),
    RunTimedOut("a"), NodeSkipped("a"), NodeSkipped("a", "me", "known"), UndoBegan("a", "failed", FAILURE, "me", "why"),
    UndoBegan("a", "cancelled"), BranchesOpened("a", FrozenList(["web", "é"])), BranchesOpened("a", FrozenList(), freeze([LONG, 1])),
    BranchFinished("a", "web", freeze({"text": LONG})), BranchFinished("a", "0"), BranchFailed("a", "web", FAILURE),
    AttemptFailed("a", 2, FAILURE, 99, "web"), WaitOpened("a", "child", "r.1", branch="web"), WaitClosed("a", "settled", 0, "web"),
    RunStarted(
        "r", b"s" * 16, "f", b"d" * 32, freeze({}), "a", freeze({}), b"i" * 32, caller_id="p", caller_key=b"p" * 16,
        deadline=9, budget=freeze({"tokens": 5, "cost": 0.5}),
    ),
    RunResumed("a", b"d" * 32, None, "me", "why", freeze({"steps": 9}), CHANGE, "b"),
    EffectStarted("pay", "k", "call", True, None, b"i" * 32, "ef", branch="web", undo="refund"),
    EffectFinished("pay", "k", 0, actor="me", why="seen", branch="web", reused=7), EffectFailed("pay", "k", FAILURE, "web"),
    EffectRejected("pay", "k", "me", "why", "web"),
    Rewound(3, "a", reuse=freeze({"a/pay#1/00": [7, 9]}), signals=freeze([{"name": "go", "message": 5, "payload": LONG}])),
]  # fmt: skip


class Shelf:
    """Blobs as a store keeps them: by name, all of what is asked for or Corrupt."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.asked: list[set[bytes]] = []

    def write(self, event: Event, *, vouch: Vouch | None = None, place: Place = PLACE, position: int = 12) -> Stored:
        """An event as it is stored, its blobs on the shelf."""
        packed = pack(event, vouch=vouch)
        self.rows |= {blob.digest: blob.stored for blob in packed.blobs}
        return Stored(position, seal(packed, place))

    def fetch(self, names: Any) -> dict[bytes, bytes]:
        """The blobs of these names."""
        self.asked.append({*names})
        if not {*names} <= self.rows.keys():
            raise Corrupt("a blob", "is missing")
        return {name: unpack_blob(self.rows[name], name) for name in names}

    def read(self, *stored: Stored, strict: bool = True) -> list[Recorded]:
        """The events of stored bytes."""
        return read_events(stored, self.fetch, strict=strict)


def read_one(stored: Stored, *, strict: bool = True) -> Event:
    """The fact of stored bytes that refer to nothing."""
    return Shelf().read(stored, strict=strict)[0].event

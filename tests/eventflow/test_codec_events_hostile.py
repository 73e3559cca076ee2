"""Events that are newer, damaged or hostile: an error of ours, whatever they are."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from event_samples import BEFORE, FAILURE, KEY, LONG, PLACE, SAMPLES, Shelf, read_one

from eventflow.codec import (
    FORMAT,
    Stored,
    decode,
    encode,
    pack,
    pack_state,
    seal,
    unpack_state,
)
from eventflow.codec import events as codec
from eventflow.codec.blobs import BYTES, TEXT, expand_small, squeeze
from eventflow.codec.events import FLAG_ENCRYPTED, FLAG_REFS, FLAG_ZSTD, MAX_BODY
from eventflow.errors import Corrupt, EventflowError, WrittenByNewer
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFinished,
    CheckpointCreated,
    CheckpointsDeleted,
    EffectFinished,
    EffectStarted,
    Event,
    Forked,
    Recorded,
    Rewound,
    RunFailed,
    RunPaused,
    SignalReceived,
    StoreCreated,
    Transitioned,
    UndoBegan,
    WaitOpened,
)
from eventflow.plain import MAX_DEPTH, FrozenList, freeze
from eventflow.proof import digest
from eventflow.state import State, evolve, open_waits, standing_after, status_after


def edited(event: Event, **changes: Any) -> Stored:
    """A stored event with parts of its array replaced, by name; `body` is the decoded body without its references."""
    names = (
        "format",
        "flags",
        "run_key",
        "incarnation",
        "version",
        "epoch",
        "time",
        "type",
        "header",
        "body",
        "before",
    )
    array = decode(Shelf().write(event).data, "a test")
    for name, value in changes.items():
        if name == "body":
            array[9], array[1] = encode(value), array[1] & ~FLAG_ZSTD
        else:
            array[names.index(name)] = value
    return Stored(12, encode(array))


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"format": FORMAT + 1}, "format 2"), ({"format": 99}, "format 99"), ({"type": 127}, "type 127"), ({"type": 0}, "type 0"),
        ({"type": -1}, "type -1"), ({"flags": 8}, "flag 8"), ({"flags": FLAG_ENCRYPTED | 16}, "flag 16"), ({"flags": -1}, "flag"),
        ({"flags": 2**40 + FLAG_ZSTD}, "flag"), ({"body": [[], None, 5]}, "a field"), ({"header": {"node": "a", "to": "b", "new": 1}}, "a field"),
        ({"body": [[[len(codec.OPS), ["a"], 1]], None]}, "operation 5"),
    ],
)  # fmt: skip
def test_what_is_newer_is_not_guessed(changes: dict[str, Any], what: str) -> None:
    """A format, type, flag, field or operation that this version does not know stops the reader, by name."""
    for strict in (True, False):
        with pytest.raises(WrittenByNewer, match=what):
            read_one(edited(Transitioned("a", "b"), **changes), strict=strict)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0}, {"format": -1}, {"format": True}, {"format": None}, {"run_key": "text"}, {"run_key": None}, {"version": "7"},
        {"version": True}, {"version": 1.0}, {"version": -1}, {"version": 2**63}, {"incarnation": -1}, {"epoch": -1},
        {"incarnation": 2**64 - 1}, {"time": None}, {"time": 2**63}, {"time": "now"}, {"header": []}, {"header": None}, {"before": b"short"},
        {"before": None}, {"before": b"x" * 33}, {"body": {}}, {"body": None}, {"body": 5}, {"body": "text"},
    ],
    ids=str,
)  # fmt: skip
def test_an_array_of_other_fields_is_refused(changes: dict[str, Any]) -> None:
    """Types and bounds of the eleven fields are checked."""
    for strict in (True, False):
        with pytest.raises(Corrupt):
            read_one(edited(Transitioned("a", "b"), **changes), strict=strict)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 12, 20])
def test_an_array_of_another_length_is_refused(count: int) -> None:
    """Eleven fields, no more and no less."""
    array = decode(Shelf().write(RunPaused()).data, "a test")
    with pytest.raises(Corrupt):
        read_one(Stored(1, encode((array * 2)[:count])))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\xff" + bytes(32), b"\xa0", b"\xf6", b"\x00", b"\x60", b"\x80", b"\x81\x01", b"\x81\x81\x01"],
)
def test_what_is_no_array_of_an_event_is_refused(data: bytes) -> None:
    """The place of a deleted event too: it holds no event."""
    for strict in (True, False):
        with pytest.raises(Corrupt):
            read_one(Stored(1, data), strict=strict)


BODIES: list[tuple[Event, Any]] = [
    (Transitioned("a", "b"), [5, None]), (Transitioned("a", "b"), [None, None]), (Transitioned("a", "b"), [{}, None]),
    (Transitioned("a", "b"), ["abc", None]), (Transitioned("a", "b"), [[5], None]), (Transitioned("a", "b"), [["abc"], None]),
    (Transitioned("a", "b"), [[[0, ["a"]]], None]), (Transitioned("a", "b"), [[[0, ["a"], 1, 2]], None]),
    (Transitioned("a", "b"), [[[-1, ["a"], 1]], None]), (Transitioned("a", "b"), [[[True, ["a"], 1]], None]),
    (Transitioned("a", "b"), [[["set", ["a"], 1]], None]), (Transitioned("a", "b"), [[[0, "abc", 1]], None]),
    (Transitioned("a", "b"), [[[0, [], 1]], None]), (Transitioned("a", "b"), [[[0, [5], 1]], None]),
    (Transitioned("a", "b"), [[[0, ["a"] * 65, 1]], None]), (Transitioned("a", "b"), [[[0, {"a": 1}, 1]], None]),
    (Transitioned("a", "b"), [[], 5]), (Transitioned("a", "b"), [[], []]), (Transitioned("a", "b"), [[], ["T", "m", "w"]]),
    (Transitioned("a", "b"), [[], ["T", "m", "w", 1]]), (Transitioned("a", "b"), [[], [1, "m", "w", True]]),
    (Transitioned("a", "b"), [[], ["T", "m", "w", True, 5]]), (RunFailed("a", FAILURE), [None]), (RunFailed("a", FAILURE), []),
    (SignalReceived("s", 1, 1), []), (EffectFinished("e", "1", 1), []), (EffectStarted("e", "1", "call", False, 1, b"i", "k"), [1, b"i"]),
    (EffectStarted("e", "1", "call", False, 1, b"i", "k"), [1, "i", "k"]), (SAMPLES[1], [{}, {}, b"i"[:0], "tags"]),
    (SAMPLES[1], [[], {}, b"i" * 32]), (SAMPLES[1], [{}, [], b"i" * 32]), (SAMPLES[1], [{}, {}, b"i" * 32, [], 5]), (SAMPLES[1], [{}]),
    (SAMPLES[8], [[]]), (SAMPLES[8], ["text"]), (CheckpointCreated("r", b"k" * 16, 1), [5]),
]  # fmt: skip


@pytest.mark.parametrize(("event", "body"), BODIES, ids=lambda one: str(one)[:40])
def test_a_body_of_other_fields_is_refused(event: Event, body: Any) -> None:
    """Types of what is in the body are checked, down to an operation's path."""
    for strict in (True, False):
        with pytest.raises(Corrupt):
            read_one(edited(event, body=body), strict=strict)


HEADERS: list[tuple[Event, dict[str, Any]]] = [
    (Transitioned("a", "b"), {}), (Transitioned("a", "b"), {"node": "a"}), (Transitioned("a", "b"), {"node": 5, "to": "b"}),
    (Transitioned("a", "b"), {"node": "a", "to": None}), (Transitioned("a", "b"), {"node": ["a"], "to": "b"}),
    (AttemptFailed("a", 1, FAILURE, 9), {"node": "a", "attempt": "1", "retry_at": 9}), (RunPaused(), {"actor": 5}),
    (AttemptFailed("a", 1, FAILURE, 9), {"node": "a", "attempt": True, "retry_at": 9}), (RunPaused(), {"snapshot": 5}),
    (EffectStarted("e", "1", "call", False, 1, b"i", "k"), {"name": "e", "key": "1", "kind": "call", "mutating": 1}),
    (RunPaused(), {"snapshot": []}), (RunPaused(), {"snapshot": [5, "text"]}), (RunPaused(), {"snapshot": [True, b"v" * 32]}),
    (EffectFinished("e", "1", 1), {"name": "e", "key": "1", "usage": [1]}), (CheckpointsDeleted("r", b"k", FrozenList([1])), {"run_id": "r", "run_key": b"k", "versions": {}}),
    (StoreCreated(b"s" * 16), {"store_id": "text"}), (Rewound(1, "a"), {"to": 1.0, "node": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("event", "header"), HEADERS, ids=lambda one: str(one)[:40])
def test_a_header_of_other_fields_is_refused(event: Event, header: dict[str, Any]) -> None:
    """Types of what is in the header are checked, and what is not optional must be there."""
    for strict in (True, False):
        with pytest.raises(Corrupt):
            read_one(edited(event, header=header), strict=strict)


def test_a_body_without_its_last_fields_takes_their_defaults() -> None:
    """A field that was added later is missing from old bytes."""
    assert read_one(edited(SAMPLES[1], body=[{}, {}, b"i" * 32])) == SAMPLES[1]
    assert read_one(edited(Transitioned("a", "b"), body=[])) == Transitioned("a", "b")


@pytest.mark.parametrize(
    "body",
    [[], [[None]], [[None], 5], [[None], [], []], [[None], [[[0], b"x", TEXT]]], [[1], [[[0], digest(LONG.encode()), TEXT]]],
     [[None], [[[1], digest(LONG.encode()), TEXT]]], [[None], [[[0], digest(LONG.encode()), 9]]], [[None], [5]], [5, []]],
    ids=str,
)  # fmt: skip
def test_references_that_do_not_fit_the_body_are_refused(body: Any) -> None:
    """A hostile event can't make the reader write outside the empty places of its body."""
    shelf = Shelf()
    shelf.write(SignalReceived("s", LONG, 1))
    stored = edited(SignalReceived("s", LONG, 1), flags=FLAG_REFS, body=body)
    for strict in (True, False):
        with pytest.raises(Corrupt):
            shelf.read(stored, strict=strict)


def test_a_reference_can_not_make_text_of_bytes() -> None:
    """Bytes that are no UTF-8 do not become text."""
    shelf = Shelf()
    shelf.write(SignalReceived("s", b"\xff" * 2_000, 1))
    body = [[None], [[[0], digest(b"\xff" * 2_000), TEXT]]]
    with pytest.raises(Corrupt, match="UTF-8"):
        shelf.read(edited(SignalReceived("s", LONG, 1), flags=FLAG_REFS, body=body))
    body[1][0][2] = BYTES  # type: ignore[index]
    assert (
        shelf.read(edited(SignalReceived("s", LONG, 1), flags=FLAG_REFS, body=body))[0].event.payload == b"\xff" * 2_000
    )  # type: ignore[union-attr]


def test_a_compressed_body_can_not_be_larger_than_a_body() -> None:
    """A small event that expands without end is refused by what it says of itself."""
    array = decode(Shelf().write(SignalReceived("s", 1, 1)).data, "a test")
    array[1], array[9] = FLAG_ZSTD, squeeze(encode([bytes(MAX_BODY)]))
    assert len(array[9]) < 2_000
    with pytest.raises(Corrupt, match="within limits"):
        read_one(Stored(1, encode(array)))
    array[9] = squeeze(encode([1])) + b"junk"
    with pytest.raises(Corrupt):
        read_one(Stored(1, encode(array)))


def test_values_deeper_than_a_writer_makes_are_refused() -> None:
    """A state can't be made deeper event by event."""
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    for body in ([deep],):
        with pytest.raises(Corrupt, match="deeper"):
            read_one(edited(SignalReceived("s", 1, 1), body=body))
    for path, value in ((["a"], deep[0]), (["a", "b"], deep[0][0]), (["a"] * 64, [])):
        with pytest.raises(Corrupt, match="deeper"):
            read_one(edited(Transitioned("a", "b"), body=[[[0, path, value]], None]))


@pytest.mark.parametrize(
    "spoil", [lambda data: data + b"\x00", lambda data: data[:-1], lambda data: b"\x98\x0b" + data[1:]]
)
def test_bytes_that_this_codec_would_not_write_are_refused_when_read_strictly(spoil: Any) -> None:
    """Trailing bytes, missing bytes and long forms, in the array and in the body."""
    stored = Shelf().write(RunFailed("a", FAILURE))
    with pytest.raises(Corrupt):
        read_one(Stored(1, spoil(stored.data)))
    array = decode(stored.data, "a test")
    array[9] = spoil(array[9]) if spoil(b"\x8b")[:2] != b"\x98\x0b" else b"\x98\x01" + array[9][1:]
    with pytest.raises(Corrupt):
        read_one(Stored(1, encode(array)))


# --- fuzz ----------------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 9, 128, 2**63, 2**64 - 1, -(2**63), 0.5, "", "a", "x" * 1_200, b"", b"k" * 16, b"d" * 32, [], {}, [[]],
    [1, 2], {"a": 1}, [["a"], b"d" * 32, 0], [0, ["a"], 1], ["T", "m", "w", True], [[[0], b"d" * 32, 0]],
]  # fmt: skip


def mutated_tree(value: Any, dice: random.Random) -> Any:
    """A decoded value with one part exchanged, dropped or doubled somewhere inside."""
    if isinstance(value, list | dict) and value and dice.random() < 0.8:
        copy = list(value) if isinstance(value, list) else dict(value)
        key = dice.randrange(len(value)) if isinstance(value, list) else dice.choice(list(value))
        move = dice.random()
        if move < 0.1:
            del copy[key]
        elif move < 0.2 and isinstance(copy, list):
            copy.insert(key, dice.choice([*ODD, copy[key]]))
        elif move < 0.2:
            copy[dice.choice(["a", "new", "snapshot", "node"])] = dice.choice(ODD)
        else:
            copy[key] = mutated_tree(copy[key], dice)
        return copy
    return dice.choice(ODD)


def mutated_bytes(data: bytes, dice: random.Random) -> bytes:
    """Bytes with a few of them changed, dropped, doubled or cut."""
    array = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(array) or 1)
        move = dice.randrange(5)
        if move == 0:
            array[place : place + 1] = bytes([dice.randrange(256)])
        elif move == 1:
            del array[place : place + dice.randint(1, 9)]
        elif move == 2:
            array[place:place] = dice.randbytes(dice.randint(1, 9))
        elif move == 3:
            array[place:place] = array[place : place + 20]
        else:
            array[place : place + 1] = bytes([dice.choice([0xC1, 0x9F, 0xFF, 0x1B, 0xBB, 0xF7, 0xD8, 0x81])])
    return bytes(array)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A stored event spoiled: its bytes, its array, or its body."""
    way = dice.randrange(3)
    if way == 0:
        return mutated_bytes(data, dice)
    array = decode(data, "a test")
    if way == 1:
        return encode(mutated_tree(array, dice))
    body = decode(expand_small(array[9], "a test", limit=MAX_BODY) if array[1] & FLAG_ZSTD else array[9], "a test")
    for _ in range(dice.randint(1, 3)):
        body = mutated_tree(body, dice)
    array[1], array[9] = array[1] & ~FLAG_ZSTD, encode(body)
    return encode(array)


PAY = EffectStarted("pay", "k", "call", True, None, b"i" * 32, "ef", undo="refund")
LLM = EffectStarted("llm", "1", "model", False, None, b"i" * 32, "ef")
WAYS: list[list[Event]] = [
    [LLM, PAY], [PAY, EffectFinished("pay", "k", 5), WaitOpened("a", "signal", "go", 9, "restart")],
    [BranchesOpened("a", FrozenList(["web", "files"])), WaitOpened("a", "human", branch="files"), replace(PAY, branch="web")],
    [BranchesOpened("a", FrozenList(), freeze([1, 2])), BranchFinished("a", "0", 1), RunPaused(), LLM],
    [PAY, EffectFinished("pay", "k", 5), UndoBegan("a", "failed", FAILURE), replace(PAY, kind="undo", undo="")],
    [PAY, RunFailed("a", FAILURE)],
]  # fmt: skip


def followed(state: State | None, *events: Event) -> State:
    """The state after more events."""
    for event in events:
        version = state.version + 1 if state is not None else 1
        state = evolve(state, Recorded(event, KEY, 1, version, version, 1, version, bytes(32), BEFORE))
    assert state is not None
    return state


def standing() -> list[State]:
    """States that many events can follow: at work, waiting, split, paused, undoing, failed."""
    start = replace(SAMPLES[1], data=freeze({"a": {"b": 1}, "l": [], "d": {"e": {}}, "n": 1}))  # type: ignore[arg-type]
    return [replace(followed(None, start, *events), version=6) for events in WAYS]


def folded(state: State, back: Recorded, dice: random.Random) -> None:
    """Fold a hostile event, tell where it leads, keep what came of it, and live on with it for a while."""
    if isinstance(back.event, Rewound | Forked):
        back = replace(
            back, event=replace(back.event, **{"to" if isinstance(back.event, Rewound) else "at": state.version})
        )
    after = evolve(state, replace(back, version=state.version + 1))
    assert status_after(state, back.event) == (after.status, after.waiting_for)
    open_waits(after)
    with contextlib.suppress(EventflowError):  # a number that grew too large, a value that is kept elsewhere
        after, _ = unpack_state(pack_state(after, compress=False).root, lambda names: dict.fromkeys(names, b""), "here")
    for event in dice.choices(SAMPLES, k=6):
        try:
            standing_after(after, [event, RunPaused()])
            after = followed(after, event)
        except EventflowError:
            continue


def test_spoiled_events_give_events_or_errors_of_ours() -> None:
    """Thousands of them, read strictly and not, and folded: no other exception, and nothing that does not fit."""
    dice = random.Random(20_260_101)  # noqa: S311
    shelf = Shelf()
    whole = [shelf.write(event).data for event in SAMPLES]
    states, read, folds = standing(), 0, 0
    for _ in range(4_000):
        data = mutated(dice.choice(whole), dice)
        for strict in (False, True):
            try:
                (back,) = shelf.read(Stored(1, data), strict=strict)
                seal(pack(back.event, vouch=back.vouch), PLACE)
            except EventflowError:
                continue
            read += 1
            for state in [None, *states] if strict else []:
                try:
                    if state is None:
                        evolve(None, back)
                    else:
                        folded(state, back, dice)
                        folds += 1
                except EventflowError:
                    continue
    assert 100 < read < 7_200, "the fuzz is too harmless, or too harsh, to find anything"
    assert folds > 500


def test_a_body_that_needs_another_dictionary_was_written_by_a_newer_version() -> None:
    """It is not taken for damage: a later version may have a dictionary of its own."""
    words = zstandard.train_dictionary(
        1_024, [bytes([n % 7, n % 11, n % 13]) * 20 for n in range(2_000)], dict_id=77_777
    )
    body = zstandard.ZstdCompressor(dict_data=words).compress(encode([None]))
    stored = edited(SignalReceived("s", None, 1), flags=FLAG_ZSTD)
    array = decode(stored.data, "a test")
    array[9] = body
    with pytest.raises(WrittenByNewer, match="dictionary"):
        Shelf().read(Stored(stored.position, encode(array)))

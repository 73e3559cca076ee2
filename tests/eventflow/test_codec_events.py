"""Events as bytes: what they hold, that they come back, and how older ones are read."""

from __future__ import annotations

import random
from dataclasses import fields
from itertools import pairwise
from typing import Any, get_args

import pytest
from event_samples import BEFORE, FAILURE, KEY, LONG, PLACE, SAMPLES, Shelf, read_one

from eventflow.change import Op
from eventflow.codec import (
    FORKED,
    FORMAT,
    REWOUND,
    Shared,
    Stored,
    blob_names,
    decode,
    encode,
    pack,
    read_events,
    reading,
    seal,
)
from eventflow.codec import events as codec
from eventflow.codec.blobs import BLOB_FROM
from eventflow.codec.events import FLAG_REFS, FLAG_ZSTD, MAX_BODY, SHAPES
from eventflow.errors import Corrupt, NotPlainData
from eventflow.event import (
    EffectFinished,
    EffectStarted,
    Event,
    Recorded,
    Rewound,
    RunFailed,
    RunPaused,
    SignalReceived,
    Transitioned,
    Vouch,
)
from eventflow.plain import MAX_DEPTH, freeze
from eventflow.proof import digest


def name_of(event: Event) -> str:
    """A test's id."""
    return type(event).__name__


# --- round trips ---------------------------------------------------------------------------------------------------


def test_the_samples_are_of_every_fact() -> None:
    """A new fact must be in these tests."""
    assert {type(event) for event in SAMPLES} == {*get_args(Event)}
    assert {*SHAPES} == {*get_args(Event)}


@pytest.mark.parametrize("event", SAMPLES, ids=name_of)
def test_every_fact_comes_back_with_its_place(event: Event) -> None:
    """Whatever it holds, falsy values and long ones too; its digest is that of the stored bytes."""
    shelf = Shelf()
    stored = shelf.write(event, vouch=Vouch(5, b"v" * 32))
    (back,) = shelf.read(stored)
    size = len(stored.data) + pack(event).size - len(pack(event).body)
    assert back == Recorded(event, KEY, 1, 7, 12, 3, PLACE.time, digest(stored.data), BEFORE, Vouch(5, b"v" * 32))
    assert back.size == size
    assert shelf.read(stored, strict=False) == [back]
    assert seal(pack(back.event, vouch=back.vouch), PLACE) == stored.data


def test_types_survive() -> None:
    """What Python finds equal and bytes do not comes back as it was."""
    for value in (1, True, 1.0, 0, False, 0.0, "", b"", None):
        (back,) = Shelf().read(Shelf().write(SignalReceived("s", value, 1)))
        assert type(back.event.payload) is type(value)  # type: ignore[union-attr]


def test_blobs_of_many_events_are_fetched_at_once() -> None:
    """One look into the store for a page of history."""
    shelf = Shelf()
    stored = [shelf.write(SignalReceived("s", f"{number}{LONG}", number), position=number) for number in range(5)]
    assert [one.position for one in shelf.read(*stored)] == [0, 1, 2, 3, 4]
    assert len(shelf.asked) == 1
    assert shelf.asked[0] == blob_names(stored)
    shelf.read(shelf.write(RunPaused()))
    assert len(shelf.asked) == 1


def test_a_missing_blob_is_an_error_of_the_store() -> None:
    """An event without its values is not read."""
    with pytest.raises(Corrupt, match="missing"):
        Shelf().read(Shelf().write(SignalReceived("s", LONG, 1)))


# --- the bytes -----------------------------------------------------------------------------------------------------


def test_an_event_is_an_array_of_eleven_fields() -> None:
    """As the format's document says, in canonical CBOR."""
    stored = Shelf().write(Rewound(3, "a", why="wrong"))
    assert decode(stored.data, "a test", strict=True) == [
        FORMAT, 0, KEY, 1, 7, 3, PLACE.time, 14, {"node": "a", "to": 3, "why": "wrong"}, encode([{}, []]), BEFORE,
    ]  # fmt: skip


def test_the_numbers_of_facts_are_for_ever() -> None:
    """Logs are full of them."""
    numbers = {kind.__name__: shape.code for kind, shape in SHAPES.items()}
    assert numbers | {
        "RunStarted": 1, "Transitioned": 2, "RunCompleted": 3, "AttemptFailed": 4, "RunFailed": 5, "RunResumed": 6, "RunPaused": 7,
        "RunCancelled": 8, "SignalReceived": 9, "EffectStarted": 10, "EffectFinished": 11, "EffectFailed": 12, "EffectRejected": 13,
        "Rewound": 14, "Forked": 15, "RunSuspended": 16, "SignalRefused": 17,
        "WaitOpened": 18, "WaitClosed": 19, "BranchesOpened": 20, "BranchFinished": 21, "BranchFailed": 22, "RunTimedOut": 23,
        "UndoBegan": 24, "NodeSkipped": 25, "RunParked": 28, "StoreCreated": 128, "CheckpointCreated": 129, "CheckpointsDeleted": 130,
        "RunDeleted": 131, "RunPinned": 132, "RunCompacted": 133, "RunUnpinned": 134, "RunHeld": 135, "RunReleased": 136, "BackupMade": 140, "StoreRestored": 141, "RunsImported": 142, "StoreRepaired": 143,
        "KeysRotated": 150, "SubjectShredded": 151, "EncryptionBegan": 152, "SubjectReadmitted": 153,
    } == numbers  # fmt: skip
    assert len({*numbers.values()}) == len(numbers)
    assert (REWOUND, FORKED) == (14, 15)


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_every_field_of_a_fact_is_written_once(kind: type) -> None:
    """In the header, for readers without keys, or in the body."""
    shape = SHAPES[kind]
    assert sorted((*shape.header, *shape.body)) == sorted(field.name for field in fields(kind))


def test_what_the_user_wrote_is_in_the_body() -> None:
    """A header shows names and numbers, never data."""
    private = {"data", "change", "payload", "input", "output", "error", "subject", "tags", "label"}
    assert all(not private & {*shape.header} for shape in SHAPES.values())


@pytest.mark.parametrize("length", [BLOB_FROM - 1, BLOB_FROM, 100_000])
def test_long_values_leave_the_event(length: int) -> None:
    """From a thousand on they are stored once, by their digest."""
    packed = pack(SignalReceived("s", freeze({"t": "x" * length}), 1))
    assert bool(packed.flags & FLAG_REFS) is (length >= BLOB_FROM)
    assert [blob.size for blob in packed.blobs] == ([length] if length >= BLOB_FROM else [])
    assert len(packed.body) < 300
    assert packed.size == len(packed.body) + (length if length >= BLOB_FROM else 0)


def test_equal_values_are_one_blob_across_events() -> None:
    """A system prompt that is sent with each call is stored once."""
    names = {
        blob.digest for number in range(9) for blob in pack(SignalReceived("s", freeze([LONG, LONG]), number)).blobs
    }
    assert names == {digest(LONG.encode())}


def test_shared_values_are_stored_by_reference_and_come_back_as_themselves() -> None:
    """Each turn of a conversation writes its new messages only."""
    shelf = Shelf()
    messages = [freeze({"role": "user", "content": f"message {number} " * 12}) for number in range(6)]

    def turn(count: int) -> EffectStarted:
        asked = {"messages": tuple(Shared(one) for one in messages[:count])}
        return EffectStarted("llm", str(count), "model", False, asked, b"i" * 32, "ef")

    sizes = [len(shelf.write(turn(count)).data) for count in range(1, 7)]
    assert len(shelf.rows) == 6
    assert max(after - before for before, after in pairwise(sizes)) < 64
    (back,) = shelf.read(shelf.write(turn(6)))
    assert back.event.input == {"messages": messages}  # type: ignore[union-attr]


def test_a_body_is_compressed_where_that_gains() -> None:
    """Short bodies stay as they are."""
    rows = freeze([{"name": f"row {number}", "value": number} for number in range(100)])
    assert pack(SignalReceived("s", rows, 1)).flags == FLAG_ZSTD
    assert pack(SignalReceived("s", "short", 1)).flags == 0
    assert pack(SignalReceived("s", random.Random(1).randbytes(900), 1)).flags == 0  # noqa: S311


def test_an_event_that_is_too_large_is_refused_before_it_is_written() -> None:
    """The error names the field that makes it so."""
    numbers = freeze(list(range(2**32, 2**32 + MAX_BODY // 9 + 1)))
    change = (Op("set", ("small",), 1), Op("set", ("big", "list"), numbers))
    with pytest.raises(NotPlainData, match="the limit is 16,777,216") as caught:
        pack(Transitioned("a", "b", change=change))
    assert caught.value.path == "big.list"
    with pytest.raises(NotPlainData, match=r"^the value makes an event"):
        pack(SignalReceived("s", numbers, 1))


def test_values_that_are_too_large_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an event refers to is bounded when it is written and when it is read."""
    shelf = Shelf()
    stored = shelf.write(SignalReceived("s", freeze([LONG] * 10), 1))
    monkeypatch.setattr(reading, "MAX_REFERRED", 10 * len(LONG))
    shelf.read(stored)
    for place in (codec, reading):
        monkeypatch.setattr(place, "MAX_REFERRED", 10 * len(LONG) - 1)
    with pytest.raises(Corrupt, match="more than any writer"):
        shelf.read(stored)
    with pytest.raises(NotPlainData, match="makes an event"):
        shelf.write(SignalReceived("s", freeze([LONG] * 10), 1))


def test_the_deepest_plain_value_is_written_and_read() -> None:
    """No bound of the codec is below the bound on state."""
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    for event in (SignalReceived("s", freeze(deep), 1), EffectFinished("e", "1", freeze(deep))):
        assert read_one(Shelf().write(event)) == event
    change = (Op("set", ("a", "b"), freeze(deep[0][0])),)
    assert read_one(Shelf().write(Transitioned("a", "b", change=change))) == Transitioned("a", "b", change=change)


# --- older formats -------------------------------------------------------------------------------------------------


def older(event: Event) -> Stored:
    """An event of a format that never was: without an epoch, its node called a place."""
    array = decode(Shelf().write(event).data, "a test")
    header = {("place" if key == "node" else key): value for key, value in array[8].items()}
    return Stored(3, encode([0, *array[1:5], *array[6:8], header, *array[9:]]))


def upcast(array: list[Any]) -> list[Any]:
    """That format's array as one of format 1."""
    header = {("node" if key == "place" else key): value for key, value in array[7].items()}
    return [1, *array[1:5], 0, *array[5:7], header, *array[8:]]


def test_older_bytes_are_read_through_an_upcaster_and_keep_their_digest() -> None:
    """Nothing is rewritten: the chain still holds."""
    event = Transitioned("a", "b", change=(Op("set", ("x",), 0),))
    stored = older(event)
    for strict in (True, False):
        (back,) = read_events([stored], Shelf().fetch, strict=strict, upcasters={0: upcast})
        assert (back.event, back.epoch, back.version, back.digest) == (event, 0, 7, digest(stored.data))
    with pytest.raises(Corrupt, match="format 0"):
        read_one(stored)


def test_upcasters_are_taken_one_after_another() -> None:
    """Format n goes through n+1 up to today's."""
    array = decode(older(RunFailed("a", FAILURE)).data, "a test")
    stored = Stored(3, encode([-1, "odd", *array[1:]]))
    chain = {-1: lambda value: [0, *value[2:]], 0: upcast}
    (back,) = read_events([stored], Shelf().fetch, upcasters=chain)
    assert back.event == RunFailed("a", FAILURE)
    with pytest.raises(Corrupt):
        read_events([stored], Shelf().fetch, upcasters={-1: chain[-1]})


@pytest.mark.parametrize(
    "broken", [lambda _: [], lambda _: [1], lambda _: [0] * 11, lambda array: array[99], lambda array: array[0].x or 1]
)
def test_an_upcaster_that_meets_garbage_gives_an_error_of_ours(broken: Any) -> None:
    """Old bytes may be damaged too."""
    if broken.__code__.co_names == ("x",):
        broken = lambda array: array + 1  # noqa: E731
    with pytest.raises(Corrupt):
        read_events([older(RunPaused())], Shelf().fetch, upcasters={0: broken})

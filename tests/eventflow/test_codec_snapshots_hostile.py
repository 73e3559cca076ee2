"""Snapshots that are newer, damaged or hostile: an error of ours, whatever they are."""

from __future__ import annotations

import random
from typing import Any

import pytest
from snapshot_shelf import BRANCHES, DEFINITION, EFFECT, LONG, WAIT, Shelf, equal, long_list

from eventflow.codec import (
    decode,
    encode,
    pack_blob,
    pack_state,
    piece_names,
    unpack_state,
)
from eventflow.errors import Corrupt, EventflowError, WrittenByNewer
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    Failure,
    NodeSkipped,
    Recorded,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSuspended,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import MAX_DEPTH, FrozenDict, FrozenList, freeze
from eventflow.proof import digest
from eventflow.state import STATUSES, WAITS, Caller, Identity, Parent, State, evolve, open_waits, status_after


def state_of(data: Any, **more: Any) -> State:
    """A state that holds data, and a bit of everything else."""
    identity = Identity(
        "run-1", b"k" * 16, 1, b"s" * 16, "flow", b"d" * 32, DEFINITION, b"i" * 32, FrozenList(["tag"]), "person", 5,
        Parent("run-0", b"p" * 16, 2, 9), Caller("run-9", b"c" * 16), 999, freeze({"tokens": 5, "cost": 0.5}),
        freeze({"deny": ["pay"], "live": ["*"], "mock": {"mail": LONG}, "recorded": {"run": b"p" * 16, "last": 20, "first": 1}}),
    )  # fmt: skip
    standing: dict[str, Any] = {
        "waiting_for": "retry", "line": 10, "attempt": 2, "retry_at": 99, "error": Failure("E", LONG, "x.py:1", retryable=False),
        "effects": freeze({"pay#1": EFFECT}), "signals": freeze([{"name": "s", "payload": LONG, "message": 0}]),
        "usage": freeze({"tokens": 5, "cost": 0.5}), "steps": 3, "branches": BRANCHES,
        "undo": freeze([{"at": 9, "by": "refund", "key": "1", "name": "pay", "branch": ""}]),
        "undoing": freeze({"actor": "me", "why": LONG, "ending": "failed", "error": ["E", LONG, "", False]}),
        "reuse": freeze({"a/pay#1/00": [7, 9]}),
    }  # fmt: skip
    frozen = data if isinstance(data, FrozenDict) else freeze(data)
    return State(identity, 12, b"x" * 32, 1_000, 3, "waiting", "a", 11, frozen, **{**standing, **more})


# --- what is refused -----------------------------------------------------------------------------------------------


FIELDS = 38  # the data, and where the run stands


def spoiled(root: Any) -> bytes:
    """A stored root of any value, uncompressed."""
    return b"\x00" + encode(root)


def parts(state: State) -> tuple[list[Any], Shelf]:
    """A state's root as the value it encodes, and its blobs."""
    shelf = Shelf()
    return decode(shelf.write(pack_state(state, compress=False))[1:], "here"), shelf


def refused(root: bytes, shelf: Shelf | None = None) -> EventflowError:
    """The error that a stored root is refused with."""
    with pytest.raises((Corrupt, WrittenByNewer)) as caught:
        unpack_state(root, (shelf or Shelf()).fetch, "here")
    return caught.value


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x03",
        b"\xff",
        b"\x00",
        b"\x01",
        b"\x01junk",
        b"\x00\xff",
        b"\x00\x80",
        b"\x00\xa0",
        b"\x00\xf6",
        b"\x00\x81\x01",
    ],
)
def test_what_is_no_root_is_refused(stored: bytes) -> None:
    """Empty, damaged or of another form."""
    assert isinstance(refused(stored), Corrupt)
    with pytest.raises(Corrupt):
        piece_names(stored, Shelf().fetch)


@pytest.mark.parametrize("number", range(1, FIELDS))
@pytest.mark.parametrize(
    "odd",
    [None, True, -1, 0.5, "text", b"bytes", [], {}, [1, 2, 3, 4], {"a": 1}, 2**64 - 1, ["a", b"k", 1, "x"]],
    ids=str,
)
def test_a_field_of_another_type_is_refused(number: int, odd: Any) -> None:
    """Each field is what it is, or optional, or the snapshot is not read."""
    (form, values, refs, cuts), shelf = parts(state_of({}))
    refs = [ref for ref in refs if ref[0][0] != number]
    values[number] = odd
    root = spoiled([form, values, refs, cuts])
    try:
        state, _ = unpack_state(root, shelf.fetch, "here")
    except (Corrupt, WrittenByNewer):
        return
    assert equal(shelf.back(pack_state(state)), state)


def test_what_is_newer_is_not_guessed() -> None:
    """A format, a field, a status or a wait that this version does not know stops the reader."""
    (_, values, refs, cuts), shelf = parts(state_of({}))
    assert isinstance(refused(spoiled([2, values, refs, cuts]), shelf), WrittenByNewer)
    assert isinstance(refused(spoiled([1, [*values, 5], refs, cuts]), shelf), WrittenByNewer)
    for place, number in ((17, len(STATUSES)), (20, len(WAITS))):
        newer = [*values[:place], number, *values[place + 1 :]]
        assert isinstance(refused(spoiled([1, newer, refs, cuts]), shelf), WrittenByNewer)
    for form in (0, -1, True, "1", None):
        assert isinstance(refused(spoiled([form, values, refs, cuts]), shelf), Corrupt)
    for other in (
        [1, values[:-1], refs, cuts],
        [1, values, refs],
        [1, values, refs, cuts, []],
        [1, values, {}, cuts],
        [1, values, refs, None],
    ):
        assert isinstance(refused(spoiled(other), shelf), Corrupt)


@pytest.mark.parametrize(
    "cut",
    [
        None, 5, [], [["l"]], [["l"], []], [[], [b"d" * 32]], [["l"], ["d" * 32]], [["l"], [b"short"]], [[0], [b"d" * 32]], ["l", [b"d" * 32]],
        [["l"], b"d" * 32], [["l"], [b"d" * 32], 1], {"l": []},
    ],
    ids=str,
)  # fmt: skip
def test_pieces_named_in_another_form_are_refused(cut: Any) -> None:
    """Paths are of keys, names are digests."""
    (form, values, refs, _), shelf = parts(state_of({"l": [1]}))
    assert isinstance(refused(spoiled([form, values, refs, [cut]]), shelf), Corrupt)


@pytest.mark.parametrize(
    "path", [["x"], ["n"], ["t"], ["d"], ["none"], ["d", "x"], ["l", "0"], ["n", "x"], ["l", "l"], ["blob"]]
)
def test_pieces_of_a_list_that_is_not_there_are_refused(path: list[str]) -> None:
    """Text is not continued, dicts are not made."""
    state = state_of({"l": [1], "n": 1, "t": "text", "d": {}, "none": None, "blob": LONG})
    (form, values, refs, _), shelf = parts(state)
    name = digest(encode([[1], []]))
    shelf.rows[name] = pack_blob(encode([[1], []]))
    assert isinstance(refused(spoiled([form, values, refs, [[path, [name]]]]), shelf), Corrupt)


@pytest.mark.parametrize(
    "piece",
    [
        5,
        [],
        [[1]],
        [[1], 5],
        [[1], [5]],
        [{}, []],
        [[1], [], []],
        [[1], [[[0], b"d" * 32, 0]]],
        [[None], [[[1], b"d" * 32, 0]]],
    ],
    ids=str,
)
def test_a_piece_of_another_form_is_refused(piece: Any) -> None:
    """What is in a piece is checked like the root."""
    (form, values, refs, _), shelf = parts(state_of({"l": [1]}))
    data = encode(piece)
    shelf.rows[digest(data)] = pack_blob(data)
    shelf.rows[b"d" * 32] = pack_blob(LONG.encode())
    root = spoiled([form, values, refs, [[["l"], [digest(data)]]]])
    assert isinstance(refused(root, shelf), Corrupt)


def test_a_snapshot_that_lacks_a_piece_or_a_value_is_refused() -> None:
    """Every blob counts."""
    packed = pack_state(
        state_of({"l": [f"{number}{LONG}" for number in range(300)], "n": long_list(700), "t": LONG + "!"})
    )
    for blob in packed.blobs:
        shelf = Shelf()
        root = shelf.write(packed)
        del shelf.rows[blob.digest]
        assert isinstance(refused(root, shelf), Corrupt)


def test_data_deeper_than_a_writer_makes_are_refused() -> None:
    """In the root, and in pieces that stand deep."""
    deep: Any = []
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    (form, values, refs, _), shelf = parts(state_of({"l": []}))
    values[0] = {"l": [deep]}
    assert isinstance(refused(spoiled([form, values, refs, []]), shelf), Corrupt)
    data = encode([[deep], []])
    shelf.rows[digest(data)] = pack_blob(data)
    values[0] = {"l": []}
    assert isinstance(refused(spoiled([form, values, refs, [[["l"], [digest(data)]]]]), shelf), Corrupt)


def test_spoiled_roots_give_states_or_errors_of_ours() -> None:
    """Bytes changed at random, in the root and in what it decodes to."""
    dice = random.Random(5)  # noqa: S311
    shelf = Shelf()
    packed = pack_state(state_of({"l": long_list(900), "t": LONG, "d": {"x": [LONG]}}), compress=False)
    root = shelf.write(packed)
    for _ in range(1_500):
        array = bytearray(root)
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(min(len(array), 1_200))
            array[place : place + dice.randint(0, 2)] = dice.randbytes(dice.randint(0, 2))
        for read in (unpack_state, lambda data, fetch, _: piece_names(data, fetch)):
            try:
                read(bytes(array), shelf.fetch, "here")
            except EventflowError:
                continue


ODD: list[Any] = [
    None, True, 0, -1, 2, 2**63, 2**64 - 1, 0.5, "", "a", "web", "waiting", "finished", b"", b"k" * 16, [], {}, [1], [[]], {"a": 1},
    {"status": "waiting"}, {"status": "finished"}, {"status": 5}, {"name": "go"}, ["E", "m", "", True], {"": {"0": {}}},
]  # fmt: skip


def mutated_tree(value: Any, dice: random.Random) -> Any:
    """A decoded value with one part exchanged, dropped or added somewhere inside."""
    if isinstance(value, list | dict) and value and dice.random() < 0.85:
        copy = list(value) if isinstance(value, list) else dict(value)
        key = dice.randrange(len(value)) if isinstance(value, list) else dice.choice(list(value))
        move = dice.random()
        if move < 0.15:
            del copy[key]
        elif move < 0.2 and isinstance(copy, dict):
            copy[dice.choice(["a", "wait", "result", "0", "output"])] = dice.choice(ODD)
        else:
            copy[key] = mutated_tree(copy[key], dice)
        return copy
    return dice.choice(ODD)


FAILURE = Failure("E", "no")
FOLLOWING: list[Event] = [
    AttemptFailed("a", 1, FAILURE, 9), AttemptFailed("a", 1, FAILURE, 9, "2"), WaitClosed("a", "signal", 0, "3"),
    WaitOpened("a", "timer", until=9, branch="2"), WaitOpened("a", "timer"), WaitClosed("a", "signal", 1), BranchFinished("a", "2", 1),
    BranchFinished("a", "3"), BranchFailed("a", "2", FAILURE), BranchesOpened("a", FrozenList(["x"])), SignalReceived("s", 1, 1),
    SignalRefused(0), EffectStarted("pay", "1", "undo", True, None, b"i" * 32, "ef"), EffectFinished("pay", "1", 5, reused=7),
    EffectFailed("pay", "1", FAILURE), EffectRejected("pay", "1"), RunResumed("a", b"d" * 32), RunResumed("a", b"d" * 32, to="b"),
    RunPaused(), RunSuspended("a"), RunFailed("a", FAILURE), UndoBegan("a", "failed"), NodeSkipped("a"), Transitioned("a", "a"),
]  # fmt: skip


def test_what_is_read_from_a_spoiled_snapshot_can_be_folded() -> None:
    """Where the run stands changed at random: an error of ours, or a state that every event follows or is refused by."""
    dice = random.Random(11)  # noqa: S311
    whole, read = [], 0
    wait = freeze({**WAIT, "spec": {}})
    for more in ({}, {"branches": None, "wait": wait}, {"branches": None, "undoing": None}):
        (form, values, refs, cuts), shelf = parts(state_of({}, error=None, **more))
        whole.append((form, values, refs, cuts, shelf))
    for _ in range(3_000):
        form, values, refs, cuts, shelf = dice.choice(whole)
        number = dice.randrange(12, FIELDS)
        values = [*values[:number], mutated_tree(values[number], dice), *values[number + 1 :]]
        try:
            state, _ = unpack_state(spoiled([form, values, refs, cuts]), shelf.fetch, "here")
        except EventflowError:
            continue
        read += 1
        open_waits(state)
        for event in dice.choices(FOLLOWING, k=8):
            version = state.version + 1
            place = Recorded(event, b"k" * 16, 1, version, version, 1, 9, b"x" * 32, b"b" * 32)
            try:
                told = status_after(state, event)
                state = evolve(state, place)
            except EventflowError:
                continue
            assert told == (state.status, state.waiting_for)
            pack_state(state)
    assert 100 < read < 2_900


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("effects", {"pay#1": {**EFFECT, "status": "gone"}}), ("effects", {"pay#1": {**EFFECT, "output": 1, "status": "started"}}),
        ("effects", {"pay#1": {key: EFFECT[key] for key in EFFECT if key != "kind"}}), ("effects", {"pay#1": {**EFFECT, "undo": 5}}),
        ("signals", [{"name": "s", "message": 0}]), ("signals", [5]), ("usage", {"tokens": "5"}), ("wait", {**WAIT, "kind": "retry"}),
        ("wait", {**WAIT, "kind": "war"}), ("wait", {**WAIT, "more": 1}), ("undo", [{"at": 1}]), ("undo", [None]),
        ("undoing", {"ending": "failed"}), ("undoing", {"ending": "completed", "error": None, "actor": "", "why": ""}),
        ("undoing", {"ending": "failed", "error": ["E"], "actor": "", "why": ""}), ("reuse", {"k": 5}), ("reuse", {"k": ["5"]}),
        ("branches", {**BRANCHES, "left": 3}), ("branches", {**BRANCHES, "standing": 2}), ("branches", {}),
    ],
    ids=lambda one: str(one)[:50],
)  # fmt: skip
def test_a_part_of_another_form_is_refused(field: str, value: Any) -> None:
    """Down to what a branch, a call, a wait and a message are made of."""
    (form, values, refs, cuts), shelf = parts(state_of({}, **{field: freeze(value)}))
    assert isinstance(refused(spoiled([form, values, refs, cuts]), shelf), Corrupt)

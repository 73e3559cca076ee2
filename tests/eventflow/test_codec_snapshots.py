"""States as bytes: a function of the state alone, and back."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import pytest
from snapshot_shelf import BRANCHES, DEFINITION, EFFECT, LONG, WAIT, Shelf, equal, long_list

from eventflow.change import Op, apply, resolve
from eventflow.codec import (
    decode,
    pack_state,
    state_digest,
)
from eventflow.codec.snapshots import LARGEST_PIECE, SMALLEST_PIECE, piece_size
from eventflow.event import Failure
from eventflow.plain import EMPTY, MAX_DEPTH, NOTHING, ROPE_FROM, FrozenDict, FrozenList, Rope, freeze, raw, thaw
from eventflow.state import STATUSES, WAITS, Caller, Identity, Parent, State

POLICY = freeze(
    {"deny": ["pay"], "live": ["*"], "mock": {"mail": LONG}, "recorded": {"run": b"p" * 16, "last": 20, "first": 10}}
)


def state_of(data: Any, **more: Any) -> State:
    """A state that holds data, and a bit of everything else."""
    identity = Identity(
        "run-1", b"k" * 16, 1, b"s" * 16, "flow", b"d" * 32, DEFINITION, b"i" * 32, FrozenList(["tag"]), "person", 5,
        Parent("run-0", b"p" * 16, 2, 9), Caller("run-9", b"c" * 16), 999, freeze({"tokens": 5, "cost": 0.5}),
        POLICY,
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


# --- there and back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {}, {"falsy": [0, 0.0, -0.0, "", b"", None, False, [], {}]}, {"t": LONG, "b": b"\x00" * 3_000, "d": {"e": {"t": LONG}}},
        {"l": long_list(3)}, {"l": long_list(2_000)}, {"d": {"e": long_list(2_000)}, "l": long_list(1_500)}, {"l": [LONG] * 50},
        {"l": [{"t": f"{number}{LONG}", "x": [None, LONG]} for number in range(1_500)]}, {"l": [[long_list(600)], [LONG]]},
        {"same": long_list(900), "again": long_list(900)}, {"short": list(range(ROPE_FROM - 1)), "long": list(range(ROPE_FROM))},
        {"é": {"zz": long_list(700), "ü": long_list(700, 150)}, "zz": 1, "wide": [("x" * 999 + str(number)) for number in range(200)]},
        {"one": ["x" * 900 * 40]}, {"huge": [{"l": list(range(20_000))}] * 3},
    ],
    ids=lambda data: "-".join(data) or "empty",
)  # fmt: skip
@pytest.mark.parametrize("compress", [True, False])
def test_a_state_comes_back_as_it_was(data: Any, compress: bool) -> None:  # noqa: FBT001
    """Falsy, long, nested and wide data, lists over several pieces and with blobs in them, all else included."""
    state = state_of(data)
    back = Shelf().back(pack_state(state, compress=compress))
    assert equal(back, state)
    assert back == state
    assert pack_state(back, compress=compress).digest == state_digest(state)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("waiting_for", WAITS)
def test_every_status_comes_back(status: Any, waiting_for: Any) -> None:
    """By its number, which is the format's."""
    state = state_of({}, waiting_for=waiting_for)
    state = replace(
        state,
        status=status,
        error=None,
        effects=EMPTY,
        signals=NOTHING,
        usage=EMPTY,
        branches=None,
        undoing=None,
        run=replace(state.run, parent=None, subject=None, caller=None),
    )
    assert equal(Shelf().back(pack_state(state)), state)


def test_the_deepest_state_comes_back() -> None:
    """And the deepest output of an effect, and the deepest message."""
    deep: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deep = {"k": deep}
    entry = FrozenDict({**EFFECT, "output": freeze([deep])})
    signal = freeze({"name": "s", "message": 1, "payload": 1})
    state = state_of(
        {"d": deep},
        effects=FrozenDict({"e#1": entry}),
        signals=FrozenList([signal, FrozenDict({**signal, "payload": freeze([deep])})]),
    )
    assert equal(Shelf().back(pack_state(state)), state)


def test_a_state_that_was_read_shares_what_it_can_with_the_next_snapshot() -> None:
    """Closed pieces are written once, by whoever wrote them first."""
    shelf = Shelf()
    state = state_of({"l": long_list(3_000)})
    first = pack_state(state)
    back = shelf.back(first)
    again = pack_state(replace(back, version=13))
    assert not [blob for blob in again.blobs if blob.size > SMALLEST_PIECE]
    assert len(again.known) >= 5
    shelf.write(again)


# --- a function of the state alone ---------------------------------------------------------------------------------


def grown_step_by_step(items: list[Any], step: int) -> FrozenDict:
    """Data whose list was extended again and again, a snapshot taken every few steps."""
    data = freeze({"l": []})
    for start in range(0, len(items), step):
        data = apply(data, resolve(data, {"l": [*data["l"], *items[start : start + step]]}, {}))
        if start // step % 3 == 0:
            pack_state(state_of(data))
    return data


@pytest.mark.parametrize(
    "items",
    [long_list(2_000), [f"{number}{LONG}" for number in range(600)], list(range(9_000))],
    ids=["dicts", "blobs", "numbers"],
)
def test_the_bytes_do_not_depend_on_how_the_state_came_about(items: list[Any]) -> None:
    """Set at once, grown by one or by many, forked from a longer one, read back, as a list or as a rope: one digest."""
    shelf = Shelf()
    whole = state_of({"l": items})
    expected = pack_state(whole)
    longer = grown_step_by_step(items, 211)
    longer = apply(longer, (Op("extend", ("l",), freeze(["more"] * 600)),))
    pack_state(state_of(longer))
    prefix = FrozenDict({"l": Rope(raw(longer, "l")._backing, len(items), raw(longer, "l").pieces)})
    histories = [
        state_of(grown_step_by_step(items, 97)), state_of(grown_step_by_step(items, 1_000)), state_of(prefix),
        state_of(FrozenDict({"l": Rope.of(freeze(items))})), shelf.back(expected), state_of(FrozenDict({"l": freeze(items)})),
    ]  # fmt: skip
    for state in histories:
        assert state_digest(state) == expected.digest
        packed = pack_state(state)
        assert (packed.digest, packed.size) == (expected.digest, expected.size)
        assert pack_state(state, anew=True).digest == expected.digest
        assert equal(state, whole)


def test_the_bytes_do_not_depend_on_the_order_of_keys() -> None:
    """Even of a state that somebody put together in another order."""
    dice = random.Random(3)  # noqa: S311
    items = {f"k{number}": [f"{number}{LONG}"] * 30 for number in range(12)}
    digests = set()
    for _ in range(5):
        keys = list(items)
        dice.shuffle(keys)
        inner = [FrozenDict({key: LONG + key for key in keys})] * 200
        long = {key: freeze(long_list(500)) for key in keys[:6]} | {key: freeze(long_list(500)) for key in keys[6:]}
        data = FrozenDict(
            {**{key: freeze(items[key]) for key in keys}, "l": FrozenList(inner), "long": FrozenDict(long)}
        )
        digests.add(state_digest(state_of(data)))
    assert len(digests) == 1


@pytest.mark.parametrize("name", [field.name for field in fields(State)])
def test_every_part_of_a_state_counts(name: str) -> None:
    """Two states that differ anywhere have two digests."""
    state = state_of({"a": 1})
    others: dict[str, Any] = {
        "run": replace(state.run, run_id="run-2"), "version": 13, "digest": b"y" * 32, "time": 1_001, "epoch": 4, "status": "running",
        "node": "b", "visit": 10, "data": freeze({"a": True}), "waiting_for": "", "line": 0, "attempt": 1, "retry_at": 0, "error": None,
        "effects": EMPTY, "signals": NOTHING, "usage": freeze({"tokens": 5, "cost": 0.25}),
        "wait": WAIT, "steps": 4, "branches": None, "undo": NOTHING, "undoing": None, "reuse": EMPTY,
    }  # fmt: skip
    assert state_digest(replace(state, **{name: others[name]})) != state_digest(state)


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_every_part_of_an_identity_counts(name: str) -> None:
    """And so do two that differ in what the run is."""
    state = state_of({})
    value = getattr(state.run, name)
    other = (
        None
        if value is None or isinstance(value, Parent | Caller)
        else value[:0]
        if isinstance(value, str | bytes | list)
        else None
    )
    if isinstance(value, int):
        other = value + 1
    if name in ("definition", "budget", "policy"):
        other = EMPTY
    assert state_digest(replace(state, run=replace(state.run, **{name: other}))) != state_digest(state)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), ("", None), ([], {}), (b"a", "a"), ([LONG], [LONG.encode()])]
)
def test_values_of_other_types_have_other_digests(one: Any, other: Any) -> None:
    """Sameness is that of the bytes."""
    assert state_digest(state_of({"v": one})) != state_digest(state_of({"v": other}))


# --- pieces --------------------------------------------------------------------------------------------------------


def test_a_growing_list_costs_its_new_items() -> None:
    """A snapshot writes closed pieces once: the next one writes the tail and what has closed since."""
    shelf, data, written = Shelf(), freeze({"l": long_list(4_000)}), []
    data = FrozenDict({"l": Rope.of(data["l"])})
    for number in range(10):
        data = apply(data, (Op("extend", ("l",), freeze(long_list(20))),))
        packed = pack_state(state_of(data), compress=False)
        written.append(len(shelf.write(packed)) + sum(len(blob.stored) for blob in packed.blobs))
        assert packed.size > 400_000, number
    assert written[0] > 400_000
    assert max(written[1:]) < 2 * LARGEST_PIECE


def test_pieces_are_of_the_size_of_their_number() -> None:
    """Small pieces come first, then larger ones, however short or long an item is."""
    for items in (list(range(60_000)), long_list(3_000), ["x" * 999] * 400, ["é" * 990] * 400):
        packed = pack_state(state_of({"l": items}, effects=EMPTY, signals=NOTHING, error=None), compress=False)
        ((_, names),) = decode(packed.root[1:], "here")[3]
        sizes = {blob.digest: blob.size for blob in packed.blobs}
        assert len(names) >= 3
        for number, name in enumerate(names):
            assert piece_size(number) * 0.7 < sizes[name] < piece_size(number) * 1.5 + 1_000
        assert len(packed.root) < 1.1 * piece_size(len(names)) + 40 * len(names) + 1_000


def test_piece_sizes_double_until_the_largest() -> None:
    """The tail of a list stays in proportion to the list."""
    assert [piece_size(number) for number in (0, 7, 8, 15, 16, 24, 31, 32, 1_000)] == [
        4_000, 4_000, 8_000, 8_000, 16_000, 32_000, 32_000, 64_000, 64_000,
    ]  # fmt: skip


def test_references_count_for_where_a_piece_ends() -> None:
    """A piece of long texts does not hold thousands of references."""
    packed = pack_state(state_of({"l": [f"{number}{LONG}" for number in range(3_000)]}), compress=False)
    ((path, names),) = decode(packed.root[1:], "here")[3]
    assert path == ["l"]
    assert len(names) >= 3


def test_packing_anew_packs_every_piece() -> None:
    """A log that lost pieces that were taken for written is given all of them."""
    state = state_of(FrozenDict({"l": Rope.of(freeze(long_list(3_000)))}))
    first = pack_state(state)
    assert first.known == ()
    second = pack_state(state)
    assert {*second.known} < {blob.digest for blob in first.blobs}
    anew = pack_state(state, anew=True)
    assert anew.known == ()
    assert {blob.digest for blob in anew.blobs} == {blob.digest for blob in first.blobs}
    assert first.size == second.size == anew.size
    assert first.root == second.root == anew.root
    Shelf().back(anew)


def test_a_digest_takes_nothing_for_written() -> None:
    """Asking for a state's digest must not make the next snapshot leave pieces out."""
    state = state_of(FrozenDict({"l": Rope.of(freeze(long_list(3_000)))}))
    state_digest(state)
    packed = pack_state(state)
    assert packed.known == ()
    Shelf().back(packed)


@pytest.mark.parametrize("packed_before", [True, False])
def test_a_shorter_version_does_not_take_a_longer_ones_pieces(packed_before: bool) -> None:  # noqa: FBT001
    """Versions share what is known of their common beginning only, whichever is packed first."""
    shelf = Shelf()
    short = Rope.of(freeze(long_list(800)))
    long = short.grown(freeze(long_list(1_000)))
    if packed_before:
        shelf.write(pack_state(state_of(FrozenDict({"l": long}))))
    other = short.grown(freeze([{"other": number} for number in range(6_000)]))
    for rope in (long, short, other, long, short):
        state = state_of(FrozenDict({"l": rope}))
        assert equal(shelf.back(pack_state(state)), state)
        assert pack_state(state).digest == state_digest(state_of({"l": thaw(rope)}))


def test_what_a_snapshot_wrote_is_known_to_versions_that_grew_meanwhile() -> None:
    """A snapshot is packed beside the run, which goes on; the next one still writes its new pieces only."""
    shelf = Shelf()
    older = Rope.of(freeze(long_list(1_500)))
    newer = older.grown(freeze(["meanwhile"]))
    shelf.write(pack_state(state_of(FrozenDict({"l": older}))))
    packed = pack_state(state_of(FrozenDict({"l": newer})))
    assert len(packed.known) >= 4
    assert not [blob for blob in packed.blobs if blob.size > SMALLEST_PIECE]


def test_equal_lists_share_their_pieces() -> None:
    """Pieces are named by what is in them; each list is whole on its own."""
    data = {"a": [{"t": LONG, "x": None}] * 3_000, "b": {"c": [{"t": LONG, "x": None}] * 3_000}}
    packed = pack_state(state_of(data))
    pieces = [blob for blob in packed.blobs if blob.size > SMALLEST_PIECE]
    assert len({blob.digest for blob in pieces}) < len(pieces)
    back = Shelf().back(packed)
    assert back.data == data
    assert raw(back.data, "a")._backing is not raw(raw(back.data, "b"), "c")._backing

"""Laws of the codec: what is written is read, what is read is written, and bytes depend on values alone."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.change import Op, apply
from eventflow.codec import Place, Stored, pack, pack_state, read_events, seal, state_digest, unpack_blob, unpack_state
from eventflow.event import Event, Failure, Vouch
from eventflow.plain import MAX_INT, MIN_INT, FrozenDict, Rope, freeze, raw_items, same
from eventflow.proof import digest
from eventflow.state import STATUSES, WAITS, Caller, Identity, Parent, State

LONG = st.sampled_from(["long " * 250, "QUJD" * 400, "é" * 1_100]) | st.sampled_from([b"\x00" * 1_200, b"long" * 300])
TEXT = st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(MIN_INT, MAX_INT) | st.floats() | TEXT | st.binary(max_size=8) | LONG
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=10
).map(lambda value: freeze({"v": value})["v"])
DICTS = st.dictionaries(TEXT, VALUES, max_size=4).map(freeze)
NUMBERS = st.integers(0, 2**63 - 1)
FAILURES = st.builds(Failure, TEXT, TEXT | st.just("long " * 300), TEXT, st.booleans())
PATHS = st.lists(TEXT, min_size=1, max_size=4).map(tuple)
CHANGES = st.lists(
    st.builds(Op, st.sampled_from(["set", "extend", "merge", "add"]), PATHS, VALUES)
    | st.builds(Op, st.just("delete"), PATHS, st.none()),
    max_size=4,
).map(tuple)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT, "str | None": st.none() | TEXT, "bytes": st.binary(max_size=32), "int": NUMBERS, "bool": st.booleans(), "Any": VALUES,
    "FrozenDict": DICTS, "FrozenDict | None": st.none() | DICTS, "FrozenList": st.lists(VALUES, max_size=3).map(freeze), "Change": CHANGES,
    "FrozenList | None": st.none() | st.lists(VALUES, max_size=3).map(freeze),
    "Failure": FAILURES, "Failure | None": st.none() | FAILURES,
}  # fmt: skip


def facts(kind: type) -> st.SearchStrategy[Event]:
    """Facts of a kind, each field of its declared type."""
    return st.builds(kind, **{field.name: FIELDS[str(field.type)] for field in fields(kind)})


PLACES = st.builds(
    Place,
    st.binary(min_size=16, max_size=16),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.just(b"b" * 32),
)


def alike(one: Any, other: Any) -> bool:
    """Whether two facts or values are the same, type for type."""
    if type(one) is not type(other):
        return same(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if hasattr(type(one), "__dataclass_fields__"):
        return all(alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return same(one, other)


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_every_fact_comes_back_from_its_bytes(kind: type) -> None:
    """Whatever its fields hold and wherever it stands; written again it gives the same bytes."""

    @given(facts(kind), PLACES, st.none() | st.builds(Vouch, NUMBERS, st.binary(max_size=32)))
    @settings(max_examples=40, deadline=None)
    def law(event: Event, place: Place, vouch: Vouch | None) -> None:
        packed = pack(event, vouch=vouch)
        stored = seal(packed, place)
        rows = {blob.digest: unpack_blob(blob.stored, blob.digest) for blob in packed.blobs}
        (back,) = read_events([Stored(9, stored)], lambda names: {name: rows[name] for name in names}, strict=True)
        assert alike(back.event, event)
        assert back.vouch == vouch
        assert back.digest == digest(stored)
        assert Place(back.run_key, back.incarnation, back.version, back.epoch, back.time, back.before) == place
        assert seal(pack(back.event, vouch=back.vouch), place) == stored

    law()


IDENTITIES = st.builds(
    Identity, TEXT, st.binary(max_size=16), NUMBERS, st.binary(max_size=16), TEXT, st.binary(max_size=32), DICTS, st.binary(max_size=32),
    FIELDS["FrozenList"], st.none() | TEXT, NUMBERS, st.none() | st.builds(Parent, TEXT, st.binary(max_size=16), NUMBERS, NUMBERS),
    st.none() | st.builds(Caller, TEXT, st.binary(max_size=16)), NUMBERS,
    st.dictionaries(TEXT, NUMBERS | st.floats(), max_size=3).map(freeze),
)  # fmt: skip
PAD = freeze({"text": "x" * 400, "n": 1})  # a hundred of these go over more than one piece
ITEMS = st.tuples(st.lists(VALUES | st.just(PAD), min_size=1, max_size=6), st.sampled_from([1, 2, 150])).map(
    lambda parts: parts[0] * parts[1]
)
LISTS = st.dictionaries(TEXT, ITEMS.map(freeze) | ITEMS.map(lambda items: Rope.of(freeze(items))), max_size=3)
# Data whose lists go over several pieces, at the top and below, as lists and as ropes.
DATA = st.tuples(DICTS, LISTS, LISTS).map(
    lambda parts: FrozenDict({**dict(raw_items(parts[0])), **parts[1], "inner": FrozenDict(parts[2])})
)


def shaped(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[FrozenDict]:
    """Maps of these fields."""
    return st.fixed_dictionaries(parts).map(freeze)


CALL = {
    "kind": TEXT, "attempt": NUMBERS, "version": NUMBERS, "mutating": st.booleans(), "input_digest": st.binary(max_size=32),
    "idempotency_key": TEXT,
}  # fmt: skip
ENTRIES = shaped(**CALL, status=st.just("finished"), output=VALUES, undo=TEXT) | shaped(
    **CALL, status=st.sampled_from(["started", "failed", "rejected"])
)
MESSAGES = st.lists(shaped(name=TEXT, message=NUMBERS, payload=VALUES), max_size=3).map(freeze)
WAIT = shaped(
    id=NUMBERS, kind=st.sampled_from(["signal", "human", "timer", "child", "unknown"]), name=TEXT, spec=DICTS, until=NUMBERS,
    opened=NUMBERS, restore=TEXT,
)  # fmt: skip
ERRORS = FAILURES.map(lambda one: freeze([one.type, one.message, one.where, one.retryable]))
BRANCH_ENTRIES = (
    shaped(status=st.just("finished"), result=VALUES) | shaped(status=st.just("failed"), error=ERRORS)
    | shaped(status=st.just("open"), attempt=NUMBERS, retry_at=NUMBERS) | shaped(status=st.just("waiting"), attempt=NUMBERS, wait=WAIT)
)  # fmt: skip


def as_branches(held: dict[str, FrozenDict], items: list[Any] | None) -> FrozenDict:
    """Branches of which these are not as at first, counted."""
    statuses = [one["status"] for one in held.values()]
    over = statuses.count("finished") + statuses.count("failed")
    named = [*held, "one more"] if items is None else []
    size = len(named) if items is None else len(items)
    of = {"": held} if held else {}
    return freeze({  # type: ignore[no-any-return]
        "of": of, "left": size - over, "items": items, "names": named, "standing": statuses.count("waiting"),
    })  # fmt: skip


BRANCHES = st.dictionaries(TEXT.filter(lambda name: name != "one more"), BRANCH_ENTRIES, max_size=3).map(
    lambda held: as_branches(held, None)
) | st.lists(st.tuples(VALUES, BRANCH_ENTRIES), max_size=3).map(
    lambda all_: as_branches(
        {str(place): one[1] for place, one in enumerate(all_)}, [*(one[0] for one in all_), "fresh"]
    )
)
UNDO = st.lists(shaped(at=NUMBERS, by=TEXT, key=TEXT, name=TEXT, branch=TEXT), max_size=2).map(freeze)
UNDOING = shaped(
    ending=st.sampled_from(["failed", "cancelled", "timed_out"]), error=st.none() | ERRORS, actor=TEXT, why=TEXT
)
REUSE = st.dictionaries(TEXT, st.lists(NUMBERS, max_size=2), max_size=2).map(freeze)
STATES = st.builds(
    State, IDENTITIES, NUMBERS, st.binary(max_size=32), NUMBERS, NUMBERS, st.sampled_from(STATUSES), TEXT, NUMBERS, DATA,
    st.sampled_from(WAITS), NUMBERS, NUMBERS, NUMBERS, st.none() | FAILURES, st.dictionaries(TEXT, ENTRIES, max_size=2).map(FrozenDict),
    MESSAGES, st.dictionaries(TEXT, NUMBERS | st.floats(), max_size=3).map(FrozenDict), st.none() | WAIT, NUMBERS,
    st.none() | BRANCHES, UNDO, st.none() | UNDOING, REUSE,
)  # fmt: skip


@given(STATES, st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_state_comes_back_from_its_snapshot(state: State, compress: bool) -> None:  # noqa: FBT001
    """With every part, whatever its lists hold; the digest is one, however it is packed and whoever packs it."""
    packed = pack_state(state, compress=compress)
    rows = {blob.digest: unpack_blob(blob.stored, blob.digest) for blob in packed.blobs}
    back, size = unpack_state(packed.root, lambda names: {name: rows[name] for name in names}, "a test")
    assert alike(back, state)
    assert size == packed.size
    assert packed.digest == state_digest(back) == state_digest(state) == pack_state(back, anew=True).digest
    assert pack_state(back).size == pack_state(back, anew=True).size == size


@given(ITEMS, st.lists(st.integers(1, 200), max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_grown_list_packs_like_a_given_one(items: list[Any], cuts: list[int]) -> None:
    """In however many steps it grew, and whatever snapshots were taken on the way."""
    identity = Identity("r", b"k", 1, b"s", "f", b"d", freeze({}), b"i", freeze([]), None, 1)
    data, taken = freeze({"l": []}), 0
    for cut in [*cuts, len(items)]:
        data = apply(data, (Op("extend", ("l",), freeze(items[taken : taken + cut])),))
        taken = min(taken + cut, len(items))
        pack_state(State(identity, 1, b"", 1, 1, "running", "a", 1, data))
    whole = State(identity, 1, b"", 1, 1, "running", "a", 1, freeze({"l": items}))
    grown = State(identity, 1, b"", 1, 1, "running", "a", 1, data)
    assert pack_state(grown).digest == pack_state(whole).digest
    assert pack_state(grown).size == pack_state(whole).size

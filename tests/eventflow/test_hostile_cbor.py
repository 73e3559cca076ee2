"""CBOR from anybody, wherever it is read: refused in a moment and in little memory, or plain data."""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import cbor2
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile_cbor import BELOW, FORMS, LONG_FORMS, PLACES, TRAILING, mutants, spoiled

from eventflow.codec import decode
from eventflow.errors import Corrupt, EventflowError

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
MUTANTS = 100_000 if FULL else 2_000
MOST_SECONDS = 0.05  # of processor time for one piece: a reader of thousands goes on
MOST_MEMORY = 64 << 20  # bytes
TRIES = 3  # of a piece that took too long: a busy machine takes a processor's caches away


def outcome(place: str, item: bytes) -> str:
    """Empty if an item is refused as it must be; what came of it otherwise."""
    try:
        value = PLACES[place][0](item)
    except EventflowError:
        return ""
    except BaseException as error:  # noqa: BLE001 - Rust's panics are among them
        return f"{type(error).__name__}: {error}"
    return f"taken: {value!r}"[:200]


def test_there_are_as_many_forms_as_are_known_to_hurt() -> None:
    """A list that can grow, and does not shrink."""
    assert len(FORMS) + len(LONG_FORMS) + len(TRAILING) + len(BELOW) >= 85


@pytest.mark.parametrize("name", [*FORMS, *BELOW])
def test_a_hostile_form_is_refused_wherever_it_stands(name: str) -> None:
    """By one of our errors: in events, snapshots, messages, exports, keys, backups."""
    item = {**FORMS, **BELOW}[name]
    if name in BELOW:  # plain data in two of the places, where a digest speaks for it
        assert not any(outcome(place, item) for place, (_, strict) in PLACES.items() if strict)
        return
    assert {place: found for place in PLACES if (found := outcome(place, item))} == {}


@pytest.mark.parametrize("name", [*LONG_FORMS, *TRAILING])
def test_another_form_of_plain_data_is_refused_where_no_digest_spoke_for_it(name: str) -> None:
    """What is no canonical CBOR is refused when it is read strictly, and is plain data at most elsewhere."""
    item = {**LONG_FORMS, **TRAILING}[name]
    for place, (_, strict) in PLACES.items():
        found = outcome(place, item)
        assert found == "" or (not strict and found.startswith("taken: ")), f"{place}: {found}"


def test_each_piece_takes_a_moment_and_little_memory(child: Any) -> None:
    """The worst of all forms at all places, in a process of their own: 50 ms of processor time and 64 MiB at most."""

    def worst() -> str:
        slow, large, before = ("", 0.0), ("", 0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for place in PLACES:
            for name, item in {**FORMS, **LONG_FORMS, **TRAILING}.items():
                taken = min(measured(place, item) for _ in range(TRIES if measured(place, item) > MOST_SECONDS else 1))
                slow = max(slow, (f"{name} as {place}", taken), key=lambda one: one[1])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (
            1 if sys.platform == "darwin" else 1024
        )
        tracemalloc.start()
        for place in PLACES:
            for name in (
                "keys that collide",
                "tag 2: a bignum of a megabyte",
                "a million lists in lists",
                "a list of 2^63",
            ):
                tracemalloc.reset_peak()
                outcome(place, FORMS[name])
                large = max(large, (f"{name} as {place}", tracemalloc.get_traced_memory()[1]), key=lambda one: one[1])
        return json.dumps([slow, large, grown])

    slow, large, grown = json.loads(child(worst).answer())
    assert slow[1] < MOST_SECONDS, slow
    assert large[1] < MOST_MEMORY, large
    assert grown < MOST_MEMORY


def measured(place: str, item: bytes) -> float:
    """Seconds of processor time that an item takes."""
    began = time.process_time()
    outcome(place, item)
    return time.process_time() - began


def test_the_decoder_with_its_defaults_takes_most_of_them() -> None:
    """The control: what the library builds when it is not told better."""
    taken = 0
    for item in FORMS.values():
        try:
            cbor2.loads(item)
            taken += 1
        except Exception:  # noqa: BLE001, S112 - anything at all
            continue
    assert taken > len(FORMS) / 3


@pytest.mark.slow
def test_no_mutant_gives_anything_but_plain_data_or_an_error_of_ours() -> None:
    """Sound bytes of each kind, spoiled: thousands of them, each read where it belongs."""
    dice = random.Random(8)  # noqa: S311 - a seed that can be repeated
    refused = 0
    for place, item in mutants(MUTANTS, dice):
        found = outcome(place, item)
        assert found == "" or found.startswith("taken: "), f"{place}: {item.hex()}: {found}"
        refused += not found
    assert MUTANTS / 2 < refused < MUTANTS


@pytest.mark.slow
def test_what_is_taken_strictly_is_what_would_be_written() -> None:
    """Whatever the bytes are: they are refused, or they are the canonical bytes of the value they give."""
    dice = random.Random(9)  # noqa: S311 - a seed that can be repeated
    whole = [item for item in {**FORMS, **LONG_FORMS}.values() if 0 < len(item) < 200]
    for _ in range(MUTANTS):
        item = spoiled(dice.choice(whole), dice)
        try:
            value = decode(item, "a test", strict=True)
        except Corrupt:
            continue
        assert cbor2.dumps(value, canonical=True) == item

"""Facts: a closed set of frozen values that hold plain data."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_args

import pytest

from eventflow import event as facts
from eventflow.event import Event, Failure, Recorded, RunEvent, RunPaused, StoreEvent, Transitioned, Vouch

PARTS = {Failure, Vouch, Recorded}
KINDS = sorted(get_args(Event), key=lambda kind: kind.__name__)
# What a field of a fact may be; the codec knows how to write these and no other.
TYPES = {
    "str", "str | None", "bytes", "int", "bool", "Any", "FrozenDict", "FrozenDict | None", "FrozenList", "FrozenList | None", "Change",
    "Failure", "Failure | None",
}  # fmt: skip


def test_the_set_of_facts_is_closed() -> None:
    """Every dataclass of the module is a part, or a fact of a run or of a store, and not of both."""
    classes = {
        kind for _, kind in inspect.getmembers(facts, is_dataclass) if kind.__module__.startswith(facts.__name__)
    }
    assert classes == {*KINDS, *PARTS}
    assert {*get_args(RunEvent)} | {*get_args(StoreEvent)} == {*KINDS}
    assert not {*get_args(RunEvent)} & {*get_args(StoreEvent)}


@pytest.mark.parametrize("kind", [*KINDS, *PARTS])
def test_a_fact_can_not_be_changed(kind: type) -> None:
    """Facts are frozen and have no room for more than their fields."""
    one = kind.__new__(kind)
    assert not hasattr(one, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(one, fields(kind)[0].name, "changed")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fact_holds_what_the_codec_can_write(kind: type) -> None:
    """A field of another type would be a fact that no log can hold."""
    assert {str(field.type) for field in fields(kind)} <= TYPES


def test_recorded_events_are_equal_whatever_their_size_on_disk() -> None:
    """The size is what storing took, not what happened."""
    one, other = (Recorded(RunPaused(), b"k", 1, 2, 3, 4, 5, b"d", b"b", None, size) for size in (10, 20))
    assert one == other
    assert one != Recorded(RunPaused("me"), b"k", 1, 2, 3, 4, 5, b"d", b"b")
    assert one != Recorded(RunPaused(), b"k", 1, 3, 3, 4, 5, b"d", b"b")


def test_facts_of_one_content_are_equal() -> None:
    """Facts are values."""
    assert Transitioned("a", "b") == Transitioned("a", "b", "done", ())
    assert Transitioned("a", "b") != Transitioned("a", "b", "failed")

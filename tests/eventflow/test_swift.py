"""Frozen dataclasses that are made quickly are the frozen dataclasses they were."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from eventflow.event import Transitioned
from eventflow.swift import swift


@dataclass(frozen=True, slots=True)
class Slow:
    """A fact as Python makes it."""

    one: int
    two: str = "2"
    three: object = field(default=None, compare=False)


@swift
@dataclass(frozen=True, slots=True)
class Quick:
    """The same, made quickly."""

    one: int
    two: str = "2"
    three: object = field(default=None, compare=False)


def test_what_is_made_is_what_was_asked_for():
    """Class, fields, defaults, text and comparison are those of the plain dataclass."""
    for args, more in (((1,), {}), ((1, "x"), {}), ((), {"one": 1, "three": 3}), ((1, "x", 3), {})):
        slow, quick = Slow(*args, **more), Quick(*args, **more)
        assert type(quick) is Quick
        assert repr(quick) == repr(slow).replace("Slow", "Quick")
        assert hash(quick) == hash(slow)
        assert quick == replace(quick, three="not compared")
    assert Quick(1) != Quick(2)
    assert inspect.signature(Quick) == inspect.signature(Slow)


def test_it_can_not_be_changed():
    """A field can't be set or deleted, and there is room for no other."""
    quick = Quick(1)
    for change in (lambda: setattr(quick, "one", 2), lambda: delattr(quick, "one")):
        with pytest.raises(FrozenInstanceError):
            change()
    with pytest.raises((AttributeError, TypeError)):
        quick.four = 4
    assert quick == Quick(1)


def test_wrong_arguments_are_refused():
    """As a function refuses them."""
    for args, more in (((), {}), ((1, 2, 3, 4), {}), ((1,), {"one": 1}), ((1,), {"four": 4})):
        with pytest.raises(TypeError, match="__init__"):
            Quick(*args, **more)


def test_copies_are_of_the_class():
    """Copied, pickled or replaced, it is a frozen one again."""
    fact = Transitioned("a", "b")
    for same in (copy.copy(fact), copy.deepcopy(fact), pickle.loads(pickle.dumps(fact)), replace(fact)):  # noqa: S301 - our own
        assert same == fact
        assert type(same) is Transitioned
        with pytest.raises(FrozenInstanceError):
            same.node = "c"  # type: ignore[misc]


def test_a_class_that_is_not_fit_for_it_is_refused():
    """One whose fields are made by a function, or that has no slots."""

    @dataclass(frozen=True)
    class Dicted:
        one: int

    @dataclass(frozen=True, slots=True)
    class Made:
        one: list[int] = field(default_factory=list)

    for cls in (Dicted, Made):
        with pytest.raises(TypeError, match="can't be made swiftly"):
            swift(cls)

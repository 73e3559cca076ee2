"""Frozen dataclasses that are made as quickly as open ones.

A frozen dataclass sets each field by a call of `object.__setattr__`, which for a state or an event takes five times as
long as to set them plainly. Every step makes several of them, and recovery makes several for each event it reads. Only the
making differs: what is made is the frozen dataclass it always was. Nothing here knows what a fact says.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields, make_dataclass
from inspect import signature
from typing import Any, TypeVar

T = TypeVar("T")


def swift(cls: type[T]) -> type[T]:
    """The same frozen, slotted dataclass, made more quickly; for one without subclasses, factories and keyword-only fields.

    While its fields are set, an instance is of an open subclass with the same slots; before anybody sees it, it becomes
    what was asked for, which Python lets an object do whose layout stays. Raises TypeError for a class not fit for that.
    """
    named: Any = cls
    every: tuple[Field[Any], ...] = fields(named)
    if any(one.default_factory is not MISSING or one.kw_only for one in every) or "__slots__" not in cls.__dict__:
        raise TypeError(
            f"{cls.__name__} can't be made swiftly: it has a default factory, keyword-only fields or no slots"
        )

    def shut(made: Any) -> None:
        made.__class__ = cls

    defaults = [field() if one.default is MISSING else field(default=one.default) for one in every]
    specs = [(one.name, one.type, default) for one, default in zip(every, defaults, strict=True)]
    setting: Any = make_dataclass(cls.__name__, specs, slots=True, namespace={"__post_init__": shut})
    opening = {
        "__slots__": (), "__init__": setting.__init__, "__post_init__": shut,
        "__setattr__": object.__setattr__, "__delattr__": object.__delattr__,  # both: one of them alone is not quick
    }  # fmt: skip
    opened = type(cls.__name__, (cls,), opening)
    named.__signature__ = signature(named)  # what a reader is shown stays that of the fields
    blank = object.__new__
    # A copy is made without arguments, and is given its fields without __init__: it is of its class from the start.
    named.__new__ = lambda made, *args, **more: blank(opened if args or more else made)
    return cls

"""What a run may use, from the command line: its time, its budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.budget import Budget
from eventflow.errors import SettingsError

BudgetArg = Annotated[
    tuple[str, ...],
    Parameter(
        name="--budget", negative=(), help="What it may use at most: tokens=N, calls=N, cost=X, steps=N or seconds=X."
    ),
]
TimeoutArg = Annotated[
    float | None, Parameter(name="--timeout", help="Seconds it has in all, waits and stops included.")
]
_WHOLE = ("tokens", "calls", "steps")


def budget_of(given: Sequence[str]) -> Budget | None:
    """The budget that options of the form name=number add up to; None without any. Raises SettingsError."""
    limits: dict[str, Any] = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in {one.name for one in fields(Budget)} or name in limits:
            raise SettingsError(
                f"--budget {text!r} will not do; give each limit once, as tokens=N, calls=N, cost=X, steps=N or seconds=X"
            )
        limits[name] = _number(text, number, whole=name in _WHOLE)
    return Budget(**limits) if limits else None


def _number(text: str, number: str, *, whole: bool) -> float:
    try:
        value = int(number) if whole else float(number)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise SettingsError(f"--budget {text!r}: give a {'whole ' if whole else ''}number, more than 0")
    return value


def seconds_of(timeout: float | None, option: str = "--timeout") -> float | None:
    """A limit in seconds, if there is one. Raises SettingsError."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise SettingsError(f"{option} is {timeout:g}; give seconds, more than 0")
    return timeout

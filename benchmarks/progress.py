"""How far a long measurement has come, on stderr and only for people: nothing is written where it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Who is told how far a measurement has come."""

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """The items, with a bar that moves as they are taken."""
        ...


class Silent:
    """Says nothing."""

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:  # noqa: ARG002 - the protocol's
        """The items."""
        return iter(items)


class Bars:
    """A bar for each measurement, gone when it is done."""

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """The items, with a bar that moves as they are taken."""
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for the import
        from rich.progress import track  # noqa: PLC0415

        return iter(track(items, what, total, console=Console(stderr=True), transient=True, update_period=0.5))


def progress() -> Progress:
    """Bars on a terminal, silence elsewhere."""
    return Bars() if sys.stderr.isatty() else Silent()

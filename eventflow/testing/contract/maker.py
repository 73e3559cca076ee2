"""How the contract's tests get their log, and the few words they share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eventflow.change import Op
from eventflow.codec import pack, read_events
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import (
    Act,
    Head,
    Log,
)
from eventflow.plain import freeze
from eventflow.testing.author import Author

MOVE = Transitioned("a", "a")
OWNER, OTHER = b"o" * 16, b"p" * 16
LONG = "a text that is long enough to be kept once " * 50


@contextlib.contextmanager
def raises(kind: type[BaseException]) -> Iterator[None]:
    """The block must raise an error of this kind."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def moved(key: str, value: Any) -> Transitioned:
    """A fact that sets one value."""
    return Transitioned("a", "a", change=(Op("set", (key,), freeze(value)),))


def versions(log: Log, head: Head) -> list[int]:
    """The versions a log holds of a run."""
    return [one.version for one in read_events(log.read(head.run_key, 1, 1 << 40), log.blobs)]


def deletion(head: Head, time: int) -> Act:
    """The operation that deletes a run."""
    event = RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest)
    return Act(pack(event), time, delete_run=head)


class LogMaker:
    """What a subclass of the contract says: how a log is made, and how it is opened again."""

    def make_log(self, tmp_path: Path) -> Log:
        """A new, empty log."""
        raise NotImplementedError

    def reopen(self, log: Log) -> Log | None:  # noqa: ARG002 - for subclasses
        """The same log closed and opened again; None if it does not outlive its process."""
        return None

    @contextlib.contextmanager
    def author(self, tmp_path: Path) -> Iterator[Author]:
        """Somebody who writes into a new log, which is closed in the end."""
        log = self.make_log(tmp_path)
        try:
            yield Author(log)
        finally:
            log.close()

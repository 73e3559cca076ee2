"""What is known outside the log of a life that may end at any moment: a file of lines, each of which outlives its writer.

Told is what the writer was acknowledged; doomed is what it was about to write when it died. A line is one system call.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eventflow.codec import decode, encode


@dataclass(frozen=True, slots=True)
class Told:
    """A fact that was acknowledged: an event of a run, or a message for one (then `version` is the message's number)."""

    run: str
    kind: str
    version: int
    digest: str = ""
    call: str = ""  # the idempotency key of a call that was about to be made


@dataclass(frozen=True, slots=True)
class Doomed:
    """A call that had been made when its result could no longer be written."""

    name: str
    key: str
    output: Any
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """A transaction that was asked for: the number of its first fact, and what its facts are."""

    first: int
    facts: tuple[str, ...]


class Notes:
    """The file; several processes may write it, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _add(self, **line: Any) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)

    def told(self, one: Told) -> None:
        """Note what was acknowledged."""
        self._add(told=asdict(one))

    def asked_for(self, one: Write) -> None:
        """Note a transaction before it is written."""
        self._add(write=[one.first, list(one.facts)])

    def doomed(self, one: Doomed) -> None:
        """Note the result of a call that will not be written."""
        self._add(doomed=[one.name, one.key, encode(one.output).hex(), one.branch])

    def died(self) -> None:
        """Note that the writer ends here."""
        self._add(died=True)

    def ended(self, asked: int) -> None:
        """Note that a life came to its end, and how often it asked a person."""
        self._add(asked=asked)

    def _lines(self, kind: str) -> list[Any]:
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line[kind] for line in found if kind in line]

    def all_told(self) -> list[Told]:
        """What was acknowledged, in order."""
        return [Told(**one) for one in self._lines("told")]

    def all_writes(self) -> list[Write]:
        """Every transaction that was asked for."""
        return [Write(first, tuple(facts)) for first, facts in self._lines("write")]

    def all_doomed(self) -> list[Doomed]:
        """Results that were never written."""
        return [
            Doomed(name, key, decode(bytes.fromhex(data), "a doomed result"), branch)
            for name, key, data, branch in self._lines("doomed")
        ]

    def has_died(self) -> bool:
        """Whether the writer died where it was meant to."""
        return bool(self._lines("died"))

    def times_asked(self) -> int:
        """How often a person was asked."""
        return sum(self._lines("asked"))

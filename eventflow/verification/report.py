"""What a verification looked at and what it found; nothing is looked at here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from eventflow.errors import Corrupt, EventflowError

# What bytes that were forged with care may make a reader stumble over; here that is something found, not a fault.
STUMBLES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold, and where."""

    run: str
    version: int
    problem: str

    def __str__(self) -> str:
        return f"{self.run}@{self.version}: {self.problem}"


@dataclass(slots=True)
class Report:
    """What was looked at and what was found."""

    runs: int = 0
    events: int = 0
    snapshots: int = 0
    deleted: int = 0
    compacted: int = 0  # runs whose beginning is not there to be looked at
    tidied: int = 0  # events of deleted runs that are still to get their tombstones
    unopened: int = 0  # runs whose beginning is a snapshot that could not be read, for want of a key
    hidden: int = 0  # events whose values could not be read, for want of a key: of those the chain was verified
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything holds."""
        return not self.findings

    def add(self, run: str, version: int, problem: str) -> None:
        """Something more that does not hold."""
        self.findings.append(Finding(run, version, problem))


def said(error: Exception) -> str:
    """An error as the problem of a finding."""
    if isinstance(error, Corrupt):
        return f"{error.where}: {error.problem}"
    return str(error) if isinstance(error, EventflowError) else f"can't be read ({type(error).__name__}: {error})"

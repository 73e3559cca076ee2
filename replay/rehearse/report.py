"""What a rehearsal found, as data, and as the plain data that crosses from one process to another.

Nothing is asked or run here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from replay.path import MISSING

Verdict = Literal["same", "migrate", "diverges"]
Kind = Literal["start", "node", "kind", "field", "route", "guard", "change", "effect", "body", "blocked"]
TO_MIGRATE: frozenset[str] = frozenset({"node", "kind", "field"})
MAX_BLOCKED = 100  # attempts to reach outside that are told one by one; all are counted


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between a recorded history and today's code: at which version, in which node, what.

    `recorded` and `now` are its two values, MISSING where there is none.
    """

    kind: Kind
    version: int
    node: str
    problem: str
    recorded: Any = MISSING
    now: Any = MISSING

    def plain(self) -> dict[str, Any]:
        """As plain data; a value that is missing is left out."""
        values = {"recorded": self.recorded, "now": self.now}
        kept = {name: value for name, value in values.items() if value is not MISSING}
        return {"kind": self.kind, "version": self.version, "node": self.node, "problem": self.problem, **kept}


@dataclass(slots=True)
class Receipt:
    """What a rehearsal took instead of the outside: decisions asked, bodies run, calls served, attempts blocked.

    `blocked` has what was attempted, and in which node (empty: while the module was loaded).
    """

    decisions: int = 0
    bodies: int = 0
    served: int = 0
    blocked_count: int = 0
    blocked: list[str] = field(default_factory=list)

    def block(self, attempt: str) -> None:
        """One more attempt to reach outside."""
        self.blocked_count += 1
        if len(self.blocked) < MAX_BLOCKED:
            self.blocked.append(attempt)

    def add(self, other: Receipt) -> None:
        """What another run took, added."""
        self.decisions += other.decisions
        self.bodies += other.bodies
        self.served += other.served
        self.blocked_count += other.blocked_count
        self.blocked += other.blocked[: MAX_BLOCKED - len(self.blocked)]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "decisions": self.decisions, "bodies": self.bodies, "served": self.served, "blocked": self.blocked_count,
            "attempts": list(self.blocked),
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Receipt:
        """A receipt from its plain data."""
        return cls(plain["decisions"], plain["bodies"], plain["served"], plain["blocked"], list(plain["attempts"]))


@dataclass(frozen=True, slots=True)
class RunReport:
    """How one run comes out with today's code: what differs in order of versions, and the definitions' difference."""

    run_id: str
    version: int
    findings: tuple[Finding, ...]
    definition: str
    receipt: Receipt

    @property
    def verdict(self) -> Verdict:
        """Same, or what stands first in the way."""
        if not self.findings:
            return "same"
        return "migrate" if self.findings[0].kind in TO_MIGRATE else "diverges"

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.run_id, "version": self.version, "verdict": self.verdict, "definition": self.definition,
            "findings": [one.plain() for one in self.findings], "receipt": self.receipt.plain(),
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> RunReport:
        """A report from its plain data."""
        findings = tuple(Finding(**one) for one in plain["findings"])
        return cls(plain["run"], plain["version"], findings, plain["definition"], Receipt.of(plain["receipt"]))


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Runs rehearsed with one workflow; `skipped` were runs of others, `isolation` what stood between it and outside."""

    workflow: str
    runs: tuple[RunReport, ...]
    skipped: int
    isolation: str = ""
    loading: tuple[str, ...] = ()  # attempts to reach outside while the module was loaded

    @property
    def same(self) -> bool:
        """Whether every run comes out as it was recorded."""
        return all(one.verdict == "same" for one in self.runs)

    @property
    def receipt(self) -> Receipt:
        """What all runs together took."""
        return summed(self.loading, (one.receipt for one in self.runs))


def together(several: Sequence[Rehearsal]) -> Rehearsal:
    """Rehearsals with one workflow as one; there is at least one."""
    first = several[0]
    runs = tuple(run for one in several for run in one.runs)
    loading = tuple(attempt for one in several for attempt in one.loading)
    return Rehearsal(first.workflow, runs, sum(one.skipped for one in several), first.isolation, loading)


def summed(loading: Iterable[str], receipts: Iterable[Receipt]) -> Receipt:
    """Receipts added up, after what was blocked before the first run."""
    total = Receipt()
    for attempt in loading:
        total.block(attempt)
    for one in receipts:
        total.add(one)
    return total

"""What a sweep found, as data and as a table; nothing is looked at here."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SHOWN = 12  # lines about one crash in a failure: beyond, the table says enough


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash: where it was, and what was other than in the undisturbed run afterwards.

    `boundary` is the number of the write in the run, `when` "before" its commit or "after" it, `writes` what it makes
    durable. `differences` are in how it ended, `lost` what had been acknowledged and was gone, `repeated` the calls made
    again though their result was known; `asked` counts questions to a person on the way.
    """

    boundary: int
    when: str
    writes: str
    crashed: bool = True
    differences: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    asked: int = 0

    @property
    def recovered(self) -> bool:
        """Whether the run came to the end it comes to undisturbed."""
        return self.crashed and not self.differences

    @property
    def found(self) -> tuple[str, ...]:
        """Everything that is wrong."""
        return (
            *self.differences, *(f"lost: {text}" for text in self.lost), *(f"repeated: {text}" for text in self.repeated)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep of crashes found: `crashes` one by one; `possible` boundaries there were, of which these were swept."""

    workflow: str
    possible: int
    crashes: tuple[Crash, ...]

    @property
    def boundaries(self) -> int:
        """How many boundaries were swept: before and after a commit are two."""
        return len(self.crashes)

    @property
    def crashed(self) -> int:
        """At how many of them the run really died."""
        return sum(one.crashed for one in self.crashes)

    @property
    def recovered(self) -> int:
        """After how many of them it came to the undisturbed end."""
        return sum(one.recovered for one in self.crashes)

    @property
    def lost(self) -> int:
        """How many acknowledged facts were gone."""
        return sum(len(one.lost) for one in self.crashes)

    @property
    def repeated(self) -> int:
        """How many calls were made again though their result was known."""
        return sum(len(one.repeated) for one in self.crashes)

    @property
    def asked(self) -> int:
        """How often a run stopped and asked a person what became of a call, or whether to go on."""
        return sum(one.asked for one in self.crashes)

    @property
    def sound(self) -> bool:
        """Whether boundaries = crashes = recovered, with nothing lost and nothing repeated."""
        return self.boundaries == self.crashed == self.recovered and not self.lost and not self.repeated

    def summary(self) -> str:
        """The result in one line."""
        relation = f"{self.boundaries} boundaries, {self.crashed} crashes, {self.recovered} recovered"
        if self.boundaries == self.crashed == self.recovered:
            relation = f"{self.boundaries} boundaries = crashes = recovered"
        part = "" if self.boundaries == self.possible else f" (of {self.possible})"
        asked = f", asked {self.asked}" if self.asked else ""
        return f"workflow {self.workflow}: {relation}{part}, lost {self.lost}, repeated {self.repeated}{asked}"

    def table(self) -> str:
        """A line a crash: where, and what was found."""
        rows = [("boundary", "crash", "writes", "found")]
        for one in self.crashes:
            same = f"the same end, asked {one.asked}" if one.asked else "the same end"
            rows.append((str(one.boundary), one.when, one.writes, "; ".join(one.found) or same))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        return "\n".join([self.summary(), *lines])

    def check(self) -> None:
        """Raise AssertionError, with what is wrong and where, unless the sweep is sound."""
        __tracebackhide__ = True  # a test that fails of it shows the sentence, not this function
        if self.sound:
            return
        lines = [self.summary()]
        for one in self.crashes:
            if one.found:
                lines.append(f"crash {one.when} the commit of boundary {one.boundary} ({one.writes}):")
                lines += [f"    {text}" for text in one.found[:MAX_SHOWN]]
        raise AssertionError("\n".join(lines))

    def __str__(self) -> str:
        return self.table()

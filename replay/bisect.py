"""The first variant of a workflow, or the first revision of its code, with which a run comes out otherwise.

Each is rehearsed in a process of its own; nobody is called. A revision's files are written to a temporary directory from
git's objects, with an index of its own: neither the user's checkout nor what git keeps about it is touched.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eventflow.errors import SettingsError
from replay.rehearse import Receipt, Rehearsal, RehearsalFailed

MAX_REVISIONS = 10_000  # in a range: fourteen trials; more is a mistake in the range
Attempt = Callable[[str], Rehearsal]


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant tried: its rehearsal, or why there is none."""

    name: str
    rehearsal: Rehearsal | None
    problem: str = ""

    @property
    def outcome(self) -> str:
        """In a word: same, differs, or not tried."""
        if self.rehearsal is None or not self.rehearsal.runs:
            return "not tried"
        return "same" if self.rehearsal.same else "differs"


@dataclass(slots=True)
class Bisection:
    """What was tried, in that order, and the first that differs.

    `untold` are those before it, after the last that is the same, that could not be tried.
    """

    trials: list[Trial] = field(default_factory=list)
    first: Trial | None = None
    untold: tuple[str, ...] = ()

    @property
    def passed_over(self) -> int:
        """How many could not be tried."""
        return sum(one.outcome == "not tried" for one in self.trials)

    @property
    def receipt(self) -> Receipt:
        """What all trials together took."""
        total = Receipt()
        for one in self.trials:
            if one.rehearsal is not None:
                total.add(one.rehearsal.receipt)
        return total

    @property
    def isolation(self) -> str:
        """What stood between the trials and the outside."""
        return next((one.rehearsal.isolation for one in self.trials if one.rehearsal is not None), "")

    def add(self, name: str, attempt: Callable[[], Rehearsal]) -> Trial:
        """Try one more."""
        try:
            rehearsal = attempt()
            problem = "" if rehearsal.runs else f"it is workflow {rehearsal.workflow!r}, and the run is of another"
            trial = Trial(name, rehearsal, problem)
        except RehearsalFailed as error:
            trial = Trial(name, None, str(error))
        self.trials.append(trial)
        return trial


def first_variant(names: Sequence[str], attempt: Attempt) -> Bisection:
    """The first in a list that differs; those after it are not tried. Those that can't be tried are told and passed over."""
    found = Bisection()
    untold: list[str] = []
    for name in names:
        trial = found.add(name, lambda name=name: attempt(name))  # type: ignore[misc]
        if trial.outcome == "differs":
            found.first, found.untold = trial, tuple(untold)
            break
        untold = [*untold, name] if trial.outcome == "not tried" else []
    return found


# --- revisions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """Revisions from a good one to a bad one, oldest first, the good one before them; `below` is where the code lies."""

    root: Path
    below: Path
    good: str
    revisions: tuple[str, ...]


CheckOut = Callable[[Span, str], AbstractContextManager[str]]


def revisions(text: str, path: Path) -> Span:
    """The revisions of `GOOD..BAD` in the repository that a directory lies in. Raises SettingsError."""
    good, dots, bad = text.partition("..")
    if not dots or not good or not bad or bad.startswith(".") or good.startswith("-"):
        raise SettingsError(f"{text!r} is no range of revisions; write GOOD..BAD")
    root = Path(_git(path, "rev-parse", "--show-toplevel").strip())
    first = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{good}^{{commit}}").strip()
    last = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{bad}^{{commit}}").strip()
    between = _git(root, "rev-list", "--reverse", "--ancestry-path", f"{first}..{last}").split()
    if not between:
        raise SettingsError(f"{bad} does not come after {good}; write GOOD..BAD, the older first")
    if len(between) > MAX_REVISIONS:
        raise SettingsError(f"{text} has {len(between):,} revisions; the limit is {MAX_REVISIONS:,}")
    return Span(root, path.resolve().relative_to(root.resolve()), first, tuple(between))


def first_revision(span: Span, attempt: Attempt, *, check_out: CheckOut | None = None) -> Bisection:
    """The first revision that differs, found by halves. `attempt` is given the directory of its code.

    `check_out` gives that directory, for as long as it is needed; git's files by default.

    If the last is the same, none is said to differ; if the good one differs already, it is the first.
    """
    found = Bisection()
    several = (span.good, *span.revisions)
    tried: dict[int, Trial] = {}

    def held(revision: str) -> Rehearsal:
        with (check_out or checked_out)(span, revision) as place:
            return attempt(place)

    def outcome(index: int) -> str:
        if index not in tried:
            tried[index] = found.add(several[index], lambda: held(several[index]))
        return tried[index].outcome

    low, high = 0, len(several) - 1
    if outcome(high) != "differs":
        return found
    if outcome(low) == "differs":
        high = low
    while high - low > 1:
        index = next((one for one in _from_middle(low, high) if outcome(one) != "not tried"), None)
        if index is None:
            break
        low, high = (low, index) if outcome(index) == "differs" else (index, high)
    found.first = tried[high]
    found.untold = several[low + 1 : high]
    return found


def _from_middle(low: int, high: int) -> Iterator[int]:
    """The numbers between two, those in the middle first."""
    middle = (low + high) // 2
    yield from sorted(range(low + 1, high), key=lambda one: abs(one - middle))


@contextmanager
def checked_out(span: Span, revision: str) -> Iterator[str]:
    """The directory of the code as it was at a revision, gone afterwards. Raises RehearsalFailed if there was none."""
    with tempfile.TemporaryDirectory(prefix="replay-revision-") as temporary:
        tree = Path(temporary) / "tree"
        index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
        _git(span.root, "read-tree", revision, **index)
        _git(span.root, "checkout-index", "--all", "--quiet", f"--prefix={tree}{os.sep}", **index)
        place = tree / span.below
        if not place.is_dir():
            raise RehearsalFailed(f"revision {revision[:12]} has no directory {span.below}")
        yield str(place)


def _git(place: Path, *arguments: str, **environment: str) -> str:
    """What git answers in a directory. Raises SettingsError."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and nothing of the user's stands where git looks for an option
            ["git", "-C", str(place), *arguments],  # noqa: S607 - the user's own git
            capture_output=True, text=True, check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **environment},
        )  # fmt: skip
    except OSError as error:
        raise SettingsError(f"git can't be run ({error.strerror}); install it, or name variants instead") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise SettingsError(f"git {arguments[0]} failed: {said[-1] if said else f'no such revision: {arguments[-1]}'}")
    return done.stdout

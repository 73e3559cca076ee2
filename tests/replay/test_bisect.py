"""The first variant, or revision, with which a run comes out otherwise."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import SettingsError
from replay.bisect import Span, Trial, first_revision, first_variant, revisions
from replay.rehearse import Finding, Receipt, Rehearsal, RehearsalFailed, RunReport


def rehearsed(outcome: str) -> Rehearsal:
    """A rehearsal that came out like that."""
    if outcome == "broken":
        raise RehearsalFailed("it can't be loaded")
    findings = (Finding("route", 2, "a", "it differs"),) if outcome == "differs" else ()
    runs = () if outcome == "other" else (RunReport("r", 3, findings, "", Receipt(served=1)),)
    return Rehearsal("work", runs, 1 - len(runs), "an audit hook")


def names(trials: list[Trial]) -> list[str]:
    """What was tried."""
    return [one.name for one in trials]


def test_of_variants_the_first_that_differs_is_found_and_none_is_tried_after_it():
    """Their receipts are added up."""
    outcomes = {"a": "same", "b": "differs", "c": "differs"}
    found = first_variant("abc", lambda name: rehearsed(outcomes[name]))
    assert found.first is not None
    assert (found.first.name, names(found.trials), found.receipt.served) == ("b", ["a", "b"], 2)
    assert first_variant("aa", lambda name: rehearsed("same")).first is None


def test_a_variant_that_can_not_be_tried_is_told_and_passed_over():
    """It may have been the first, unless one after it is the same."""
    outcomes = {"a": "broken", "b": "same", "c": "other", "d": "differs"}
    found = first_variant("abcd", lambda name: rehearsed(outcomes[name]))
    assert [one.outcome for one in found.trials] == ["not tried", "same", "not tried", "differs"]
    assert (found.first and found.first.name, found.untold) == ("d", ("c",))


@given(st.integers(1, 200), st.data())
def test_revisions_are_tried_by_halves(count, data):
    """At most two more than the halvings, whatever breaks first where."""
    first = data.draw(st.integers(0, count))  # 0: the good one differs already
    several = [str(number) for number in range(count + 1)]
    repository = Repository(["same"] * first + ["differs"] * (count + 1 - first))
    found = repository.searched()
    assert found.first is not None
    assert found.first.name == several[first]
    assert len(found.trials) <= 2 + count.bit_length()


@given(
    st.lists(st.sampled_from(["same", "broken"]), max_size=8),
    st.lists(st.sampled_from(["differs", "broken"]), max_size=8),
)
def test_revisions_that_can_not_be_tried_leave_the_answer_open_where_it_depends_on_them(good, bad):
    """The first that differs is among the untold or is the one named."""
    outcomes = ["same", *good, *bad, "differs"]
    found = Repository(outcomes).searched()
    assert found.first is not None
    first = int(found.first.name)
    assert first == outcomes.index("differs")
    below = max(number for number in range(first) if outcomes[number] == "same")
    assert found.untold == tuple(map(str, range(below + 1, first)))
    assert len(set(names(found.trials))) == len(found.trials)


def test_where_the_last_revision_is_the_same_none_is_tried_but_it():
    """There is nothing to find."""
    found = Repository(["same"] * 9).searched()
    assert (found.first, len(found.trials)) == (None, 1)


class Repository:
    """A row of revisions whose outcomes are known: their files are their number."""

    def __init__(self, outcomes: list[str]) -> None:
        self._outcomes = outcomes

    def searched(self):
        """What is found."""
        span = Span(Path(), Path(), "0", tuple(map(str, range(1, len(self._outcomes)))))
        return first_revision(
            span, lambda name: rehearsed(self._outcomes[int(name)]), check_out=lambda _span, name: Given(name)
        )


class Given:
    """A directory that is there already."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> str:
        return self._name

    def __exit__(self, *_: object) -> None:
        pass


# --- git -----------------------------------------------------------------------------------------------------------


def git(place: Path, *arguments: str) -> str:
    """What git says."""
    config = ["-c", "user.email=a@example.com", "-c", "user.name=a"]
    command = [shutil.which("git") or "git", "-C", place, *config, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path) -> Path:
    """Five revisions of one file, which says its number; `good` is the first."""
    place = tmp_path / "repository"
    (place / "below").mkdir(parents=True)
    git(place, "init", "-q", ".")
    (place / ".gitattributes").write_text("below/secret.py export-ignore\n")
    (place / "below" / "secret.py").write_text("")
    for number in range(5):
        (place / "below" / "code.py").write_text(str(number))
        git(place, "add", "-A")
        git(place, "commit", "-q", "-m", str(number))
        if not number:
            git(place, "tag", "good")
    return place


def test_each_revision_is_tried_with_its_own_files(repository):
    """All of them, in a directory of its own that is gone afterwards."""
    places: list[Path] = []

    def attempt(place: str) -> Rehearsal:
        places.append(Path(place))
        assert (Path(place) / "secret.py").exists()
        return rehearsed("differs" if int((Path(place) / "code.py").read_text()) >= 3 else "same")

    found = first_revision(revisions("good..HEAD", repository / "below"), attempt)
    assert found.first is not None
    assert found.first.name == git(repository, "rev-parse", "HEAD~1").strip()
    assert not any(place.exists() for place in places)


def test_the_checkout_and_what_git_keeps_of_it_are_not_touched(repository):
    """With work in it that nobody has committed."""
    (repository / "below" / "code.py").write_text("in the middle of something")
    git(repository, "add", "-A")
    (repository / "new").write_text("x")
    before = state_of(repository)
    first_revision(revisions("good..HEAD", repository), lambda place: rehearsed("differs"))
    assert state_of(repository) == before


def state_of(repository: Path) -> dict[str, bytes]:
    """Every file in it."""
    return {str(one): one.read_bytes() for one in sorted(repository.rglob("*")) if one.is_file()}


@pytest.mark.parametrize(
    "text", ["good", "..", "good..", "HEAD..good", "good...HEAD", "nowhere..HEAD", "--help..HEAD", "good..--all"]
)
def test_what_is_no_range_is_refused_in_one_sentence(repository, text):
    """Nothing of it is taken for an option of git."""
    with pytest.raises(SettingsError):
        revisions(text, repository)

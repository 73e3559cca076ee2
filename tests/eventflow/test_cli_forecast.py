"""How far a run is, as `eventflow show` tells it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from eventflow.cli.forecast import progress_document, progress_text, seconds_text
from eventflow.progress import Progress


@pytest.fixture
def halfway(flows, process, until, run_eventflow):
    """A run that stands in the first of two nodes, its process killed, after an earlier one that went to its end."""
    Path("go").touch()
    run_eventflow("run", "flows:waiting", "--id", "earlier")
    for name in ("go", "began"):
        Path(name).unlink()
    running = process("eventflow", "run", "flows:waiting", "--id", "r")
    until(Path("began").exists, running)
    running.signal(signal.SIGKILL)
    running.ended()


@pytest.mark.usefixtures("halfway")
def test_a_run_in_the_middle_says_how_far_it_is(run_eventflow):
    """A line with the share, and as JSON with the time left too; nobody drives it, which is said instead of a time."""
    lines = run_eventflow("show", "r").out.splitlines()
    assert lines[-2:] == [
        "nobody drives it; go on with `eventflow resume r --flow MODULE:NAME`",
        "progress: 0 of 2 nodes (0 %)",
    ]
    assert run_eventflow("list").out.splitlines()[1].split()[:4] == ["r", "waiting", "running", "nobody"]
    found = run_eventflow("show", "r", "-o", "json").json["progress"]
    assert 0 <= found.pop("left_seconds") < 60
    assert found == {"done": 0, "total": 2, "percent": 0.0, "why": None}


@pytest.mark.usefixtures("halfway")
def test_a_run_that_has_ended_is_told_without_a_line(run_eventflow):
    """And so is a look back; in JSON both say how far it was."""
    assert "progress" not in run_eventflow("show", "earlier").out
    assert "progress" not in run_eventflow("show", "earlier@2").out
    assert run_eventflow("show", "earlier", "-o", "json").json["progress"]["percent"] == 100.0
    assert run_eventflow("show", "earlier@2", "-o", "json").json["progress"]["percent"] == 50.0


def test_what_is_not_known_says_why():
    """In place of the share, or of the time."""
    assert progress_text(Progress("a", 3, why="a loop lies ahead")) == "not known: a loop lies ahead"
    assert progress_text(Progress("a", 1, 4, 25.0, 3.0)) == "1 of 4 nodes (25 %), about 3 s left"
    known = Progress("a", 1, 4, 25.0, None, "nobody was there")
    assert progress_text(known) == "1 of 4 nodes (25 %), time left not known: nobody was there"
    assert progress_document(known) == {
        "done": 1, "total": 4, "percent": 25.0, "left_seconds": None, "why": "nobody was there",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0.0 s"), (1.26, "1.3 s"), (2, "2 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 days")],
)
def test_a_span_of_time_is_as_exact_as_a_guess_deserves(seconds, said):
    """In the largest unit there are two of."""
    assert seconds_text(seconds) == said

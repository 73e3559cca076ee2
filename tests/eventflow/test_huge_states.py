"""States that are far larger than anybody's: commands end, in little memory, and say what they leave out."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventflow.change import Op
from eventflow.cli.shell import MAX_FIELDS
from eventflow.errors import NotPlainData
from eventflow.event import Transitioned
from eventflow.log import open_log
from eventflow.plain import MAX_TEXT, freeze
from eventflow.testing.author import Author

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
KEYS = 1_000_000 if FULL else 50_000
TEXT = MAX_TEXT if FULL else 8 << 20  # characters
MEMORY = (2 << 30) if FULL else (1 << 30)  # bytes of address space that a command may take
SECONDS = 120  # of processor time
MOST = 1_000_000  # characters that a table may have
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of many keys, and one of a long text."""
    path = tmp_path_factory.mktemp("huge")
    with closing(open_log(path / "runs.eventflow")) as log:
        author = Author(log)
        head = author.start("keys", {f"k{number}": number for number in range(KEYS)})
        author.add(head, Transitioned("a", "b", change=(Op("set", ("k5",), 7),)))
        text = ("x" * 999 + "\x1b") * (TEXT // 1_000)
        head = author.start("text", {"t": text, "n": 1})
        author.add(head, Transitioned("a", "b", change=(Op("set", ("t",), text[:-1]),)))
    return path


def _bounded() -> None:
    resource.setrlimit(
        resource.RLIMIT_AS, (MEMORY + (1 << 30), MEMORY + (1 << 30))
    )  # Python and its libraries map 1 GiB
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "left_out"),
    [
        ("eventflow list", 0, False), ("eventflow show keys", 0, True), ("eventflow show text", 0, False), ("replay show keys@1", 0, True),
        ("replay log text", 0, False), ("replay diff keys@1 keys@2", 4, False), ("replay diff text@1 text@2", 4, False),
        ("replay diff keys text", 4, True), ("replay when keys k5==7", 0, False), ("replay blame text t", 0, False), ("eventflow store info", 0, False),
    ],
)  # fmt: skip
def test_a_command_on_a_huge_state_ends_in_bounds(command: str, code: int, left_out: object, store: Path) -> None:
    """With a bound on memory and on processor time; a table is cut and says by how much."""
    name, *argv = command.split()
    done = subprocess.run(
        [sys.executable, "-m", name, *argv], cwd=store, env={**os.environ, "PYTHONPATH": str(ROOT), "EVENTFLOW_MAP_SIZE": str(1 << 28)}, capture_output=True, check=False,
        preexec_fn=_bounded, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert len(done.stdout) < MOST
    assert "\x1b" not in done.stdout
    more = re.search(r"… and ([0-9,]+) (fields|differences) more, all with (?:-o json|--full)", done.stdout)
    assert (more is not None) is left_out
    if more is not None:
        assert KEYS - MAX_FIELDS <= int(more[1].replace(",", "")) <= KEYS + 2


def test_what_is_larger_than_a_limit_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """A text, an event, a nesting: the limits of docs/security.md, before anything is written."""
    with pytest.raises(NotPlainData, match="the limit is"):
        freeze({"t": "x" * (MAX_TEXT + 1)})
    with closing(open_log(tmp_path / "s")) as log:
        author = Author(log)
        with pytest.raises(NotPlainData, match="an event of"):
            author.start("r", {"a": ["x" * 900] * 20_000})
        assert log.head("r") is None

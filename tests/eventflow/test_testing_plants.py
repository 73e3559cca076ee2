"""Bugs planted on purpose: each is found by the test that is named for it, and is gone after its block."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventflow.cipher.keyring import DataKey
from eventflow.cipher.locks import BlobLock, RunLock
from eventflow.codec import Spot
from eventflow.errors import Corrupt
from eventflow.event import SignalReceived
from eventflow.log import LmdbLog
from eventflow.retention.sweeping import sweep
from eventflow.testing.author import Author
from eventflow.testing.plants import PLANTS, planted
from eventflow.untrusted import verify_untrusted
from eventflow.verification import verify_store

ROOT = Path(__file__).parents[2]


def lock() -> RunLock:
    """The lock of a run."""
    key = DataKey(b"i" * 10, b"s" * 16, "run", "r", b"r" * 16, 0, b"k" * 32)
    return RunLock(key, b"r" * 16, BlobLock(key))


def is_bound() -> bool:
    """Whether a sealed body is refused as another kind of fact than it was sealed as."""
    try:
        lock().open_event(Spot(1, 7, 3, 4), lock().seal_event(Spot(1, 7, 2, 4), b"a body"), "e")
    except Corrupt:
        return True
    return False


def test_a_body_that_is_bound_to_nothing_is_found() -> None:
    """Without associated data an event's body opens as another kind of fact."""
    assert is_bound()
    with planted("unbound"):
        assert not is_bound()
    assert is_bound()


def kept_after_a_sweep(path: Path) -> list[str]:
    """What a verification finds after a sweep of a store in which every blob is needed."""
    with closing(LmdbLog(path)) as log:
        author = Author(log)
        head = author.start("a", {"text": "long " * 500})
        author.add(head, SignalReceived("go", "another " * 500, 1))
        before = {one.problem for report in [*verify_store(log)][-1:] for one in report.findings}
        sweep(log)
        return [one.problem for one in [*verify_store(log)][-1].findings if one.problem not in before]


def test_a_sweep_that_takes_one_blob_too_many_is_found(tmp_path: Path) -> None:
    """A verification misses the blob."""
    assert kept_after_a_sweep(tmp_path / "sound") == []
    with planted("greedy_sweep"):
        found = kept_after_a_sweep(tmp_path / "broken")
    assert any("blob" in one or "lacks" in one for one in found), found


def notices_a_rollback(path: Path) -> bool:
    """Whether a store whose file is an older copy is refused when it opens."""
    store = path / "runs"
    with closing(LmdbLog(store)) as log:
        author = Author(log)
        head = author.start("a")
        shutil.copyfile(store / "data.1" / "data.mdb", path / "older")
        author.add(head, SignalReceived("go", 1, 1))
    shutil.copyfile(path / "older", store / "data.1" / "data.mdb")
    (store / "data.1" / "lock.mdb").unlink(missing_ok=True)
    try:
        with closing(LmdbLog(store)):
            return False
    except Corrupt as error:
        return "rolled back" in str(error)


def test_an_opening_that_ignores_the_mark_is_found(tmp_path: Path) -> None:
    """An older copy put back in the place of a store's file is opened as if nothing had happened."""
    for name in ("sound", "broken"):
        (tmp_path / name).mkdir()
    assert notices_a_rollback(tmp_path / "sound")
    assert any("rolled back" in one.problem for one in verify_untrusted(tmp_path / "sound" / "runs").findings)
    with planted("blind_to_the_mark"):
        assert not notices_a_rollback(tmp_path / "broken")


def test_each_planted_bug_names_a_test_that_exists() -> None:
    """So does the page that lists them, bug for bug."""
    there = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    page = (ROOT / "docs" / "testing.md").read_text()
    for plant in PLANTS:
        assert f"def {plant.found_by}(" in there, plant
        assert f"| `{plant.name}` |" in page, plant
        assert f"`{plant.found_by}`" in page, plant


def test_nothing_in_the_package_knows_of_them() -> None:
    """They are put in from outside: no switch can be left on."""
    for path in (ROOT / "eventflow").rglob("*.py"):
        if "testing" not in path.parts:
            assert "planted" not in path.read_text().replace("is planted", ""), path


@pytest.mark.parametrize("name", ["unbound", "greedy_sweep", "blind_to_the_mark"])
def test_a_bug_is_gone_after_its_block(name: str) -> None:
    """Also if the block ends in an error."""
    before = (
        dict(vars(sys.modules["eventflow.retention.sweeping"])),
        dict(vars(RunLock)),
        dict(vars(sys.modules["eventflow.log.lmdb.checks"])),
    )
    with pytest.raises(ZeroDivisionError), planted(name):  # type: ignore[arg-type]
        raise ZeroDivisionError
    assert before == (
        dict(vars(sys.modules["eventflow.retention.sweeping"])), dict(vars(RunLock)), dict(vars(sys.modules["eventflow.log.lmdb.checks"])),
    )  # fmt: skip

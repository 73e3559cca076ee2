"""docs/security.md: what it says holds is tested where it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_is_named_exists():
    """Each `test_…` on the page is a test of this repository, and each line of its tables names one."""
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 90
    assert named <= there
    rows = re.findall(r"^\| (?!what holds|\| who|---|\|)(.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert all("`test_" in tests for claim, tests in rows if " | " not in claim)


def test_each_published_failure_and_each_limit_names_its_test():
    """The tables of three columns too, but that of the attackers."""
    rows = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    said = [row for row in rows if len(row[0]) > 1 and row[0] not in ("what", "published as", "")]
    assert len(said) > 18
    assert all("`test_" in row[2] for row in said), [row for row in said if "`test_" not in row[2]]

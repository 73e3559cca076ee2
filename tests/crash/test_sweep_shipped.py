"""What is shipped dies at every boundary: the flows of the demos and those of the pages. Boundaries = crashes = recovered."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from eventflow.cli.demo import interactive
from eventflow.cli.demo.flow import POLICY, initial, study
from eventflow.cli.demo.model import answer
from eventflow.cli.demo.stages import STEPS, long_flow, nothing_yet
from eventflow.testing import SweepReport, crash_sweep

DOCS = Path(__file__).parent.parent.parent / "docs"
EVERY = 11  # of the boundaries a plain run sweeps each eleventh of the longer flows, and each third of the short ones

pytestmark = pytest.mark.slow


def holds(report: SweepReport) -> None:
    """The sentence that a sweep is to be able to say."""
    report.check()
    assert report.boundaries == report.crashed == report.recovered
    assert (report.lost, report.repeated) == (0, 0)


@pytest.mark.parametrize("policy", [POLICY, interactive.POLICY], ids=["basic and recovery", "interactive"])
def test_the_demos_agents_survive(full, policy):
    """The three agents over one text, with the checkpoints of each demo and its scripted model."""
    report = crash_sweep(study, initial(), model_server=answer, checkpoints=policy, every=1 if full else EVERY)
    holds(report)
    assert report.possible == 44
    assert report.asked == 0


def test_the_long_running_demo_survives(full):
    """Five stages of many small steps."""
    report = crash_sweep(lambda: long_flow(0), nothing_yet(), every=1 if full else 5 * EVERY)
    holds(report)
    assert report.possible == 2 * (STEPS + 2)


def test_a_demo_survives_sigkill(full):
    """The agents in real processes, killed by the kernel."""
    report = crash_sweep(
        "eventflow.cli.demo.flow:study", initial(), model_server=answer, kill="process", every=4 if full else 15
    )  # fmt: skip
    holds(report)


# --- the pages -----------------------------------------------------------------------------------------------------


def took_back(state):
    """A flow that is there to fail: it ends so, with nothing left to undo."""
    return (state.status, state.undoing is None, len(state.undo)) == ("failed", False, 0)


GIVEN = {
    "backup/order": {"input": {"sum": 5}},
    "capsule/titles": {"input": {"topic": "tides"}},
    "cli/steps": {"input": {"n": 1}},
    "effects/shop": {"input": {"order": 1}},
    "effects/shop_asking": {"input": {"order": 1}},
    "effects/trips": {"invariants": [took_back]},
    "engine/flows": {"input": {"seconds": 0}},
    "replay/titles": {"input": {"topic": "tides"}},
    "retention/flows": {"input": {"n": 0}},
    "telemetry/counting": {"input": {"n": 1}},
    "testing/flows": {"input": {"question": "what?"}, "model_server": lambda call: "forty-two"},
    "testing/sums": {"input": {"n": 0}},
    "testing/trips": {"input": {"city": "Oslo"}, "answers": {"agree": True}},
    "tutorial/report": {"input": {"cities": ["Oslo", "Rome", "Lima"]}},
    "waits/refunds": {"input": {"order": 7}, "answers": {"ask": True}, "signals": {"paid": {"receipt": "r-80"}}},
}  # fmt: skip
# Takes three real seconds; is there to be rehearsed, not run; is a conversation without an end.
NOT_SWEPT = {"cli/slow", "replay/stricter", "cli/echo"}


def titled(page: str) -> dict[str, str]:
    """The files that a page shows, by their names."""
    text = (DOCS / f"{page}.md").read_text()
    return dict(re.findall(r'^```python title="(\w+)\.py"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))


def flows() -> list[str]:
    """Page and name of each file that a page shows and that has a workflow."""
    files = {f"{page.stem}/{name}": text for page in DOCS.glob("*.md") for name, text in titled(page.stem).items()}
    return sorted(name for name, text in files.items() if re.search(r"^flow = ", text, re.MULTILINE))


def completed(state):
    """A page whose flow does not end well with no input needs its input above."""
    return state.status == "completed"


@pytest.mark.parametrize("name", [name for name in flows() if name not in NOT_SWEPT])
def test_the_flows_of_the_pages_survive(name, full, tmp_path, monkeypatch):
    """Each workflow that a page shows as a file, with an input that the page shows."""
    monkeypatch.chdir(tmp_path)
    page, _, file = name.partition("/")
    for other, text in titled(page).items():
        if re.search(r"^flow = ", text, re.MULTILINE):
            module = types.ModuleType(other)
            monkeypatch.setitem(sys.modules, other, module)
            exec(compile(text, f"{other}.py", "exec"), module.__dict__)  # noqa: S102 - our own pages
    options = {"input": {}, "invariants": [completed], **GIVEN.get(name, {})}
    report = crash_sweep(sys.modules[file].flow, options.pop("input"), every=1 if full else 3, **options)
    holds(report)
    assert report.possible >= 4


def test_what_is_given_is_for_flows_that_are_there():
    """No input is left over from a page that is gone."""
    assert set(GIVEN) <= set(flows())
    assert "tutorial/report" in flows()

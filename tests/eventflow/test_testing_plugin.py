"""The pytest plugin, in a pytest of its own: its options and fixtures, and what it costs who does not use it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import eventflow.testing

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent.parent
TINY = {"eventflow", "eventflow.testing", "eventflow.testing.plugin"}

FLOWS = """
from eventflow import Sleep, Workflow

def make():
    async def pay(state, run):
        return {"paid": await run.effect("pay", str, state["n"], mutating=False)}
    flow = Workflow("paying").add_node("pay", pay).add_node("rest", Sleep(3600)).add_edge("pay", "rest")
    return flow.set_start("pay")
"""


@pytest.fixture
def inner(pytester, monkeypatch):
    """Run a test file in a pytest that has the plugin and nothing else; its result."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("EVENTFLOW_UPDATE_GOLDEN", raising=False)
    pytester.makepyfile(flows=FLOWS)

    def run(test, *arguments):
        pytester.makepyfile(test_it=test)
        options = ["-p", "eventflow.testing.plugin", "-p", "no:cacheprovider", "-W", "error", "--strict-markers"]
        return pytester.runpytest_subprocess(*options, *arguments)

    return run


SWEEP = """
import pytest
from flows import make

@pytest.mark.crash_sweep(make, {"n": 7})
def test_marked(crash_sweep):
    report = crash_sweep()
    print("SWEPT", report.boundaries, "OF", report.possible)

def test_called(crash_sweep):
    assert crash_sweep(make, {"n": 1}, every=4).boundaries == crash_sweep(make, {"n": 1}, every=4).boundaries

@pytest.mark.crash_sweep(make, {"n": 7}, faults="acknowledge_before_commit", every=1)
def test_broken(crash_sweep):
    crash_sweep()
"""


@pytest.mark.parametrize(("options", "swept"), [((), "SWEPT 4 OF 12"), (("--crash-sweep",), "SWEPT 12 OF 12")])
def test_a_marked_workflow_is_swept_in_part_or_with_the_option_in_whole(inner, options, swept):
    """Each fifth boundary in a plain run, each with `--crash-sweep`; a sweep that is not sound fails its test."""
    result = inner(SWEEP, "-s", *options)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [f"*{swept}*", "*AssertionError: workflow paying: 12 boundaries = crashes = recovered, lost *"]
    )


ENGINE = """
import asyncio
from flows import make

def test_an_hour(eventflow_engine, manual_clock, tmp_path):
    async def story():
        async with eventflow_engine(flow := make()) as engine:
            return await (await engine.start(flow, {"n": 7})).result()
    assert asyncio.run(story()) == {"n": 7, "paid": "7"}
    assert manual_clock.elapsed == 3600
    assert (tmp_path / "runs.eventflow").is_dir()

def test_in_memory(eventflow_engine):
    async def story():
        async with eventflow_engine(make(), store="memory") as engine:
            return engine.log.durable
    assert asyncio.run(story()) is False

def test_a_model(model_server):
    from eventflow import Agent, Workflow
    server = model_server(["forty-two"])
    flow = Workflow("ask").add_node("ask", Agent(model="m", reads="q", writes="a")).set_start("ask")
    assert flow.run_sync({"q": "?"})["a"] == "forty-two"
    assert len(server.calls) == 1
"""


def test_the_fixtures_give_engine_clock_and_model(inner):
    """An engine on a store in the test's folder whose hours pass by themselves, and a model server by script."""
    inner(ENGINE).assert_outcomes(passed=3)


GOLDEN = """
from flows import make

def test_history(eventflow_engine, golden_history):
    import asyncio
    async def story():
        async with eventflow_engine(flow := make()) as engine:
            run = await engine.start(flow, {"n": 7})
            await run.result()
            golden_history(run, "golden/paying.txt")
    asyncio.run(story())
"""


def test_golden_histories_are_written_by_the_option(inner, pytester):
    """Without a file the test fails, `--update-golden` writes it beside the test, then it is compared."""
    inner(GOLDEN).assert_outcomes(failed=1)
    inner(GOLDEN, "--update-golden").assert_outcomes(passed=1)
    file = pytester.path / "golden" / "paying.txt"
    assert "RunCompleted" in file.read_text()
    inner(GOLDEN).assert_outcomes(passed=1)
    file.write_text(file.read_text().replace('"7"', '"8"', 1))
    result = inner(GOLDEN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: the history parts from * at version 3:"])


LOADED = """
import sys

def test_nothing_is_loaded():
    loaded = {name for name in sys.modules if name.partition(".")[0] in ("eventflow", "cbor2", "lmdb", "transitions", "openai")}
    assert loaded == %r
"""


def test_who_does_not_use_it_loads_a_tiny_file(inner):
    """In a pytest with the plugin nothing of eventflow is imported but the plugin and the two packages around it."""
    inner(LOADED % TINY).assert_outcomes(passed=1)


def test_importing_the_plugin_imports_pytest_and_nothing_else():
    """Neither asyncio nor a library comes with it, so coverage sees what it is to measure."""
    code = "import pytest, sys\nbefore = set(sys.modules)\nimport eventflow.testing.plugin\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == TINY


def test_the_package_names_it_to_pytest():
    """The entry point is what pytest looks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"]["eventflow"] == "eventflow.testing.plugin"


def test_every_name_of_testing_can_be_asked_for():
    """The lazily loaded names are all there, and no others."""
    for name in eventflow.testing.__all__:
        assert getattr(eventflow.testing, name) is not None
    assert set(eventflow.testing.__all__) <= set(dir(eventflow.testing))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        eventflow.testing.nothing  # noqa: B018 - asking is the test

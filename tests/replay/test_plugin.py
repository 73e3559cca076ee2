"""The pytest plugin for histories, in a pytest of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
TINY = {"replay", "replay.plugin"}
CODE = """
from eventflow import Workflow

LIMIT = 2

def made(name="count", body=None):
    flow = Workflow(name).add_node("step", body or (lambda state: {"n": state["n"] + 1})).add_node("end", lambda state: None)
    flow.add_edge("step", "step", when=lambda state: state["n"] < LIMIT, label="more")
    return flow.add_edge("step", "end").set_start("step")

flow, other = made(), made("other")
"""
RECORD = """
import asyncio, sys
from counts import flow, other
from eventflow import Engine

async def run():
    async with Engine("runs.eventflow", workflows=[flow, other]) as engine:
        for name, one in (("a", flow), ("b", flow), ("c", other)):
            await (await engine.start(one, {"n": 0}, run_id=name)).result()

asyncio.run(run())
from replay.cli import main
for argv in (["a", "histories/a.cborseq"], ["c", "others/c.cborseq"], ["--all", "all/all.cborseq"]):
    try:
        main(["export", *argv])
    except SystemExit as ended:
        assert ended.code == 0
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with a workflow, histories of it in `histories`, of another in `others`, of all runs in `all`."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "counts.py").write_text(CODE)
    for name in ("histories", "others", "all"):
        (folder / name).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", RECORD], cwd=folder, env=environment, check=True, capture_output=True)
    shutil.rmtree(folder / "runs.eventflow")
    return folder


@pytest.fixture
def place(pytester, recorded):
    """The same, for a test of its own."""
    shutil.copytree(recorded, pytester.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return pytester.path


@pytest.fixture
def inner(pytester, monkeypatch):
    """Run a pytest that has the plugin and nothing else; its result."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*arguments):
        options = ["-p", "replay.plugin", "-p", "no:cacheprovider", "-W", "error", "--strict-config"]
        return pytester.runpytest_subprocess(*options, *arguments)

    return run


def changed(place: Path, old: str, new: str) -> None:
    """Today's code is another."""
    text = (place / "counts.py").read_text()
    assert old in text
    (place / "counts.py").write_text(text.replace(old, new))


@pytest.mark.parametrize("named", ["option", "ini", "settings", "file"])
def test_each_run_of_a_file_is_a_test(inner, place, pytester, named):
    """Held against the workflows that an option, the ini file or the settings name."""
    options = []
    if named == "ini":
        pytester.makeini("[pytest]\neventflow_flows =\n    counts:flow\n    counts:other\n")
    elif named == "settings":
        (place / "eventflow.toml").write_text('workflows = ["counts:flow", "counts:other"]\n')
    else:
        where = "counts.py" if named == "file" else "counts"
        options = ["--eventflow-flow", f"{where}:flow", "--eventflow-flow", f"{where}:other"]
    result = inner("-v", *options)
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["histories/a.cborseq::a PASSED*"])


def test_a_run_that_diverges_fails_with_the_version_and_why(inner, place):
    """Without a traceback; the others pass."""
    changed(place, "LIMIT = 2", "LIMIT = 3")
    result = inner("histories", "--eventflow-flow", "counts:flow")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([
        "*history a.cborseq: a*", "run a diverges at version 3, in node 'step':",
        "  'step' leads to 'step' (guard more) where 'end' was recorded", "  recorded: end", "  now: step",
    ])  # fmt: skip
    assert "Traceback" not in result.stdout.str()
    assert "plugin.py" not in result.stdout.str()


def test_bodies_are_run_where_that_is_asked(inner, place, pytester):
    """In a process of their own, with an option or in the ini file."""
    changed(place, 'state["n"] + 1', 'state["n"] + 2')
    inner("histories", "--eventflow-flow", "counts:flow").assert_outcomes(passed=1)
    result = inner("histories", "--eventflow-flow", "counts:flow", "--eventflow-nodes")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["run a diverges at version 2, in node 'step':", "  n comes out otherwise"])
    pytester.makeini("[pytest]\neventflow_nodes = true\neventflow_flows = counts.py:flow\n")
    inner("histories").assert_outcomes(failed=1)


def test_a_history_of_an_unknown_workflow_fails_or_is_skipped(inner, place):
    """The name that stands in it is not imported."""
    result = inner("others", "--eventflow-flow", "counts:flow")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["run c is a history of workflow 'other', *(they are: count)*eventflow_flows*"])
    inner("all", "--eventflow-flow", "counts:flow", "--eventflow-unknown", "skip").assert_outcomes(passed=2, skipped=1)
    inner("others").assert_outcomes(failed=1)


def test_a_file_that_does_not_hold_is_an_error(inner, place):
    """And so is a name that names no workflow."""
    file = place / "histories" / "a.cborseq"
    file.write_bytes(file.read_bytes().replace(b"step", b"steq"))
    result = inner("histories", "--eventflow-flow", "counts:flow")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a.cborseq: the export*"])
    result = inner("others", "--eventflow-flow", "counts:nothing")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*has no workflow 'nothing'*"])
    inner("others", "--eventflow-flow", "counts:flow", "--eventflow-flow", "counts.py:flow").assert_outcomes(errors=1)


def test_who_has_no_histories_loads_a_tiny_file(inner, pytester):
    """In a pytest with the plugin nothing of ours is imported but the plugin and the package around it."""
    pytester.makepyfile(
        test_it=f"""
import sys

def test_nothing_is_loaded():
    ours = ("eventflow", "replay", "cbor2", "lmdb", "transitions", "openai")
    assert {{name for name in sys.modules if name.partition(".")[0] in ours}} == {TINY!r}
"""
    )
    inner().assert_outcomes(passed=1)


def test_the_package_names_it_to_pytest():
    """The entry point is what pytest looks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"]["eventflow_histories"] == "replay.plugin"

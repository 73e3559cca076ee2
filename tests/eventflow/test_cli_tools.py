"""check and doctor."""

from __future__ import annotations

import pytest

from eventflow.cli import tools

DEFINITIONS = {
    "unreachable": ".add_node('a', f).add_node('b', f).set_start('a')",
    "dead end": ".add_node('a', f).add_edge('a', 'a').set_start('a')",
    "missing default": ".add_node('a', f).add_node('b', f).add_edge('a', 'b', when=f).set_start('a')",
    "unknown target": ".add_node('a', f).add_edge('a', 'b').set_start('a')",
    "unknown node": ".add_node('a', f).set_start('b')",
    "no start": ".add_node('a', f)",
}


@pytest.fixture
def definitions(desk):
    """A file with a workflow for each kind of problem."""
    lines = ["from eventflow import Workflow", "def f(state): return {}"]
    lines += [f"{kind.replace(' ', '_')} = Workflow({kind!r}){text}" for kind, text in DEFINITIONS.items()]
    (desk / "d.py").write_text("\n".join(lines))


def test_a_sound_definition_has_nothing_wrong(run_eventflow, flows):
    """Exit code 0, a sentence as a table, an empty list as JSON."""
    ended = run_eventflow("check", "flows:flow")
    assert (ended.code, ended.out) == (0, "workflow steps: nothing wrong (nodes: 2, edges: 1)\n")
    assert run_eventflow("check", "flows:flow", "-o", "json").json == {"schema": "eventflow.check/1", "rows": []}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_problem_is_found_before_anything_runs(run_eventflow, definitions, kind):
    """Each kind by its name, with exit code 4."""
    ended = run_eventflow("check", f"d:{kind.replace(' ', '_')}", "-o", "json")
    assert ended.code == 4
    rows = ended.json["rows"]
    assert kind in {row["kind"] for row in rows}
    assert all(list(row) == ["kind", "problem", "fatal"] for row in rows)
    table = run_eventflow("check", f"d:{kind.replace(' ', '_')}")
    assert table.code == 4
    assert table.out.splitlines()[0] == f"workflow {kind}:"


def test_a_workflow_that_can_t_be_run_is_refused_by_run_with_the_same_words(run_eventflow, definitions):
    """What check calls fatal is an error of definition, exit code 2, when it is run; no store is made."""
    problem = run_eventflow("check", "d:unknown_target", "-o", "json").json["rows"][0]
    assert problem["fatal"] is True
    ended = run_eventflow("run", "d:unknown_target")
    assert ended.code == 2
    assert problem["problem"] in ended.sentence


def test_mermaid_draws_the_workflow(run_eventflow, flows):
    """A state diagram with every edge and the start."""
    ended = run_eventflow("check", "flows:flow", "--mermaid")
    assert ended.code == 0
    assert "stateDiagram-v2" in ended.out
    assert "first --> second" in ended.out
    assert "[*] --> first" in ended.out


def test_a_bad_name_is_usage(run_eventflow, desk):
    """There is nothing to check."""
    assert run_eventflow("check", "nope:flow").code == 2


# --- doctor --------------------------------------------------------------------------------------------------------


def test_a_fit_machine_is_told_so(run_eventflow, flows):
    """Every package, the disk, what a synced write takes, the model server and the store, with exit code 0."""
    run_eventflow("run", "flows:make")
    ended = run_eventflow("doctor", "-o", "json")
    assert ended.code == 0
    document = ended.json
    assert list(document) == ["schema", "findings"]
    assert document["schema"] == "eventflow.doctor/1"
    assert all(list(one) == ["what", "state", "detail"] for one in document["findings"])
    found = {one["what"]: one["state"] for one in document["findings"]}
    assert set(tools.PACKAGES) <= set(found)
    assert {found[name] for name in ("python", "lmdb", "fsync", "store")} == {"ok"}
    assert "bad" not in found.values()
    table = run_eventflow("doctor")
    assert table.code == 0
    assert [line.split("  ")[0] for line in table.out.splitlines()[1:]] == list(found)


def test_no_store_yet_is_no_ill(run_eventflow, desk):
    """It says that the first run creates it, and creates none itself."""
    ended = run_eventflow("doctor", "--store", "not/there/yet", "-o", "json")
    assert ended.code == 0
    assert "none at not/there/yet yet" in ended.json["findings"][-1]["detail"]
    assert list(desk.iterdir()) == []


def test_it_says_which_model_would_be_asked(run_eventflow, monkeypatch):
    """An address, a key, or neither; the key itself is never shown."""

    def told() -> str:
        findings = run_eventflow("doctor", "-o", "json").json["findings"]
        return next(one["detail"] for one in findings if one["what"] == "model server")

    assert "neither OPENAI_API_KEY nor OPENAI_BASE_URL" in told()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert told() == "OPENAI_API_KEY is set"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert told() == "OPENAI_BASE_URL is http://localhost:1/v1"


def test_a_missing_package_is_bad(run_eventflow, monkeypatch):
    """It names what to install, with exit code 6."""
    monkeypatch.setattr(tools, "PACKAGES", (*tools.PACKAGES, "no-such-package-here"))
    ended = run_eventflow("doctor", "-o", "json")
    assert ended.code == 6
    bad = [one for one in ended.json["findings"] if one["state"] == "bad"]
    assert bad == [
        {"what": "no-such-package-here", "state": "bad", "detail": "is missing; pip install no-such-package-here"}
    ]

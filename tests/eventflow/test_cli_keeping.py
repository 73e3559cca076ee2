"""What `show` and `store info` tell of what is kept, and limits from the settings."""

from __future__ import annotations

import pytest

from eventflow import Quota
from eventflow.cli.policy import quota_of
from eventflow.errors import SettingsError

LOOP = """
from eventflow import Workflow

flow = Workflow("loop").add_node("step", lambda s: {"n": s["n"] + 1}).add_node("end", lambda s: {})
flow.add_edge("step", "step", when=lambda s: s["n"] < 60).add_edge("step", "end").set_start("step")
"""


@pytest.fixture
def limited(run_eventflow, desk):
    """A run that stands at its limit, in a folder whose settings say so; how `run` ended."""
    (desk / "loop.py").write_text(LOOP)
    (desk / "eventflow.toml").write_text('[quota]\nrun_events = 20\nrun_bytes = "none"\n')
    return run_eventflow("run", "loop.py:flow", "--id", "r", "--input", '{"n": 0}')


def test_a_run_at_its_limit_says_what_to_do_in_one_sentence(run_eventflow, limited):
    """On stderr with exit code 7, with the options that this command line had; and what it says works."""
    assert limited.code == 7
    sentence = limited.err.strip().splitlines()[-1]
    assert "20 of 20 events; `eventflow compact r --before 20`" in sentence
    assert "`eventflow resume r --flow loop.py:flow`" in sentence
    assert run_eventflow("compact", "r", "--before", "20", "--yes").code == 0
    again = run_eventflow("resume", "r", "--flow", "loop.py:flow")
    assert (again.code, "20 of 20 events" in again.err) == (7, True)


def test_show_tells_why_a_run_is_parked_how_far_it_is_and_who_keeps_it(run_eventflow, limited):
    """Lines for people, `parked` and `kept` for programs; the origin once it was compacted."""
    run_eventflow("pin", "r", "--why", "we need it")
    run_eventflow("hold", "r", "--why", "case 17")
    text = run_eventflow("show", "r").out
    assert "parked: its history has 20 of 20 events" in text
    assert "by " in text
    assert ": we need it" in text
    assert "on hold since" in text
    shown = run_eventflow("show", "r", "-o", "json").json
    assert shown["parked"].startswith("its history has 20 of 20 events")
    assert [(one["kind"], one["why"]) for one in shown["kept"]["guards"]] == [
        ("hold", "case 17"),
        ("pin", "we need it"),
    ]
    assert (shown["kept"]["events"], shown["kept"]["limit"], shown["kept"]["origin"]) == (21, 20, None)
    run_eventflow("unpin", "r")
    run_eventflow("release", "r", "--why", "over")
    run_eventflow("compact", "r", "--before", "15", "--yes")
    assert "compacted: its history begins at version 15" in run_eventflow("show", "r").out
    kept = run_eventflow("show", "r", "-o", "json").json["kept"]
    assert (kept["origin"], kept["events"], kept["guards"]) == (15, 7, [])


def test_store_info_names_what_is_kept_and_the_quota(run_eventflow, limited, desk):
    """Pins, holds, origins; how much of the store's limit is used, and what makes room where that is much."""
    run_eventflow("compact", "r", "--before", "15", "--yes")
    run_eventflow("pin", "r")
    document = run_eventflow("store", "info", "-o", "json").json["kept"]
    assert document["guards"] == [{"run": "r", "kind": "pin", "why": ""}]
    assert document["compacted"] == [{"run": "r", "origin": 15}]
    assert (document["limit"], document["held_bytes"] > 0) == (None, True)
    (desk / "eventflow.toml").write_text("[quota]\nstore_bytes = 10_000\n")
    text = run_eventflow("store", "info").out
    assert "pinned: r\n" in text
    assert "compacted: r (from version 15)\n" in text
    assert "`store prune` makes room" in text
    refused = run_eventflow("run", "loop.py:flow", "--id", "new", "--input", '{"n": 0}')
    assert (refused.code, refused.err.count("\n"), "store prune" in refused.err) == (6, 1, True)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("", None),
        ("[quota]\n", None),
        ("[quota]\nrun_events = 5\n", Quota(run_events=5)),
        ('[quota]\nrun_events = "none"\nstore_bytes = 7\n', Quota(run_events=None, store_bytes=7)),
    ],
)
def test_limits_stand_in_the_settings(desk, text, quota):
    """A name each, as in `Quota`; the word none where there is none."""
    (desk / "eventflow.toml").write_text(text)
    assert quota_of() == quota


@pytest.mark.parametrize("text", ["quota = 3\n", "[quota]\nevents = 3\n", "[quota]\nrun_events = 0\n"])
def test_settings_that_mean_nothing_are_refused(desk, text):
    """With a sentence, before anything is driven."""
    (desk / "eventflow.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"quota|Quota"):
        quota_of()

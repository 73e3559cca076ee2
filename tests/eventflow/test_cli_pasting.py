"""Commands that sentences suggest can be pasted: they name the store and the workflow that were typed, and nothing else."""

from __future__ import annotations

import shlex
import signal

import pytest

from eventflow.cli.pasting import options, pasteable, typed

FLOW = "flows:failing"


@pytest.mark.parametrize(
    ("argv", "store", "flows"),
    [
        (["show", "r"], None, []),
        (["show", "r", "--store", "a b"], "a b", []),
        (["resume", "r", "--store=s", "--flow=m:f", "--flow", "n:g"], "s", ["m:f", "n:g"]),
        (["run", "m:f", "--id", "r", "--store", "s"], "s", ["m:f"]),
        (["run", "--id", "r"], None, []),
        (["list", "--store"], None, []),
    ],
)
def test_what_was_typed_is_found(argv, store, flows):
    """The store and the workflows of a command line; what comes from the settings is none of it."""
    assert typed(argv) == (store, flows)


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ("do `eventflow resume r`", "do `eventflow resume r --flow m:f --store 'a b'`"),
        ("`eventflow resume r --flow x:y` or", "`eventflow resume r --flow x:y --store 'a b'` or"),
        ("`eventflow show r`, `eventflow list`", "`eventflow show r --store 'a b'`, `eventflow list --store 'a b'`"),
        ("`eventflow store verify` and", "`eventflow store verify --store 'a b'` and"),
        ("`eventflow resume r --store s --flow m:f`", "`eventflow resume r --store s --flow m:f`"),
        ("`replay fork r --run`", "`replay fork r --run --store 'a b'`"),
        ("`eventflow store restore x DEST`", "`eventflow store restore x DEST`"),
        ("and `eventflow send` leaves one", "and `eventflow send` leaves one"),
        ("`eventflow check m:f`, `resume`, eventflow show r", "`eventflow check m:f`, `resume`, eventflow show r"),
    ],
)
def test_a_command_names_what_it_needs_and_what_it_does_not_name_yet(said, made):
    """Only commands on the store that was typed, each once; without anything typed nothing is changed."""
    assert pasteable(said, "a b", ["m:f"]) == made
    assert pasteable(made, "a b", ["m:f"]) == made
    assert pasteable(said, None) == said
    assert options(None) == ""


def pasted(run_eventflow, sentence: str, verb: str):
    """What the suggested command does that begins with a verb."""
    command = next(one for one in sentence.split("`")[1::2] if one.startswith(f"eventflow {verb}"))
    return run_eventflow(*shlex.split(command)[1:])


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (("show", "nobody"), "list"),
        (("run", FLOW, "--id", "r"), "resume"),
        (("retry", "r", "--flow", FLOW), "resume"),
        (("resume", "r", "--at", "c-99", "--flow", FLOW), "checkpoints"),
    ],
)
def test_an_error_s_command_works_where_it_was_said(run_eventflow, flows, words, verb):
    """In a store that is not the default one."""
    assert run_eventflow("run", FLOW, "--id", "r", "--store", "a b").code == 1
    ended = run_eventflow(*words, "--store", "a b")
    assert ended.code != 0
    assert "--store 'a b'`" in ended.err
    assert pasted(run_eventflow, ended.err, verb).code in (0, 1)


def test_how_a_wait_ends_is_said_with_the_store(run_eventflow, flows, process):
    """By `run` as it is asked and as it ends, and by `show`."""
    with (flows).open("a") as file:
        file.write(
            "\nfrom eventflow import Human\n"
            "person = Workflow('person').add_node('ask', Human(prompt='well?', writes='a')).set_start('ask')\n"
        )
    running = process("eventflow", "run", "flows:person", "--id", "r", "--store", "s")
    asks = [running.popen.stderr.readline() for _ in range(2)]
    running.signal(signal.SIGINT)
    left = running.ended()
    shown = run_eventflow("show", "r", "--store", "s")
    for said in ("".join(asks), left.out, shown.out):
        assert "answer with: eventflow answer r JSON --store s" in said
    assert "`eventflow resume r --flow flows:person --store s`" in left.err

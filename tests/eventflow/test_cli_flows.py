"""How a workflow is named on the command line and in the settings, and what a bad name gets."""

from __future__ import annotations

import sys

import pytest

from eventflow.cli.flows import load_flow, load_flows
from eventflow.errors import DefinitionError, SettingsError


def refused(name: str) -> str:
    """The sentence a name gets."""
    with pytest.raises(SettingsError) as caught:
        load_flow(name)
    return str(caught.value)


def test_a_module_and_a_file_give_the_same(flows):
    """`MODULE:NAME` looks in the working directory, `path/to/file.py:NAME` anywhere."""
    assert load_flow("flows:flow").digest == load_flow("flows.py:flow").digest
    assert load_flow(f"{flows}:flow").name == "steps"


def test_a_function_may_give_the_workflow(flows):
    """A name may be a Workflow, or a function without arguments that gives one."""
    assert load_flow("flows:make").name == "made"


def test_a_file_without_a_name_says_which_it_has(flows):
    """As they would be typed."""
    assert "write flows.py:flow or flows.py:failing" in refused("flows.py")
    assert "write flows.py:flow or " in refused("flows.py:")


def test_a_module_of_a_package_is_found(desk):
    """Dotted names are modules of packages, with or without an `__init__.py`."""
    for package in ("regular", "namespace"):
        (desk / package / "deep").mkdir(parents=True)
        (desk / package / "deep" / "mod.py").write_text("from flows import flow\n")
    (desk / "flows.py").write_text("from eventflow import Workflow\nflow = Workflow('w')\n")
    (desk / "regular" / "__init__.py").touch()
    (desk / "regular" / "deep" / "__init__.py").touch()
    for package in ("regular", "namespace"):
        assert load_flow(f"{package}.deep.mod:flow").name == "w"


def test_a_file_finds_its_neighbours(desk):
    """What lies beside the file can be imported by it, wherever the command runs."""
    (desk / "there").mkdir()
    (desk / "there" / "neighbour_of_flow.py").write_text("NAME = 'near'\n")
    (desk / "there" / "f.py").write_text(
        "from eventflow import Workflow\nfrom neighbour_of_flow import NAME\nflow = Workflow(NAME)\n"
    )
    assert load_flow("there/f.py:flow").name == "near"


def test_a_file_may_have_the_name_of_a_library(desk):
    """`json.py` is the user's file, its types are resolved in it, and the library stays what it is."""
    json = sys.modules["json"]
    (desk / "json.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TypedDict\n"
        "from eventflow import Workflow\n"
        "class Own: pass\n"
        "class S(TypedDict):\n    n: int\n"
        "flow = Workflow('j', state=S).add_node('a', lambda s: {}).set_start('a')\n"
    )
    assert tuple(load_flow("json.py:flow").schema.fields) == ("n",)
    assert sys.modules["json"] is json


def test_two_workflows_of_one_file_share_it(desk):
    """The file is loaded once."""
    (desk / "f.py").write_text(
        "from pathlib import Path\nfrom eventflow import Workflow\n"
        "with Path('loads').open('a') as file:\n    file.write('x')\n"
        "a, b = Workflow('a'), Workflow('b')\n"
    )
    assert [flow.name for flow in load_flows(["f.py:a", "f.py:b"])] == ["a", "b"]
    assert (desk / "loads").read_text() == "x"


@pytest.mark.parametrize("name", ["", "flows", ":flow", "flows:", ":"])
def test_a_name_without_two_parts_says_how_to_write_one(name):
    """The form is told."""
    assert "write MODULE:NAME or path/to/file.py:NAME" in refused(name)


@pytest.mark.parametrize(
    "name", ["nope:flow", "nope.mod:flow", "flows.mod:flow", "..:x", "a..b:x", "a b:x", "json.decoder.x:y"]
)
def test_a_module_that_is_not_there_is_named(flows, name):
    """And where it was looked for."""
    assert refused(name).startswith(f"there is no module {name.partition(':')[0]!r} in /")


def test_a_file_that_is_not_there_is_named(desk):
    """A path is a path."""
    assert refused("nope.py:flow") == "there is no file nope.py"
    (desk / "folder.py").mkdir()
    assert refused("folder.py:flow") == "there is no file folder.py"


@pytest.mark.parametrize("name", ["flows:nope", "flows:time", "flows.py:FLOWS"])
def test_a_name_that_is_no_workflow_tells_which_there_are(flows, name):
    """What is in the module is listed."""
    assert "(it has: flow, failing, waiting, blocking, asking)" in refused(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = (", "SyntaxError: '(' was never closed (f.py, line 1)"),
        ("import no_such_package_here", "ModuleNotFoundError: No module named 'no_such_package_here' at f.py:1"),
        ("from json import nothing", "ImportError: cannot import name 'nothing'"),
        ("\n\nraise RuntimeError('early')", "RuntimeError: early at f.py:3"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 at f.py:2"),
        ("def flow(x): pass", "TypeError: flow() missing 1 required positional argument: 'x'"),
        ("def flow():\n    return 1 / 0", "ZeroDivisionError: division by zero at f.py:2"),
    ],
)
@pytest.mark.parametrize("where", ["f.py:flow", "f:flow"])
def test_code_that_can_t_be_loaded_is_told_with_its_place(desk, content, said, where):
    """The user's own error, where it is in the user's own file, and what to do."""
    (desk / "f.py").write_text(content)
    sentence = refused(where)
    assert said in sentence
    assert "can't be loaded" in sentence


def test_a_package_that_can_t_be_loaded_is_not_taken_for_a_missing_one(desk):
    """Finding a module imports the packages around it; what they raise is told as theirs."""
    (desk / "pack").mkdir()
    (desk / "pack" / "mod.py").touch()
    (desk / "pack" / "__init__.py").write_text("import no_such_package_here\n")
    assert refused("pack.mod:flow").startswith(
        "pack can't be loaded: ModuleNotFoundError: No module named 'no_such_pack"
    )


def test_an_error_of_ours_keeps_its_sentence(desk):
    """What a definition does wrong is told as it is everywhere else."""
    (desk / "f.py").write_text("from eventflow import Workflow\nflow = Workflow('')\n")
    with pytest.raises(DefinitionError, match="a workflow needs a name"):
        load_flow("f.py:flow")


@pytest.mark.parametrize("value", ['"flows:flow"', "3", "[3]", "{a = 1}"])
def test_workflows_in_the_settings_are_a_list_of_names(desk, value):
    """Anything else is refused by the setting's name."""
    (desk / "eventflow.toml").write_text(f"workflows = {value}\n")
    with pytest.raises(SettingsError, match="the setting `workflows`"):
        load_flows(None)


def test_given_names_come_before_the_settings(flows, desk):
    """--flow replaces what the settings list; without either there are none."""
    assert load_flows(None) == []
    (desk / "eventflow.toml").write_text('workflows = ["flows:failing"]\n')
    assert [flow.name for flow in load_flows(None)] == ["failing"]
    assert [flow.name for flow in load_flows(["flows:flow"])] == ["steps"]

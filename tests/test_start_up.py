"""What is loaded to start: nothing that a command does not need, so that the first answer comes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "cbor2", "cyclopts", "httpx", "lmdb", "openai", "pydantic", "rich", "structlog", "transitions", "zstandard",
}  # fmt: skip

COMMAND = """
import contextlib, io
from {package}.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main({argv!r})
"""


def loaded(code: str, cwd: Path) -> set[str]:
    """The top-level modules of a fresh Python that has run some code."""
    code += "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def command(package: str, *argv: str) -> str:
    """Code that runs a command line and swallows what it prints."""
    return COMMAND.format(package=package, argv=list(argv))


def test_importing_eventflow_loads_no_other_package(tmp_path):
    """`import eventflow` is a few files of the standard library: what a name needs is loaded when it is asked for."""
    assert not loaded("import eventflow", tmp_path) & (HEAVY | {"asyncio", "sqlite3", "http"})


def test_importing_replay_loads_no_other_package(tmp_path):
    """The same holds for `import replay`."""
    assert not loaded("import replay", tmp_path) & HEAVY


def test_the_names_of_eventflow_do_not_load_the_client(tmp_path):
    """Workflows without agents never pay for the model client."""
    code = "from eventflow import Engine, Workflow, CheckpointPolicy, RetryPolicy, extend, recover, open_log"
    found = loaded(code, tmp_path)
    assert "lmdb" in found
    assert not found & {"openai", "httpx", "structlog", "rich", "cyclopts"}


def test_an_agent_loads_the_client_when_it_calls(tmp_path):
    """Naming and defining one does not."""
    code = "from eventflow import Agent, Workflow\nWorkflow('w').add_node('a', Agent(model='m', reads='q', writes='a'))"
    assert "openai" not in loaded(code, tmp_path)


@pytest.mark.parametrize(
    ("package", "argv"),
    [
        ("eventflow", ["--help"]), ("eventflow", ["run", "--help"]), ("eventflow", ["--version"]), ("eventflow", ["list"]),
        ("eventflow", ["list", "-o", "json"]), ("eventflow", ["store", "verify"]), ("replay", ["--help"]), ("replay", ["log", "r"]),
    ],
)  # fmt: skip
def test_a_command_loads_neither_the_client_nor_the_logger(tmp_path, package, argv):
    """Help and reading need no model client, no types of user's states, no log lines, no keys, no processes."""
    needless = {"openai", "httpx", "structlog", "pydantic", "psycopg", "textual", "cryptography", "multiprocessing"}
    assert not loaded(command(package, *argv), tmp_path) & needless


def test_replay_loads_nothing_that_decides(tmp_path):
    """It reads: neither the library of the machines nor an engine is there."""
    code = command("replay", "log", "r") + "\nimport sys\nassert 'eventflow.engine' not in sys.modules"
    assert "transitions" not in loaded(code, tmp_path)

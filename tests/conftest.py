"""Fixtures that any test may ask for; nothing here knows about one module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("eventflow.testing.contract")  # so that a failed contract says what it saw

from eventflow.cli import build as build_eventflow
from eventflow.cli.shell import run_app
from eventflow.clock import ManualClock
from replay.cli import build as build_replay

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0  # seconds until a process that should have done something is given up
SETTINGS = ("EVENTFLOW_STORE", "EVENTFLOW_MAP_SIZE", "EVENTFLOW_DEMO_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write what a test has found out as a JSON line to the file that EVENTFLOW_REPORT names; see reliability.py."""
    path = os.environ.get("EVENTFLOW_REPORT")
    if path and (report.when == "call" or report.skipped):
        figures = [text for name, text in report.user_properties if name == "figures"]
        line = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 1),
            "figures": figures,
        }
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


# --- command lines -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """What a command line left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out, parse_constant=pytest.fail)

    @property
    def lines(self) -> list[Any]:
        """The JSON lines on stdout."""
        return [json.loads(line, parse_constant=pytest.fail) for line in self.out.splitlines()]

    @property
    def sentence(self) -> str:
        """What was said on stderr, which must be one line without a traceback."""
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.strip()


Command = Callable[..., Ended]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with no settings in it nor around it; modules loaded from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run_eventflow(desk: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `eventflow` with arguments in this process."""
    return _runner(build_eventflow(), capsys)


@pytest.fixture
def run_replay(desk: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `replay` with arguments in this process."""
    return _runner(build_replay(), capsys)


def _runner(app: Any, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*argv: object) -> Ended:
        capsys.readouterr()
        code = run_app(app, [str(one) for one in argv])
        return Ended(code, *capsys.readouterr())

    return run


class Process:
    """A command line as a process of its own."""

    def __init__(self, argv: Sequence[str], cwd: Path, **options: Any) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        environment |= {"PYTHONPATH": str(ROOT), **options.pop("env", {})}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", *argv], cwd=cwd, env=environment, text=True, encoding="utf-8", **streams
        )

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def ended(self) -> Ended:
        """Wait for its end."""
        out, err = self.popen.communicate(timeout=PATIENCE)
        return Ended(self.popen.returncode, out or "", err or "")


@pytest.fixture
def process(desk: Path) -> Iterator[Callable[..., Process]]:
    """Start `python -m PACKAGE ARGUMENTS` as a process, which does not outlive the test."""
    started: list[Process] = []

    def start(*argv: object, **options: Any) -> Process:
        started.append(Process([str(one) for one in argv], desk, **options))
        return started[-1]

    yield start
    for one in started:
        one.popen.kill()
        one.popen.communicate()


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for something that another process does; its first true answer. It fails at once if the process ends first."""

    def wait(look: Callable[[], Any], process: Process | None = None) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (answer := look()):
            if process is not None and process.popen.poll() is not None and not look():
                pytest.fail(f"the process ended: {process.ended()}")
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)
        return answer

    return wait


# --- workflows -----------------------------------------------------------------------------------------------------

FLOWS = """
from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, TypedDict

from eventflow import Agent, RetryPolicy, Workflow, extend


class Numbers(TypedDict, total=False):
    n: int
    notes: Annotated[list[str], extend]


def plus(state):
    return {"n": state["n"] + 1, "notes": ["plus"]}


flow = (
    Workflow("steps", state=Numbers)
    .add_node("first", plus)
    .add_node("second", lambda state: {"notes": ["second"]})
    .add_edge("first", "second")
    .set_start("first")
)


def one(name, body, **options):
    return Workflow(name).add_node("only", body, **options).set_start("only")


def fails(state):
    if not Path("mended").exists():
        raise ValueError("it \\x1b[31mbroke\\x1b[0m \\u202e here")
    return {"mended": True}


failing = one("failing", fails)


async def waits(state):
    Path("began").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.005)
    await asyncio.sleep(float(Path("go").read_text() or 0))
    return {"gone": True}


def blocks(state):
    Path("began").touch()
    while not Path("go").exists():
        time.sleep(0.005)
    time.sleep(float(Path("go").read_text() or 0))
    return {"gone": True}


def two(name, body):
    return (
        Workflow(name)
        .add_node("gate", body)
        .add_node("after", lambda state: {"after": True})
        .add_edge("gate", "after")
        .set_start("gate")
    )


waiting = two("waiting", waits)
blocking = two("blocking", blocks)
asking = one("asking", Agent(model="m", reads="q", writes="a"), retry=RetryPolicy(attempts=2, delay=0.001))


def make():
    return one("made", lambda state: {"made": True})
"""


@pytest.fixture
def flows(desk: Path) -> Path:
    """A file of workflows, `flows.py`, in the working directory."""
    file = desk / "flows.py"
    file.write_text(FLOWS)
    return file

"""Child processes for tests about several processes, and about what ends one; stores as an engine leaves them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventflow import Engine, Wait, Workflow
from eventflow.log import LmdbLog
from eventflow.verification import Report, verify_store


@dataclass
class Child:
    """A forked child that runs one function; what it returns, or the error it raised, comes back as text."""

    pid: int
    pipe: int
    status: int | None = None

    def answer(self) -> str:
        """Wait for the child's end; its answer, or `signal N` if one ended it."""
        with os.fdopen(self.pipe, "rb") as pipe:
            text = pipe.read().decode()
        self.end()
        assert self.status is not None
        return text or f"signal {os.WTERMSIG(self.status)}"

    def line(self) -> str:
        """Wait for what the child says before its end."""
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(self.pipe, 1)
        return text.decode().strip()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """Wait until it is gone."""
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]


def _run(work: Callable[..., object], pipe: int) -> None:
    def say(text: str) -> None:
        os.write(pipe, f"{text}\n".encode())

    try:
        result = work(say) if work.__code__.co_argcount else work()
        os.write(pipe, str(result).encode())
    except BaseException as error:  # noqa: BLE001 - told to the parent
        os.write(pipe, f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(0)


@pytest.fixture
def child() -> Iterator[Callable[[Callable[..., object]], Child]]:
    """Start a function in a forked child; one that takes an argument is given a way to say a line before its end."""
    started: list[Child] = []

    def start(work: Callable[..., object]) -> Child:
        reading, writing = os.pipe()
        with warnings.catch_warnings():  # Python 3.12 warns of forking while threads run; some tests are about that
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            os.close(reading)
            _run(work, writing)
        os.close(writing)
        started.append(Child(pid, reading))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(OSError):
            os.close(one.pipe)
        if one.status is None:
            with contextlib.suppress(ProcessLookupError):
                one.kill(signal.SIGKILL)
            one.end()


# --- stores that hold what an engine writes ------------------------------------------------------------------------


def counting(steps: int = 4, *, heavy: int = 0) -> Workflow:
    """A workflow that counts, with bytes that do not compress in each step if asked, and then waits if `hold` is set."""
    flow = Workflow("counting")
    flow.add_node("count", lambda state: {"n": state["n"] + 1, "load": os.urandom(heavy)})
    flow.add_node("hold", Wait(signal="go")).add_node("end", lambda state: {"done": True})
    flow.add_edge("count", "count", when=lambda state: state["n"] < steps, label="more")
    flow.add_edge("count", "hold", when=lambda state: state.get("hold"), label="hold")
    return flow.add_edge("count", "end").add_edge("hold", "end").set_start("count")


@pytest.fixture(name="counting")
def _counting() -> Callable[..., Workflow]:
    """The workflow that `fill` runs."""
    return counting


@pytest.fixture
def fill() -> Callable[..., None]:
    """Run some counting runs in a store, by their ids; with `hold`, they end up waiting for the signal `go`."""

    def run(path: Path, *ids: str, steps: int = 4, heavy: int = 700, hold: bool = False) -> None:
        async def work() -> None:
            flow = counting(steps, heavy=heavy)
            async with Engine(path, workflows=[flow]) as engine:
                for one in ids:
                    run = await engine.start(flow, {"n": 0, "hold": hold}, run_id=one)
                    while hold and run.state.status != "waiting":
                        await asyncio.sleep(0.005)
                    if not hold:
                        await run.result()

        asyncio.run(work())

    return run


@pytest.fixture
def sound() -> Callable[[Path], Report]:
    """Verify a store that must hold from its first byte to its last; returns what was looked at."""

    def verified(path: Path) -> Report:
        with closing(LmdbLog(path, readonly=True)) as log:
            *_, report = verify_store(log)
        assert report.findings == []
        return report

    return verified

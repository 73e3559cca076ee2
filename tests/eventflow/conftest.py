"""Child processes for tests about several processes, and about what ends one."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest


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

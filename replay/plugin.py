"""The pytest plugin that rehearses histories: each `*.cborseq` file is a test, or one for each run in it.

pytest imports this file at every start, so it imports pytest and nothing else. What rehearses is loaded with the first
such file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from eventflow.exchange import ExportLog
    from eventflow.log import Head
    from replay.rehearse.regression import Suite

EXPORT = ".cborseq"  # what the name of an export ends with
LIMIT = 10.0  # seconds a body may take


class Diverged(Exception):
    """A run does not come out as it was recorded."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which workflows, how deep, and what of others."""
    group = parser.getgroup("eventflow", "workflows that survive anything")
    group.addoption(
        "--eventflow-flow",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="a workflow that histories are held against",
    )
    group.addoption(
        "--eventflow-nodes", action="store_true", help="run bodies of nodes too, calls served from the history"
    )
    group.addoption(
        "--eventflow-unknown",
        choices=["fail", "skip"],
        help="what to do with histories of workflows that are not named",
    )
    parser.addini(
        "eventflow_flows", "workflows that *.cborseq files are held against, as MODULE:NAME", "linelist", default=[]
    )
    parser.addini("eventflow_nodes", "run bodies of nodes too", "bool", default=False)
    parser.addini("eventflow_unknown", "histories of workflows that are not named: fail or skip", default="fail")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> HistoryFile | None:
    """A file of histories, if it is one."""
    if file_path.suffix != EXPORT:
        return None
    collected: HistoryFile = HistoryFile.from_parent(parent, path=file_path)
    return collected


class HistoryFile(pytest.File):
    """An export: a test for each run in it."""

    def collect(self) -> Iterator[HistoryRun]:
        """Read and verify the file; what is in it."""
        from eventflow.errors import EventflowError  # noqa: PLC0415 - see the docstring
        from eventflow.exchange import read_export  # noqa: PLC0415 - see the docstring
        from replay.rehearse.regression import runs_of  # noqa: PLC0415 - see the docstring

        try:
            suite = _suite(self.config)
            log = read_export(self.path)
            heads = runs_of(log, log.run)
        except EventflowError as error:
            raise self.CollectError(f"{self.path.name}: {error}") from None
        for head in heads:
            yield HistoryRun.from_parent(self, name=head.run_id, suite=suite, log=log, head=head)


class HistoryRun(pytest.Item):
    """One run, which must come out as it was recorded."""

    def __init__(self, *, suite: Suite, log: ExportLog, head: Head, **more: Any) -> None:
        super().__init__(**more)
        self._suite, self._log, self._head = suite, log, head

    def runtest(self) -> None:
        """Rehearse it."""
        from replay.rehearse import Limits  # noqa: PLC0415 - see the docstring
        from replay.rehearse.regression import UnknownWorkflow, told  # noqa: PLC0415 - see the docstring

        config = self.config
        nodes = config.getoption("eventflow_nodes") or config.getini("eventflow_nodes")
        found_in = tuple(map(str, config.getini("pythonpath")))
        try:
            report = self._suite.rehearsed(
                self._log, self._head, self.path, nodes=nodes, limits=Limits(LIMIT, found_in, str(config.rootpath))
            )
        except UnknownWorkflow as error:
            if (config.getoption("eventflow_unknown") or config.getini("eventflow_unknown")) == "skip":
                pytest.skip(str(error))
            raise Diverged(str(error)) from None
        if report.findings:
            raise Diverged(told(report))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What differs, in words; a traceback for anything else."""
        from eventflow.errors import EventflowError  # noqa: PLC0415 - see the docstring

        if isinstance(excinfo.value, Diverged | EventflowError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it is from."""
        return self.path, None, f"history {self.path.name}: {self.name}"


_SUITE = pytest.StashKey["Suite"]()


def _suite(config: pytest.Config) -> Suite:
    """The workflows that were named, loaded once."""
    from replay.rehearse.regression import load_suite  # noqa: PLC0415 - see the docstring

    if _SUITE not in config.stash:
        names = [*config.getoption("eventflow_flow")] or config.getini("eventflow_flows")
        config.stash[_SUITE] = load_suite(names, config.rootpath)
    return config.stash[_SUITE]

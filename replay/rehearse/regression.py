"""A folder of histories as a regression suite: which workflow is held against which run, and what is said of it.

Workflows are those that the user has named; a name that stands in a history is looked for among them, and never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eventflow.cli.flows import load_flow
from eventflow.cli.shell import settings, value_text, visible
from eventflow.errors import EventflowError, SettingsError
from eventflow.log import Head, Log, Query
from eventflow.workflow import Workflow
from replay.path import MISSING
from replay.rehearse.apart import Limits, Source, rehearse_apart
from replay.rehearse.report import Finding, RunReport
from replay.rehearse.routes import rehearse_run

MAX_TOLD = 20  # differences of a run that are told: the first is the one to mend, the others often follow from it


class UnknownWorkflow(EventflowError):
    """A history is of a workflow that was not named."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Suite:
    """Today's workflows by their names, each with the name it was loaded by."""

    flows: dict[str, tuple[str, Workflow]]

    def rehearsed(
        self, log: Log, head: Head, file: Path, *, nodes: bool = False, limits: Limits | None = None
    ) -> RunReport:
        """How a run of an export comes out today; with `nodes` its bodies too, in a process of its own.

        Raises UnknownWorkflow, RehearsalFailed, Corrupt.
        """
        named = workflow_of(log, head)
        if named not in self.flows:
            known = ", ".join(sorted(self.flows)) or "none"
            raise UnknownWorkflow(
                f"run {head.run_id} is a history of workflow {named!r}, which is not among those to rehearse (they are: {known}); "
                f"name it in eventflow_flows as MODULE:NAME"
            )
        name, flow = self.flows[named]
        if nodes:
            found = rehearse_apart([Source(str(file), (head.run_id,), export=True)], name, nodes=True, limits=limits)
            report = found.runs[0] if found.runs else None
        else:
            report = rehearse_run(flow, log, head)
        if report is None:
            raise UnknownWorkflow(f"{name} is another workflow than {named!r} when it is loaded anew")
        return report


def load_suite(names: Sequence[str], root: Path) -> Suite:
    """The workflows of these names, or those of the settings; files are looked for from a folder. Raises SettingsError."""
    given = list(names) or settings().get("workflows", [])
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise SettingsError(f'the setting `workflows` is {given!r}; give a list of names, as in ["module:flow"]')
    flows: dict[str, tuple[str, Workflow]] = {}
    for one in given:
        name = _from(root, one)
        flow = load_flow(name)
        if flow.name in flows:
            raise SettingsError(f"{flows[flow.name][0]} and {name} are both workflow {flow.name!r}; name one of them")
        flows[flow.name] = (name, flow)
    return Suite(flows)


def _from(root: Path, name: str) -> str:
    """A name whose file, if it names one, is found from any working directory."""
    where, colon, attribute = name.rpartition(":")
    return f"{root / where}{colon}{attribute}" if where.endswith(".py") else name


def workflow_of(log: Log, head: Head) -> str:
    """The name of a run's workflow."""
    entry = log.entry(head.run_key)
    return "" if entry is None else entry.workflow


def runs_of(log: Log, named: str) -> list[Head]:
    """The runs of an export that are meant: the one that was asked for, or all."""
    only = log.head(named) if named else None
    return [only] if only is not None else [one.head for one in log.runs(Query())]


def told(report: RunReport) -> str:
    """Why a run does not come out as it was recorded, for people."""
    first = report.findings[0]
    outcome = "needs a migration" if report.verdict == "migrate" else "diverges"
    lines = [f"run {report.run_id} {outcome} at version {first.version}, in node {first.node!r}:", f"  {first.problem}"]
    lines += _values(first)
    lines += [f"version {one.version}, in node {one.node!r}: {one.problem}" for one in report.findings[1:MAX_TOLD]]
    if len(report.findings) > MAX_TOLD:
        lines.append(f"and {len(report.findings) - MAX_TOLD} more")
    if report.definition:
        lines.append(f"the definition changed: {report.definition}")
    return visible("\n".join(lines), lines=True)


def _values(one: Finding) -> list[str]:
    pairs = (("recorded", one.recorded), ("now", one.now))
    return [f"  {name}: {value_text(value)}" for name, value in pairs if value is not MISSING]

"""Commands that hold today's code against recorded runs: rehearse, bisect."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from eventflow.address import find_run
from eventflow.cli.flows import load_flow
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    USAGE,
    FormatArg,
    StoreArg,
    argument,
    print_json,
    print_table,
    store_path,
    visible,
)
from eventflow.errors import SettingsError
from eventflow.log import Head, Log, Query
from eventflow.recovery import recover
from replay.bisect import Bisection, Trial, first_revision, first_variant, revisions
from replay.cli.opening import is_export, open_history
from replay.cli.values import value_text
from replay.export import read_history
from replay.rehearse import (
    Finding,
    Limits,
    Receipt,
    Rehearsal,
    RunReport,
    Source,
    chosen,
    migration,
    rehearse,
    rehearse_apart,
    together,
)

REHEARSAL, BISECTION = "eventflow.rehearsal/1", "eventflow.bisection/1"
COLUMNS = ("run", "outcome", "version", "node", "because")
ATTEMPTS = 10  # of what was blocked, told in a table
AllArg = Annotated[bool, argument(name="--all", negative=(), help="All runs of the store.")]
SampleArg = Annotated[int, argument(name="--sample", help="So many runs of the store, the same each time.")]
RoutesArg = Annotated[bool, argument(name="--routes", negative=(), help="Ask guards alone; this is the default.")]
NodesArg = Annotated[
    bool, argument(name="--nodes", negative=(), help="Run bodies too, calls served from the log, nothing else let out.")
]
LimitArg = Annotated[float, argument(name="--limit", help="Seconds a body may take.")]
MigrationArg = Annotated[
    str | None,
    argument(
        name="--migration",
        allow_leading_hyphen=True,
        help="Write a stub of a migration to this file; - for the terminal.",
    ),
]


def rehearse_(
    flow: str, /, *runs: str, everything: AllArg = False, sample: SampleArg = 0, routes: RoutesArg = False,
    nodes: NodesArg = False, limit: LimitArg = 10.0, migration_file: MigrationArg = None, store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Ask today's code about recorded runs: same, needs migration, or diverges, and where. Exit code 4 if any does.

    Parameters
    ----------
    flow
        Today's workflow: MODULE:NAME, or path/to/file.py:NAME.
    runs
        The runs, or files of exports, which stand for the runs in them; or --all, or --sample N.
    """
    if routes and nodes:
        raise SettingsError("--routes asks guards alone, and --nodes runs bodies too; give one of them")
    held = _held(runs, store, everything=everything, sample=sample)
    try:
        if nodes:
            found = rehearse_apart([one.source for one in held], flow, nodes=True, limits=Limits(body=limit))
        else:
            loaded = load_flow(flow)
            found = together([rehearse(loaded, one.log, one.heads) for one in held])
        stub = None if migration_file is None else _stub(held, flow)
    finally:
        for one in held:
            one.log.close()
    if migration_file not in (None, "-") and stub is not None:
        Path(str(migration_file)).write_text(stub, encoding="utf-8")
    _tell(found, output)
    if migration_file == "-" and stub is not None:
        print(visible(stub, lines=True), file=sys.stdout if output == "table" else sys.stderr, end="")
    return OK if found.same else DIFFERENCE


@dataclass(frozen=True, slots=True)
class _Held:
    """A store, or an export, that is open, the same for another process, and the runs of it that are meant."""

    log: Log
    source: Source
    heads: Sequence[Head]


def _ids(heads: Sequence[Head]) -> tuple[str, ...]:
    return tuple(head.run_id for head in heads)


def _held(runs: Sequence[str], store: str | None, *, everything: bool = False, sample: int = 0) -> list[_Held]:
    """What is meant by runs and files of exports. Raises SettingsError, and whatever reading raises."""
    files = [run for run in runs if is_export(run)]
    ids = [run for run in runs if not is_export(run)]
    if files and (everything or sample):
        raise SettingsError("a file stands for all runs in it; give files, or --all, or --sample N")
    held: list[_Held] = []
    for file in files:
        log = read_history(Path(file))
        heads = [find_run(log, log.run)] if log.run else [one.head for one in log.runs(Query())]
        held.append(_Held(log, Source(file, _ids(heads), export=True), heads))
    if ids or everything or sample or not files:
        opened = open_history(store)
        try:
            heads = chosen(opened, [find_run(opened, run) for run in ids], everything=everything, sample=sample)
        except BaseException:
            opened.close()
            raise
        place = store_path(store)
        held.append(_Held(opened, Source(place, _ids(heads), is_export(place)), heads))
    return held


def _stub(held: Sequence[_Held], flow: str) -> str:
    """A migration from all that the chosen runs recorded, nodes and fields put together."""
    loaded = load_flow(flow)
    recorded: dict[str, dict[str, None]] = {"nodes": {}, "fields": {}}
    for one in held:
        for head in one.heads:
            run = recover(one.log, head).state.run
            if run.workflow == loaded.name:
                for what, names in recorded.items():
                    names.update(dict.fromkeys(run.definition.get(what, ())))
    return migration(loaded.name, recorded, loaded.shape)


# --- bisect --------------------------------------------------------------------------------------------------------

GitArg = Annotated[str | None, argument(name="--git", help="GOOD..BAD: revisions to look among, by halves.")]
PathArg = Annotated[str, argument(name="--path", help="Where in the repository the workflow's code lies.")]
TRIALS = ("variant", "outcome", "version", "node", "because")


def bisect_(
    run: str, flow: str, /, *others: str, git: GitArg = None, path: PathArg = ".", routes: RoutesArg = False,
    nodes: NodesArg = False, limit: LimitArg = 10.0, store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Find the first variant, or the first revision, with which a run comes out otherwise. Exit code 4 if there is one.

    Parameters
    ----------
    run
        The recorded run that variants are held against, or the file of its export.
    flow
        A variant: MODULE:NAME, or path/to/file.py:NAME.
    others
        More variants, in the order in which they are tried.
    """
    if routes and nodes:
        raise SettingsError("--routes asks guards alone, and --nodes runs bodies too; give one of them")
    if git is not None and others:
        raise SettingsError("with --git one workflow is tried at many revisions; name just one")
    (held,) = _held([run], store)
    held.log.close()
    if len(held.heads) != 1:
        raise SettingsError(f"{run} holds several runs; name one, and the file with --store {run}")
    head = held.heads[0]

    def attempt(name: str, limits: Limits) -> Rehearsal:
        return rehearse_apart([held.source], name, nodes=nodes, limits=limits)

    if git is None:
        found = first_variant([flow, *others], lambda name: attempt(name, Limits(body=limit)))
    else:
        span = revisions(git, Path(path))
        found = first_revision(span, lambda place: attempt(flow, Limits(limit, (place,), place)))
    if output == "table":
        _print_bisection(found, head.run_id)
    else:
        print_json({"schema": BISECTION, "run": head.run_id, **_bisection(found)}, lines=output == "jsonl")
    if found.first is not None:
        return DIFFERENCE
    return USAGE if found.passed_over == len(found.trials) else OK


def _bisection(found: Bisection) -> dict[str, Any]:
    return {
        "first": None if found.first is None else found.first.name,
        "untold": list(found.untold),
        "receipt": found.receipt.plain(),
        "trials": [_trial(one) for one in found.trials],
    }


def _trial(one: Trial) -> dict[str, Any]:
    report = one.rehearsal.runs[0].plain() if one.rehearsal is not None and one.rehearsal.runs else None
    return {"variant": one.name, "outcome": one.outcome, "problem": one.problem or None, "report": report}


def _print_bisection(found: Bisection, run_id: str) -> None:
    print_table(map(_trial_row, found.trials), TRIALS, f"run {run_id}; variants tried: {len(found.trials)}")
    print(visible(_conclusion(found)))
    if found.untold:
        print(visible(f"or one of these, which could not be tried: {', '.join(found.untold)}"))
    for line in receipt_lines(found.receipt, found.isolation):
        print(visible(line))


def _conclusion(found: Bisection) -> str:
    if found.first is not None:
        return f"the first to differ: {found.first.name}"
    if not found.passed_over:
        return "none of them differs from what was recorded"
    if found.passed_over < len(found.trials):
        return "none of those that could be tried differs from what was recorded"
    return "none of them could be tried"


def _trial_row(one: Trial) -> dict[str, Any]:
    if one.rehearsal is None or not one.rehearsal.runs:
        return {"variant": one.name, "outcome": one.outcome, "because": one.problem}
    return {**_row(one.rehearsal.runs[0]), "variant": one.name}


# --- told ----------------------------------------------------------------------------------------------------------


def _tell(found: Rehearsal, output: str) -> None:
    if output == "json":
        print_json({"schema": REHEARSAL, **document(found)})
    elif output == "jsonl":
        for one in found.runs:
            print_json({"schema": REHEARSAL, **one.plain()}, lines=True)
    else:
        print_table(map(_row, found.runs), COLUMNS, f"workflow {found.workflow}; runs rehearsed: {len(found.runs)}")
        for line in _lines(found):
            print(visible(line))


def document(found: Rehearsal) -> dict[str, Any]:
    """A rehearsal as a JSON document."""
    counts = {name: sum(one.verdict == name for one in found.runs) for name in ("same", "migrate", "diverges")}
    return {
        "workflow": found.workflow, "same": found.same, "skipped": found.skipped, "counts": counts,
        "isolation": found.isolation or None, "receipt": found.receipt.plain(), "runs": [one.plain() for one in found.runs],
    }  # fmt: skip


def _row(one: RunReport) -> dict[str, Any]:
    if not one.findings:
        return {"run": one.run_id, "outcome": "same"}
    first = one.findings[0]
    outcome = "needs migration" if one.verdict == "migrate" else "diverges"
    return {
        "run": one.run_id, "outcome": outcome, "version": first.version, "node": first.node, "because": because(one),
    }  # fmt: skip


def because(one: RunReport) -> str:
    """The first difference of a run, and how many more there are."""
    first = one.findings[0]
    values = _values(first) if first.kind in ("change", "effect") else ""
    more = f" (and {len(one.findings) - 1} more, with -o json)" if len(one.findings) > 1 else ""
    return f"{first.problem}{values}{more}"


def _values(first: Finding) -> str:
    pair = f"{value_text(first.recorded)}, now {value_text(first.now)}"
    return "" if pair == "-, now -" else f": {pair}"


def _lines(found: Rehearsal) -> list[str]:
    lines = [f"runs of other workflows, skipped: {found.skipped}"] if found.skipped else []
    lines += [f"the definition changed: {text}" for text in dict.fromkeys(one.definition for one in found.runs) if text]
    return [*lines, *receipt_lines(found.receipt, found.isolation)]


def receipt_lines(took: Receipt, isolation: str) -> list[str]:
    """What was asked, run, served and blocked, in a line, and what was tried in the lines after."""
    line = f"decisions asked: {took.decisions}, bodies run: {took.bodies}, calls served: {took.served}"
    line += f", calls blocked: {took.blocked_count}; behind {isolation}" if isolation else ""
    return [line, *(f"blocked: {attempt}" for attempt in took.blocked[:ATTEMPTS])]

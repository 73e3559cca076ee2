"""The command that opens the file of a history from anybody: says what it is and whether it holds, and goes on from it here.

A file is verified in a process of its own, which may take only so much. Only then is its history taken into a store, a
new one: events one by one as they were stored, never a stranger's files. A run of it is continued as a fork of the version
it stands on, since who sent it may still drive it; what drives the fork is eventflow's own command line.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from eventflow.address import Address, check_run_id, find_run, version_at
from eventflow.cli.shell import (
    OK,
    FlowArg,
    FormatArg,
    StoreArg,
    argument,
    open_store,
    print_failure,
    print_json,
    print_state,
    state_document,
    visible,
)
from eventflow.clock import SystemClock, id_text
from eventflow.errors import NotResumable, SettingsError
from eventflow.exchange import ExportLog, export_from
from eventflow.ingest import ingest
from eventflow.log import Head, Query
from eventflow.recovery import recover
from eventflow.state import FINAL, State
from replay.cli.branching import driven, workflow_known
from replay.cli.opening import EXPORT, run_confined
from replay.export.capsule.page import capsule_page
from replay.export.capsule.view import capsule_view
from replay.export.files import Opened, read_file
from replay.fork import fork

SCHEMA = "eventflow.opened/1"
WHY = "opened from a file, to go on with it here"
AtArg = Annotated[
    str | None, argument(name="--at", help="The version, checkpoint or moment to stand at, or to go on from.")
]
RunArg = Annotated[
    bool, argument(name="--run", negative=(), help="Go on from it in the new store: fork it there, and drive the fork.")
]
IdArg = Annotated[str | None, argument(name="--id", help="The fork's id; a fresh one if left out.")]


@dataclass(frozen=True, slots=True)
class _Standing:
    """A run of the file, the version that is looked at, and its state there."""

    head: Head
    version: int
    state: State


@dataclass(frozen=True, slots=True)
class _Answer:
    """What there is to tell: the file, its history, where it stands, where it went."""

    file: str
    opened: Opened
    log: ExportLog
    standing: _Standing | None
    store: str | None
    forked: Head | None


def open_(
    file: str, name: str | None = None, /, *, at: AtArg = None, drive: RunArg = False, run_id: IdArg = None,
    flow: FlowArg = None, store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Open the file of a history from anybody: verify it, say what it is and where it stands; go on from it in a new store.

    Parameters
    ----------
    file
        The file: a capsule, or an export.
    name
        The id of one of its runs, where it holds several.
    """
    if drive and store is None:
        raise SettingsError("say where to go on from it: --store and the path of a new store")
    if (flow or run_id) and not drive:
        raise SettingsError("--flow and --id are about going on from it; give --run too")
    opened = read_file(Path(file))
    code = _verified(opened)
    if code != OK:
        return code
    log = export_from(opened.capsule.sequence, check=False)  # the very bytes that were verified
    standing = _standing(log, name, at)
    if drive:
        code = workflow_known(log, _check_goes_on(standing, run_id), flow or ())
        if code != OK:
            return code
    if store is not None:
        _take_in(log, store)
    forked = _forked(store, standing, run_id) if drive and store and standing else None
    if not (drive and output == "json"):  # one document, which then is that of the driven run
        _tell(_Answer(file, opened, log, standing, store, forked), output)
    return driven(forked.run_id, flow or (), store, output) if forked is not None else OK


def _verified(opened: Opened) -> int:
    """The exit code of a verification in a process of its own; what is wrong is said there."""
    with tempfile.TemporaryDirectory(prefix="eventflow-") as place:  # of mode 0700
        copy = Path(place) / f"history{EXPORT}"
        copy.write_bytes(opened.capsule.sequence)
        return run_confined(["verify", str(copy)], quiet=True)


def _standing(log: ExportLog, name: str | None, at: str | None) -> _Standing | None:
    """The run that is meant, None where the file holds several and none was named. Raises NotFound, SettingsError."""
    name = name or log.run
    if not name:
        if at is not None:
            raise SettingsError("the file holds several runs; name one, as `replay open FILE RUN --at 3`")
        return None
    head = find_run(log, name)
    version = head.version if at is None else version_at(log, head, at)
    return _Standing(head, version, recover(log, head, version).state)


def _check_goes_on(standing: _Standing | None, run_id: str | None) -> Head:
    """The run to go on from; refuse what could not be forked, before anything is written. Raises SettingsError, NotResumable."""
    if standing is None:
        raise SettingsError("the file holds several runs; name the one to go on from, as `replay open FILE RUN --run`")
    if run_id is not None:
        check_run_id(run_id)
    if standing.state.status in FINAL:
        where = (
            f"version {standing.version} is the run's end; go on from an earlier one, as --at {standing.version - 1}"
        )
        raise NotResumable(standing.head.run_id, where)
    return standing.head


def _take_in(log: ExportLog, store: str) -> None:
    """Take all runs of a file into a new store. Raises SettingsError where something is there already."""
    if "://" not in store and os.path.lexists(store):
        raise SettingsError(
            f"{store} is there already; give --store the path of a new one, or use `eventflow store import`"
        )
    try:
        target = open_store(store, write=True, create=True)
        try:
            ingest(log, target, why=WHY)
        finally:
            target.close()
    except BaseException:
        if "://" not in store:
            shutil.rmtree(store, ignore_errors=True)  # it was begun a moment ago, and holds nothing of its own
        raise


def _forked(store: str, standing: _Standing, run_id: str | None) -> Head:
    """A run of the new store that goes on from where one of the file stands."""
    target = open_store(store, write=True)
    try:
        head = find_run(target, standing.head.run_id, whole=True)
        return fork(target, SystemClock(), Address(head, standing.version), run_id=run_id, why=WHY)
    finally:
        target.close()


# --- telling -------------------------------------------------------------------------------------------------------


def _page_holds(answer: _Answer) -> bool | None:
    """Whether a capsule's page is the one that its history makes; None for an export, which has none."""
    capsule, standing = answer.opened.capsule, answer.standing
    if answer.opened.kind != "capsule" or standing is None:
        return None
    view = capsule_view(answer.log, standing.head)
    return capsule_page(view, capsule.sequence, capsule.proof) == answer.opened.data


def _tell(answer: _Answer, output: str) -> None:
    holds, standing = _page_holds(answer), answer.standing
    heads = [one.head for one in answer.log.runs(Query())]
    kind, origin, events = answer.opened.kind, id_text(answer.log.store_id), answer.log.position()
    if output != "table":
        document: dict[str, Any] = {
            "schema": SCHEMA, "file": answer.file, "kind": kind, "from_store": origin, "events": events,
            "runs": [one.run_id for one in heads], "page_holds": holds, "store": answer.store,
            "fork": None if answer.forked is None else answer.forked.run_id,
            "stands": None if standing is None else state_document(standing.head.run_id, standing.state),
        }  # fmt: skip
        print_json(document, lines=output == "jsonl")
        return
    runs = "1 run" if len(heads) == 1 else f"{len(heads)} runs"
    print(visible(f"{kind} of {runs} with {events} events, from store {origin}; all of it holds"))
    if holds is False:
        print("its page is not what its history makes here: another version wrote it, or it was changed")
        print("what follows is the history, not the page")
    for line in _where(standing, heads, answer.file):
        print(visible(line))
    if standing is not None:
        print_failure(standing.state)
        print_state(standing.state)
    for line in _went(answer):
        print(visible(line))


def _where(standing: _Standing | None, heads: Sequence[Head], file: str) -> list[str]:
    if standing is None:
        listed = [f"run {one.run_id} at version {one.version}: {one.status}" for one in heads]
        return [
            *listed,
            f"name one to stand at it, and a version if it is not the last: `replay open {file} RUN --at 3`",
        ]
    head, state = standing.head, standing.state
    waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
    return [
        f"run {head.run_id} at version {standing.version} of {head.version}: {state.status}{waits}",
        f"workflow {state.run.workflow}, node {state.node}, attempt {state.attempt}",
    ]


def _went(answer: _Answer) -> list[str]:
    if answer.store is None:
        return []
    taken = f"taken into the new store {answer.store}, event for event"
    if answer.forked is not None and answer.standing is not None:
        return [taken, f"run {answer.forked.run_id} goes on there from version {answer.standing.version}"]
    return [taken]

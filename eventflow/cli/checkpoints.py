"""Commands about checkpoints: list, create, show, delete, prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import checkpoint_at, find_run, moment, version_at
from eventflow.checkpoint import Checkpoint, select
from eventflow.cli.shell import (
    OK,
    Format,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    bytes_text,
    confirm,
    open_store,
    print_json,
    print_state,
    show,
    sub_app,
    time_text,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.engine import create_checkpoint, delete_checkpoints
from eventflow.errors import CheckpointNotFound, SettingsError
from eventflow.log import Head, Log
from eventflow.recovery import recover

app = sub_app("checkpoints", "Make, list, show and delete checkpoints of a run.")
SCHEMA = "eventflow.checkpoints/1"
SHOWN = 5  # ids named in a question: enough to see whether it is about the right ones
DryRunArg = Annotated[bool, Parameter(name="--dry-run", negative=(), help="Only say what would go.")]


def _row(mark: Checkpoint, *, vouched: bool) -> dict[str, Any]:
    return {
        "checkpoint": mark.id,
        "version": mark.version,
        "kinds": list(mark.kinds),
        "time": time_text(mark.time),
        "label": mark.label,
        "bytes": mark.size,
        "reached_by": "snapshot" if mark.size and vouched else "folding",
    }


def _rows(log: Log, head: Head) -> list[dict[str, Any]]:
    """A run's checkpoints; recovery takes bytes only where a later event of the run vouches for them."""
    vouched = {version for version, by in log.snapshots(head.run_key, head.version) if by}
    return [_row(mark, vouched=mark.version in vouched) for mark in log.checkpoints(head.run_key)]


@app.command(name="list")
def list_(run: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """List a run's checkpoints, oldest first; one without bytes is reached by folding.

    Parameters
    ----------
    run
        The run's id, or its unique beginning.
    """
    log = open_store(store)
    try:
        rows = _rows(log, find_run(log, run))
    finally:
        log.close()
    show(rows, output, SCHEMA, ("checkpoint", "kinds", "time", "bytes", "reached_by", "label"))
    return OK


@app.command
def create(
    run: str, /, *, at: str | None = None, label: str = "", snapshot: Annotated[bool, Parameter(negative=())] = False,
    why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Make a checkpoint of a run.

    Parameters
    ----------
    run
        The run's whole id.
    at
        The version, or the time, it is made of; the newest if left out.
    label
        A word to find it by.
    snapshot
        Write its bytes in any case.
    """
    log = open_store(store, write=True)
    try:
        head = find_run(log, run, whole=True)
        version = None if at is None else version_at(log, head, at)
        mark = create_checkpoint(log, SystemClock(), run, version=version, label=label, snapshot=snapshot, why=why)
    finally:
        log.close()
    if output == "table":
        print(f"checkpoint {mark.id} of run {run} made ({bytes_text(mark.size) if mark.size else 'a mark alone'})")
    else:
        row = _row(mark, vouched=True)  # by the event that made it
        print_json({"schema": "eventflow.checkpoint/1", "run": run, **row}, lines=output == "jsonl")
    return OK


@app.command(name="show")
def show_(run: str, checkpoint: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show a checkpoint and the state it stands for.

    Parameters
    ----------
    run
        The run's id, or its unique beginning.
    checkpoint
        Its id, such as c-17.
    """
    log = open_store(store)
    try:
        head = find_run(log, run)
        row = next((one for one in _rows(log, head) if one["checkpoint"] == checkpoint), None)
        if row is None:
            raise CheckpointNotFound(head.run_id, checkpoint)
        recovered = recover(log, head, row["version"])
    finally:
        log.close()
    state = recovered.state
    document = {
        "schema": "eventflow.checkpoint/1", "run": head.run_id, **row, "node": state.node, "status": state.status,
        "folded_from": recovered.snapshot, "folded_events": recovered.folded, "state": state.data,
    }  # fmt: skip
    if output != "table":
        print_json(document, lines=output == "jsonl")
        return OK
    how = (
        f"folding {recovered.folded} events after version {recovered.snapshot}" if recovered.folded else "its snapshot"
    )
    kinds = ", ".join(row["kinds"])
    print(visible(f"{row['checkpoint']} of run {head.run_id}: {kinds}, made {row['time']}, reached by {how}"))
    print(
        visible(f"version {row['version']}, node {state.node}, {state.status}, {bytes_text(row['bytes'])} of its own")
    )
    print_state(state)
    return OK


@app.command
def delete(
    run: str, checkpoint: Annotated[tuple[str, ...], Parameter(negative=())] = (), *,
    all: Annotated[bool, Parameter(name="--all", negative=())] = False, dry_run: DryRunArg = False,  # noqa: A002
    yes: YesArg = False, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Delete checkpoints of a run; its history is untouched and every version stays reachable.

    Parameters
    ----------
    run
        The run's whole id.
    checkpoint
        Which ones, by id.
    all
        All of them.
    """
    if bool(checkpoint) == all:
        raise SettingsError("name the checkpoints to delete (c-17 …), or give --all")
    log = open_store(store, write=not dry_run)
    try:
        head = find_run(log, run, whole=True)
        wanted = {checkpoint_at(log, head, name) for name in checkpoint}
        rows = [row for row in _rows(log, head) if all or row["version"] in wanted]
        ids = None if all else list(dict.fromkeys(checkpoint))
        return _dropped(log, head, rows, ids, Dropping(dry_run, yes, why, output))
    finally:
        log.close()


@app.command
def prune(
    run: str, /, *, keep: int | None = None, older_than: str | None = None, dry_run: DryRunArg = False, yes: YesArg = False,
    why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Delete all but the newest checkpoints of a run, or those older than a time.

    Parameters
    ----------
    run
        The run's whole id.
    keep
        Keep the newest that many.
    older_than
        Only those made before a time (2026-11-24T10:00Z), or longer ago than a span (2h, 3d).
    """
    if keep is None and older_than is None:
        raise SettingsError("say what to keep: --keep N, --older-than TIME, or both")
    if keep is not None and keep < 0:
        raise SettingsError(f"--keep is {keep}; give 0 or more")
    before = None if older_than is None else moment(older_than, now=SystemClock().now())
    log = open_store(store, write=not dry_run)
    try:
        head = find_run(log, run, whole=True)
        gone = set(select(log.checkpoints(head.run_key), older_than=before, keep=keep))
        rows = [row for row in _rows(log, head) if row["version"] in gone]
        return _dropped(log, head, rows, [row["checkpoint"] for row in rows], Dropping(dry_run, yes, why, output))
    finally:
        log.close()


@dataclass(frozen=True, slots=True)
class Dropping:
    """How checkpoints shall be deleted: only in words, without asking, and why."""

    dry_run: bool
    yes: bool
    why: str
    output: Format


def _dropped(log: Log, head: Head, rows: list[dict[str, Any]], ids: list[str] | None, how: Dropping) -> int:
    """Delete the checkpoints of these rows (all, snapshots without a mark too, if `ids` is None), and say so."""
    named = ", ".join(row["checkpoint"] for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
    question = f"Delete {_many(len(rows))} of run {head.run_id} ({named})?"
    gone = not how.dry_run and (not rows or confirm(question, yes=how.yes))
    if gone and (rows or ids is None):
        delete_checkpoints(log, SystemClock(), head.run_id, ids, why=how.why)
    if how.output != "table":
        show(rows if gone or how.dry_run else [], how.output, SCHEMA, ())
    elif how.dry_run:
        show(rows, "table", SCHEMA, ("checkpoint", "kinds", "time", "bytes"), title="would go:")
    else:
        print(f"{_many(len(rows))} of run {head.run_id} {'deleted' if gone else 'stay' + 's' * (len(rows) == 1)}")
    return OK


def _many(count: int) -> str:
    return f"{count} checkpoint{'s' * (count != 1)}"

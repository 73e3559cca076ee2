"""Commands about checkpoints: list, create, show, delete, prune."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import checkpoint_at, find_run, moment, version_at
from eventflow.checkpoint import Checkpoint, select
from eventflow.cli.shell import (
    OK,
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
)
from eventflow.clock import SystemClock
from eventflow.engine import create_checkpoint, delete_checkpoints
from eventflow.errors import SettingsError
from eventflow.recovery import recover

app = sub_app("checkpoints", "Make, list, show and delete checkpoints of a run.")


def _row(mark: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": mark.id,
        "version": mark.version,
        "kinds": list(mark.kinds),
        "time": time_text(mark.time),
        "label": mark.label,
        "bytes": mark.size,
        "reached_by": "snapshot" if mark.size else "folding",
    }


@app.command(name="list")
def list_(run: str, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """List a run's checkpoints, oldest first; one without bytes is reached by folding."""
    log = open_store(store)
    try:
        rows = [_row(mark) for mark in log.checkpoints(find_run(log, run).run_key)]
    finally:
        log.close()
    show(rows, output, "eventflow.checkpoints/1", ("checkpoint", "kinds", "time", "bytes", "reached_by", "label"))
    return OK


@app.command
def create(
    run: str, *, at: str | None = None, label: str = "", snapshot: Annotated[bool, Parameter(negative=())] = False,
    why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Make a checkpoint of a run.

    Parameters
    ----------
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
        print(
            f"checkpoint {mark.id} of run {run} made ({bytes_text(mark.size) if mark.size else 'reached by folding'})"
        )
    else:
        print_json({"schema": "eventflow.checkpoint/1", "run": run, **_row(mark)}, lines=output == "jsonl")
    return OK


@app.command(name="show")
def show_(run: str, checkpoint: str, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show a checkpoint and the state it stands for."""
    log = open_store(store)
    try:
        head = find_run(log, run)
        version = checkpoint_at(log, head, checkpoint)
        mark = next(one for one in log.checkpoints(head.run_key) if one.version == version)
        recovered = recover(log, head, version)
    finally:
        log.close()
    state = recovered.state
    document = {
        "schema": "eventflow.checkpoint/1", "run": head.run_id, **_row(mark), "node": state.node, "status": state.status,
        "folded_from": recovered.snapshot, "folded_events": recovered.folded, "state": state.data,
    }  # fmt: skip
    if output != "table":
        print_json(document, lines=output == "jsonl")
        return OK
    how = (
        "its snapshot"
        if not recovered.folded
        else f"folding {recovered.folded} events after version {recovered.snapshot}"
    )
    print(f"{mark.id} of run {head.run_id}: {', '.join(mark.kinds)}, made {time_text(mark.time)}, reached by {how}")
    print(f"version {version}, node {state.node}, {state.status}, {bytes_text(mark.size)} of its own")
    print_state(state)
    return OK


@app.command
def delete(
    run: str, checkpoint: Annotated[tuple[str, ...], Parameter(negative=())] = (), *,
    all: Annotated[bool, Parameter(name="--all", negative=())] = False, yes: YesArg = False,  # noqa: A002
    why: WhyArg = "", store: StoreArg = None,
) -> int:  # fmt: skip
    """Delete checkpoints of a run; its history is untouched and every version stays reachable.

    Parameters
    ----------
    checkpoint
        Which ones, by id.
    all
        All of them.
    """
    if bool(checkpoint) == all:
        raise SettingsError("name the checkpoints to delete (c-17 …), or give --all")
    log = open_store(store, write=True)
    try:
        what = f"all checkpoints of run {run}" if all else f"{', '.join(checkpoint)} of run {run}"
        head = find_run(log, run, whole=True)
        for name in checkpoint:
            checkpoint_at(log, head, name)
        if not confirm(f"Delete {what}?", yes=yes):
            return OK
        gone = delete_checkpoints(log, SystemClock(), run, None if all else checkpoint, why=why)
    finally:
        log.close()
    print(f"{len(gone)} checkpoints of run {run} deleted")
    return OK


@app.command
def prune(
    run: str, *, keep: int | None = None, older_than: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False, yes: YesArg = False, why: WhyArg = "",
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Delete all but the newest checkpoints of a run, or those older than a time.

    Parameters
    ----------
    keep
        Keep the newest that many.
    older_than
        Only those made before a time (2026-11-24T10:00Z), or longer ago than a span (2h, 3d).
    dry_run
        Only say what would go.
    """
    if keep is None and older_than is None:
        raise SettingsError("say what to keep: --keep N, --older-than TIME, or both")
    clock = SystemClock()
    log = open_store(store, write=not dry_run)
    try:
        head = find_run(log, run, whole=True)
        before = None if older_than is None else moment(older_than, now=clock.now())
        marks = log.checkpoints(head.run_key)
        gone = set(select(marks, older_than=before, keep=keep))
        rows = [_row(mark) for mark in marks if mark.version in gone]
        if dry_run:
            show(rows, output, "eventflow.checkpoints/1", ("checkpoint", "kinds", "time", "bytes"), title="would go:")
            return OK
        if gone and confirm(f"Delete {len(gone)} checkpoints of run {run}?", yes=yes):
            delete_checkpoints(log, clock, run, [row["checkpoint"] for row in rows], why=why)
    finally:
        log.close()
    print(f"{len(rows)} checkpoints of run {run} deleted")
    return OK

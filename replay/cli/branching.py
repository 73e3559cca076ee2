"""The command that branches a history: the one thing replay writes."""

from __future__ import annotations

from typing import Annotated, Any

from eventflow.address import resolve
from eventflow.cli.shell import (
    OK,
    FormatArg,
    StoreArg,
    WhyArg,
    argument,
    json_argument,
    open_store,
    print_json,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.errors import SettingsError
from replay.fork import Kin, fork, lineage
from replay.path import Path, parse_path

SCHEMA = "eventflow.fork/1"
SetArg = Annotated[
    tuple[str, ...], argument(name="--set", negative=(), help="PATH=JSON: a value that is another in the fork.")
]
IdArg = Annotated[str | None, argument(name="--id", help="The new run's id; a fresh one if left out.")]


def fork_(
    address: str, /, *, sets: SetArg = (), run_id: IdArg = None, why: WhyArg = "", store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Branch a run: record a new one that continues it from a version, its state changed where asked.

    Parameters
    ----------
    address
        RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z, with the run's whole id.
    """
    changed = [_assignment(one) for one in sets]
    opened = open_store(store, write=True)
    try:
        place = resolve(opened, address, whole=True)
        head = fork(opened, SystemClock(), place, sets=changed, run_id=run_id, why=why)
        family = lineage(opened, head)
    finally:
        opened.close()
    if output != "table":
        document = {"schema": SCHEMA, "run": head.run_id, "version": head.version, "parent": str(place)}
        print_json({**document, "lineage": [_kin_row(one) for one in family]}, lines=output == "jsonl")
        return OK
    print(visible(f"run {head.run_id} continues {place}; `eventflow resume {head.run_id}` drives it"))
    for one in family:
        print(visible(_branch(one, new=one.run_id == head.run_id)))
    return OK


def _assignment(text: str) -> tuple[Path, Any]:
    path, found, value = text.partition("=")
    if not found:
        raise SettingsError(f"{text!r} sets nothing; write PATH=JSON, such as topic='\"moons\"'")
    return parse_path(path), json_argument(value)


def _kin_row(one: Kin) -> dict[str, Any]:
    return {"run": one.run_id, "at": one.at or None, "depth": one.depth}


def _branch(one: Kin, *, new: bool) -> str:
    mark = " (new)" if new else ""
    return f"{'   ' * (one.depth - 1)}└─ {one.run_id} from version {one.at}{mark}" if one.depth else one.run_id

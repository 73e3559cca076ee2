"""The command that compares two points of history."""

from __future__ import annotations

from typing import Any

from eventflow.address import resolve
from eventflow.cli.shell import (
    DIFFERENCE,
    MAX_FIELDS,
    OK,
    FormatArg,
    StoreArg,
    print_json,
    print_left_out,
    print_table,
    visible,
)
from replay.cli.opening import open_history
from replay.cli.values import value_document, value_text
from replay.diff import Difference, Divergence, diff
from replay.patch import by_field
from replay.path import path_text

SCHEMA = "eventflow.diff/1"
STATES = ("what", "where", "one", "other")
HISTORIES = ("what", "where", "node", "versions", "one", "other")


def diff_(one: str, other: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Compare two points of a run, or two runs: their states, and where their histories part.

    Exit code 4 if they differ.

    Parameters
    ----------
    one
        RUN, RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z.
    other
        The same: of that run, of its fork, or of any other.
    """
    opened = open_history(store)
    try:
        found = diff(opened, resolve(opened, one), resolve(opened, other))
    finally:
        opened.close()
    if output == "json":
        print_json(_document(found))
    elif output == "jsonl":
        for row in _rows(found):
            print_json({"schema": SCHEMA, **row}, lines=True)
    else:
        _print(found)
    return OK if found.same else DIFFERENCE


def _document(found: Difference) -> dict[str, Any]:
    return {
        "schema": SCHEMA, "one": str(found.one), "other": str(found.other), "same": found.same, "shared": found.shared,
        "divergences": [_divergence(one) for one in found.divergences],
        "standing": {name: {"one": one, "other": other} for name, (one, other) in found.standing.items()},
        "patch": [edit.document() for edit in found.patch],
    }  # fmt: skip


def _rows(found: Difference) -> list[dict[str, Any]]:
    return [
        *({"row": "divergence", **_divergence(one)} for one in found.divergences),
        *({"row": "standing", "what": name, "one": one, "other": other} for name, (one, other) in found.standing.items()),
        *({"row": "patch", **edit.document()} for edit in found.patch),
    ]  # fmt: skip


def _divergence(one: Divergence) -> dict[str, Any]:
    versions = [version or None for version in one.versions]
    return {
        "kind": one.kind, "what": one.what, "node": one.node,
        "one": {"version": versions[0], **value_document(one.one)},
        "other": {"version": versions[1], **value_document(one.other)},
    }  # fmt: skip


def _print(found: Difference) -> None:
    pair = f"{found.one} and {found.other}"
    if found.same:
        print(visible(f"{pair} are the same"))
        return
    if found.divergences:
        common = f"share their history to version {found.shared}, then part" if found.shared else "share no history"
        parted = map(_history_row, found.divergences[:MAX_FIELDS])
        print_table(parted, HISTORIES, f"{pair} {common}; the first difference first")
        print_left_out(len(found.divergences) - MAX_FIELDS, "differences")
    states = [
        *(_row("stands", name, *values) for name, values in found.standing.items()),
        *(_row(edit.op, path_text(edit.path), edit.was, edit.now) for edit in by_field(found.patch)[:MAX_FIELDS]),
    ]
    if states:
        print_table(states, STATES, f"the states of {pair} differ")
        print_left_out(len(found.patch) - MAX_FIELDS, "differences")
    else:
        print(visible(f"the states of {pair} are the same"))


def _row(what: str, where: str, one: Any, other: Any) -> dict[str, Any]:
    return {"what": what, "where": where, "one": value_text(one), "other": value_text(other)}


def _history_row(one: Divergence) -> dict[str, Any]:
    versions = " / ".join(str(version) if version else "-" for version in one.versions)
    return {**_row(one.kind, one.what, one.one, one.other), "node": one.node, "versions": versions}

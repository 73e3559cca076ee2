"""Histories as golden files: what happened in a run, readable, without what is other in each run.

Ids, times, digests, actors and places in source files are left out; what was decided, changed, called and answered
stays. A golden file is text, or JSON where its name ends so, and belongs into the repository beside the test.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from eventflow.engine import Run
from eventflow.event import Recorded
from eventflow.log import Log, Query
from eventflow.plain import thaw
from eventflow.recovery import history

UPDATE = "EVENTFLOW_UPDATE_GOLDEN"  # set to 1, golden files are written instead of compared
# Fields that are other in each run, on each machine or at each time, and the definition, which has its own check.
LEFT_OUT = frozenset({
    "actor", "caller_id", "caller_key", "deadline", "definition", "definition_digest", "digest", "idempotency_key",
    "incarnation", "input_digest", "message", "parent_incarnation", "parent_key", "retry_at", "run_id", "run_key", "store_id", "until", "where",
})  # fmt: skip
_FIRST = ("version", "type", "node")  # of an entry, in this order


def normalised(what: Run | Log, run_id: str | None = None) -> list[dict[str, Any]]:
    """A history as plain data, an entry an event: `version`, `type`, `node`, and the fields that say what happened.

    `what` is a run, or a log: then of one run, or of all its runs, oldest first, each entry with the number of its `run`.
    """
    if isinstance(what, Run):
        return list(_entries(what.events()))
    listed = [one for one in what.runs(Query()) if run_id is None or one.head.run_id == run_id]
    listed.sort(key=lambda one: (one.entry.started, one.head.run_key))
    found = []
    for number, one in enumerate(listed, 1):
        entries = _entries(history(what, one.head.run_key, 1, one.head.version))
        found += [{"run": number, **entry} if run_id is None else entry for entry in entries]
    return found


def _entries(recorded: Iterable[Recorded]) -> Iterator[dict[str, Any]]:
    node = ""
    for one in recorded:
        event: Any = one.event
        node = str(getattr(event, "node", node))
        told = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
        kept = {
            name: value
            for name, value in told.items()
            if name not in LEFT_OUT and not _goes_without_saying(name, value)
        }
        yield {"version": one.version, "type": type(event).__name__, "node": node, **_without(kept, "node")}
        to = getattr(event, "to", None)
        node = to if to and isinstance(to, str) else node


def _goes_without_saying(name: str, value: Any) -> bool:
    return value in (None, "", [], {}) or (name in ("reused", "priority") and not value)


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != name}


def _plain(value: Any) -> Any:
    """A field as JSON has it: operations of a change as lists, failures as dicts, bytes as hex."""
    if isinstance(value, bytes):
        return value.hex()
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name != "where"}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in thaw(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def golden(what: Run | Log, path: str | os.PathLike[str], *, run_id: str | None = None, update: bool = False) -> None:
    """Compare a history with a golden file; write the file with `update`, or where EVENTFLOW_UPDATE_GOLDEN is 1.

    Raises AssertionError with a unified diff and the version where they part, or if there is no such file.
    """
    file = Path(path)
    entries = normalised(what, run_id)
    said = _as_json(entries) if file.suffix == ".json" else _as_text(entries)
    if update or os.environ.get(UPDATE) == "1":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(said, encoding="utf-8")
        return
    if not file.is_file():
        raise AssertionError(f"there is no golden history {file}; write it with {UPDATE}=1 or pytest --update-golden")
    kept = file.read_text(encoding="utf-8")
    if kept != said:
        raise AssertionError(_difference(file, kept, said, entries))


def _as_json(entries: list[dict[str, Any]]) -> str:
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[\n{lines}\n]\n"


def _as_text(entries: list[dict[str, Any]]) -> str:
    return "".join(f"{_line(entry)}\n" for entry in entries)


def _line(entry: dict[str, Any]) -> str:
    run = f"run {entry['run']}  " if "run" in entry else ""
    rest = {name: value for name, value in entry.items() if name not in (*_FIRST, "run")}
    said = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in rest.items())
    return f"{run}{entry['version']:>4}  {entry['type']:<15} {entry['node']:<15} {said}".rstrip()


def _difference(file: Path, kept: str, said: str, entries: list[dict[str, Any]]) -> str:
    before, after = kept.splitlines(), said.splitlines()
    parts = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    index = min(len(before), len(after)) if parts is None else parts
    index -= file.suffix == ".json"  # its first line is the bracket
    where = f"version {entries[index]['version']}" if 0 <= index < len(entries) else "the end"
    if 0 <= index < len(entries) and "run" in entries[index]:
        where = f"run {entries[index]['run']}, {where}"
    diff = "\n".join(difflib.unified_diff(before, after, str(file), "this run", lineterm=""))
    return (
        f"the history parts from {file} at {where}:\n{diff}\n"
        f"if this is meant, write it anew with {UPDATE}=1 or pytest --update-golden"
    )

"""Commands about definitions and about this machine: check, doctor."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.cli.flows import load_flow
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    UNUSABLE,
    FormatArg,
    StoreArg,
    open_store,
    print_json,
    print_table,
    show,
    store_path,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.errors import EventflowError, StoreNotFound
from eventflow.log import ADDRESSES
from eventflow.log.lmdb.files import network_file_system

PACKAGES = ("lmdb", "cbor2", "transitions", "openai", "structlog", "pydantic", "zstandard", "cyclopts", "rich")


def check(
    flow: str, /, *, mermaid: Annotated[bool, Parameter(negative=())] = False, output: FormatArg = "table"
) -> int:
    """Look at a workflow's definition before anything runs; exit code 4 if something is wrong.

    Parameters
    ----------
    flow
        The workflow: MODULE:NAME, or path/to/file.py:NAME.
    mermaid
        Print it as a mermaid state diagram instead.
    """
    loaded = load_flow(flow)
    if mermaid:
        print(loaded.mermaid())
        return OK
    problems = [{"kind": one.kind, "problem": one.text, "fatal": one.fatal} for one in loaded.check()]
    if output == "table" and not problems:
        size = f"nodes: {len(loaded.nodes)}, edges: {len(loaded.edges)}"
        print(visible(f"workflow {loaded.name}: nothing wrong ({size})"))
    else:
        show(problems, output, "eventflow.check/1", ("kind", "problem"), title=f"workflow {loaded.name}:")
    return DIFFERENCE if problems else OK


def doctor(*, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Look whether this machine, its packages and the store are fit; exit code 6 if something keeps runs from going."""
    place = store_path(store)
    kept = _server(place) if place.startswith(ADDRESSES) else [*_disk(Path(place)), _store(store)]
    findings = [*_packages(), *_model(), *kept]
    if output == "table":
        print_table(findings, ("what", "state", "detail"))
    else:
        print_json({"schema": "eventflow.doctor/1", "findings": findings}, lines=output == "jsonl")
    return UNUSABLE if any(one["state"] == "bad" for one in findings) else OK


def _server(url: str) -> list[dict[str, Any]]:
    """A store in a database: the client, the server and the tables."""
    try:
        from eventflow.log.postgres.examination import examine  # noqa: PLC0415 - most stores need no psycopg
    except ImportError:
        return [_finding("psycopg", "bad", "is missing; pip install 'eventflow[postgres]'")]
    from eventflow.log.postgres.address import parse  # noqa: PLC0415

    client = _finding("psycopg", "ok", version("psycopg"))
    return [client, *(_finding(one.what, one.state, one.detail) for one in examine(parse(url)))]


def _finding(what: str, state: str, detail: str) -> dict[str, Any]:
    return {"what": what, "state": state, "detail": detail}


def _packages() -> list[dict[str, Any]]:
    found = [
        _finding(
            "python",
            "ok" if sys.version_info >= (3, 11) else "bad",
            f"{platform.python_version()} on {platform.system()}",
        )
    ]
    for name in PACKAGES:
        try:
            found.append(_finding(name, "ok", version(name)))
        except PackageNotFoundError:
            found.append(_finding(name, "bad", f"is missing; pip install {name}"))
    if platform.system() not in ("Linux", "Darwin"):
        found.append(_finding("system", "note", "only Linux and macOS are tested"))
    return found


def _disk(path: Path) -> list[dict[str, Any]]:
    try:
        place = path.absolute()
        while not place.exists():
            place = place.parent
        kind = network_file_system(place)
        if kind:
            return [
                _finding("disk", "bad", f"{place} lies on {kind}, where LMDB's locks do not hold; use a local disk")
            ]
        if not os.access(place, os.W_OK):
            return [_finding("disk", "bad", f"{place} can't be written by this user; check its owner and mode")]
        space = os.statvfs(place)
        free = space.f_bavail * space.f_frsize
        state = "ok" if free > 1 << 30 else "note"
        room = _finding("disk", state, f"{free >> 20:,} MB free at {place}")
        return [room, _finding("fsync", "ok", _fsync_text(place if place.is_dir() else place.parent))]
    except OSError as error:
        return [_finding("disk", "bad", f"{error.filename or path} can't be used ({error.strerror})")]


def _fsync_text(directory: Path) -> str:
    """What a synced write of 4 KB takes here, the floor of every durable step."""
    clock = SystemClock()
    with tempfile.TemporaryFile(dir=directory) as file:
        times = []
        for _ in range(20):
            began = clock.monotonic()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(clock.monotonic() - began)
    return f"{sorted(times)[10] * 1e6:.0f} us for a synced write of 4 KB (median of 20)"


def _model() -> list[dict[str, Any]]:
    if os.environ.get("OPENAI_BASE_URL"):
        return [_finding("model server", "ok", f"OPENAI_BASE_URL is {os.environ['OPENAI_BASE_URL']}")]
    if os.environ.get("OPENAI_API_KEY"):
        return [_finding("model server", "ok", "OPENAI_API_KEY is set")]
    return [
        _finding("model server", "note", "neither OPENAI_API_KEY nor OPENAI_BASE_URL is set: agents can't call a model")
    ]


def _store(given: str | None) -> dict[str, Any]:
    try:
        log = open_store(given)
    except StoreNotFound:
        return _finding("store", "note", f"none at {store_path(given)} yet; the first run creates it")
    except EventflowError as error:
        return _finding("store", "bad", str(error))
    try:
        return _finding("store", "ok", f"{store_path(given)}: {log.position()} events")
    finally:
        log.close()

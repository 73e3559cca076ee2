"""Where the demos' runs are kept, what they are called, and what to look at afterwards; what happens in one is not said here."""

from __future__ import annotations

import shlex
from typing import Annotated

from cyclopts import Parameter

from eventflow.cli.shell import open_store

DEMO_STORE = "demo.eventflow"
StoreArg = Annotated[str | None, Parameter(name="--store", help=f"The store: a directory. [default: {DEMO_STORE}]")]


def fresh_id(store: str, name: str) -> str:
    """The first of `name-1`, `name-2`, … that no run of the store has; the store is made if there is none."""
    log = open_store(store, write=True, create=True)
    try:
        number = 1
        while log.head(f"{name}-{number}") is not None:
            number += 1
        return f"{name}-{number}"
    finally:
        log.close()


def print_checkpoints(store: str, run_id: str) -> None:
    """How many events a run has, and which checkpoints are kept of it."""
    log = open_store(store)
    try:
        head = log.head(run_id)
        marks = log.checkpoints(head.run_key) if head else []
        print(
            f"{head.version if head else 0} events, {len(marks)} checkpoints kept: {', '.join(mark.id for mark in marks)}"
        )
    finally:
        log.close()


def print_hints(store: str, run_id: str) -> None:
    """The commands that show what a demo has left."""
    where = shlex.quote(store)
    print(f"\nLook at it:\n  eventflow list --store {where}\n  eventflow checkpoints list {run_id} --store {where}")
    print(
        f"  replay log {run_id} --store {where}\n  replay show {run_id}@4 --store {where}\n  eventflow store verify --store {where}"
    )

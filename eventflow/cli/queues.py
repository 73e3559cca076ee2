"""Commands about queues: put a run into one, see what waits in them. Who drives such runs is `eventflow worker --queue`."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Container
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.cli.flows import fitting, load_flow
from eventflow.cli.limits import BudgetArg, TimeoutArg, budget_of, seconds_of
from eventflow.cli.policy import quota_of
from eventflow.cli.shell import (
    AN_OBJECT,
    OK,
    FormatArg,
    StoreArg,
    counted,
    json_argument,
    open_store,
    print_json,
    settings,
    show,
    store_path,
    sub_app,
    time_text,
    visible,
)
from eventflow.engine import Engine, who
from eventflow.engine.queues import Queue, queues_of
from eventflow.errors import SettingsError
from eventflow.log import Log, Query, Queued

SCHEMA = "eventflow.queue/1"
LIMITS = ("concurrency", "per_key", "here")  # of a queue, that --queue can say; a number alone is the first
SHOWN = 1_000  # waiting runs that a listing shows at most
QueueArg = Annotated[
    tuple[str, ...],
    Parameter(
        name="--queue",
        negative=(),
        help="A queue to serve: NAME; NAME:N to drive at most N of its runs at once, fleet-wide; NAME:here=N: N in this process.",
    ),
]

app = sub_app("queue", "Put runs into queues, from which workers take them.")


@app.command
def put(
    flow: str, name: str, /, *, input: Annotated[str, Parameter(name="--input")] = "{}",  # noqa: A002
    id: Annotated[str | None, Parameter(name="--id")] = None,  # noqa: A002
    priority: int = 0, key: str = "", tag: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    subject: str | None = None, timeout: TimeoutArg = None, budget: BudgetArg = (), store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Start a run that waits in a queue until a worker takes it.

    Parameters
    ----------
    flow
        The workflow: MODULE:NAME, or path/to/file.py:NAME.
    name
        The queue.
    input
        The run's input as JSON, @FILE, or @- for stdin.
    id
        The run's id; a fresh one if left out.
    priority
        The highest goes first; runs of one priority go by age.
    key
        What the queue's limit per key counts by: a customer, say.
    tag
        A tag to find the run by.
    subject
        Whom the run is about.
    """
    loaded = load_flow(flow)
    data = fitting(loaded, json_argument(input, "--input", hint=AN_OBJECT))
    limit, most = seconds_of(timeout), budget_of(budget)

    async def begin() -> tuple[str, str]:
        async with Engine(store_path(store), quota=quota_of()) as engine:
            run = await engine.start(
                loaded, data, run_id=id, tags=tag, subject=subject, timeout=limit, budget=most, queue=name,
                priority=priority, queue_key=key, actor=who(),
            )  # fmt: skip
            return run.id, run.status

    run_id, status = asyncio.run(begin())
    if output == "table":
        print(f"run {run_id}: {status}, in queue {visible(name)}")
    else:
        document = {"schema": SCHEMA, "run": run_id, "status": status, "queue": name, "priority": priority}
        print_json(document, lines=output == "jsonl")
    return OK


@app.command(name="list")
def list_queue(name: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show the runs of a queue: those that are driven, then those that wait, in the order in which they will be taken.

    Parameters
    ----------
    name
        The queue.
    """
    log = open_store(store)
    try:
        rows = [_row(one) for one in log.queued(name, SHOWN)]
        others = {} if rows else waiting_in(log)
    finally:
        log.close()
    show(rows, output, SCHEMA, ("run", "workflow", "status", "stands", "priority", "key", "updated"))
    if others and output == "table":
        elsewhere = ", ".join(f"{queue} ({counted(count, 'run')})" for queue, count in others.items())
        print(f"eventflow: queue {visible(name)} is empty; runs wait in {visible(elsewhere)}", file=sys.stderr)
    return OK


def waiting_in(log: Log, workflows: Container[str] | None = None) -> dict[str, int]:
    """How many runs wait in which queues, by name; of these workflows, if any are given. Reads each pending run's entry."""
    found = [one.entry for one in log.runs(Query("pending"))]
    names = [one.queue for one in found if one.queue and (workflows is None or one.workflow in workflows)]
    return dict(sorted(Counter(names).items()))


def _row(one: Queued) -> dict[str, Any]:
    head = one.head
    return {
        "run": head.run_id, "workflow": one.workflow, "status": head.status, "stands": "driven" if one.taken else "waits",
        "priority": one.priority, "key": one.key, "updated": time_text(head.updated),
    }  # fmt: skip


def queues_to_serve(given: tuple[str, ...]) -> list[Queue]:
    """The queues named by --queue, what it does not say of their limits from the settings; those of these if none is named.

    Raises SettingsError, DefinitionError.
    """
    found: Any = settings().get("queues", {})
    if not isinstance(found, dict) or not all(isinstance(terms, dict) for terms in found.values()):
        raise SettingsError(
            "the setting `queues` is not a table of queues; write [queues.NAME] and its limits below it"
        )
    known = {queue.name: queue for queue in queues_of(found)}
    return [_named(text, known) for text in given] if given else list(known.values())


def _named(text: str, known: dict[str, Queue]) -> Queue:
    name, colon, limits = text.rpartition(":")
    if not colon:
        return known.get(text) or Queue(text)
    said: dict[str, Any] = {}
    for one in limits.split(","):
        what, equals, count = one.rpartition("=")
        what = what if equals else LIMITS[0]
        if what not in LIMITS or what in said or not (count.isascii() and count.isdecimal()):
            raise SettingsError(
                f"--queue {text}: after the colon comes a number of runs, or {', '.join(f'{limit}=N' for limit in LIMITS)}, "
                f"each once, with commas between, as in --queue {name}:20,here=4"
            )
        said[what] = int(count)
    return replace(known.get(name) or Queue(name), **said)

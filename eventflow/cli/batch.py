"""Many runs at once: which are meant by `--where`, and what became of each, a line a run and the worst exit code.

What is done to a run is said by the command; here is only how it is done to each of them.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import moment
from eventflow.cli.shell import (
    CONFLICT,
    DIFFERENCE,
    FAILED,
    NOT_FOUND,
    OK,
    STOPPED,
    UNUSABLE,
    USAGE,
    Format,
    confirm,
    open_store,
    print_json,
    show,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.errors import EventflowError, SettingsError, StoreUnusable
from eventflow.log import Listed, Query
from eventflow.state import STATUSES, Status

SCHEMA = "eventflow.batch/1"
NAMED = 5  # ids named in a question: enough to see whether it is about the right ones
_KEYS = ("status", "workflow", "tag", "since")
_WORSE = (OK, STOPPED, FAILED, DIFFERENCE, NOT_FOUND, USAGE, CONFLICT, UNUSABLE)  # exit codes, the worst one last

WhereArg = Annotated[
    str | None,
    Parameter(name="--where", help="In place of RUN: every run that fits, as in 'status=failed tag=nightly since=2d'."),
]
DryRunArg = Annotated[bool, Parameter(name="--dry-run", negative=(), help="Only say which runs are meant.")]
Act = Callable[[str], Awaitable[tuple[str, int]]]  # what became of a run, by its id: words and an exit code


@dataclass(frozen=True, slots=True)
class Where:
    """Which runs are meant: all that is given must fit."""

    query: Query
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What the command line asked to be done to many runs.

    `done` says what happens to them, as in "deleted"; `meant` are the statuses of runs that it can be done to, for where
    no status is given; `free` leaves out those that a living process drives. `question` is asked first, if there is one.
    """

    where: Where
    done: str
    output: Format
    dry_run: bool = False
    yes: bool = False
    meant: Collection[Status] = STATUSES
    free: bool = False
    question: str = ""


def status_of(text: str | None) -> Status | None:
    """A status by its name. Raises SettingsError."""
    if text is None:
        return None
    for status in STATUSES:
        if status == text:
            return status
    raise SettingsError(f"{text!r} is not a status; a run is one of {', '.join(STATUSES)}")


def where_of(text: str) -> Where:
    """What --where says. Raises SettingsError."""
    given: dict[str, str] = {}
    tags: list[str] = []
    for part in _words(text):
        key, _, value = part.partition("=")
        if key not in _KEYS or not value or key in given:
            raise SettingsError(
                f"--where can't hold {part!r}; write status=, workflow=, since= (each once) and tag=, as in "
                f"'status=failed tag=nightly'"
            )
        if key == "tag":
            tags.append(value)
        else:
            given[key] = value
    if not given and not tags:
        raise SettingsError(
            "--where says nothing; name what the runs have in common, as in 'status=failed tag=nightly'"
        )
    since = moment(given["since"], now=SystemClock().now()) if "since" in given else None
    query = Query(status_of(given.get("status")), given.get("workflow"), tags[0] if tags else None, since)
    return Where(query, tuple(tags))


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"--where {text!r} can't be read: {error}") from None


def check_one(run: str | None, *, dry_run: bool = False) -> str:
    """The run that is named. Raises SettingsError where none is, or where an option is for many."""
    if run is None:
        raise SettingsError("name a run by its whole id, or several by --where, as in 'status=failed tag=nightly'")
    if dry_run:
        raise SettingsError("--dry-run says which runs are meant by --where; leave it out where one is named")
    return run


def check_many(where: str, *others: tuple[str, object]) -> Where:
    """Which runs --where means. Raises SettingsError where what is for one run is given too."""
    for name, value in others:
        if value not in (None, False, ()):
            raise SettingsError(f"{name} is for one run, and --where for many; leave one of them out")
    return where_of(where)


def chosen(store: str | None, batch: Batch) -> list[Listed]:
    """The runs that are meant, newest first. Raises StoreNotFound, StoreUnusable."""
    log = open_store(store)
    try:
        found = log.runs(batch.where.query)
        if batch.where.query.status is None:
            free = {one.head.run_key for one in found if log.owner_gone(one.head.owner)} if batch.free else set()
            found = [
                one for one in found
                if one.head.status in batch.meant and (not batch.free or one.head.run_key in free)
            ]  # fmt: skip
    finally:
        log.close()
    return [one for one in found if set(batch.where.tags) <= set(one.entry.tags)]


def many(store: str | None, batch: Batch, do: Callable[[list[str], Teller], int]) -> int:
    """Do something to every run that is meant, once that is confirmed; returns the worst exit code."""
    found = chosen(store, batch)
    ids = [one.head.run_id for one in found]
    if batch.dry_run or not found:
        _listed(found, batch)
        return OK
    named = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
    if batch.question and not confirm(batch.question.format(f"{_runs(len(ids))} ({named})"), yes=batch.yes):
        print(f"{_runs(len(ids))} {'stay' + 's' * (len(ids) == 1)} as {'it is' if len(ids) == 1 else 'they are'}")
        return OK
    teller = Teller(batch.output)
    try:
        return do(ids, teller)
    finally:
        teller.close()


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _listed(found: list[Listed], batch: Batch) -> None:
    rows = [
        {"run": one.head.run_id, "workflow": one.entry.workflow, "status": one.head.status, "version": one.head.version}
        for one in found
    ]
    if batch.output == "table" and not rows:
        print("no run fits")
        return
    columns = ("run", "workflow", "status", "version")
    show(rows, batch.output, SCHEMA, columns, title=f"would be {batch.done}:")


class Teller:
    """Says what became of each run, as it is known."""

    def __init__(self, output: Format) -> None:
        self._output = output
        self._rows: list[dict[str, Any]] = []

    def tell(self, run_id: str, what: str, code: int) -> None:
        """Say it."""
        row = {"run": run_id, "what": what, "exit_code": code}
        if self._output == "json":
            self._rows.append(row)
        elif self._output == "jsonl":
            print_json({"schema": SCHEMA, **row}, lines=True)
        else:
            print(visible(f"run {run_id}: {what.removeprefix(f'run {run_id}').removeprefix(':').strip()}"))
        sys.stdout.flush()

    def close(self) -> None:
        """Print what is told all at once."""
        if self._output == "json":
            print_json({"schema": SCHEMA, "rows": self._rows})


async def each(ids: Iterable[str], teller: Teller, act: Act, *, together: bool = False) -> int:
    """Do something to each run, in turn or all at once; what goes wrong with one is told and does not stop the others.

    Returns the worst exit code. Raises StoreUnusable.
    """

    async def one(run_id: str) -> int:
        try:
            what, code = await act(run_id)
        except StoreUnusable:
            raise  # it would be so with all of them
        except EventflowError as error:
            what, code = str(error), error.exit_code
        teller.tell(run_id, what, code)
        return code

    if together:
        return worst(await asyncio.gather(*map(one, ids)))
    return worst([await one(run_id) for run_id in ids])


def worst(codes: Iterable[int]) -> int:
    """The exit code that says the most of what went wrong."""
    return max(codes, key=_WORSE.index, default=OK)

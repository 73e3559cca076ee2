"""Commands about a store in a second place: copy, follow, promote; and migrate, which makes a database's tables."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from eventflow.cli.shell import (
    OK,
    ActorArg,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    confirm,
    print_json,
    progress,
    store_path,
    visible,
)
from eventflow.clock import SystemClock, id_text
from eventflow.errors import Conflict, SettingsError, StoreUnreachable
from eventflow.log import ADDRESSES, Log, open_copy, open_log, store_text
from eventflow.replica import Proof, Replica, birth_clock, promote

POLL = 0.2  # seconds between looks at the source's change mark while following: a look is a query on PostgreSQL
_PATIENCE = 60.0  # seconds between tries where one of the two can't be reached


def copy(source: str, target: str, /, *, output: FormatArg = "table") -> int:
    """Copy a store to another place, of whatever kind: the same id, positions, bytes and chains, checked on the way.

    The copy follows: nobody may drive it before `store promote`. Repeated, it goes on where it stands.

    Parameters
    ----------
    source
        The store to copy: a directory, or postgresql://…
    target
        Where to: a directory or address with no store yet, or a copy of the same store.
    """
    with _both(source, target) as (there, here):
        replica, copied = _caught_up(there, here)
        proof = replica.prove()
    _tell(source, target, copied, proof, output)
    return OK


def follow(
    source: str, target: str, /, *, once: Annotated[bool, Parameter(negative=())] = False, output: FormatArg = "table"
) -> int:
    """Keep a copy of a store up to date, until Ctrl-C; each time it goes on, a consistency proof shows it is a beginning.

    Parameters
    ----------
    source
        The store to follow: a directory, or postgresql://…
    target
        The copy: a directory or address with no store yet, or a copy of the same store.
    once
        Catch up and stop.
    """
    with _both(source, target) as (there, here):
        replica, copied = _caught_up(there, here)
        _tell(source, target, copied, replica.prove(), output)
        mark = -1
        try:
            while not once:
                mark = _pass(replica, there, mark)
                time.sleep(POLL)
        except KeyboardInterrupt:
            _tell(source, target, 0, replica.prove(), output)
    return OK


def _pass(replica: Replica, there: Log, seen: int) -> int:
    """One look at the source, and what it has come to; returns its change mark. What can't be reached is waited for."""
    try:
        mark = there.change_mark()
        if mark != seen:
            replica.catch_up()
    except StoreUnreachable as error:
        print(f"eventflow: {visible(str(error))}", file=sys.stderr)
        time.sleep(_PATIENCE)
        return seen
    return mark


class _both:  # noqa: N801 - reads as a function
    """A source, read-only, and the copy of it, made if it is not there; both closed in the end."""

    def __init__(self, source: str, target: str) -> None:
        self._source, self._target, self._stack = source, target, ExitStack()

    def __enter__(self) -> tuple[Log, Log]:
        if _same(self._source, self._target):
            raise SettingsError("source and target are the same store; give two")
        with self._stack:
            there = self._stack.enter_context(closing(open_log(self._source, readonly=True)))
            here = self._stack.enter_context(closing(open_copy(self._target, clock=birth_clock(there))))
            self._stack = self._stack.pop_all()
            return there, here

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _same(source: str, target: str) -> bool:
    if source.startswith(ADDRESSES) or target.startswith(ADDRESSES):
        return source == target
    return Path(source).resolve() == Path(target).resolve()


def _caught_up(there: Log, here: Log) -> tuple[Replica, int]:
    say, done = progress()
    try:
        replica = Replica(there, here)
        return replica, replica.catch_up(lambda held, of: say(f"copying: {held:,} of {of:,} events"))
    finally:
        done()


def _tell(source: str, target: str, copied: int, proof: Proof, output: str) -> None:
    if output != "table":
        print_json({
            "schema": "eventflow.copy/1", "source": store_text(source), "target": store_text(target), "copied": copied,
            "events": proof.size, "root": proof.root.hex(),
        }, lines=output == "jsonl")  # fmt: skip
        return
    print(visible(f"{store_text(target)}: {copied:,} events copied, {proof.size:,} in all"))
    print(f"it is a beginning of the source, by the root of its tree: {proof.root.hex()}")


def promote_(
    *, store: StoreArg = None, yes: YesArg = False, why: WhyArg = "", actor: ActorArg = "", output: FormatArg = "table"
) -> int:
    """Let a copy be driven from now on, as a store of its own life; the one it followed must not be driven any more."""
    place = store_path(store)
    with closing(open_copy(place, create=False)) as log:
        if not log.follows:
            raise Conflict(f"{store_text(place)} follows no other store: there is nothing to promote")
        question = f"Promote {store_text(place)}? The store it follows must not be driven any more."
        if not confirm(question, yes=yes):
            print(visible(f"{store_text(place)} stays a copy"), file=sys.stderr)
            return OK
        generation = promote(log, SystemClock(), actor=actor, why=why)
        position = log.position()
    if output != "table":
        document = {
            "schema": "eventflow.promotion/1",
            "store": store_text(place),
            "generation": generation,
            "events": position,
        }
        print_json(document, lines=output == "jsonl")
    else:
        print(
            visible(
                f"{store_text(place)} is promoted: generation {generation}, {position:,} events; its runs can be driven"
            )
        )
    return OK


def migrate_(*, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Make the tables of a store in PostgreSQL, or bring them to this version; safe to repeat. Needs a role that may."""
    place = store_path(store)
    if not place.startswith(ADDRESSES):
        raise SettingsError("only a store in PostgreSQL has tables to migrate; give --store postgresql://…")
    from eventflow.log.postgres.store import bring_up_to_date  # noqa: PLC0415 - most stores need no psycopg

    store_id, steps = bring_up_to_date(place)
    if output != "table":
        document = {
            "schema": "eventflow.migration/1",
            "store": store_text(place),
            "id": id_text(store_id),
            "steps": steps,
        }
        print_json(document, lines=output == "jsonl")
    else:
        done = f"steps {', '.join(map(str, steps))} taken" if steps else "nothing to do"
        print(visible(f"{store_text(place)}: {done}"))
    return OK

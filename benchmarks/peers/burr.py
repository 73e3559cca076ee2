"""Burr as a measured system: an application of one action, its SQLite persister in WAL, no tracker.

Runs in Burr's own environment: no eventflow here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burr.core import Application, ApplicationBuilder, State, action, default, expr
from burr.core.persistence import SQLitePersister

from benchmarks.peers.wire import NOTE, Absent, Job, Laps, in_threads, main


@action(reads=[], writes=[])
def end(state: State) -> State:
    """Where a run stops; it is never taken."""
    return state


class Burr:
    """Applications on one SQLite file."""

    def __init__(self, job: Job) -> None:
        self._file = Path(job.place) / "burr.sqlite"
        self._persister = self._persisting()
        self._persister.initialize()

    def _persisting(self) -> SQLitePersister:
        connection = sqlite3.connect(self._file, check_same_thread=False, timeout=60)
        connection.execute("pragma journal_mode=wal")  # Burr itself leaves SQLite's rollback journal
        connection.execute("pragma synchronous=full")
        return SQLitePersister(str(self._file), connection=connection)

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """One application, step by step."""
        self._counted(self._persister, run, steps, laps)

    def _counted(self, persister: SQLitePersister, run: str, steps: int, laps: Laps) -> None:
        @action(reads=["n"], writes=["n", "note"])
        def step(state: State) -> State:
            laps.enter()
            update = {"n": state["n"] + 1, "note": NOTE}
            laps.leave()
            return state.update(**update)

        self._app(persister, run, steps, step, n=0, note="").run(halt_before=["end"])

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """One application whose list grows."""

        @action(reads=["n", "items"], writes=["n", "items"])
        def step(state: State) -> State:
            laps.enter()
            number = state["n"]
            laps.leave()
            return state.append(items=texts[number]).update(n=number + 1)

        self._app(self._persister, run, len(texts), step, n=0, items=[]).run(halt_before=["end"])

    def many(self, runs: list[str], steps: int, way: str) -> None:
        """Some at a time in threads, each with a connection of its own."""

        def one(run: str) -> None:
            persister = self._persisting()
            try:
                self._counted(persister, run, steps, Laps())
            finally:
                persister.connection.close()

        in_threads(way, one, runs)

    @staticmethod
    def _app(
        persister: SQLitePersister, run: str, steps: int, step: Callable[..., Any], **state: Any
    ) -> Application[Any]:
        return (
            ApplicationBuilder()
            .with_actions(step=step, end=end)
            .with_transitions(("step", "step", expr(f"n < {steps}")), ("step", "end", default))
            .with_identifiers(app_id=run)
            .with_state(**state)
            .with_entrypoint("step")
            .with_state_persister(persister)
            .build()
        )

    def latest(self, run: str) -> dict[str, Any]:
        """What was saved last."""
        return self._state(self._persister.load(None, run))

    def at(self, run: str, step: int) -> dict[str, Any]:
        """What was saved after that step."""
        return self._state(self._persister.load(None, run, step - 1))

    @staticmethod
    def _state(saved: Any) -> dict[str, Any]:
        state: dict[str, Any] = saved["state"].get_all()
        return state

    def history(self, run: str) -> int:  # noqa: ARG002 - the protocol's
        """Its persister lists applications, not what one of them went through."""
        raise Absent("the persister lists applications, not the steps of one")

    def close(self) -> None:
        """Close the file."""
        self._persister.connection.close()


if __name__ == "__main__":
    main(Burr)

"""The library eventsourcing as a measured system: aggregates in an application on SQLite, a snapshot each hundred events.

Runs in its own environment: no eventflow here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.peers.wire import NOTE, Job, Laps, in_threads, main

_SNAPSHOTS = 100  # events from one to the next: as many as LangGraph's DeltaChannel has by default


class Counted(Aggregate):
    """Two small fields."""

    def __init__(self, name: str) -> None:
        self.name, self.n, self.note = name, 0, ""

    @staticmethod
    def create_id(name: str) -> UUID:
        """The id of a run of that name."""
        return uuid5(NAMESPACE_URL, name)

    @event("Stepped")
    def step(self, note: str) -> None:
        """One more."""
        self.n += 1
        self.note = note


class Grown(Aggregate):
    """A list that grows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: list[str] = []

    @staticmethod
    def create_id(name: str) -> UUID:
        """The id of a run of that name."""
        return uuid5(NAMESPACE_URL, name)

    @event("Added")
    def add(self, item: str) -> None:
        """One more."""
        self.items.append(item)


class Runs(Application[UUID]):
    """Where they are saved."""

    snapshotting_intervals: ClassVar[Any] = {Counted: _SNAPSHOTS, Grown: _SNAPSHOTS}


class EventSourcing:
    """Aggregates of one application."""

    def __init__(self, job: Job) -> None:
        name = str(Path(job.place) / "eventsourcing.sqlite")
        self._runs = Runs(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": name})

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """One aggregate, saved after each event."""
        one = Counted(run)
        self._runs.save(one)
        for _ in range(steps):
            laps.enter()
            one.step(NOTE)
            laps.leave()
            self._runs.save(one)

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """One aggregate whose list grows."""
        one = Grown(run)
        self._runs.save(one)
        for item in texts:
            laps.enter()
            one.add(item)
            laps.leave()
            self._runs.save(one)

    def many(self, runs: list[str], steps: int, way: str) -> None:
        """Some at a time in threads, or all in step with one another, saved in one transaction a round."""
        if way != "saved together":
            in_threads(way, lambda run: self.count(run, steps, Laps()), runs)
            return
        all_of_them = [Counted(run) for run in runs]
        self._runs.save(*all_of_them)
        for _ in range(steps):
            for one in all_of_them:
                one.step(NOTE)
            self._runs.save(*all_of_them)

    def latest(self, run: str) -> dict[str, Any]:
        """The aggregate as the repository makes it from its last snapshot and the events since."""
        return self._read(run, None)

    def at(self, run: str, step: int) -> dict[str, Any]:
        """The same at an earlier version; the first event is the aggregate's beginning."""
        return self._read(run, step + 1)

    def _read(self, run: str, version: int | None) -> dict[str, Any]:
        one: Any = self._runs.repository.get(uuid5(NAMESPACE_URL, run), version=version)
        state: dict[str, Any] = vars(one)
        return state

    def history(self, run: str) -> int:
        """All events."""
        return sum(1 for _ in self._runs.events.get(uuid5(NAMESPACE_URL, run)))

    def close(self) -> None:
        """Close the file."""
        self._runs.close()


if __name__ == "__main__":
    main(EventSourcing)

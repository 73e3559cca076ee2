"""When a workflow is started by the clock: by a cron expression or at an interval, each moment once, whatever dies.

A moment's run has an id made of the schedule's name and the moment, so that two processes that fire it, or one that fires
it twice, start one run; what was missed while nothing ran is found by looking at the newest run of the schedule. Nothing
is kept anywhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from eventflow.clock import NS
from eventflow.engine import Engine
from eventflow.errors import Conflict, DefinitionError, EventflowError
from eventflow.log import Query
from eventflow.workflow import Workflow

CatchUp = Literal["skip", "one", "all"]
MAX_MISSED = 1_000  # moments that are made up for at once; a schedule that was down for longer has other problems
RETRY_REST = 1.0  # seconds after which a schedule that failed, on a full disk for instance, is tried again
LONGEST_NAME = 90  # characters: the moment stands behind it in a run's id


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Start `flow` at the moments of `cron` (five fields, in `timezone`), or every that many seconds.

    `input` is each run's input, or a function of the moment (a datetime, UTC) that gives it. `catch_up` says what becomes
    of moments that passed while nothing ran: none of them, the last `one`, or `all`. Raises DefinitionError.
    """

    name: str
    flow: Workflow
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    input: Any = None
    catch_up: CatchUp = "one"

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            raise DefinitionError(f"schedule {self.name!r} needs either cron= or every=")
        if not self.name or len(self.name) > LONGEST_NAME:
            raise DefinitionError(f"a schedule needs a name of 1 to {LONGEST_NAME} characters")
        if self.every is not None and not self.every >= 1:
            raise DefinitionError(f"schedule {self.name!r}: every= is in seconds, 1 or more")
        if self.catch_up not in ("skip", "one", "all"):
            raise DefinitionError(f"schedule {self.name!r}: catch_up is skip, one or all")
        try:
            next(self.moments(0))
        except (ValueError, KeyError, StopIteration) as error:
            raise DefinitionError(f"schedule {self.name!r}: {error or 'it never comes'}") from None

    def moments(self, after: int) -> Iterator[int]:
        """The moments after one, rising: ns since the epoch, UTC."""
        if self.every is not None:
            step = round(self.every * NS)
            moment = after // step * step
            while True:
                moment += step
                yield moment
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - only a cron expression pays for it

        zone = ZoneInfo(self.timezone)
        begin = datetime.fromtimestamp(after // NS, UTC).astimezone(zone)
        try:
            for local in CronSim(self.cron or "", begin):
                yield int(local.timestamp()) * NS
        except CronSimError as error:
            raise ValueError(f"{self.cron!r} is no cron expression ({error})") from None

    @property
    def tag(self) -> str:
        """What its runs are tagged with."""
        return f"schedule:{self.name}"

    def run_id(self, moment: int) -> str:
        """The id of the run of a moment."""
        return f"{self.name}.{datetime.fromtimestamp(moment // NS, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def moment_of(self, run_id: str) -> int | None:
        """The moment that a run's id names; None if it is not one of these."""
        with suppress(ValueError):
            text = run_id.removeprefix(f"{self.name}.")
            return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()) * NS
        return None

    def input_of(self, moment: int) -> Any:
        """The input of the run of a moment."""
        given = self.input
        return given(datetime.fromtimestamp(moment // NS, UTC)) if callable(given) else given


def due(schedule: Schedule, last: int, now: int) -> list[int]:
    """The moments that are to be fired now, when the one fired last is known."""
    missed: list[int] = []
    for moment in schedule.moments(last):
        if moment > now or len(missed) >= MAX_MISSED:
            break
        missed.append(moment)
    if schedule.catch_up == "all" or len(missed) < 2:
        return missed
    return missed[-1:]


async def _kept(engine: Engine, schedule: Schedule, told: Callable[[str], None]) -> None:
    """Fire a schedule's moments for ever, those that were missed first."""
    clock = engine.clock
    last = _last(engine, schedule)
    began = clock.now()
    if last is None or schedule.catch_up == "skip":
        last = began
    while True:
        for moment in due(schedule, last, clock.now()):
            last = moment
            with suppress(Conflict):  # somebody else has started it with another input: it has been fired
                run = await engine.start(
                    schedule.flow, schedule.input_of(moment), run_id=schedule.run_id(moment), tags=[schedule.tag],
                    why=f"schedule {schedule.name}",
                )  # fmt: skip
                told(run.id)
        await clock.wait_until(next(schedule.moments(max(last, clock.now()))))


def _last(engine: Engine, schedule: Schedule) -> int | None:
    """The moment that was fired last, as the store tells."""
    for listed in engine.log.runs(Query(tag=schedule.tag, limit=1)):
        return schedule.moment_of(listed.head.run_id)
    return None


async def run_schedules(
    engine: Engine, schedules: Iterable[Schedule], *, told: Callable[[str], None] = lambda _: None
) -> None:  # fmt: skip
    """Fire schedules for ever, those moments first that were missed; cancel it to stop.

    `told` hears the id of each run that was started. What goes wrong with one schedule does not stop the others. Any
    number of processes may do this on one store: each moment is fired once.
    """

    async def one(schedule: Schedule) -> None:
        while True:
            with suppress(EventflowError):
                await _kept(engine, schedule, told)
            await engine.clock.sleep(RETRY_REST)

    await asyncio.gather(*(one(schedule) for schedule in schedules))

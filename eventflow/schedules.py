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

from eventflow.address import check_run_id
from eventflow.clock import NS
from eventflow.engine import Engine
from eventflow.errors import Conflict, DefinitionError, SettingsError, StoreClosed, StoreUnusable
from eventflow.log import Query
from eventflow.workflow import Workflow

CatchUp = Literal["skip", "one", "all"]
MAX_MISSED = (
    1_000  # moments that are made up for at once, the rest when the next one comes: other schedules want a turn
)
LATE = 60 * NS  # a moment this long ago was missed, not met: a busy loop and a clock that is set are no later than that
RETRY_REST = 1.0  # seconds after which a start that failed, on a full disk for instance, is tried again
LONGEST_NAME = 90  # characters: the moment stands behind it in a run's id
LONGEST_EVERY = 10 * 366 * 86_400  # seconds; what comes more seldom than every ten years is no schedule
NEWEST = 100  # runs that are looked through for the moment fired last: others may carry the schedule's tag
_WINDOWS = (3_600 * NS, 86_400 * NS, 32 * 86_400 * NS)  # how far back the last moment is looked for, the nearest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Start `flow` at the moments of `cron` (five fields, in `timezone`), or every that many whole seconds.

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
        _check_name(self.name)
        if self.every is not None and not (1 <= self.every <= LONGEST_EVERY and self.every == int(self.every)):
            raise DefinitionError(
                f"schedule {self.name!r}: every= is in whole seconds, 1 to {LONGEST_EVERY} (ten years)"
            )
        if self.catch_up not in ("skip", "one", "all"):
            raise DefinitionError(f"schedule {self.name!r}: catch_up is skip, one or all, not {self.catch_up!r}")
        if self.cron is not None:
            try:
                _check_cron(self.cron, self.timezone)
            except ValueError as error:
                raise DefinitionError(f"schedule {self.name!r}: {error}") from None

    def moments(self, after: int) -> Iterator[int]:
        """The moments after one, rising: ns since the epoch, UTC."""
        return _every(int(self.every), after) if self.every is not None else self._by_cron(after)

    def _by_cron(self, after: int) -> Iterator[int]:
        last = after
        for local in _simulated(self.cron or "", after, ZoneInfo(self.timezone)):
            moment = int(local.timestamp()) * NS
            if moment > last:  # where the clock is put back, an hour comes twice, and its first time again
                yield moment
                last = moment

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


def _check_name(name: str) -> None:
    if not name or len(name) > LONGEST_NAME:
        raise DefinitionError(f"a schedule needs a name of 1 to {LONGEST_NAME} characters")
    try:
        check_run_id(f"{name}.0")
    except SettingsError:
        raise DefinitionError(
            f"schedule {name!r}: its runs are named for it, so its name is made of letters, digits and ._:- "
            f"(no two dots together, none at the end), and begins with a letter or a digit"
        ) from None


def _check_cron(cron: str, timezone: str) -> None:
    """Raise ValueError, in one sentence, for an expression or a time zone that can't be."""
    if not isinstance(cron, str) or (fields := len(cron.split())) != 5:
        told = f"has {fields} fields" if isinstance(cron, str) else "is no text"
        raise ValueError(f"{cron!r} {told}; a cron expression has five: minute, hour, day, month, day of the week")
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError, TypeError):
        raise ValueError(f"there is no time zone {timezone!r} here; one is named like Europe/Paris") from None
    if next(_simulated(cron, 0, zone), None) is None:
        raise ValueError(f"{cron!r} never comes")


def _simulated(cron: str, after: int, zone: ZoneInfo) -> Iterator[datetime]:
    """The local times of a cron expression after a moment. Raises ValueError if it is none."""
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - only a cron expression pays for it

    try:
        found = CronSim(cron, datetime.fromtimestamp(after // NS, UTC).astimezone(zone))
    except CronSimError as error:
        raise ValueError(f"{cron!r} is no cron expression ({str(error).lower()})") from None
    return iter(found)


def _every(seconds: int, after: int) -> Iterator[int]:
    """The multiples of an interval after a moment, counted from the epoch, so that all processes count the same ones."""
    step = seconds * NS
    moment = after // step * step
    while True:
        moment += step
        yield moment


# --- what is due ---------------------------------------------------------------------------------------------------


def due(schedule: Schedule, last: int, now: int) -> list[int]:
    """The moments that are to be fired now, when the one that was fired or passed over last is known."""
    if schedule.catch_up == "all":
        missed: list[int] = []
        for moment in schedule.moments(last):
            if moment > now or len(missed) >= MAX_MISSED:
                break
            missed.append(moment)
        return missed
    newest = _newest(schedule, last, now)
    if newest is None or (schedule.catch_up == "skip" and newest <= now - LATE):
        return []
    return [newest]


def _newest(schedule: Schedule, last: int, now: int) -> int | None:
    """The last moment after one and not after another, found without counting through years of minutes."""
    for begin in (*(now - window for window in _WINDOWS), last):
        newest = None
        for moment in schedule.moments(max(begin, last)):
            if moment > now:
                break
            newest = moment
        if newest is not None or begin <= last:
            return newest
    return None


def _fired_last(engine: Engine, schedule: Schedule) -> int | None:
    """The moment that was fired last, as the store tells; None if it knows of none."""
    listed = engine.log.runs(Query(tag=schedule.tag, limit=NEWEST))
    return next((at for one in listed if (at := schedule.moment_of(one.head.run_id)) is not None), None)


# --- firing --------------------------------------------------------------------------------------------------------

Told = Callable[[str], None]
Failed = Callable[[str, Exception], None]


async def _fire(engine: Engine, schedule: Schedule, moment: int, told: Told) -> None:
    """Start the run of a moment, unless it was started before, be it deleted since."""
    run_id = schedule.run_id(moment)
    if engine.log.head(run_id) is not None or engine.log.next_incarnation(run_id) > 1:
        return
    with suppress(Conflict):  # somebody else has started it with another input: it has been fired
        await engine.start(
            schedule.flow,
            schedule.input_of(moment),
            run_id=run_id,
            tags=[schedule.tag],
            why=f"schedule {schedule.name}",
        )
        told(run_id)


async def _kept(engine: Engine, schedule: Schedule, told: Told, failed: Failed) -> None:
    """Fire a schedule's moments for ever, those that were missed first."""
    clock = engine.clock
    last: int | None = None
    while True:
        try:
            if last is None:
                last = _fired_last(engine, schedule)
                last = clock.now() if last is None else last
            now = clock.now()
            for moment in due(schedule, last, now):
                try:
                    await _fire(engine, schedule, moment, told)
                except StoreUnusable:  # a full disk is no fault of this moment
                    raise
                except Exception as error:  # noqa: BLE001 - it would fail again: the schedule goes on without this one
                    failed(schedule.run_id(moment), error)
                last = moment
            upcoming = next(schedule.moments(max(last, now)), None)
        except StoreClosed:
            raise
        except StoreUnusable as error:
            failed(schedule.name, error)
            await clock.sleep(RETRY_REST)
            continue
        if upcoming is None:
            return
        await clock.wait_until(upcoming)


async def run_schedules(
    engine: Engine, schedules: Iterable[Schedule], *, told: Told = lambda _: None,
    failed: Failed = lambda _run, _error: None,
) -> None:  # fmt: skip
    """Fire schedules for ever, those moments first that were missed; cancel it to stop.

    `told` hears the id of each run that was started, `failed` the id of each that could not be, and why; a schedule whose
    start fails goes on with the next moment, one whose store can't be used tries again. Any number of processes may do
    this on one store: each moment is fired once. Raises DefinitionError for two of one name, StoreClosed once the engine
    is closed.
    """
    every = list(schedules)
    names = [schedule.name for schedule in every]
    if len({*names}) < len(names):
        raise DefinitionError("two schedules have the same name: their runs could not be told apart")
    keeping = [asyncio.ensure_future(_kept(engine, schedule, told, failed)) for schedule in every]
    try:
        await asyncio.gather(*keeping)
    finally:
        for one in keeping:
            one.cancel()
        if keeping:
            await asyncio.wait(keeping)

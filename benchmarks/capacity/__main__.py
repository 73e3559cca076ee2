"""The program: `python -m benchmarks.capacity [--runs N …] [--into docs/scale.md]`: measure, simulate, say what breaks first."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.capacity.measured import Backend, backend
from benchmarks.capacity.simulation import DAY, Load, Waits, places_for, quantile, simulate
from benchmarks.capacity.sizing import bounds, lmdb_pages, postgres_depth
from benchmarks.environment import environment
from benchmarks.report import between, day, number
from eventflow.engine.queues import HERE
from eventflow.log.writer import MAX_BATCH
from eventflow.testing.postgres import PostgresServer, binaries

LOADS = (10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0)  # runs a day
SIZES = (10**6, 10**7, 10**8, 10**9)  # events
SMOKE_RUNS, RUNS, TURNS = 20, 300, 30
SIMULATED = 20_000  # runs of each load, from which one in a hundred are two hundred


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, as Markdown; 0, or 2 for what can't be asked."""
    asked = _parser().parse_args(arguments)
    if asked.peak < 1 or min(asked.days, asked.steps, asked.node, *asked.runs) <= 0 or asked.spread < 0:
        sys.stderr.write("--peak is 1 or more, --spread 0 or more, all the other numbers are more than 0\n")
        return 2
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="eventflow-capacity-", dir=asked.dir) as directory:
        place = Path(directory)
        kinds = _measured(asked, place)
        where = environment(place)
    text = "\n\n".join([_head(asked, began, where), *_tables(asked, kinds)])
    if asked.into is not None:
        asked.into.write_text(between(asked.into.read_text(), "capacity", text))
    sys.stdout.write(text + "\n")
    return 0


def _measured(asked: argparse.Namespace, place: Path) -> list[Backend]:
    runs, turns = (SMOKE_RUNS, 3) if asked.smoke else (RUNS, TURNS)
    kinds = [backend("LMDB", place / "driven", place / "commits", runs=runs, turns=turns)]
    if asked.postgres and binaries() is not None:
        with PostgresServer() as server:
            driven, commits = server.url(schema="driven"), server.url(schema="commits")
            one = backend("PostgreSQL", driven, commits, runs=runs, turns=turns)
        kinds.append(replace(one, commit=one.commit + asked.round_trip))
    return kinds


def _head(asked: argparse.Namespace, began: float, where: dict[str, str]) -> str:
    kind = (
        f"{asked.steps} steps of {asked.node:g} s, busiest hour {asked.peak:g} times the mean, kept {asked.days:g} days"
    )
    machine = "; ".join(
        f"{name}: {value}" for name, value in where.items() if name in ("python", "processors", "file system")
    )
    flag = " --smoke" if asked.smoke else ""
    return f"By `python -m benchmarks.capacity{flag}`, {day(began)}, seed {asked.seed}, runs of {kind}; {machine}."


# --- tables --------------------------------------------------------------------------------------------------------


def _tables(asked: argparse.Namespace, kinds: list[Backend]) -> list[str]:
    loads = [Load(runs, asked.peak, asked.steps, asked.node, asked.spread) for runs in asked.runs]
    lmdb, postgres = kinds[0], (kinds[1] if len(kinds) > 1 else None)
    many = SMOKE_RUNS if asked.smoke else SIMULATED
    return [
        "Measured:", _of_costs(kinds),
        "Simulated, at the busiest time of the day:", _of_waits(loads, kinds, many, asked.seed),
        "Computed: what so many events are.", _of_sizes(kinds),
        "Computed: what breaks first, and what to do.", _of_bounds(loads[0], lmdb, postgres, asked.days),
    ]  # fmt: skip


def _of_costs(kinds: list[Backend]) -> str:
    rows = [
        (
            one.name, f"{one.event:,.0f} B", f"{one.commit * 1e6:,.0f} us + {one.each * 1e6:,.1f} us an event",
            f"{number(one.events_per_second(MAX_BATCH))}/s", f"{number(one.steps)}/s", f"{number(one.verify)}/s",
            f"{number(one.prune)}/s", f"{number(one.listing)}/s",
        )
        for one in kinds
    ]  # fmt: skip
    names = ("store", "an event, all in all", "a commit", f"events, {MAX_BATCH:,} in a commit", "steps of one process",
             "verified events", "pruned events", "listed runs")  # fmt: skip
    return _table(names, rows)


def _of_waits(loads: list[Load], kinds: list[Backend], runs: int, seed: int) -> str:
    rows = []
    for load in loads:
        for one in kinds:
            places = places_for(load)
            waits = simulate(
                load, places=places, commit=one.commit, each=one.each, most=MAX_BATCH, runs=runs, seed=seed
            )
            processes = max(math.ceil(places / HERE), math.ceil(load.at_peak * load.steps / (one.steps * 0.7)))
            rows.append((
                f"{load.runs:,.0f}", one.name, f"{load.at_peak * load.steps:,.1f}/s", f"{places:,}", f"{processes:,}",
                *_waited(waits.places), *_waited(waits.commits), _busy(waits),
            ))  # fmt: skip
    names = ("runs a day", "store", "events at peak", "runs at once", "processes", "wait for a place: p50", "p99",
             "a commit: p50", "p99", "writer busy")  # fmt: skip
    return _table(names, rows)


def _waited(seconds: tuple[float, ...]) -> tuple[str, str]:
    return _time(quantile(seconds, 0.5)), _time(quantile(seconds, 0.99))


def _time(seconds: float) -> str:
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(seconds * 1_000)} ms"


def _busy(waits: Waits) -> str:
    return f"{waits.busy:.1%}"


def _of_sizes(kinds: list[Backend]) -> str:
    rows = []
    for events in SIZES:
        pages, levels = lmdb_pages(events, kinds[0].row)
        row = [f"{events:,}", *(_bytes(events * one.event) for one in kinds), f"{pages:,.0f}", str(levels)]
        if len(kinds) > 1:
            row.append(str(postgres_depth(events)))
        rows.append((*row, _span(events / kinds[0].verify), _span(events / kinds[0].prune)))
    names = ["events", *(one.name for one in kinds), "LMDB: pages of events", "depth"]
    names += ["PostgreSQL: depth by position"] if len(kinds) > 1 else []
    return _table((*names, "to verify (LMDB)", "to prune (LMDB)"), rows)


def rough(value: float) -> str:
    """A number of which two digits are to be believed."""
    return f"{float(f'{value:.1e}'):,.0f}"


def _bytes(size: float) -> str:
    power = min(int(math.log(max(size, 1), 1024)), 4)
    return f"{number(size / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _span(seconds: float) -> str:
    for unit, length in (("days", DAY), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} s"


def _of_bounds(load: Load, lmdb: Backend, postgres: Backend | None, days: float) -> str:
    rows = [
        (one.what, rough(one.runs), f"{rough(one.runs * (load.steps + lmdb.more) * days)}", one.then)
        for one in bounds(load, lmdb, postgres, days=days)
    ]
    return _table(("what", "runs a day", "events kept then", "what to do"), rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (names, ("---",) * len(names), *rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description="Measure a small store, simulate a load, say what breaks first.",
    )
    parser.add_argument("--runs", type=float, nargs="+", default=list(LOADS), metavar="N", help="runs a day")
    parser.add_argument("--steps", type=int, default=10, help="steps of a run")
    parser.add_argument("--node", type=float, default=1.0, metavar="SECONDS", help="the mean time in a node")
    parser.add_argument("--spread", type=float, default=1.0, help="sigma of its logarithm")
    parser.add_argument("--peak", type=float, default=2.0, help="the busiest moment over the day's mean")
    parser.add_argument("--days", type=float, default=30.0, help="how long runs are kept")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--round-trip", type=float, default=0.0, metavar="SECONDS", help="added to each commit of PostgreSQL"
    )
    parser.add_argument("--no-postgres", dest="postgres", action="store_false", help="measure LMDB only")
    parser.add_argument("--smoke", action="store_true", help="little of everything: shows that it works, says nothing")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where stores are made; put it on the disk you ask about"
    )
    parser.add_argument("--into", type=Path, metavar="PAGE", help="put the tables into a page, between its marks")
    return parser


if __name__ == "__main__":
    sys.exit(main())

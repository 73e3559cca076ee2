"""A crash at every durable boundary: before and after each write, the end is the same.

Once in memory, where the writer dies by an exception that nothing catches, and once on disk, where the process ends. What
is durable when the author never hears of it is the harder half.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import pytest
from stories import story

from eventflow import CheckpointPolicy, Engine, MemoryLog, RetryPolicy, Workflow
from eventflow.errors import RunNotFound
from eventflow.event import SignalReceived
from eventflow.log import LmdbLog
from eventflow.recovery import recover
from eventflow.verification import verify_store

MORE_THAN_ALL = 99  # writes; a whole run takes about two dozen
WHOLE = {"n": 3, "paid": ["p0", "p1", "p2"], "asked": [0, 10, 20], "got": "hello", "tried": True}


class Died(BaseException):
    """The end of the process, as far as a test in one process can have it."""


class Fragile:
    """A log that dies before or after its write number `at`, and answers no more."""

    def __init__(self, log, at: int, *, after: bool, die):
        self._log, self._at, self._after, self._die = log, at, after, die
        self.writes = 0
        self.dead = False

    def __getattr__(self, name):
        return getattr(self._log, name)

    def write(self, batch):
        if self.dead:
            raise Died
        self.writes += 1
        if self.writes == self._at:
            if self._after:
                self._log.write(batch)
            self.dead = True
            self._die()
        return self._log.write(batch)


def raises():
    """How a writer dies in memory."""
    raise Died


def exits():
    """How a process ends."""
    os._exit(9)


class Bank:
    """The other side, which remembers each payment by its key."""

    def __init__(self, path=None):
        self._path, self._kept = path, []

    def pay(self, what, *, idempotency_key):
        line = f"{what} {idempotency_key}"
        if self._path is None:
            self._kept.append(line)
        else:
            with self._path.open("a") as file:
                file.write(line + "\n")
        return what

    def payments(self):
        """Every payment that was made."""
        if self._path is None:
            return list(self._kept)
        return self._path.read_text().splitlines() if self._path.exists() else []

    def look_up(self, key):
        """What became of a payment."""
        for line in self.payments():
            what, known = line.split()
            if known == key:
                return what
        raise LookupError(key)


def flow_of(bank: Bank) -> Workflow:
    """A loop with a payment and a question, a node that fails once, and one that waits for a message."""

    async def work(state, run):
        n = state["n"]
        paid = await run.effect("pay", bank.pay, f"p{n}", reconcile=bank.look_up)
        asked = await run.effect("ask", lambda: n * 10, mutating=False)
        return {"n": n + 1, "paid": [*state["paid"], paid], "asked": [*state["asked"], asked]}

    def fails_once(state, run):
        if run.attempt == 1:
            raise OSError("once")
        return {"tried": True}

    async def waits(state, run):
        while not run.signals:
            await asyncio.sleep(0.001)
        return {"got": run.signals[0]["payload"]}

    flow = Workflow("w").add_node("work", work).add_node("fails", fails_once, retry=RetryPolicy(attempts=2, delay=0))
    flow.add_node("waits", waits).add_edge("work", "work", when=lambda s: s["n"] < 3, label="more")
    return flow.add_edge("work", "fails").add_edge("fails", "waits").set_start("work")


async def lived(log, flow) -> dict:
    """Start the run or take it up, send the message once, and see it to its end."""
    policy = CheckpointPolicy(every=3, after_node=True, keep=2)
    async with Engine(log, workflows=[flow], checkpoints=policy, grace=0) as engine:
        run = await engine.start(flow, {"n": 0, "paid": [], "asked": []}, run_id="r")
        with suppress(RunNotFound):
            known = any(isinstance(one.event, SignalReceived) for one in run.events())
            if not known and not engine.log.inbox(run.state.run.run_key):
                await engine.signal("r", "go", "hello")
        return await run.result()


def check(log, bank: Bank, result: dict) -> None:
    """The end is the whole end: state, history, payments, message."""
    assert result == WHOLE
    head = log.head("r")
    assert head.status == "completed"
    assert recover(log, head).state == recover(log, head, snapshots=False).state
    assert list(verify_store(log))[-1].findings == []
    assert sorted(line.split()[0] for line in bank.payments()) == ["p0", "p1", "p2"]
    assert log.inbox(head.run_key) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_writer_that_dies_at_any_boundary_changes_nothing_in_the_end(after):
    """In memory, at each write of the run, its message, its checkpoints and their removal."""
    at = 0
    while True:
        at += 1
        log, bank = MemoryLog(), Bank()
        fragile = Fragile(log, at, after=after, die=raises)
        try:
            result = story(lived(fragile, flow_of(bank)))
        except BaseException:  # however the death of its writer comes up
            if not fragile.dead:
                raise
            result = story(lived(log, flow_of(bank)))
        check(log, bank, result)
        if not fragile.dead:
            break
    assert 15 < at < MORE_THAN_ALL


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_ends_at_any_boundary_changes_nothing_in_the_end(after, tmp_path, fork):
    """On disk, where only what was committed is left; the next process goes on."""
    at = 0
    while True:
        at += 1
        path = tmp_path / str(at)
        path.mkdir()
        bank = Bank(path / "bank")

        def live(at=at, path=path, bank=bank):
            log = Fragile(LmdbLog(path / "s"), at, after=after, die=exits)
            story(lived(log, flow_of(bank)))
            (path / "done").touch()

        child = fork(live)
        assert child.end() == ""
        log = LmdbLog(path / "s")
        check(log, bank, story(lived(log, flow_of(bank))))
        log.close()
        if (path / "done").exists():
            break
    assert 15 < at < MORE_THAN_ALL

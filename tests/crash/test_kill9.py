"""SIGKILL at random moments, with witnesses outside: nothing acknowledged is lost, nothing recorded is done again.

The witnesses are a pipe, into which each acknowledged event is written, and a ledger, into which each call of an effect
is written by the called side. Two controls, broken on purpose, show that the same examination finds what it looks for.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventflow import CheckpointPolicy, Engine, Workflow
from eventflow.event import EffectFinished, EffectStarted, Recorded
from eventflow.log import LmdbLog, Query
from eventflow.recovery import history, recover
from eventflow.verification import verify_store

RUNS = {f"run-{n}": {"n": 0, "seed": n, "paid": []} for n in range(5)}
STEPS = 12  # of a run; each makes two calls
LONGEST = 0.12  # seconds a child lives at most: about a third of what all runs take
KILLS, KILLS_FULL = 20, 200
CONTROL_KILLS = 40  # within which a broken variant must be found out; most need two or three


@dataclass
class Ledger:
    """The other side: who was paid, under which key. Appending a line is atomic and outlives the caller."""

    path: Path

    def call(self, name: str, key: str) -> str:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{name} {key}\n".encode())
        finally:
            os.close(fd)
        return f"receipt-{key}"

    def calls(self) -> Counter[tuple[str, str]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return Counter(tuple(line.split()) for line in lines)

    def look_up(self, key: str) -> str:
        """What became of a payment."""
        if not self.calls()["pay", key]:
            raise LookupError(key)
        return f"receipt-{key}"


def flow_of(ledger: Ledger, *, early: bool = False) -> Workflow:
    """Two nodes in turn, an async one that pays and a plain one that asks; `early` pays before anything is recorded."""

    async def pay(state, run):
        def call(idempotency_key):
            return ledger.call("pay", idempotency_key)

        if early:
            key = f"early-{run.id}-{state['n']}"
            ledger.call("pay", key)
            await asyncio.sleep(0.003)
            return {"paid": [*state["paid"], await run.effect("pay", str, key)]}
        receipt = await run.effect("pay", call, reconcile=ledger.look_up)
        return {"paid": [*state["paid"], receipt[:7]]}

    def ask(state, run):
        def call(idempotency_key):
            ledger.call("ask", idempotency_key)
            return state["n"] * 10 + state["seed"]

        answer = run.effect_sync("ask", call, mutating=False)
        return {"n": state["n"] + 1, "sum": state.get("sum", 0) + answer}

    flow = Workflow("w").add_node("pay", pay).add_node("ask", ask).add_node("end", lambda s: {"done": True})
    flow.add_edge("pay", "ask").add_edge("ask", "pay", when=lambda s: s["n"] < STEPS, label="more")
    return flow.add_edge("ask", "end").set_start("pay")


class _EarlyWitness:
    """A log that has its events acknowledged before they are committed: the first control."""

    def __init__(self, log, tell):
        self._log, self._tell = log, tell

    def __getattr__(self, name):
        return getattr(self._log, name)

    def write(self, batch):
        for one in batch:
            for number, _ in enumerate(getattr(one, "events", ()), 1):
                self._tell(one.run_id, one.expected + number)
        time.sleep(0.003)
        return self._log.write(batch)


@dataclass
class Campaign:
    """One store, driven by one child after the other until all its runs are done."""

    path: Path
    variant: str = ""
    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)

    def __post_init__(self):
        self.path.mkdir()
        self.store, self.ledger = self.path / "store", Ledger(self.path / "ledger")
        self.flow = flow_of(self.ledger, early=self.variant == "calls early")

    def drive(self, pipe: int) -> None:
        """What a child does: take up what is there, start what is not, to the end."""

        def tell(run_id, version, digest=""):
            os.write(pipe, f"{run_id} {version} {digest}\n".encode())

        def witness(state, notice):
            if isinstance(notice, Recorded):
                tell(state.run.run_id, notice.version, notice.digest.hex())

        early = self.variant == "acknowledges early"
        listeners = [] if early else [witness]

        async def main():
            store = _EarlyWitness(LmdbLog(self.store), tell) if early else self.store
            policy = CheckpointPolicy(every=7, keep=2)
            async with Engine(store, workflows=[self.flow], checkpoints=policy, listeners=listeners) as engine:
                runs = await engine.start_many(self.flow, RUNS)
                for run in runs:
                    await run.result()

        asyncio.run(main())

    def live(self, fork, seconds: float | None) -> str:
        """One child, killed after so many seconds (None: not at all); what it said at its end."""
        reading, writing = os.pipe()
        child = fork(lambda: self.drive(writing))
        os.close(writing)
        listener = threading.Thread(target=self._listen, args=(reading,))
        listener.start()
        if seconds is not None:
            time.sleep(seconds)
            child.kill()
        said = child.end()
        listener.join()
        return said

    def _listen(self, reading: int) -> None:
        with os.fdopen(reading, "r") as pipe:
            for line in pipe:
                if line.endswith("\n"):
                    run_id, version, *digest = line.split()
                    self.acknowledged[run_id, int(version)] = digest[0] if digest else ""

    # --- the examination

    def faults(self) -> list[str]:
        """What is wrong between the witnesses and the store."""
        if not (self.store / "CURRENT").exists():
            return [f"acknowledged and not there: {self.acknowledged}"] if self.acknowledged else []
        log = LmdbLog(self.store)
        try:
            return [*self._lost(log), *self._repeated(log), *map(str, list(verify_store(log))[-1].findings)]
        finally:
            log.close()

    def _lost(self, log) -> list[str]:
        found = {
            (listed.head.run_id, one.version): one.digest.hex()
            for listed in log.runs(Query())
            for one in history(log, listed.head.run_key, 1, listed.head.version)
        }
        return [
            f"acknowledged and lost: {run_id} version {version}"
            for (run_id, version), digest in self.acknowledged.items()
            if found.get((run_id, version)) is None or (digest and found[run_id, version] != digest)
        ]

    def _repeated(self, log) -> list[str]:
        started: Counter[str] = Counter()
        finished: set[str] = set()
        faults = []
        for listed in log.runs(Query()):
            keys = {}
            for one in history(log, listed.head.run_key, 1, listed.head.version):
                event = one.event
                if isinstance(event, EffectStarted):
                    key = keys[event.name] = event.idempotency_key
                    started[key] += 1
                    if key in finished:
                        faults.append(f"started again although finished: {key}")
                elif isinstance(event, EffectFinished):
                    finished.add(keys[event.name])
        for (name, key), times in self.ledger.calls().items():
            if name == "pay" and times > 1:
                faults.append(f"paid {times} times: {key}")
            elif times > started[key] and self.variant != "calls early":
                faults.append(f"called {times} times, started {started[key]} times: {key}")
        return faults

    def done(self) -> bool:
        """Whether all runs are completed."""
        if not (self.store / "CURRENT").exists():
            return False
        log = LmdbLog(self.store, readonly=True)
        try:
            heads = [log.head(name) for name in RUNS]
            return all(head is not None and head.status == "completed" for head in heads)
        finally:
            log.close()

    def results(self) -> dict:
        """The final data of each run, and how often each was paid for."""
        log = LmdbLog(self.store, readonly=True)
        try:
            return {name: dict(recover(log, log.head(name)).state.data) for name in RUNS}
        finally:
            log.close()


def uninterrupted(path: Path) -> dict:
    """What the same runs come to when nobody kills them."""
    path.mkdir()
    flow = flow_of(Ledger(path / "ledger"))
    return {name: flow.run_sync(data) for name, data in RUNS.items()}


@pytest.mark.slow
def test_runs_survive_being_killed_at_random_moments(tmp_path, fork, full, record_property):
    """Acknowledged events, finished effects, chains and final states are as if nothing had happened."""
    expected = uninterrupted(tmp_path / "expected")
    kills, seed = (KILLS_FULL if full else KILLS), random.randrange(2**32)  # noqa: S311
    chance = random.Random(seed)  # noqa: S311
    number, campaign = 0, Campaign(tmp_path / "0")
    acknowledged = 0
    for _ in range(kills):
        said = campaign.live(fork, chance.uniform(0.01, LONGEST))
        assert said == "", f"seed {seed}: a child failed: {said}"
        assert campaign.faults() == [], f"seed {seed}"
        if campaign.done():
            acknowledged += _closed(campaign, fork, expected, seed)
            number += 1
            campaign = Campaign(tmp_path / str(number))
    acknowledged += _closed(campaign, fork, expected, seed)
    assert acknowledged > kills
    record_property("figures", f"{kills} kills, {acknowledged:,} events acknowledged: 0 lost, 0 paid twice")


def _closed(campaign: Campaign, fork, expected: dict, seed: int) -> int:
    """A campaign driven to its end and examined; the number of acknowledged events."""
    assert campaign.live(fork, None) == "", f"seed {seed}"
    assert campaign.faults() == [], f"seed {seed}"
    assert campaign.results() == expected, f"seed {seed}"
    calls = campaign.ledger.calls()
    assert sum(times for (name, _), times in calls.items() if name == "pay") == len(RUNS) * STEPS, f"seed {seed}"
    return len(campaign.acknowledged)


@pytest.mark.parametrize(
    ("variant", "fault"), [("acknowledges early", "acknowledged and lost"), ("calls early", "paid 2 times")]
)
def test_the_examination_finds_a_variant_that_is_broken(tmp_path, fork, variant, fault):
    """An acknowledgement before the commit, and a call before its start is recorded, are found out."""
    chance = random.Random(1)  # noqa: S311
    for number in range(CONTROL_KILLS):
        campaign = Campaign(tmp_path / str(number), variant)
        for _ in range(2):
            campaign.live(fork, chance.uniform(0.03, LONGEST))
            if any(one.startswith(fault) for one in campaign.faults()):
                return
    pytest.fail(f"a variant that {variant} went unnoticed")

"""One life of a run: start it or take it up, say what it waits to hear, and see it to its end or to its writer's death.

Whoever would sit before it sits here: sends the signals it waits for, answers what it asks, and says what became of a
call whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from eventflow.checkpoint import CheckpointPolicy
from eventflow.engine import Engine, Run
from eventflow.errors import EffectMisused, NeedsConfirmation
from eventflow.event import Event, SignalReceived
from eventflow.log import Log
from eventflow.plain import thaw
from eventflow.recovery import history
from eventflow.run import Notice, facts
from eventflow.state import ENDED, State, open_waits
from eventflow.testing.crash.boundary import BoundaryLog, Died
from eventflow.testing.crash.witness import Doomed
from eventflow.testing.skipping import SkippingClock
from eventflow.workflow import Workflow, answer_name

POLICY = CheckpointPolicy(every=3, after_node=True, keep=2)  # snapshots all along, so that recovery starts from some
LOOK = 0.02  # real seconds between looks whether the log has died where nobody waits for it
PATIENCE = 30.0  # real seconds until a life that neither ends nor dies is given up
Wait = Mapping[str, Any]
MAX_ASKED = 100  # times a run may ask a person in one life; more is a loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a run is given: its workflow and input, and what the world says to it.

    `signals` are sent when the run waits for them, by name; `early` pairs of name and payload at its start; `answers`
    go to people's nodes, by the node's name. A payload or answer may be a function of the run's data.
    """

    flow: Workflow
    data: Any
    run_id: str = "sweep"
    signals: Mapping[str, Any] = field(default_factory=dict)
    early: Sequence[tuple[str, Any]] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)
    workflows: Sequence[Workflow] = ()
    policy: CheckpointPolicy = POLICY
    patience: float = PATIENCE


class NeverEnds(AssertionError):
    """A life neither ended nor died."""


class Life:
    """One life of a story's run, on an open log, with a clock that skips; `doomed` are results that were not written."""

    def __init__(self, story: Story, log: BoundaryLog, clock: SkippingClock, doomed: Sequence[Doomed] = ()) -> None:
        self._story, self._log, self._clock = story, log, clock
        self._doomed = {(one.name, one.key, one.branch): one.output for one in doomed}
        self._hold = contextlib.ExitStack()
        self._state: State | None = None
        self._said: set[int] = set()  # by the versions at which the waits were opened
        self._rung = asyncio.Event()
        self._saying: asyncio.Task[None] | None = None
        self.asked = 0

    async def to_its_end(self) -> None:
        """Return once the run has ended. Raises NeverEnds, and whatever the log dies of."""
        flows = {flow.name: flow for flow in (*self._story.workflows, self._story.flow)}
        engine = Engine(
            cast("Log", self._log), workflows=flows.values(), checkpoints=self._story.policy, clock=self._clock, grace=0,
            listeners=[self._hears],
        )  # fmt: skip
        async with engine:
            saying = self._saying = asyncio.ensure_future(self._says(engine))
            try:
                await self._lived(engine)
            except Died:
                if saying.done() and not saying.cancelled() and not self._log.dead:
                    await saying  # what it could not say is what went wrong
                raise
            finally:
                self._hold.close()
                saying.cancel()
                await asyncio.wait({saying})

    async def _lived(self, engine: Engine) -> None:
        await self._ended(await self._taken_up(engine))

    async def _taken_up(self, engine: Engine) -> Run:
        story = self._story
        head = engine.log.head(story.run_id)
        if head is None:
            run = await engine.start(story.flow, story.data, run_id=story.run_id)
        elif head.status in ENDED:
            run = engine.get(story.run_id)
        else:
            run = await self._resumed(engine)
            await engine.pick_up()  # whatever other runs the one before has left
        await self._send_early(engine, run)
        return run

    async def _resumed(self, engine: Engine) -> Run:
        try:
            return await engine.resume(self._story.run_id)
        except NeedsConfirmation:
            self.asked += 1
            return await engine.resume(self._story.run_id, yes=True)

    async def _ended(self, run: Run) -> None:
        ends = asyncio.ensure_future(run.wait())
        for _ in range(max(1, round(self._story.patience / LOOK))):
            await asyncio.wait({ends}, timeout=LOOK)
            if ends.done():
                break
            if self._log.dead or (self._saying is not None and self._saying.done()):
                ends.cancel()
                raise Died
        else:
            ends.cancel()
            state = run.state
            waits = " and ".join(f"a {wait['kind']} {wait['name']}".rstrip() for _, wait in open_waits(state))
            what = f"waits for {waits}" if waits else f"is {state.status}"
            raise NeverEnds(
                f"run {run.id} did not end: it {what} in node {state.node}; say what it waits for in signals= or answers="
            )
        await ends

    # --- what the world says

    def _hears(self, state: State, _notice: Notice) -> None:
        """Note what the run waits for; time stands still while it is about to be told."""
        if state.run.run_id != self._story.run_id:
            return
        self._state = state
        self._hold.close()
        if self._unsaid(state):
            self._hold.enter_context(self._clock.held())
            self._rung.set()

    def _unsaid(self, state: State) -> list[tuple[str, Wait]]:
        """What the run, or a branch of it, waits for and this world knows to say, as far as it is not said."""
        waits = [] if state.ended else open_waits(state)
        return [(branch, wait) for branch, wait in waits if self._known(state, wait) and wait["id"] not in self._said]

    def _known(self, state: State, wait: Wait) -> bool:
        if wait["kind"] == "signal":
            return wait["name"] in self._story.signals
        return wait["kind"] == "unknown" or (wait["kind"] == "human" and state.node in self._story.answers)

    async def _says(self, engine: Engine) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            state = self._state
            for branch, wait in [] if state is None else self._unsaid(state):
                self._said.add(wait["id"])
                await self._say(engine, cast("State", state), branch, wait)

    async def _say(self, engine: Engine, state: State, branch: str, wait: Wait) -> None:
        data, run_id = thaw(state.data), state.run.run_id
        if wait["kind"] == "unknown":
            await self._settle(engine, run_id, branch, wait)
            return
        human = wait["kind"] == "human"
        name = answer_name(wait["id"]) if human else wait["name"]
        if self._on_its_way(engine, state, name):
            return
        given = self._story.answers[state.node] if human else self._story.signals[name]
        payload = given(data) if callable(given) else given
        await (engine.answer(run_id, payload, wait=wait["id"]) if human else engine.signal(run_id, name, payload))

    async def _settle(self, engine: Engine, run_id: str, branch: str, wait: Wait) -> None:
        """Say what became of a call whose outcome is unknown: as made if its result was about to be written."""
        name, key = wait["name"], wait["spec"]["key"]
        self.asked += 1
        if self.asked > MAX_ASKED:
            raise NeverEnds(f"run {run_id} asked what became of a call {MAX_ASKED} times")
        call = (name, key, branch)
        with contextlib.suppress(EffectMisused):  # a life before has said it, and it came in just now
            await engine.settle(
                run_id, name, key, output=thaw(self._doomed.get(call)), happened=call in self._doomed, branch=branch
            )

    def _on_its_way(self, engine: Engine, state: State, name: str) -> bool:
        """Whether a life before has said it already, and it is durable."""
        waiting = _waiting(engine.log, state)
        return any(isinstance(one, SignalReceived) and one.name == name for one in waiting) or any(
            one["name"] == name for one in state.signals
        )

    async def _send_early(self, engine: Engine, run: Run) -> None:
        """Send what is sent at the start, what of it is not durable yet."""
        if not self._story.early:
            return
        key = run.state.run.run_key
        head = engine.log.head_of(key)
        if head is None or head.status in ENDED:
            return
        known = [one.event for one in history(engine.log, key, 1, head.version)]
        known += _waiting(engine.log, run.state)
        there = Counter(one.name for one in known if isinstance(one, SignalReceived))
        for name, payload in self._story.early:
            there[name] -= 1
            if there[name] < 0:
                await engine.signal(run.id, name, payload)


def _waiting(log: Log, state: State) -> list[Event]:
    """What waits in a run's inbox, as the events it would become."""
    inbox = log.inbox(state.run.run_key)
    return [event for number, data in inbox for event in facts(state, number, data, driven=False)]


def lived_apart(make: Callable[[], Life], log: BoundaryLog) -> Life | None:
    """Live on a thread of its own, since the caller may be in an event loop; None if it died as it should."""
    outcome: list[Life | BaseException | None] = []

    async def lived() -> Life:
        life = make()
        if log.dies:  # what falls in pieces around a death is no news
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await life.to_its_end()
        return life

    def work() -> None:
        try:
            outcome.append(asyncio.run(lived()))
        except BaseException as error:  # noqa: BLE001 - looked at below, in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=work, name="eventflow-sweep")
    thread.start()
    thread.join()
    result = outcome[0]
    if log.dead:
        return None
    if isinstance(result, BaseException):
        raise result
    return result

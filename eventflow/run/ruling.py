"""What becomes of the calls of a what-if run: answered from the record, answered with a value, made, or denied.

A refusal ends the run, whatever its code makes of the error: who drives the run looks here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from eventflow.errors import EffectDenied
from eventflow.event import EffectFinished, EffectStarted
from eventflow.log import Log
from eventflow.plain import raw
from eventflow.state import State, effect_id
from eventflow.what_if import MOCK, OWN, Answers, verdict


class Ruling:
    """The calls of one driven run, ruled on one after the other. `denied` is the first refusal, if there was one."""

    def __init__(self, log: Log) -> None:
        self.denied: EffectDenied | None = None
        self._log = log
        self._answers: asyncio.Future[Answers] | None = None

    async def answer(self, state: State, begun: EffectStarted, asked: Any) -> EffectFinished | None:
        """What answers a call in its place; None if it is to be made. Raises EffectDenied.

        `asked` is the call's input as it is shown to people.
        """
        policy = state.run.policy
        if not policy or begun.kind in OWN:
            return None
        said = verdict(policy, begun.name, mutating=begun.mutating)
        if said == "deny":
            raise self._refused(state, begun, asked, "is denied by name")
        if said == "mock":
            return self._finished(begun, raw(policy["mock"], begun.name), MOCK)
        answers = await self._known(state)
        found = answers.take(state.node, effect_id(begun.name, begun.key, begun.branch), begun.input_digest)
        if found is not None:
            place, output = found
            return self._finished(begun, output, place)
        if said == "live":
            return None
        none = "no recorded call answers it" if "recorded" in policy else "no record may answer it"
        raise self._refused(state, begun, asked, f"is not made, for {none}")

    def _finished(self, begun: EffectStarted, output: Any, source: str) -> EffectFinished:
        return EffectFinished(begun.name, begun.key, output, branch=begun.branch, source=source)

    async def _known(self, state: State) -> Answers:
        """The recorded answers, looked up once, beside the loop: a long history takes seconds."""
        if self._answers is None:
            self._answers = asyncio.ensure_future(asyncio.to_thread(Answers, self._log, state))
        return await asyncio.shield(self._answers)

    def _refused(self, state: State, begun: EffectStarted, asked: Any, why: str) -> EffectDenied:
        error = EffectDenied(state.run.run_id, state.node, begun.name, begun.key, f"{why} (it asks {asked})")
        self.denied = self.denied or error
        return error

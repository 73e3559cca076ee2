"""What is told to a run that nobody drives: take the lease, turn it into events, let go."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from eventflow.address import find_run
from eventflow.codec import pack
from eventflow.errors import Conflict, EffectMisused
from eventflow.event import EffectFinished, EffectRejected, Event, RunCancelled
from eventflow.forking import who
from eventflow.log import Append, Head
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.run import Shop, fact
from eventflow.state import State, effect_id, status_after


async def deliver(shop: Shop, run_id: str) -> None:
    """Append what waits in a run's inbox; if somebody takes the run meanwhile, the messages are theirs.

    Nothing follows a run's end; a failed run only hears that it is cancelled, the rest waits for its resumption.
    """
    head = find_run(shop.log, run_id, whole=True)
    state = recover(shop.log, head).state
    taken: dict[int, Event] = {}
    for number, data in shop.log.inbox(head.run_key):
        event = fact(number, data)
        if state.ended and not (state.status == "failed" and isinstance(event, RunCancelled)):
            continue
        taken[number] = event
        status, waiting = status_after(state, event)
        state = replace(state, status=status, waiting_for=waiting)
    if taken:
        with suppress(Conflict):
            await _append(shop, head, state, tuple(taken.values()), tuple(taken))


async def settle(
    shop: Shop, head: Head, effect: str, key: str, *, output: Any, happened: bool, why: str
) -> None:  # fmt: skip
    """Record what became of a call whose outcome is unknown. Raises EffectMisused if there is no such call."""
    state = recover(shop.log, head).state
    entry = state.effects.get(effect_id(effect, key))
    if entry is None or entry["status"] != "started":
        unknown = ", ".join(name for name, one in state.effects.items() if one["status"] == "started") or "none"
        raise EffectMisused(
            f"run {head.run_id}: the outcome of effect {effect!r} (key {key}) is not unknown (unknown are: {unknown})"
        )
    event: Event = EffectRejected(effect, key, who(), why)
    if happened:
        event = EffectFinished(effect, key, freeze(output, "output"), actor=who(), why=why)
    status, waiting = status_after(state, event)
    await _append(shop, head, replace(state, status=status, waiting_for=waiting), (event,), ())


async def _append(shop: Shop, head: Head, after: State, events: tuple[Event, ...], taken: tuple[int, ...]) -> None:
    packed = tuple(pack(event) for event in events)
    append = Append(
        head.run_id, head.run_key, head.incarnation, head.version, head.epoch, packed, shop.clock.now(), after.status,
        after.waiting_for, claim=shop.owner, release=True, taken=taken,
    )  # fmt: skip
    await shop.writer.write(append)

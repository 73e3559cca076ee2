"""What is told to a run that nobody drives: take the lease, turn it into events, let go."""

from __future__ import annotations

from eventflow.address import find_run
from eventflow.codec import pack
from eventflow.errors import Conflict, EffectMisused, RunOwned
from eventflow.event import RunCancelled
from eventflow.log import Append, Log
from eventflow.recovery import recover
from eventflow.run import Keys, Shop, called_off, facts, last_words
from eventflow.state import effect_id, is_doubtful, open_waits, standing_after


async def deliver(shop: Shop, run_id: str) -> None:
    """Append what waits in a run's inbox; if somebody takes the run meanwhile, the messages are theirs.

    Nothing follows a run's end; a failed run only hears that it is cancelled, the rest waits for its resumption.
    """
    head = find_run(shop.log, run_id, whole=True)
    keys = Keys(shop.log, head.run_key)
    for number, data in shop.log.inbox(head.run_key):
        head = find_run(shop.log, run_id, whole=True)
        state = recover(shop.log, head).state
        events = shop.cleaned(facts(state, number, data, driven=False, taken=keys))
        if state.ended and not (state.status == "failed" and isinstance(events[-1], RunCancelled)):
            continue
        posts = (*last_words(state, events[-1]), *called_off(shop.log, state, events[-1]))
        append = Append(
            head.run_id, head.run_key, head.incarnation, head.version, head.epoch, tuple(map(pack, events)),
            shop.clock.now(), *standing_after(state, events), claim=shop.owner, release=True, taken=(number,), posts=posts,
        )  # fmt: skip
        try:
            await shop.writer.surely(append)
        except Conflict:
            return
        for post in posts:
            child = shop.log.head_of(post.run_key)
            if child is not None and child.status == "paused" and shop.log.owner_gone(child.owner):
                await deliver(shop, child.run_id)


def check_unknown(log: Log, run: str, effect: str, key: str, branch: str) -> None:
    """Raise EffectMisused if the outcome of a call is not unknown, RunOwned if it is under way, RunNotFound."""
    head = find_run(log, run, whole=True)
    state = recover(log, head).state
    entry = state.effects.get(effect_id(effect, key, branch))
    if entry is None or not is_doubtful(entry):
        unknown = ", ".join(name for name, one in state.effects.items() if is_doubtful(one)) or "none"
        raise EffectMisused(
            f"run {state.run.run_id}: the outcome of effect {effect!r} (key {key}) is not unknown (unknown are: {unknown})"
        )
    asked = any(
        where == branch and wait["kind"] == "unknown" and (wait["name"], wait["spec"].get("key")) == (effect, key)
        for where, wait in open_waits(state)
    )
    if not asked and not log.owner_gone(head.owner):
        raise RunOwned(head.run_id, log.owner_text(head.owner))

"""Messages for a run that nobody drives: take the lease, turn them into events, let go."""

from __future__ import annotations

from contextlib import suppress

from eventflow.address import find_run
from eventflow.codec import pack
from eventflow.errors import Conflict
from eventflow.log import Append
from eventflow.recovery import recover
from eventflow.run import Shop, fact
from eventflow.state import status_after


async def deliver(shop: Shop, run_id: str) -> None:
    """Append what waits in a run's inbox; if somebody takes the run meanwhile, the messages are theirs."""
    head = find_run(shop.log, run_id, whole=True)
    state = recover(shop.log, head).state
    if state.ended:
        return
    status, waiting = head.status, head.waiting_for
    events, numbers = [], []
    for number, data in shop.log.inbox(head.run_key):
        event = fact(number, data)
        status, waiting = status_after(state, event)
        events.append(pack(event))
        numbers.append(number)
    append = Append(
        head.run_id, head.run_key, head.incarnation, head.version, head.epoch, tuple(events), shop.clock.now(), status,
        waiting, claim=shop.owner, release=True, taken=tuple(numbers),
    )  # fmt: skip
    with suppress(Conflict):
        await shop.writer.write(append)

"""Messages for a run from outside: what is put into its inbox, and the fact each becomes.

A message needs neither version nor epoch and is durable when it is posted; the run's owner turns it into one event and
takes it out of the inbox in the same transaction, so it takes effect once.
"""

from __future__ import annotations

from typing import Any

from eventflow.codec import decode, encode
from eventflow.errors import Corrupt
from eventflow.event import Event, RunCancelled, RunPaused, SignalReceived
from eventflow.plain import freeze

SIGNAL, PAUSE, CANCEL = "signal", "pause", "cancel"


def message(kind: str, *, name: str = "", payload: Any = None, actor: str = "", why: str = "") -> bytes:
    """A message's bytes. Raises NotPlainData if the payload is not plain data."""
    return encode({"actor": actor, "kind": kind, "name": name, "payload": freeze(payload, "payload"), "why": why})


def fact(number: int, data: bytes) -> Event:
    """The event a message becomes. Raises Corrupt."""
    where = f"message {number}"
    value = decode(data, where)
    if not isinstance(value, dict) or not {"actor", "kind", "name", "payload", "why"} <= value.keys():
        raise Corrupt(where, "can't be read")
    if value["kind"] == SIGNAL:
        return SignalReceived(value["name"], freeze(value["payload"]), number, value["actor"])
    if value["kind"] == PAUSE:
        return RunPaused(value["actor"], value["why"])
    if value["kind"] == CANCEL:
        return RunCancelled(value["actor"], value["why"])
    raise Corrupt(where, f"is of a kind that this eventflow does not know ({value['kind']!r})")

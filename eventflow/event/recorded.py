"""An event with its place in a run and in a store: what a log gives back. What events say is not looked at here."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventflow.event.runs import RunEvent
from eventflow.event.stores import StoreEvent
from eventflow.swift import swift

Event = RunEvent | StoreEvent


@dataclass(frozen=True, slots=True)
class Vouch:
    """The version and the state digest of a snapshot, carried by an event, so that the chain answers for it."""

    version: int
    digest: bytes


@swift
@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place: what the log gives back.

    `version` counts in the run, `position` in the whole store, both from 1; `time` is ns since the epoch, UTC, by the
    engine's clock; `digest` is the SHA-256 of the stored bytes and `before` that of the run's event before.
    """

    event: Event
    run_key: bytes
    incarnation: int
    version: int
    position: int
    epoch: int
    time: int
    digest: bytes
    before: bytes
    vouch: Vouch | None = None
    size: int = field(default=0, compare=False)
    hidden: str = field(default="", compare=False)  # "encrypted" or "shredded": the fact's values are placeholders

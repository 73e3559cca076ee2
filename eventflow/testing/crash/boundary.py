"""A log that dies at a boundary: before or after the commit of the write that makes a certain fact durable.

A boundary is named by the number of a fact, not of a write: which facts share a write may differ from life to life, how
many there are does not. After its death the log takes no write any more, for ever. What it was asked for and what it
acknowledged goes into notes that outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from eventflow.codec import Place, Stored, decode, read_events, seal
from eventflow.codec import unpack_blob as unpacked
from eventflow.errors import EventflowError
from eventflow.event import EffectFailed, EffectFinished, EffectRejected, EffectStarted, Event
from eventflow.log import Answer, Append, Appended, Log, Post, Posted
from eventflow.log import Write as LogWrite
from eventflow.run import SIGNAL
from eventflow.testing.crash.witness import Doomed, Notes, Told, Write

When = Literal["before", "after"]
WHENS: tuple[When, ...] = ("before", "after")


class Died(BaseException):
    """The end of the process, as far as one process can have it: nothing catches it."""


class BoundaryLog:
    """A log that passes everything on until the write of fact number `at`, where `die` is called; 0 lets it live."""

    def __init__(
        self, log: Log, notes: Notes, *, at: int = 0, when: When = "before", die: Callable[[], None] | None = None
    ) -> None:  # fmt: skip
        self._log, self._notes = log, notes
        self._at, self._when, self._die = at, when, die
        self._facts = 0
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @property
    def dies(self) -> bool:
        """Whether a death is meant for it."""
        return self._at > 0

    def write(self, batch: Sequence[LogWrite]) -> list[Answer | EventflowError]:
        """Write, or die before or after it."""
        if self.dead:
            raise Died
        facts = [fact for one in batch for fact in facts_of(one, self._log)]
        first, self._facts = self._facts + 1, self._facts + len(facts)
        here = first <= self._at <= self._facts
        if facts:
            self._notes.asked_for(Write(first, tuple(map(label, facts))))
        if here and self._when == "before":
            self._end(facts)
        answers = self._log.write(batch)
        if here:
            self._end([])
        for one, answer in zip(batch, answers, strict=True):
            self._tell(one, answer)
        return answers

    def _end(self, unwritten: Sequence[Event | str]) -> None:
        self.dead = True
        for event in unwritten:
            if isinstance(event, EffectFinished):
                self._notes.doomed(Doomed(event.name, event.key, event.output, event.branch))
        self._notes.died()
        if self._die is not None:
            self._die()
        raise Died

    def _tell(self, one: LogWrite, answer: Answer | EventflowError) -> None:
        if isinstance(one, Post) and isinstance(answer, Posted) and _is_signal(one):
            head = self._log.head_of(one.run_key)
            self._notes.told(Told(head.run_id if head else "", "message", answer.message))
        if isinstance(one, Append) and isinstance(answer, Appended):
            version = answer.head.version - len(one.events)
            for event, digest in zip(events_of(one, self._log), answer.digests, strict=True):
                version += 1
                call = event.idempotency_key if isinstance(event, EffectStarted) else ""
                self._notes.told(Told(one.run_id, type(event).__name__, version, digest.hex(), call))


def facts_of(one: LogWrite, log: Log) -> list[Event | str]:
    """What a write makes durable: the events of an append, a message; nothing for the care of the cache."""
    if isinstance(one, Append):
        return list(events_of(one, log))
    return ["message"] if isinstance(one, Post) else []


def events_of(append: Append, log: Log) -> Iterator[Event]:
    """The events of an append that may not be written yet."""
    for index, packed in enumerate(append.events, 1):
        place = Place(append.run_key, append.incarnation, append.expected + index, append.epoch, append.time, bytes(32))
        here = {blob.digest: blob.stored for blob in packed.blobs}

        def fetch(names: Any, here: Mapping[bytes, bytes] = here) -> dict[bytes, bytes]:
            wanted = set(names)
            known = {name: unpacked(here[name], name) for name in wanted & here.keys()}
            return {**log.blobs(wanted - here.keys()), **known}

        yield read_events([Stored(0, seal(packed, place))], fetch)[0].event


def _is_signal(post: Post) -> bool:
    """Whether a message becomes an event that has its number, by which it can be found again."""
    value = decode(post.data, "a message")
    return isinstance(value, dict) and value.get("kind") == SIGNAL


def label(fact: Event | str) -> str:
    """A fact in a few words."""
    if isinstance(fact, str):
        return fact
    name = type(fact).__name__
    if isinstance(fact, EffectStarted | EffectFinished | EffectFailed | EffectRejected):
        return f"{name} {fact.name}#{fact.key}"
    to = getattr(fact, "to", None)
    node = getattr(fact, "node", "")
    if isinstance(to, str):
        return f"{name} {node} -> {to}"
    return f"{name} {node}".rstrip()

"""Bugs planted on purpose: each breaks one promise, and has a test that must fail while it is there.

A test that never fails proves nothing. Nothing in the package knows of these: they are put into it for a block, and taken
out again. Those that stand between an engine and its log, or under a simulation, are switches of `crash_sweep` and of
`simulate`; they are listed here too, so that there is one list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from eventflow.cipher import locks
from eventflow.log import Log
from eventflow.log.lmdb import checks
from eventflow.retention import sweeping

Planted = Literal["unbound", "greedy_sweep", "blind_to_the_mark"]


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: its name, where its switch is, the promise it breaks, and the test that finds it."""

    name: str
    switch: str
    breaks: str
    found_by: str


PLANTS: tuple[Plant, ...] = (
    Plant("acknowledge_before_commit", "crash_sweep(faults=…)", "nothing is true until appended", "test_a_planted_bug_is_found"),
    Plant("effect_before_started", "crash_sweep(faults=…)", "a call's start is durable before it is made", "test_a_planted_bug_is_found"),
    Plant("unsynced", "simulate(plant=…)", "what was acknowledged outlives its process", "test_a_planted_bug_is_found"),
    Plant("unguarded", "simulate(plant=…)", "a stale writer is refused", "test_a_planted_bug_is_found"),
    Plant("skip_the_sync", "tests/crash/powercut", "what was acknowledged outlives a power cut", "test_a_store_that_does_not_sync_is_found_out"),
    Plant("skip_the_sync_of_the_meta_page", "tests/crash/powercut", "the same for the last event", "test_a_store_that_does_not_sync_is_found_out"),
    Plant("unbound", "planted(…)", "a sealed body opens at its own place alone", "test_a_body_that_is_bound_to_nothing_is_found"),
    Plant("greedy_sweep", "planted(…)", "a sweep leaves every blob that somebody refers to", "test_a_sweep_that_takes_one_blob_too_many_is_found"),
    Plant("blind_to_the_mark", "planted(…)", "a store that was rolled back is noticed when it opens", "test_an_opening_that_ignores_the_mark_is_found"),
)  # fmt: skip


@contextmanager
def planted(name: Planted) -> Iterator[None]:
    """A block in which a bug is in this process."""
    where, what, instead = _broken(name)
    before = getattr(where, what)
    setattr(where, what, instead)
    try:
        yield
    finally:
        setattr(where, what, before)


def _broken(name: Planted) -> tuple[Any, str, Callable[..., Any]]:
    """What is exchanged: whose attribute, its name, and what stands there instead."""
    match name:
        case "unbound":
            return locks.RunLock, "_about", lambda *_: b""
        case "greedy_sweep":
            return sweeping, "_spare", _sparing_one_too_few(getattr(sweeping, "_spare"))  # noqa: B009 - a private name
        case "blind_to_the_mark":
            return checks, "_check_mark", lambda *_: None


def _sparing_one_too_few(spare: Callable[[Log, set[bytes]], None]) -> Callable[[Log, set[bytes]], None]:
    def spared(log: Log, dead: set[bytes]) -> None:
        before = set(dead)
        spare(log, dead)
        dead |= set(sorted(before - dead)[:1])

    return spared

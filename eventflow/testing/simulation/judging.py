"""What must hold at the end of a simulation, whatever went wrong in it."""

from __future__ import annotations

from collections.abc import Iterator

from eventflow.errors import EventflowError
from eventflow.event import EffectFinished, EffectRejected, EffectStarted, Recorded
from eventflow.log import Head, Log, Query
from eventflow.recovery import history, recover
from eventflow.testing.simulation.flows import World
from eventflow.testing.simulation.storage import Disk
from eventflow.verification import verify_store


def problems_of(log: Log, disk: Disk, world: World) -> Iterator[str]:
    """Everything that does not hold, in words."""
    *_, report = verify_store(log)
    yield from (f"verify: {finding}" for finding in report.findings)
    finished: dict[str, int] = {}
    for listed in log.runs(Query()):
        try:
            yield from _of_run(log, listed.head, finished)
        except (EventflowError, KeyError) as error:  # a history that can't be folded, or ends what never began
            yield f"run {listed.head.run_id}: {type(error).__name__}: {error}"
    yield from _lost(log, disk)
    for key, position in world.calls:
        if key in finished and position >= finished[key]:
            yield f"call {key} was made again at position {position}, though its end is recorded at {finished[key]}"


def _of_run(log: Log, head: Head, finished: dict[str, int]) -> Iterator[str]:
    recorded = list(history(log, head.run_key, 1, head.version))
    epochs = [one.epoch for one in recorded]
    if epochs != sorted(epochs):
        yield f"run {head.run_id}: an event of an older epoch follows one of a newer: {epochs}"
    whole = recover(log, head, snapshots=False).state
    if recover(log, head).state != whole:
        yield f"run {head.run_id}: its end from a snapshot is another than from the start"
    for version, _ in log.snapshots(head.run_key, head.version):
        if recover(log, head, version).state != recover(log, head, version, snapshots=False).state:
            yield f"run {head.run_id}: version {version} from a snapshot is another than from the start"
    finished.update(_finished(recorded))


def _finished(recorded: list[Recorded]) -> dict[str, int]:
    """Where in the log each call's end stands, by its idempotency key."""
    begun: dict[tuple[str, str, str], str] = {}
    ends: dict[str, int] = {}
    for one in recorded:
        event = one.event
        if isinstance(event, EffectStarted):
            begun[event.branch, event.name, event.key] = event.idempotency_key
        elif isinstance(event, EffectFinished):
            ends.setdefault(begun[event.branch, event.name, event.key], one.position)
        elif isinstance(event, EffectRejected):
            ends.pop(begun[event.branch, event.name, event.key], None)
    return ends


def _lost(log: Log, disk: Disk) -> Iterator[str]:
    """What a process was told is durable, and is not there."""
    held: dict[bytes, dict[int, bytes]] = {}
    for (run_key, version), digest in disk.acknowledged.items():
        head = log.head_of(run_key)
        if run_key not in held:
            last = 0 if head is None else head.version
            held[run_key] = {one.version: one.digest for one in history(log, run_key, 1, last)}
        if held[run_key].get(version) != digest:
            yield f"version {version} of run {head.run_id if head else run_key.hex()} was acknowledged and is not there"

"""Pins and legal holds: a run that is pinned or held is not removed, by no rule and no hand, until that is lifted."""

from __future__ import annotations

from eventflow.address import find_run
from eventflow.clock import Clock
from eventflow.codec import pack
from eventflow.errors import SettingsError
from eventflow.event import RunHeld, RunPinned, RunReleased, RunUnpinned
from eventflow.forking import who, write_one
from eventflow.log import Act, Guard, Head, Log


def pin(log: Log, clock: Clock, run: str, *, actor: str = "", why: str = "") -> Head:
    """Keep a run, whatever the rules of cleaning up say. Raises RunNotFound."""
    head, by, now = find_run(log, run, whole=True), actor or who(), clock.now()
    event = RunPinned(head.run_id, head.run_key, by, why)
    write_one(log, Act(pack(event), now, guard=Guard(head.run_key, "pin", now, by, why)))
    return head


def unpin(log: Log, clock: Clock, run: str, *, actor: str = "", why: str = "") -> Head:
    """Take a run's pin off. Raises RunNotFound."""
    head, by, now = find_run(log, run, whole=True), actor or who(), clock.now()
    event = RunUnpinned(head.run_id, head.run_key, by, why)
    write_one(log, Act(pack(event), now, unguard=Guard(head.run_key, "pin", now, by, why)))
    return head


def hold(log: Log, clock: Clock, run: str, *, why: str, actor: str = "") -> Head:
    """Put a legal hold on a run; why is part of the record. Raises RunNotFound, SettingsError without a reason."""
    head, by, now = find_run(log, run, whole=True), actor or who(), clock.now()
    _check_why(why, "hold")
    event = RunHeld(head.run_id, head.run_key, by, why)
    write_one(log, Act(pack(event), now, guard=Guard(head.run_key, "hold", now, by, why)))
    return head


def release(log: Log, clock: Clock, run: str, *, why: str, actor: str = "") -> Head:
    """Lift a legal hold; why is part of the record. Raises RunNotFound, SettingsError without a reason."""
    head, by, now = find_run(log, run, whole=True), actor or who(), clock.now()
    _check_why(why, "release")
    event = RunReleased(head.run_id, head.run_key, by, why)
    write_one(log, Act(pack(event), now, unguard=Guard(head.run_key, "hold", now, by, why)))
    return head


def _check_why(why: str, what: str) -> None:
    if not why.strip():
        raise SettingsError(f"a legal {what} is recorded with its reason; say why")

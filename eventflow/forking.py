"""A fork as one event, and how a write by hand is made: all that somebody needs who only branches a history.

Needs a log and nothing of the user's code; driving what was forked is the engine's business.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from eventflow.address import check_run_id
from eventflow.change import NO_CHANGE, Change, resolve
from eventflow.clock import Clock
from eventflow.codec import pack
from eventflow.errors import EventflowError, NotResumable, RunExists
from eventflow.event import Forked
from eventflow.log import Answer, Append, Appended, Entry, First, Head, Log, Write
from eventflow.plain import EMPTY, clean_text
from eventflow.recovery import recover
from eventflow.state import FINAL, status_after
from eventflow.what_if import EffectPolicy, source_after


def who() -> str:
    """The operating system's user, for the record of who did something."""
    try:
        return clean_text(getpass.getuser())
    except (OSError, KeyError):
        return "unknown"


def write_one(log: Log, write: Write) -> Answer:
    """One write in a transaction of its own. Raises its error."""
    answer = log.write([write])[0]
    if isinstance(answer, EventflowError):
        raise answer
    return answer


def write_all(log: Log, writes: Sequence[Write]) -> None:
    """Some writes in one batch. Raises the first error."""
    for answer in log.write(writes):
        if isinstance(answer, EventflowError):
            raise answer


def fork_run(
    log: Log, clock: Clock, parent: Head, at: int, *, run_id: str, change: Mapping[str, Any] | Change | None = None,
    claim: bytes = b"", actor: str = "", why: str = "", effects: EffectPolicy | Literal["real"] | None = None,
) -> Appended:  # fmt: skip
    """A new run that continues another's history from a version, its state changed if asked: one event.

    `change` sets fields of the state (or is a resolved change). `effects` makes it a what-if run, or, as `"real"`, one
    that makes every call; without it the fork may call what its parent may. Raises VersionNotFound, NotResumable,
    RunExists.
    """
    check_run_id(run_id)
    if log.head(run_id) is not None:
        raise RunExists(run_id, "a history of its own")
    state = recover(log, parent, at).state
    if state.status in FINAL:
        raise NotResumable(parent.run_id, f"version {at} is the run's end; fork at an earlier version")
    resolved = change if isinstance(change, tuple) else resolve(state.data, change, {}) if change else NO_CHANGE
    policy = None
    if isinstance(effects, EffectPolicy):
        policy = effects.plain(source_after(parent, state, changed=bool(resolved)))
    elif effects is not None:
        policy = EMPTY
    event = Forked(
        run_id, log.store_id, parent.run_id, parent.run_key, parent.incarnation, at, resolved, actor or who(), why, policy
    )  # fmt: skip
    entry = Entry(
        state.run.workflow, tuple(state.run.tags), state.run.subject, clock.now(), parent.run_id, parent.run_key, at
    )  # fmt: skip
    append = Append(
        run_id, clock.uuid7(), log.next_incarnation(run_id), at, 0, (pack(event),), clock.now(),
        *status_after(None, event), claim=claim, first=First(state.digest, entry, at),
    )  # fmt: skip
    answer = write_one(log, append)
    assert isinstance(answer, Appended)  # noqa: S101 - an Append is answered by Appended
    return answer

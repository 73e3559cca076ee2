"""Messages for a run from outside: what is put into its inbox, and the facts each becomes.

A message needs neither version nor epoch and is durable when it is posted; the run's owner turns it into facts and takes
it out of the inbox in the same transaction, so it takes effect once. A run's last words to the one that started it, and
what it tells its own children when it ends, are messages too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventflow.change import apply
from eventflow.codec import decode, encode, keys_of
from eventflow.errors import Corrupt
from eventflow.event import (
    EffectFinished,
    EffectRejected,
    Event,
    Failure,
    NodeSkipped,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunTimedOut,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
)
from eventflow.log import Log, Post
from eventflow.plain import freeze
from eventflow.state import ENDED, State, branch, effect_id, is_doubtful, open_waits

SIGNAL, PAUSE, CANCEL, SETTLE = "signal", "pause", "cancel", "settle"
_PAGE = 1_000  # events whose headers are read in one go for the keys of messages: a few ms
CHILD = "child"  # the signal in which a run tells its caller how it ended; its id stands behind it


def message(
    kind: str, *, name: str = "", payload: Any = None, actor: str = "", why: str = "", key: str = ""
) -> bytes:  # fmt: skip
    """A message's bytes; of several with one `key` a run takes one. Raises NotPlainData if the payload is not plain data."""
    said = {"actor": actor, "kind": kind, "name": name, "payload": freeze(payload, "payload"), "why": why}
    return encode({**said, "key": key} if key else said)


class Keys:
    """The keys of the messages that a run has taken, read off its history as far as that has grown since the last time."""

    def __init__(self, log: Log, run_key: bytes) -> None:
        self._log, self._run_key, self._upto = log, run_key, 0
        self._seen: set[str] = set()

    def __call__(self, key: str) -> bool:
        """Whether a message with this key was taken."""
        head = self._log.head_of(self._run_key)
        while head is not None and self._upto < head.version:
            last = min(self._upto + _PAGE, head.version)
            self._seen.update(keys_of(self._log.read(self._run_key, self._upto + 1, last)))
            self._upto = last
        return key in self._seen


def facts(
    state: State, number: int, data: bytes, *, driven: bool, taken: Callable[[str], bool] = lambda _: False
) -> tuple[Event, ...]:  # fmt: skip
    """The facts a message becomes for a run in this state. Raises Corrupt.

    `driven` says that its code may be at work, `taken` whether a message with a key was taken before.
    """
    where = f"message {number}"
    value = decode(data, where, strict=True)  # no digest of it was compared with anything
    if not _is_message(value):
        raise Corrupt(where, "can't be read")
    if value["kind"] == SIGNAL:
        if value["name"].startswith(f"{CHILD}:") and not _awaited(state, value["name"]):
            return (SignalRefused(number, "nobody waits for this run's end any more"),)
        key = value.get("key", "")
        if key and taken(key):
            return (SignalRefused(number, "a message with the same key was taken before"),)
        return (SignalReceived(value["name"], freeze(value["payload"]), number, value["actor"], key),)
    if value["kind"] == PAUSE:
        return (RunPaused(value["actor"], value["why"]),)
    if value["kind"] == CANCEL:
        return (_cancelled(state, number, value),)
    if value["kind"] == SETTLE:
        return _settled(state, number, value, driven=driven)
    raise Corrupt(where, f"is of a kind that this eventflow does not know ({value['kind']!r})")


def _is_message(value: Any) -> bool:
    """Whether a value is what `message` writes, and the word on a call one that can be taken."""
    if not isinstance(value, dict) or "payload" not in value:
        return False
    if not all(type(value.get(name)) is str for name in ("actor", "kind", "name", "why")):
        return False
    if type(value.get("key", "")) is not str:
        return False
    if value["kind"] != SETTLE:
        return True
    told = value["payload"]
    if not isinstance(told, dict) or type(told.get("happened")) is not bool or "output" not in told:
        return False
    return type(told.get("key")) is str and type(told.get("branch", "")) is str


def _cancelled(state: State, number: int, value: dict[str, Any]) -> Event:
    """How a run is cancelled: at once, or after it has taken back what it did."""
    if state.undoing is not None:
        return SignalRefused(number, "the run is ending already")
    if state.undo:
        return UndoBegan(state.node, "cancelled", None, value["actor"], value["why"])
    return RunCancelled(value["actor"], value["why"])


def is_from(number: int, data: bytes, run_id: str) -> bool:
    """Whether a message is what a child says at its end. Raises Corrupt."""
    value = decode(data, f"message {number}")
    return isinstance(value, dict) and value.get("name") == f"{CHILD}:{run_id}"


def _awaited(state: State, words: str) -> bool:
    """Whether a run waits for the end of the child that says these words."""
    place = words.rpartition(".")[
        2
    ]  # the branch, if its name can be read in the child's id: of thousands one is looked at
    wait = None if state.branches is None else branch(state.branches, place).get("wait")
    if wait is not None and words == f"{CHILD}:{wait['name']}":
        return True
    return any(wait["kind"] == CHILD and words == f"{CHILD}:{wait['name']}" for _, wait in open_waits(state))


def _settled(state: State, number: int, value: dict[str, Any], *, driven: bool) -> tuple[Event, ...]:
    """What became of a call whose outcome was unknown, as somebody says who looked."""
    name, told = value["name"], value["payload"]
    key, place = told["key"], told.get("branch", "")
    entry = state.effects.get(effect_id(name, key, place))
    if entry is None or not is_doubtful(entry):
        return (SignalRefused(number, f"the outcome of effect {name!r} (key {key}) is not unknown"),)
    event: Event = EffectRejected(name, key, value["actor"], value["why"], place)
    if told["happened"]:
        event = EffectFinished(
            name, key, freeze(told["output"], "output"), actor=value["actor"], why=value["why"], branch=place
        )
    for where, wait in open_waits(state):
        if where == place and wait["kind"] == "unknown" and (wait["name"], wait["spec"].get("key")) == (name, key):
            return event, WaitClosed(state.node, "settled", 0, place)
    if driven:
        return (
            SignalRefused(number, f"effect {name!r} (key {key}) is under way; nobody has to say what became of it"),
        )
    return (event,)


# --- what a run says when it ends ----------------------------------------------------------------------------------

_ENDINGS: dict[type, str] = {
    RunCompleted: "completed", RunFailed: "failed", RunCancelled: "cancelled", RunTimedOut: "timed_out",
}  # fmt: skip


def last_words(state: State, event: Event) -> tuple[Post, ...]:
    """What an end tells the run that started this one; nothing if nobody did, or if it is no end.

    One that was called off by that run has nothing to tell it.
    """
    caller, status = state.run.caller, _ENDINGS.get(type(event))
    if caller is None or status is None or is_called_off(state, event):
        return ()
    told: dict[str, Any] = {"run_id": state.run.run_id, "status": status}
    if isinstance(event, RunCompleted):
        told["data"] = state.data if state.ended else apply(state.data, event.change)
    error: Failure | None = getattr(event, "error", None)
    if error is not None:
        told["error"] = f"{error.type}: {error.message}"
    why = getattr(event, "why", "")
    if why:
        told["error"] = why
    words = message(SIGNAL, name=f"{CHILD}:{state.run.run_id}", payload=told, actor=state.run.run_id)
    return (Post(caller.run_key, words),)


def called_off(log: Log, state: State, event: Event) -> tuple[Post, ...]:
    """What the children of a run are told that it waits for no more: to end, or to stand still as long as it has failed."""
    if not isinstance(event, _LEAVING):
        return ()
    kind, why = CANCEL, f"run {state.run.run_id}, which started it, goes on without it"
    if isinstance(event, RunFailed):
        kind, why = PAUSE, f"run {state.run.run_id}, which started it, has failed"
    posts: list[Post] = []
    for _, wait in open_waits(state):
        head = log.head(wait["name"]) if wait["kind"] == CHILD else None
        if head is not None and head.status not in ENDED:
            posts.append(Post(head.run_key, message(kind, actor=state.run.run_id, why=why)))
    return tuple(posts)


_LEAVING = RunFailed | RunCancelled | RunTimedOut | RunCompleted | Transitioned | UndoBegan | NodeSkipped


def is_called_off(state: State, event: Event) -> bool:
    """Whether it is the run's caller who ends it, or has it stand still."""
    caller = state.run.caller
    return caller is not None and isinstance(event, RunCancelled | RunPaused) and event.actor == caller.run_id

"""What-if runs: what one may call, what answers in place of the rest, and what its calls are likely to cost.

A what-if run is a fork whose policy is part of its history. What the run it continues recorded answers the same calls
again; a value may be given for a call; only what is named is really called. Who asks, and what follows from a refusal, is
the business of who drives the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from eventflow.codec import read_events
from eventflow.errors import DefinitionError, SettingsError
from eventflow.event import (
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Forked,
    Recorded,
    Rewound,
    RunResumed,
    RunStarted,
    Transitioned,
)
from eventflow.log import Head, Log
from eventflow.plain import EMPTY, FrozenDict, FrozenList, freeze, ordered
from eventflow.recovery import history, line, recover
from eventflow.state import UNDO, State, effect_id, reuse_key

EVERY = "*"  # in `live`: every call that does not mutate
MOCK = "mock"  # the source of a given answer; a run's id can't be told apart from it, an address can
OWN = frozenset({UNDO, "wait", "patch", "approval"})  # kinds of records that are no calls to the outside of their own
Verdict = Literal["live", "mock", "deny", "recorded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPolicy:
    """What a what-if run may call. Without more, nothing: what was recorded answers, and every other call is denied.

    `live` names calls that are really made where no record answers; `"*"` is every call that does not mutate. `mock` has
    the value that answers a call, whatever its input; `deny` names calls that are denied even where a record would answer.
    With `recorded=False` no record answers.
    """

    live: Collection[str] = ()
    mock: Mapping[str, Any] = field(default_factory=dict)
    deny: Collection[str] = ()
    recorded: bool = True

    def __post_init__(self) -> None:
        for name, value in (("live", self.live), ("deny", self.deny)):
            if isinstance(value, str) or not all(isinstance(one, str) for one in value):
                raise DefinitionError(f"EffectPolicy({name}=...) is a list of names of calls, got {value!r}")
        if EVERY in self.deny or EVERY in self.mock:
            raise DefinitionError(
                "only EffectPolicy(live=...) may name every call with '*'; what is not named is denied"
            )
        groups = (set(self.live), set(self.mock), set(self.deny))
        twice = (groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2])
        if twice:
            raise DefinitionError(f"EffectPolicy(...) says two things of {', '.join(sorted(twice))}; say one")

    def plain(self, recorded: FrozenDict | None) -> FrozenDict:
        """The policy as events hold it; `recorded` is where answers are. Raises NotPlainData."""
        said = {
            "deny": FrozenList(sorted(self.deny)),
            "live": FrozenList(sorted(self.live)),
            "mock": freeze(dict(self.mock), "mock"),
        }
        if self.recorded and recorded is not None:
            said["recorded"] = recorded
        return ordered(said)


def policy_said(live: Collection[str], mock: Mapping[str, Any], deny: Collection[str], *, fresh: bool) -> EffectPolicy:
    """A policy from what was said of it by hand. Raises SettingsError."""
    try:
        return EffectPolicy(live=tuple(live), mock=mock, deny=tuple(deny), recorded=not fresh)
    except DefinitionError as error:
        raise SettingsError(str(error)) from None


def policy_of(plain: Mapping[str, Any]) -> EffectPolicy:
    """A policy from what events hold."""
    return EffectPolicy(
        live=tuple(plain["live"]), mock=dict(plain["mock"]), deny=tuple(plain["deny"]), recorded="recorded" in plain
    )


def widened(plain: Mapping[str, Any], more: EffectPolicy) -> EffectPolicy:
    """A policy with what another one says on top; what that names, the first says nothing of any more."""
    before = policy_of(plain)
    named = {*more.live, *more.mock, *more.deny}
    return EffectPolicy(
        live=({*before.live} - named) | {*more.live},
        mock={name: value for name, value in before.mock.items() if name not in named} | {**more.mock},
        deny=({*before.deny} - named) | {*more.deny},
        recorded=before.recorded and more.recorded,
    )


def of_child(plain: FrozenDict) -> FrozenDict:
    """What a run may call that a what-if run starts as a part of itself: the same, and no record answers it."""
    return ordered({name: value for name, value in plain.items() if name != "recorded"}) if plain else EMPTY


def source_after(parent: Head, state: State, *, changed: bool) -> FrozenDict:
    """Where the answers of a fork's calls are: what its parent recorded after the version it continues.

    Where the fork changes the state its visit begins anew, and so what the parent's visit recorded may answer too.
    """
    first = state.visit if changed else state.version + 1
    return ordered({"run": parent.run_key, "first": first, "last": parent.version})


def verdict(policy: Mapping[str, Any], name: str, *, mutating: bool) -> Verdict:
    """What is to be done with a call: deny it, answer it with a value, make it, or see whether a record answers it."""
    if name in policy["deny"]:
        return "deny"
    if name in policy["mock"]:
        return "mock"
    return "live" if name in policy["live"] or (EVERY in policy["live"] and not mutating) else "recorded"


def is_what_if(log: Log, head: Head) -> bool:
    """Whether a run was a what-if run from its first event on; a fork that says nothing is what its parent is."""
    key = head.run_key
    while (entry := log.entry(key)) is not None:
        if entry.origin:  # its first event is gone; its state says it too
            now = log.head_of(key)
            return now is not None and bool(recover(log, now, entry.origin).state.run.policy)
        first = entry.parent_at + 1 if entry.parent_id is not None else 1
        event = next(history(log, key, first, first)).event
        if isinstance(event, Forked) and event.effects is None:
            key = event.parent_key
            continue
        return isinstance(event, Forked | RunStarted) and bool(event.effects)
    return False


def document_of(plain: Mapping[str, Any]) -> dict[str, Any] | None:
    """A policy as JSON has it; None for a run that makes every call."""
    if not plain:
        return None
    named = {name: plain[name] for name in ("live", "mock", "deny")}
    return {**named, "recorded": "recorded" in plain}


# --- what was recorded ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Earlier:
    """A call that a run made and that finished: what it answers (`key`), where its result is, what it was and took."""

    key: str
    place: str
    run_key: bytes
    version: int
    name: str
    kind: str
    mutating: bool
    usage: FrozenDict


def earlier(log: Log, recorded: Mapping[str, Any]) -> list[Earlier]:
    """The calls of a run that finished within some versions and were not refused, in their order.

    Calls on lines that a rewind left are among them: they were made.
    """
    first, last = recorded["first"], recorded["last"]
    head = log.head_of(recorded["run"])
    if head is None or last < first:
        return []
    node, begin = "", 1
    if first > 1:
        base = recover(log, head, first - 1).state
        node, begin = base.node, base.visit
    reading = _Reading(log, head, node)
    for run_key, since, upto in _stretches(log, head.run_key, begin, last):
        for one in history(log, run_key, since, upto):
            reading.look(one)
    return [one for one in reading.found.values() if one.version >= first]


def _stretches(log: Log, run_key: bytes, first: int, last: int) -> list[tuple[bytes, int, int]]:
    """The versions of a run and of those it was forked from, the oldest run first: (run key, first, last)."""
    found: list[tuple[bytes, int, int]] = []
    while (entry := log.entry(run_key)) is not None:
        own = entry.parent_at + 1 if entry.parent_id is not None else 1
        if last >= own:
            found.append((run_key, max(first, own), last))
        if entry.parent_id is None or first >= own:
            break
        run_key, last = entry.parent_key, min(last, entry.parent_at)
    return found[::-1]


class _Reading:
    """Events looked at one after the other: calls that began, finished, were refused; the node they were made in."""

    def __init__(self, log: Log, head: Head, node: str) -> None:
        self.found: dict[tuple[bytes, int], Earlier] = {}
        self._log, self._head, self._node = log, head, node
        self._names: dict[bytes, str] = {}
        self._begun: dict[str, EffectStarted] = {}
        self._newest: dict[str, tuple[bytes, int]] = {}  # by call, where its result is

    def look(self, recorded: Recorded) -> None:
        """One more event."""
        event = recorded.event
        match event:
            case EffectStarted():
                self._begun[_name(event)] = event
            case EffectFinished():
                self._finished(recorded, event)
            case EffectRejected():
                self.found.pop(self._newest.pop(_name(event), (b"", 0)), None)
            case RunStarted() | Rewound():
                self._node = event.node
                self._newest.clear()
            case Transitioned():
                self._node = event.to
                self._newest.clear()
            case RunResumed() if event.to:
                self._node = event.to
            case Forked():
                self._node = recover(self._log, self._head, recorded.version).state.node

    def _finished(self, recorded: Recorded, event: EffectFinished) -> None:
        name = _name(event)
        begun = self._begun.get(name)
        if begun is None or begun.kind in OWN:
            return
        place = recorded.run_key, recorded.version
        self._newest[name] = place
        self.found[place] = Earlier(
            reuse_key(self._node, name, begun.input_digest), f"{self._id(recorded.run_key)}@{recorded.version}",
            *place, event.name, begun.kind, begun.mutating, event.usage,
        )  # fmt: skip

    def _id(self, run_key: bytes) -> str:
        if run_key not in self._names:
            head = self._log.head_of(run_key)
            self._names[run_key] = head.run_id if head is not None else run_key.hex()
        return self._names[run_key]


def _name(event: EffectStarted | EffectFinished | EffectRejected) -> str:
    return effect_id(event.name, event.key, event.branch)


class Answers:
    """What answers the calls of a what-if run: each recorded result once, in their order, whoever asks the same."""

    def __init__(self, log: Log, state: State) -> None:
        self._log = log
        self._left: dict[str, deque[Earlier]] = {}
        recorded = state.run.policy.get("recorded")
        if recorded is None:
            return
        spent = set(_spent(log, state, recorded["run"]))
        for one in earlier(log, recorded):
            if one.place not in spent:
                self._left.setdefault(one.key, deque()).append(one)

    def take(self, node: str, effect: str, asked: bytes) -> tuple[str, Any] | None:
        """The address and the output of the recorded result that answers a call; None if none does."""
        left = self._left.get(reuse_key(node, effect, asked))
        if not left:
            return None
        one = left.popleft()
        event = read_events(self._log.read(one.run_key, one.version, one.version), self._log.blobs)[0].event
        assert isinstance(event, EffectFinished)  # noqa: S101 - it was one when it was read
        return one.place, event.output


def _spent(log: Log, state: State, parent: bytes) -> Iterator[str]:
    """The addresses of what has answered on a what-if run's line."""
    for segment in line(log, state.run.run_key, state.version):
        if segment.run_key != parent:
            for recorded in history(log, segment.run_key, segment.first, segment.last):
                if isinstance(recorded.event, EffectFinished) and "@" in recorded.event.source:
                    yield recorded.event.source


# --- what it is likely to cost -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the calls took that a what-if run may make again: how many by name, tokens, and cost where prices are known.

    `priced` is how many of the calls that reported tokens reported a cost too.
    """

    calls: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    cost: float
    asked: int
    priced: int

    def __str__(self) -> str:
        if not self.calls:
            return "what it will cost is not known: the run it continues made no such call after that version"
        made = ", ".join(f"{name} ({count} times)" if count > 1 else name for name, count in self.calls.items())
        said = f"the run it continues made these calls after that version: {made}"
        if not self.asked:
            return f"{said}; what they cost was not recorded"
        tokens = f"{self.input_tokens:,} tokens in and {self.output_tokens:,} out"
        if not self.priced:
            return f"{said}; they took {tokens}, and no price was recorded"
        some = "" if self.priced == self.asked else f", of {self.priced} of {self.asked} calls"
        return f"{said}; they took {tokens}, and cost {self.cost:.6g}{some}"


def estimate(log: Log, recorded: Mapping[str, Any], policy: EffectPolicy) -> Estimate:
    """What those of a run's recorded calls took that a policy lets be made; see `source_after`."""
    plain = policy.plain(None)
    made = earlier(log, recorded)
    return _summed(one for one in made if verdict(plain, one.name, mutating=one.mutating) == "live")


def told(plain: Mapping[str, Any]) -> str:
    """What a policy says, in words."""
    said = ["what was recorded answers"] if "recorded" in plain else ["no record answers"]
    names = ["every call that does not mutate" if name == EVERY else name for name in plain["live"]]
    said += [f"made: {', '.join(names)}"] if names else []
    said += [f"answered by a given value: {', '.join(plain['mock'])}"] if plain["mock"] else []
    said += [f"denied by name: {', '.join(plain['deny'])}"] if plain["deny"] else []
    return f"{'; '.join(said)}; all else is denied"


def _summed(made: Iterable[Earlier]) -> Estimate:
    calls: dict[str, int] = {}
    into = out = asked = priced = 0
    cost = 0.0
    for one in made:
        calls[one.name] = calls.get(one.name, 0) + 1
        into += _number(one.usage.get("input_tokens"))
        out += _number(one.usage.get("output_tokens"))
        asked += "input_tokens" in one.usage
        spent = one.usage.get("cost")
        if type(spent) in (int, float):
            cost, priced = cost + spent, priced + 1
    return Estimate(calls, into, out, cost, asked, priced)


def _number(value: Any) -> int:
    return value if type(value) is int else 0  # whoever reports usage may report anything

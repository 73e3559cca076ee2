"""What a node's function gets as its `run`: one execution of one node, and its calls to the outside.

An effect is started durably before its function is called and finished durably after; a finished one answers from the
log for as long as the node is visited. A visit can be taken away (timeout, cancellation, another owner): every later call
on it raises.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eventflow.budget import over_budget
from eventflow.codec import Shared, encode, unshared
from eventflow.errors import (
    BudgetExceeded,
    Conflict,
    EffectMisused,
    EffectSpent,
    EffectUnknown,
    NotPlainData,
    NoTransactions,
    RunLost,
    RunTooLong,
    StoreUnusable,
)
from eventflow.event import EffectFailed, EffectFinished, EffectRejected, EffectStarted, Event, Failure, Recorded
from eventflow.plain import EMPTY, FrozenDict, freeze, thaw
from eventflow.proof import digest
from eventflow.run.failure import failure_of, is_failure
from eventflow.run.journal import Journal
from eventflow.run.threads import Threads
from eventflow.run.transacting import can_transact, transacted
from eventflow.state import TRANSACTION, branch_prefix, effect_id, is_doubtful, reuse_key

NO_UNDOES: Mapping[str, Callable[..., Any]] = {}
PATCH = "patch"  # the kind of the record of which way a visit goes at a change of its code
Fetch = Callable[[int], Recorded]  # the event at a version of this run


class Visit:
    """One execution of one node: `run` to the function that does the node's work.

    `id`, `node`, `attempt`, `tags` and `subject` say where it is; `error` is the failure that led here over an error
    edge, or that of the attempt before. `extends(field)` tells whether a state field is a list that is extended.
    """

    def __init__(
        self, journal: Journal, event_at: Fetch, calls: Threads, extending: Callable[[str], bool], *, branch: str = "",
        undoes: Mapping[str, Callable[..., Any]] = NO_UNDOES, attempt: int = 0,
    ) -> None:  # fmt: skip
        state = journal.state
        self.branch, self._undoes = branch, undoes
        self._journal, self._event_at, self._calls = journal, event_at, calls
        self.extends = extending
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lost: str | None = None
        self._counted: _Counted | None = None  # most visits make no call
        self.id = state.run.run_id
        self.node = state.node
        self.attempt = attempt or state.attempt
        self.last_beat = 0.0  # monotonic seconds of the last sign of life
        self._tags = state.run.tags
        self.subject = state.run.subject
        self.error: Failure | None = state.error
        self._visit, self._line = state.visit, state.line

    @property
    def tags(self) -> tuple[str, ...]:
        """The run's tags."""
        return tuple(self._tags)

    @property
    def signals(self) -> tuple[dict[str, Any], ...]:
        """Messages that have come in for this run, oldest first: dicts of name and payload."""
        return tuple(self._journal.state.signals)

    def resource(self, key: Any, make: Callable[[], Any]) -> Any:
        """Something kept for the engine's life and closed at its end: a client, a connection pool."""
        kept = self._journal.shop.resources
        if key not in kept:
            kept[key] = make()
        return kept[key]

    def heartbeat(self) -> None:
        """Say that the node's code is alive, for nodes with an `idle_timeout`; from any thread. Raises RunLost."""
        self._check()
        self.last_beat = self._journal.shop.clock.monotonic()

    def recorded(self, name: str, *, key: str = "1") -> tuple[bool, Any]:
        """Whether a call of this visit has a recorded result, and the result."""
        made = self._counted = self._counted or _Counted()
        made.met.add(effect_id(name, key, self.branch))
        entry = self._entry(name, key)
        if entry is None or entry["status"] != "finished":
            return False, None
        return True, thaw(entry["output"])

    def _entry(self, name: str, key: str) -> FrozenDict | None:
        entry: FrozenDict | None = self._journal.state.effects.get(effect_id(name, key, self.branch))
        return entry

    def take_away(self, why: str) -> None:
        """Make every later call on this visit raise RunLost; the first reason given stays."""
        self._lost = self._lost or why

    def _check(self) -> None:
        if self._lost is not None:
            raise RunLost(f"run {self.id}: node {self.node!r} can't go on here: {self._lost}")

    def _check_thread(self, *, of_loop: bool) -> None:
        """Refuse what would never return: waiting for the loop on its own thread, or a coroutine nobody runs."""
        if of_loop and threading.get_ident() != self._thread:
            raise EffectMisused(f"run {self.id}: a plain `def` node calls run.effect_sync or run.reject_sync")
        if not of_loop and threading.get_ident() == self._thread:
            raise EffectMisused(f"run {self.id}: an `async def` node awaits run.effect or run.reject")

    async def _record(self, *events: Event) -> None:
        """Record facts of this visit; nothing may come between the check and the journal's taking them."""
        self._check()
        await self._journal.record(*events, visit=self._visit)

    # --- changes of code

    async def patched(self, name: str) -> bool:
        """Whether this visit goes the new way at a change of its code: not if its old code came past this place.

        It did if calls are recorded that the code has not asked for on its way here. The answer is recorded, so that every
        later attempt of the visit gives the same. Raises RunLost, EffectMisused.
        """
        self._check()
        self._check_thread(of_loop=True)
        mark = f"patch {name}"
        known, value = self.recorded(mark)
        if known:
            return bool(value)
        met = self._counted.met if self._counted is not None else frozenset()
        prefix = branch_prefix(self.branch) if self.branch else ""
        old = any(
            one.startswith(prefix) and entry["kind"] != PATCH and one not in met
            for one, entry in self._journal.state.effects.items()
        )
        begun = EffectStarted(
            mark, "1", PATCH, mutating=False, input=EMPTY, input_digest=bytes(32), idempotency_key="", branch=self.branch
        )  # fmt: skip
        await self._record(begun, EffectFinished(mark, "1", not old, branch=self.branch))
        return not old

    def patched_sync(self, name: str) -> bool:
        """The same for a plain `def` node."""
        return bool(self._waited(lambda: self.patched(name)))

    # --- effects

    def effect(
        self, name: str, function: Callable[..., Any], *args: Any, key: str | None = None, mutating: bool = True,
        at_most_once: bool = False, reconcile: Callable[[str], Any] | None = None, kind: str = "call", asked: Any = None,
        usage: Callable[[Any], dict[str, int]] | None = None, **kwargs: Any,
    ) -> Awaitable[Any]:  # fmt: skip
        """Call something outside, once: awaitable for its result, which is plain data.

        `key` tells calls of one name apart; without it they are counted in the order they are made, and two may not be
        outstanding at once. `mutating=False` says that calling twice does no harm. After a crash between start and
        finish the outcome is unknown: a call that does not mutate is made again with the same idempotency key, one that
        does is settled by `reconcile(idempotency_key)` (its result, or `raise LookupError` if it never happened; a
        KeyError or IndexError is an error like any other), else the run stands still and asks. With `at_most_once` it is
        begun once and never again, whatever became of it: where it has no result, EffectSpent is raised instead.
        A function that takes `idempotency_key` is given it; one that takes `fencing_token` is given the run's epoch, which
        rises whenever another process takes the run over, while the key stays the same. `asked` is recorded as the input instead of the arguments;
        `usage` reads counts off the result.

        Raises EffectMisused, EffectUnknown, EffectSpent, RunLost, NotPlainData, and what the function raises.
        """
        self._check()
        self._check_thread(of_loop=True)
        made = self._counted = self._counted or _Counted()
        made.counts[name] = made.counts.get(name, 0) + 1
        number = str(made.counts[name]) if key is None else key
        identity = effect_id(name, number)
        if identity in made.outstanding or (key is None and name in made.unnamed):
            raise EffectMisused(
                f"run {self.id}: two calls of effect {name!r} are outstanding at once in node {self.node!r}; "
                f"give each a key="
            )
        made.outstanding.add(identity)
        made.met.add(effect_id(name, number, self.branch))
        if key is None:
            made.unnamed.add(name)
        call = _Call(
            name=name, key=number, kind=kind, mutating=mutating, function=function, args=args, kwargs=kwargs, asked=asked,
            at_most_once=at_most_once, reconcile=reconcile, usage=usage,
        )  # fmt: skip
        return self._tracked(call, made, unnamed=key is None)

    async def _tracked(self, call: _Call, made: _Counted, *, unnamed: bool) -> Any:
        try:
            return await self._effect(call)
        finally:
            made.outstanding.discard(effect_id(call.name, call.key))
            if unnamed:
                made.unnamed.discard(call.name)

    def effect_sync(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The same for a plain `def` node: waits on its own thread for the result."""
        return self._waited(lambda: self.effect(name, function, *args, **options))

    def transaction(
        self, name: str, function: Callable[..., Any], *args: Any, key: str | None = None, **kwargs: Any
    ) -> Awaitable[Any]:
        """Write to tables of one's own in the store's PostgreSQL database, in one transaction with the record of it: once.

        A plain function gets a psycopg connection on which a transaction is open, then the arguments; what it returns is
        plain data. Its writes and its finish are committed together or not at all, so after a crash without a finish
        it has not happened and is made again. It must neither commit nor roll back. What it raises takes its writes back.

        Raises NoTransactions if the store is in no database, and as `effect` does.
        """
        if inspect.iscoroutinefunction(function):
            raise EffectMisused(
                f"run {self.id}: the function of transaction {name!r} is a plain `def`, called on a thread"
            )
        return self.effect(name, function, *args, key=key, kind=TRANSACTION, **kwargs)

    def transaction_sync(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The same for a plain `def` node: waits on its own thread for the result."""
        return self._waited(lambda: self.transaction(name, function, *args, **options))

    async def reject(self, name: str, *, key: str = "1", why: str = "") -> None:
        """Refuse a finished result, so that the call may be made again. Raises EffectMisused if there is none."""
        self._check()
        self._check_thread(of_loop=True)
        if not self.recorded(name, key=key)[0]:
            raise EffectMisused(f"run {self.id}: effect {name!r} (key {key}) has no result here that could be rejected")
        await self._record(EffectRejected(name, key, why=why, branch=self.branch))

    def reject_sync(self, name: str, *, key: str = "1", why: str = "") -> None:
        """The same for a plain `def` node."""
        self._waited(lambda: self.reject(name, key=key, why=why))

    def _waited(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """What a call comes to that is made on the loop while this thread waits."""
        self._check()
        self._check_thread(of_loop=False)

        async def on_loop() -> Any:
            return await work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result()

    async def _effect(self, call: _Call) -> Any:  # noqa: C901 - each question of a call in its order
        asked = self._journal.shop.clean(_plain_input(call))
        named = digest(encode(_values(asked)))
        entry = self._entry(call.name, call.key)
        if entry is not None:
            self._check_same(call, entry, named)
            if entry["status"] == "finished":
                return thaw(entry["output"])
            if call.at_most_once and entry["status"] != "rejected":
                raise EffectSpent(self.id, call.name, call.key, str(entry["status"]))
            if entry["mutating"] and is_doubtful(entry):
                settled, value = await self._settled(call, entry)
                if settled:
                    return await self._finish(call, value)
        started = self._started(call, entry, asked, named)
        if entry is None and (answer := self._answer_of_before(call, named)) is not None:
            await self._record(started, answer)
            return thaw(answer.output)
        state = self._journal.state
        if state.run.policy:
            shown = _shown(thaw(_values(asked)))
            if (answer := await self._journal.ruling.answer(state, started, shown)) is not None:
                await self._record(started, answer)
                return thaw(answer.output)
            self._check()
        if state.undoing is None and (what := over_budget(state, self._journal.shop.clock.now())):
            raise BudgetExceeded(self.id, what)
        if self._journal.tally.asks and not self.branch:
            await self._within()
        if call.kind == TRANSACTION and not can_transact(self._journal.shop.log):
            raise NoTransactions(self.id, call.name)
        await self._record(started)
        self._check()
        self._journal.check_held()
        if call.kind == TRANSACTION:
            return await self._transacted(call, started.idempotency_key)
        return await self._made(call, started.idempotency_key)

    async def _within(self) -> None:
        """Refuse a further call of a node that has used the reserve too. Raises RunTooLong."""
        why = await self._journal.look()
        if self._journal.tally.spent and self._journal.state.undoing is None:
            raise RunTooLong(self.id, why)
        self._check()

    def _check_same(self, call: _Call, entry: FrozenDict, asked: bytes) -> None:
        if entry["input_digest"] == asked:
            return
        recorded = self._event_at(entry["version"]).event
        before = thaw(recorded.input) if isinstance(recorded, EffectStarted) else "?"
        raise EffectMisused(
            f"run {self.id}: effect {call.name!r} (key {call.key}) was recorded with another input at version "
            f"{entry['version']} ({_shown(before)}; now {_shown(thaw(_values(_plain_input(call))))}); "
            f"give calls that differ different keys, or rewind the run to before it"
        )

    async def _settled(self, call: _Call, entry: FrozenDict) -> tuple[bool, Any]:
        """Whether an unknown outcome turns out to be a finish, and with what result."""
        if call.reconcile is None:
            raise EffectUnknown(self.id, call.name, call.key)
        try:
            return True, await self._run(call.reconcile, entry["idempotency_key"])
        except LookupError as error:
            if type(error) is not LookupError:  # a slip such as a missing key says nothing about the call
                raise
            why = "reconcile: it never happened"
            await self._record(EffectRejected(call.name, call.key, why=why, branch=self.branch))
            return False, None

    def _started(self, call: _Call, entry: FrozenDict | None, asked: Any, name: bytes) -> EffectStarted:
        attempt = 1 if entry is None else entry["attempt"] + 1
        return EffectStarted(
            call.name, call.key, call.kind, call.mutating, asked, name, self._idempotency_key(call), attempt, self.branch,
            call.name if call.name in self._undoes else "",
        )  # fmt: skip

    def _answer_of_before(self, call: _Call, asked: bytes) -> EffectFinished | None:
        """The result of the same call on a line that was left, if the rewind said that those answer again."""
        state = self._journal.state
        if not state.reuse:
            return None
        versions = state.reuse.get(reuse_key(state.node, effect_id(call.name, call.key, self.branch), asked))
        if not versions:
            return None
        found = self._event_at(versions[0]).event
        if not isinstance(found, EffectFinished):
            return None
        return EffectFinished(
            call.name, call.key, found.output, branch=self.branch, reused=versions[0], source=found.source
        )

    def _idempotency_key(self, call: _Call) -> str:
        """The same for every attempt of a call on a line; another on every other line, run and store."""
        run = self._journal.state.run
        parts = [run.run_key, run.incarnation, self._line, self._visit, call.name, call.key]
        if self.branch:
            parts.append(self.branch)
        return f"ef-{hashlib.sha256(encode(parts)).hexdigest()[:32]}"

    async def _made(self, call: _Call, idempotency_key: str) -> Any:
        try:
            value = await self._called(call, idempotency_key)
        except BaseException as error:
            if is_failure(error):  # else the outcome is unknown, and the started event says so
                await self._failed(call, error)
            raise
        return await self._finish(call, value)

    async def _failed(self, call: _Call, error: BaseException) -> None:
        if self._lost is None:
            await self._record(EffectFailed(call.name, call.key, failure_of(error), self.branch))

    async def _called(self, call: _Call, idempotency_key: str) -> Any:
        return await self._run(call.function, *call.args, **self._given(call, idempotency_key))

    def _given(self, call: _Call, idempotency_key: str) -> dict[str, Any]:
        """What a function gets by name."""
        kwargs = dict(call.kwargs)
        if takes(call.function, "idempotency_key"):
            kwargs["idempotency_key"] = idempotency_key
        if takes(call.function, "fencing_token"):
            kwargs["fencing_token"] = self._journal.epoch
        return kwargs

    async def _transacted(self, call: _Call, idempotency_key: str) -> Any:
        given = self._given(call, idempotency_key)

        def made(connection: Any) -> Any:
            return call.function(connection, *call.args, **given)

        journal, finished = self._journal, partial(EffectFinished, call.name, call.key, branch=self.branch)
        try:
            return await transacted(journal, self._calls, made, finished, check=self._check, visit=self._visit)
        except (Conflict, RunLost, StoreUnusable):
            raise
        except Exception as error:
            await self._failed(call, error)
            raise

    async def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the user's: a plain one beside the loop, so that it can't stall other runs."""
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        value = await asyncio.wrap_future(self._calls.submit(function, *args, **kwargs))
        return await value if inspect.isawaitable(value) else value

    async def _finish(self, call: _Call, value: Any) -> Any:
        try:
            output = freeze(value, f"the result of effect {call.name!r}")
        except NotPlainData as error:
            if not call.mutating:  # one that changes something has happened: its outcome can't be called a failure
                await self._failed(call, error)
            raise
        output = self._journal.shop.clean(output)  # what is returned is what a recovery would return
        used: FrozenDict = EMPTY if call.usage is None else freeze(call.usage(value))
        await self._record(EffectFinished(call.name, call.key, output, used, branch=self.branch))
        return thaw(output)


@dataclass(slots=True)
class _Counted:
    """The calls of one visit: how many of each name there were, and which are outstanding, with a key and without.

    `met` are those that its code has asked for or about, by the names that the state has for them.
    """

    counts: dict[str, int] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)
    outstanding: set[str] = field(default_factory=set)
    unnamed: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call as it was asked for."""

    name: str
    key: str
    kind: str
    mutating: bool
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    asked: Any
    at_most_once: bool
    reconcile: Callable[[str], Any] | None
    usage: Callable[[Any], dict[str, int]] | None


def _plain_input(call: _Call) -> Any:
    if call.asked is not None:
        return _frozen_shared(call.asked, f"the input of effect {call.name!r}")
    given: dict[str, Any] = {"args": list(call.args)} if call.args else {}
    if call.kwargs:
        given["kwargs"] = call.kwargs
    return freeze(given, f"the input of effect {call.name!r}")


def _frozen_shared(value: Any, path: str) -> Any:
    """Frozen plain data in which items of the top level's lists may be Shared."""
    if not isinstance(value, dict):
        return freeze(value, path)
    return FrozenDict({key: _frozen_items(item, f"{path}.{key}") for key, item in value.items()})


def _frozen_items(value: Any, path: str) -> Any:
    if isinstance(value, list) and any(type(item) is Shared for item in value):
        return tuple(Shared(freeze(unshared(item), path)) for item in value)
    return freeze(value, path)


def _values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_values(item) for item in value]
    return unshared(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of that name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False

"""A workflow's definition: nodes, edges, where it starts. Effects do not belong here; nothing runs.

A definition is built by chaining, closed by its first use, and named by a digest of its shape: names, kinds, ordered
edges, start, terminal nodes, declared version, state fields; no code, no options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from eventflow.change import NO_CHANGE, Change, apply
from eventflow.codec import encode
from eventflow.errors import DefinitionError, UndeclaredTarget
from eventflow.event import Failure, RunCompleted, Transitioned
from eventflow.plain import FrozenDict, freeze
from eventflow.proof import digest
from eventflow.retry import NO_RETRY, RetryPolicy
from eventflow.state import State
from eventflow.workflow.branches import Split
from eventflow.workflow.check import Problem, find_problems
from eventflow.workflow.children import Child
from eventflow.workflow.machine import DecisionMachine
from eventflow.workflow.parts import AFTER_CRASH, TRIGGERS, AfterCrash, Body, Edge, Guard, Node, Pause, Trigger
from eventflow.workflow.schema import Schema, parameters


class Decision(NamedTuple):
    """What follows from a node's end: the event to append, and the data after its change where it was worked out."""

    event: Transitioned | RunCompleted
    after: FrozenDict | None


@dataclass(slots=True)
class _Compiled:
    """What is worked out once a definition is closed."""

    machine: DecisionMachine
    shape: FrozenDict
    digest: bytes
    terminals: frozenset[str] = field(default_factory=frozenset)
    guarded: frozenset[tuple[str, str]] = field(default_factory=frozenset)


_runner: Callable[[Workflow, Any], Any] | None = None


def set_runner(runner: Callable[[Workflow, Any], Any]) -> None:
    """Say who runs a workflow in one line; the engine does, from above, since this floor can't know it."""
    global _runner  # noqa: PLW0603 - the one upward arrow, made at import
    _runner = runner


class Workflow:
    """A workflow: `Workflow("name", state=Type).add_node(...).add_edge(...).set_start(...)`.

    `state` is a TypedDict, a dataclass or a pydantic model; without it any dict will do. `version` is the user's own
    mark of a change that the shape does not show.
    """

    def __init__(self, name: str, state: Any = None, *, version: str = "") -> None:
        if not name or len(name) > 128:
            raise DefinitionError("a workflow needs a name of 1 to 128 characters")
        self.name = name
        self.version = version
        self.schema = Schema(state)
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.compensations: dict[str, Callable[..., Any]] = {}
        self.upcasters: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.start = ""
        self._compiled: _Compiled | None = None

    def __repr__(self) -> str:
        return f"Workflow({self.name!r}, {len(self.nodes)} nodes)"

    # --- building

    def add_node(
        self, name: str, body: Callable[..., Any] | Body | Pause | Split, *, retry: RetryPolicy | None = None,
        timeout: float | None = None, idle_timeout: float | None = None, after_crash: AfterCrash = "retry",
        targets: tuple[str, ...] | list[str] = (), executor: str | Executor | None = None,
    ) -> Self:  # fmt: skip
        """Add a node: a function of (state) or (state, run), plain or async, or one of the kinds that are shipped.

        Those are Agent, Tool, Parallel, Map, Child, Choice, Wait, Human and Sleep. `retry` and `timeout` (seconds; of
        each attempt) say what its failures deserve, `idle_timeout` how long its code may go without `run.heartbeat()`,
        `after_crash` whether it may begin again; of a Parallel or Map they are those of each branch. `targets` are
        nodes it may choose with Go besides those it has edges to. `executor` says where a plain function of (state) runs:
        "process" for the engine's pool of processes, a name given to `Engine(executors=...)`, or a
        `concurrent.futures.Executor`. Raises DefinitionError.
        """
        self._check_open()
        if name in self.nodes:
            raise DefinitionError(f"node {name!r} is defined twice; give one of them another name")
        if not name or len(name) > 128:
            raise DefinitionError(f"node {name!r} needs a name of 1 to 128 characters")
        _check_terms(name, retry, (("timeout", timeout), ("idle_timeout", idle_timeout)), after_crash)
        terms = _NodeTerms(retry, timeout, idle_timeout, after_crash, _targets(body, targets), executor)
        self.nodes[name] = _split_node(name, body, terms) if isinstance(body, Split) else _node(name, body, terms)
        return self

    def add_compensation(self, effect: str, function: Callable[..., Any]) -> Self:
        """Say what takes a call back, by the call's name, should the run fail, be cancelled or time out after it.

        The function gets the call's result; one that takes `idempotency_key` is given it. It runs as a call itself, the
        newest first, and is recorded. Raises DefinitionError.
        """
        self._check_open()
        if not effect or not callable(function) or effect in self.compensations:
            raise DefinitionError(f"a compensation of {effect!r} needs the name of a call, once, and a function")
        self.compensations[effect] = function
        return self

    def add_upcaster(self, version: str, function: Callable[[dict[str, Any]], Any]) -> Self:
        """Say what data of runs that were started under an older `version=` become when they are taken up again.

        The function gets the data as a dict and returns them as this version has them, or Go(node, data) where the node is
        another one; what it does is recorded with the event of taking the run up. Raises DefinitionError.
        """
        self._check_open()
        if version == self.version or version in self.upcasters or not callable(function):
            raise DefinitionError(
                f"an upcaster of version {version!r} needs another version than {self.version!r}, once"
            )
        self.upcasters[version] = function
        return self

    def add_edge(
        self, source: str, target: str, *, when: Guard | None = None, on: Trigger = "done", label: str = ""
    ) -> Self:
        """Add an edge; edges out of a node are asked in the order they were added, the first that holds is taken.

        `when` is a function of the state after the node's change; `on` is "done", or "failed", "timed_out" and
        "cancelled" for what should follow then. Raises DefinitionError.
        """
        self._check_open()
        if on not in TRIGGERS:
            raise DefinitionError(f"edge {source} -> {target}: on={on!r} is none of {', '.join(TRIGGERS)}")
        if when is not None and (not callable(when) or inspect.iscoroutinefunction(when)):
            raise DefinitionError(f"edge {source} -> {target}: `when` must be a plain function of the state")
        if when is not None and not label:
            label = getattr(when, "__name__", type(when).__name__)
        self.edges.append(Edge(source, target, on, when, label))
        return self

    def set_start(self, name: str) -> Self:
        """Say where a run begins."""
        self._check_open()
        self.start = name
        return self

    def _check_open(self) -> None:
        if self._compiled is not None:
            raise DefinitionError(f"workflow {self.name!r} is in use and can't be changed any more; define another one")

    # --- asking

    @property
    def digest(self) -> bytes:
        """SHA-256 of the definition's shape."""
        return self._closed().digest

    @property
    def shape(self) -> FrozenDict:
        """The definition as plain data: what its digest is taken of and what a run records."""
        return self._closed().shape

    def is_terminal(self, name: str) -> bool:
        """Whether a run ends when this node is done."""
        return name in self._closed().terminals

    def check(self) -> list[Problem]:
        """What is wrong with the definition, before anything runs; an empty list if nothing is."""
        return find_problems(
            self.nodes, self.edges, self.start, fields=self.schema.fields, reduced=self.schema.reducers
        )

    def decide(
        self,
        state: State,
        trigger: str,
        change: Change = NO_CHANGE,
        *,
        go: str | None = None,
        error: Failure | None = None,
    ) -> Decision:
        """What follows when the node of a state ends with a trigger and a change.

        Guards are asked once, with the state after the change. Raises NoEdgeHolds, GuardFailed, UndeclaredTarget.
        """
        compiled = self._closed()
        node = state.node
        if go is not None:
            declared = self._declared(node)
            if go not in declared:
                raise UndeclaredTarget(node, go, sorted(declared))
            return Decision(Transitioned(node, go, trigger, change, error), None)
        if trigger == "done" and node in compiled.terminals:
            return Decision(RunCompleted(node, change), None)
        after = None
        view = None
        if (node, trigger) in compiled.guarded:
            after = apply(state.data, change)
            view = self.schema.view(after)
        target = compiled.machine.target(node, trigger, view)
        return Decision(Transitioned(node, target, trigger, change, error), after)

    def has_edge(self, node: str, trigger: str) -> bool:
        """Whether any edge leaves a node on a trigger."""
        return self._closed().machine.has(node, trigger)

    def _declared(self, node: str) -> set[str]:
        return {edge.target for edge in self.edges if edge.source == node} | set(self.nodes[node].targets)

    def mermaid(self, *, at: str | None = None) -> str:
        """The definition as a mermaid state diagram, with the node `at` marked; a node that splits lists its branches."""
        drawn = self._closed().machine.mermaid(self.name, self.start, at=at)
        splits = [
            f"  {name} : {_drawn(node.body)}" for name, node in self.nodes.items() if isinstance(node.body, Split)
        ]
        return "\n".join([drawn.rstrip(), *splits, ""]) if splits else drawn

    def run_sync(self, data: Any = None, **options: Any) -> Any:
        """Run to the end in memory and return the final state; works inside a running event loop too.

        Options are those of `Engine`. Raises RunFailed with its cause.
        """
        if _runner is None:
            raise DefinitionError("import eventflow before running a workflow")
        return _runner(self, {} if data is None else data, **options)

    def children(self) -> list[Workflow]:
        """The workflows whose runs this one's nodes start."""
        bodies = [one.body for node in self.nodes.values() for one in (node, *(node.branches or {}).values())]
        return [body.flow for body in bodies if isinstance(body, Child)]

    # --- closing

    def _branch_kinds(self) -> dict[str, Any]:
        """The branches' kinds by node and branch, where there are any."""
        kinds = {
            name: {branch: one.kind for branch, one in node.branches.items()}
            for name, node in self.nodes.items()
            if node.branches is not None
        }
        return {"branches": kinds} if kinds else {}

    def _closed(self) -> _Compiled:
        if self._compiled is None:
            broken = [problem for problem in self.check() if problem.fatal]
            if broken:
                raise DefinitionError(f"workflow {self.name!r}: " + "; ".join(problem.text for problem in broken))
            self._compiled = self._compile()
        return self._compiled

    def _compile(self) -> _Compiled:
        going_on = {edge.source for edge in self.edges if edge.trigger == "done"}
        terminals = frozenset(name for name, node in self.nodes.items() if name not in going_on and not node.targets)
        shape: FrozenDict = freeze(
            {
                "name": self.name,
                "version": self.version,
                "nodes": {name: node.kind for name, node in self.nodes.items()},
                **self._branch_kinds(),
                "edges": [[edge.source, edge.target, edge.trigger, edge.label] for edge in self.edges],
                "start": self.start,
                "terminals": sorted(terminals),
                "fields": sorted(self.schema.fields),
            }
        )
        guarded = frozenset((edge.source, edge.trigger) for edge in self.edges if edge.when is not None)
        return _Compiled(
            DecisionMachine(list(self.nodes), self.edges), shape, digest(encode(shape)), terminals, guarded
        )


@dataclass(frozen=True, slots=True)
class _NodeTerms:
    """What `add_node` was told besides the body."""

    retry: RetryPolicy | None
    timeout: float | None
    idle: float | None
    after_crash: AfterCrash
    targets: tuple[str, ...]
    executor: str | Executor | None = None


def _node(name: str, body: Any, terms: _NodeTerms) -> Node:
    """A node, or a branch of one, that does not split. Raises DefinitionError."""
    if isinstance(body, Pause):
        if terms.timeout is not None or terms.retry is not None or terms.idle is not None:
            raise DefinitionError(f"node {name!r}: a wait has no retries, and its timeout is its own")
        if terms.executor is not None:
            raise DefinitionError(f"node {name!r}: a wait runs no code that an executor could take")
        return Node(name, body, body.kind, takes_run=False, is_async=False, targets=terms.targets, pause=body)
    if not callable(body):
        raise DefinitionError(f"node {name!r} needs a function or an Agent, got {type(body).__name__}")
    special = isinstance(body, Body)
    is_async = special or any(map(inspect.iscoroutinefunction, (body, type(body).__call__)))
    takes_run = special or parameters(body) == 2
    if terms.idle is not None and not takes_run:
        raise DefinitionError(
            f"node {name!r}: idle_timeout needs a function of (state, run) that calls run.heartbeat()"
        )
    if terms.executor is not None and (is_async or takes_run):
        raise DefinitionError(
            f"node {name!r}: an executor takes a plain function of the state alone; what needs its run has to stay here"
        )
    return Node(
        name, body, getattr(body, "kind", "function"), takes_run, is_async,
        terms.retry or _own_retry(body), terms.timeout, terms.after_crash, terms.targets,
        idle=terms.idle, executor=None if terms.executor == "thread" else terms.executor,
    )  # fmt: skip


def _check_terms(name: str, retry: Any, limits: Iterable[tuple[str, Any]], after_crash: str) -> None:
    """Refuse options of a node that mean nothing, when they are given and not when a run comes to them."""
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise DefinitionError(f"node {name!r}: retry={retry!r} is no RetryPolicy; write RetryPolicy(attempts=3)")
    if after_crash not in AFTER_CRASH:
        raise DefinitionError(f"node {name!r}: after_crash={after_crash!r} is none of {', '.join(AFTER_CRASH)}")
    for word, seconds in limits:
        if seconds is not None and (not isinstance(seconds, int | float) or not seconds > 0):
            raise DefinitionError(f"node {name!r}: {word}={seconds!r} is in seconds; give a number of more than 0")


def _targets(body: Any, given: Iterable[str]) -> tuple[str, ...]:
    """The nodes that a body says it may go to, and those that it is given besides."""
    return tuple(dict.fromkeys((*getattr(body, "targets", ()), *given)))


def _own_retry(body: Any) -> RetryPolicy:
    own = getattr(body, "default_retry", NO_RETRY)
    return own if isinstance(own, RetryPolicy) else NO_RETRY


def _split_node(name: str, body: Split, terms: _NodeTerms) -> Node:
    """A node that splits; what it was told is of each branch. Raises DefinitionError."""
    branches: dict[str, Node] = {}
    for branch, one in body.bodies.items():
        if isinstance(one, Split) or len(branch) > 128:
            raise DefinitionError(
                f"branch {branch!r} of node {name!r} can't split again; make it a Child, whose nodes may"
            )
        of_pause = _NodeTerms(None, None, None, "retry", ()) if isinstance(one, Pause) else terms
        branches[branch] = _node(branch or name, one, of_pause)
    return Node(
        name, body, body.kind, takes_run=False, is_async=False, after_crash=terms.after_crash, targets=terms.targets,
        branches=branches,
    )  # fmt: skip


def _drawn(split: Split) -> str:
    """What a split does, in a line of a diagram, in which some characters mean something."""
    said = split.said()
    return "".join(one if one.isprintable() and one not in ":;%#" else " " for one in said)


def _branch_names(shape: Mapping[str, Any]) -> list[str]:
    """The branches of a definition, each with its node and its kind."""
    kinds = shape.get("branches", {})
    return sorted(f"{node}/{name} ({kind})" for node, of in kinds.items() for name, kind in of.items() if name)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What distinguishes two definitions, in words; empty if nothing does."""
    found: list[str] = []
    before, after = old.get("nodes", {}), new.get("nodes", {})
    _tell(found, "nodes removed", sorted(set(before) - set(after)))
    _tell(found, "nodes added", sorted(set(after) - set(before)))
    changed = [
        f"{name} from {before[name]} to {after[name]}"
        for name in before
        if after.get(name, before[name]) != before[name]
    ]
    _tell(found, "kinds changed", changed)
    branches_before, branches_after = (_branch_names(one) for one in (old, new))
    _tell(found, "branches removed", [one for one in branches_before if one not in branches_after])
    _tell(found, "branches added", [one for one in branches_after if one not in branches_before])
    edges_before, edges_after = ([_edge_text(edge) for edge in one.get("edges", ())] for one in (old, new))
    _tell(found, "edges removed", [edge for edge in edges_before if edge not in edges_after])
    _tell(found, "edges added", [edge for edge in edges_after if edge not in edges_before])
    found.extend(
        f"{name} changed from {old.get(name)!r} to {new.get(name)!r}"
        for name in ("start", "version")
        if old.get(name) != new.get(name)
    )
    _tell(found, "fields removed", sorted(set(old.get("fields", ())) - set(new.get("fields", ()))))
    _tell(found, "fields added", sorted(set(new.get("fields", ())) - set(old.get("fields", ()))))
    return "; ".join(found)


def _tell(found: list[str], what: str, names: list[str]) -> None:
    if names:
        found.append(f"{what}: {', '.join(names)}")


def _edge_text(edge: Any) -> str:
    source, target, trigger, label = edge
    return (
        f"{source} -> {target}" + (f" on {trigger}" if trigger != "done" else "") + (f" when {label}" if label else "")
    )

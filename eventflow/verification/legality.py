"""Does a run keep to its definition? Each event is compared with what the run recorded of its workflow.

Guards are not asked: they may depend on anything. What is compared is names and edges, as they were when the run was driven.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventflow.codec import encode
from eventflow.event import Forked, Recorded, Rewound, RunCompleted, RunResumed, RunStarted, Transitioned
from eventflow.proof import digest
from eventflow.state import State


class Legality:
    """Whether events keep to the definition that their run recorded, and to what holds of every run.

    After a rewind or a fork it is not known which definition drives the run, until the run is resumed.
    """

    def __init__(self) -> None:
        self._known = False
        self._epoch = 0
        self._edges: tuple[Any, frozenset[tuple[Any, ...]]] = (None, frozenset())  # of a definition, seen before

    def problems(self, state: State | None, recorded: Recorded) -> Iterator[str]:
        """What is wrong with the event that follows a state (None: it is the first)."""
        event = recorded.event
        definition: Mapping[str, Any] = state.run.definition if state else {}
        if recorded.epoch < self._epoch:
            yield f"goes back to epoch {recorded.epoch}; an earlier event has {self._epoch}"
        self._epoch = max(self._epoch, recorded.epoch)
        if recorded.vouch is not None and not recorded.vouch.version < recorded.version:
            yield f"vouches for version {recorded.vouch.version}, which comes after it"
        match event:
            case RunStarted() | RunResumed():
                self._known = True
                yield from _definition(state, event)
            case Rewound() | Forked():
                self._known = False
            case Transitioned() if self._known:
                yield from self._step(definition, event)
            case RunCompleted() if self._known and event.node not in definition.get("terminals", ()):
                yield f"completes the run in {event.node!r}, where its definition goes on"

    def _step(self, definition: Mapping[str, Any], event: Transitioned) -> Iterator[str]:
        """What is wrong with a step. On `done` a node may also choose its successor, which no edge tells of."""
        if self._edges[0] is not definition:
            self._edges = definition, frozenset((edge[0], edge[1], edge[2]) for edge in definition.get("edges", ()))
        chosen = event.trigger == "done" and event.node not in definition.get("terminals", ())
        if event.to not in definition.get("nodes", ()):
            yield f"goes to {event.to!r}, which is not a node of its definition"
        elif (event.node, event.to, event.trigger) not in self._edges[1] and not chosen:
            yield f"goes from {event.node!r} to {event.to!r} on {event.trigger!r}, for which its definition has no edge"


def _definition(state: State | None, event: RunStarted | RunResumed) -> Iterator[str]:
    """What is wrong with the definition that an event gives or names, and with where it stands in it."""
    definition = event.definition
    if definition is not None and digest(encode(definition)) != event.definition_digest:
        yield "has a definition that is not the one its digest names"
    if definition is None and state is not None:
        definition = state.run.definition
        if event.definition_digest != state.run.definition_digest:
            yield "names another definition than the run has, without giving it"
    node = (isinstance(event, RunResumed) and event.to) or event.node
    if definition is None or node not in definition.get("nodes", ()):
        yield f"stands on node {node!r}, which its definition does not have"
    elif isinstance(event, RunStarted) and event.node != definition.get("start"):
        yield f"starts in {event.node!r}, its definition in {definition.get('start')!r}"

"""A definition as one `transitions` machine, used to decide and for nothing else.

The machine's own transitions are asked in their order, and the first whose conditions hold says where a trigger leads.
None is executed and no state is changed: guards are the only code that runs, and firing the machine for real would cost
three times as much. The only file that imports the library.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from transitions import EventData, Machine

from eventflow.errors import EventflowError, GuardFailed, NoEdgeHolds
from eventflow.workflow.parts import Edge

# The library logs each trigger at INFO, which makes one ten times as dear.
logging.getLogger("transitions").setLevel(logging.WARNING)


class _Asked:
    """A guard that names itself when it raises."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def __call__(self, view: Any) -> bool:
        try:
            return bool(self._edge.when is None or self._edge.when(view))
        except EventflowError:
            raise
        except Exception as error:
            raise GuardFailed(self._edge.source, self._edge.label, error) from error


class DecisionMachine:
    """All edges of a workflow, to be asked where a trigger leads."""

    def __init__(self, nodes: Sequence[str], edges: Sequence[Edge]) -> None:
        self._edges = tuple(edges)
        self._machine = Machine(
            model=None, states=list(nodes), initial=None, auto_transitions=False, send_event=False,
            transitions=[_transition(edge) for edge in edges],
        )  # fmt: skip
        self._has = {(edge.source, edge.trigger) for edge in edges}

    def has(self, node: str, trigger: str) -> bool:
        """Whether any edge leaves a node on a trigger."""
        return (node, trigger) in self._has

    def target(self, node: str, trigger: str, view: Any) -> str:
        """Where a trigger leads from a node; guards are asked with the view. Raises NoEdgeHolds, GuardFailed."""
        if (node, trigger) in self._has:
            machine = self._machine
            event = machine.events[trigger]
            asked = EventData(None, event, machine, None, args=(view,), kwargs={})
            for transition in event.transitions[node]:
                for condition in transition.conditions:
                    if not condition.check(asked):
                        break
                else:
                    return str(transition.dest)
        tried = [edge.label or "always" for edge in self._edges if (edge.source, edge.trigger) == (node, trigger)]
        raise NoEdgeHolds(node, trigger, tried)

    def mermaid(self, title: str, start: str, *, at: str | None = None) -> str:
        """The machine as a mermaid state diagram, the node `at` marked as the one a run stands on."""
        from transitions.extensions import GraphMachine  # noqa: PLC0415 - only a drawing pays for the import

        named = [{**_transition(edge), "conditions": [], "trigger": edge.label or edge.trigger} for edge in self._edges]
        drawn = GraphMachine(
            states=list(self._machine.states), transitions=named, initial=at or start, auto_transitions=False,
            graph_engine="mermaid", title=title,
        )  # fmt: skip
        text = str(drawn.get_combined_graph().draw(None))
        return text.replace(f"[*] --> {at or start}", f"[*] --> {start}")  # the library marks where it begins


def _transition(edge: Edge) -> dict[str, Any]:
    conditions = [] if edge.when is None else [_Asked(edge)]
    return {"trigger": edge.trigger, "source": edge.source, "dest": edge.target, "conditions": conditions}

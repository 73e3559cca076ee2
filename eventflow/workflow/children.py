"""Nodes that are runs of their own, and nodes that only choose.

A child is a run with its own id and history, which its caller waits for: its end comes as a message, in the same
transaction as its last event. Nothing here starts anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventflow.errors import ChildFailed, DefinitionError, InvalidState
from eventflow.plain import thaw
from eventflow.workflow.parts import Go, Opening
from eventflow.workflow.schema import field_of

MAX_ID = 128  # characters of a run's id
Reads = str | Sequence[str] | Callable[[Any], Any]


class Child:
    """A workflow as a node: `Child(flow, reads=("topic",), writes={"text": "chapter"})`.

    `reads` is a field that holds the child's input, a list of fields that make it up, or a function of the state (in a
    Map: of the item) that gives it; without it the child gets the whole state. `writes` is a field for the child's final
    state, or a mapping from its fields to this workflow's. A child that fails fails the node.
    """

    kind = "child"

    def __init__(self, flow: Any, *, reads: Reads | None = None, writes: str | Mapping[str, str] | None = None) -> None:
        if not hasattr(
            type(flow), "shape"
        ):  # of the type: asked itself, a workflow that is still being built would close
            raise DefinitionError(f"Child takes a Workflow, got {type(flow).__name__}")
        self.flow, self.reads, self.writes = flow, reads, writes

    def input(self, view: Any) -> Any:
        """The child's input, from the state. Raises InvalidState."""
        if callable(self.reads):
            return self.reads(view)
        if isinstance(self.reads, str):
            return thaw(field_of(view, self.reads, "a child"))
        if self.reads is None:
            return thaw(view) if isinstance(view, dict) else view
        return {name: thaw(field_of(view, name, "a child")) for name in self.reads}

    def opening(self, state: Any, now: int) -> Opening:  # noqa: ARG002 - as a Pause has it
        """What is waited for: the end of a run of the child's workflow, with this input. Raises InvalidState.

        The input is what the child begins with: what does not fit it fails here, before anything waits for a run that
        can't be.
        """
        first = self.flow.schema.initial(self.input(state), spare=self.reads is None)
        return Opening("child", spec={"workflow": self.flow.name, "input": first})

    def accepted(self, payload: Any) -> Any:
        """The child's final state. Raises ChildFailed."""
        if not isinstance(payload, dict) or "status" not in payload:
            raise InvalidState("the child's end", "is not what a run says when it ends")
        if payload["status"] != "completed":
            raise ChildFailed(str(payload.get("run_id", "?")), str(payload["status"]), str(payload.get("error") or ""))
        return payload.get("data")

    def change(self, payload: Any) -> dict[str, Any]:
        """The child's final state into the fields that were named."""
        if self.writes is None:
            return {}
        if isinstance(self.writes, str):
            return {self.writes: thaw(payload)}
        return {mine: thaw(payload.get(its)) for its, mine in self.writes.items()}

    def result(self, payload: Any) -> Any:
        """What a branch of a Map brings: the whole final state, or the one field that is named."""
        return thaw(payload)

    def lapsed(self) -> dict[str, Any] | None:
        """A child has no limit here; its own deadline is its own."""
        return None

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those that are named."""
        reads: tuple[str, ...] = ()
        if isinstance(self.reads, str):
            reads = (self.reads,)
        elif self.reads is not None and not callable(self.reads):
            reads = tuple(self.reads)
        if self.writes is None:
            return reads, ()
        return reads, (self.writes,) if isinstance(self.writes, str) else tuple(self.writes.values())


def child_id(run_id: str, node: str, visit: int, branch: str) -> str:
    """The id of the run that a visit of a node starts: the same whenever it is asked for, and no other visit's.

    Names that are plain can be read in it; for others, and where it would be too long, a digest stands for them.
    """
    tail = f"{node}-{visit}" + (f".{branch}" if branch else "")
    name = f"{run_id}.{tail}"
    plain = all(map(_is_plain, (node, branch or "0"))) and not run_id.endswith(".")
    if plain and len(name) <= MAX_ID:
        return name
    digest = hashlib.sha256(f"{run_id}\0{node}\0{visit}\0{branch}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{run_id[: MAX_ID - 33].rstrip('.')}.{digest}"


def _is_plain(name: str) -> bool:
    """Whether a name may be a part of a run's id; a dot would let two names be taken for one another."""
    return bool(name) and name.isascii() and all(one.isalnum() or one in "_:-" for one in name)


def end_name(run_id: str) -> str:
    """The name of the message in which a run tells its caller how it ended."""
    return f"child:{run_id}"


class Choice:
    """A node that only chooses: a function of the state gives the name of the next node, one of `targets`."""

    kind = "choice"

    def __init__(self, choose: Callable[[Any], str], *, targets: Sequence[str]) -> None:
        if not callable(choose) or not targets:
            raise DefinitionError("Choice needs a function of the state, and targets")
        self.choose, self.targets = choose, tuple(targets)

    async def __call__(self, state: Any, run: Any) -> Go:  # noqa: ARG002 - as a Body has it
        """Where to go."""
        return Go(self.choose(state))

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """It writes nothing, and what it reads is its own business."""
        return (), ()

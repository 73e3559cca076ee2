"""Errors of deciding what follows from what a node returned."""

from __future__ import annotations

from collections.abc import Sequence

from eventflow.errors.ground import EventflowError


class NotPlainData(EventflowError):
    """A value is not plain data (None, bool, 64-bit int, float, text, bytes, list, dict with text keys) or too large."""

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path or 'the value'} {problem}")


class InvalidState(EventflowError):
    """A value does not fit the type that the workflow declares for its state."""

    def __init__(self, path: str, problem: str, *, where: str = "state field") -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{where} {path}: {problem}" if path else f"{where} {problem}")


class StateIsReadOnly(EventflowError, TypeError):
    """A node tried to change its state in place."""

    def __init__(self, method: str) -> None:
        super().__init__(f"state is read-only ({method} was called on it): return the change instead, as a dict")


class NoEdgeHolds(EventflowError):
    """No edge out of a node holds for its state."""

    def __init__(self, node: str, trigger: str, edges: Sequence[str]) -> None:
        self.node, self.trigger, self.edges = node, trigger, tuple(edges)
        tried = "; ".join(edges) or "none on this trigger"
        super().__init__(
            f"no edge out of node {node!r} holds after {trigger!r} (tried: {tried}): "
            f"add a last edge without `when`, then resume the run"
        )


class GuardFailed(EventflowError):
    """A guard raised instead of answering."""

    def __init__(self, node: str, guard: str, error: BaseException) -> None:
        self.node, self.guard = node, guard
        super().__init__(
            f"guard {guard!r} on an edge out of node {node!r} raised {type(error).__name__}: {error}; "
            f"mend the guard, then resume the run"
        )


class UndeclaredTarget(EventflowError):
    """A node returned Go(...) to a node that is not among its declared targets."""

    def __init__(self, node: str, target: str, declared: Sequence[str]) -> None:
        self.node, self.target, self.declared = node, target, tuple(declared)
        have = ", ".join(declared) or "none"
        super().__init__(
            f"node {node!r} went to {target!r}, which is not among its declared targets ({have}); "
            f"declare it with add_edge or add_node(..., targets=[...])"
        )


class BranchesDisagree(EventflowError):
    """Two branches brought the same field, and no reducer says how the two become one."""

    def __init__(self, field: str, one: str, other: str) -> None:
        self.field, self.one, self.other = field, one, other
        super().__init__(
            f"branches {one!r} and {other!r} both bring {field!r}: declare how the two become one "
            f"(Annotated[..., extend], add, merge or a function), or let each write a field of its own"
        )


class BudgetExceeded(EventflowError):
    """A run has used what it was given."""

    def __init__(self, run_id: str, what: str) -> None:
        self.run_id, self.what = run_id, what
        super().__init__(
            f"run {run_id} has used its budget ({what}); resume it with a larger one, as budget=Budget(...)"
        )

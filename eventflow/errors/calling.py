"""Errors of calling out of a node: effects, timeouts, models."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from eventflow.errors.ground import EventflowError


class EffectMisused(EventflowError):
    """Two calls can't be told apart, or a call differs from the one recorded under its identity."""


class EffectUnknown(EventflowError):
    """A mutating effect was started before a crash and nothing says whether it happened."""

    def __init__(self, run_id: str, effect: str, key: str) -> None:
        self.run_id, self.effect, self.key = run_id, effect, key
        super().__init__(
            f"run {run_id}: effect {effect!r} (key {key}) was started and its outcome is unknown; find out whether it "
            f"happened, record that with `eventflow settle {run_id} {effect} --key {key}`, or Engine.settle, and resume"
        )


class RunTooLong(EventflowError):
    """A node goes on making calls though its run's history is at its limit and the reserve is used up; the run is parked."""

    def __init__(self, run_id: str, why: str) -> None:
        self.run_id, self.why = run_id, why
        super().__init__(f"run {run_id}: {why}")


class EffectSpent(EventflowError):
    """A call that is made at most once was begun before, and has no result."""

    def __init__(self, run_id: str, effect: str, key: str, status: str) -> None:
        self.run_id, self.effect, self.key, self.status = run_id, effect, key, status
        became = "failed" if status == "failed" else "was cut off"
        super().__init__(
            f"run {run_id}: effect {effect!r} (key {key}) {became} and is made at most once; catch EffectSpent, or lead "
            f"the run on by an edge on 'failed'"
        )


class EffectDenied(EventflowError):
    """A what-if run would have made a call that it may not make."""

    def __init__(self, run_id: str, node: str, effect: str, key: str, why: str) -> None:
        self.run_id, self.node, self.effect, self.key = run_id, node, effect, key
        name = shlex.quote(effect)
        super().__init__(
            f"what-if run {run_id}: call {effect!r} (key {key}) of node {node!r} {why}; resume the run with "
            f"--live {name} to make it, or with --mock {name}=JSON to answer it"
        )


class NodeTimedOut(EventflowError, TimeoutError):
    """A node's body took longer than its timeout; its result is dropped."""


class ExecutorLost(EventflowError):
    """A process that ran a node's body ended before the body did; whether it did anything is not known."""


class NodeCancelled(EventflowError):
    """A node's body was cancelled, and not by the engine: by something it waited for."""


class BranchesFailed(EventflowError):
    """More branches of a node failed than it tolerates."""

    def __init__(self, node: str, failed: Sequence[str], count: int, first: str) -> None:
        self.node, self.failed, self.count = node, tuple(failed), count
        names = ", ".join(self.failed[:5]) + (", …" if len(self.failed) > 5 else "")
        super().__init__(
            f"{len(self.failed)} of {count} branches of node {node!r} failed ({names}); the first: {first}"
        )


class ChildFailed(EventflowError):
    """A run that was started as a part of another did not end well."""

    def __init__(self, run_id: str, status: str, error: str) -> None:
        self.run_id, self.status = run_id, status
        self.message = 0  # the number of the message that told of it
        super().__init__(f"child run {run_id} {status.replace('_', ' ')}" + (f": {error}" if error else ""))


class NoTransactions(EventflowError):
    """The store is in no database that a node could write to in the same transaction."""

    def __init__(self, run_id: str, name: str) -> None:
        super().__init__(
            f"run {run_id}: transaction {name!r} needs a store in PostgreSQL, whose database it writes to; "
            f"with this store use run.effect"
        )


class RunLost(EventflowError):
    """A node's handle was taken away: the node timed out, was cancelled, or the run is driven elsewhere."""


class ModelUnavailable(EventflowError):
    """A model server could not be reached or answered with an error; another attempt may succeed."""

    def __init__(self, problem: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        self.status, self.retry_after = status, retry_after
        super().__init__(problem)


class ModelRefused(EventflowError):
    """A model, or its server, did not do what was asked; asked the same again, it would not either."""

    def __init__(self, problem: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(problem)


class MissingApiKey(EventflowError):
    """Neither a key nor a server of one's own was given."""

    exit_code = 2

    def __init__(self) -> None:
        super().__init__(
            "no model to call: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own, "
            "or pass Agent(client=...)"
        )


class ConversationTooLong(ModelRefused):
    """A conversation is longer than the model can read; sent again it would be just as long."""


class ContentFiltered(ModelRefused):
    """A content filter stopped a question or its answer."""


class OutputInvalid(ModelRefused):
    """A model's answers did not fit the form that was asked for, as often as it was told so."""


class TooManyTurns(ModelRefused):
    """A model went on asking for tools past the agent's number of turns."""

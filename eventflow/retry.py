"""From an attempt's number to the wait before the next one; arithmetic only, nobody sleeps here."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from eventflow.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a node is tried and how long it rests in between.

    `attempts` counts all tries, the first included. The rest before try n+1 is `delay` * `factor`**(n-1) seconds, at
    most `longest`, moved by up to `jitter` of itself either way; the jitter is drawn from the run and the attempt, so
    that it is the same when the decision is looked at again. `on` names the exceptions worth another try; errors that
    say of themselves that they are not retryable never are.
    """

    attempts: int = 3
    delay: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    jitter: float = 0.1
    on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        fine = self.attempts >= 1 and self.delay >= 0 and self.factor >= 1 and self.longest >= 0
        if not (fine and 0 <= self.jitter <= 1):  # said so that NaN is refused
            raise DefinitionError(
                "RetryPolicy needs attempts >= 1, delay >= 0, factor >= 1, longest >= 0 and jitter between 0 and 1"
            )

        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise DefinitionError("RetryPolicy(on=...) takes a tuple of exception classes, as in (ConnectionError,)")

    def covers(self, error: BaseException) -> bool:
        """Whether this error is worth another try."""
        return isinstance(error, self.on) and _is_retryable(error)

    def rest(self, attempt: int, *, seed: bytes) -> float:
        """Seconds to rest after attempt number `attempt` (from 1) failed."""
        plain = min(self.delay * self._grown(attempt - 1), self.longest) if self.delay else 0.0
        draw = int.from_bytes(hashlib.sha256(seed + attempt.to_bytes(4, "big")).digest()[:8], "big") / 2**64
        return plain * (1 + self.jitter * (2 * draw - 1))

    def _grown(self, times: int) -> float:
        try:
            return float(self.factor) ** times
        except OverflowError:
            return math.inf  # `longest` is shorter


def _is_retryable(error: BaseException) -> bool:
    try:
        return getattr(error, "retryable", True) is not False
    except Exception:  # noqa: BLE001 - a property of the user's that fails: then the error says nothing of itself
        return True


NO_RETRY = RetryPolicy(attempts=1)

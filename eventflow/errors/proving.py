"""Errors of proving: a seal, a signature or a proof does not hold."""

from __future__ import annotations

from eventflow.errors.ground import EventflowError
from eventflow.errors.reading import NotFound


class ProofFailed(EventflowError):
    """A seal, a signature, a proof or an export does not hold, or is not what it says it is."""

    exit_code = 4

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"{what} {problem}; believe nothing that rests on it")


class SealNotFound(NotFound):
    """No seal is kept that would do."""

    def __init__(self, what: str) -> None:
        super().__init__(f"no seal is kept {what}; `eventflow store seal --key FILE` makes one")

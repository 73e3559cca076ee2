"""An exception as plain data: what a failed node or call leaves in the log.

Only the type, the sentence and the place; no values of variables, which may be secret.
"""

from __future__ import annotations

import os
import traceback
from asyncio import CancelledError
from datetime import timedelta
from pathlib import Path

from eventflow.errors import (
    BranchesDisagree,
    BranchesFailed,
    BudgetExceeded,
    DefinitionError,
    EffectDenied,
    EffectMisused,
    EffectSpent,
    EffectUnknown,
    GuardFailed,
    InvalidState,
    MissingApiKey,
    ModelRefused,
    NoEdgeHolds,
    NotPlainData,
    StateIsReadOnly,
    UndeclaredTarget,
)
from eventflow.event import Failure
from eventflow.plain import clean_text
from eventflow.shapes import hide_secrets

MAX_MESSAGE = 2_000  # characters; an error's sentence is for people, some libraries put whole responses into theirs
LONGEST_REST = 7 * 86_400.0  # seconds; what asks for a longer rest before the next attempt gets a week

# What would fail in the same way again, however often it is tried.
_FINAL = (
    BranchesDisagree, BranchesFailed, BudgetExceeded, DefinitionError, EffectDenied, EffectMisused, EffectSpent, EffectUnknown, GuardFailed, InvalidState, MissingApiKey, ModelRefused, NoEdgeHolds,
    NotPlainData, StateIsReadOnly, UndeclaredTarget,
)  # fmt: skip


# What ends a program, a task or a coroutine: nothing that code failed at.
_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)


def is_failure(error: BaseException) -> bool:
    """Whether an error is a failure of the code that raised it, and does not end the program, the task or the coroutine.

    Not all failures are an Exception: a panic of a library in Rust is none, nor are some timeouts.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_failure, error.exceptions))
    return not isinstance(error, _ENDS)


def is_final(error: BaseException) -> bool:
    """Whether trying again can't help."""
    return isinstance(error, _FINAL)


def asked_rest(error: BaseException) -> float:
    """Seconds that an error asks to wait before the next attempt, as `retry_after`; 0 if it asks for nothing."""
    try:
        asked = getattr(error, "retry_after", None)
    except Exception:  # noqa: BLE001 - a property of the user's that fails asks for nothing
        return 0.0
    if isinstance(asked, timedelta):
        asked = asked.total_seconds()
    if not isinstance(asked, int | float) or asked != asked:  # noqa: PLR0124 - NaN
        return 0.0
    return float(min(max(asked, 0), LONGEST_REST))  # compared first: not every int has a float


def failure_of(error: BaseException) -> Failure:
    """The error's type, sentence and place, as plain data."""
    message = hide_secrets(_sentence(error) or type(error).__name__)  # before it is cut: half a key is a secret too
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}…"
    return Failure(type(error).__qualname__, message, clean_text(_place(error)), not is_final(error))


def _sentence(error: BaseException) -> str:
    try:
        return clean_text(str(error))
    except Exception:  # noqa: BLE001 - an error whose text fails is still an error
        return ""


def _place(error: BaseException) -> str:
    """File and line of the innermost frame of the user's own code, else of any."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    here = f"{Path(__file__).parent.parent}{os.sep}"
    own = [frame for frame in frames if not frame.filename.startswith(here)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"

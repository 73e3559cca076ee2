"""An exception as plain data: what a failed node or call leaves in the log.

Only the type, the sentence and the place; no values of variables, which may be secret.
"""

from __future__ import annotations

import os
import traceback
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

# What would fail in the same way again, however often it is tried.
_FINAL = (
    BranchesDisagree, BranchesFailed, BudgetExceeded, DefinitionError, EffectDenied, EffectMisused, EffectSpent, EffectUnknown, GuardFailed, InvalidState, MissingApiKey, ModelRefused, NoEdgeHolds,
    NotPlainData, StateIsReadOnly, UndeclaredTarget,
)  # fmt: skip


def is_final(error: BaseException) -> bool:
    """Whether trying again can't help."""
    return isinstance(error, _FINAL)


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

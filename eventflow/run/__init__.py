"""One run: its journal, the visits of its nodes, its mail."""

from eventflow.run.failure import asked_rest, failure_of, is_failure, is_final
from eventflow.run.journal import Journal
from eventflow.run.mail import (
    CANCEL,
    PAUSE,
    SETTLE,
    SIGNAL,
    Keys,
    called_off,
    facts,
    is_called_off,
    is_from,
    last_words,
    message,
)
from eventflow.run.shop import CheckpointTaken, Listener, Notice, RecoveryOutOfReach, Shop, begin, redactor_for
from eventflow.run.tally import since
from eventflow.run.threads import Threads
from eventflow.run.visit import Fetch, Visit, takes

__all__ = [
    "CANCEL",
    "PAUSE",
    "SETTLE",
    "SIGNAL",
    "CheckpointTaken",
    "Fetch",
    "Journal",
    "Keys",
    "Listener",
    "Notice",
    "RecoveryOutOfReach",
    "Shop",
    "Threads",
    "Visit",
    "asked_rest",
    "begin",
    "called_off",
    "facts",
    "failure_of",
    "is_called_off",
    "is_failure",
    "is_final",
    "is_from",
    "last_words",
    "message",
    "redactor_for",
    "since",
    "takes",
]

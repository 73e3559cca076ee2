"""One run: its journal, the visits of its nodes, its mail."""

from eventflow.run.failure import failure_of, is_final
from eventflow.run.journal import CheckpointTaken, Journal, Listener, Notice, Shop, begin
from eventflow.run.mail import CANCEL, PAUSE, SIGNAL, fact, message
from eventflow.run.threads import Threads
from eventflow.run.visit import Visit

__all__ = [
    "CANCEL",
    "PAUSE",
    "SIGNAL",
    "CheckpointTaken",
    "Journal",
    "Listener",
    "Notice",
    "Shop",
    "Threads",
    "Visit",
    "begin",
    "fact",
    "failure_of",
    "is_final",
    "message",
]

"""The engine: driving runs, handles on them, operations by hand."""

from eventflow.engine.engine import Engine
from eventflow.engine.handle import Run
from eventflow.engine.one_line import run_once, run_sync
from eventflow.engine.operations import (
    create_checkpoint,
    delete_checkpoints,
    delete_run,
    fresh_run_id,
    give_back,
    unlist_run,
)
from eventflow.engine.queues import Queue
from eventflow.engine.stats import Measured, RunStats, measured_of, stats_of
from eventflow.forking import fork_run, who, write_one

__all__ = [
    "Engine",
    "Measured",
    "Queue",
    "Run",
    "RunStats",
    "create_checkpoint",
    "delete_checkpoints",
    "delete_run",
    "fork_run",
    "fresh_run_id",
    "give_back",
    "measured_of",
    "run_once",
    "run_sync",
    "stats_of",
    "unlist_run",
    "who",
    "write_one",
]

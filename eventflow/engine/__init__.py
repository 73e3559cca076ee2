"""The engine: driving runs, handles on them, operations by hand."""

from eventflow.engine.engine import Engine
from eventflow.engine.handle import Run
from eventflow.engine.one_line import run_once, run_sync
from eventflow.engine.operations import (
    create_checkpoint,
    delete_checkpoints,
    delete_run,
    fresh_run_id,
)
from eventflow.forking import fork_run, who, write_one

__all__ = [
    "Engine",
    "Run",
    "create_checkpoint",
    "delete_checkpoints",
    "delete_run",
    "fork_run",
    "fresh_run_id",
    "run_once",
    "run_sync",
    "who",
    "write_one",
]

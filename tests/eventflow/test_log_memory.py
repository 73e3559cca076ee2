"""The log in memory: the contract of every log."""

from __future__ import annotations

from pathlib import Path

from eventflow.log import Log, MemoryLog
from eventflow.testing.contract import LogContract


class TestMemoryLog(LogContract):
    """The contract, for a log in memory."""

    def make_log(self, tmp_path: Path) -> Log:
        return MemoryLog()


def test_a_log_in_memory_does_not_claim_to_last() -> None:
    """It can be written and says that it ends with its process."""
    log = MemoryLog()
    assert (log.durable, log.readonly) == (False, False)

"""x"""
from __future__ import annotations
from pathlib import Path
from eventflow.log import Log, LmdbLog
from eventflow.testing.contract import LogContract
class TestLmdbLog(LogContract):
    def make_log(self, tmp_path: Path) -> Log:
        return LmdbLog(tmp_path / "store")
    def reopen(self, log: Log) -> Log:
        log.close()
        return LmdbLog(log.path)

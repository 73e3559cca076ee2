"""The log in PostgreSQL: the contract of every log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventflow.clock import ManualClock
from eventflow.log import Log
from eventflow.log.postgres import PostgresLog
from eventflow.testing.contract import LogContract


class TestPostgresLog(LogContract):
    """The contract, for a log in PostgreSQL."""

    @pytest.fixture(autouse=True)
    def _addresses(self, new_address):
        self.new_address = new_address

    def make_log(self, tmp_path: Path) -> Log:
        return PostgresLog(self.new_address(), clock=ManualClock())

    def reopen(self, log: Log) -> Log | None:
        assert isinstance(log, PostgresLog)
        log.close()
        return PostgresLog(f"{log.address.conninfo}&schema={log.address.schema}")


@pytest.mark.slow
@pytest.mark.skipif("EVENTFLOW_FULL" not in os.environ, reason="as long again; EVENTFLOW_FULL=1 runs it")
class TestPortableLog(TestPostgresLog):
    """The contract once more, in the SQL that other databases speak too."""

    def make_log(self, tmp_path: Path) -> Log:
        return PostgresLog(self.new_address(dialect="portable"), clock=ManualClock())

    def reopen(self, log: Log) -> Log | None:
        assert isinstance(log, PostgresLog)
        log.close()
        return PostgresLog(f"{log.address.conninfo}&schema={log.address.schema}&dialect=portable")

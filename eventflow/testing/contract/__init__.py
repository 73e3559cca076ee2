"""What every log must do, as a test class that pytest collects: ours pass it, and so must a backend of your own.

    class TestMyLog(LogContract):
        def make_log(self, tmp_path):
            return MyLog(tmp_path / "store")

        def reopen(self, log):          # leave it out for a log that does not outlive its process
            log.close()
            return MyLog(log.path)

Nothing here needs pytest itself, so that this package can be imported without it.
"""

from __future__ import annotations

from eventflow.testing.contract.appends import AppendContract
from eventflow.testing.contract.keeping import KeepContract
from eventflow.testing.contract.lives import LifeContract
from eventflow.testing.contract.queues import QueueContract
from eventflow.testing.contract.reading import ReadContract
from eventflow.testing.contract.removing import RemovalContract


# Inheritance is how pytest gathers a class's tests; each part is a class so that each file has one subject.
class LogContract(AppendContract, ReadContract, KeepContract, LifeContract, QueueContract, RemovalContract):
    """Tests that every log passes; a subclass says how one is made."""


__all__ = ["LogContract"]

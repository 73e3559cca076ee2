"""What users test their own workflows with: a clock by hand, a scripted model server, the contract of a store."""

from eventflow.clock import ManualClock
from eventflow.testing.contract import LogContract
from eventflow.testing.model_server import Call, ModelServer, Reply, Script

__all__ = ["Call", "LogContract", "ManualClock", "ModelServer", "Reply", "Script"]

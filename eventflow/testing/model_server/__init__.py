"""A scripted model server: real HTTP on the loopback, answers in the OpenAI protocol, nothing left to chance.

Tests and demos point the real client at it. It answers chat completions and responses, whole or streamed, from a
script, and remembers what it was asked.
"""

from eventflow.testing.model_server.script import Call, Reply, Script
from eventflow.testing.model_server.server import MAX_BODY, ModelServer

__all__ = ["MAX_BODY", "Call", "ModelServer", "Reply", "Script"]

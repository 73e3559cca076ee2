"""The names of attributes that spans and metrics carry, in one place: our own, and those of OpenTelemetry.

The GenAI names are those of OpenTelemetry's semantic conventions for generative AI, release 0.1.0, which are still in
development: when they change, this is the file to change. Nothing may be imported here.
"""

from __future__ import annotations

SCOPE = "eventflow"  # the instrumentation scope of all spans and metrics

# --- our own

RUN_ID = "eventflow.run.id"
WORKFLOW = "eventflow.workflow"
NODE = "eventflow.node"
VERSION = "eventflow.version"  # the version of the event that a span begins with, to find it in the log
LAST_VERSION = "eventflow.version.last"  # that of the event it ends with
STATUS = "eventflow.status"
TRIGGER = "eventflow.trigger"
ATTEMPT = "eventflow.attempt"
EFFECT = "eventflow.effect"
KIND = "eventflow.effect.kind"
OUTCOME = "eventflow.outcome"
MUTATING = "eventflow.effect.mutating"
LINK = "eventflow.link"  # why a span is linked to another: resumed, rewound or forked
BYTES = "eventflow.bytes"
SECONDS = "eventflow.seconds"

# --- OpenTelemetry's general ones

ERROR_TYPE = "error.type"
EXCEPTION = "exception"
EXCEPTION_TYPE = "exception.type"

# --- OpenTelemetry's for generative AI

OPERATION = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CONVERSATION = "gen_ai.conversation.id"
TOOL_NAME = "gen_ai.tool.name"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no password
CHAT, EXECUTE_TOOL = "chat", "execute_tool"

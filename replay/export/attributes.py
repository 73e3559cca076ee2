"""The names of attributes in exported spans: those that `eventflow.telemetry` gives to spans of running workflows.

They are told here once more since replay reads no telemetry; a test holds the two against each other. The GenAI names are
those of OpenTelemetry's semantic conventions for generative AI, which are still in development.
"""

from __future__ import annotations

SCOPE = "eventflow"

# --- our own

STORE = "eventflow.store.id"
RUN_ID = "eventflow.run.id"
WORKFLOW = "eventflow.workflow"
NODE = "eventflow.node"
BRANCH = "eventflow.branch"
VERSION = "eventflow.version"  # the version of the event that a span begins with, to find it in the log
LAST_VERSION = "eventflow.version.last"  # that of the event it ends with
STATUS = "eventflow.status"
ATTEMPT = "eventflow.attempt"
EFFECT = "eventflow.effect"
KIND = "eventflow.effect.kind"
OUTCOME = "eventflow.outcome"
MUTATING = "eventflow.effect.mutating"
LINK = "eventflow.link"  # why a span is linked to another: resumed, rewound or forked

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
CHAT, EXECUTE_TOOL = "chat", "execute_tool"

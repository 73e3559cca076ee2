"""Handing a conversation over to another node: a tool for each target, which only says where the run goes on.

That it was called is in the model's recorded answer, and where it led in the transition; no call of its own is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventflow.errors import DefinitionError

PREFIX = "hand_over_to_"
LONGEST_NAME = 64  # characters of a tool's name, as the protocol has it
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"note": {"type": "string", "description": "what the other one should know"}},
    "additionalProperties": False,
}
_OTHER = re.compile(r"[^A-Za-z0-9_-]")  # what a tool's name can't hold


@dataclass(frozen=True, slots=True)
class Target:
    """A node that a conversation may be handed over to, and what the model is told of it."""

    node: str
    description: str
    schema: Mapping[str, Any]


def targets_of(given: Mapping[str, str] | Sequence[str]) -> dict[str, Target]:
    """Targets by the name of their tool: from node to what it is for, or nodes alone. Raises DefinitionError."""
    if isinstance(given, str):
        raise DefinitionError(
            f"Agent(handover=...) takes a list of nodes, or a dict of what they are for, not {given!r}"
        )
    about = given if isinstance(given, Mapping) else dict.fromkeys(given, "")
    found: dict[str, Target] = {}
    for node, text in about.items():
        if not isinstance(node, str) or not isinstance(text, str):
            raise DefinitionError("Agent(handover=...) takes names of nodes, and a text for what each is for")
        name = f"{PREFIX}{_OTHER.sub('_', node)}"
        if name in found or len(name) > LONGEST_NAME or not node:
            raise DefinitionError(
                f"Agent(handover=...) needs nodes whose names make tools of at most {LONGEST_NAME} letters, each its own; "
                f"{node!r} makes {name}"
            )
        what = f"Hand this conversation over to {node}, who answers from here on."
        found[name] = Target(node, f"{what} {text}".rstrip(), _SCHEMA)
    return found

"""A migration as a stub: what has gone and what has come, named in a function that somebody has to fill in.

Nothing here migrates: eventflow validates old states as the new type, and a run whose node is gone waits for a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = '''"""A migration, from the definition that runs recorded to today's. Written by `replay rehearse`; fill it in."""

WORKFLOW = {workflow!r}


def migrate(state):
    """The state under today's definition, from a state as it was recorded: plain data in, plain data out."""
    state = dict(state)
'''


def migration(workflow: str, recorded: Mapping[str, Any], today: Mapping[str, Any]) -> str:
    """A Python file with `migrate(state)`, naming nodes and fields that were removed or added between two shapes."""
    gone, come = _apart(recorded, today, "fields")
    lines = [_HEAD.format(workflow=workflow)]
    lines += [f"    state.pop({name!r}, None)  # not declared any more: move what is still of use\n" for name in gone]
    lines += [
        f"    state.setdefault({name!r}, None)  # new: say what it is where it was not recorded\n" for name in come
    ]
    lines.append("    return state\n")
    nodes_gone, nodes_come = _apart(recorded, today, "nodes")
    if nodes_gone:
        among = f"one of {', '.join(map(repr, nodes_come))}, or another" if nodes_come else "a node of today"
        lines.append(f"\n\n# Nodes that are gone: say which stands for each ({among}).\nNODES = {{\n")
        lines += [f"    {name!r}: None,\n" for name in nodes_gone]
        lines.append("}\n")
    elif nodes_come:
        lines.append(f"\n\n# Nodes that are new: {', '.join(map(repr, nodes_come))}.\n")
    return "".join(lines)


def _apart(recorded: Mapping[str, Any], today: Mapping[str, Any], what: str) -> tuple[list[str], list[str]]:
    before, after = set(recorded.get(what, ())), set(today.get(what, ()))
    return sorted(before - after), sorted(after - before)

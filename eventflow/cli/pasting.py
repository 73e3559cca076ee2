"""Commands in sentences made such that they can be pasted: on the store, and with the workflows, that were typed.

An error's sentence says `eventflow resume RUN`, for below the command line nobody knows what was typed there; whoever prints
it does. What comes from the settings or is the default needs no option, and none is added.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

_COMMAND = re.compile(r"`((?:eventflow|replay) [^`]+)`")
_ON_RUNS = frozenset(
    {"resume", "retry", "settle", "answer", "signal", "send", "show", "list", "compact", "cancel", "pause", "delete"}
    | {"checkpoints", "log", "fork", "diff"}
)
_ON_STORES = frozenset({"prune", "verify", "info", "seal", "keys", "migrate", "vacuum", "promote"})
_DRIVE = frozenset({"resume", "retry"})


def typed(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The store and the workflows that a command line names; no store if it names none."""
    flows = [argv[1]] if argv[:1] == ["run"] and len(argv) > 1 and not argv[1].startswith("-") else list[str]()
    stores: list[str] = []
    for number, one in enumerate(argv):
        for option, found in (("--store", stores), ("--flow", flows)):
            if one == option and number + 1 < len(argv):
                found.append(argv[number + 1])
            elif one.startswith(f"{option}="):
                found.append(one.partition("=")[2])
    return (stores[-1] if stores else None), flows


def options(store: str | None, flows: Iterable[str] = ()) -> str:
    """Options that name workflows and a store, with a space before each; empty if nothing was typed."""
    named = [part for name in flows for part in ("--flow", name)] + ([] if store is None else ["--store", store])
    return "".join(f" {shlex.quote(part)}" for part in named)


def pasteable(sentence: str, store: str | None, flows: Iterable[str] = ()) -> str:
    """A sentence whose commands in backticks name the store and the workflows, where they need them and do not yet."""
    known = list(flows)

    def named(found: re.Match[str]) -> str:
        program, verb, *rest = found[1].split(" ")
        whole = rest or verb == "list"  # else only its name is told
        if not whole or (verb not in _ON_RUNS and not (verb == "store" and rest[0] in _ON_STORES)):
            return found[0]
        driven = program == "eventflow" and verb in _DRIVE and "--flow" not in rest
        return f"`{found[1]}{options(None if '--store' in rest else store, known if driven else ())}`"

    return _COMMAND.sub(named, sentence)

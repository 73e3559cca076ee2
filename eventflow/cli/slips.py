"""Names that nobody knows, and what was meant: which settings there are, and the nearest of some names. Nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventflow.errors import SettingsError

_NAMES = "a list of names, as in"
_SETTINGS: dict[str, tuple[type, str]] = {
    "store": (str, "the path of a directory, as text"), "key_file": (str, "the path of a file, as text"),
    "workflows": (list, f'{_NAMES} ["module:flow"]'), "schedules": (list, f'{_NAMES} ["module:nightly"]'),
    "queues": (dict, "a table, as in [queues.NAME]"), "checkpoints": (dict, "a table, as in [checkpoints]"),
    "retention": (dict, "a table, as in [retention]"), "quota": (dict, "a table, as in [quota]"),
}  # fmt: skip


# What people type who know other tools, or take one of our two commands for the other.
_MEANT = {
    "start": "eventflow run", "ls": "eventflow list", "ps": "eventflow list", "status": "eventflow show",
    "continue": "eventflow resume", "kill": "eventflow cancel", "stop": "eventflow pause", "rm": "eventflow delete",
    "rewind": "eventflow resume RUN --at", "history": "replay log", "inspect": "replay show",
    "log": "replay log", "logs": "replay log", "diff": "replay diff", "fork": "replay fork", "watch": "replay watch", "when": "replay when",
    "blame": "replay blame", "search": "replay search", "stats": "replay stats", "tree": "replay tree", "report": "replay report",
    "rehearse": "replay rehearse", "bisect": "replay bisect", "tui": "replay tui", "open": "replay open",
}  # fmt: skip

_OURS = frozenset({
    "run", "resume", "list", "worker", "checkpoints", "signal", "answer", "cancel", "pause", "delete", "doctor", "demo",
    "check", "store",
})  # fmt: skip


def elsewhere(command: str) -> str:
    """The command that is likely meant by a name that is none here, whichever program has it; empty if nothing is known."""
    return _MEANT.get(command, f"eventflow {command}" if command in _OURS else "")


def known_settings(found: dict[str, Any]) -> dict[str, Any]:
    """Settings of which each has a known name and the type that it takes. Raises SettingsError."""
    for name, value in found.items():
        if name not in _SETTINGS:
            raise SettingsError(
                f"there is no setting `{name}`{meant(name, _SETTINGS)}; there are {', '.join(sorted(_SETTINGS))}"
            )
        kind, example = _SETTINGS[name]
        names: Any = value if kind is list else ()
        if not isinstance(value, kind) or not all(isinstance(one, str) for one in names):
            raise SettingsError(f"the setting `{name}` is {value!r}; give {example}")
    return found


def meant(name: str, known: Iterable[str]) -> str:
    """What a name that is not known may be a slip of, as a parenthesis to append; nothing where none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - few names are wrong

    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""

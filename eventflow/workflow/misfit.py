"""What is wrong with a run's input, as one sentence: the field, what was expected there, what to do about it.

Nothing is validated here, and nothing of what a node returns is told: its author sees that as a failed run. A field that is
left out is not wrong, for a node may write it before another reads it; which one was looked for, the failure tells.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from eventflow.errors import InvalidState

SHOWN = 20  # fields listed in a sentence: more than that is no sentence
MAX_VALUE = 60  # characters of a value that is quoted
WHERE = "input field"


def no_object(given: Any, fields: Mapping[str, Any]) -> InvalidState:
    """An input that is no dict: what would be one."""
    has = f" of the fields {listed(fields)}" if fields else ""
    return InvalidState("", f"must be a dict (in JSON an object){has}, got {type(given).__name__}", where="the input")


def undeclared(name: Any, fields: Mapping[str, Any]) -> InvalidState:
    """A field that the state does not declare: what it declares, and which of these was likely meant."""
    near = get_close_matches(str(name), fields, n=1)
    what_to_do = f"did you mean {near[0]!r}?" if near else "leave it out, or declare it in the workflow's state"
    return InvalidState(str(name), f"is not declared, the state has: {listed(fields)}; {what_to_do}", where=WHERE)


def misfit(error: Mapping[str, Any], fields: Mapping[str, Any], given: Iterable[Any], top: str = "") -> InvalidState:
    """What pydantic found first: its place, the declared type there, what to do.

    `given` are the names that the input has; `top` is the field that was validated, if not the whole.
    """
    place = [top, *map(str, error["loc"])] if top else list(map(str, error["loc"]))
    if not place:
        return InvalidState("", f"does not fit: {error['msg']}", where="the input")
    path, field = ".".join(place), place[0]
    expected = f"{field if len(place) > 1 else 'it'} must be {type_text(fields[field])}" if field in fields else ""
    if error["type"] == "missing":
        return InvalidState(path, _missing(place, expected, fields, list(map(str, given))), where=WHERE)
    if error["type"] == "extra_forbidden" and len(place) == 1:
        return undeclared(field, fields)
    said = f"{error['msg']}, got {shortened(error.get('input'))}"
    return InvalidState(path, f"{said}; {expected + ', ' if expected else ''}correct it in the input", where=WHERE)


def _missing(place: list[str], expected: str, fields: Mapping[str, Any], given: list[str]) -> str:
    """What to say of a field that must be there and is not; a name in the input that is no field may be a slip of it."""
    said = f"is missing{', ' + expected if expected else ''}"
    if len(place) > 1:
        return f"{said}; add it to the input"
    strangers = [name for name in given if name not in fields]
    near = get_close_matches(place[0], strangers, n=1)
    if near:
        return f"{said}; the input has {near[0]!r}, which is not declared: rename that"
    return f"{said}; add it to the input, which has {', '.join(map(repr, given[:SHOWN])) or 'no field'}"


def looked_for(kind: str, message: str, data: Mapping[str, Any]) -> str:
    """The field that a node looked for and the state does not have, as far as its error tells; empty without one."""
    found = _LOOKED_FOR[kind].match(message) if kind in _LOOKED_FOR else None
    return found[1] if found is not None and found[1] not in data else ""


_LOOKED_FOR = {
    "KeyError": re.compile(r"""^["']([A-Za-z_]\w*)["']$"""),
    "InvalidState": re.compile(r"^state field (\w+): is not in the state, and "),
}


def listed(fields: Mapping[str, Any]) -> str:
    """Fields with their types, as a sentence has them."""
    shown = [f"{name} ({type_text(hint)})" for name, hint in list(fields.items())[:SHOWN]]
    return ", ".join(shown) + (f" and {len(fields) - SHOWN} more" if len(fields) > SHOWN else "")


def type_text(hint: Any) -> str:
    """A type as a sentence has it, without what Annotated says besides."""
    if typing.get_origin(hint) is typing.Annotated:
        return type_text(typing.get_args(hint)[0])
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return inspect.formatannotation(hint)


def shortened(value: Any) -> str:
    """A value as a sentence quotes it."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."

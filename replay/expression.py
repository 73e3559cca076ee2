"""Conditions on a state, as `when` asks them: parsed as syntax, answered by folding over plain data.

Nothing of an expression is ever run as code: what is not in the short list of forms below is refused. A dotted name is a
path into the state's data, never an attribute. What is absent makes a comparison not hold instead of failing.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventflow.errors import SettingsError
from eventflow.plain import Rope
from replay.path import MISSING, Path, look, settled

MAX_TEXT = 1_000  # characters: Python's parser nests no deeper in that than its own limits allow
_Value = Callable[[Mapping[str, Any]], Any]
_Compare = Callable[[Any, Any], Any]

_COMPARISONS: dict[type[ast.cmpop], _Compare] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda one, other: one in other, ast.NotIn: lambda one, other: one not in other,
}  # fmt: skip
_LITERALS = (bool, int, float, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the state's data, and the fields of the state that it asks about."""

    holds: Callable[[Mapping[str, Any]], bool]
    fields: frozenset[str]


def parse_condition(text: str) -> Condition:
    """A condition on the state's data from its text.

    Allowed: `== != < <= > >= in`, `and or not`, `len(x)`, literals, and paths such as `notes[2].title`. Raises
    SettingsError for anything else.
    """
    if len(text) > MAX_TEXT:
        raise SettingsError(f"the expression has {len(text):,} characters; the limit is {MAX_TEXT:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in literals, which are no business of ours
            tree = ast.parse(text.strip(), mode="eval")
        asked = _value(tree.body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise SettingsError(f"{text!r} is not an expression; write one as: score < 0.5 and len(notes) > 2") from None
    _check_names(tree, text)
    fields = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))  # `len` among them: harmless
    return Condition(lambda data: _holds(asked(data)), fields)


def _check_names(tree: ast.AST, text: str) -> None:
    """Refuse a name that Python's parser reads as another one (NFKC): it would ask about another field."""
    for node in ast.walk(tree):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name not in text:
            raise SettingsError(
                f"an expression can't ask for a name that it would read as {name!r}, which is another field; "
                f"`replay watch` follows a field by its very name"
            )


def _holds(value: Any) -> bool:
    return value is not MISSING and (len(value) > 0 if type(value) is Rope else bool(value))


def _value(node: ast.expr) -> _Value:  # noqa: PLR0911 - the forms there are, seen whole
    match node:
        case ast.BoolOp():
            return _joined(node)
        case ast.UnaryOp(op=ast.Not()):
            inner = _value(node.operand)
            return lambda data: not _holds(inner(data))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return lambda _data: -number
        case ast.Compare():
            return _compared(node)
        case ast.Call():
            return _length(node)
        case ast.Constant(value=value) if isinstance(value, _LITERALS):
            return lambda _data: value
        case ast.List() | ast.Tuple():
            items = [_value(item) for item in node.elts]
            return lambda data: [settled(item(data)) for item in items]
        case ast.Name() | ast.Attribute() | ast.Subscript():
            path = _path(node)
            return lambda data: look(data, path)
        case _:
            raise _refused(node)


def _refused(node: ast.expr) -> SettingsError:
    shown = ast.unparse(node)
    return SettingsError(
        f"{shown!r} can't stand in an expression; it may have comparisons, `in`, and/or/not, len(), literals, and paths "
        f"into the state such as notes[2].title"
    )


def _joined(node: ast.BoolOp) -> _Value:
    parts = [_value(part) for part in node.values]
    if isinstance(node.op, ast.And):
        return lambda data: all(_holds(part(data)) for part in parts)
    return lambda data: any(_holds(part(data)) for part in parts)


def _compared(node: ast.Compare) -> _Value:
    """A chain of comparisons, as Python reads it: a < b < c is both."""
    operators = [_comparison(node, kind) for kind in node.ops]
    values = [_value(part) for part in (node.left, *node.comparators)]

    def ask(data: Mapping[str, Any]) -> bool:
        left = values[0](data)
        for compare, value in zip(operators, values[1:], strict=True):
            right = value(data)
            if not _fits(compare, left, right):
                return False
            left = right
        return True

    return ask


def _comparison(node: ast.Compare, kind: ast.cmpop) -> _Compare:
    found = _COMPARISONS.get(type(kind))
    if found is None:  # `is` asks for identity, which plain data has none of
        raise _refused(node)
    return found


def _fits(compare: _Compare, left: Any, right: Any) -> bool:
    if left is MISSING or right is MISSING:
        return False
    try:
        return bool(compare(settled(left), settled(right)))
    except TypeError:  # a text is neither less nor more than a number
        return False


def _length(node: ast.Call) -> _Value:
    if not (isinstance(node.func, ast.Name) and node.func.id == "len" and len(node.args) == 1 and not node.keywords):
        raise _refused(node)
    inner = _value(node.args[0])

    def ask(data: Mapping[str, Any]) -> Any:
        value = inner(data)
        return len(value) if isinstance(value, str | bytes | list | dict | Rope) else MISSING

    return ask


def _path(node: ast.expr) -> Path:
    """The path that names, dots and subscripts spell."""
    parts: list[str | int] = []
    one = node
    while not isinstance(one, ast.Name):
        if isinstance(one, ast.Attribute):
            parts.append(one.attr)
        elif isinstance(one, ast.Subscript):
            parts.append(_subscript(one))
        else:
            raise _refused(node)
        one = one.value
    return (one.id, *reversed(parts))


def _subscript(node: ast.Subscript) -> str | int:
    match node.slice:
        case ast.Constant(value=str() | int() as part) if type(part) is not bool:
            return part
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)) if type(number) is not bool:
            return -number
    raise _refused(node)

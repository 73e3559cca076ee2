"""The type of a workflow's state: from what users declare to plain data and back.

A state is a plain dict by default, or a TypedDict, a dataclass or a pydantic model. Its fields are validated and dumped
one by one, so that a small update of a large state costs what the update costs. pydantic is imported when a type is
declared, not before.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from eventflow.change import Reducer, extend
from eventflow.errors import DefinitionError, InvalidState, NotPlainData
from eventflow.plain import FrozenDict, freeze, raw_items, thaw

Shape = Literal["dict", "typed_dict", "dataclass", "model"]
_PLAIN = frozenset({str, int, float, bool, bytes, type(None), Any, list, dict})


class Schema:
    """The state of one workflow: field names, their types, their reducers."""

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.shape: Shape = _shape(declared)
        hints = {} if self.shape == "dict" else typing.get_type_hints(declared, include_extras=True)
        self.fields: tuple[str, ...] = tuple(hints)
        self.reducers: dict[str, Reducer] = {}
        self._adapters: dict[str, Any] = {}
        self._converted: set[str] = set()
        for name, hint in hints.items():
            self._field(name, hint)
        self._whole: Any = None
        if self.shape in ("dataclass", "model"):
            from pydantic import TypeAdapter  # noqa: PLC0415 - only typed states pay for the import

            self._whole = TypeAdapter(declared)

    def _field(self, name: str, hint: Any) -> None:
        from pydantic import TypeAdapter  # noqa: PLC0415 - only typed states pay for the import

        if get_origin(hint) in (typing.Required, typing.NotRequired):
            hint = get_args(hint)[0]
        for extra in getattr(hint, "__metadata__", ()):
            if callable(extra) and not isinstance(extra, type):
                self.reducers[name] = extra
                break
        try:
            self._adapters[name] = TypeAdapter(hint)
        except Exception as error:
            raise DefinitionError(f"state field {name!r} has a type that can't be validated: {error}") from error
        if not _is_plain(hint):
            self._converted.add(name)

    # --- in

    def initial(self, data: Any) -> FrozenDict:
        """A run's first data from its input. Raises InvalidState or NotPlainData."""
        if self._whole is not None:
            value = self._validated(self._whole, data if not isinstance(data, dict) else thaw(data), "input")
            return self._frozen_fields(self._fields_of(value))
        if not isinstance(data, Mapping):
            raise InvalidState("input", f"must be a dict, got {type(data).__name__}")
        if self.shape == "dict":
            frozen: FrozenDict = freeze(dict(data))
            return frozen
        return self._frozen_fields({name: self._checked(name, value) for name, value in data.items()})

    def _frozen_fields(self, values: dict[str, Any]) -> FrozenDict:
        plain = {name: self._dumped(name, value) for name, value in values.items()}
        frozen: FrozenDict = freeze(plain)
        return frozen

    def update(self, returned: Any, held: FrozenDict) -> dict[str, Any]:
        """What a node returned, as plain values by field. Raises InvalidState or NotPlainData."""
        if returned is None:
            return {}
        if self._whole is not None and isinstance(returned, self.declared):
            returned = self._fields_of(returned)
        if not isinstance(returned, dict):
            raise InvalidState("update", f"a node returns a dict of changes or None, got {type(returned).__name__}")
        if self.shape == "dict":
            return returned
        return {
            name: value if self._as_held(held, name, value) else self._dumped(name, self._checked(name, value))
            for name, value in returned.items()
        }

    @staticmethod
    def _as_held(held: FrozenDict, name: str, value: Any) -> bool:
        return name in held and held[name] is value

    def _checked(self, name: str, value: Any) -> Any:
        adapter = self._adapters.get(name)
        if adapter is None:
            known = ", ".join(self.fields)
            raise InvalidState(name, f"is not declared by the workflow's state (it has: {known}); declare it")
        reducer = self.reducers.get(name)
        if reducer is not None and not _is_ours(reducer):
            return value  # what an own reducer takes is its own business; what it gives is checked as plain data
        return self._validated(adapter, thaw(value), name)

    def _validated(self, adapter: Any, value: Any, name: str) -> Any:
        from pydantic import ValidationError  # noqa: PLC0415 - imported already by the adapter

        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join([name, *map(str, first["loc"])])
            raise InvalidState(path, f"{first['msg']} (got {_shortened(first.get('input'))})") from None

    def _dumped(self, name: str, value: Any) -> Any:
        adapter = self._adapters.get(name)
        if adapter is None or name not in self._converted:
            return value
        plain = adapter.dump_python(value)
        try:
            return freeze(plain, name)
        except NotPlainData:
            return adapter.dump_python(value, mode="json")

    def _fields_of(self, value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in self.fields if hasattr(value, name)}

    # --- out

    def view(self, data: FrozenDict) -> Any:
        """Plain data as the declared type: what nodes and guards get. Raises InvalidState."""
        if self._whole is not None:
            return self._validated(self._whole, thaw(data), "state")
        if not self._converted or not any(name in data for name in self._converted):
            return data
        typed = dict(raw_items(data))
        for name in self._converted & typed.keys():
            typed[name] = self._validated(self._adapters[name], thaw(data[name]), name)
        return FrozenDict(typed)


def _shape(declared: Any) -> Shape:
    if declared is None or declared is dict:
        return "dict"
    if typing.is_typeddict(declared):
        return "typed_dict"
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        return "dataclass"
    if isinstance(declared, type) and hasattr(declared, "model_fields"):
        return "model"
    raise DefinitionError(
        f"a workflow's state is a TypedDict, a dataclass, a pydantic model or a plain dict, not {declared!r}"
    )


def _is_ours(reducer: Reducer) -> bool:
    return getattr(reducer, "__module__", "") == extend.__module__


def _is_plain(hint: Any) -> bool:
    """Whether values of a type are plain data already, so that nothing must be converted."""
    if hint in _PLAIN:
        return True
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return _is_plain(get_args(hint)[0])
    if origin is Literal:
        return all(type(value) in _PLAIN for value in get_args(hint))
    if origin in (list, dict, typing.Union, types.UnionType):
        return all(_is_plain(one) for one in get_args(hint))
    if typing.is_typeddict(hint):
        return all(_is_plain(one) for one in typing.get_type_hints(hint).values())
    return False


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parameters(function: Any) -> int:
    """How many positional arguments a function takes: 1 for (state), 2 for (state, run). Raises DefinitionError."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in signature.parameters.values() if p.kind in kinds and p.default is inspect.Parameter.empty]
    if not 1 <= len(required) <= 2:
        name = getattr(function, "__qualname__", repr(function))
        raise DefinitionError(f"{name} must take (state) or (state, run), it takes {len(required)} arguments")
    return len(required)

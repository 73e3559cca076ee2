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
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from eventflow.change import Change, Op, Reducer, extend, resolve
from eventflow.errors import DefinitionError, InvalidState
from eventflow.plain import FrozenDict, FrozenList, freeze, raw_items, same, thaw
from eventflow.workflow.misfit import misfit, no_object, shortened, type_text, undeclared

Shape = Literal["dict", "typed_dict", "dataclass", "model"]
_SIMPLE = frozenset({str, int, float, bool, bytes})
_PLAIN = frozenset({str, int, float, bool, bytes, type(None), Any, list, dict})
_NUMBERS = frozenset({int, float, bool})  # as keys they are written as text, and read back as what is declared


class Schema:
    """The state of one workflow: field names, their types, their reducers."""

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.shape: Shape = _shape(declared)
        hints = _hints(declared, self.shape)
        self._hints = hints
        self.fields: tuple[str, ...] = tuple(hints)
        self.reducers: dict[str, Reducer] = {}
        self._adapters: dict[str, Any] = {}
        self._converted: set[str] = set()
        self._exact: dict[str, type] = {}  # fields of a plain type: a value of just that type needs no looking at
        for name, hint in hints.items():
            self._field(name, hint)
        self._whole: Any = None
        if self.shape in ("dataclass", "model"):
            from pydantic import TypeAdapter  # noqa: PLC0415 - only typed states pay for the import

            self._whole = TypeAdapter(declared)

    def type_of(self, name: str) -> str:
        """The declared type of a field, as a sentence has it."""
        return type_text(self._hints[name])

    def _field(self, name: str, hint: Any) -> None:
        from pydantic import TypeAdapter  # noqa: PLC0415 - only typed states pay for the import

        if get_origin(hint) in (typing.Required, typing.NotRequired):
            hint = get_args(hint)[0]
        try:
            self._adapters[name] = TypeAdapter(hint)
        except Exception as error:
            raise DefinitionError(f"state field {name!r} has a type that can't be validated: {error}") from error
        if not _is_plain(hint):
            self._converted.add(name)
        if hint in _SIMPLE:
            self._exact[name] = hint
        for extra in getattr(hint, "__metadata__", ()):
            if callable(extra) and not isinstance(extra, type):
                plain = _is_ours(extra) or name not in self._converted
                self.reducers[name] = extra if plain else self._typed(name, extra)
                break

    def _typed(self, name: str, reducer: Reducer) -> Reducer:
        """A reducer of the user's own, given the declared type and taken back as plain data."""
        adapter = self._adapters[name]

        def reduced(old: Any, new: Any) -> Any:
            held = None if old is None else self._validated(adapter, thaw(old), name)
            return self._dumped(name, self._validated(adapter, reducer(held, new), name))

        return reduced

    # --- in

    def initial(self, data: Any, *, spare: bool = False) -> FrozenDict:
        """A run's first data from its input. Raises InvalidState or NotPlainData.

        `spare` lets a dataclass leave out what it does not declare, where the input is a larger state.
        """
        if not isinstance(data, Mapping) and not self._is_whole(data) and self.shape != "model":
            raise no_object(data, self._hints)
        if self.shape == "dict":
            frozen: FrozenDict = freeze(dict(data))
            return frozen
        if self._is_whole(data):
            return self._frozen_fields(self._fields_of(self._validated(self._whole, data, "input")))
        strange = None if spare and self.shape == "dataclass" else self._strange(data)
        if strange is not None:
            raise undeclared(strange, self._hints)
        if self._whole is not None:
            whole = self._fitted(self._whole, thaw(data) if isinstance(data, dict) else data, data)
            return self._frozen_fields(self._fields_of(whole))
        return self._frozen_fields(
            {name: self._fitted(self._adapters[name], thaw(value), data, name) for name, value in data.items()}
        )

    def _strange(self, data: Mapping[Any, Any]) -> Any:
        """The first name in an input that the state does not take, None without one.

        What a model, or a dataclass with settings for pydantic, does with such names is its own business.
        """
        if self.shape == "model" or getattr(self.declared, "__pydantic_config__", None) is not None:
            return None
        known = self.declared.__dataclass_fields__ if self.shape == "dataclass" else self._adapters
        return next((name for name in data if name not in known), None)

    def _fitted(self, adapter: Any, value: Any, data: Any, name: str = "") -> Any:
        """A part of an input, or the whole, validated. Raises InvalidState, with what to do about the input."""
        from pydantic import ValidationError  # noqa: PLC0415 - imported already by the adapter

        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first: Any = error.errors(include_url=False, include_context=False)[0]
            raise misfit(first, self._hints, data, name) from None

    def _frozen_fields(self, values: dict[str, Any]) -> FrozenDict:
        plain = {name: self._dumped(name, value) for name, value in values.items()}
        frozen: FrozenDict = freeze(plain)
        return frozen

    def change(self, returned: Any, held: FrozenDict) -> Change:
        """What a node returned, as the smallest change. Raises InvalidState or NotPlainData.

        A whole state of the declared type replaces the one that is held; only a dict of changes goes through reducers.
        """
        if self._whole is not None and isinstance(returned, self.declared):
            return resolve(held, self.update(self._fields_of(returned), held, whole=True), {})
        return resolve(held, self.update(returned, held), self.reducers)

    def brought(self, returned: Any, held: FrozenDict) -> dict[str, Any]:
        """What a branch returned, as plain values by field, for the join. Raises InvalidState or NotPlainData.

        A whole state of the declared type brings the fields that differ from the one that is held.
        """
        if self._whole is not None and isinstance(returned, self.declared):
            update = self.update(self._fields_of(returned), held, whole=True)
            return {name: value for name, value in update.items() if name not in held or not same(held[name], value)}
        return self.update(returned, held)

    def replacement(self, whole: Any, held: FrozenDict) -> Change:
        """The change that makes the data what it is given, fields that are missing there deleted."""
        values = self.update(self._fields_of(whole) if self._is_whole(whole) else whole, held, whole=True)
        gone = tuple(Op("delete", (name,)) for name in held if name not in values)
        return (*resolve(held, values, {}), *gone)

    def _is_whole(self, value: Any) -> bool:
        return self._whole is not None and isinstance(value, self.declared)

    def edit(self, changes: Mapping[str, Any], held: FrozenDict) -> Change:
        """A change by hand, which sets fields and passes no reducer. Raises InvalidState or NotPlainData."""
        return resolve(held, self.update(dict(changes), held, whole=True), {})

    def update(self, returned: Any, held: FrozenDict, *, whole: bool = False) -> dict[str, Any]:
        """What a node returned, as plain values by field; `whole` values are not for reducers.

        Raises InvalidState or NotPlainData.
        """
        if returned is None:
            return {}
        if not isinstance(returned, dict):
            raise InvalidState("update", f"a node returns a dict of changes or None, got {type(returned).__name__}")
        if self.shape == "dict":
            return returned
        exact = self._exact
        return {
            name: value if type(value) is exact.get(name) else self._taken(held, name, value, whole=whole)
            for name, value in returned.items()
        }

    def _taken(self, held: FrozenDict, name: str, value: Any, *, whole: bool) -> Any:
        kind = type(value)
        if (kind is FrozenList or kind is FrozenDict) and name in held and held[name] is value:
            return value
        reducer = self.reducers.get(name)
        if reducer is not None and not whole and not _is_ours(reducer):
            return value  # what an own reducer takes is its own business; what it gives is checked
        return self._dumped(name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        adapter = self._adapters.get(name)
        if adapter is None:
            known = ", ".join(self.fields)
            raise InvalidState(name, f"is not declared by the workflow's state (it has: {known}); declare it")
        return self._validated(adapter, thaw(value), name)

    def _validated(self, adapter: Any, value: Any, name: str) -> Any:
        from pydantic import ValidationError  # noqa: PLC0415 - imported already by the adapter

        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join([name, *map(str, first["loc"])])
            raise InvalidState(path, f"{first['msg']} (got {shortened(first.get('input'))})") from None

    def _dumped(self, name: str, value: Any) -> Any:
        adapter = self._adapters.get(name)
        if adapter is None or name not in self._converted:
            return value
        return plainly(adapter.dump_python(value, warnings=False))

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


def _hints(declared: Any, shape: Shape) -> dict[str, Any]:
    """The declared fields and their types, in order. Raises DefinitionError for a name that can't be found."""
    if shape == "dict":
        return {}
    try:
        hints = typing.get_type_hints(declared, include_extras=True)
    except (NameError, TypeError) as error:
        raise DefinitionError(
            f"the types of state {declared.__qualname__} can't be looked up ({error}); define them at a module's top level"
        ) from None
    if shape == "dataclass":
        return {field.name: hints[field.name] for field in dataclasses.fields(declared) if field.init}
    if shape == "model":
        return {
            name: _constrained(hints.get(name, field.annotation), field)
            for name, field in declared.model_fields.items()
        }
    return hints


def _constrained(hint: Any, field: Any) -> Any:
    """A model field's type with what its `= Field(...)` demands, which the annotation does not show."""
    return typing.Annotated[hint, *field.metadata] if field.metadata else hint


def plainly(value: Any) -> Any:
    """What pydantic dumped with what is no plain data in it (dates, ids, sets, enums) as JSON has it.

    Not its JSON mode for the whole: that would turn bytes into text and NaN into None.
    """
    if isinstance(value, dict):
        return {_plain_key(key): plainly(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [plainly(item) for item in value]
    if type(value) in _PLAIN:
        return value
    from pydantic_core import PydanticSerializationError, to_jsonable_python  # noqa: PLC0415 - imported already

    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        return value  # freezing it says what it is, and where


def _plain_key(key: Any) -> Any:
    if type(key) is str:
        return key
    plain = plainly(key)
    if type(plain) in _NUMBERS:
        return str(plain)
    return plain if isinstance(plain, str) else key  # which freezing refuses: its text could not be read back


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
        numbered = origin is dict and get_args(hint)[0] in _NUMBERS
        return not numbered and all(_is_plain(one) for one in get_args(hint))
    if typing.is_typeddict(hint):
        return all(_is_plain(one) for one in typing.get_type_hints(hint).values())
    return False


def field_of(view: Any, name: str, reader: str) -> Any:
    """A field of a state, be it a dict or an object. Raises InvalidState, naming who reads it, where it is not there."""
    found = view.get(name, _MISSING) if isinstance(view, dict) else getattr(view, name, _MISSING)
    if found is _MISSING:
        raise InvalidState(
            name, f"is not in the state, and {reader} reads it; give it in the input, or write it before"
        )
    return found


_MISSING = object()


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

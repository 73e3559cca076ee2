"""Tools: typed Python functions that a model may call, with a JSON schema made from their signature."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from eventflow.errors import DefinitionError, InvalidState


@dataclass(frozen=True, slots=True)
class Tool:
    """A function a model may call.

    `mutating` says whether calling it twice does harm (the default), `needs_approval` that a person must agree to each
    call, `reconcile` finds out what became of a call whose outcome is unknown.
    """

    name: str
    function: Callable[..., Any]
    about: str
    schema: dict[str, Any]
    mutating: bool = True
    needs_approval: bool = False
    reconcile: Callable[[str], Any] | None = None
    adapter: Any = field(default=None, compare=False, repr=False)

    def request(self) -> dict[str, Any]:
        """The tool as chat.completions takes it."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.about, "parameters": self.schema},
        }

    def arguments(self, text: str) -> dict[str, Any]:
        """The arguments a model gave as JSON, validated against the signature. Raises InvalidState."""
        from pydantic import ValidationError  # noqa: PLC0415 - imported with the adapter already

        try:
            given = json.loads(text or "{}")
            checked = self.adapter.validate_python(given)
        except ValueError as error:
            first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
            where = ".".join(map(str, first["loc"])) if first else "arguments"
            raise InvalidState(where or "arguments", str(first["msg"]) if first else f"are not JSON: {error}") from None
        return {name: getattr(checked, name) for name in type(checked).model_fields}


def tool(
    function: Callable[..., Any], *, name: str | None = None, about: str | None = None, mutating: bool = True,
    needs_approval: bool = False, reconcile: Callable[[str], Any] | None = None,
) -> Tool:  # fmt: skip
    """Make a tool of a function; what it is about is taken from its docstring. Raises DefinitionError."""
    if isinstance(function, Tool):
        return function
    called = name or getattr(function, "__name__", "")
    if not called or not all(one.isalnum() or one in "_-" for one in called) or len(called) > 64:
        raise DefinitionError(f"a tool's name is 1 to 64 letters, digits, _ and -, not {called!r}; give name=")
    model = _model_of(function, called)
    schema = model.model_json_schema()
    schema.pop("title", None)
    text = about if about is not None else inspect.getdoc(function) or ""
    return Tool(called, function, text, schema, mutating, needs_approval, reconcile, _adapter(model))


def _model_of(function: Callable[..., Any], name: str) -> Any:
    from pydantic import create_model  # noqa: PLC0415 - only agents with tools pay for the import

    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise DefinitionError(f"the signature of tool {name} can't be read: {error}") from None
    fields: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DefinitionError(f"tool {name}: parameter {parameter.name} must be one that can be given by name")
        if parameter.name == "idempotency_key":
            continue  # given by the run, not by the model
        if parameter.name not in hints:
            raise DefinitionError(
                f"tool {name}: parameter {parameter.name} has no type, so a model can't be told what to give"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    return create_model(name, __config__={"extra": "forbid"}, **fields)


def _adapter(model: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - see above

    return TypeAdapter(model)

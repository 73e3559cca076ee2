"""The form of a structured answer: the JSON schema a model is held to, and its answer checked against the type.

The strict subset of JSON Schema: OpenAI API documentation, Structured Outputs. Where a type does not fit into it, the
schema is sent as it is, and only the check remains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eventflow.agents.outside import without_surrogates
from eventflow.agents.tool import first_line, problems
from eventflow.errors import DefinitionError

_NAMED = frozenset({"properties", "$defs"})  # schema keywords that hold schemas by name
_INNER = _NAMED | {"anyOf", "items"}  # all that hold schemas
_WORDS = frozenset({"type", "anyOf", "enum", "const"})  # one of these says what goes there
_FOREIGN = frozenset({"allOf", "not", "prefixItems", "patternProperties"})  # the strict subset does not have them


class Form:
    """A type as the form of an answer: a pydantic model, a dataclass or a TypedDict. Raises DefinitionError."""

    def __init__(self, declared: Any) -> None:
        from pydantic import TypeAdapter  # noqa: PLC0415 - only who asks for a form pays for the import

        name = getattr(declared, "__name__", "") or "answer"
        try:
            self._adapter: Any = TypeAdapter(declared)
            schema = _rooted(self._adapter.json_schema())
        except Exception as error:
            raise DefinitionError(
                f"Agent(output={name}): the type can't be told as JSON: {first_line(error)}"
            ) from error
        if schema.get("type") != "object":
            raise DefinitionError(
                f"Agent(output={name}): an answer is an object; give a pydantic model, a dataclass or a TypedDict"
            )
        closed = strict(schema)
        self.name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
        self.asked = (self.name, schema if closed is None else closed, closed is not None)

    def read(self, text: str) -> tuple[Any, str]:
        """An answer's text as plain data of this form, and what is wrong with it: a sentence, or nothing."""
        from pydantic import ValidationError  # noqa: PLC0415 - imported already

        try:
            value = self._adapter.validate_json(text)
        except ValidationError as error:
            return None, problems(error)
        return without_surrogates(self._adapter.dump_python(value, mode="json", warnings=False)), ""


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose top is no reference; that of a type that holds itself is one."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    if not name:
        return schema
    return {**schema["$defs"][name], "$defs": schema["$defs"]}


def strict(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema in the strict subset: closed objects, all of their fields required; None if that would change it.

    A default is left out, for the model must always say the field; `oneOf` becomes `anyOf`; what stands beside a
    reference goes.
    """
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}
    found = {key: value for key, value in schema.items() if key not in ("default", "discriminator")}
    if "oneOf" in found:
        found["anyOf"] = found.pop("oneOf")
    if not _has_words(found):
        return None
    if "properties" in found:
        found |= {"additionalProperties": False, "required": list(found["properties"])}
    for key in _INNER & found.keys():
        inner = _each(found[key]) if key in _NAMED else _all(found[key]) if key == "anyOf" else strict(found[key])
        if inner is None:
            return None
        found[key] = inner
    return found


def _has_words(schema: Mapping[str, Any]) -> bool:
    """Whether the strict subset has words for a schema's own level: it says what goes there, and nothing is open."""
    if not _WORDS & schema.keys() or _FOREIGN & schema.keys():
        return False
    if schema.get("type") == "array":
        return isinstance(schema.get("items"), dict)
    return schema.get("type") != "object" or (
        bool(schema.get("properties")) and schema.get("additionalProperties", False) is False
    )


def _each(schemas: Mapping[str, Any]) -> dict[str, Any] | None:
    made = {name: strict(one) for name, one in schemas.items()}
    return None if None in made.values() else made


def _all(schemas: list[Any]) -> list[Any] | None:
    made = [strict(one) for one in schemas]
    return None if None in made else made

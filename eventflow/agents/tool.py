"""Tools: typed functions that a model may call, or that are nodes themselves; each call an effect.

A tool's name, description and parameters are read off the function once, where it is written down. Arguments are checked
before the function is called, whoever wrote them. Nothing here knows a wire form.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from eventflow.agents.approval import Approval, Asked, Decision, Needs, asked_about, decision, refusal
from eventflow.agents.outside import without_surrogates
from eventflow.errors import DefinitionError, EventflowError, InvalidState, NodeCancelled, NotPlainData
from eventflow.plain import freeze, thaw
from eventflow.run import Visit
from eventflow.run.failure import failure_of
from eventflow.workflow import Standing, field_of

OnError = Literal["tell", "raise"]
Then = Callable[[Any], Any]
Otherwise = Callable[[Exception], Any]
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what the protocol allows
_KEY = "idempotency_key"  # the parameter that is ours to give
_ONLY = "1"  # the key of the one call that a tool makes as a node
_PROBLEMS = 5  # of a call's arguments, in the sentence about them
_LONGEST = 2_000  # characters of a result that is no plain data and becomes a text


class Tool:
    """A typed function as a tool: for an Agent to call, or as a node of its own.

    Name, description and parameters come from the function: its name, its docstring, its signature. `mutating=False`
    says that calling twice does no harm; `reconcile(idempotency_key)` settles a call whose outcome a crash left unknown.
    A function that takes `idempotency_key` is given it. What it raises is told to the model (`on_error="tell"`), or fails
    the node ("raise"). With `needs_approval` (True, or a function of the arguments) a person is asked before each call;
    `approval_timeout` seconds without an answer are a refusal. As a node it `reads` state fields as arguments of the same names (those of its required
    parameters, if nothing is said) and `writes` its result into a field. Raises DefinitionError.
    """

    kind = "tool"

    def __init__(
        self, function: Callable[..., Any], *, name: str | None = None, description: str | None = None,
        mutating: bool = True, reconcile: Callable[[str], Any] | None = None, on_error: OnError = "tell",
        reads: str | Sequence[str] | None = None, writes: str | None = None, needs_approval: Needs = False,
        approval_timeout: float | None = None,
    ) -> None:  # fmt: skip
        self.name = getattr(function, "__name__", "") if name is None else name
        if not _NAME.fullmatch(self.name):
            raise DefinitionError(
                f"a tool needs a name of letters, digits, _ and -, at most 64 of them, as Tool(..., name=...); "
                f"got {self.name!r}"
            )
        if on_error not in ("tell", "raise"):
            raise DefinitionError(f"tool {self.name}: on_error is 'tell' or 'raise', not {on_error!r}")
        _check_approval(self.name, needs_approval, approval_timeout)
        self.needs_approval, self.approval_timeout = needs_approval, approval_timeout
        self.function, self.mutating, self.reconcile, self.on_error = function, mutating, reconcile, on_error
        self.description = (inspect.getdoc(function) or "") if description is None else description
        parameters = _parameters(function, self.name)
        self._takes_key = _KEY in parameters
        parameters.pop(_KEY, None)
        self._fields = {f"p{at}": name for at, name in enumerate(parameters)}
        self._arguments = _model(self.name, self._fields, parameters)
        self.schema: dict[str, Any] = _schema(self.name, self._arguments)
        required = tuple(name for name, (_, default) in parameters.items() if default is inspect.Parameter.empty)
        self.reads = required if reads is None else (reads,) if isinstance(reads, str) else tuple(reads)
        self.writes = writes
        if unknown := [name for name in self.reads if name not in parameters]:
            raise DefinitionError(f"tool {self.name} reads {', '.join(unknown)}, which its function does not take")

    def __repr__(self) -> str:
        return f"Tool({self.name})"

    # --- as a node

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The state fields it reads, and those it writes."""
        return self.reads, () if self.writes is None else (self.writes,)

    async def __call__(self, state: Any, run: Visit) -> dict[str, Any] | Standing:
        """Call the function with what it reads and return the change; ask before, if it needs that.

        Raises InvalidState, NodeCancelled for a call that was not approved, and what the function raises.
        """
        plain = thaw({name: field_of(state, name, "the tool") for name in self.reads})
        values, problem = self.checked(plain)
        if problem:
            raise InvalidState(", ".join(self.reads), f"does not fit tool {self.name}: {problem}")
        if await asked_about(run, _ONLY, [self.asked(_ONLY, plain)]):
            said = decision(run, self.name, _ONLY)
            if said is None:
                return self.approval(run.node, plain).standing(_ONLY)
            values, plain = self._approved(said, values, plain)
        key = _ONLY if self.needs_approval else None  # so that no other call is taken for the one that was approved
        result = await run.effect(
            f"tool:{self.name}", self.ready(values, then=plain_of), key=key, kind="tool", mutating=self.mutating,
            reconcile=self.settling(plain_of), asked={"arguments": plain_of(plain)},
        )  # fmt: skip
        if self.writes is None:
            return {}
        return {self.writes: [result] if run.extends(self.writes) and not isinstance(result, list) else result}

    def _approved(self, said: Decision, values: dict[str, Any], plain: Any) -> tuple[dict[str, Any], Any]:
        """What an approved call is made with. Raises NodeCancelled, InvalidState."""
        if not said["approve"]:
            raise NodeCancelled(f"tool {self.name}: {refusal(said)}")
        if "arguments" not in said:
            return values, plain
        edited, problem = self.checked(said["arguments"])
        if problem:  # the tool has changed since
            raise InvalidState("the answer.arguments", f"do not fit tool {self.name}: {problem}")
        return edited, said["arguments"]

    # --- approval

    def asked(self, key: str, given: Mapping[str, Any]) -> Asked:
        """A call of these arguments as it may have to be asked about; they fit."""
        return Asked(key, self.name, self.needs_approval, self._whole(given))

    def _whole(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments as the function's types, defaults among them; only looked up where somebody looks at them."""
        if not callable(self.needs_approval):
            return {}
        held = self._arguments.model_validate(given)
        return {name: getattr(held, field) for field, name in self._fields.items()}

    def approval(self, agent: str, arguments: Mapping[str, Any], *, call: str = "") -> Approval:
        """The question whether a call may be made."""
        return Approval(
            agent=agent, tool=self.name, arguments=arguments, schema=self.schema, check=self.checked, call=call,
            timeout=self.approval_timeout,
        )  # fmt: skip

    # --- arguments and results

    def parsed(self, text: str) -> tuple[Any, str]:
        """A model's arguments as plain data, and what is wrong with them: a sentence, or nothing."""
        try:
            given = without_surrogates(json.loads(text or "{}"))
            given = {} if given is None else given  # some models' way to say that there are none
            freeze(given, depth=1)  # it will stand in a dict
        except (ValueError, RecursionError, NotPlainData) as error:
            return without_surrogates(text), f"the arguments are not a JSON object ({error})"
        if not isinstance(given, dict):
            return given, "the arguments are not a JSON object"
        return given, ""

    def checked(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Arguments as the function's types, and what is wrong with them: a sentence, or nothing."""
        from pydantic import ValidationError  # noqa: PLC0415 - imported already for the model

        try:
            held = self._arguments.model_validate(given)
        except ValidationError as error:
            return {}, problems(error)
        return {self._fields[field]: getattr(held, field) for field in held.model_fields_set}, ""

    def ready(self, values: Mapping[str, Any], *, then: Then, otherwise: Otherwise | None = None) -> Callable[..., Any]:
        """The call as an effect's function; `then` makes its result plain, `otherwise` takes its error for one."""
        function = self.function

        def call(key: str) -> Any:
            return function(**{**values, _KEY: key} if self._takes_key else values)

        return followed(call, is_async=inspect.iscoroutinefunction(function), then=then, otherwise=otherwise)

    def settling(self, then: Then) -> Callable[[str], Any] | None:
        """The tool's `reconcile`, with `then` for its result."""
        if self.reconcile is None:
            return None
        return followed(self.reconcile, is_async=inspect.iscoroutinefunction(self.reconcile), then=then)


def _check_approval(name: str, needs: Any, timeout: float | None) -> None:
    if not isinstance(needs, bool) and not callable(needs):
        raise DefinitionError(f"tool {name}: needs_approval is True, False, or a function of the arguments")
    if timeout is not None and (needs is False or not timeout > 0):
        raise DefinitionError(f"tool {name}: approval_timeout is in seconds, more than 0, and goes with needs_approval")


def followed(
    call: Callable[[str], Any],
    *,
    is_async: bool,
    then: Then,
    otherwise: Otherwise | None = None,
) -> Callable[[str], Any]:
    """A call of an idempotency key, as async or plain as it was, with `then` after it and `otherwise` for its errors."""

    def failed(error: Exception) -> Any:
        if otherwise is None:
            raise error
        return otherwise(error)

    async def awaited(idempotency_key: str) -> Any:
        return await finished(call(idempotency_key))

    async def finished(value: Any) -> Any:
        try:
            result = await value
        except Exception as error:  # noqa: BLE001 - a tool may raise anything
            return failed(error)
        return then(result)

    def called(idempotency_key: str) -> Any:
        try:
            result = call(idempotency_key)
        except Exception as error:  # noqa: BLE001 - a tool may raise anything
            return failed(error)
        return finished(result) if inspect.isawaitable(result) else then(result)

    return awaited if is_async else called


def sentence_of(error: BaseException) -> str:
    """A tool's error as the model is told it."""
    failure = failure_of(error)
    return failure.message if isinstance(error, EventflowError) else f"{failure.type}: {failure.message}"


def problems(error: Any) -> str:
    """What pydantic found wrong, in a line."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found[:_PROBLEMS]]
    more = f"; and {len(found) - _PROBLEMS} more" if len(found) > _PROBLEMS else ""
    return without_surrogates("; ".join(shown)) + more  # type: ignore[no-any-return]


def first_line(error: BaseException) -> str:
    """The first line of an error's text: pydantic's have a link after it."""
    return str(error).partition("\n")[0].rstrip(".")


def plain_of(value: Any) -> Any:
    """A result as plain data, whatever it is: models and dates as JSON has them, the rest as text."""
    ways: tuple[Then, ...] = (lambda one: one, without_surrogates, _jsonable)
    for way in ways:
        try:
            plain = way(value)
            freeze(plain, depth=1)  # it will stand in a dict
        except (NotPlainData, ValueError, TypeError, RecursionError):
            continue
        return plain
    return without_surrogates(str(value)[:_LONGEST])


def _jsonable(value: Any) -> Any:
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - only results that are not plain pay for it

    return without_surrogates(to_jsonable_python(value, fallback=str, bytes_mode="base64"))


# --- from the signature --------------------------------------------------------------------------------------------


def _parameters(function: Callable[..., Any], name: str) -> dict[str, tuple[Any, Any]]:
    """Each parameter's type and default. Raises DefinitionError for what can't be given by name."""
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(_typed(function), include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise DefinitionError(
            f"tool {name}: its parameters can't be looked up ({error}); give it a function with types that are defined "
            f"at a module's top level"
        ) from None
    found = {}
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(f"tool {name}: parameter {parameter.name} can't be given by name")
        found[parameter.name] = (hints.get(parameter.name, Any), parameter.default)
    return found


def _typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where a callable's types are written down."""
    if isinstance(function, functools.partial):
        return _typed(function.func)
    return function if inspect.isroutine(function) else type(function).__call__


def _model(name: str, fields: Mapping[str, str], parameters: Mapping[str, tuple[Any, Any]]) -> Any:
    """A pydantic model of the parameters; its fields have names of their own, which clash with none of pydantic's."""
    from pydantic import ConfigDict, Field, create_model  # noqa: PLC0415 - only who has tools pays for the import

    made: dict[str, Any] = {}
    for field, parameter in fields.items():
        hint, default = parameters[parameter]
        made[field] = (hint, Field(... if default is inspect.Parameter.empty else default, alias=parameter))
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **made)
    except Exception as error:
        raise DefinitionError(
            f"tool {name}: a parameter has a type that can't be validated: {first_line(error)}"
        ) from error


def _schema(name: str, model: Any) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = model.model_json_schema(by_alias=True)
    except Exception as error:
        raise DefinitionError(
            f"tool {name}: a parameter has a type that JSON can't hold: {first_line(error)}"
        ) from error
    schema.pop("title", None)  # the tool's name, which the model is told beside it
    return schema

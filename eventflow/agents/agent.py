"""A node that asks a language model over the OpenAI protocol: what it reads, what it is told, where the answer goes.

Model turns and tool calls are effects: the request and the answer are in the log, the messages by reference, so that a
turn adds only what is new. A call whose finish is recorded is never made again; each failed attempt is an event. Keys are
taken from the environment at the call and are written nowhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from eventflow.agents.chat import Chat
from eventflow.agents.form import Form
from eventflow.agents.handover import Target, targets_of
from eventflow.agents.history import Past
from eventflow.agents.memory import Window
from eventflow.agents.outside import Reached, check_client, reach, without_surrogates
from eventflow.agents.responses import Responses
from eventflow.agents.talk import Answer, Handed, OnDelta, Talk, Terms
from eventflow.agents.tool import Tool
from eventflow.agents.turn import Api, Messages, price_of
from eventflow.errors import DefinitionError, InvalidState, MissingApiKey
from eventflow.plain import thaw
from eventflow.retry import RetryPolicy
from eventflow.run import Visit
from eventflow.workflow import Go, Standing, field_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Reads = str | Sequence[str] | Callable[[Any], Any]
Writes = str | Mapping[str, str]

APIS: Mapping[str, Api] = {"chat": Chat(), "responses": Responses()}
ANSWER_FIELDS = ("text", "finish_reason", "model", "id", "usage", "output")
# What would set the client up anew at each call (secrets among them would be recorded with the request), what the agent
# makes itself, and what answers later.
NOT_OPTIONS = frozenset({
    "api_key", "background", "extra_body", "extra_headers", "extra_query", "input", "max_retries", "messages",
    "stream_options",
})  # fmt: skip
DEFAULT_RETRY = RetryPolicy(attempts=3, delay=1.0)


class Agent:
    """A model as a node: reads state, asks, lets it call tools, writes the answer into the state.

    `reads` is a field, a list of fields, or a function of the state that gives the messages (or a text); `writes` is a
    field for the answer (put into a list where the field extends one), or a mapping from the answer's fields (text,
    finish_reason, model, id, usage, output) to the state's. `tools` are typed functions, or `Tool`s; after `max_turns`
    turns it gives up. `output` is a type that the answer must fit; one that does not is sent back `output_retries` times.
    `memory` is a field that holds the conversation, `window` how much of it is sent (messages, or a `Window`), `summary` a
    field for what the rest was about. `handover` are nodes the model may hand the conversation over to, as a list or with
    what each is for; the run goes on there, and the memory goes along. `api` is "chat" or "responses". With `stream` the pieces of text go to
    `on_delta(run_id, node, text)` while the model speaks. `price` is what a million tokens cost, (in, out) or (in, out,
    cached). `client` is an `openai.AsyncOpenAI` of one's own, `base_url` any server that speaks the protocol; other
    options go to the model as they are (temperature=0.2). Raises DefinitionError.
    """

    kind = "agent"
    default_retry = DEFAULT_RETRY

    def __init__(
        self, *, model: str, reads: Reads, writes: Writes | None = None, instructions: str = "",
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (), max_turns: int = 10, output: Any = None,
        output_retries: int = 1, api: Literal["chat", "responses"] = "chat", memory: str | None = None,
        window: int | Window | None = None, summary: str | None = None,
        handover: Mapping[str, str] | Sequence[str] = (), stream: bool = False, on_delta: OnDelta | None = None,
        price: tuple[float, ...] | None = None, base_url: str | None = None, client: AsyncOpenAI | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        if api not in APIS:
            raise DefinitionError(f"Agent(api=...) is one of {', '.join(APIS)}, not {api!r}")
        if max_turns < 1 or output_retries < 0:
            raise DefinitionError("Agent needs max_turns of at least 1 and output_retries of at least 0")
        if on_delta is not None and not stream:
            raise DefinitionError("Agent(on_delta=...) is told what is streamed: give stream=True too")
        _check_options(options, output=output)
        form = None if output is None else Form(output)
        self.writes = _writes(writes, memory, form)
        if client is not None:
            check_client(client)
        named, targets = _named_tools(tools), targets_of(handover)
        self.targets = tuple(one.node for one in targets.values())
        self.reads, self.base_url, self.client = reads, base_url, client
        self.past = Past.of(memory, window, summary)
        self.terms = Terms(
            api=APIS[api], model=model, instructions=instructions, options=options, tools=named,
            targets=targets, offered=_offered(APIS[api], tools, named, targets), form=form, max_turns=max_turns, output_retries=output_retries,
            price=price_of(price), stream=stream, on_delta=on_delta,
        )  # fmt: skip

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The state fields it reads, as far as they are named, and those it writes."""
        if isinstance(self.reads, str):
            reads: tuple[str, ...] = (self.reads,)
        else:
            reads = () if callable(self.reads) else tuple(self.reads)
        kept = () if self.past is None else self.past.fields()
        return (*reads, *kept), (*self.writes.values(), *kept)

    async def __call__(self, state: Any, run: Visit) -> dict[str, Any] | Go | Standing:
        """Ask until there is an answer and return the change, or where to go on, or what to wait for before.

        Raises ModelUnavailable, ModelRefused (and what is one: ConversationTooLong, ContentFiltered, OutputInvalid,
        TooManyTurns), MissingApiKey, and what a tool raises that is to be raised.
        """
        branch: str = getattr(run, "branch", "")  # what stands in for a visit in a rehearsal has none
        if self.targets and branch:
            raise DefinitionError(
                f"branch {branch!r} of node {run.node!r} is an agent with handover=: only a node of its own goes on to another"
            )
        asked = self._asked(state)
        talk = Talk(self.terms, run, lambda: self._reached(run))
        if self.past is None:
            return self._ended(await talk.to_end([], asked), talk, run, lambda _: {})
        past = self.past
        sent, summed_up = await past.sent(state, asked, talk, self.terms)
        end = await talk.to_end(sent, asked)
        return self._ended(
            end, talk, run, lambda messages: past.change(state, messages, summed_up, extends=run.extends)
        )

    def _ended(
        self, end: Answer | Handed | Standing, talk: Talk, run: Visit, kept: Callable[[Messages], dict[str, Any]]
    ) -> dict[str, Any] | Go | Standing:
        if isinstance(end, Standing):
            return end
        if isinstance(end, Handed):
            return Go(end.node, kept(end.messages))
        return {**kept(end.messages), **self._change(end, talk, run)}

    def _reached(self, run: Visit) -> Reached:
        if self.client is not None:
            return Reached(self.client)
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get("OPENAI_API_KEY")
        if key is None and base_url is None:
            raise MissingApiKey
        made: Reached = run.resource(("openai", base_url, key), lambda: reach(base_url, key))
        return made

    # --- in and out

    def _asked(self, state: Any) -> Messages:
        """What the model is asked now, as messages."""
        given = self.reads(state) if callable(self.reads) else self._told(state)
        messages: Messages = [{"role": "user", "content": given}] if isinstance(given, str) else _listed(given)
        return [{key: without_surrogates(value) for key, value in one.items()} for one in messages]

    def _told(self, state: Any) -> Any:
        if isinstance(self.reads, str):
            return _text(field_of(state, self.reads, "the agent"))
        assert not callable(self.reads)  # noqa: S101 - the caller looked
        if not self.reads and self.past is not None:
            return []  # another node has put the question into the memory
        return "\n\n".join(f"{name}: {_text(field_of(state, name, 'the agent'))}" for name in self.reads)

    def _change(self, answer: Answer, talk: Talk, run: Visit) -> dict[str, Any]:
        said = answer.said
        values = {
            "text": said.text, "finish_reason": said.finish_reason, "model": said.model, "id": said.id,
            "usage": talk.usage, "output": answer.output,
        }  # fmt: skip
        return {key: [values[name]] if run.extends(key) else values[name] for name, key in self.writes.items()}


# --- what an agent may be ------------------------------------------------------------------------------------------


def _check_options(options: Mapping[str, Any], *, output: Any) -> None:
    if refused := sorted(NOT_OPTIONS & options.keys()):
        raise DefinitionError(
            f"Agent takes no {', '.join(refused)}: retries are the node's, as retry=RetryPolicy(); what belongs to "
            f"the client is given to one of your own, as client=openai.AsyncOpenAI(...)"
        )
    if output is not None and (both := sorted({"response_format", "text"} & options.keys())):
        raise DefinitionError(f"Agent takes output= or {', '.join(both)}=, not both")


def _writes(writes: Writes | None, memory: str | None, form: Form | None) -> dict[str, str]:
    """Which field of the answer goes into which of the state."""
    if writes is None:
        if memory is None:
            raise DefinitionError("Agent needs writes=, a field for its answer, or memory=, one for the conversation")
        return {}
    if isinstance(writes, str):
        return {"text" if form is None else "output": writes}
    unknown = sorted(set(writes) - set(ANSWER_FIELDS))
    if unknown:
        raise DefinitionError(f"Agent writes {', '.join(unknown)}: an answer has {', '.join(ANSWER_FIELDS)}")
    if "output" in writes and form is None:
        raise DefinitionError("Agent writes the answer's output, which there is only with output=, a type")
    return dict(writes)


def _named_tools(tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]) -> dict[str, Tool]:
    named: dict[str, Tool] = {}
    for given in tools:
        if isinstance(given, Mapping):
            if given.get("type", "function") == "function":
                raise DefinitionError("Agent(tools=...) takes functions as they are, not what they look like as JSON")
            continue
        if not callable(given):
            raise DefinitionError(f"Agent(tools=...) takes functions and Tools, got {type(given).__name__}")
        tool = given if isinstance(given, Tool) else Tool(given)
        if tool.name in named:
            raise DefinitionError(
                f"Agent has two tools of the name {tool.name}; give one another, as Tool(..., name=...)"
            )
        named[tool.name] = tool
    return named


def _offered(
    api: Api, tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]], named: Mapping[str, Tool],
    targets: Mapping[str, Target],
) -> tuple[Mapping[str, Any], ...]:  # fmt: skip
    """The tools as the model is told of them: those of the server's own as they were given. Raises DefinitionError."""
    if both := sorted(named.keys() & targets.keys()):
        raise DefinitionError(f"Agent has a tool {both[0]}, which is the name of a handover; give it another")
    ours = [api.tool(one.name, one.description, one.schema) for one in named.values()]
    ways = [api.tool(name, one.description, one.schema) for name, one in targets.items()]
    return (*ours, *ways, *(dict(one) for one in tools if isinstance(one, Mapping)))


# --- what it reads -------------------------------------------------------------------------------------------------


def _listed(given: Any) -> Messages:
    messages = thaw(list(given)) if isinstance(given, list | tuple) else given
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise InvalidState("messages", f"reads must give a text or a list of messages, got {type(given).__name__}")
    return messages


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return json.dumps(thaw(value), ensure_ascii=False, default=str)

"""The responses API: its requests, its answers, and its streams, which end with the whole answer.

Wire format: the OpenAI API reference, Responses. The conversation is kept here, not at the server, so that the log holds
all of it: each turn is sent the items of the turns before, as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventflow.agents.refusals import (
    check_finished,
    cut_off,
    dumped,
    failed,
    filtered,
    not_a_stream,
    refused,
)
from eventflow.agents.turn import Heard, Message, Question, Said, ToolCall, dict_of, dicts_of, text_of
from eventflow.errors import ModelRefused

ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
ECHOES = frozenset({"instructions", "tools", "text", "tool_choice", "metadata"})  # in the recorded request already


class Responses:
    """The responses API."""

    name = "responses"
    messages_key = "input"

    def request(self, question: Question) -> dict[str, Any]:
        """The request's parameters; the conversation's messages are its input items."""
        asked: dict[str, Any] = {"model": question.model, **(question.options or {}), "input": list(question.messages)}
        if question.instructions:
            asked["instructions"] = question.instructions
        if question.tools:
            asked["tools"] = list(question.tools)
        if question.form is not None:
            name, schema, strict = question.form
            asked["text"] = {"format": {"type": "json_schema", "name": name, "schema": schema, "strict": strict}}
        return asked

    def tool(self, name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A function as it is offered to the model; `strict` must be said here, for its default is true."""
        function = {"name": name, "description": description, "parameters": schema}
        return {"type": "function", **{key: value for key, value in function.items() if value}, "strict": False}

    def result(self, call: ToolCall, text: str) -> Message:
        """A tool's result as an input item."""
        return {"type": "function_call_output", "call_id": call.id, "output": text}

    def kept(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A response without what it repeats of its request."""
        return {key: value for key, value in answer.items() if key not in ECHOES}

    def said(self, answer: Mapping[str, Any]) -> Said:
        """The output items of a response. Raises ModelRefused, or ModelUnavailable where the server failed at it."""
        items = dicts_of(answer.get("output"))
        text, refusal = _spoken(items, "output_text", "text"), _spoken(items, "refusal", "refusal")
        reason = _checked_reason(answer, text)
        if not items and reason != "length":
            raise ModelRefused("the model server sent a response without output")
        if refusal and not text:
            raise refused(refusal)
        calls = tuple(_tool_call(one) for one in items if one.get("type") == "function_call")
        return Said(
            text, calls, "tool_calls" if calls and reason == "stop" else reason,
            text_of(answer.get("model")), text_of(answer.get("id")), tuple(items),
        )  # fmt: skip

    async def whole(self, client: Any, request: dict[str, Any]) -> Any:
        """Ask, and wait for the whole response."""
        return await client.responses.create(**request)

    async def streamed(self, client: Any, request: dict[str, Any], heard: Heard) -> dict[str, Any]:
        """Ask for a stream, whose last event is the whole. Raises ModelUnavailable if that never comes."""
        stream = await client.responses.create(**request, stream=True)
        if not_a_stream(stream):
            raise check_finished(self.name)
        async with stream:
            async for event in stream:
                kind = text_of(getattr(event, "type", None))
                if kind == "response.output_text.delta":
                    heard(text_of(event.delta))
                elif kind == "error":
                    raise failed(getattr(event, "code", None), getattr(event, "message", None))
                elif kind in ENDS:
                    answer: dict[str, Any] = dumped(event.response)
                    return answer
        raise cut_off()


def _checked_reason(answer: Mapping[str, Any], text: str) -> str:
    """Why it ended, in the words of chat completions."""
    status = answer.get("status") or "completed"
    if status == "failed":
        error = dict_of(answer.get("error"))
        raise failed(error.get("code"), error.get("message"))
    if status == "incomplete":
        why = dict_of(answer.get("incomplete_details")).get("reason")
        if why == "content_filter":
            raise filtered(text)
        return "length" if why == "max_output_tokens" else str(why or "incomplete")
    if status != "completed":
        raise ModelRefused(f"the model server sent a response that is not finished (its status is {status!r})")
    return "stop"


def _spoken(items: list[dict[str, Any]], kind: str, key: str) -> str:
    """The texts of one kind in all messages, joined."""
    parts = [part for one in items if one.get("type") == "message" for part in dicts_of(one.get("content"))]
    return "".join(text_of(part.get(key)) for part in parts if part.get("type") == kind)


def _tool_call(item: dict[str, Any]) -> ToolCall:
    arguments = item.get("arguments")
    return ToolCall(
        str(item.get("call_id") or item.get("id") or ""),
        str(item.get("name") or ""),
        arguments if isinstance(arguments, str) else "{}",
    )

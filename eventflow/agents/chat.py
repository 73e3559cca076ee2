"""The chat completions API: its requests, its answers, and its streams put together again.

Wire format: the OpenAI API reference, Chat Completions. Servers that speak it vary, so what is read is checked first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eventflow.agents.refusals import check_finished, cut_off, dumped, filtered, not_a_stream, refused
from eventflow.agents.turn import Heard, Message, Question, Said, ToolCall, dict_of, dicts_of, text_of
from eventflow.errors import ModelRefused

LONGEST_LIST = 1_000  # choices or tool calls of a stream; an index beyond is a broken server's


class Chat:
    """The chat completions API."""

    name = "chat.completions"
    messages_key = "messages"

    def request(self, question: Question) -> dict[str, Any]:
        """The request's parameters; the instructions are its first message."""
        asked: dict[str, Any] = {"model": question.model, **(question.options or {})}
        head = [{"role": "system", "content": question.instructions}] if question.instructions else []
        asked["messages"] = [*head, *question.messages]
        if question.tools:
            asked["tools"] = list(question.tools)
        if question.form is not None:
            name, schema, strict = question.form
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": schema, "strict": strict},
            }
        return asked

    def tool(self, name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A function as it is offered to the model."""
        function = {"name": name, "description": description, "parameters": schema}
        return {"type": "function", "function": {key: value for key, value in function.items() if value}}

    def result(self, call: ToolCall, text: str) -> Message:
        """A tool's result as a message."""
        return {"role": "tool", "tool_call_id": call.id, "content": text}

    def kept(self, answer: dict[str, Any]) -> dict[str, Any]:
        """A completion as it is: it repeats nothing of its request."""
        return answer

    def said(self, answer: Mapping[str, Any]) -> Said:
        """The first choice of a completion. Raises ModelRefused."""
        choices = dicts_of(answer.get("choices"))
        if not choices:
            raise ModelRefused("the model server sent an answer without choices")
        first = choices[0]
        message = dict_of(first.get("message"))
        reason, text = text_of(first.get("finish_reason")), text_of(message.get("content"))
        if reason == "content_filter":
            raise filtered(text)
        if message.get("refusal") and not text:
            raise refused(message["refusal"])
        calls = tuple(_tool_call(one, at) for at, one in enumerate(dicts_of(message.get("tool_calls"))))
        return Said(
            text, calls, reason, text_of(answer.get("model")), text_of(answer.get("id")), (_as_message(text, calls),)
        )  # fmt: skip

    async def whole(self, client: Any, request: dict[str, Any]) -> Any:
        """Ask, and wait for the whole completion."""
        return await client.chat.completions.create(**request)

    async def streamed(self, client: Any, request: dict[str, Any], heard: Heard) -> dict[str, Any]:
        """Ask for a stream and put its chunks together. Raises ModelUnavailable if it ends before its end."""
        options = {"stream_options": {"include_usage": True}, **request}
        stream = await client.chat.completions.create(**options, stream=True)
        if not_a_stream(stream):
            raise check_finished(self.name)
        whole = _Whole()
        async with stream:
            async for chunk in stream:
                heard(whole.grow(dumped(chunk)))
        return whole.answer()


class _Whole:
    """A completion that grows chunk by chunk."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant"}
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason = ""

    def grow(self, chunk: dict[str, Any]) -> str:
        """Take a chunk in; returns the text it brought."""
        choices = dicts_of(chunk.pop("choices", None))
        self._head.update(chunk)
        text = ""
        for choice in choices[:1]:
            delta = dict_of(choice.get("delta"))
            for one in dicts_of(delta.pop("tool_calls", None)):
                self._call(one)
            for key, value in delta.items():
                if key != "role" and isinstance(value, str):  # whatever it is, it grows as the text does
                    self._message[key] = self._message.get(key, "") + value
            text += text_of(delta.get("content"))
            self._reason = text_of(choice.get("finish_reason")) or self._reason
        return text

    def _call(self, part: dict[str, Any]) -> None:
        index = part.get("index")
        if not isinstance(index, int) or not 0 <= index < LONGEST_LIST:
            index = len(self._calls)
        call = self._calls.setdefault(index, {"type": "function", "function": {"name": "", "arguments": ""}})
        call.update({key: part[key] for key in ("id", "type") if part.get(key)})
        function = dict_of(part.get("function"))
        call["function"]["name"] = text_of(function.get("name")) or call["function"]["name"]
        call["function"]["arguments"] += text_of(function.get("arguments"))

    def answer(self) -> dict[str, Any]:
        """The whole completion. Raises ModelUnavailable if its end never came."""
        if not self._reason:
            raise cut_off()
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        choice = {"index": 0, "message": message, "finish_reason": self._reason}
        return {**self._head, "object": "chat.completion", "choices": [choice]}


def _tool_call(call: dict[str, Any], at: int) -> ToolCall:
    function = dict_of(call.get("function"))
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return ToolCall(str(call.get("id") or f"call_{at}"), str(function.get("name") or ""), text)


def _as_message(text: str, calls: tuple[ToolCall, ...]) -> Message:
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["content"] = text or None
        message["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
            for one in calls
        ]
    return message

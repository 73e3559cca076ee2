"""Replies in the two forms of the OpenAI protocol, whole or as a stream; pure, no sockets and no script here.

Wire format: the OpenAI API reference (Chat Completions, Responses); streams are server-sent events (WHATWG HTML, section
9.2) in chunked transfer coding (RFC 9112, section 7.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eventflow.testing.model_server.script import Call, Reply, arguments_text

CREATED = 0  # seconds since 1970; an answer says the same whenever it is given
MODEL = "scripted"  # the one model listed, and the name answered with when none was asked for
CHAT = "/v1/chat/completions"  # the other path that takes calls is /v1/responses
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}  # finish reason -> words of Responses
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# Where a request keeps what people, models and tools wrote.
TEXT_KEYS = ("messages", "instructions", "input", "content", "text", "tool_calls", "function", "arguments", "output")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it goes over the wire; half of its parts is what a cut answer sends."""

    status: int
    headers: Mapping[str, str]
    parts: tuple[bytes, ...]


def answered(call: Call, reply: Reply) -> Answer:
    """The reply in the form that the call asked for."""
    streamed = call.body.get("stream") is True
    if reply.raw is not None:
        answer = _raw(reply, streamed=streamed)
    elif reply.status >= 400:
        message = reply.text or f"scripted status {reply.status}"
        answer = whole(reply.status, error_body(reply.status, message, reply.error_type, reply.error_code))
    elif call.path == CHAT:
        body = _chat(call, reply)
        answer = _streamed(_chat_frames(call, body)) if streamed else whole(200, body)
    else:
        body = _response(call, reply)
        answer = _streamed(_response_frames(body)) if streamed else whole(200, body)
    return replace(answer, headers={**answer.headers, "x-request-id": f"req_{call.number}", **reply.headers})


def _json(value: Any) -> bytes:
    """ASCII, so that a lone surrogate in a text passes as its escape."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _raw(reply: Reply, *, streamed: bool) -> Answer:
    """A body that need not be an answer at all, in halves, so that it can be cut."""
    data = reply.raw.encode() if reply.raw is not None else b""
    kind = "text/event-stream" if streamed else "application/json"
    headers = {"Content-Type": kind, "Content-Length": str(len(data))}
    return Answer(reply.status, headers, (data[: len(data) // 2], data[len(data) // 2 :]))


def whole(status: int, body: Mapping[str, Any]) -> Answer:
    """A body in one piece, in halves for who cuts it."""
    data = _json(body)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    return Answer(status, headers, (data[: len(data) // 2], data[len(data) // 2 :]))


def _streamed(frames: list[bytes]) -> Answer:
    chunks = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in [*frames, b""]]
    return Answer(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, tuple(chunks))


def error_body(status: int, message: str, kind: str = "", code: str = "") -> dict[str, Any]:
    """An error in the protocol's form; an empty kind is the one that goes with the status."""
    kind = kind or ERROR_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}


def _tool_calls(call: Call, reply: Reply) -> list[dict[str, Any]]:
    """The tool calls as chat completions write them; their ids come from the call's number, where they have none."""
    return [
        {
            "id": given[0] if given else f"call_{call.number}_{at}",
            "type": "function",
            "function": {"name": name, "arguments": arguments_text(arguments)},
        }
        for at, (name, arguments, *given) in enumerate(reply.tool_calls)
    ]


def _pieces(text: str) -> list[str]:
    """A text cut after each word; joined again it is the same text."""
    return re.findall(r"\S+\s*|\s+", text)


def _words(value: Any) -> int:
    """The words of all texts in a request: a stand-in for tokens that anyone can count by hand."""
    total, pending = 0, [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            total += len(one.split())
        elif isinstance(one, list | dict):
            pending.extend(one if isinstance(one, list) else [one[key] for key in TEXT_KEYS if key in one])
    return total


def _usage(call: Call, reply: Reply, asked_as: str, spoken_as: str) -> dict[str, Any]:
    asked, spoken = _words(call.body), _words([reply.text, reply.refusal, _tool_calls(call, reply)])
    return {asked_as: asked, spoken_as: spoken, "total_tokens": asked + spoken}


def _chat(call: Call, reply: Reply) -> dict[str, Any]:
    """A chat completion object."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(call, reply)
    reason = "tool_calls" if reply.tool_calls and reply.finish_reason == "stop" else reply.finish_reason
    head = {"id": f"chatcmpl-{call.number}", "object": "chat.completion", "created": CREATED}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = _usage(call, reply, "prompt_tokens", "completion_tokens")
    if reply.cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": reply.cached_tokens}
    return {**head, "model": call.body.get("model", MODEL), "choices": [choice], "usage": usage}


def _chat_frames(call: Call, whole: dict[str, Any]) -> list[bytes]:
    """A chat completion as server-sent chunks; usage comes last, and only where it was asked for."""
    options = call.body.get("stream_options")
    counted = isinstance(options, dict) and options.get("include_usage") is True
    (choice,) = whole["choices"]
    head = {**whole, "object": "chat.completion.chunk"}
    usage = head.pop("usage")
    part = {"index": 0, "logprobs": None, "finish_reason": None}
    choices = [[{**part, "delta": delta}] for delta in _deltas(choice["message"])]
    choices.append([{**part, "delta": {}, "finish_reason": choice["finish_reason"]}])
    chunks = [{**head, "choices": one, **({"usage": None} if counted else {})} for one in choices]
    if counted:
        chunks.append({**head, "choices": [], "usage": usage})
    return [*(b"data: %b\n\n" % _json(chunk) for chunk in chunks), b"data: [DONE]\n\n"]


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A chat message as it grows: role, words, then each tool call and its arguments."""
    yield {"role": "assistant", "content": None if message["content"] is None else ""}
    for piece in _pieces(message["content"] or ""):
        yield {"content": piece}
    for piece in _pieces(message["refusal"] or ""):
        yield {"refusal": piece}
    for index, call in enumerate(message.get("tool_calls", [])):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{**call, "index": index, "function": function}]}
        for piece in _pieces(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _response(call: Call, reply: Reply) -> dict[str, Any]:
    """A response object: the message first, then the tool calls."""
    reason = INCOMPLETE.get(reply.finish_reason)
    status = "incomplete" if reason else "completed"
    output: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    if reply.text is not None:
        parts.append({"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []})
    if reply.refusal is not None:
        parts.append({"type": "refusal", "refusal": reply.refusal})
    if parts:
        message = {"id": f"msg_{call.number}", "type": "message", "role": "assistant"}
        output.append({**message, "status": status, "content": parts})
    for index, tool in enumerate(_tool_calls(call, reply)):
        item = {"id": f"fc_{call.number}_{index}", "type": "function_call", "call_id": tool["id"]}
        output.append({**item, "status": status, **tool["function"]})
    usage = _usage(call, reply, "input_tokens", "output_tokens")
    usage["input_tokens_details"] = {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0}
    usage["output_tokens_details"] = {"reasoning_tokens": 0}
    head = {"id": f"resp_{call.number}", "object": "response", "created_at": CREATED, "status": status, "error": None}
    settings = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "instructions": None, "metadata": {}}
    echo = {name: call.body.get(name, default) for name, default in {**settings, "model": MODEL}.items()}
    return {**head, "incomplete_details": reason and {"reason": reason}, **echo, "output": output, "usage": usage}


def _response_frames(whole: dict[str, Any]) -> list[bytes]:
    """A response as server-sent events, numbered from 0: begun, each item as it grows, finished."""
    begun = {**whole, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    events.append({"type": "response.in_progress", "response": begun})
    for index, item in enumerate(whole["output"]):
        empty: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
        fresh = {**item, "status": "in_progress", **empty}
        events.append({"type": "response.output_item.added", "output_index": index, "item": fresh})
        events.extend(_growth(item, {"output_index": index, "item_id": item["id"]}))
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": f"response.{whole['status']}", "response": whole})
    return [
        b"event: %b\ndata: %b\n\n" % (event["type"].encode("ascii"), _json({**event, "sequence_number": number}))
        for number, event in enumerate(events)
    ]


def _growth(item: dict[str, Any], place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The events between an item's beginning and its end: a call's arguments or a message's text."""
    if item["type"] == "function_call":
        for piece in _pieces(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]}
        return
    for at, part in enumerate(item["content"]):
        yield from _part_growth(part, {**place, "content_index": at})


def _part_growth(part: dict[str, Any], place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A part of a message as it grows: its text, or what is said instead of one."""
    key = "refusal" if part["type"] == "refusal" else "text"
    extra: dict[str, Any] = {"logprobs": []} if key == "text" else {}
    kind = f"response.{part['type']}"
    yield {"type": "response.content_part.added", **place, "part": {**part, key: ""}}
    for piece in _pieces(part[key]):
        yield {"type": f"{kind}.delta", **place, "delta": piece, **extra}
    yield {"type": f"{kind}.done", **place, key: part[key], **extra}
    yield {"type": "response.content_part.done", **place, "part": part}

"""A scripted model server: real HTTP on the loopback, answers in the OpenAI protocol, nothing left to chance.

Tests and demos point the real client at it. It answers chat completions and responses, whole or streamed, from a
script, and remembers what it was asked. Here are the two wire formats and the HTTP around them; nothing here knows
workflows, logs or the client library, reads a clock, draws a random number, or writes to stderr. Wire format: the
OpenAI API reference (Chat Completions, Responses); streams are server-sent events (WHATWG HTML, section 9.2) in
chunked transfer coding (RFC 9112, section 7.1).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeAlias

__all__ = ["Call", "ModelServer", "Reply", "Script"]

MAX_BODY = 8 * 1024 * 1024  # bytes; far above any prompt worth a test, and every thread may hold one
BACKLOG = 128  # connections; the default of 5 makes a burst of callers wait a second for the kernel to try again
STOP_POLL = 0.02  # seconds; how long close() may wait for the accepting thread to look up
CLOSE_WAIT = 2.0  # seconds; after that close() leaves a script that does not return to its daemon thread
CREATED = 0  # seconds since 1970; an answer says the same whenever it is given
MODEL = "scripted"  # the one model listed, and the name answered with when none was asked for
CHAT = "/v1/chat/completions"  # the other path that takes calls is /v1/responses
FRAMING = frozenset({"connection", "content-length", "content-type", "transfer-encoding"})  # the server's own headers
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}  # finish reason -> words of Responses
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# Where a request keeps what people, models and tools wrote.
TEXT_KEYS = ("messages", "instructions", "input", "content", "text", "tool_calls", "function", "arguments", "output")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply is what one call is answered with.

    `tool_calls` are pairs of name and arguments. With a `status` of 400 or more the answer is an error whose message is
    `text` and whose type is `error_type`; left empty, the type that goes with the status. `delay` is in seconds, before
    the first byte; `cut` closes the connection in the middle of the answer. A `finish_reason` of "stop" becomes
    "tool_calls" when there are tool calls. ValueError or TypeError: this could not be sent; better told here, where the
    script is written, than lost in a thread of the server.
    """

    text: str | None = None
    tool_calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    status: int = 200
    error_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        if self.status != 200 and not 400 <= self.status <= 599:
            raise ValueError(f"a reply's status is 200 or 400-599, not {self.status}")
        if not 0 <= self.delay <= threading.TIMEOUT_MAX:
            raise ValueError(f"a reply's delay is a number of seconds from 0 on, not {self.delay}")
        for name, value in self.headers.items():
            if name.lower() in FRAMING or not re.fullmatch(r"[!-9;-~]+:[ -~]*", f"{name}:{value}"):
                raise ValueError(f"the header {name!r} is the server's own, or not one line of printable ASCII")
        for _, arguments in self.tool_calls:
            json.dumps(dict(arguments))


@dataclass(frozen=True, slots=True)
class Call:
    """A call is one well-formed request for an answer.

    `number` counts from 1 in order of arrival; `body` is the decoded JSON and `digest` the SHA-256, in hex, of its
    canonical JSON (sorted keys, no spaces, ASCII). `status` is None until it is answered, and stays None where the
    answer was cut or nobody was there to take it.
    """

    number: int
    path: str
    body: Mapping[str, Any]
    digest: str
    idempotency_key: str | None = None
    status: int | None = None


Script: TypeAlias = Sequence[Reply | str] | Callable[[Call], Reply | str]


class ModelServer:
    """A model server answers calls on 127.0.0.1 from its script, between `start` and `close`.

    A script is a sequence, answered in order of arrival, or a function of the call, which is asked from many threads at
    once. A call that the script has no answer for gets a status of 400, which no client retries. `GET /journal`
    tells another process what `calls` and `counts` tell this one. `port` 0 means any free one. Started again after
    `close` it listens on the same port and goes on with its script.
    """

    def __init__(self, script: Script, *, port: int = 0) -> None:
        if isinstance(script, str):
            raise TypeError("a script is a sequence of replies: write [text] for a single one")
        self._script: Script = script if callable(script) else tuple(script)
        self._port = port
        self._journal = _Journal()
        self._listener: _Listener | None = None

    @property
    def base_url(self) -> str:
        """The address for a client's `base_url`; RuntimeError before the first start, when the port is not yet known."""
        if not self._port:
            raise RuntimeError("the model server has no port yet: call start() first")
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls so far, in order of arrival; safe to ask from any thread."""
        return self._journal.calls()

    def counts(self) -> dict[str, int]:
        """How often each request body, by its digest, was answered with success; safe to ask from any thread."""
        return self._journal.counts()

    def start(self) -> Self:
        """The server listens when this returns; a second call changes nothing. OSError: the port is taken."""
        if self._listener is None:
            self._listener = _Listener(self._port, self._script, self._journal)
            self._port = int(self._listener.server_address[1])
        return self

    def close(self) -> None:
        """No call is answered after this: waiting replies are dropped and open connections ended."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Journal:
    """The journal holds all calls of a server's life, under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def arrived(self, path: str, body: dict[str, Any], digest: str, key: str | None) -> Call:
        with self._lock:
            call = Call(len(self._calls) + 1, path, body, digest, key)
            self._calls.append(call)
            return call

    def answered(self, call: Call, status: int | None) -> None:
        with self._lock:
            self._calls[call.number - 1] = replace(call, status=status)

    def calls(self) -> tuple[Call, ...]:
        with self._lock:
            return tuple(self._calls)

    def counts(self) -> dict[str, int]:
        return dict(Counter(call.digest for call in self.calls() if call.status is not None and call.status < 400))


class _Listener(ThreadingHTTPServer):
    """The listener owns the port and the open connections; the standard library offers this by inheritance only."""

    request_queue_size = BACKLOG
    allow_reuse_port = False  # two servers on one port would share the calls out at random

    def __init__(self, port: int, script: Script, journal: _Journal) -> None:
        self.script = script
        self.journal = journal
        self.stopping = threading.Event()
        self._connections: set[Any] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Exchange)
        self._accepting = threading.Thread(target=self.serve_forever, args=(STOP_POLL,), daemon=True)
        self._accepting.start()

    def server_bind(self) -> None:
        """Binds without the name look-up that HTTPServer adds: it may ask the network."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes the connection before its thread starts, so that `stop` can't miss one."""
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that goes away is an ordinary event here."""

    def stop(self) -> None:
        """Ends accepting, wakes waiting replies, ends each connection, and waits for their threads, for a while."""
        self.stopping.set()
        self.shutdown()
        self._accepting.join()
        self.server_close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # it may just have ended by itself
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, CLOSE_WAIT)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as it goes over the wire; half of its parts is what a cut answer sends."""

    status: int
    headers: Mapping[str, str]
    parts: tuple[bytes, ...]


class _RefusedError(Exception):
    """A request that is answered but is no call; raised with its status and a message."""


class _Exchange(BaseHTTPRequestHandler):
    """An exchange reads one request after the other from a connection and answers each."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; waiting to join them costs 40 ms an answer
    server: _Listener

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the standard library's name for it
        """Says nothing."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the standard library refuses (a broken request line, an unknown method) in OpenAI's form."""
        self.close_connection = True
        self._send(_whole(code, _error(code, message or explain or "the request can't be read")))

    def exchange(self) -> None:
        path = self.path.partition("?")[0]
        try:
            raw = self._receive()
            match self.command, path:
                case "POST", "/v1/chat/completions" | "/v1/responses":
                    self._call(path, *_decode(raw))
                case "GET", "/v1/models":
                    model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "eventflow"}
                    self._send(_whole(200, {"object": "list", "data": [model]}))
                case "GET", "/journal":
                    calls = [asdict(call) for call in self.server.journal.calls()]
                    self._send(_whole(200, {"calls": calls, "counts": self.server.journal.counts()}))
                case _:
                    raise _RefusedError(404, f"there is no {self.command} {path} here")  # noqa: TRY301
        except _RefusedError as refused:
            self._send(_whole(refused.args[0], _error(*refused.args)))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = exchange  # noqa: N815  # names the standard library looks up

    def _receive(self) -> bytes:
        """The request's body, read to its end: what is left unread would be taken for the next request."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,18}", length):
            self.close_connection = True
            raise _RefusedError(411, "a request needs a Content-Length, and no transfer coding")
        left = int(length)
        if left > MAX_BODY:
            # Read on, then refuse: a client that is still sending when the connection closes may never see the answer.
            while left > 0 and (piece := self.rfile.read(min(left, MAX_BODY))):
                left -= len(piece)
            raise _RefusedError(413, f"a request's body may have {MAX_BODY} bytes, not {length}")
        return self.rfile.read(left)

    def _call(self, path: str, body: dict[str, Any], digest: str) -> None:
        journal = self.server.journal
        call = journal.arrived(path, body, digest, self.headers.get("Idempotency-Key"))
        reply = _ask(self.server.script, call)
        answer = _answer(call, reply)
        if self.server.stopping.wait(reply.delay) or self._client_left():
            raise ConnectionError("nobody waits for this answer any more")
        self.close_connection = self.close_connection or reply.cut
        # Noted before it is sent, so that a client which has its answer finds it in the journal.
        journal.answered(call, None if reply.cut else answer.status)
        try:
            self._send(answer, cut=reply.cut)
        except OSError:
            journal.answered(call, None)
            raise

    def _client_left(self) -> bool:
        """Whether the client closed its end: the kernel would still take an answer, and nobody would read it."""
        with contextlib.suppress(BlockingIOError):  # open, with nothing to read
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def _send(self, answer: _Answer, *, cut: bool = False) -> None:
        """Writes the answer; no Date and no Server header, so that the same answer is the same bytes."""
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        for part in answer.parts[: len(answer.parts) // 2 if cut else None]:
            self.wfile.write(part)


def _decode(raw: bytes) -> tuple[dict[str, Any], str]:
    """The body of a request and its digest."""
    try:
        body = json.loads(raw)
        # The decoder lets NaN and Infinity pass, which JSON does not have; the encoder can be told not to.
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"the request's body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _RefusedError(400, "the request's body must be a JSON object")
    return body, hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _ask(script: Script, call: Call) -> Reply:
    """What the script says to a call; where it fails, a reply that says so instead of a traceback nobody sees."""
    if not callable(script) and call.number > len(script):
        ended = f"the script has ended: it holds {len(script)} replies and this is call {call.number}"
        return Reply(ended, status=400, error_type="script_ended")
    try:
        said = script(call) if callable(script) else script[call.number - 1]
        if not isinstance(said, Reply | str):
            raise TypeError(f"a script gives Reply or str, not {type(said).__name__}")  # noqa: TRY301
        return Reply(said) if isinstance(said, str) else said
    except Exception as error:  # noqa: BLE001  # the script is the user's code; its author reads this in the answer
        return Reply(f"the script raised {type(error).__name__}: {error}", status=400, error_type="script_failed")


def _answer(call: Call, reply: Reply) -> _Answer:
    """The reply in the form that the call asked for."""
    streamed = call.body.get("stream") is True
    if reply.status >= 400:
        message = reply.text or f"scripted status {reply.status}"
        answer = _whole(reply.status, _error(reply.status, message, reply.error_type))
    elif call.path == CHAT:
        body = _chat(call, reply)
        answer = _streamed(_chat_frames(call, body)) if streamed else _whole(200, body)
    else:
        body = _response(call, reply)
        answer = _streamed(_response_frames(body)) if streamed else _whole(200, body)
    return replace(answer, headers={**answer.headers, "x-request-id": f"req_{call.number}", **reply.headers})


def _json(value: Any) -> bytes:
    """ASCII, so that a lone surrogate in a text passes as its escape."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _whole(status: int, body: Mapping[str, Any]) -> _Answer:
    data = _json(body)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    return _Answer(status, headers, (data[: len(data) // 2], data[len(data) // 2 :]))


def _streamed(frames: list[bytes]) -> _Answer:
    chunks = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in [*frames, b""]]
    return _Answer(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, tuple(chunks))


def _error(status: int, message: str, kind: str = "") -> dict[str, Any]:
    kind = kind or ERROR_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _tool_calls(call: Call, reply: Reply) -> list[dict[str, Any]]:
    """The tool calls as chat completions write them; their ids come from the call's number."""
    functions = [{"name": name, "arguments": json.dumps(dict(arguments))} for name, arguments in reply.tool_calls]
    return [{"id": f"call_{call.number}_{at}", "type": "function", "function": one} for at, one in enumerate(functions)]


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
    asked, spoken = _words(call.body), _words([reply.text, _tool_calls(call, reply)])
    return {asked_as: asked, spoken_as: spoken, "total_tokens": asked + spoken}


def _chat(call: Call, reply: Reply) -> dict[str, Any]:
    """A chat completion object."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(call, reply)
    reason = "tool_calls" if reply.tool_calls and reply.finish_reason == "stop" else reply.finish_reason
    head = {"id": f"chatcmpl-{call.number}", "object": "chat.completion", "created": CREATED}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = _usage(call, reply, "prompt_tokens", "completion_tokens")
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
    if reply.text is not None:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        message = {"id": f"msg_{call.number}", "type": "message", "role": "assistant"}
        output.append({**message, "status": status, "content": [part]})
    for index, tool in enumerate(_tool_calls(call, reply)):
        item = {"id": f"fc_{call.number}_{index}", "type": "function_call", "call_id": tool["id"]}
        output.append({**item, "status": status, **tool["function"]})
    usage = _usage(call, reply, "input_tokens", "output_tokens")
    usage["input_tokens_details"] = {"cached_tokens": 0, "cache_write_tokens": 0}
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
    (part,) = item["content"]
    place = {**place, "content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in _pieces(part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}

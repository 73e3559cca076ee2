"""The HTTP of a scripted model server: connections on the loopback, the calls they bring, and their journal.

Nothing here knows workflows, logs or the client library, reads a clock, draws a random number, or writes to stderr.
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
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from eventflow.testing.model_server.script import Call, Script, ask
from eventflow.testing.model_server.wire import CREATED, MODEL, Answer, answered, error_body, whole

MAX_BODY = 8 * 1024 * 1024  # bytes; far above any prompt worth a test, and every thread may hold one
BACKLOG = 128  # connections; the default of 5 makes a burst of callers wait a second for the kernel to try again
STOP_POLL = 0.02  # seconds; how long close() may wait for the accepting thread to look up
CLOSE_WAIT = 2.0  # seconds; after that close() leaves a script that does not return to its daemon thread


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
        self._send(whole(code, error_body(code, message or explain or "the request can't be read")))

    def exchange(self) -> None:
        path = self.path.partition("?")[0]
        try:
            raw = self._receive()
            match self.command, path:
                case "POST", "/v1/chat/completions" | "/v1/responses":
                    self._call(path, *_decode(raw))
                case "GET", "/v1/models":
                    model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "eventflow"}
                    self._send(whole(200, {"object": "list", "data": [model]}))
                case "GET", "/journal":
                    calls = [asdict(call) for call in self.server.journal.calls()]
                    self._send(whole(200, {"calls": calls, "counts": self.server.journal.counts()}))
                case _:
                    raise _RefusedError(404, f"there is no {self.command} {path} here")  # noqa: TRY301
        except _RefusedError as refused:
            self._send(whole(refused.args[0], error_body(*refused.args)))

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
        reply = ask(self.server.script, call)
        answer = answered(call, reply)
        if self.server.stopping.wait(reply.delay) or self._client_left():
            raise ConnectionError("nobody waits for this answer any more")
        self.close_connection = self.close_connection or reply.cut
        # Noted before it is sent, so that a client which has its answer finds it in the journal.
        journal.answered(call, None if reply.cut else answer.status)
        try:
            self._send(answer, cut=reply.cut, pace=reply.pace)
        except OSError:
            journal.answered(call, None)
            raise

    def _client_left(self) -> bool:
        """Whether the client closed its end: the kernel would still take an answer, and nobody would read it."""
        with contextlib.suppress(BlockingIOError):  # open, with nothing to read
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def _send(self, answer: Answer, *, cut: bool = False, pace: float = 0.0) -> None:
        """Writes the answer; no Date and no Server header, so that the same answer is the same bytes."""
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        for part in answer.parts[: len(answer.parts) // 2 if cut else None]:
            if pace and self.server.stopping.wait(pace):
                raise ConnectionError("the server is closing")
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

"""The scripted model server, driven by the real client over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import math
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from eventflow.testing.model_server import MAX_BODY, Call, ModelServer, Reply

PATIENCE = 10.0  # seconds; how long a broken server may hang before its test fails
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
HELLO: list[Any] = [{"role": "user", "content": "Hello there model"}]
BOTH = Reply("Good day", tool_calls=(("search", {"q": "high tides"}), ("add", {"a": 1})))


def client_of(server: ModelServer, key: str = "unused") -> openai.OpenAI:
    """A client that does not try again."""
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=PATIENCE)


def create(client: openai.OpenAI, path: str, **options: Any) -> Any:
    """One call by the client, with something to say where the test does not care."""
    asked = {"messages": HELLO} if path == CHAT else {"input": "Hello"}
    call: Any = client.chat.completions.create if path == CHAT else client.responses.create
    return call(**{"model": "m", **asked, **options})


def ask(server: ModelServer, path: str = CHAT, **options: Any) -> Any:
    """One call by a client of its own: the answer, or the list of what was streamed."""
    with client_of(server) as client:
        answer = create(client, path, **options)
        return list(answer) if options.get("stream") else answer


def text_of(answer: Any) -> Any:
    """What the model said: in a chat completion, in its chunks, in a response, in its events."""
    if isinstance(answer, list):
        deltas = [one.choices[0].delta.content for one in answer if getattr(one, "choices", None)]
        deltas += [one.delta for one in answer if getattr(one, "type", "") == "response.output_text.delta"]
        return "".join(filter(None, deltas))
    return answer.choices[0].message.content if hasattr(answer, "choices") else answer.output_text


def connect(server: ModelServer) -> http.client.HTTPConnection:
    """A connection below the client, for what the client would never send."""
    return http.client.HTTPConnection(server.base_url.split("/")[2], timeout=PATIENCE)


def send(server: ModelServer, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own; the status and the body of its answer."""
    with closing(connect(server)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_text_is_a_chat_completion() -> None:
    """A text in the script comes back as an assistant's message with ids and usage that follow from the call."""
    with ModelServer(["Good day"]) as server:
        answer = ask(server)
    assert (answer.id, answer.created, answer.model) == ("chatcmpl-1", 0, "m")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Good day", "stop")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 2, 5)


def test_usage_counts_the_words_of_all_texts() -> None:
    """Words in parts, tool arguments and tool results count; roles, ids, names and types do not."""
    call = {"id": "c d", "type": "function", "function": {"name": "f g", "arguments": "four"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "three"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c d", "content": "five"},
    ]
    with ModelServer([Reply(tool_calls=(("f g", {"a": 1}),))]) as server:
        usage = ask(server, messages=messages).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 2)


def test_tool_calls_reach_the_client() -> None:
    """Tool calls carry names, arguments as JSON, ids from the call's number, and their own finish reason."""
    with ModelServer([Reply(tool_calls=BOTH.tool_calls)]) as server:
        choice = ask(server).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = [(one.id, one.function.name, json.loads(one.function.arguments)) for one in choice.message.tool_calls]
    assert calls == [("call_1_0", "search", {"q": "high tides"}), ("call_1_1", "add", {"a": 1})]


def test_a_tool_call_may_have_an_id_of_its_own() -> None:
    """Where calls come in any order, the script says the id, and the same question gets the same answer."""
    with ModelServer([Reply(tool_calls=(("add", {"a": 1}, "mine"), ("add", {"a": 2})))]) as server:
        calls = ask(server).choices[0].message.tool_calls
    assert [one.id for one in calls] == ["mine", "call_1_1"]


def test_a_streamed_text_comes_in_words_and_then_its_usage() -> None:
    """A stream is one chunk a word, a finish reason, and, only if asked for, usage in a last chunk of its own."""
    with ModelServer(["Good  day\nto you"] * 2) as server:
        assert not any("usage" in chunk.model_fields_set for chunk in ask(server, stream=True))
        *chunks, last = ask(server, stream=True, stream_options={"include_usage": True})
    assert {chunk.id for chunk in chunks} == {"chatcmpl-2"}
    deltas = [chunk.choices[0].delta.content for chunk in chunks]
    assert deltas == ["", "Good  ", "day\n", "to ", "you", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert [chunk.usage for chunk in chunks] == [None] * 6
    assert (last.choices, last.usage.total_tokens) == ([], 7)


def test_any_text_comes_back_as_it_was() -> None:
    """Whole or streamed, in both protocols, the client reads the script's text exactly; a lone surrogate passes too."""
    with ModelServer(lambda call: str(call.body["user"])) as server, client_of(server) as client:

        @settings(deadline=None, max_examples=25)
        @given(st.text() | st.text(" \na"))
        def law(text: str) -> None:
            for path in (CHAT, RESPONSES):
                assert text_of(create(client, path, user=text)) == text
                assert text_of(list(create(client, path, user=text, stream=True))) == text

        law()
        _, answer = send(server, "POST", CHAT, json.dumps({"user": "\ud800"}).encode())
        assert json.loads(answer)["choices"][0]["message"]["content"] == "\ud800"


@pytest.mark.parametrize(
    ("reply", "error", "kind"),
    [
        (Reply("not now", status=400), openai.BadRequestError, "invalid_request_error"),
        (Reply("not now", status=401), openai.AuthenticationError, "authentication_error"),
        (Reply("not now", status=404), openai.NotFoundError, "not_found_error"),
        (Reply("not now", status=429, headers={"Retry-After": "7"}), openai.RateLimitError, "rate_limit_error"),
        (Reply("not now", status=429, error_type="no_money"), openai.RateLimitError, "no_money"),
        (Reply("not now", status=500), openai.InternalServerError, "server_error"),
        (Reply("not now", status=529), openai.InternalServerError, "server_error"),
    ],
)
def test_a_status_is_the_client_s_own_error(reply: Reply, error: type[openai.APIStatusError], kind: str) -> None:
    """A scripted status raises the client's error for it, with the script's words and headers, streamed or not."""
    with ModelServer([reply, reply]) as server:
        for stream in (False, True):
            with pytest.raises(error, match="not now") as caught:
                ask(server, stream=stream)
            assert (caught.value.status_code, caught.value.type) == (reply.status, kind)
            assert caught.value.response.headers.get("Retry-After") == reply.headers.get("Retry-After")
        assert [call.status for call in server.calls] == [reply.status] * 2


def test_a_cut_answer_is_a_connection_error() -> None:
    """A whole answer that breaks off is a connection error, is no success, and the next call is answered."""
    with ModelServer([Reply("never heard", cut=True), "heard"]) as server, client_of(server) as client:
        with pytest.raises(openai.APIConnectionError):
            create(client, CHAT)
        assert text_of(create(client, CHAT)) == "heard"
        assert [call.status for call in server.calls] == [None, 200]
        assert list(server.counts().values()) == [1]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_cut_stream_breaks_off_after_its_first_words(path: str) -> None:
    """A cut stream yields a part of its text and then raises a connection error."""
    text, heard = "one two three four five six", []
    with ModelServer([Reply(text, cut=True)]) as server, client_of(server) as client:
        stream = create(client, path, stream=True)
        with pytest.raises(openai.APIConnectionError):
            heard.extend(stream)
    assert text.startswith(text_of(heard))
    assert 0 < len(text_of(heard)) < len(text)


def test_close_does_not_sit_a_delay_out() -> None:
    """A delayed reply outlasts an impatient client, and close() drops it."""
    threads: list[threading.Thread] = []

    def script(_: Call) -> Reply:
        threads.append(threading.current_thread())
        return Reply("late", delay=3600.0)

    with ModelServer(script) as server, pytest.raises(openai.APITimeoutError):
        ask(server, timeout=0.2)
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
    assert [call.status for call in server.calls] == [None]


def test_a_response_holds_text_and_tool_calls() -> None:
    """The Responses endpoint gives a completed response: the message, then the function calls, and usage."""
    with ModelServer([BOTH]) as server:
        answer = ask(server, RESPONSES, instructions="Be kind", input="Hello there")
    assert (answer.id, answer.status, answer.model, answer.instructions) == ("resp_1", "completed", "m", "Be kind")
    assert answer.output_text == "Good day"
    message, search, add = answer.output
    assert (message.type, search.type, search.call_id) == ("message", "function_call", "call_1_0")
    assert [(one.name, json.loads(one.arguments)) for one in (search, add)] == list(BOTH.tool_calls)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 7)


@pytest.mark.parametrize(
    ("path", "stream", "shape"),
    [
        *((CHAT, False, ChatCompletion), (CHAT, True, ChatCompletionChunk)),
        *((RESPONSES, False, Response), (RESPONSES, True, ResponseStreamEvent)),
    ],
)
def test_answers_hold_every_required_field(path: str, *, stream: bool, shape: Any) -> None:
    """The client's own types, checked strictly, accept every answer and every streamed event."""
    asked = json.dumps({"stream": stream, "stream_options": {"include_usage": True}}).encode()
    with ModelServer([BOTH, Reply("so", finish_reason="length")]) as server:
        bodies = [send(server, "POST", path, asked)[1].decode() for _ in range(2)]
    lines = [line.removeprefix("data: ") for body in bodies for line in body.splitlines() if "{" in line]
    assert len(lines) > 10 if stream else len(lines) == 2
    for line in lines:
        TypeAdapter(shape).validate_json(line)


def test_a_streamed_response_grows_event_by_event() -> None:
    """A streamed response begins, grows by words, closes each item, completes, and is numbered from 0."""
    with ModelServer([BOTH]) as server:
        events = ask(server, RESPONSES, stream=True)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert (kinds[:2], kinds[-1]) == (["created", "in_progress"], "completed")
    assert kinds.count("output_item.added") == kinds.count("output_item.done") == 3
    assert [event.delta for event in events if event.type.endswith("text.delta")] == ["Good ", "day"]
    arguments = "".join(event.delta for event in events if event.type.endswith("arguments.delta"))
    assert arguments == '{"q": "high tides"}{"a": 1}'
    assert (events[0].response.output, events[-1].response.output_text) == ([], "Good day")


def test_the_client_s_accumulators_accept_both_streams() -> None:
    """The client's own accumulators, which check the order of events, end with the reply."""
    with ModelServer([BOTH, BOTH]) as server, client_of(server) as client:
        with client.responses.stream(model="m", input="Hello") as responses:
            assert responses.get_final_response().output_text == "Good day"
        with client.chat.completions.stream(model="m", messages=HELLO) as chat:
            message = chat.get_final_completion().choices[0].message
    assert message.content == "Good day"
    calls = [(one.id, one.function.name, json.loads(one.function.arguments)) for one in message.tool_calls or ()]
    assert calls == [("call_2_0", "search", {"q": "high tides"}), ("call_2_1", "add", {"a": 1})]


def test_a_finish_reason_is_told_in_each_protocol_s_words() -> None:
    """A finish reason of "length" reaches the client, with tool calls too; a response is then incomplete."""
    with ModelServer([Reply("so far", tool_calls=BOTH.tool_calls, finish_reason="length")] * 3) as server:
        assert ask(server).choices[0].finish_reason == "length"
        answer, events = ask(server, RESPONSES), ask(server, RESPONSES, stream=True)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert events[-1].type == "response.incomplete"


def test_an_error_s_code_reaches_the_client() -> None:
    """Clients tell errors of one status apart by their code."""
    with ModelServer([Reply("too long", status=400, error_code="context_length_exceeded")]) as server:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(server)
        assert caught.value.code == "context_length_exceeded"


def test_a_raw_body_goes_as_it_is() -> None:
    """Whatever it is, it is sent with the status and the content type that an answer would have."""
    with ModelServer([Reply(raw="{garbage"), Reply(raw="data: [DONE]\n\n"), Reply(raw="no", status=503)]) as server:
        assert send(server, "POST", CHAT, b"{}") == (200, b"{garbage")
        assert ask(server, stream=True) == []
        assert send(server, "POST", RESPONSES, b"{}") == (503, b"no")


def test_a_model_may_refuse_in_each_protocol_s_words() -> None:
    """A refusal stands where the text would, whole or streamed."""
    with ModelServer(lambda _: Reply(refusal="I would rather not")) as server, client_of(server) as client:
        message = create(client, CHAT).choices[0].message
        assert (message.content, message.refusal) == (None, "I would rather not")
        assert create(client, RESPONSES).output[0].content[0].refusal == "I would rather not"
        with client.responses.stream(model="m", input="Hello") as stream:
            assert stream.get_final_response().output[0].content[0].refusal == "I would rather not"
        with client.chat.completions.stream(model="m", messages=HELLO) as chunks:
            assert chunks.get_final_completion().choices[0].message.refusal == "I would rather not"


def test_cached_tokens_are_part_of_the_usage() -> None:
    """Both protocols tell them beside the prompt's tokens."""
    with ModelServer(lambda _: Reply("x", cached_tokens=2)) as server:
        assert ask(server).usage.prompt_tokens_details.cached_tokens == 2
        assert ask(server, RESPONSES).usage.input_tokens_details.cached_tokens == 2


def test_a_slow_stream_comes_bit_by_bit() -> None:
    """Its first words are there before its last are sent, and close() does not wait for those."""
    with ModelServer([Reply("one two", pace=0.01), Reply("one two", pace=3600.0)]) as server:
        assert text_of(ask(server, stream=True)) == "one two"
        with pytest.raises(openai.APITimeoutError):
            ask(server, stream=True, timeout=0.2)


def test_a_tool_call_s_arguments_may_be_anything() -> None:
    """A text goes as it is: models do write what is no JSON."""
    with ModelServer([Reply(tool_calls=(("f", "{broken"),))]) as server:
        assert ask(server).choices[0].message.tool_calls[0].function.arguments == "{broken"


def test_a_script_that_has_ended_says_so() -> None:
    """A call past the end of the script is refused in a way that no client retries, and says why."""
    with ModelServer(["only one"]) as server:
        ask(server)
        with pytest.raises(openai.BadRequestError, match="the script has ended: it holds 1 replies and this is call 2"):
            ask(server)


def test_a_function_answers_from_the_call() -> None:
    """A callable script sees path, body, number and idempotency key, and may answer with text or a reply."""
    seen: list[Call] = []

    def script(call: Call) -> Reply | str:
        seen.append(call)
        return Reply("slow down", status=429) if call.number == 2 else f"{call.path} {call.body['model']}"

    with ModelServer(script) as server:
        assert text_of(ask(server, extra_headers={"Idempotency-Key": "k-1"})) == f"{CHAT} m"
        with pytest.raises(openai.RateLimitError):
            ask(server)
    assert [(call.number, call.idempotency_key, call.status) for call in seen] == [(1, "k-1", None), (2, None, None)]


@pytest.mark.parametrize("script", [lambda _: None, lambda _: 3, lambda call: call.body["no such thing"]])
def test_a_script_that_fails_is_heard(script: Any) -> None:
    """A function that raises, or answers with something else, gets an error that names the fault, not silence."""
    with ModelServer(script) as server, pytest.raises(openai.BadRequestError, match=r"thing|NoneType|int") as caught:
        ask(server)
    assert caught.value.type == "script_failed"


@pytest.mark.parametrize(
    "write",
    [
        *(lambda: Reply(status=302), lambda: Reply(status=204), lambda: Reply(delay=-1), lambda: Reply(delay=math.nan)),
        lambda: Reply(pace=-1),
        *(lambda: Reply(headers={"Content-Length": "3"}), lambda: Reply(headers={"X-Name": "two\r\nlines"})),
        *(lambda: Reply(tool_calls=(("f", {"x": object()}),)), lambda: ModelServer("letters")),
    ],
)
def test_what_can_not_be_sent_is_refused_where_it_is_written(write: Callable[[], object]) -> None:
    """A reply that would break the wire, or a text in place of a script, raises in the thread of its author."""
    with pytest.raises((ValueError, TypeError)):
        write()


def test_calls_keep_order_body_and_status() -> None:
    """The calls tell number, path, decoded body, digest, idempotency key and status, in order of arrival."""
    with ModelServer(["a", Reply(status=500)]) as server:
        ask(server, extra_headers={"Idempotency-Key": "run/1"})
        with pytest.raises(openai.InternalServerError):
            ask(server, RESPONSES)
        first, second = server.calls
    body = {"model": "m", "messages": HELLO}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert first == Call(1, CHAT, body, digest, idempotency_key="run/1", status=200)
    assert (second.number, second.path, second.idempotency_key, second.status) == (2, RESPONSES, None, 500)


def test_counts_tell_how_often_a_body_was_answered() -> None:
    """Equal bodies count together whatever their order of keys; failures do not count."""
    with ModelServer(["a", Reply(status=500), "b", "c"]) as server:
        for body in (b'{"x": 1, "y": 2}', b'{"x": 1, "y": 2}', b'{"y":2,"x":1}', b'{"x": 3}'):
            send(server, "POST", CHAT, body)
        assert server.counts() == {server.calls[0].digest: 2, server.calls[3].digest: 1}


def test_the_journal_tells_another_process_the_same_and_no_key() -> None:
    """GET /journal is the calls and the counts as JSON; the Authorization header is found in neither."""
    with ModelServer(["a", Reply(cut=True)]) as server, client_of(server) as client:
        create(client.with_options(api_key="sk-very-secret"), CHAT)
        with pytest.raises(openai.APIConnectionError):
            ask(server, RESPONSES)
        shown = send(server, "GET", "/journal")[1].decode()
        assert json.loads(shown) == {"calls": [asdict(call) for call in server.calls], "counts": server.counts()}
    assert [call["status"] for call in json.loads(shown)["calls"]] == [200, None]
    assert "Hello there model" in shown
    assert "secret" not in shown
    assert "authorization" not in shown.lower()


def test_the_models_are_listed() -> None:
    """GET /v1/models lists the one scripted model."""
    with ModelServer([]) as server, client_of(server) as client:
        assert [(model.id, model.created) for model in client.models.list()] == [("scripted", 0)]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        *(("GET", "/v1/elsewhere", None, 404), ("POST", "/v1/embeddings", b"{}", 404), ("GET", CHAT, None, 404)),
        *(("DELETE", "/v1/models", None, 404), ("OPTIONS", "/v1/models", None, 501)),
        *(("POST", CHAT, b"{", 400), ("POST", CHAT, b"[]", 400), ("POST", CHAT, b"", 400)),
        *(("POST", CHAT, b'{"x": NaN}', 400), ("POST", CHAT, b'{"x": "\xff"}', 400)),
        *(("POST", CHAT, b"[" * 100_000, 400), ("POST", CHAT, b" " * (MAX_BODY + 1), 413)),
    ],
)
def test_a_request_that_is_no_call_is_refused(method: str, path: str, body: bytes | None, status: int) -> None:
    """Unknown paths, broken JSON and oversized bodies get the protocol's error, use up no reply and are no calls."""
    with ModelServer(["untouched"]) as server:
        answered, data = send(server, method, path, body)
        assert answered == status
        assert set(json.loads(data)["error"]) == {"message", "type", "param", "code"}
        assert server.calls == ()
        assert text_of(ask(server)) == "untouched"


def test_a_body_of_unknown_length_is_refused() -> None:
    """A chunked request is answered with 411 and the connection is closed, for its body can't be skipped."""
    with ModelServer([]) as server, closing(connect(server)) as connection:
        connection.request("POST", RESPONSES, headers={"Transfer-Encoding": "chunked"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (411, "close")


def test_one_connection_hears_the_same_bytes_from_the_same_script() -> None:
    """Answers, streams and refusals go over one connection, and a second server gives them byte for byte again."""

    def conversation() -> list[tuple[list[tuple[str, str]], bytes]]:
        whole, stream = b"{}", b'{"stream": true}'
        heard = []
        with ModelServer([BOTH, BOTH, Reply(status=429), BOTH]) as server, closing(connect(server)) as connection:
            connection.connect()
            opened = connection.sock
            for path, body in [(CHAT, whole), (RESPONSES, stream), ("/no", whole), (CHAT, b"{"), *[(CHAT, whole)] * 2]:
                connection.request("POST", path, body)
                answer = connection.getresponse()
                heard.append((answer.getheaders(), answer.read()))
                assert connection.sock is opened
            assert [call.status for call in server.calls] == [200, 200, 429, 200]
        return heard

    assert conversation() == conversation()


def test_twenty_callers_are_answered_at_once() -> None:
    """Twenty asynchronous calls, half of them streams, are in the script together, and each gets its own answer."""
    together = threading.Barrier(20, timeout=PATIENCE)

    def script(call: Call) -> str:
        together.wait()
        return str(call.body["user"])

    async def crowd(server: ModelServer) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
            create = client.chat.completions.create

            async def caller(name: str, *, stream: bool) -> Any:
                answer: Any = await create(model="m", messages=HELLO, user=name, stream=stream)
                return text_of([chunk async for chunk in answer] if stream else answer)

            return await asyncio.gather(*(caller(f"caller {n}", stream=n % 2 == 0) for n in range(20)))

    with ModelServer(script) as server:
        assert asyncio.run(crowd(server)) == [f"caller {n}" for n in range(20)]
        assert [call.number for call in server.calls] == list(range(1, 21))
        assert list(server.counts().values()) == [1] * 20


def test_an_answer_nobody_waits_for_does_not_count() -> None:
    """A client that died while the model thought, or in the middle of a long answer, was not answered."""
    arrived, died = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def script(call: Call) -> str:
        threads.append(threading.current_thread())
        arrived.set()
        died.wait(PATIENCE)
        return "x" * (1 if call.number == 1 else 2**25)  # bytes; more than the kernel holds for a client

    with ModelServer(script) as server:
        with closing(connect(server)) as thinking:
            thinking.request("POST", CHAT, b"{}")
            assert arrived.wait(PATIENCE)
        died.set()
        with closing(connect(server)) as reading:
            reading.request("POST", CHAT, b"{}")
            assert reading.getresponse().status == 200
        for thread in threads:
            thread.join(PATIENCE)
        assert [call.status for call in server.calls] == [None, None]
        assert server.counts() == {}


def test_close_ends_connections_that_were_kept_open() -> None:
    """close() returns while clients keep connections open, and those read their end."""
    server = ModelServer(["a"]).start()
    with closing(connect(server)) as used, closing(connect(server)) as idle:
        used.request("POST", CHAT, b"{}")
        used.getresponse().read()
        idle.connect()
        assert send(server, "GET", "/v1/models")[0] == 200  # accepted later, so the idle one is accepted too
        closer = threading.Thread(target=server.close, daemon=True)
        closer.start()
        closer.join(PATIENCE)
        assert not closer.is_alive()
        assert (used.sock.recv(1), idle.sock.recv(1)) == (b"", b"")
    server.close()


def test_after_an_outage_the_script_goes_on() -> None:
    """After close nobody listens; started again, the same port answers with the script where it was."""
    server = ModelServer(["before", "after"])
    with pytest.raises(RuntimeError, match="start"):
        _ = server.base_url
    with server:
        assert server.start() is server
        assert text_of(ask(server)) == "before"
        address = server.base_url
    with pytest.raises(openai.APIConnectionError):
        ask(server)
    with server:
        assert server.base_url == address
        assert text_of(ask(server)) == "after"
    assert [call.number for call in server.calls] == [1, 2]


def test_a_port_can_be_chosen_once() -> None:
    """A given port is listened on, and no second server can share it."""
    with ModelServer([]) as before:
        port = connect(before).port
    with ModelServer(["a"], port=port) as server:
        assert server.base_url == f"http://127.0.0.1:{port}/v1"
        with pytest.raises(OSError, match="in use"):
            ModelServer([], port=port).start()
        assert text_of(ask(server)) == "a"


def test_the_server_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """Answers, refusals, failing scripts, broken requests and vanished clients print nothing."""
    nonsense = (b"\x00\xff nonsense\r\n\r\n", b"POST /v1/responses HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
    with ModelServer(lambda call: str(call.body["no such thing"])) as server:
        for method, path in (("POST", CHAT), ("GET", "/nowhere"), ("BREW", "/coffee")):
            send(server, method, path, b"{}")
        for noise in nonsense:
            with socket.create_connection(("127.0.0.1", connect(server).port), PATIENCE) as broken:
                broken.sendall(noise)
    assert tuple(capfd.readouterr()) == ("", "")

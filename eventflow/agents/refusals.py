"""Model servers' errors as ours: which deserve another attempt, after how long, and what to do about the others."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any

from eventflow.errors import ContentFiltered, ConversationTooLong, EventflowError, ModelRefused, ModelUnavailable

AGAIN = frozenset({408, 409, 425, 429})  # statuses below 500 after which the same request may succeed
MAX_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is treated as asking for an hour
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SHOWN = 200  # characters of a filtered answer or a refusal in the error's sentence
# What servers call it; the first of each is OpenAI's word.
_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_FILTERED = frozenset({"content_filter", "content_policy_violation"})
_TOO_LONG_TEXT = re.compile(r"context (length|window|size)", re.IGNORECASE)
_NO_MONEY = frozenset({"insufficient_quota"})  # comes with 429, and no rest helps
_FINAL = frozenset({"invalid_prompt", "invalid_request_error", "vector_store_timeout"}) | _NO_MONEY


def translated(error: Exception, *, secret: str = "") -> EventflowError:
    """An error of the client as one of ours: whether another attempt may help, and after how long.

    `secret` is struck out of its sentence: servers do quote the key they refuse.
    """
    import openai  # noqa: PLC0415 - imported by the caller already

    if isinstance(error, openai.APIStatusError):
        return _by_status(error, secret)
    if isinstance(error, openai.APITimeoutError):
        return ModelUnavailable("the model server did not answer in time; look whether it is up")
    if isinstance(error, openai.APIConnectionError):
        cause = _without(str(error.__cause__ or error), secret)
        return ModelUnavailable(
            f"the model server can't be reached ({cause}); look whether it is up and OPENAI_BASE_URL is right"
        )
    if isinstance(error, openai.APIError):  # told in the middle of a stream
        return failed(error.code or error.type, _without(_sentence(error), secret))
    return ModelRefused(_without(f"the model call can't be made: {error}", secret))


def _by_status(error: Any, secret: str) -> EventflowError:
    status, said = error.status_code, _sentence(error)
    text = _without(f"the model server answered {status}: {said}", secret)
    words = {str(error.code), str(error.type)}
    if words & _TOO_LONG or (status in (400, 413) and _TOO_LONG_TEXT.search(said)):
        return _too_long(text, status)
    if words & _FILTERED:
        return ContentFiltered(
            f"{text}; change what the agent is told, then resume the run at a version before this call", status=status
        )
    if words & _NO_MONEY:
        return ModelRefused(f"{text}; the account has no quota left, which waiting does not mend", status=status)
    if status >= 500 or status in AGAIN:
        return ModelUnavailable(text, status=status, retry_after=rest_asked(error.response.headers))
    return ModelRefused(text, status=status)


def failed(code: Any, message: Any) -> EventflowError:
    """A failure that is told within an answer, by its code."""
    text = f"the model server failed at its answer: {message or code or 'it does not say why'}"
    if code in _TOO_LONG:
        return _too_long(text, None)
    if code in _FILTERED:
        return ContentFiltered(
            f"{text}; change what the agent is told, then resume the run at a version before this call"
        )
    return ModelRefused(text) if code in _FINAL else ModelUnavailable(text)


def _too_long(text: str, status: int | None) -> ConversationTooLong:
    return ConversationTooLong(
        f"{text}; give the agent less to read, or memory with a smaller window=, then resume the run at a version before this call",
        status=status,
    )


def filtered(text: str) -> ContentFiltered:
    """An answer that the server's content filter stopped."""
    so_far = f" after {_shown(text)}" if text else ""
    return ContentFiltered(
        f"the model server's content filter stopped the answer{so_far}; change what the agent is told, then resume the run at a version before this call"
    )


def refused(text: Any) -> ModelRefused:
    """A model that said no."""
    return ModelRefused(
        f"the model refuses to answer: {_shown(str(text))}; change what it is told, then resume the run at a version before this call"
    )


def cut_off() -> ModelUnavailable:
    """A stream that ended before its end."""
    return ModelUnavailable("the model server's stream broke off before its end")


def check_finished(api: str) -> ModelRefused:
    """What came is not an answer of this API at all."""
    kind = "chat completion" if api == "chat.completions" else "response"
    return ModelRefused(
        f"the model server's answer is not a {kind}; look whether OPENAI_BASE_URL (or base_url=) is the address of an "
        f"OpenAI-compatible API, which often ends in /v1"
    )


def dumped(answer: Any) -> dict[str, Any]:
    """An object of the client's as plain data. Raises ModelRefused for what no text can hold."""
    if not hasattr(answer, "model_dump"):  # the client hands on whatever JSON it finds in a stream
        raise ModelUnavailable(f"the model server's stream holds {_shown(str(answer))}, which is no part of an answer")
    try:
        plain: dict[str, Any] = answer.model_dump(exclude_none=True, warnings=False)
    except ValueError as error:  # a lone surrogate in a field's name
        raise ModelRefused(f"the model server's answer can't be read ({error})") from error
    return plain


def not_a_stream(stream: Any) -> bool:
    """Whether a server answered with something else where a stream was asked for: a page, an answer in one piece."""
    kind = stream.response.headers.get("content-type", "") if hasattr(stream, "response") else ""
    return not kind.startswith("text/event-stream")


def rest_asked(headers: Any) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a date.

    A date is held against the answer's own `date`, so that no two clocks are compared; without that it says nothing
    (RFC 9110, sections 5.6.7, 6.6.1 and 10.2.3).
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if _NUMBER.fullmatch(text):
            return min(float(text) / unit, MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        rest = (until - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date, or one with a zone and one without
        return None
    return min(max(rest, 0.0), MAX_RETRY_AFTER)


def _sentence(error: Any) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.message)


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "***") if secret else text


def _shown(text: str) -> str:
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= _SHOWN else f"{one_line[:_SHOWN]}…")

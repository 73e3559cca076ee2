"""The model server as it is reached: the openai client, without retries of its own, and its errors as ours."""

from __future__ import annotations

import re
from typing import Any

from eventflow.errors import DefinitionError, EventflowError, ModelRefused, ModelUnavailable
from eventflow.plain import clean_text

_AGAIN = frozenset({408, 409, 425, 429})  # statuses below 500 after which the same request may succeed
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
MAX_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is treated as asking for an hour


class Reached:
    """A client, ready to be called; one attempt a call."""

    def __init__(self, client: Any) -> None:
        self._client = client.with_options(max_retries=0)
        self._close = client.close

    async def complete(self, request: dict[str, Any], idempotency_key: str) -> dict[str, Any]:
        """A chat completion as plain data. Raises ModelUnavailable or ModelRefused."""
        import openai  # noqa: PLC0415 - half a second, paid when a model is called

        try:
            answer = await self._client.chat.completions.create(
                **request, extra_headers={"Idempotency-Key": idempotency_key}
            )
        except openai.OpenAIError as error:
            raise translated(error, secret=self._client.api_key) from error
        except ValueError as error:
            raise ModelUnavailable(f"the model server's answer is not the JSON it says it is ({error})") from error
        if not isinstance(answer, openai.BaseModel):  # the client hands on whatever is not JSON as text
            raise ModelRefused(
                "the model server's answer is not a chat completion; look whether OPENAI_BASE_URL (or base_url=) is the "
                "address of an OpenAI-compatible API, which often ends in /v1"
            )
        return _plain(answer)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._close()


def _plain(answer: Any) -> dict[str, Any]:
    """A completion as plain data. Raises ModelRefused for what no text can hold."""
    try:
        dumped = answer.model_dump(exclude_none=True, warnings=False)
    except ValueError as error:  # a lone surrogate in a field's name
        raise ModelRefused(f"the model server's answer can't be read ({error})") from error
    plain: dict[str, Any] = without_surrogates(dumped)
    return plain


def check_client(client: Any) -> None:
    """Refuse what can't be awaited as a client. Raises DefinitionError."""
    import openai  # noqa: PLC0415 - who has a client has imported it

    if not isinstance(client, openai.AsyncOpenAI):
        raise DefinitionError(
            f"Agent(client=...) takes an openai.AsyncOpenAI, got {type(client).__module__}.{type(client).__qualname__}"
        )


def reach(base_url: str | None, key: str | None) -> Reached:
    """A client for a server and a key; a server of one's own needs no key."""
    import openai  # noqa: PLC0415 - half a second, paid when a model is called

    return Reached(openai.AsyncOpenAI(base_url=base_url, api_key=key or "none", max_retries=0))


def translated(error: Exception, *, secret: str = "") -> EventflowError:
    """An error of the client as one of ours: whether another attempt may help, and after how long.

    `secret` is struck out of its sentence: servers do quote the key they refuse.
    """
    import openai  # noqa: PLC0415 - imported by the caller already

    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        text = _without(f"the model server answered {status}: {_sentence(error)}", secret)
        if status >= 500 or status in _AGAIN:
            return ModelUnavailable(text, status=status, retry_after=_retry_after(error))
        return ModelRefused(text, status=status)
    if isinstance(error, openai.APITimeoutError):
        return ModelUnavailable("the model server did not answer in time; look whether it is up")
    if isinstance(error, openai.APIConnectionError):
        cause = _without(str(error.__cause__ or error), secret)
        return ModelUnavailable(
            f"the model server can't be reached ({cause}); look whether it is up and OPENAI_BASE_URL is right"
        )
    return ModelRefused(_without(f"the model call can't be made: {error}", secret))


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "***") if secret else text


def _sentence(error: Any) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.message)


def _retry_after(error: Any) -> float | None:
    """Seconds, as most servers send them (RFC 9110, section 10.2.3); a date there is not looked at."""
    text = error.response.headers.get("retry-after", "").strip()
    if not _SECONDS.fullmatch(text):
        return None
    return min(float(text), MAX_RETRY_AFTER)


def without_surrogates(value: Any) -> Any:
    """Plain data with each lone surrogate in a text replaced: models send them, no text file can hold them."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value

"""The model server as it is reached: the openai client, without retries of its own."""

from __future__ import annotations

from typing import Any

from eventflow.agents.refusals import check_finished, dumped, translated
from eventflow.agents.turn import Api, Heard
from eventflow.errors import DefinitionError, ModelUnavailable
from eventflow.plain import clean_text


class Reached:
    """A client, ready to be called; one attempt a call."""

    def __init__(self, client: Any) -> None:
        self._client = client.with_options(max_retries=0)
        self._close = client.close

    async def complete(
        self, api: Api, request: dict[str, Any], *, idempotency_key: str, heard: Heard | None = None
    ) -> dict[str, Any]:
        """An answer as plain data; with `heard` it is streamed. Raises ModelUnavailable or ModelRefused."""
        import openai  # noqa: PLC0415 - half a second, paid when a model is called

        asked = {**request, "extra_headers": {"Idempotency-Key": idempotency_key}}
        try:
            if heard is None:
                whole = await api.whole(self._client, asked)
                if not isinstance(whole, openai.BaseModel):  # the client hands on whatever is not JSON as text
                    raise check_finished(api.name)
                answer = dumped(whole)
            else:
                answer = await api.streamed(self._client, asked, heard)
        except openai.OpenAIError as error:
            raise translated(error, secret=self._client.api_key) from error
        except ValueError as error:
            raise ModelUnavailable(f"the model server's answer is not the JSON it says it is ({error})") from error
        plain: dict[str, Any] = without_surrogates(api.kept(answer))
        api.said(plain)  # an answer without an answer in it is a failed call, not a finished one
        return plain

    async def close(self) -> None:
        """Close the client's connections."""
        await self._close()


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


def without_surrogates(value: Any) -> Any:
    """Plain data with each lone surrogate in a text replaced: models send them, no text file can hold them."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value

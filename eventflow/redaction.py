"""Secrets taken out of values before they are recorded, or shown: known shapes, and fields that are declared.

What is taken out is gone for good; in its place stands a keyed hash, so that the same secret is seen to be the same and
nobody can look whether it is a certain one. A shape is a guess that is right for what providers hand out; what looks like
none of them is found by its field's name or not at all.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from eventflow.change import Op
from eventflow.codec import Shared, encode
from eventflow.event import Event, Failure
from eventflow.plain import FrozenDict, FrozenList, Rope, ordered, raw_items

HASH_SIZE = 6  # bytes of the keyed hash that are shown: of a million secrets no two look the same
_SHORTEST = 12  # characters; no shape is shorter, so a shorter text need not be looked at


class Shape(NamedTuple):
    """How a kind of secret looks; group 1 is what is taken out, where the shape holds more than that."""

    name: str
    pattern: str


# What providers say their keys begin with. What is around a secret stays, so that a sentence can still be read.
SHAPES: tuple[Shape, ...] = (
    Shape("private key (PEM)", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"),
    Shape("JSON web token", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    Shape("OpenAI, Anthropic and alike", r"\bsk-[A-Za-z0-9_-]{16,}"),
    Shape("Google", r"\bAIza[A-Za-z0-9_-]{35}"),
    Shape("Google OAuth", r"\bya29\.[A-Za-z0-9_-]{20,}"),
    Shape("AWS access key id", r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"),
    Shape("AWS secret access key", r"(?i:secret_?(?:access_?)?key)[\"']?\s*[:=]\s*[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"),
    Shape("Azure storage", r"(?i:AccountKey|SharedAccessKey)=([A-Za-z0-9/+]{40,}={0,2})"),
    Shape("GitHub", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})"),
    Shape("GitLab", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    Shape("Slack", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    Shape("Stripe", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    Shape("Hugging Face", r"\bhf_[A-Za-z0-9]{30,}"),
    Shape("npm", r"\bnpm_[A-Za-z0-9]{36}"),
    Shape("PyPI", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    Shape("SendGrid", r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    Shape("bearer token", r"(?i:\bbearer)\s+([A-Za-z0-9._~+/-]{16,}=*)"),
    Shape("basic authorization", r"(?i:\bauthorization[\"']?\s*[:=]\s*[\"']?basic)\s+([A-Za-z0-9+/]{8,}=*)"),
    Shape("password in a connection string", r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@\"']{0,64}:([^\s/@\"']{1,256})@"),
    Shape("password of libpq or ODBC", r"(?i:\b(?:password|pwd))=([^\s;&\"']{4,})"),
    Shape("eventflow's master key", r"EVENTFLOW\+MASTER\+1\+[A-Za-z0-9+/]{43}="),
)
_PATTERN = re.compile("|".join(f"(?:{one.pattern})" for one in SHAPES), re.DOTALL)
# What every shape has somewhere: found by one pass, so that ordinary texts cost next to nothing.
_HINT = re.compile(
    r"-----BEGIN|eyJ|sk-|AIza|ya29|A[KSRI][IO]A|AIDA|(?i:key[\"']?\s*[:=])|gh[pousr]_|github_pat|glpat|xox|_live_|_test_"
    r"|hf_|npm_|pypi-|SG\.|(?i:bearer|basic)\s|://[^\s]*@|(?i:password=|pwd=)|EVENTFLOW\+"
)
_PROCESS_KEY = os.urandom(32)  # for what is only shown, or where no key was given: equal within one process


@dataclass(frozen=True, slots=True)
class Redaction:
    """What an engine takes out of values before they are recorded.

    `fields` are names, or names below names ("user.token"), found wherever they stand one below the other, in states,
    inputs, results and messages; `shapes` looks for known kinds of secrets in every text. `key` (32 random bytes) makes
    hashes comparable between processes; without one they are within an encrypted store, or within one process.
    """

    fields: Sequence[str] = ()
    shapes: bool = True
    key: bytes | None = None


def hide_secrets(text: str) -> str:
    """The text without what has the shape of a secret: before it is cut, logged or shown."""
    return _hidden(text, _PROCESS_KEY)


def _hidden(text: str, key: bytes) -> str:
    if len(text) < _SHORTEST or _HINT.search(text) is None:
        return text

    def taken(found: re.Match[str]) -> str:
        group = next((number for number, held in enumerate(found.groups(), 1) if held is not None), 0)
        start, end = found.span(group)
        before, after = text[found.start() : start], text[end : found.end()]
        return f"{before}{_mark(found[group].encode('utf-8', 'surrogatepass'), key)}{after}"

    return _PATTERN.sub(taken, text)


def _mark(secret: bytes, key: bytes) -> str:
    return f"«redacted:{hmac.digest(key, secret, 'sha256')[:HASH_SIZE].hex()}»"


class Redactor:
    """A redaction with its key: values in, values without secrets out; the same object where there is nothing to take."""

    def __init__(self, redaction: Redaction, key: bytes | None = None) -> None:
        self._key = redaction.key or key or _PROCESS_KEY
        self._shapes = redaction.shapes
        self._fields = tuple(tuple(path.split(".")) for path in redaction.fields)

    def value(self, value: Any, under: tuple[str, ...] = ()) -> Any:
        """Frozen plain data that stands under some keys."""
        if under and self._is_named(under) and value is not None:
            return value if type(value) is str and value.startswith("«redacted:") else _mark(encode(_bare(value)), self._key)
        kind = type(value)
        if kind is str:
            return _hidden(value, self._key) if self._shapes else value
        if kind is bytes:
            return self._bytes(value)
        if kind is FrozenDict or kind is dict:
            return self._dict(value, under)
        if kind is FrozenList or kind is list or kind is tuple:
            return self._items(value, under, kind)
        if kind is Rope:
            items = value.items()
            found = self._items(items, under, FrozenList)
            return value if found is items else Rope.of(found)
        if kind is Shared:
            inner = self.value(value.value, under)
            return value if inner is value.value else Shared(inner)
        return value

    def _is_named(self, under: tuple[str, ...]) -> bool:
        return any(under[-len(path) :] == path for path in self._fields)

    def _bytes(self, value: bytes) -> bytes:
        if not self._shapes:
            return value
        text = value.decode("latin-1")
        found = _hidden(text, self._key)
        return value if found is text or found == text else found.encode("latin-1")

    def _dict(self, value: dict[str, Any], under: tuple[str, ...]) -> dict[str, Any]:
        changed = {}
        for key, item in raw_items(value):
            found = self.value(item, (*under, key))
            if found is not item and found != item:
                changed[key] = found
        if not changed:
            return value
        return ordered({**dict(raw_items(value)), **changed}) if type(value) is FrozenDict else {**value, **changed}

    def _items(self, value: Sequence[Any], under: tuple[str, ...], kind: Callable[[list[Any]], Any]) -> Any:
        found = [self.value(item, under) for item in value]
        return value if all(map(_same, found, value)) else kind(found)

    def event(self, event: Event) -> Event:
        """A fact, with its values redacted; the same one if there was nothing to take."""
        changed = {}
        for one in fields(event):
            value = getattr(event, one.name)
            found = _READ[one.name](self, value) if one.name in _READ else value
            if found is not value:
                changed[one.name] = found
        return replace(event, **changed) if changed else event

    def _change(self, change: tuple[Op, ...]) -> tuple[Op, ...]:
        found = tuple(self._op(op) for op in change)
        return change if all(map(_same, found, change)) else found

    def _op(self, op: Op) -> Op:
        value = self.value(op.value, op.path)
        return op if value is op.value else op._replace(value=value)

    def _failure(self, error: Failure | None) -> Failure | None:
        if error is None or (message := self.value(error.message)) == error.message:
            return error
        return replace(error, message=message)


# The fields of facts that hold what users wrote, by how they are read; all others are names, numbers and digests.
_READ: Mapping[str, Callable[[Redactor, Any], Any]] = {
    **dict.fromkeys(
        ("data", "input", "output", "payload", "result", "items", "spec", "why", "signals", "label"), Redactor.value
    ),
    "change": Redactor._change,  # noqa: SLF001 - its own class
    "error": Redactor._failure,  # noqa: SLF001
}


def _same(one: Any, other: Any) -> bool:
    return one is other


def _bare(value: Any) -> Any:
    """A value as the codec takes it: ropes and shared values as what they hold."""
    if type(value) is Rope:
        return [_bare(item) for item in value.items()]
    if type(value) is Shared:
        return _bare(value.value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in raw_items(value)}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    return value

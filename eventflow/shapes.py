"""What secrets look like, and how a text is shown or kept without them. Nothing here knows of values or events.

A shape is a guess that is right for what providers hand out. What is taken out is gone; in its place stands a keyed hash,
so that the same secret is seen to be the same and nobody can look whether it is a certain one.
"""

from __future__ import annotations

import hmac
import os
import re
from typing import NamedTuple

MARK = "«redacted:"  # what stands where a secret was begins so
HASH_SIZE = 6  # bytes of the keyed hash that are shown: of a million secrets no two look the same
_SHORTEST = 12  # characters; no shape is shorter, so a shorter text need not be looked at


class Shape(NamedTuple):
    """How a kind of secret looks; group 1 is what is taken out, where the shape holds more than that."""

    name: str
    pattern: str


# What providers say their keys begin with. What is around a secret stays, so that a sentence can still be read. What may
# begin at many places of a text has a longest length, or a text of nothing else would take the square of its length.
SHAPES: tuple[Shape, ...] = (
    Shape("private key (PEM)", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)"),
    Shape("JSON web token", r"\beyJ[A-Za-z0-9_-]{8,500}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    Shape("OpenAI, Anthropic and alike", r"\bsk-[A-Za-z0-9_-]{16,}"),
    Shape("Google", r"\bAIza[A-Za-z0-9_-]{35}"),
    Shape("Google OAuth", r"\bya29\.[A-Za-z0-9_-]{20,}"),
    Shape("AWS access key id", r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"),
    Shape(
        "AWS secret access key",
        r"(?i:secret_?(?:access_?)?key)[\"']?\s*[:=]\s*[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])",
    ),
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
    Shape(
        "password in a connection string", r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@\"']{0,64}:([^\s/@\"']{1,256})@"
    ),
    Shape("password of libpq or ODBC", r"(?i:\b(?:password|pwd))=([^\s;&\"']{4,})"),
    Shape("eventflow's master key", r"EVENTFLOW\+MASTER\+1\+[A-Za-z0-9+/]{43}="),
)
_PATTERN = re.compile("|".join(f"(?:{one.pattern})" for one in SHAPES), re.DOTALL | re.ASCII)
# What every shape has somewhere: found by one pass, so that ordinary texts cost next to nothing.
_HINT = re.compile(
    r"-----BEGIN|eyJ|sk-|AIza|ya29|A[KSRI][IO]A|AIDA|(?i:key[\"']?\s*[:=])|gh[pousr]_|github_pat|glpat|xox|_live_|_test_"
    r"|hf_|npm_|pypi-|SG\.|(?i:bearer|basic)\s|://[^\s/@\"']{2,321}@|(?i:password=|pwd=)|EVENTFLOW\+"
)
PROCESS_KEY = os.urandom(32)  # for what is only shown, or where no key was given: equal within one process


def hide_secrets(text: str) -> str:
    """The text without what has the shape of a secret: before it is cut, logged or shown."""
    return hidden(text, PROCESS_KEY)


def hidden(text: str, key: bytes) -> str:
    """The text without secrets, each replaced by its hash under a key; the very same text if there is none."""
    if len(text) < _SHORTEST or _HINT.search(text) is None:
        return text

    def taken(found: re.Match[str]) -> str:
        group = next((number for number, held in enumerate(found.groups(), 1) if held is not None), 0)
        start, end = found.span(group)
        before, after = text[found.start() : start], text[end : found.end()]
        return f"{before}{mark(found[group].encode('utf-8', 'surrogatepass'), key)}{after}"

    return _PATTERN.sub(taken, text)


def mark(secret: bytes, key: bytes) -> str:
    """What stands where a secret was."""
    return f"{MARK}{hmac.digest(key, secret, 'sha256')[:HASH_SIZE].hex()}»"

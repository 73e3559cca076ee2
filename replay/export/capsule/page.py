"""The file of a capsule: its page, its data, its history's own bytes; and how the history is taken out again.

A browser is told to obey nothing in it but the one script and the one style whose digests stand at its head. Data stand in
blocks that are no code, in base64 or as JSON without a `<`, so that no text of a history can end its block.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from eventflow.errors import Corrupt, SettingsError

MARK = b"<!doctype html>\n<!-- eventflow capsule 1 -->\n"  # what a capsule's file begins with
MAX_HISTORY = 96 << 20  # bytes of a history that a capsule holds: a browser must read the file as a whole
MAX_CAPSULE = MAX_HISTORY * 2  # bytes of a file that is opened: the history in base64, the view, the page
_HERE = Path(__file__).parent
_HISTORY = b'<script type="application/vnd.eventflow.cborseq+base64" id="history">'
_PROOF = b'<script type="application/vnd.eventflow.proof+base64" id="proof">'
_END = b"</script>"
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


@dataclass(frozen=True, slots=True)
class Capsule:
    """What a capsule's file holds besides its page: a CBOR sequence (empty if it was redacted), the text of a proof."""

    sequence: bytes
    proof: str


def capsule_page(view: Mapping[str, Any], sequence: bytes, proof: str = "") -> bytes:
    """The file of a capsule. Raises SettingsError where a history is too long for one."""
    if len(sequence) > MAX_HISTORY:
        raise SettingsError(
            f"the history has {len(sequence):,} bytes, a capsule holds {MAX_HISTORY:,}; export it as cborseq"
        )
    script, style = _part("capsule.js"), _part("capsule.css")
    filled = Template(_part("capsule.html")).substitute(
        policy=_policy(script, style), title=escape(f"{view['run']} · eventflow capsule"), style=style, script=script,
        view=_embedded(view), history=base64.b64encode(sequence).decode(),
        proof=base64.b64encode(proof.encode()).decode(),
    )  # fmt: skip
    return MARK + filled.encode()


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """A Content Security Policy (W3C CSP Level 3): nothing is loaded, only these two run, no text becomes markup."""
    scripts, styles = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (script, style))
    return (
        f"default-src 'none'; script-src 'sha256-{scripts}'; style-src 'sha256-{styles}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _embedded(value: Any) -> str:
    """JSON that can stand in a page: ASCII only, and nothing in it that a page reads as its own."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for one, code in _UNSAFE.items():
        text = text.replace(one, code)
    return text


# --- taken apart ---------------------------------------------------------------------------------------------------


def is_capsule(data: bytes) -> bool:
    """Whether a file says that it is a capsule."""
    return data.startswith(MARK)


def open_capsule(data: bytes) -> Capsule:
    """What a capsule holds; nothing of its page is read. Raises Corrupt, SettingsError where its history was left out."""
    if not is_capsule(data):
        raise Corrupt("the capsule", "does not begin as one")
    sequence = _block(data, _HISTORY)
    if not sequence:
        raise SettingsError(
            "this capsule was redacted and holds no history, only its page; ask for one that was not, or read it in a browser"
        )
    try:
        return Capsule(sequence, _block(data, _PROOF).decode())
    except UnicodeDecodeError:
        raise Corrupt("the capsule", "holds a proof that is no text") from None


def _block(data: bytes, opening: bytes) -> bytes:
    """The bytes of the one block that begins so."""
    if data.count(opening) != 1:
        raise Corrupt("the capsule", "does not hold exactly one history and one proof")
    start = data.index(opening) + len(opening)
    end = data.find(_END, start)
    if end < 0:
        raise Corrupt("the capsule", "ends in the middle of its history: it was cut")
    try:
        return base64.b64decode(data[start:end], validate=True)
    except ValueError:
        raise Corrupt("the capsule", "holds something in place of a history that is not base64") from None

"""What is fuzzed: every reader of bytes or text from strangers, as a function of bytes that must return or raise an error of ours.

A target that returns has looked at what it got: what was decoded is encoded again, what was parsed is used. Whatever else
is raised is a finding, and so is an input that takes longer than `SECONDS`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "eventflow"))

from hostile_cbor import PLACES

from eventflow import MemoryLog, Workflow
from eventflow.address import moment, resolve
from eventflow.cipher.signing import PublicKey, check_signed
from eventflow.cipher.signing import public_key as read_public_key
from eventflow.cli.batch import where_of
from eventflow.cli.limits import budget_of
from eventflow.cli.shell import json_argument, plain_json, value_text
from eventflow.codec import decode, encode
from eventflow.errors import EventflowError
from eventflow.exchange import export_from
from eventflow.log.postgres.address import parse
from eventflow.markup import cell, visible
from eventflow.plain import freeze
from eventflow.proof.files import parse_proof
from eventflow.proof.note import parse_head, parse_note
from eventflow.schedules import Schedule
from eventflow.shapes import hide_secrets
from eventflow.testing.author import Author
from replay.export.capsule.page import open_capsule
from replay.expression import parse_condition
from replay.path import look, parse_path, path_text

SECONDS = 1.0  # of processor time for one input; the slowest of all targets takes a tenth of it for a page of text
MAX_SECONDS_A_BYTE = 1e-6  # beyond it, for large ones
Target = Callable[[bytes], object]
STATE = freeze({"n": 3, "notes": ["a", {"title": "b"}, None], "score": 0.5, "deep": {"a": {"b": [1, 2]}}, "raw": b"x"})
CORPUS = Path(__file__).with_name("corpus")


def text_of(data: bytes) -> str:
    """A text of any characters, lone surrogates included: as an argument of a process is."""
    return data.decode("utf-8", "surrogateescape")


def cbor(data: bytes) -> object:
    """Strict decoding gives plain data whose canonical bytes these are."""
    value = decode(data, "fuzz", strict=True)
    assert encode(value) == data
    return json.dumps(plain_json(value))


def sequence(data: bytes) -> object:
    """An export is read as a whole and its runs listed."""
    return export_from(data).position()


def capsule(data: bytes) -> object:
    """A capsule is taken apart, and what it holds is read."""
    return export_from(open_capsule(data).sequence).position()


def note(data: bytes) -> object:
    """A note is itself again when written, and its signatures are looked at."""
    text = data.decode("utf-8", "replace")
    found = parse_note(text)
    assert str(found) == text
    with suppress(EventflowError):
        check_signed(found, PublicKey("fuzz", bytes(32)))
    return parse_head(found.text)


def proof(data: bytes) -> object:
    """A proof is itself again when written, and holds or not."""
    text = data.decode("utf-8", "replace")
    found = parse_proof(text)
    assert str(found) == text
    return found.holds


@cache
def _runs() -> MemoryLog:
    log = MemoryLog()
    author = Author(log)
    for name in ("a", "run-1", "run-2"):
        author.start(name)
    return log


def address(data: bytes) -> object:
    """An address names a version of a run that is there, or is refused."""
    found = resolve(_runs(), text_of(data))
    return str(found)


def time_of(data: bytes) -> object:
    """A moment is a number of ns."""
    return int(moment(text_of(data), now=1_700_000_000_000_000_000))


def expression(data: bytes) -> object:
    """A condition holds of a state or does not."""
    return parse_condition(text_of(data)).holds(STATE)


def path(data: bytes) -> object:
    """A path is one again when written, and names something or nothing."""
    found = parse_path(text_of(data))
    assert parse_path(path_text(found)) == found
    return look(STATE, found)


def argument(data: bytes) -> object:
    """JSON of the command line is plain data, and can be printed."""
    if data[:1] == b"@":  # a file's name
        return None
    value = json_argument(text_of(data))
    freeze(value)
    return value_text(value)


def where(data: bytes) -> object:
    """Runs are chosen by words."""
    return where_of(text_of(data))


def limits(data: bytes) -> object:
    """Limits of a run are numbers above zero."""
    return budget_of([text_of(data)])


_FLOW = Workflow("fuzz").add_node("a", lambda state: None).set_start("a")


def known_key(data: bytes) -> object:
    """A public key is itself again when written; what is none is taken for the name of a file, which is not looked for here."""
    if text_of(data).count("+") < 2 or "/" in text_of(data):
        return None
    found = read_public_key(text_of(data))
    assert str(found) == text_of(data).strip()
    return found.key_id


def cron(data: bytes) -> object:
    """A schedule has moments that rise."""
    zone, _, text = text_of(data).partition("|")
    schedule = Schedule(name="s", flow=_FLOW, cron=text, timezone=zone or "UTC")
    found = list(islice(schedule.moments(1_700_000_000_000_000_000), 3))
    assert found == sorted(set(found))
    return found


def postgres(data: bytes) -> object:
    """An address of a database never shows its password."""
    found = parse(text_of(data))
    told = found.scrubbed(found.conninfo)
    assert not any(len(secret) > 3 and secret in told for secret in found.secrets)
    return told


def shown(data: bytes) -> object:
    """A text on a terminal, in a page, without secrets: no control or direction character is left."""
    text = data.decode("utf-8", "replace")
    hide_secrets(text)
    for found in (visible(text), visible(text, lines=True), cell(text, 100_000)):
        assert not any(
            (one < " " and one not in "\n\t")
            or "\x7f" <= one <= "\x9f"
            or one in "\u202a\u202e\u2066\u2069\u200b\ufeff"
            for one in found
        )
    return None


def _place(name: str) -> Target:
    return PLACES[name][0]


TARGETS: dict[str, Target] = {
    "cbor": cbor, "event": _place("an event"), "body": _place("an event's body"), "snapshot": _place("a snapshot"),
    "message": _place("a message"), "key": _place("the file of a key"), "backup": _place("what a backup says"),
    "increment": _place("what an increment says"), "sequence": sequence, "capsule": capsule, "note": note, "proof": proof,
    "address": address, "moment": time_of, "expression": expression, "path": path, "argument": argument, "where": where,
    "limits": limits, "cron": cron, "public_key": known_key, "postgres": postgres, "shown": shown,
}  # fmt: skip


def attempt(name: str, data: bytes) -> float:
    """Give an input to a target; seconds of processor time it took. Raises what is a finding."""
    began = time.process_time()
    with suppress(EventflowError):
        TARGETS[name](data)
    return time.process_time() - began


def bound(data: bytes) -> float:
    """Seconds that an input may take."""
    return SECONDS + len(data) * MAX_SECONDS_A_BYTE


def corpus(name: str) -> Iterator[bytes]:
    """The inputs that are kept of a target: seeds, and what was found before."""
    for file in sorted((CORPUS / name).glob("*")):
        yield file.read_bytes()

"""Capsules: what a page shows is what the history says, and its file gives the history back."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.change import Op
from eventflow.errors import Corrupt, SettingsError
from eventflow.event import Transitioned
from eventflow.exchange import export_from, write_sequence
from eventflow.log import Head, Log, MemoryLog, open_log
from eventflow.plain import freeze, thaw
from eventflow.recovery import recover
from eventflow.testing.author import Author
from replay.export import Redaction, read_file
from replay.export.capsule.encoding import MAX_TEXT, Texts
from replay.export.capsule.page import capsule_page, is_capsule, open_capsule
from replay.export.capsule.view import capsule_view

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(raw: Any, texts: list[str]) -> Any:  # noqa: PLR0911 - a table
    """A value as a page reads it."""
    if not isinstance(raw, list):
        return raw
    kind, *rest = raw
    match kind:
        case "l":
            return [read(one, texts) for one in rest]
        case "d":
            return {read(rest[at], texts): read(rest[at + 1], texts) for at in range(0, len(rest), 2)}
        case "s":
            return texts[rest[0]]
        case "i":
            return int(rest[0])
        case "f":
            return float(rest[0])
        case "b":
            return base64.b64decode(rest[0])
        case _:
            return ("cut", texts[rest[0]], rest[1])


def patched(held: Any, patch: list[Any], texts: list[str]) -> Any:
    """A value with the operations of a JSON Patch done to it."""
    for op, pointer, *raw in patch:
        *parts, name = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
        holder = held
        for part in parts:
            holder = holder[part] if isinstance(holder, dict) else holder[int(part)]
        if isinstance(holder, dict):
            holder.pop(name) if op == "remove" else holder.update({name: read(raw[0], texts)})
        elif op == "add":
            holder.insert(int(name), read(raw[0], texts))
        elif op == "remove":
            holder.pop(int(name))
        else:
            holder[int(name)] = read(raw[0], texts)
    return held


def states(view: dict[str, Any]) -> dict[int, Any]:
    """The state of each version as a page makes it: the last whole one before, and the patches since."""
    found: dict[int, Any] = {}
    held: Any = None
    for event in json.loads(json.dumps(view))["events"]:
        if "state" in event:
            held = None if event["state"] is None else read(event["state"], view["texts"])
        elif "patch" in event:
            held = patched(held, event["patch"], view["texts"])
        found[event["v"]] = copy.deepcopy(held)
    return found


def sequence(log: Log, head: Head) -> bytes:
    """A run's export."""
    file = io.BytesIO()
    write_sequence(log, file, [head])
    return file.getvalue()


@pytest.fixture
def long() -> tuple[Log, Head]:
    """A run of 150 versions whose state grows, is rewound, and is forked."""
    author = Author(MemoryLog())
    head = author.start("long", {"items": [], "n": 0})
    for number in range(100):
        change = (Op("set", ("n",), number), Op("extend", ("items",), freeze([{"text": f"item {number} " * 20}])))
        head = author.add(head, Transitioned("a", "a", change=change))
    head = author.rewind(head, 40)
    fork = author.fork(head, 60, "child", change=(Op("set", ("n",), "forked"),))
    for number in range(89):
        fork = author.add(
            fork, Transitioned("a", "a", change=(Op("set", ("k",), freeze({"n": number} if number % 3 else None)),))
        )
    return author.log, author.rewind(fork, 20)


# --- values --------------------------------------------------------------------------------------------------------


@given(plain)
def test_a_value_is_read_back_as_it_was(value):
    """Whole numbers of any size, floats, bytes, keys of any kind; through JSON as a browser has it."""
    texts = Texts()
    raw = json.loads(json.dumps(texts.of(freeze(value))))
    again = read(raw, texts.table)
    assert again == value
    assert repr(again) == repr(thaw(freeze(value)))


def test_a_number_beyond_2_to_the_53_travels_as_text():
    """And the last one before does not."""
    texts = Texts()
    assert texts.of(2**53) == ["i", "9007199254740992"]
    assert texts.of(2**53 - 1) == 2**53 - 1
    assert texts.of(-(2**53)) == ["i", "-9007199254740992"]


def test_a_text_stands_once_and_is_cut_where_it_is_too_long():
    """A prompt that is sent again each turn costs an index; what was cut is counted."""
    texts = Texts()
    assert texts.of("a" * 50) == texts.of("a" * 50) == ["s", 0]
    assert texts.of("b" * (MAX_TEXT + 1)) == ["t", 1, MAX_TEXT + 1]
    assert (len(texts.table), texts.cut) == (2, 1)


# --- the view ------------------------------------------------------------------------------------------------------


def test_every_version_has_the_state_that_recovery_gives(long):
    """Of a fork too: its parent's versions, what a rewind left, its own; each with its digest."""
    log, head = long
    view = capsule_view(log, head)
    found = states(view)
    assert list(found) == list(range(1, head.version + 1))
    for event in view["events"]:
        state = recover(log, head, event["v"]).state
        assert found[event["v"]] == thaw(state.data), event["v"]
        assert (event["digest"], event["status"], event["at"]) == (state.digest.hex(), state.status, state.node)
    frames = [event["v"] for event in view["events"] if "state" in event]
    assert 1 < len(frames) < head.version // 4


def test_what_is_not_on_the_line_says_so(long):
    """A rewind takes versions off it; the page marks them."""
    log, head = long
    view = capsule_view(log, head)
    assert [event["v"] for event in view["events"] if not event.get("aside")] == [*range(1, 21), head.version]
    assert {event.get("run") for event in view["events"][:60]} == {"long"}


@pytest.mark.parametrize("limit", [3_000, 20_000, 60_000])
def test_a_view_has_a_limit_and_says_what_it_left_out(long, limit):
    """States go first; what is there is right, and the newest state has the best chance."""
    log, head = long
    view = capsule_view(log, head, limit=limit)
    found = states(view)
    assert view["left_out"]["states"] == sum(event.get("state", 0) is None for event in view["events"])
    assert view["left_out"]["states"] > 0
    unknown = False
    for event in view["events"]:
        unknown = event["state"] is None if "state" in event else unknown
        if not unknown:
            assert found[event["v"]] == thaw(recover(log, head, event["v"]).state.data)


def test_of_a_very_long_history_the_beginning_and_the_end_are_shown(long):
    """And what lies between is counted; the first after the gap has a whole state."""
    log, head = long
    view = capsule_view(log, head, most=40)
    shown = [event["v"] for event in view["events"]]
    assert shown == [*range(1, 11), *range(head.version - 29, head.version + 1)]
    assert view["left_out"]["versions"] == head.version - 40
    assert states(view)[head.version] == thaw(recover(log, head).state.data)
    assert view["events"][10]["state"] is not None


def test_a_broken_chain_makes_no_page(hostile):
    """Nothing is shown that does not hold."""
    log = open_log("runs.eventflow", readonly=True)
    data = sequence(log, hostile)
    log.close()
    again = export_from(data, check=False)
    again._events[2] = again._events[2].replace(b"output_tokens", b"output_tokans")
    with pytest.raises(Corrupt):
        capsule_view(again, again.head("evil"))


# --- the file ------------------------------------------------------------------------------------------------------


def test_a_page_is_a_function_of_its_history(hostile):
    """Made from the store or from its own bytes, it is the same file."""
    log = open_log("runs.eventflow", readonly=True)
    data = sequence(log, hostile)
    page = capsule_page(capsule_view(log, hostile), data)
    log.close()
    again = export_from(open_capsule(page).sequence)
    assert open_capsule(page).sequence == data
    assert capsule_page(capsule_view(again, again.head("evil")), data) == page


def test_a_forks_view_is_the_same_from_its_own_bytes(long):
    """Its parent is there only as far as the fork goes on from it."""
    log, head = long
    again = export_from(sequence(log, head), check=False)
    assert capsule_view(again, again.head("child")) == capsule_view(log, head)


def test_no_text_of_a_history_is_markup(hostile):
    """Outside of its own script and style, a page has no angle bracket and no control character that is not its own."""
    log = open_log("runs.eventflow", readonly=True)
    page = capsule_page(capsule_view(log, hostile), sequence(log, hostile), "a </script> proof").decode()
    log.close()
    assert page.count("</script") == 4
    assert page.count("<script") == 4
    view = re.search(r'<script type="application/json" id="view">(.*?)</script>', page, re.DOTALL)[1]
    assert not set("<>&\n\u2028\u202e\x1b") & set(view)
    assert view.isascii()
    assert json.loads(view)["workflow"] == "<script>alert(1)</script>"
    assert "<title>evil · eventflow capsule</title>" in page


def test_a_policy_lets_only_the_pages_own_script_and_style_run(hostile):
    """By their SHA-256; nothing is loaded from anywhere, and no text may become markup."""
    log = open_log("runs.eventflow", readonly=True)
    page = capsule_page(capsule_view(log, hostile), b"").decode()
    log.close()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for kind, text in (("script", page.rpartition("<script>")[2]), ("style", page.partition("<style>")[2])):
        inner = text.partition(f"</{kind}>")[0]
        hashed = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{hashed}'" in policy
        assert not re.search(
            r"innerHTML|insertAdjacent|document\.write|eval\(|fetch\(|https?://(?!www\.w3\.org/2000/svg)", inner
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[1:],
        lambda data: data.replace(b'id="history">', b'id="history">*'),
        lambda data: data.replace(b'id="history">', b'id="historie">'),
        lambda data: data + b'<script type="application/vnd.eventflow.cborseq+base64" id="history">AAAA</script>',
        lambda data: data[: data.index(b'id="history">') + 20],
    ],
)
def test_what_is_no_whole_capsule_is_not_opened(hostile, spoil):
    """Neither one that does not begin so, nor one with no history, two, or half of one."""
    log = open_log("runs.eventflow", readonly=True)
    page = capsule_page(capsule_view(log, hostile), sequence(log, hostile))
    log.close()
    assert is_capsule(page)
    with pytest.raises(Corrupt):
        open_capsule(spoil(page))


def test_a_redacted_capsule_holds_no_history(hostile, tmp_path):
    """What was taken out is nowhere in it, so it can be looked at and not opened."""
    log = open_log("runs.eventflow", readonly=True)
    redaction = Redaction(["texts", "messages", "output", "answer", "payload", "spec", "keys", "message"])
    view = capsule_view(log, hostile, redaction=redaction)
    log.close()
    assert not re.search("pwned|onerror", json.dumps([view["events"], view["texts"]]))
    page = capsule_page(view, b"")
    (tmp_path / "red.html").write_bytes(page)
    with pytest.raises(SettingsError, match="redacted"):
        read_file(tmp_path / "red.html")

"""Redaction: secrets are taken out before the log, before they are cut, and before they are shown."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Agent, Engine, Keyring, Redaction, Wait, Workflow
from eventflow.change import Op
from eventflow.cipher import MasterKey
from eventflow.cli.shell import value_text, visible
from eventflow.codec import Shared
from eventflow.errors import EventflowError
from eventflow.log import open_log
from eventflow.markup import cell
from eventflow.plain import FrozenList, Rope, freeze
from eventflow.recovery import recover
from eventflow.redaction import Redactor
from eventflow.run import failure_of, redactor_for
from eventflow.shapes import SHAPES, hide_secrets
from eventflow.testing import ModelServer, Reply
from tests.eventflow.test_cipher_store import found_in

# One of each shape, put together here so that no scanner takes this file for a leak: (shape's name, text around, secret).
BODY = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
SECRETS = [
    (
        "private key (PEM)",
        "key: {}",
        f"-----BEGIN RSA PRIVATE {'KEY'}-----\n{BODY}\n{BODY}\n-----END RSA PRIVATE {'KEY'}-----",
    ),
    ("JSON web token", "token {} sent", f"eyJ{BODY[:12]}.eyJ{BODY[:20]}.{BODY}"),
    ("OpenAI, Anthropic and alike", "Incorrect API key provided: {}.", f"sk-proj-{BODY}"),
    ("OpenAI, Anthropic and alike", "x-api-key: {}", f"sk-ant-api03-{BODY}"),
    ("Google", "key={}", f"AIza{BODY}abc"),
    ("Google OAuth", "{}", f"ya29.{BODY}"),
    ("AWS access key id", "id {} and", "AKIA" + "ABCDEFGHIJKLMNOP"),
    ("AWS secret access key", "aws_secret_access_key = {}", (BODY * 2)[:40]),
    ("Azure storage", "AccountName=x;AccountKey={};", BODY * 2 + "=="),
    ("GitHub", "remote {}", f"ghp_{BODY}abcd"),
    ("GitHub", "remote {}", f"github_pat_{BODY}"),
    ("GitLab", "{}", f"glpat-{BODY[:20]}"),
    ("Slack", "{}", f"xoxb-123456789-{BODY}"),
    ("Stripe", "{}", f"sk_live_{BODY}"),
    ("Hugging Face", "{}", f"hf_{BODY}"),
    ("npm", "{}", f"npm_{BODY}abcd"),
    ("PyPI", "{}", f"pypi-{BODY}{BODY}"),
    ("SendGrid", "{}", f"SG.{BODY[:22]}.{BODY}"),
    ("bearer token", "Authorization: Bearer {}", f"{BODY}.x"),
    ("basic authorization", "Authorization: Basic {}", "dXNlcjpwYXNzd29yZA=="),
    ("password in a connection string", "postgresql://app:{}@db.example.com/x", "hunter2secret"),
    ("password of libpq or ODBC", "host=db password={} dbname=x", "hunter2secret"),
    ("eventflow's master key", "{}", "EVENTFLOW+MASTER+1+" + "A" * 43 + "="),
]
IDS = [f"{number} {name}" for number, (name, _, _) in enumerate(SECRETS)]
HARMLESS = [
    "", "a task-based ask-me-anything", "the key: of the matter", "https://example.com/a@b", "bearer of bad news",
    "sk-short", "passwords are kept elsewhere", "the basic idea is simple", "eyJust a word", "http://localhost:8000/x",
    "risk-averse-and-very-long-words-are-fine", "disk-usage-of-the-whole-machine",
]  # fmt: skip


def test_every_shape_has_an_example_here():
    """A shape that is added to the table is tested too."""
    assert {name for name, _, _ in SECRETS} == {one.name for one in SHAPES}


@pytest.mark.parametrize(("name", "around", "secret"), SECRETS, ids=IDS)
def test_a_secret_of_a_known_shape_is_taken_out_and_the_rest_stays(name, around, secret):
    """What is around it can still be read; nothing of it can."""
    found = hide_secrets(around.format(secret))
    before, _, after = around.partition("{}")
    assert found.startswith(before)
    assert found.endswith(after)
    assert "«redacted:" in found
    assert not any(secret[at : at + 10] in found for at in range(max(1, len(secret) - 10)))


@pytest.mark.parametrize("text", HARMLESS)
def test_an_ordinary_text_is_the_very_same_object(text):
    """Redaction costs a look and nothing else."""
    assert hide_secrets(text) is text


@given(st.text(max_size=200), st.sampled_from(SECRETS), st.text(max_size=200))
def test_a_secret_is_found_in_the_middle_of_anything(before, one, after):
    """Whatever stands around it, as long as it stands on its own."""
    _, around, secret = one
    found = hide_secrets(f"{before} {around.format(secret)} {after}")
    assert secret not in found


def test_the_same_secret_has_the_same_hash_and_no_other_has_it():
    """Keyed: with another key it is another one."""
    texts = [f"sk-{BODY}", f"sk-{BODY}", f"sk-{BODY[::-1]}"]
    one, same, other = (Redactor(Redaction(key=b"a" * 32)).value(text) for text in texts)
    assert one == same != other
    assert Redactor(Redaction(key=b"b" * 32)).value(texts[0]) != one


def test_a_declared_field_goes_wherever_it_stands():
    """At the top, below lists and in changes; whole, whatever type it is; nothing else goes."""
    redactor = Redactor(Redaction(fields=["ssn", "user.pin"], shapes=False))
    data = freeze(
        {"ssn": "123", "user": {"pin": 4711, "name": "eve"}, "pin": 1, "rows": [{"ssn": [1, 2]}, {"x": None}]}
    )
    found = redactor.value(data)
    assert found["ssn"].startswith("«redacted:")
    assert found["user"]["pin"].startswith("«redacted:")
    assert (found["user"]["name"], found["pin"], found["rows"][1]) == ("eve", 1, {"x": None})
    assert found["rows"][0]["ssn"].startswith("«redacted:")
    assert redactor.value(found) == found
    change = (
        Op("set", ("user",), freeze({"pin": 1})),
        Op("extend", ("ssn",), freeze(["a"])),
        Op("set", ("n",), 1),
        Op("add", ("ssn",), 7),
    )
    cleaned = redactor.change(change)
    assert cleaned[0].value["pin"].startswith("«redacted:")
    assert (cleaned[1].op, len(cleaned[1].value)) == ("extend", 1)
    assert cleaned[1].value[0].startswith("«redacted:")
    assert cleaned[2] is change[2]
    assert cleaned[3].op == "set"  # nothing can be added to what stands there now


def test_values_without_secrets_are_the_very_same_objects():
    """Dicts, lists, long lists, shared values and bytes; those with one are not."""
    redactor, secret = Redactor(Redaction()), f"sk-{BODY}"
    for clean in (
        freeze({"a": [1, "b", None, b"c"]}),
        Rope.of(["x"] * 600),
        Shared(freeze(["a"])),
        b"bytes",
        1.5,
        None,
    ):
        assert redactor.value(clean) is clean
    assert secret not in str(redactor.value(freeze({"a": [{"b": secret}]})))
    assert secret not in redactor.value(Rope.of(["x", secret])).items()
    assert redactor.value(Shared(freeze([secret]))).value != FrozenList([secret])
    assert secret.encode() not in redactor.value(b"\xff" + secret.encode() + b"\xfe")


def test_half_a_secret_is_not_shown_where_a_value_is_cut():
    """In a cell of a page the value is without secrets before it is cut."""
    assert BODY[:8] not in cell(f"{'x' * 80} sk-{BODY}", limit=95)


# --- before the log ------------------------------------------------------------------------------------------------

TOKEN, PIN = f"sk-proj-{BODY}", "4711-0815"


async def call(auth):
    """A call whose result repeats its input, and whose error tells it."""
    return {"sent": auth, "pin": PIN}


def refused(state):
    """An error with a secret in it, which a library may well raise."""
    raise RuntimeError(f"401: Incorrect API key provided: {TOKEN} " + "x" * 3_000)


GIVEN: list[str] = []  # what calls returned to the code that made them


async def leaking(state, run):
    """Leaks in every way."""
    got = await run.effect("call", call, f"Bearer {TOKEN}")
    GIVEN.append(str(got))
    return {"got": got, "headers": [{"authorization": f"Bearer {TOKEN}"}], "pin": PIN}


FLOW = (
    Workflow("leaking").add_node("a", leaking).add_node("wait", Wait(signal="go", writes="sent")).add_node("bad", refused)
    .add_edge("a", "wait").add_edge("wait", "bad").set_start("a")
)  # fmt: skip


async def leaked(store, redact):
    """A run that leaks; returns its final state as it was recovered."""
    async with Engine(store, workflows=[FLOW], redact=redact) as engine:
        run = await engine.start(FLOW, {"q": f"use {TOKEN}", "pin": PIN}, run_id="r")
        while engine.get("r").status != "waiting":
            await asyncio.sleep(0.005)
        await run.signal("unread", f"by its handle {TOKEN}")
        await engine.signal("r", "go", {"note": f"key {TOKEN}", "pin": PIN})
        with pytest.raises(EventflowError) as told:
            await run.result()
        assert TOKEN not in "".join(traceback.format_exception(told.value)) or redact is None
        await engine.fork("r@2", run_id="fork", change={"q": f"now {TOKEN}"}, why=f"for {TOKEN}")
        await engine.checkpoint("r", label=f"before {TOKEN}", why=TOKEN)
        await engine.prune_checkpoints("r", keep=1, why=TOKEN)
        await engine.pause("fork", why=TOKEN)
        await engine.cancel("fork", why=TOKEN)
        await engine.fork("r@2", run_id="gone", drive=False)
        await engine.delete("gone", why=TOKEN)
        lived, recovered = engine.get("r").state, recover(engine.log, engine.log.head("r")).state
        assert lived == recovered
        return recovered


def test_no_secret_reaches_the_files_of_a_store(tmp_path):
    """Neither by input, change, call, result, signal, error, fork, label nor reason; the state lived through is the one recovered."""
    state = asyncio.run(leaked(tmp_path / "s", Redaction(fields=["pin"])))
    assert found_in(tmp_path / "s", [TOKEN, TOKEN[:14], PIN]) == set()
    data = str(dict(state.data))
    assert TOKEN not in GIVEN[-1]  # what is given now is what a recovery would give
    assert "Bearer «redacted:" in data
    assert TOKEN not in data
    assert data.count(state.data["pin"]) >= 3  # the same secret, recognisably the same


def test_the_same_run_without_redaction_leaves_them_there(tmp_path):
    """The control; only what an error says is always redacted."""
    state = asyncio.run(leaked(tmp_path / "s", None))
    assert {TOKEN, PIN} <= found_in(tmp_path / "s", [TOKEN, PIN])
    assert TOKEN not in state.error.message


def test_hashes_of_an_encrypted_store_are_comparable_between_processes():
    """They are keyed by the store's own key, which nobody has without the master key."""
    inner, ring = "memory", Keyring(MasterKey(b"m" * 32))
    log = open_log(inner, keys=ring)
    one, two = (redactor_for(Redaction(), log).value(TOKEN) for _ in range(2))
    assert one == two != hide_secrets(TOKEN)


# --- before it is cut and shown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece",
    ["://", "-eyJ", "-eyJaaaaaaaa.bbbbbbbb", "a://b:", "-----BEGIN ", "-----END ", "sk-a", "SG.aaaaaaaaaaaaaaaa-", "bearer ", "key\t", "pwd=",
     "secret_key = ", "a1+.-", "authorization: basic "],
)  # fmt: skip
def test_hiding_secrets_takes_time_in_proportion(piece):
    """A megabyte of what a shape may begin with takes a moment: no text is gone over again and again."""
    text = f"{piece * (1_000_000 // len(piece))} eyJ ://x@"
    began = time.process_time()
    hide_secrets(text)
    assert time.process_time() - began < 5  # the square of its length would take an hour


def test_a_secret_at_the_edge_of_a_cut_is_not_left_in_half():
    """An error's sentence and a value in a table are redacted before they are shortened."""
    for place in range(1_960, 2_001, 7):
        message = failure_of(RuntimeError("x" * place + " " + TOKEN)).message
        assert TOKEN[:12] not in message
    for place in range(560, 601, 7):
        assert TOKEN[:12] not in value_text("x" * place + " " + TOKEN + "y" * 500)


def test_a_secret_is_not_shown_on_a_terminal():
    """Whatever a log holds: tables, sentences and errors pass through one place."""
    assert TOKEN not in visible(f"an error: {TOKEN}")


# --- API keys ------------------------------------------------------------------------------------------------------


def test_an_api_key_is_nowhere_after_a_failing_agent(tmp_path, caplog, monkeypatch):
    """Not in files, logs, errors or tracebacks, though the server repeats it in its answer."""
    key = f"sk-proj-{BODY[::-1]}"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    caplog.set_level(logging.DEBUG)

    async def go(server):
        agent = Agent(model="m", reads="q", writes="r", base_url=server.base_url)
        flow = Workflow("f").add_node("a", agent).set_start("a")
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "hello", "r": ""}, run_id="r")
            with pytest.raises(EventflowError) as told:
                await run.result()
            assert engine.get("r").status == "failed"
            return "".join(traceback.format_exception(told.value)) + repr(told.value) + repr(flow)

    with ModelServer([Reply(f"Incorrect API key provided: {key}", status=401)] * 9) as server:
        said = asyncio.run(go(server))
    assert found_in(tmp_path / "s", [key, key[8:]]) == set()
    assert key not in said + caplog.text

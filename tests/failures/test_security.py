"""How systems like this one were broken into: each test has the shape of a published failure, named beside it."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from typing import Any

import pytest

from eventflow import Agent, Engine, MemoryLog, RunFailed, Workflow
from eventflow.address import check_run_id, find_run
from eventflow.cli.batch import where_of
from eventflow.cli.shell import json_argument, value_text
from eventflow.codec import decode, encode
from eventflow.errors import Corrupt, EventflowError, NotPlainData, ProofFailed, RunNotFound, SettingsError
from eventflow.exchange import export_from, write_sequence
from eventflow.log import LmdbLog, Query, open_log
from eventflow.markup import cell
from eventflow.plain import freeze, thaw
from eventflow.proof.merkle import is_consistent
from eventflow.recovery import recover
from eventflow.testing import ModelServer
from eventflow.testing.author import Author
from replay.expression import parse_condition

ROOT = Path(__file__).parents[2]
SOURCES = [path for name in ("eventflow", "replay") for path in (ROOT / name).rglob("*.py")]


# --- CVE-2025-64439: a lone surrogate from a model made a serializer fall back to one that builds objects --------------


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80" * 50])
def test_a_lone_surrogate_is_no_way_to_another_codec(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that returns one fails with a sentence; a model that says one is taken down with a replacement."""
    flow = Workflow("f").add_node("a", lambda state: {"x": text}).set_start("a")
    with pytest.raises(RunFailed, match="surrogate"):
        flow.run_sync({})
    for key in (text, f"k{text}"):
        with pytest.raises(NotPlainData, match=r"surrogate|text"):
            freeze({key: 1})
    with ModelServer([f"said {text} so"]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "none-needed")
        agent = Workflow("g").add_node("ask", Agent(model="m", reads="q", writes="a")).set_start("ask")
        answer = agent.run_sync({"q": "?"})["a"]
    assert answer.encode()
    assert answer.startswith("said ")


def test_there_is_one_codec_and_nothing_to_fall_back_on() -> None:
    """What can't be encoded is an error, and no except clause anywhere tries another way to write it."""
    for value in (object(), {1, 2}, lambda: None, 1j, 2**70, {"x": open}):
        with pytest.raises(NotPlainData):
            freeze(value)
    doors = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "cbor2" in path.read_text() and "import cbor2" in path.read_text()
    }
    assert doors == {"eventflow/codec/cbor.py"}


# --- CVE-2025-67644, CVE-2026-27022: what filters are named went into a query ------------------------------------------

INJECTIONS = [
    "x' OR '1'='1",
    "x'); DROP TABLE log;--",
    "@tag:{*}",
    "%",
    "_",
    "*",
    "x\x00y",
    "~store",
    "..",
    "",
    "x' UNION SELECT *",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_what_is_looked_for_is_never_part_of_a_query(text: str, tmp_path: Path) -> None:
    """Keys of a filter are from a short list; values and ids are data, in a store on disk and in memory."""
    for key in (text, f"status {text}", "__class__", "tag.x", "status'--"):
        with pytest.raises(SettingsError):
            where_of(f"{key}=x")
    for log in (MemoryLog(), LmdbLog(tmp_path / "s")):
        Author(log).start("a", tags=["secret"], workflow="w")
        for query in (Query(workflow=text), Query(tag=text)):
            assert [*log.runs(query)] == []
        with pytest.raises(RunNotFound):
            find_run(log, text or "%")
        log.close()


def test_no_sql_is_put_together_from_values() -> None:
    """Everything that is formatted into a statement is a name that an address was checked for, or a number of columns."""
    for path in (ROOT / "eventflow" / "log" / "postgres").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("execute", "executemany")
            ):
                said = node.args[0]
                assert not isinstance(said, ast.JoinedStr), f"{path}:{node.lineno}"
                assert not (isinstance(said, ast.BinOp) and isinstance(said.op, ast.Mod | ast.Add)), (
                    f"{path}:{node.lineno}"
                )


# --- CVE-2025-68664, CVE-2026-28277: maps that were taken for objects ------------------------------------------------

CONSTRUCTORS: list[dict[str, Any]] = [
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "id"}},
    {"lc": 2, "type": "secret", "id": ["OPENAI_API_KEY"]},
    {"__class__": "os.system", "__init__": ["id"]},
    {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, ["id"]]},
    {"$ref": "#/x", "$type": "System.Diagnostics.Process"},
    {"!!python/object/apply:os.system": ["id"]},
    {"base64": "AAAA"},
    {"float": "nan"},
    {"gone": "x", "eventflow": "eventflow export"},
]


@pytest.mark.parametrize("value", CONSTRUCTORS, ids=lambda one: next(iter(one)))
def test_a_map_is_never_taken_for_an_object(
    value: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its keys are, it goes through input, event, snapshot and answer as the map that it is."""
    monkeypatch.setenv("OPENAI_API_KEY", "never-seen")
    flow = Workflow("f").add_node("a", lambda state: {"got": state["x"]}).set_start("a")
    ended = flow.run_sync({"x": value, "list": [value]})
    assert ended["got"] == value
    assert type(thaw(freeze(value))) is dict
    assert decode(encode(value), "x", strict=True) == value
    assert json_argument(json.dumps(value)) == value
    assert "never-seen" not in str(ended)


# --- CVE-2026-27794: a pickle was read where nothing else fitted ------------------------------------------------------

PICKLES = [
    b"cos\nsystem\n(S'id'\ntR.",
    b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
]


@pytest.mark.parametrize("data", PICKLES)
def test_a_pickle_is_bytes_like_any_other(data: bytes) -> None:
    """Where CBOR is expected it is refused; as a value it stays bytes."""
    with pytest.raises(Corrupt):
        decode(data, "x", strict=True)
    with pytest.raises(EventflowError):
        export_from(data)
    assert (
        Workflow("f").add_node("a", lambda state: {"got": state["x"]}).set_start("a").run_sync({"x": data})["got"]
        == data
    )


# --- CVE-2026-26209: nesting without end ------------------------------------------------------------------------------


def test_nesting_ends_before_the_stack_does() -> None:
    """In what nodes return, in JSON from models and command lines, and in bytes."""
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(NotPlainData, match="deep"):
        freeze(deep)
    with pytest.raises(SettingsError):
        json_argument("[" * 50_000 + "]" * 50_000)
    with pytest.raises(Corrupt):
        decode(b"\x81" * 500_000 + b"\x00", "x")


# --- Langfuse, May 2026: keys of attributes reached the prototypes of objects -----------------------------------------


@pytest.mark.parametrize(
    "key", ["__proto__", "constructor", "prototype", "__class__", "__init__", "__dict__", "toString", "__globals__"]
)
def test_a_key_is_a_key_whatever_it_is_called(key: str) -> None:
    """In a state, and in a question to one: it names what the data hold there, and nothing that an object has."""
    state = freeze({"user": {key: {"polluted": True}}, "other": {}})
    assert parse_condition(f"user.{key}.polluted").holds(state)
    assert not parse_condition(f"other.{key} != 0").holds(state)
    assert not parse_condition(f"{key} != 0").holds(state)
    flow = Workflow("f").add_node("a", lambda state: {"got": dict(state["x"])}).set_start("a")
    assert flow.run_sync({"x": {key: 1}})["got"] == {key: 1}


# --- CVE-2025-68438: what was cut before it was masked ----------------------------------------------------------------


@pytest.mark.parametrize("before", range(150, 420, 10))
def test_a_secret_is_masked_before_a_text_is_cut(before: int) -> None:
    """Wherever the cut falls, in a cell of a page and of a terminal: no half of it is left."""
    secret = "sk-" + "Ab3dEf6h" * 6
    text = f"{'x ' * (before // 2)}{secret}{' y' * 400}"
    for shown in (cell(text), value_text(text), value_text([text]), value_text({"key": text})):
        assert "Ab3dEf6h" not in shown


# --- LangSmith, 2026: one layer decoded a path that another had checked ------------------------------------------------


@pytest.mark.parametrize(
    "run_id",
    ["..", "a/../b", "..%2f..%2fetc", "%2e%2e", "a%2Fb", "a%252fb", "a\\..\\b", "/etc/passwd", "a\x00b", ".hidden", "-rf", "~store", "a b",
     "a\nb", "\uff0e\uff0e\uff0f", "a\u2215b", "x" * 129, "", "C:\\x", "con/", "a..b", "a@1", "a?b", "a#b", "a;b", "$(id)", "`id`", "a|b", "*"],
)  # fmt: skip
def test_an_id_holds_nothing_that_a_path_or_a_shell_reads(run_id: str, tmp_path: Path) -> None:
    """It is refused when a run is started, when it is looked for, and when it comes in an export."""
    with pytest.raises(SettingsError):
        check_run_id(run_id)
    with pytest.raises((RunNotFound, SettingsError)):
        find_run(MemoryLog(), run_id)
    if run_id == "~store":  # the name of a store's own stream, which no log lets anybody begin again
        return
    log = MemoryLog()
    Author(log).start(run_id)
    file = io.BytesIO()
    write_sequence(log, file, None)
    with pytest.raises(Corrupt, match="an id that no run has"):
        export_from(file.getvalue())


@pytest.mark.parametrize("run_id", ["CON", "constructor", "null", "a:b", "0", "a.b-c_d", "x" * 128])
def test_an_id_that_is_only_a_word_elsewhere_is_harmless(run_id: str, tmp_path: Path) -> None:
    """It names a run like any other, and no file."""
    log = open_log(tmp_path / "s")
    head = Author(log).start(check_run_id(run_id), {"x": 1})
    assert find_run(log, run_id) == head
    assert recover(log, head).state.data == {"x": 1}
    log.close()
    assert not [one for one in tmp_path.rglob("*") if run_id.lower() in one.name.lower() and len(run_id) > 1]


# --- GHSA-672p-m5jq-mrh8: a part of a proof that nobody looked at -----------------------------------------------------


def test_a_proof_that_says_more_or_less_than_is_looked_at_does_not_hold() -> None:
    """A path with a digest too many, too few or exchanged proves nothing, also where the trees are equal."""
    root, other = bytes(32), b"o" * 32
    for path in ((), (root,), (other,), (root, other)):
        assert not is_consistent((1, root), (2, other), path)
        assert not is_consistent((2, root), (2, other), path)
    assert not is_consistent((2, root), (2, root), (other,))
    assert is_consistent((2, root), (2, root), ())


# --- CVE-2025-49596, CVE-2025-66414: "localhost" was taken for authentication -----------------------------------------


def test_nothing_of_ours_listens() -> None:
    """No part of the package opens a port, but the scripted model server for tests, on this machine's own address."""
    for path in SOURCES:
        text = path.read_text()
        listens = any(
            word in text for word in ("HTTPServer", "socketserver", "create_server(", "start_server(", ".listen(")
        )
        assert not listens or "testing/model_server" in path.as_posix(), path
    with ModelServer([]) as server:
        assert server.base_url.startswith("http://127.0.0.1:")


# --- a file from a stranger names places ----------------------------------------------------------------------------


def test_nothing_of_a_stranger_s_file_names_a_place_here(tmp_path: Path) -> None:
    """A link in the place of a store, a key or an export's goal is not followed, and no name in a file is a path."""
    from eventflow.cipher.files import read_private, write_new  # noqa: PLC0415 - of this test alone

    (tmp_path / "aim").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "aim")
    with pytest.raises(SettingsError):
        read_private(tmp_path / "link", 99)
    with pytest.raises(SettingsError):
        write_new(tmp_path / "link", b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError):
        write_new(tmp_path / "dangling", b"x")
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "aim").read_text() == "mine"


def test_there_is_no_output_as_csv() -> None:
    """So no spreadsheet takes a cell for a formula; whoever adds one must put an apostrophe before what begins one."""
    for path in SOURCES:
        assert "import csv" not in path.read_text(), path


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"<!doctype html>\n<!-- eventflow capsule 1 -->\n", b"\xff" * 99]
)
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    """An archive, a page without a history, nothing at all."""
    with pytest.raises((Corrupt, ProofFailed)):
        export_from(data)


def test_an_engine_refuses_such_an_id_too() -> None:
    """The check stands where a run begins, not at the command line alone."""
    flow = Workflow("f").add_node("a", lambda state: None).set_start("a")

    async def begun() -> None:
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="../x")

    import asyncio  # noqa: PLC0415 - of this test alone

    with pytest.raises(SettingsError, match="can't be a run id"):
        asyncio.run(begun())

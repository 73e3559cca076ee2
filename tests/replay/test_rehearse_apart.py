"""A rehearsal in a process of its own, behind the fence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eventflow.log import Head, open_log
from replay.rehearse import Limits, Rehearsal, RehearsalFailed, Source, rehearse_apart
from replay.rehearse.report import Finding, Receipt, RunReport

ROOT = Path(__file__).parents[2]
CODE = """
import asyncio, ctypes, multiprocessing, os, socket, sqlite3, subprocess, syslog, tempfile
from pathlib import Path
from eventflow import Workflow


def one(body, guard=None):
    flow = Workflow("work").add_node("only", body).add_node("end", lambda state: None).set_start("only")
    return flow.add_edge("only", "end", when=guard) if guard else flow.add_edge("only", "end")


flow = one(lambda state: {"n": 2})


def reaching(state):
    attempts = [
        lambda: socket.create_connection(("127.0.0.1", 9)), lambda: socket.getaddrinfo("example.com", 80),
        lambda: subprocess.run(["true"]), lambda: os.system("true"), lambda: os.execv("/bin/true", ["true"]),
        lambda: os.posix_spawn("/bin/true", ["true"], {}), os.fork, lambda: open("outside", "w"),
        lambda: Path("kept").unlink(), lambda: os.mkdir("made"), lambda: Path("kept").rename("moved"),
        lambda: os.rename(tempfile.mkstemp()[1], "moved"), lambda: os.symlink("kept", "link"),
        lambda: sqlite3.connect("rows.db"), lambda: syslog.syslog("x"),
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    ]
    for attempt in attempts:
        try:
            attempt()
        except OSError:
            pass
    return {"n": 2}


async def awaiting(state):
    await asyncio.open_connection("127.0.0.1", 9)
    return {"n": 2}


def bare(state):
    "A system call that no hook sees."
    library = ctypes.CDLL(None, use_errno=True)
    one = library.socket(2, 1, 0)
    address = (2).to_bytes(2, "little") + (9).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
    library.connect(one, address, 16)
    return {"n": ctypes.get_errno()}


def writing(state):
    with tempfile.TemporaryFile("w") as file:
        file.write("x")
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("x")
    with tempfile.TemporaryDirectory() as directory:
        for name in (":memory:", os.path.join(directory, "rows.db")):
            sqlite3.connect(name).execute("create table rows (one)").connection.close()
        (Path(directory) / "below").mkdir()
        (Path(directory) / "below" / "file").write_text("x")
    open(os.devnull, "w").close()
    print("what a body prints is no part of the answer")
    return {"n": 2}


def hung(state):
    while True:
        pass


def dies(state):
    os._exit(9)


async def slow(state):
    await asyncio.sleep(30)


def guarded(state):
    socket.create_connection(("127.0.0.1", 9))


reaches, awaits, unseen, writes, hangs, ends, sleeps = map(one, [reaching, awaiting, bare, writing, hung, dies, slow])
asks = one(lambda state: {"n": 2}, guarded)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with the module `work` and a store with one run of its workflow."""
    directory = tmp_path_factory.mktemp("apart")
    (directory / "work.py").write_text(CODE)
    (directory / "early.py").write_text("import socket\nsocket.create_connection(('127.0.0.1', 9))\n")
    (directory / "kept").write_text("x")
    subprocess.run(
        [sys.executable, "-m", "eventflow", "run", "work.py:flow", "--id", "r", "--input", "{}"],
        cwd=directory, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=True, capture_output=True,
    )  # fmt: skip
    return directory


def held(place: Path, name: str, *, nodes: bool = True, limit: float = 5.0) -> Rehearsal:
    """The run rehearsed with a workflow of the module."""
    return rehearse_apart([source(place)], f"work.py:{name}", nodes=nodes, limits=Limits(limit, (), str(place)))


def source(place: Path) -> Source:
    """The run of the store."""
    return Source(str(place / "runs.eventflow"), (head(place).run_id,))


def head(place: Path) -> Head:
    """The run's head."""
    log = open_log(place / "runs.eventflow", readonly=True)
    try:
        found = log.head("r")
        assert found is not None
        return found
    finally:
        log.close()


def test_the_same_code_is_the_same(place):
    """With guards alone and with bodies; the receipt says what was done and behind what."""
    for nodes, bodies in ((False, 0), (True, 2)):
        found = held(place, "flow", nodes=nodes)
        assert (found.same, found.receipt.bodies, found.receipt.blocked, found.skipped) == (True, bodies, [], 0)
        assert found.isolation.startswith("an audit hook")


def test_every_way_out_is_blocked_and_named(place):
    """Though the body catches what it is refused with, and nothing is left behind."""
    before = sorted(one.name for one in place.iterdir())
    found = held(place, "reaches")
    blocked = [one.removeprefix("node 'only': ") for one in found.receipt.blocked]
    for attempt in (
        "socket.", "socket.getaddrinfo example.com 80", "subprocess.Popen true", "os.system", "os.exec /bin/true",
        "os.posix_spawn /bin/true", "os.fork", "open for writing outside", "os.remove kept", "os.mkdir made",
        "os.rename kept", "os.rename /", "os.symlink", "open a database rows.db", "a process", "syslog.syslog",
    ):  # fmt: skip
        assert any(one.startswith(attempt) for one in blocked), attempt
    assert {one.kind for one in found.runs[0].findings} == {"blocked"}
    assert (place / "kept").read_text() == "x"
    assert sorted(one.name for one in place.iterdir()) == before


def test_a_connection_that_is_awaited_is_blocked_and_named(place):
    """Event loops connect by other functions."""
    found = held(place, "awaits")
    assert not found.same
    assert any("127.0.0.1" in one for one in found.receipt.blocked)


def test_where_the_network_could_be_left_not_even_a_bare_system_call_gets_out(place):
    """What the hook does not see has nobody to talk to."""
    found = held(place, "unseen")
    if "namespace" not in found.isolation or "does not let" in found.isolation:
        pytest.skip("this system does not let a process leave its network")
    (change,) = [one for one in found.runs[0].findings if one.kind == "change"]
    assert change.now == 101  # ENETUNREACH


def test_temporary_files_and_printing_are_let(place):
    """They stay inside."""
    assert held(place, "writes").same


def test_a_guard_that_reaches_outside_is_blocked_too(place):
    """It is asked behind the same fence."""
    found = held(place, "asks", nodes=False)
    assert {one.kind for one in found.runs[0].findings} == {"guard", "blocked"}
    assert found.receipt.blocked_count == 1


def test_a_module_that_reaches_outside_while_it_loads_does_not_load(place):
    """The fence stands before it is loaded."""
    with pytest.raises(RehearsalFailed, match=r"early\.py can't be loaded: Blocked"):
        rehearse_apart([source(place)], "early.py:flow", limits=Limits(directory=str(place)))


@pytest.mark.parametrize("name", ["hangs", "sleeps"])
def test_a_body_that_does_not_end_is_left_behind(place, name):
    """Whether it works or waits; the rehearsal ends."""
    found = held(place, name, limit=0.2)
    assert [one.problem for one in found.runs[0].findings] == ["the body takes longer than 0.2 s"]


def test_a_process_that_ends_is_told_with_where_it_was(place):
    """A body can end it, by accident or not."""
    with pytest.raises(RehearsalFailed, match=r"ended with 9 while node 'only' of run r was run, version 2"):
        held(place, "ends")


def test_a_report_crosses_between_processes_whole():
    """Values that are missing stay missing, None stays None."""
    findings = (Finding("change", 3, "a", "x", None, [1]), Finding("effect", 4, "b", "y"))
    report = RunReport("r", 5, findings, "nodes added: c", Receipt(1, 2, 3, 1, ["socket"]))
    assert RunReport.of(report.plain()) == report
    assert json.loads(json.dumps(report.plain())) == report.plain()

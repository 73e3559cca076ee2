"""The screens, pressed by a pilot on real stores at 80 columns and 24 lines."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from eventflow.address import resolve
from eventflow.change import Op
from eventflow.checkpoint import Checkpoint
from eventflow.errors import MissingExtra
from eventflow.event import EffectFinished, EffectStarted, Failure, RunCompleted, RunFailed, Transitioned
from eventflow.log import Log, MemoryLog, Upkeep, open_log
from eventflow.plain import EMPTY, freeze
from eventflow.recovery import recover
from eventflow.testing.author import Author, written
from replay.history import History
from replay.tui import browse
from replay.tui.app import Browser
from replay.tui.reading import Trail, day_text
from replay.tui.rows import Rows
from replay.tui.run import RunScreen
from replay.tui.runs import RunsScreen
from replay.tui.sheet import Sheet

ROOT = Path(__file__).parents[2]
HOSTILE = "[bold]x[/bold] \x1b[31mred\x1b]0;title\x07 \u202eevil\u2066 \x9b2J"


@pytest.fixture
def author(tmp_path):
    """Writes into a store on disk."""
    log = open_log(tmp_path / "s")
    yield Author(log)
    log.close()


def to(node: str, *ops: tuple[str, str, Any]) -> Transitioned:
    """A step with what it changes."""
    return Transitioned("a", node, "done", tuple(Op(op, (name,), freeze(value)) for op, name, value in ops))


def walked(author: Author, run: str = "walked", workflow: str = "flow") -> Any:
    """A run of six versions: three steps with a call between, then its end."""
    head = author.start(run, {"n": 1, "notes": ["first"], "deep": {"kept": True}}, workflow=workflow, tags=["nightly"])
    head = author.add(head, to("a", ("set", "n", 2)))
    head = author.add(head, EffectStarted("ask", "1", "model", False, freeze({"q": "how?"}), bytes(32), "k"))
    head = author.add(head, EffectFinished("ask", "1", freeze("because of the moon"), EMPTY))
    head = author.add(head, to("a", ("extend", "notes", ["second"]), ("set", "long", "word " * 60)))
    return author.add(head, RunCompleted("a", (Op("delete", ("deep",)),)), status="completed")


def pressed(
    log: Log, story: Callable[[Any, Browser], Awaitable[None]], at: str = "", *, size: tuple[int, int] = (80, 24)
) -> None:
    """Run the screens on a log, and a story with a pilot."""

    async def run() -> None:
        app = Browser(log, "the store", resolve(log, at) if at else None)
        async with app.run_test(size=size) as pilot:
            await settled(pilot)
            await story(pilot, app)

    asyncio.run(run())


async def settled(pilot: Any) -> None:
    """Let everything be read and drawn."""
    for _ in range(2):
        await pilot.pause()
        await pilot.app.workers.wait_for_complete()


async def press(pilot: Any, *keys: str) -> None:
    """Press keys, one after the other, each once the one before has done its work."""
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


async def answer(pilot: Any, key: str, text: str) -> None:
    """Press a key that asks for something, and answer it."""
    await pilot.press(key)
    await pilot.pause()
    pilot.app.screen.query_one(Input).value = text
    await press(pilot, "enter")


def test_the_version_one_stands_at_is_on_the_screen_from_the_beginning(author):
    """Of a run with more events than lines, opened from the list or by its name."""
    head = author.start("long", {"n": 1})
    for number in range(18):
        head = author.add(head, to("a", ("set", "n", number)))
    author.add(head, RunCompleted("a", ()), status="completed")

    async def story(pilot, app):
        if isinstance(app.screen, RunsScreen):
            await press(pilot, "enter")
        rows = app.screen.query_one(Rows)
        assert (rows.count, rows.chosen) == (20, 19)
        assert rows.scroll_y == rows.max_scroll_y > 0
        assert "RunCompleted" in screen_text(app)

    pressed(author.log, story)
    pressed(author.log, story, "long")


def screen_text(app: Browser) -> str:
    """What the terminal shows, line by line."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    assert len(lines) == height
    return "\n".join("".join(part.text for part in line)[:width] for line in lines)


def sheet(app: Browser) -> str:
    """What the sheet holds, also below the screen's edge."""
    return app.screen.query_one(Sheet).text


# --- runs ----------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_open_with_enter(author):
    """Escape leads back to the list."""
    walked(author, "one")
    walked(author, "two", "other")

    async def story(pilot: Any, app: Browser) -> None:
        text = screen_text(app).splitlines()
        assert text[0].startswith(" the store · 2 runs")
        assert text[1].split() == ["run", "status", "workflow", "version", "last", "event"]
        assert [line.split()[:4] for line in text[2:4]] == [
            ["two", "completed", "other", "6"],
            ["one", "completed", "flow", "6"],
        ]
        assert "enter" not in text[-1]
        assert "open" in text[-1]
        assert "filter" in text[-1]
        await press(pilot, "down", "enter")
        assert isinstance(app.screen, RunScreen)
        assert "one@6 of 6 · completed" in screen_text(app)
        await press(pilot, "escape")
        assert isinstance(app.screen, RunsScreen)
        assert app.screen.query_one(Rows).chosen == 1

    pressed(author.log, story)


def test_runs_are_filtered_by_status_workflow_and_words(author):
    """A filter that can't be read is told, and may be mended."""
    walked(author, "one")
    walked(author, "two", "other")
    author.add(author.start("three"), RunFailed("a", Failure("ValueError", "no", "")), status="failed")

    async def story(pilot: Any, app: Browser) -> None:
        def ids() -> list[str]:
            return [
                line.split()[0]
                for line in screen_text(app).splitlines()[2:-1]
                if line.strip() and "no runs" not in line
            ]

        for words, found in (
            ("workflow=other", ["two"]),
            ("nightly on", ["one"]),
            ("status=failed", ["three"]),
            ("nope", []),
        ):
            await answer(pilot, "slash", words)
            assert ids() == found, words
        await press(pilot, "c")
        assert ids() == ["three", "two", "one"]
        await answer(pilot, "slash", "status=odd")
        assert "'odd' is no status" in screen_text(app)
        await press(pilot, "escape")
        while app.screen._text != "status=failed":
            await press(pilot, "s")
        assert ids() == ["three"]

    pressed(author.log, story)


def test_an_empty_store_says_that_there_is_nothing(author):
    """And no key does harm there."""

    async def story(pilot: Any, app: Browser) -> None:
        assert "0 runs" in screen_text(app)
        assert "no runs" in screen_text(app)
        await press(pilot, "enter", "down", "up", "end", "pagedown", "s", "c")
        assert isinstance(app.screen, RunsScreen)

    pressed(author.log, story)


def test_a_new_run_appears_by_itself(author):
    """The chosen one stays chosen."""
    walked(author, "old")

    async def story(pilot: Any, app: Browser) -> None:
        walked(author, "new")
        await until(pilot, lambda: "2 runs" in screen_text(app))
        assert app.screen._listed[app.screen.query_one(Rows).chosen].head.run_id == "old"

    pressed(author.log, story)


async def until(pilot: Any, look: Callable[[], Any]) -> None:
    """Wait for something to be seen."""
    for _ in range(600):
        if look():
            return
        await pilot.pause(0.02)
    pytest.fail(f"it never came:\n{screen_text(pilot.app)}")


# --- one run -------------------------------------------------------------------------------------------------------


def test_a_run_is_walked_version_by_version(author):
    """The state is the one at the version, with what its event changed marked."""
    walked(author)

    async def story(pilot: Any, app: Browser) -> None:
        assert "- deep:" in sheet(app)
        await press(pilot, "left")
        assert "walked@5 of 6" in screen_text(app)
        assert '+   [1]: "second"' in sheet(app)
        assert "+ long:" in sheet(app)
        assert '    [0]: "first"' in sheet(app)
        await press(pilot, "left", "left", "left")
        assert "~ n: 1 → 2" in sheet(app)
        await press(pilot, "left", "left", "left")
        assert "walked@1 of 6" in screen_text(app)
        assert "  n: 1" in sheet(app)
        assert "~" not in sheet(app)
        await press(pilot, "right", "right")
        assert "+ call ask#1: started, attempt 1" in sheet(app)
        await press(pilot, "end")
        assert "walked@6 of 6" in screen_text(app)

    pressed(author.log, story, "walked")


def test_the_sheet_turns_to_the_event_and_back(author):
    """With everything the event says."""
    walked(author)

    async def story(pilot: Any, app: Browser) -> None:
        await press(pilot, "v")
        assert "EffectFinished" in screen_text(app)
        assert "because of the moon" in sheet(app)
        assert "digest: " in sheet(app)
        await press(pilot, "v", "v")
        assert "state" in sheet(app)

    pressed(author.log, story, "walked@4")


def test_one_jumps_by_version_checkpoint_and_time(author):
    """What names nothing is told, and nothing moves."""
    head = walked(author)
    written(author.log, Upkeep(head.run_key, marks=(Checkpoint(4, ("manual",), author.clock.now()),)))

    async def story(pilot: Any, app: Browser) -> None:
        for text, version in (("3", 3), ("c-4", 4), (day_text(author.clock.now()).replace(" ", "T"), 6)):
            await answer(pilot, "g", text)
            assert app.screen.version == version, text
        for text, said in (("99", "99"), ("c-5", "c-5"), ("soon", "is not a version")):
            await answer(pilot, "g", text)
            assert said in screen_text(app)
            await press(pilot, "escape")
            assert app.screen.version == 6
        assert " 4◆" in screen_text(app)

    pressed(author.log, story, "walked@2")


def test_two_marked_versions_are_compared(author):
    """The older first, wherever one stands."""
    walked(author)

    async def story(pilot: Any, app: Browser) -> None:
        await press(pilot, "d")
        assert "mark a version" in sheet(app)
        await press(pilot, "m", "end", "d", "d")
        assert "walked@2 → walked@6" in sheet(app)
        assert '+ notes[1]: "second"' in sheet(app)
        await press(pilot, "m", "home")
        assert "walked@1 → walked@6" in sheet(app)
        await press(pilot, "d")
        assert "stands" in sheet(app)

    pressed(author.log, story, "walked@2")


def test_a_search_leads_from_place_to_place(author):
    """Values and answers are searched too; round the end."""
    walked(author)

    async def story(pilot: Any, app: Browser) -> None:
        await answer(pilot, "slash", "moon")
        assert app.screen.version == 4
        assert "'moon': 1 of 1" in screen_text(app)
        await answer(pilot, "slash", "transitioned")
        seen = [app.screen.version]
        for _ in range(2):
            await press(pilot, "n")
            seen.append(app.screen.version)
        assert seen == [5, 2, 5]
        await press(pilot, "N")
        assert app.screen.version == 2
        await press(pilot, "escape")
        assert isinstance(app.screen, RunScreen)

    pressed(author.log, story, "walked@1")


def test_what_a_rewind_left_behind_and_what_a_fork_shares_are_walked_too(author):
    """Every version has its line, its parent's included."""
    head = author.rewind(walked(author), 2)
    author.add(author.fork(head, 5, "forked"), RunCompleted("a"))

    async def story(pilot: Any, app: Browser) -> None:
        text = screen_text(app)
        assert "forked@7 of 7" in text
        lines = [line.split()[0] for line in text.splitlines()[1:8]]
        assert lines == ["1", "2", "3", "4", "5", "6", "7"]
        assert "Forked" in text
        await press(pilot, "home")
        assert "n: 1" in sheet(app)

    pressed(author.log, story, "forked")


def test_a_wide_terminal_shows_both_side_by_side(author):
    """A narrow one shows them one below the other."""
    walked(author)

    async def wide(pilot: Any, app: Browser) -> None:
        rows, below = app.screen.query_one(Rows).region, app.screen.query_one(Sheet).region
        assert below.x >= rows.right
        assert rows.height > 30

    async def narrow(pilot: Any, app: Browser) -> None:
        rows, below = app.screen.query_one(Rows).region, app.screen.query_one(Sheet).region
        assert below.y > rows.bottom - 1
        assert (rows.width, below.width) == (80, 80)
        assert "esc runs q end" in " ".join(screen_text(app).splitlines()[-1].split())

    pressed(author.log, wide, "walked", size=(120, 40))
    pressed(author.log, narrow, "walked")


# --- what comes from strangers -------------------------------------------------------------------------------------


def test_hostile_text_commands_nothing(author):
    """Escape sequences, markup and direction characters are shown as what they are, wherever they stand."""
    head = author.start(
        "odd", {HOSTILE: HOSTILE, "lines": f"a\n{HOSTILE}\tb"}, node=HOSTILE, workflow=HOSTILE, tags=[HOSTILE]
    )
    author.add(head, RunFailed(HOSTILE, Failure(HOSTILE, HOSTILE, HOSTILE)), status="failed")

    async def story(pilot: Any, app: Browser) -> None:
        shown = []
        for keys in ((), ("enter",), ("v",), ("m", "home", "v"), ("escape",)):
            await press(pilot, *keys)
            shown.append(screen_text(app))
        assert all(one.isprintable() or one == "\n" for text in shown for one in text)
        assert r"[bold]x[/bold] \x1b[31mred\x1b]0;title\x07 \u202eevil" in shown[1]

    pressed(author.log, story, size=(160, 40))


def test_a_large_state_is_cut_and_says_so(author):
    """Where a list is long, what changed is shown with what stands around it."""
    head = author.start(
        "large", {"many": list(range(5_000)), "long": "x" * 100_000, "wide": {str(n): [n] for n in range(3_000)}}
    )
    author.add(head, to("a", ("extend", "many", [1, 2])))

    async def story(pilot: Any, app: Browser) -> None:
        text = sheet(app)
        assert "… 4,996 items as before" in text
        assert "+   [5001]: 2" in text
        assert "… (100,000 in all)" in text
        assert "… 2,996 keys as before" in text

    pressed(author.log, story, "large")


def test_a_broken_history_is_told_where_its_state_would_stand():
    """The versions before it stay readable."""
    author = Author(MemoryLog())
    walked(author)
    author.log._events[:] = [data.replace(b"how?", b"hoW?") for data in author.log._events]

    async def story(pilot: Any, app: Browser) -> None:
        assert "n: 1 → 2" in sheet(app)
        for key in ("right", "right", "end"):
            await press(pilot, key)
            assert "the chain is broken" in sheet(app)
        await press(pilot, "d", "v")
        await press(pilot, "home")
        assert "  n: 1" in sheet(app)

    pressed(author.log, story, "walked@2")


def test_walking_shows_what_recovery_restores_at_every_version(author):
    """In whatever order one comes to a version, over rewinds and forks."""
    head = author.rewind(walked(author), 2)
    head = author.add(author.fork(author.add(head, to("a", ("set", "n", 9))), 7, "forked"), to("a", ("set", "n", 10)))
    versions = list(range(1, head.version + 1))
    for order in (versions, versions[::-1], [5, 1, 8, 3, 7, 2, 9, 4, 6]):
        trail = Trail(author.log, head)
        for version in order:
            seen = trail.instant(version)
            assert seen.state == recover(author.log, head, version, snapshots=False).state
            assert seen.before == (recover(author.log, head, version - 1).state if version > 1 else None)
            assert seen.recorded.version == trail.line(version).version == version
    found = History(author.log, author.log.head("walked"))
    trail = Trail(author.log, author.log.head("walked"))
    for line in found.upto(author.log.head("walked")):
        assert trail.line(line.version) == line


# --- runs that go on -----------------------------------------------------------------------------------------------

SLOW = """
import asyncio
from pathlib import Path
from eventflow import Workflow

async def step(state):
    while int(Path("may").read_text() or 0) <= state["n"]:
        await asyncio.sleep(0.01)
    return {"n": state["n"] + 1}

flow = Workflow("slow").add_node("step", step).add_node("end", lambda state: None)
flow.add_edge("step", "step", when=lambda state: state["n"] < 9).add_edge("step", "end").set_start("step")
"""


def test_a_run_that_another_process_drives_is_followed(desk, process, until_seen):
    """Its new versions appear, and one stays at the newest; who steps back stays where he is."""
    (desk / "slow.py").write_text(SLOW)
    (desk / "may").write_text("3")
    driver = process("eventflow", "run", "slow.py:flow", "--id", "r", "--input", '{"n": 0}')
    until_seen((desk / "runs.eventflow" / "CURRENT").exists, driver)
    log = open_log(desk / "runs.eventflow", readonly=True)
    until_seen(lambda: log.head("r"), driver)

    async def story(pilot: Any, app: Browser) -> None:
        await until(pilot, lambda: app.screen.version == 4)
        assert "following" in screen_text(app)
        (desk / "may").write_text("6")
        await until(pilot, lambda: app.screen.version == 7)
        await press(pilot, "left", "left")
        assert "following" not in screen_text(app)
        (desk / "may").write_text("9")
        await until(pilot, lambda: "r@5 of 11 · completed" in screen_text(app))
        assert "n: 3 → 4" in sheet(app)
        await press(pilot, "f")
        assert app.screen.version == 11
        assert "n: 9" in sheet(app)

    pressed(log, story, "r")
    log.close()
    assert driver.ended().code == 0


@pytest.fixture
def until_seen(until):
    """The fixture `until`, whose name a function here has."""
    return until


def test_a_run_that_is_deleted_meanwhile_says_so(author):
    """Nothing more is looked for."""
    head = walked(author)

    async def story(pilot: Any, app: Browser) -> None:
        from eventflow.codec import pack  # noqa: PLC0415
        from eventflow.event import RunDeleted  # noqa: PLC0415
        from eventflow.log import Act  # noqa: PLC0415

        event = RunDeleted("walked", head.run_key, 1, head.version, head.digest, "me", "why")
        author.log.write([Act(pack(event), author.clock.now(), delete_run=head)])
        await until(pilot, lambda: "deleted" in screen_text(app))

    pressed(author.log, story, "walked")


# --- the command ---------------------------------------------------------------------------------------------------


def test_without_the_extra_one_sentence_says_what_to_install(author, monkeypatch):
    """With exit code 2."""
    for name in [one for one in sys.modules if one.startswith("replay.tui.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    for name in [one for one in sys.modules if one.startswith("textual.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"eventflow\[tui\]") as raised:
        browse(author.log, "the store")
    assert raised.value.exit_code == 2


def test_without_a_terminal_the_command_says_what_else_there_is(run_replay, desk):
    """With exit code 2."""
    done = run_replay("tui")
    assert (done.code, done.out) == (2, "")
    assert "replay log" in done.sentence


def test_the_command_draws_on_a_terminal_and_ends_with_q(author, tmp_path):
    """On the store, and at an address; whatever it drew is gone afterwards."""
    walked(author)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "replay", "tui", "walked@2", "--store", str(tmp_path / "s")],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    sent = False
    while select.select([ours], [], [], 20)[0]:
        try:
            more = os.read(ours, 65536)
        except OSError:
            break
        if not more:
            break
        drawn += more
        if not sent and b"walked@2 of 6" in drawn:
            os.write(ours, b"q")
            sent = True
    assert child.wait(20) == 0
    assert sent
    assert drawn.rstrip().endswith(b"l") or b"\x1b[?1049l" in drawn
    os.close(ours)

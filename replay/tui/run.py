"""The screen of one run: its events, and beside or below them the state, the event, or what differs from a marked version."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from eventflow.address import Address, version_at
from eventflow.cli.shell import visible
from eventflow.errors import EventflowError
from eventflow.log import Head, Log
from eventflow.state import ENDED
from replay.diff import diff
from replay.search import search
from replay.tui import palette
from replay.tui.asking import Keys, Question
from replay.tui.lines import Said, difference_lines, error_lines, event_lines, state_lines
from replay.tui.reading import Trail, day_text, hour_text
from replay.tui.rows import Rows
from replay.tui.sheet import Sheet

if TYPE_CHECKING:
    from textual.app import ComposeResult

FOLLOW = 0.2  # seconds between looks whether the run went on: a look takes microseconds
MAX_HITS = 10_000  # places found that one steps through
WIDE = 100  # columns from which on events and sheet stand side by side
TYPE_WIDTH, NODE_WIDTH = 15, 12
View = Literal["state", "event", "difference"]
VIEWS: tuple[View, ...] = ("state", "event", "difference")
KEYS = (
    ("← →", "the version before, the version after"),
    ("↑ ↓ page", "the same in the list; they scroll the sheet, after tab"),
    ("home end", "the first version, the newest"),
    ("tab", "from the list to the sheet, and back"),
    ("g", "go to a version (17), a checkpoint (c-17), a time"),
    ("/ n N", "search all that was recorded; the next place, the one before"),
    ("v enter", "state, event, difference, in turn"),
    ("m", "mark this version, to compare it with others, of any run"),
    ("d", "what differs between the marked version and this one"),
    ("f", "follow: stay at the newest version as events come"),
    ("esc", "back to the runs"),
    ("q", "end"),
    ("", ""),
    ("+ ~ -", "new, other, gone, beside the version before"),
    ("◆", "a checkpoint"),
    ("dim", "left behind by a rewind"),
)


class RunScreen(Screen[None]):
    """A run, walked version by version."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "step", show=False),
        Binding("right", "step(1)", "step", key_display="←→"),
        Binding("g", "jump", "go to"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("n", "hit(1)", "next", show=False),
        Binding("N", "hit(-1)", "before", show=False),
        Binding("v", "view", "view"),
        Binding("m", "mark", "mark"),
        Binding("d", "difference", "diff"),
        Binding("f", "follow", "follow"),
        Binding("question_mark", "keys", "keys", key_display="?"),
        Binding("escape", "leave", "runs", key_display="esc"),
        Binding("q", "app.quit", "end"),
    ]
    DEFAULT_CSS = """
    RunScreen #panes { layout: vertical; height: 1fr; }
    RunScreen #events { height: 2fr; }
    RunScreen #below { height: 3fr; }
    RunScreen.-wide #panes { layout: horizontal; }
    RunScreen.-wide #events { width: 11fr; height: 100%; }
    RunScreen.-wide #below { width: 9fr; height: 100%; }
    RunScreen #below Sheet { height: 1fr; }
    """
    HORIZONTAL_BREAKPOINTS: list[tuple[int, str]] | None = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 - as textual has it

    class Marked(Message):
        """A version is marked."""

        def __init__(self, place: Address) -> None:
            super().__init__()
            self.place = place

    def __init__(self, log: Log, head: Head, version: int | None, marked: Address | None) -> None:
        super().__init__()
        self._log, self._trail = log, Trail(log, head)
        self._begin = head.version if version is None else version
        self.following = version is None and head.status not in ENDED
        self.view: View = "state"
        self._marked = marked
        self._text, self._hits, self._seen = "", list[int](), -1  # so that what came since `head` was read is seen
        self._gone = False

    @property
    def version(self) -> int:
        """The version one stands at."""
        return self.query_one(Rows).chosen + 1

    def compose(self) -> ComposeResult:
        """A title, the events, the sheet under its own title, the keys."""
        yield Static("", id="title", markup=False)
        with Container(id="panes"):
            yield Rows(self._row, name="events", empty="no events")
            with Container(id="below"):
                yield Static("", id="tabs", markup=False)
                yield Sheet(name="sheet")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Stand where it was asked for, and look now and then whether the run went on."""
        rows = self.query_one(Rows)
        rows.focus()
        self.call_after_refresh(self._settle)
        self.set_interval(FOLLOW, self._look)

    def _settle(self) -> None:
        rows = self.query_one(Rows)
        newest = self._trail.head.version  # there may have been a look already
        rows.hold(newest, (newest if self.following else self._begin) - 1)
        self._show()

    # --- what is shown

    def on_rows_moved(self, event: Rows.Moved) -> None:
        """Another version: what the sheet shows is another too."""
        event.stop()
        self._show()

    def on_rows_taken(self, event: Rows.Taken) -> None:
        """Enter on an event shows it, and again the state."""
        event.stop()
        self.action_view()

    def _show(self) -> None:
        self._tell()
        self._read(self.version, self.view)

    @work(thread=True, exclusive=True, group="sheet")
    def _read(self, version: int, view: View) -> None:
        worker = get_current_worker()
        try:
            lines = self._lines(version, view)
        except EventflowError as error:
            lines = error_lines(error)
        if not worker.is_cancelled:
            self.app.call_from_thread(self._fill, lines)

    def _fill(self, lines: Sequence[Said]) -> None:
        if self.is_attached:  # it may have been left meanwhile
            self.query_one(Sheet).put(lines)

    def _lines(self, version: int, view: View) -> list[Said]:
        """What the sheet shows at a version."""
        if view == "difference":
            here = Address(self._trail.head, version)
            if self._marked is None:
                return [Said("", 0, "", "mark a version with m, then go to another one", "aside")]
            return difference_lines(diff(self._log, *_in_order(self._marked, here)))
        seen = self._trail.instant(version)
        return event_lines(seen) if view == "event" else state_lines(seen)

    def _tell(self) -> None:
        """The two titles."""
        head, version = self._trail.head, self.version
        status = f"{head.status}{f': {head.waiting_for}' if head.waiting_for else ''}"
        title = f" {head.run_id}@{version} of {head.version} · {status}"
        title += " · deleted" if self._gone else " · following" if self.following else ""
        if self._text:
            place = bisect_right(self._hits, version)
            title += f" · {self._text!r}: {place} of {len(self._hits)}"
        when, left = f"{day_text(self._when(version))} UTC ", self.size.width - cell_len(visible(title))
        self.query_one("#title", Static).update(visible(title) + (when.rjust(left) if left > len(when) else ""))
        tabs = Text("")
        for view in VIEWS:
            name = view
            tabs.append(f" {name} ", style="reverse bold" if view == self.view else "dim")
        if self._marked is not None:
            tabs.append(f"  ▸ {visible(str(self._marked))}")
        self.query_one("#tabs", Static).update(tabs)

    def _when(self, version: int) -> int:
        """The time of a version, 0 if it can't be read."""
        try:
            return self._trail.line(version).time
        except (EventflowError, IndexError):
            return 0

    def _row(self, index: int, width: int) -> Text:
        version = index + 1
        try:
            line = self._trail.line(version)
        except (EventflowError, IndexError) as error:
            return Text(f" {version}  can't be read: {visible(str(error))}")
        digits = len(str(self._trail.head.version))
        text = Text(" " if self._marked is None or self._marked != Address(self._trail.head, version) else "▸")
        text.append(f"{version:>{digits}}")
        text.append("◆" if version in self._trail.marks else " ")
        text.append(f" {hour_text(line.time, fine=width > WIDE)} ", style="dim")
        text.append(f"{_fit(line.type, TYPE_WIDTH)} ", style=palette.of_event(self.app.theme_variables, line.type))
        text.append(f"{_fit(visible(line.node), NODE_WIDTH)} ")
        text.append(_fit(visible(line.detail), max(1, width - cell_len(text.plain))))
        if not self._trail.on_line(version):
            text.stylize("dim")
        return text

    # --- what comes

    def _look(self) -> None:
        """Take in what has been recorded since the last look; stand at the newest if one follows."""
        try:
            mark = self._log.change_mark()
            head = self._log.head(self._trail.head.run_id) if mark != self._seen and not self._gone else None
        except EventflowError as error:
            self.query_one("#title", Static).update(f" {visible(str(error))}")
            return
        if mark == self._seen or self._gone:
            return
        self._seen = mark
        if head is None or head.run_key != self._trail.head.run_key:
            self._gone = True
            self._tell()
            return
        if head.version > self._trail.head.version:
            self._trail.reach(head)
            rows = self.query_one(Rows)
            rows.hold(head.version, head.version - 1 if self.following else None)
        self._trail.head = head
        self._tell()

    # --- what keys do

    def action_step(self, by: int) -> None:
        """The version before, or after."""
        self._go(self.version + by)

    def _go(self, version: int) -> None:
        """Stand at a version. Who leaves the newest one follows no more."""
        if version < self._trail.head.version:
            self.following = False
        self.query_one(Rows).chosen = version - 1
        self._tell()

    def action_jump(self) -> None:
        """Ask where to."""
        asked = "go to a version, a checkpoint or a time"
        self.app.push_screen(Question(asked, self._version_of, example="17, c-17 or 2026-11-24T10:00Z"), self._jump)

    def _version_of(self, text: str) -> int:
        return version_at(self._log, self._trail.head, text)

    def _jump(self, text: str | None) -> None:
        if text is not None:
            self._go(self._version_of(text))

    def action_view(self) -> None:
        """The next of the three views."""
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self._show()

    def action_mark(self) -> None:
        """Mark this version."""
        self._marked = Address(self._trail.head, self.version)
        self.post_message(self.Marked(self._marked))
        self.query_one(Rows).refresh()
        self._show()

    def action_difference(self) -> None:
        """What differs from the marked version, and again the state."""
        self.view = "state" if self.view == "difference" else "difference"
        self._show()

    def action_follow(self) -> None:
        """Stay at the newest version, or no more."""
        self.following = not self.following
        if self.following:
            self._go(self._trail.head.version)
        self._tell()

    def action_keys(self) -> None:
        """Say what the keys do."""
        self.app.push_screen(Keys(KEYS))

    def action_leave(self) -> None:
        """Back to the runs; a search is let go first."""
        if self._text:
            self._text, self._hits = "", []
            self._tell()
            return
        self.app.pop_screen()

    # --- search

    def action_search(self) -> None:
        """Ask what to look for."""
        asked = "search all that was recorded: values, prompts, answers, errors, types"
        self.app.push_screen(Question(asked, str, begun=self._text), self._search)

    def _search(self, text: str | None) -> None:
        if text:
            self._text, self._hits = text, []
            self._tell()
            self._find(text, self.version)

    @work(thread=True, exclusive=True, group="search")
    def _find(self, text: str, begun: int) -> None:
        """Find the versions that hold a text; go to the first from here on as soon as it is known."""
        worker = get_current_worker()
        found: set[int] = set()
        try:
            head = self._trail.head
            for hit in search(self._log, Address(head, head.version), text):
                found.add(hit.version)
                if worker.is_cancelled or len(found) == MAX_HITS:
                    break
        except EventflowError as error:
            self.app.call_from_thread(self._fill, error_lines(error))
            return
        if not worker.is_cancelled:
            self.app.call_from_thread(self._found, sorted(found), begun)

    def _found(self, hits: Sequence[int], begun: int) -> None:
        if not self.is_attached:
            return
        self._hits = list(hits)
        if hits:
            self._go(next((one for one in hits if one >= begun), hits[0]))
        self._tell()

    def action_hit(self, by: int) -> None:
        """The next place that was found, or the one before; round the end."""
        if not self._hits:
            return
        at = bisect_right(self._hits, self.version if by > 0 else self.version - 1)
        place = at if by > 0 else at - 1
        self._go(self._hits[place % len(self._hits)])


def _in_order(one: Address, other: Address) -> tuple[Address, Address]:
    """The older of two versions of a run first; of two runs, the marked one."""
    same = one.head.run_key == other.head.run_key
    return (other, one) if same and other.version < one.version else (one, other)


def _fit(text: str, width: int) -> str:
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1))}…"

"""The screen of all runs: what there is, filtered; new ones appear by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, get_args

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from eventflow.cli.shell import visible
from eventflow.clock import SystemClock
from eventflow.errors import EventflowError
from eventflow.log import Head, Listed, Log
from eventflow.state import Status
from replay.tui import palette
from replay.tui.asking import Keys, Question
from replay.tui.reading import MAX_RUNS, Filter, day_text, listed_runs, read_filter
from replay.tui.rows import Rows

if TYPE_CHECKING:
    from textual.app import ComposeResult

LOOK = 0.5  # seconds between looks whether anything has been written: a look takes microseconds
STATUS_WIDTH, VERSION_WIDTH, DAY_WIDTH = 17, 8, 19
WIDE = 100  # columns from which on tags have room
KEYS = (
    ("enter", "open the run"),
    ("↑ ↓ page", "choose another"),
    ("/", "only runs with these words, or status=failed workflow=NAME"),
    ("", "tag=NAME since=2h; several must all fit"),
    ("s", "the next status"),
    ("c", "all runs again"),
    ("q", "end"),
)


class RunsScreen(Screen[None]):
    """The runs of a store."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", priority=True),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("s", "status", "next status"),
        Binding("c", "clear", "no filter"),
        Binding("question_mark", "keys", "keys", key_display="?"),
        Binding("q", "app.quit", "end"),
    ]

    class Opened(Message):
        """A run is to be shown."""

        def __init__(self, head: Head) -> None:
            super().__init__()
            self.head = head

    def __init__(self, log: Log, name: str) -> None:
        super().__init__()
        self._log, self._label = log, name
        self._listed: Sequence[Listed] = ()
        self._text, self._seen = "", -1
        self._filter = Filter(read_filter("", now=0).query)

    def compose(self) -> ComposeResult:
        """A title, what the columns are, the runs, the keys."""
        yield Static("", id="title", markup=False)
        yield Static("", id="columns", markup=False)
        yield Rows(self._row, name="runs", empty="no runs")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Read, and look now and then whether there is more."""
        self.query_one(Rows).focus()
        self._look()
        self.set_interval(LOOK, self._look)

    def on_resize(self) -> None:
        """The columns' names stand where the columns do."""
        self._tell()

    def on_screen_resume(self) -> None:
        """Look at once when one comes back to it."""
        self._look()

    def _look(self) -> None:
        if not self.is_current:  # nobody sees it
            return
        try:
            mark = self._log.change_mark()
        except EventflowError as error:
            self._say(str(error))
            return
        if mark != self._seen:
            self._seen = mark
            self._read()

    @work(thread=True, exclusive=True)
    def _read(self) -> None:
        worker = get_current_worker()
        try:
            found = listed_runs(self._log, self._filter)
        except EventflowError as error:
            self.app.call_from_thread(self._say, str(error))
            return
        if not worker.is_cancelled:
            self.app.call_from_thread(self._put, found)

    def _put(self, found: Sequence[Listed]) -> None:
        """Show what was read; the run that was chosen stays chosen."""
        if not self.is_attached:
            return
        rows = self.query_one(Rows)
        key = self._listed[rows.chosen].head.run_key if rows.chosen < len(self._listed) else b""
        self._listed = found
        place = next(
            (number for number, one in enumerate(found) if one.head.run_key == key), min(rows.chosen, len(found))
        )
        rows.hold(len(found), place)
        self._tell()

    def _tell(self) -> None:
        count = f"{len(self._listed):,}" + ("" if len(self._listed) < MAX_RUNS else " newest")
        title = f" {visible(self._label)} · {count} run{'' if len(self._listed) == 1 else 's'}"
        if self._text:
            title += f" · {visible(self._text)}"
        self.query_one("#title", Static).update(title)
        width = self.query_one(Rows).scrollable_content_region.width
        self.query_one("#columns", Static).update(
            _line(("run", "status", "workflow", "version", "last event", "tags"), width)
        )

    def _say(self, sentence: str) -> None:
        self.query_one("#title", Static).update(f" {visible(sentence)}")

    def _row(self, index: int, width: int) -> Text:
        one = self._listed[index]
        head, entry = one.head, one.entry
        waits = f"waiting: {head.waiting_for}" if head.status == "waiting" and head.waiting_for else head.status
        tags = ", ".join(entry.tags)
        told = (head.run_id, waits, entry.workflow, f"{head.version:,}", day_text(head.updated), tags)
        return _line(told, width, palette.of_status(self.app.theme_variables, head.status))

    # --- what keys do

    def on_rows_taken(self, event: Rows.Taken) -> None:
        """Enter was pressed on a run, or it was clicked twice."""
        event.stop()
        self.action_open()

    def action_open(self) -> None:
        """Show the chosen run."""
        rows = self.query_one(Rows)
        if rows.chosen < len(self._listed):
            self.post_message(self.Opened(self._listed[rows.chosen].head))

    def action_filter(self) -> None:
        """Ask for a filter."""
        asked = "words that stand in id, workflow or tags; or status= workflow= tag= since=2h"
        self.app.push_screen(
            Question(asked, self._filter_of, begun=self._text, example="status=failed nightly"), self._use
        )

    def action_status(self) -> None:
        """Only runs of the next status; all again after the last."""
        words = [word for word in self._text.split() if not word.startswith("status=")]
        every: list[str] = ["", *(one for one in get_args(Status) if one != "parked")]
        now = self._filter.query.status or ""
        following = every[(every.index(now) + 1) % len(every)]
        self._use(" ".join([*words, f"status={following}"] if following else words))

    def action_clear(self) -> None:
        """All runs."""
        self._use("")

    def action_keys(self) -> None:
        """Say what the keys do."""
        self.app.push_screen(Keys(KEYS))

    def _filter_of(self, text: str) -> Filter:
        return read_filter(text, now=SystemClock().now())

    def _use(self, text: str | None) -> None:
        if text is not None:
            self._text, self._filter = text, self._filter_of(text)
            self._read()


def _line(told: Sequence[str], width: int, status_style: str = "") -> Text:
    """A run's columns; the id gets what the others leave, half of it goes to the workflow."""
    run, status, workflow, version, day, tags = map(visible, told)
    left = width - STATUS_WIDTH - VERSION_WIDTH - DAY_WIDTH - 6
    tags_width = left // 4 if width >= WIDE else 0
    flow_width = max(8, (left - tags_width) * 2 // 5)
    text = Text(" ")
    text.append(f"{_fit(run, max(8, left - tags_width - flow_width))} ")
    text.append(f"{_fit(status, STATUS_WIDTH)} ", style=status_style)
    text.append(f"{_fit(workflow, flow_width)} ")
    text.append(f"{version.rjust(VERSION_WIDTH)}  {_fit(day, DAY_WIDTH)}")
    if tags_width:
        text.append(f" {_fit(tags, tags_width - 1)}", style="dim")
    return text


def _fit(text: str, width: int) -> str:
    """A text as wide as its column; three dots say that there is more."""
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"

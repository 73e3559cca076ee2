"""The program of the screens: which one is shown, and what they have in common."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from eventflow.address import Address
from eventflow.log import Head, Log
from replay.tui.run import RunScreen
from replay.tui.runs import RunsScreen


class Browser(App[None]):
    """Walks a log: its runs, and one of them by version."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]
    CSS = """
    #title { height: 1; background: $primary; color: $text; text-style: bold; text-overflow: ellipsis; text-wrap: nowrap; }
    #columns, #tabs { height: 1; background: $panel; color: $foreground 70%; text-wrap: nowrap; }
    Footer { background: $panel; }
    """

    def __init__(self, log: Log, name: str, place: Address | None = None) -> None:
        super().__init__()
        self._history, self._label, self._place = log, name, place
        self._marked: Address | None = None

    def on_mount(self) -> None:
        """The runs, and on top of them the run that was asked for."""
        self.push_screen(RunsScreen(self._history, self._label))
        if self._place is not None:
            newest = self._place.version == self._place.head.version
            self._open(self._place.head, None if newest else self._place.version)

    def on_runs_screen_opened(self, event: RunsScreen.Opened) -> None:
        """A run was chosen."""
        self._open(event.head, None)

    def on_run_screen_marked(self, event: RunScreen.Marked) -> None:
        """What is marked stays so from one run to another."""
        self._marked = event.place

    def _open(self, head: Head, version: int | None) -> None:
        self.push_screen(RunScreen(self._history, head, version, self._marked))

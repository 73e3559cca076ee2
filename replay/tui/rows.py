"""A list of lines of which only those on the screen are made, with one that is chosen; whatever their number.

How a line looks is told by who uses it. Textual's own table makes every row beforehand and reads texts as markup.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

if TYPE_CHECKING:
    from textual.events import Click, Resize

Draw = Callable[[int, int], Text]


class Rows(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines by number; the arrow keys, paging and clicks choose one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown,space", "page(1)", "page down", show=False),
        Binding("home", "edge(0)", "first", show=False),
        Binding("end", "edge(1)", "last", show=False),
        Binding("enter", "take", "open", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--chosen", "rows--plain"}
    DEFAULT_CSS = """
    Rows {
        background: $surface;
        scrollbar-size-vertical: 1;
        scrollbar-color: $foreground 40%;
        scrollbar-background: $foreground 8%;
        overflow-x: hidden;
        overflow-y: auto;
        & .rows--plain { color: $foreground; background: $surface; }
        & .rows--chosen { color: $foreground; background: $primary 30%; }
        &:focus .rows--chosen { color: $block-cursor-foreground; background: $block-cursor-background; }
    }
    """
    chosen: reactive[int] = reactive(0, init=False)

    class Moved(Message):
        """Another line is chosen."""

        def __init__(self, rows: Rows, index: int) -> None:
            super().__init__()
            self.rows, self.index = rows, index

    class Taken(Message):
        """The chosen line is to be opened."""

        def __init__(self, rows: Rows, index: int) -> None:
            super().__init__()
            self.rows, self.index = rows, index

    def __init__(self, draw: Draw, *, name: str, empty: str = "") -> None:
        super().__init__(id=name)
        self._draw, self._empty = draw, empty
        self.count = 0

    def hold(self, count: int, chosen: int | None = None) -> None:
        """There are so many lines now; another one is chosen, if one is named."""
        self.count = count
        self.virtual_size = Size(0, count)
        wanted = self.chosen if chosen is None else chosen
        wanted = max(0, min(wanted, count - 1))
        if wanted != self.chosen:
            self.chosen = wanted
        else:
            self._reveal()
        self.call_after_refresh(self._reveal)  # it can be scrolled so far only once it is known to be so long
        self.refresh()

    def validate_chosen(self, chosen: int) -> int:
        """A line that is there."""
        return max(0, min(chosen, self.count - 1))

    def watch_chosen(self) -> None:
        """Bring it into sight, and tell."""
        self._reveal()
        self.refresh()
        if self.count:
            self.post_message(self.Moved(self, self.chosen))

    def _reveal(self) -> None:
        height, top = self.scrollable_content_region.height, round(self.scroll_y)
        if height <= 0:
            return
        if self.chosen < top:
            self.scroll_to(y=self.chosen, animate=False, force=True)
        elif self.chosen >= top + height:
            self.scroll_to(y=self.chosen - height + 1, animate=False, force=True)

    def on_resize(self, _event: Resize) -> None:
        """The chosen line stays in sight, whatever the height."""
        self._reveal()

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        width, index = self.scrollable_content_region.width, round(self.scroll_y) + y
        name = "rows--chosen" if index == self.chosen and self.count else "rows--plain"
        style = self.get_component_rich_style(name)
        chosen = name == "rows--chosen" and self.has_focus
        if not 0 <= index < self.count:
            text = f" {self._empty}" if not self.count and y == 0 else ""
            return _strip(Text(text, style="dim"), style, width)
        return _strip(self._draw(index, width), style, width, plain=chosen)

    def on_click(self, event: Click) -> None:
        """Choose the line that was clicked; twice, open it."""
        index = round(self.scroll_y) + event.y
        if index < self.count:
            self.chosen = index
            if event.chain > 1:
                self.action_take()

    def action_move(self, by: int) -> None:
        """Choose the line before, or after."""
        self.chosen += by

    def action_page(self, by: int) -> None:
        """Choose a line one screen away."""
        self.chosen += by * max(1, self.scrollable_content_region.height - 1)

    def action_edge(self, end: int) -> None:
        """Choose the first line, or the last."""
        self.chosen = self.count - 1 if end else 0

    def action_take(self) -> None:
        """Open the chosen line."""
        if self.count:
            self.post_message(self.Taken(self, self.chosen))


def _strip(text: Text, under: Style, width: int, *, plain: bool = False) -> Strip:
    """A text as one line of the screen, on a background, cut or filled to its width; in one colour if `plain`."""
    text.no_wrap, text.end = True, ""
    said = text.plain
    segments: list[Segment] = []
    marks = sorted({0, len(said), *(place for span in text.spans for place in (span.start, span.end))})
    for start, end in pairwise(marks):
        style = under + _style(text.style)
        for span in text.spans:
            if span.start <= start and span.end >= end:
                style += _style(span.style)
        segments.append(Segment(said[start:end], under if plain else style + Style(bgcolor=under.bgcolor)))
    return Strip(segments).adjust_cell_length(width, under)


def _style(style: str | Style) -> Style:
    return Style.parse(style) if isinstance(style, str) else style

"""A sheet to read: lines with a mark, a depth, a name and a text, folded to the width there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from replay.tui.lines import Said

if TYPE_CHECKING:
    from textual.events import Resize

INDENT = 2  # columns a depth takes
MAX_DEPTH = 12  # depths drawn: deeper ones stand below each other, or nothing would be left of the line
HANG = 2  # columns that folded text stands to the right of its name
MIN_TEXT = 8  # columns that text has at least, however deep it stands
SEVERAL = 4  # characters looked at for each column: some join the one before them and take none


class Sheet(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines that scroll; they are told anew by `put`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "up", show=False),
        Binding("down,j", "scroll_down", "down", show=False),
        Binding("pageup", "page_up", "page up", show=False),
        Binding("pagedown,space", "page_down", "page down", show=False),
        Binding("home", "scroll_home", "first", show=False),
        Binding("end", "scroll_end", "last", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "sheet--plain", "sheet--name", "sheet--heading", "sheet--aside", "sheet--new", "sheet--other", "sheet--gone",
    }  # fmt: skip
    DEFAULT_CSS = """
    Sheet {
        background: $background;
        scrollbar-size-vertical: 1;
        scrollbar-color: $foreground 40%;
        scrollbar-background: $foreground 8%;
        overflow-x: hidden;
        overflow-y: auto;
        & .sheet--plain { color: $foreground; background: $background; }
        & .sheet--name { color: $text-primary; background: $background; }
        & .sheet--heading { color: $text-accent; background: $background; text-style: bold; }
        & .sheet--aside { color: $foreground 50%; background: $background; }
        & .sheet--new { color: $text-success; background: $success 15%; }
        & .sheet--other { color: $text-warning; background: $warning 15%; }
        & .sheet--gone { color: $text-error; background: $error 15%; }
    }
    """

    def __init__(self, *, name: str) -> None:
        super().__init__(id=name)
        self.lines: Sequence[Said] = ()
        self._folded: list[list[tuple[str, str]]] = []  # a line of the screen: texts with the names of their styles

    def put(self, lines: Sequence[Said], *, first: bool = True) -> None:
        """Show these lines, from the first on, or from where one was."""
        self.lines = lines
        self._fold()
        if first:
            self.scroll_to(y=self._first_change(), animate=False)
        self.refresh()

    @property
    def text(self) -> str:
        """What it shows, as plain text."""
        return "\n".join("".join(part for part, _ in line).rstrip() for line in self._folded)

    def _fold(self) -> None:
        width = max(8, self.size.width - 1)  # the bar takes one
        self._folded = [folded for said in self.lines for folded in _folded(said, width)]
        self.virtual_size = Size(0, len(self._folded))

    def _first_change(self) -> int:
        """Where to begin so that the first change can be seen: at the top, if it can be seen from there."""
        height = self.size.height
        marked = next((place for place, line in enumerate(self._folded) if line and line[0][1] in _MARKED), 0)
        return 0 if marked < height else marked - height // 3

    def on_resize(self, _event: Resize) -> None:
        """Another width folds otherwise."""
        self._fold()

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        index, width = round(self.scroll_y) + y, self.scrollable_content_region.width
        plain = self.get_component_rich_style("sheet--plain")
        if not 0 <= index < len(self._folded):
            return Strip.blank(width, plain)
        line = self._folded[index]
        segments = [Segment(text, self.get_component_rich_style(name)) for text, name in line]
        fill = self.get_component_rich_style(line[0][1]) if line and line[0][1] in _MARKED else plain
        return Strip(segments).adjust_cell_length(width, Style(bgcolor=fill.bgcolor))


_STYLES = {"+": "sheet--new", "~": "sheet--other", "-": "sheet--gone"}
_MARKED = frozenset(_STYLES.values())
_TONES = {"heading": "sheet--heading", "aside": "sheet--aside", "bad": "sheet--gone"}


def _folded(said: Said, width: int) -> list[list[tuple[str, str]]]:
    """A line as lines of the screen: what does not fit stands below its name, a little to the right."""
    style = _STYLES.get(said.mark) or _TONES.get(said.tone) or "sheet--plain"
    margin = f"{said.mark or ' '} {' ' * (INDENT * min(said.depth, MAX_DEPTH))}"
    name = _short(said.name, max(MIN_TEXT, width // 2))
    name = f"{name}:{' ' if said.text else ''}" if name else ""
    lead = [(margin, style), (name, style if said.mark else "sheet--name")]
    if "\n" not in said.text and len(margin) + cell_len(name) + cell_len(said.text) <= width:
        return [[*lead, (said.text, style)]]
    hang = " " * (len(margin) + (HANG if name else 0))
    pieces = [piece for one in said.text.split("\n") for piece in _words(one, max(MIN_TEXT, width - len(hang)))]
    if name:
        return [lead, *([(hang, style), (piece, style)] for piece in pieces)]
    return [[(hang if place else margin, style), (piece, style)] for place, piece in enumerate(pieces)]


def _short(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{chop_cells(text, width - 1)[0]}…"


def _words(text: str, width: int) -> list[str]:
    """A text in pieces that fit, parted between words where that is possible."""
    lines: list[str] = []
    left = text
    while left:
        piece = chop_cells(left[: SEVERAL * width], width)[0]
        if len(piece) < len(left) and left[len(piece)] != " " and " " in piece.strip():
            piece = piece[: piece.rindex(" ") + 1]
        lines.append(piece.rstrip())
        left = left[len(piece) :].lstrip(" ")
    return lines or [""]

"""A line to type at the foot of the screen, and a sheet of keys. What is typed is answered by who asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from eventflow.errors import EventflowError

if TYPE_CHECKING:
    from textual.app import ComposeResult

Check = Callable[[str], object]


class Question(ModalScreen[str | None]):
    """Asks for a text; what `check` raises is told, and it may be typed again. None if it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave")]
    DEFAULT_CSS = """
    Question {
        align: left bottom;
        background: $background 40%;
        & > Vertical {
            height: auto;
            width: 100%;
            background: $panel;
            padding: 0 1;
        }
        & Static { height: auto; color: $foreground 70%; }
        & .told { color: $error; }
        & Input { background: $surface; }
    }
    """

    def __init__(self, asked: str, check: Check, *, begun: str = "", example: str = "") -> None:
        super().__init__()
        self._asked, self._check, self._begun, self._example = asked, check, begun, example

    def compose(self) -> ComposeResult:
        """What is asked, and the line."""
        with Vertical():
            yield Static(self._asked, markup=False)
            yield Input(self._begun, placeholder=self._example, select_on_focus=False, compact=True)
            yield Static("", markup=False, classes="told")

    def on_mount(self) -> None:
        """An error takes no line as long as there is none."""
        self.query_one(".told").display = False

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take it, unless it can't be."""
        try:
            self._check(event.value.strip())
        except EventflowError as error:
            told = self.query_one(".told", Static)
            told.update(str(error))
            told.display = True
            return
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """Nothing was asked."""
        self.dismiss(None)


class Keys(ModalScreen[None]):
    """What the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "leave", "back")]
    DEFAULT_CSS = """
    Keys {
        align: center middle;
        background: $background 60%;
        & > Static {
            width: auto;
            max-width: 76;
            height: auto;
            max-height: 100%;
            background: $panel;
            padding: 0 2;
        }
    }
    """

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        """A key a line."""
        width = max(len(key) for key, _ in self._keys)
        yield Static("\n".join(f"{key:<{width}}  {said}" for key, said in self._keys), markup=False)

    def action_leave(self) -> None:
        """Back to what was there."""
        self.dismiss(None)

"""A terminal to walk a history in: runs, their events, states with what changed, two versions compared.

`reading` and `lines` say what is shown, from nothing but the log and without the library of the screens; the other files
draw it. What draws is loaded when it is asked for, since it comes with an extra. Nothing here may write to a store, and
nothing of the user's code is needed.
"""

from __future__ import annotations

from eventflow.address import Address
from eventflow.errors import MissingExtra
from eventflow.log import Log

__all__ = ["browse"]


def browse(log: Log, name: str, place: Address | None = None) -> None:
    """Show a log on this terminal until its user has seen enough; at a version of a run, if one is given.

    `name` is what the log is called on the screen. Raises MissingExtra where textual is not installed.
    """
    try:
        from replay.tui.app import Browser  # noqa: PLC0415 - an extra
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise MissingExtra("textual", "tui") from None
    Browser(log, name, place).run()

"""The command that opens a terminal's whole screen: tui."""

from __future__ import annotations

import sys

from eventflow.address import resolve
from eventflow.cli.shell import OK, StoreArg, store_path
from eventflow.errors import SettingsError
from eventflow.log import store_text
from replay.cli.opening import is_export, open_history, opened_at
from replay.tui import browse


def tui_(address: str | None = None, /, *, store: StoreArg = None) -> int:
    """Walk runs on the whole terminal: events, states with what changed, differences; also while they go on.

    Parameters
    ----------
    address
        Begin at RUN, RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z, or with an export's file; with all runs if left out.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):  # it draws on stderr
        raise SettingsError("there is no terminal to draw on; `replay log` and `replay show` print the same")
    name = address if address is not None and is_export(address) else store_text(store_path(store))
    opened, address = (open_history(store), None) if address is None else opened_at(address, store)
    try:
        browse(opened, name, None if address is None else resolve(opened, address))
    finally:
        opened.close()
    return OK

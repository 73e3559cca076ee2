"""Completion of commands and options in a shell: a script that its reader keeps. No file of the user's is written here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cyclopts import App

ShellName = Literal["bash", "zsh", "fish"]  # those that cyclopts writes scripts for


def completion_of(app: App) -> Callable[[ShellName], int]:
    """The command that prints how a shell completes this app's commands and options."""

    def completion(shell: ShellName, /) -> int:
        """Print a script by which a shell completes commands and options.

        Parameters
        ----------
        shell
            The shell that reads it: bash, zsh or fish.
        """
        print(app.generate_completion(shell=shell), end="")
        return 0

    return completion

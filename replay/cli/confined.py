"""`python -m replay.cli.confined` is `replay` in a process that may take only so much; see `replay.cli.opening`."""

from __future__ import annotations

import sys


def perform() -> int:
    """Confine this process, then run its command line; what does not fit into memory is an error like any other."""
    from eventflow.cli.shell import UNUSABLE, run_app  # noqa: PLC0415 - nothing is loaded before there are bounds
    from replay.cli import build  # noqa: PLC0415
    from replay.cli.opening import confine  # noqa: PLC0415

    confine()
    try:
        return run_app(build(), sys.argv[1:])  # type: ignore[arg-type]
    except MemoryError:
        print("replay: reading the export took more memory than it may; nothing was believed", file=sys.stderr)
        return UNUSABLE


if __name__ == "__main__":
    sys.exit(perform())

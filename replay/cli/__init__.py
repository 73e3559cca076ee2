"""The command line: `replay` and its commands, one function each. It reads, and it records forks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

# Rows by the ten thousand and no cycles among them: CPython's own thresholds cost a tenth of a long answer.
COLLECTOR = (50_000, 20, 50)
REHEARSE = (
    "Ask today's code about recorded runs: same, needs migration, or diverges, and where. Exit code 4 if any does."
)
EXPORT = "Write runs, or the whole store, to a file: CBOR that proves itself, JSON lines, a page that opens from disk, or spans."
OPEN = "Open the file of a history from anybody: verify it, say what it is, take it into a new store, go on from it."
REPORT = "Give an account of a run: who, what, when, which decisions, how it ended, what proves it."
PROVE = "Print a proof that an event is in what was sealed, or that a seal continues an older one."
CHECK = "Check a proof without the store: exit code 4 if it does not hold."
TUI = "Walk runs on the whole terminal: events, states with what changed, differences; also while they go on."
BISECT = "Find the first variant, or revision, with which a run comes out otherwise. Exit code 4 if there is one."


def build() -> object:
    """The app with all its commands."""
    from eventflow import __version__  # noqa: PLC0415 - the package imports nothing of the command line, and stays light
    from eventflow.cli.shell import new_app  # noqa: PLC0415
    from replay.cli import asking, auditing, branching, comparing, reading  # noqa: PLC0415

    app = new_app(
        "replay", "Read the log: the whole history of a run, its state at any point, and questions to both.", __version__
    )  # fmt: skip
    app.command(reading.log)
    app.command(reading.show_, name="show")
    app.command(comparing.diff_, name="diff")
    app.command(asking.watch_, name="watch")
    app.command(asking.when_, name="when")
    app.command(asking.blame_, name="blame")
    app.command(asking.search_, name="search")
    app.command(asking.stats_, name="stats")
    app.command(branching.fork_, name="fork")
    app.command(branching.tree_, name="tree")
    # Loaded when they are asked for: they decide anew, and so load what decides.
    app.command("replay.cli.rehearsing:rehearse_", name="rehearse", help=REHEARSE)
    app.command("replay.cli.rehearsing:bisect_", name="bisect", help=BISECT)
    app.command(auditing.verify_, name="verify")
    app.command("replay.cli.reporting:report_", name="report", help=REPORT)
    app.command("replay.cli.exporting:export_", name="export", help=EXPORT)
    app.command("replay.cli.opened:open_", name="open", help=OPEN)
    app.command("replay.cli.browsing:tui_", name="tui", help=TUI)
    app.command("replay.cli.proving:prove_", name="prove", help=PROVE)
    app.command("replay.cli.proving:check_proof", name="check-proof", help=CHECK)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run `replay` with the process's arguments, and exit with its code; what reads an export runs in a confined process."""
    from eventflow.cli.shell import run_app  # noqa: PLC0415 - see above
    from replay.cli.opening import names_export, run_confined  # noqa: PLC0415

    given = list(sys.argv[1:] if argv is None else argv)
    if names_export(given):
        sys.exit(run_confined(given))
    gc.set_threshold(*COLLECTOR)
    sys.exit(run_app(build(), given))  # type: ignore[arg-type]

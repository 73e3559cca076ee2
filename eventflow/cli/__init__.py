"""The command line: `eventflow` and its commands, one function each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_STOPPED = 7  # as `shell` has it


def build() -> object:
    """The app with all its commands."""
    from eventflow import __version__  # noqa: PLC0415 - the package imports nothing of the command line, and stays light
    from eventflow.cli import acting, checkpoints, queues, runs, store, talking, tools, worker  # noqa: PLC0415
    from eventflow.cli.demo import app as demo  # noqa: PLC0415
    from eventflow.cli.shell import new_app  # noqa: PLC0415

    app = new_app("eventflow", "Workflows that survive anything: durable runs, checkpoints, recovery.", __version__)
    app.command(demo)
    app.command(runs.run)
    app.command(runs.list_runs, name="list")
    app.command(runs.show_run, name="show")
    app.command(runs.resume)
    app.command(acting.retry)
    app.command(acting.skip)
    app.command(talking.signal)
    app.command(talking.send)
    app.command(talking.ask)
    app.command(talking.answer)
    app.command(talking.settle)
    app.command(acting.pause)
    app.command(acting.cancel)
    app.command(acting.delete)
    for name, text in (
        ("pin_", "Keep a run, whatever the rules of cleaning up say."),
        ("unpin_", "Take a run's pin off."),
        ("hold_", "Put a legal hold on a run: nobody removes anything of it until it is released."),
        ("release_", "Lift a legal hold."),
        ("compact", "Let a run's history begin at a later version, with the state it had there."),
    ):
        app.command(f"eventflow.cli.retaining:{name}", name=name.rstrip("_"), help=text)
    app.command(worker.worker)
    app.command(queues.app)
    app.command(checkpoints.app)
    app.command(store.app)
    app.command(tools.check)
    app.command(tools.doctor)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run `eventflow` with the process's arguments, and exit with its code."""
    try:
        from eventflow.cli.shell import run_app  # noqa: PLC0415 - see above

        code = run_app(build(), argv)  # type: ignore[arg-type]
    except KeyboardInterrupt:  # while the commands were loaded
        code = _STOPPED
    sys.exit(code)

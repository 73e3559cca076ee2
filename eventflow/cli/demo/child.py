"""One process of a demo: starts or resumes the demo's run and tells on stdout what happens, a line each.

`python -m eventflow.cli.demo.child start|resume STORE RUN [NODE]`; with NODE it kills itself with SIGKILL in that node, at
the moment a model's answer is in the log and the transition is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable

from eventflow.cli.demo.flow import POLICY, initial, study
from eventflow.cli.demo.telling import tell
from eventflow.cli.shell import FAILED, OK, STOPPED, into_nothing, visible
from eventflow.engine import Engine
from eventflow.errors import EventflowError
from eventflow.event import EffectFinished, Recorded
from eventflow.run import Notice
from eventflow.state import State


def killer(node: str) -> Callable[[State, Notice], None]:
    """A listener that ends this process as a power cut would, in a node, after an answer is durable."""

    def listener(state: State, notice: Notice) -> None:
        if isinstance(notice, Recorded) and isinstance(notice.event, EffectFinished) and state.node == node:
            with contextlib.suppress(OSError):  # nobody may be reading
                print(f"     SIGKILL, now, in {node}: its answer is in the log, its transition is not", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    return listener


def _printer(state: State, notice: Notice) -> None:
    line = tell(state, notice)
    if line:
        print(visible(line), flush=True)


async def _work(verb: str, store: str, run_id: str, kill_in: str) -> int:
    flow = study()
    listeners = [_printer, killer(kill_in)] if kill_in else [_printer]
    async with Engine(store, workflows=[flow], checkpoints=POLICY, listeners=listeners) as engine:
        if verb == "start":
            run = await engine.start(flow, initial(), run_id=run_id, tags=["demo"])
        else:
            recovered = engine.get(run_id).state
            print(
                f"     recovered: version {recovered.version}, node {recovered.node}, {len(recovered.data['facts'])} facts",
                flush=True,
            )
            run = await engine.resume(run_id)
        state = await run.wait()
    return OK if state.status == "completed" else FAILED


def main() -> int:
    """The child's exit code: 0 if the run completed."""
    verb, store, run_id, *rest = sys.argv[1:]
    try:
        return asyncio.run(_work(verb, store, run_id, rest[0] if rest else ""))
    except EventflowError as error:
        print(visible(f"eventflow: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return STOPPED
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            into_nothing(1)


if __name__ == "__main__":
    sys.exit(main())

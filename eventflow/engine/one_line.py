"""A workflow run in one line: an engine of its own, to the end, and its final state."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from eventflow.engine.engine import Engine
from eventflow.workflow import Workflow, set_runner


async def run_once(flow: Workflow, data: Any, **options: Any) -> Any:
    """Run a workflow to its end on an engine of its own, in memory unless options name a store."""
    run_options = {name: options.pop(name) for name in ("run_id", "tags", "subject") if name in options}
    async with Engine(options.pop("store", "memory"), workflows=[flow], **options) as engine:
        run = await engine.start(flow, data, **run_options)
        return await run.result()


def run_sync(flow: Workflow, data: Any, **options: Any) -> Any:
    """The same for callers without an event loop; inside one, the run gets a thread of its own."""
    if not _in_a_loop():  # asked apart, so that the run's own errors are not told as that of having no loop
        return asyncio.run(run_once(flow, data, **options))
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.extend((True, asyncio.run(run_once(flow, data, **options))))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            outcome.extend((False, error))

    thread = threading.Thread(target=work, name="eventflow-run-sync")
    thread.start()
    thread.join()
    if outcome[0]:
        return outcome[1]
    raise outcome[1]


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


set_runner(run_sync)

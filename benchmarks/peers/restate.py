"""Restate as a measured system: a server of one node, and workflows whose steps are `ctx.run`, served over HTTP/2.

Runs in the environment of Restate's SDK: no eventflow here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate import Workflow, WorkflowContext, app

from benchmarks.peers.wire import NOTE, Absent, Job, Laps, main

_READY = 60.0  # seconds that the server may take until it answers
_STOP = 60.0  # and until it has flushed its tables
_JOURNAL = (
    "select j.index, j.entry_type, j.name, j.entry_json from sys_journal j join sys_invocation i on j.id = i.id "
    "where i.target_service_key = '{run}'"
)
_now: dict[str, Any] = {"laps": Laps(), "texts": []}  # what the registered functions below work on
counting = Workflow("Counting")
growing = Workflow("Growing")


@counting.main(name="run")
async def counted(ctx: WorkflowContext, steps: int) -> dict[str, Any]:
    """One step after the other; what each returns is in the journal before the next begins."""
    state: dict[str, Any] = {"n": 0, "note": ""}

    async def add_one() -> dict[str, Any]:
        _now["laps"].enter()
        result = {"n": state["n"] + 1, "note": NOTE}
        _now["laps"].leave()
        return result

    while state["n"] < steps:
        state = await ctx.run_typed("step", add_one)
    return state


@growing.main(name="run")
async def grown(ctx: WorkflowContext, steps: int) -> dict[str, Any]:
    """The list is the workflow's own; what its steps return is what the journal keeps of it."""
    items: list[str] = []

    async def add_text() -> str:
        _now["laps"].enter()
        result: str = _now["texts"][len(items)]
        _now["laps"].leave()
        return result

    while len(items) < steps:
        items.append(await ctx.run_typed("step", add_text))
    return {"n": steps, "items": items}


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def asked(url: str, body: Any = None) -> Any:
    """What a server answers, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"accept": "application/json"} | ({} if data is None else {"content-type": "application/json"})
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=600) as answer:  # noqa: S310
        return json.loads(answer.read() or b"null")


class Served(threading.Thread):
    """The workflows, as an HTTP/2 service in a thread of this process."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._config = Config()
        self._config.bind = [f"127.0.0.1:{port}"]
        self._config.h2_max_concurrent_streams = 2**31 - 1
        self._config.keep_alive_timeout = 3_600
        self._config.errorlog = None

    def run(self) -> None:
        """Serve until the process ends."""
        service: Any = app([counting, growing])
        asyncio.run(serve(service, self._config, shutdown_trigger=lambda: asyncio.Event().wait()))


class Restate:
    """A server with a directory of its own, and this process as its service."""

    def __init__(self, job: Job) -> None:
        ports = [free_port() for _ in range(4)]
        self._ingress, self._admin = (f"http://127.0.0.1:{port}" for port in ports[:2])
        self._service = ""
        Served(ports[2]).start()
        env = os.environ | {
            "RESTATE_BASE_DIR": str(Path(job.place) / "restate"),
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_INGRESS__BIND_PORT": str(ports[0]),
            "RESTATE_ADMIN__BIND_PORT": str(ports[1]),
            "RESTATE_BIND_PORT": str(ports[3]),
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "error",
        }
        self._server = subprocess.Popen([job.server], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._registered(f"http://127.0.0.1:{ports[2]}")
        except BaseException:
            self.close()
            raise

    def _registered(self, service: str) -> None:
        until = time.monotonic() + _READY
        while True:
            try:
                asked(f"{self._ingress}/restate/health")
                asked(f"{self._admin}/deployments", {"uri": service})
            except (OSError, urllib.error.URLError):
                if time.monotonic() > until or self._server.poll() is not None:
                    raise
                time.sleep(0.2)
            else:
                return

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """One workflow."""
        _now["laps"] = laps
        self._service = "Counting"
        asked(f"{self._ingress}/Counting/{run}/run", steps)

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """One workflow whose list grows."""
        _now.update(laps=laps, texts=texts)
        self._service = "Growing"
        asked(f"{self._ingress}/Growing/{run}/run", len(texts))

    def many(self, runs: list[str], steps: int, way: str) -> None:  # noqa: ARG002 - there is one way
        """All are sent, then all are waited for."""
        _now["laps"] = Laps()
        self._service = "Counting"
        for run in runs:
            asked(f"{self._ingress}/Counting/{run}/run/send", steps)
        for run in runs:
            self.latest(run)

    def latest(self, run: str) -> dict[str, Any]:
        """What the workflow has returned: of one that is over, that is its state."""
        state: dict[str, Any] = asked(f"{self._ingress}/restate/workflow/{self._service}/{run}/attach")
        return state

    def at(self, run: str, step: int) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        """The journal can be queried, but gives no state."""
        raise Absent("the journal can be queried, states at a step are not offered")

    def history(self, run: str) -> int:
        """All entries of the journal, by a query of SQL."""
        return len(asked(f"{self._admin}/query", {"query": _JOURNAL.format(run=run)})["rows"])

    def close(self) -> None:
        """Stop the server, which flushes its tables."""
        self._server.terminate()
        try:
            self._server.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


if __name__ == "__main__":
    main(Restate)

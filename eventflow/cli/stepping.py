"""Driving a run node by node: what the last node changed is shown, and somebody says whether to go on.

Between two nodes the run is let go, as it is by any stop: it waits for the word in the log, not in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import find_run
from eventflow.change import Change, resolve
from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.driving import Asked, Left, driven, report
from eventflow.cli.shell import open_store, print_json, value_text, visible
from eventflow.engine import Engine, Run
from eventflow.recovery import recover
from eventflow.state import State
from eventflow.workflow import Workflow

SCHEMA = "eventflow.step/1"
StepArg = Annotated[
    bool, Parameter(name="--step", negative=(), help="Stop before each next node, show what changed, ask to go on.")
]
_SIGNS = {"set": "=", "extend": "+", "merge": "+", "add": "+"}


def nodes_of(flows: list[Workflow]) -> frozenset[str]:
    """Every node there is to stop before."""
    return frozenset(name for flow in flows for name in flow.nodes)


def drive_by_step(
    store: str, flows: list[Workflow], begin: Callable[[Engine], Awaitable[Run]], asked: Asked, *,
    checkpoints: CheckpointPolicy | None = None, fresh: bool = False,
) -> int:  # fmt: skip
    """Begin, and drive to the next node each time that somebody says so; returns the exit code.

    `begin` must let the run go before its next node; with `fresh` it has not driven any yet, and nobody is asked first.
    """
    left, nodes = driven(store, flows, begin, asked, checkpoints=checkpoints), nodes_of(flows)
    run_id = left.run_id

    async def go_on(engine: Engine) -> Run:
        return await engine.resume(run_id, stop_before=nodes, why="by step")

    while _between(left, fresh=fresh):
        if not fresh:
            _show(store, left.state, asked)
            if not _goes_on(left.state.node):
                break
        fresh = False
        left = driven(store, flows, go_on, asked, checkpoints=checkpoints)
    return report(left, asked)


def _between(left: Left, *, fresh: bool) -> bool:
    """Whether a run stands before a node because that was asked for."""
    return left.here and not left.stopped and (left.state.status == "pending" or (fresh and not left.state.ended))


def _goes_on(node: str) -> bool:
    """Ask on the terminal, or read a line from stdin: nothing or `go`, `stop`; its end is a stop too."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print(visible(f"go on with node {node}? [go/stop] "), end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            return False
        word = line.strip().lower()
        if not line or word == "stop":
            return False
        if word in ("", "go"):
            return True
        print(f"eventflow: {visible(word)!r} is neither go (or an empty line) nor stop", file=sys.stderr)


def _show(store: str, state: State, asked: Asked) -> None:
    """What the node before did."""
    log = open_store(store)
    try:
        before = recover(log, find_run(log, state.run.run_id, whole=True), state.visit - 1).state
    finally:
        log.close()
    change = resolve(before.data, state.data, {})
    if asked.output == "jsonl":
        ops = [{"op": one.op, "path": list(one.path), "value": one.value} for one in change]
        row = {"run": state.run.run_id, "version": state.visit, "node": before.node, "next": state.node, "change": ops}
        print_json({"schema": SCHEMA, **row}, lines=True)
        sys.stdout.flush()
        return
    to = sys.stdout if asked.output == "table" else sys.stderr
    print(visible(f"node {before.node} is done at version {state.visit}, next is {state.node}"), file=to)
    for text in _change_lines(change):
        print(visible(f"  {text}"), file=to)
    to.flush()


def _change_lines(change: Change) -> list[str]:
    return [_op_text(one.op, ".".join(one.path), one.value) for one in change] or ["nothing changed"]


def _op_text(op: str, path: str, value: Any) -> str:
    return f"{path} is gone" if op == "delete" else f"{path} {_SIGNS[op]} {value_text(value)}"

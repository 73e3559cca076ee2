"""Workflows with one split, run to their end."""

from __future__ import annotations

import pytest
from stories import story

from eventflow import Engine, RunFailed, Workflow
from eventflow.verification import verify_store


def flow_of(split, *, state=None, **options):
    """A split, and a node after it."""
    flow = Workflow("flow", state=state).add_node("split", split, **options).add_node("end", lambda state: None)
    return flow.add_edge("split", "end").set_start("split")


def ended(data, split, **options):
    """The final state, and the events, of a run of a flow with this split; the store it leaves is sound."""

    async def tell():
        flow = flow_of(split, **options)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, data, run_id="r")
            result = await run.result()
            *_, report = verify_store(engine.log)
            assert not report.findings
            return result, [one.event for one in run.events()]

    return story(tell())


def failed(data, split, **options):
    """How a run of a flow with this split failed, and its events."""

    async def tell():
        flow = flow_of(split, **options)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, data, run_id="r")
            with pytest.raises(RunFailed) as caught:
                await run.result()
            return caught.value.error, [one.event for one in run.events()]

    return story(tell())

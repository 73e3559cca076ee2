"""Workflows that start children, and how they are waited for."""

from __future__ import annotations

import asyncio

from eventflow import Workflow


async def there(engine, run_id, *statuses):
    """A run, once it is there and has one of some statuses (any, if none is named)."""
    while (head := engine.log.head(run_id)) is None or (statuses and head.status not in statuses):
        await asyncio.sleep(0.002)
    return engine.get(run_id)


def single(body, name="child", **options):
    """A workflow of one node."""
    return Workflow(name, **options).add_node("only", body).set_start("only")


def calling(body, name="caller", **options):
    """A workflow that starts a child, or several, and goes on."""
    flow = Workflow(name, **options).add_node("call", body).add_node("end", lambda state: {"ended": True})
    return flow.add_edge("call", "end").set_start("call")

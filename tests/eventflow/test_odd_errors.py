"""Errors of the user's code that are no Exception, that can't be asked, or that come where an error is being dealt with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventflow import Engine, Parallel, RetryPolicy, Workflow
from eventflow.errors import RunFailed
from eventflow.event import AttemptFailed, EffectFailed
from eventflow.run import is_failure


class Panic(BaseException):
    """As a library in Rust raises it: no Exception, and no end of the program."""


def _events(flow: Workflow) -> tuple[list[Any], str]:
    """The events of a run that must end as failed, and what its error says."""

    async def tell() -> tuple[list[Any], str]:
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed) as caught:
                await asyncio.wait_for(run.result(), 10)
            assert run.status == "failed"
            return [one.event for one in run.events()], str(caught.value)

    return asyncio.run(tell())


def panics(state: object) -> None:
    """A plain body that panics."""
    raise Panic("index out of bounds")


async def panics_too(state: object) -> None:
    """One on the loop."""
    raise BaseExceptionGroup("several", [Panic("one"), ValueError("two")])


@pytest.mark.parametrize("body", [panics, panics_too, Parallel({"one": panics})])
def test_what_is_no_exception_and_ends_nothing_fails_the_run(body: Any) -> None:
    """A run whose code panicked would otherwise stand as running for as long as its process lives."""
    _, said = _events(Workflow("w").add_node("a", body).set_start("a"))
    assert "Panic" in said or "several" in said


def test_a_call_that_panics_has_failed_and_is_tried_again() -> None:
    """Its outcome is not unknown, and nobody is asked; a policy may name such an error."""

    async def body(state: object, run: Any) -> None:
        await run.effect("pay", panics, 1)

    retry = RetryPolicy(attempts=2, delay=0, on=(Panic,))  # type: ignore[arg-type] # it is no Exception
    events, said = _events(Workflow("w").add_node("a", body, retry=retry).set_start("a"))
    assert [one.error.type for one in events if isinstance(one, EffectFailed)] == ["Panic"] * 2
    assert "Panic: index out of bounds" in said


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()])
def test_what_ends_a_program_a_task_or_a_coroutine_is_no_failure(end: BaseException) -> None:
    """Nor is a group that holds one of them."""
    assert not is_failure(end)
    assert not is_failure(BaseExceptionGroup("g", [ValueError(), end]))
    assert is_failure(Panic())


class Silent(Exception):
    """It fails when it is asked."""

    @property
    def retry_after(self) -> float:
        """Raises."""
        raise RuntimeError("no")

    @property
    def retryable(self) -> bool:
        """Raises."""
        raise RuntimeError("no")


def test_an_error_that_can_not_be_asked_is_an_error_like_any_other() -> None:
    """It is tried again as the policy has it, and fails the run."""

    def body(state: object) -> None:
        raise Silent

    retry = RetryPolicy(attempts=2, delay=0)
    events, _ = _events(Workflow("w").add_node("a", body, retry=retry).set_start("a"))
    assert sum(isinstance(one, AttemptFailed) for one in events) == 1


@pytest.mark.parametrize("guard", [lambda state: state.update(x=1), panics])
def test_a_guard_of_an_error_edge_that_fails_itself_fails_the_run(guard: Any) -> None:
    """Whatever it raises: here the state it tries to change is read-only, or it panics."""
    flow = Workflow("w").add_node("a", lambda state: 1 / 0).add_node("b", lambda state: None)
    events, _ = _events(flow.add_edge("a", "b", on="failed", when=guard).set_start("a"))
    assert len(events) == 2


def test_a_listener_that_panics_loses_what_it_was_told_and_the_run_goes_on() -> None:
    """A fact stays a fact, whatever becomes of those who hear of it."""

    def listener(state: object, notice: object) -> None:
        raise Panic

    async def tell() -> Any:
        flow = Workflow("w").add_node("a", lambda state: {"x": 1}).set_start("a")
        async with Engine(workflows=[flow], listeners=[listener]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            return await asyncio.wait_for(run.result(), 10)

    assert asyncio.run(tell()) == {"x": 1}

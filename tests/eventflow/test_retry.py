"""Retries: arithmetic from attempts to rests, the same whenever it is asked."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.errors import DefinitionError
from eventflow.retry import NO_RETRY, RetryPolicy

SEED = b"run-key"
EXACT = RetryPolicy(attempts=9, delay=1.0, factor=2.0, longest=60.0, jitter=0.0)


def test_rests_double_up_to_the_longest() -> None:
    """Without jitter the rests are 1, 2, 4 … and then stay."""
    assert [EXACT.rest(attempt, seed=SEED) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_factor_of_one_rests_always_alike() -> None:
    """A constant rest is a policy too."""
    policy = RetryPolicy(delay=0.5, factor=1, jitter=0)
    assert {policy.rest(attempt, seed=SEED) for attempt in (1, 2, 50, 10**6)} == {0.5}


@pytest.mark.parametrize("factor", [2, 2.0, 1e10, 10**30, math.inf])
def test_no_number_of_attempts_overflows(factor: float) -> None:
    """The millionth rest is the longest one, whatever the factor."""
    policy = RetryPolicy(attempts=10**9, factor=factor, longest=7.0, jitter=0)
    assert policy.rest(10**6, seed=SEED) == 7.0
    assert policy.rest(4_294_967_295, seed=SEED) == 7.0


@pytest.mark.parametrize("factor", [1, 2, math.inf])
def test_no_delay_is_no_rest(factor: float) -> None:
    """A delay of nothing stays nothing however often it grows."""
    assert RetryPolicy(delay=0, factor=factor).rest(10**4, seed=SEED) == 0.0


@given(st.integers(1, 10**6), st.binary(max_size=16), st.floats(0, 1))
@settings(max_examples=100)
def test_jitter_moves_a_rest_by_no_more_than_its_share(attempt: int, seed: bytes, jitter: float) -> None:
    """The rest stays within the jitter either way, and is the same when it is asked again."""
    policy = RetryPolicy(delay=3, factor=1, jitter=jitter)
    rest = policy.rest(attempt, seed=seed)
    assert 3 * (1 - jitter) - 1e-9 <= rest <= 3 * (1 + jitter) + 1e-9
    assert policy.rest(attempt, seed=seed) == rest


def test_jitter_spreads_runs_and_attempts() -> None:
    """A thousand runs that failed together do not come back together."""
    policy = RetryPolicy(delay=10, factor=1, jitter=0.5)
    rests = [policy.rest(1, seed=number.to_bytes(4, "big")) for number in range(1_000)]
    assert len(set(rests)) == 1_000
    assert 9.5 < sum(rests) / len(rests) < 10.5
    assert min(rests) < 6
    assert max(rests) > 14
    assert policy.rest(1, seed=SEED) != policy.rest(2, seed=SEED)


def test_only_the_named_errors_are_worth_another_try() -> None:
    """`on` names exceptions with all that derive from them."""
    policy = RetryPolicy(on=(OSError, ValueError))
    assert policy.covers(ConnectionResetError())
    assert policy.covers(UnicodeError())
    assert not policy.covers(KeyError())
    assert not RetryPolicy(on=()).covers(ValueError())
    assert RetryPolicy().covers(RuntimeError())


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()])
def test_what_ends_a_program_or_a_task_is_never_tried_again(end: BaseException) -> None:
    """Being stopped is not a failure."""
    assert not RetryPolicy().covers(end)


def test_an_error_that_says_it_is_not_retryable_is_believed() -> None:
    """Only a plain False counts: an error without the attribute, or with None, is worth a try."""

    class Refused(Exception):
        def __init__(self, retryable: object) -> None:
            self.retryable = retryable

    assert not RetryPolicy().covers(Refused(retryable=False))
    assert RetryPolicy().covers(Refused(retryable=True))
    assert RetryPolicy().covers(Refused(retryable=None))


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0}, {"attempts": -1}, {"delay": -0.1}, {"factor": 0.5}, {"longest": -1}, {"jitter": 1.1}, {"jitter": -0.1},
        {"delay": math.nan}, {"factor": math.nan}, {"longest": math.nan}, {"jitter": math.nan},
    ],
)  # fmt: skip
def test_a_policy_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    """Numbers out of bounds, NaN included, are found where the policy is made."""
    with pytest.raises(DefinitionError, match="RetryPolicy needs"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_no_retry_is_one_attempt() -> None:
    """The name says it."""
    assert NO_RETRY.attempts == 1


@pytest.mark.parametrize("on", [[ValueError], "ValueError", (ValueError, "OSError"), (int,)])
def test_what_is_tried_again_is_named_by_its_classes(on) -> None:
    """Anything else is refused at once, not when the first error comes."""
    with pytest.raises(DefinitionError, match="takes a tuple of exception classes"):
        RetryPolicy(on=on)

"""Addresses: what each form means, and what is said about one that means nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import CheckpointPolicy, Engine, ManualClock, MemoryLog, Workflow
from eventflow.address import check_run_id, checkpoint_at, find_run, moment, resolve, version_at
from eventflow.clock import NS
from eventflow.errors import (
    AmbiguousRun,
    CheckpointNotFound,
    EventflowError,
    NotFound,
    RunNotFound,
    SettingsError,
    VersionNotFound,
)

TEN = datetime(2026, 11, 24, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def log() -> MemoryLog:
    """Runs `research-1` (versions a minute apart from ten o'clock on), `research-2`, `r`, and a fork of the first."""
    log = MemoryLog()

    async def tell():
        clock = ManualClock(int(TEN.timestamp()) * NS)

        def step(state):
            clock.advance(60)
            return {"n": state["n"] + 1}

        flow = Workflow("w").add_node("a", step).add_node("b", lambda s: None)
        flow.add_edge("a", "a", when=lambda s: s["n"] < 4, label="more").add_edge("a", "b").set_start("a")
        async with Engine(log, clock=clock, checkpoints=CheckpointPolicy(after_node=("a",))) as engine:
            for name in ("research-1", "research-2", "r"):
                await (await engine.start(flow, {"n": 0}, run_id=name)).result()
            clock.advance(3600)
            await (await engine.fork("research-1@3", run_id="fork")).result()

    asyncio.run(tell())
    return log


@pytest.mark.parametrize("good", ["a", "A9", "my-run", "a.b:c_d", "0" * 128])
def test_a_good_id_is_returned_as_it_is(good):
    """Letters, digits and . _ : - in between."""
    assert check_run_id(good) == good


@settings(deadline=None)
@given(st.text(max_size=130))
def test_an_id_is_good_or_refused_with_a_sentence(text):
    """There is no third way, whatever is given."""
    try:
        assert check_run_id(text) == text
    except SettingsError as error:
        assert "can't be a run id" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "run", "version"),
    [
        ("research-1", "research-1", 6),
        ("r", "r", 6),  # an exact id wins over a prefix
        ("f", "fork", 7),
        ("research-1@3", "research-1", 3),
        ("research-1@003", "research-1", 3),
        ("f@2", "fork", 2),
        ("research-2@c-4", "research-2", 4),
        ("research-1@2026-11-24T10:02", "research-1", 3),
        ("research-1@2026-11-24T10:02:30Z", "research-1", 3),
        ("research-1@2026-11-24T11:02:30+01:00", "research-1", 3),
        ("research-1@2030-01-01", "research-1", 6),
        ("fork@2026-11-24T10:01:30Z", "fork", 2),  # before the fork: its parent's
        ("fork@2026-11-24T10:59Z", "fork", 3),
        ("fork@2027-01-01", "fork", 7),
    ],
)
def test_an_address_names_a_run_and_a_version(log, text, run, version):
    """By number, checkpoint or moment; the run by its id or a unique prefix."""
    address = resolve(log, text)
    assert (address.head.run_id, address.version) == (run, version)
    assert str(address) == f"{run}@{version}"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("x", RunNotFound, "no run 'x'"),
        ("", RunNotFound, "no run ''"),
        ("a b", RunNotFound, "no run 'a b'"),
        ("~store", RunNotFound, "no run '~store'"),
        ("re", AmbiguousRun, "research-1, research-2"),
        ("r@7", VersionNotFound, "has no version 7; its versions go from 1 to 6"),
        ("r@0", VersionNotFound, "has no version 0"),
        ("r@c-9", CheckpointNotFound, "checkpoint not found: run r has no 'c-9'"),
        ("r@c-", CheckpointNotFound, "'c-'"),
        ("r@", SettingsError, "write a time as"),
        ("r@yesterday", SettingsError, "is not a version, a checkpoint (c-17) or a time"),
        ("r@-1", SettingsError, "'-1'"),
        ("r@²", SettingsError, "'²'"),
        ("r@" + "9" * 5_000, SettingsError, "999"),
        ("r@2020-01-01", NotFound, "run r had not begun at 2020-01-01"),
        ("r@0001-01-01T00:00+14:00", NotFound, "had not begun"),
    ],
)
def test_an_address_that_means_nothing_says_why(log, text, error, said):
    """One sentence, and never a bare ValueError."""
    with pytest.raises(error) as caught:
        resolve(log, text)
    assert said in str(caught.value)


def test_what_changes_something_takes_whole_ids_only(log):
    """A prefix finds nothing then."""
    assert find_run(log, "research-1", whole=True).run_id == "research-1"
    with pytest.raises(RunNotFound):
        find_run(log, "research", whole=True)
    with pytest.raises(RunNotFound):
        resolve(log, "f@2", whole=True)


def test_a_checkpoint_and_a_point_are_found_in_a_run(log):
    """The pieces of `resolve` can be asked alone."""
    head = find_run(log, "r")
    assert checkpoint_at(log, head, "c-2") == 2
    assert version_at(log, head, "4") == 4


def test_many_matches_name_some_of_them():
    """Enough to go on with, and not all of a thousand."""
    log = MemoryLog()

    async def tell():
        flow = Workflow("w").add_node("a", lambda s: None).set_start("a")
        async with Engine(log) as engine:
            await engine.start_many(flow, {f"run-{n:03}": {} for n in range(50)})

    asyncio.run(tell())
    with pytest.raises(AmbiguousRun, match=r"run-000, run-001, run-002, run-003, run-004, …"):
        find_run(log, "run")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("2h", 7_200), ("1d", 86_400), ("1 w", 604_800)]
)
def test_a_span_is_a_moment_before_now(text, seconds):
    """Where `now` is known."""
    now = 10**9 * NS
    assert moment(text, now=now) == now - seconds * NS
    with pytest.raises(SettingsError):
        moment(text)


def test_a_moment_without_a_zone_is_utc():
    """And a zone is heard."""
    assert moment("2026-11-24T10:00") == moment("2026-11-24T12:00+02:00") == int(TEN.timestamp()) * NS
    assert moment("2026-11-24T10:00:00.000001Z") == int(TEN.timestamp()) * NS + 1_000


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_typed_error(text):
    """Nothing else is raised, whatever is given."""
    log = MemoryLog()
    with pytest.raises(EventflowError):
        resolve(log, text)


def test_who_changes_a_run_and_names_less_or_more_is_told_what_is_missing(log):
    """The beginning of an id, a point of a run, a Run in place of its id."""
    with pytest.raises(RunNotFound, match="there is research-1, research-2, but what changes a run takes its whole id"):
        find_run(log, "research", whole=True)
    with pytest.raises(SettingsError, match="name 'r'; `eventflow resume r --at c-3` goes back"):
        find_run(log, "r@c-3", whole=True)
    with pytest.raises(SettingsError, match=r"`run\.id` of a Run"):
        find_run(log, object())  # type: ignore[arg-type]

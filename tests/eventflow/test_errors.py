"""Errors: one sentence, one exit code, all values as attributes, through a worker process and back."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from eventflow import errors
from eventflow.errors import EventflowError
from eventflow.event import Failure

KINDS = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, EventflowError)),
    key=lambda kind: kind.__name__,
)
VALUES: dict[str, Any] = {
    "str": "a-name",
    "int": 7,
    "Sequence[str]": ["one", "two"],
    "BaseException": ValueError("boom"),
    "Any": Failure("ValueError", "boom"),
}


def sample(kind: type[EventflowError]) -> EventflowError:
    """An error of a class, made as its own signature asks."""
    if not hasattr(kind.__init__, "__code__"):
        return kind("it did not work; do it otherwise")
    asked = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return kind(*[VALUES[str(one.annotation)] for one in asked if one.default is one.empty])


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_one_sentence_with_its_values(kind: type[EventflowError]) -> None:
    """No error has an empty, a broken or a dangling sentence."""
    text = str(sample(kind))
    assert text
    assert "\n" not in text
    assert "  " not in text
    assert not text.endswith((".", ";", ":", " "))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])  # noqa: S301
def test_every_error_survives_the_way_between_processes(kind: type[EventflowError], way: Any) -> None:
    """A worker's error arrives with its class, its sentence and its values."""
    error = sample(kind)
    arrived = way(error)
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert arrived.__dict__.keys() == error.__dict__.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_exit_code_is_one_the_command_line_documents(kind: type[EventflowError]) -> None:
    """Exit codes are from 1 to 7."""
    assert kind.exit_code in range(1, 8)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.EventflowError, 1), (errors.RunFailed, 1), (errors.NotPlainData, 1), (errors.NoEdgeHolds, 1),
        (errors.DefinitionError, 2), (errors.SettingsError, 2), (errors.WorkflowUnknown, 2), (errors.NoCheckpointer, 2),
        (errors.MissingApiKey, 2), (errors.RunNotFound, 3), (errors.AmbiguousRun, 3), (errors.VersionNotFound, 3),
        (errors.CheckpointNotFound, 3), (errors.StoreNotFound, 3), (errors.NodeNotFound, 3), (errors.VersionConflict, 5),
        (errors.Fenced, 5), (errors.RunOwned, 5), (errors.RunExists, 5), (errors.HasForks, 5), (errors.NotResumable, 5),
        (errors.DefinitionChanged, 5), (errors.StoreFull, 6), (errors.StoreBusy, 6), (errors.StoreClosed, 6),
        (errors.Corrupt, 6), (errors.WrittenByNewer, 6), (errors.Stopped, 7),
    ],
)  # fmt: skip
def test_exit_codes_are_what_scripts_rely_on(kind: type[EventflowError], code: int) -> None:
    """Each moment of failure has its own exit code."""
    assert kind.exit_code == code


def test_the_three_errors_of_the_guide_keep_their_names() -> None:
    """People search for these words."""
    assert str(errors.NoCheckpointer("saving")).startswith("no checkpointer configured")
    assert str(errors.CheckpointNotFound("r", "c-3")).startswith("checkpoint not found")
    assert str(errors.NodeNotFound("r", "writer", "it was removed")).startswith("node not found during resume")


def test_a_read_only_state_fails_as_a_type_error_would() -> None:
    """Code that guards against immutable values by TypeError goes on working."""
    assert issubclass(errors.StateIsReadOnly, TypeError)
    assert "append" in str(errors.StateIsReadOnly("append"))
    assert "return the change instead" in str(errors.StateIsReadOnly("append"))


def test_an_ambiguous_prefix_names_five_runs_and_no_more() -> None:
    """A prefix that fits a thousand runs does not fill the screen."""
    error = errors.AmbiguousRun("run", [f"run-{number}" for number in range(1_000)])
    assert "run-4, …" in str(error)
    assert "run-5" not in str(error)
    assert len(error.matches) == 1_000
    assert "…" not in str(errors.AmbiguousRun("run", ["run-1", "run-2"]))

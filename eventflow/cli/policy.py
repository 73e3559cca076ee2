"""Policies from the command line: an option each, over `checkpoints` in the settings, over the default; rules and limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

from cyclopts import Group, Parameter

from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.shell import settings
from eventflow.errors import DefinitionError, SettingsError
from eventflow.quota import Quota
from eventflow.retention import RetentionPolicy

_GROUP = Group("Checkpoints")


def _option(text: str, **more: Any) -> Parameter:
    return Parameter(help=text, group=_GROUP, **more)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class PolicyArgs:
    """What is left out is taken from the settings, else from the default policy."""

    every: Annotated[int | None, _option("A checkpoint each that many events.")] = None
    interval: Annotated[
        float | str | None, _option('A checkpoint at the first event after that span: "1h", or seconds.')
    ] = None
    before_node: Annotated[bool | None, _option("A checkpoint before each node.", negative=())] = None
    after_node: Annotated[bool | None, _option("A checkpoint after each node.", negative=())] = None
    keep: Annotated[int | None, _option("Keep only the newest that many checkpoints.")] = None
    max_age: Annotated[float | str | None, _option('Keep only checkpoints younger than that: "30d", or seconds.')] = (
        None
    )
    auto: Annotated[bool | None, _option("Snapshots in proportion to the state's size; on unless --no-auto.")] = None
    on_error: Annotated[bool | None, _option("A checkpoint when a node fails; on unless --no-on-error.")] = None
    at_shutdown: Annotated[bool | None, _option("A checkpoint when stopped; on unless --no-at-shutdown.")] = None
    recovery: Annotated[
        str | None, _option('Snapshots so far apart that a recovery takes no longer than that: "50 ms", "2 s".')
    ] = None
    compress: Annotated[bool | None, _option("Compress snapshots; on unless --no-compress.")] = None


NO_OPTIONS = PolicyArgs()


def policy_of(given: PolicyArgs) -> CheckpointPolicy:
    """The policy that options and settings add up to. Raises SettingsError, DefinitionError."""
    chosen = _from_settings()
    chosen.update({one.name: value for one in fields(given) if (value := getattr(given, one.name)) is not None})
    return CheckpointPolicy(**chosen)


def _from_settings() -> dict[str, Any]:
    found = settings().get("checkpoints", {})
    if not isinstance(found, dict):
        raise SettingsError("`checkpoints` in the settings must be a table, as in [tool.eventflow.checkpoints]")
    known = {one.name for one in fields(CheckpointPolicy)}
    unknown = sorted(set(found) - known)
    if unknown:
        raise SettingsError(
            f"the settings' checkpoints have no {', '.join(unknown)}; they have {', '.join(sorted(known))}"
        )
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()}
    try:
        CheckpointPolicy(**values)
    except DefinitionError as error:
        raise SettingsError(f"the setting `checkpoints` can't be used: {error}") from None
    return values


def retention_of() -> RetentionPolicy | None:
    """The rules of cleaning up that settings give as `[tool.eventflow.retention]`; None without any. Raises SettingsError."""
    found = settings().get("retention", {})
    known = {one.name for one in fields(RetentionPolicy)}
    if not isinstance(found, dict) or not found.keys() <= known:
        raise SettingsError(f"the setting `retention` is a table of {', '.join(sorted(known))}")
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()}
    try:
        return RetentionPolicy(**values) if values else None
    except SettingsError as error:
        raise SettingsError(f"the setting `retention` can't be used: {error}") from None


UNLIMITED = "none"  # how settings, which have no null, say that there is no limit


def quota_of() -> Quota | None:
    """The limits that settings give as `[tool.eventflow.quota]`; None without any: the engine's own. Raises SettingsError."""
    found = settings().get("quota", {})
    known = {one.name for one in fields(Quota)}
    if not isinstance(found, dict) or not found.keys() <= known:
        raise SettingsError(f"the setting `quota` is a table of {', '.join(sorted(known))}")
    return Quota(**{name: None if value == UNLIMITED else value for name, value in found.items()}) if found else None

"""What a what-if run may call, from the command line that takes one up again; asked about before anything is really made."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from eventflow.address import find_run
from eventflow.cli.shell import confirm, json_argument, open_store, visible
from eventflow.errors import NotResumable, SettingsError
from eventflow.recovery import recover
from eventflow.what_if import EffectPolicy, estimate, policy_said, widened

_GROUP = Group("What-if runs")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class WiderArgs:
    """What a what-if run may call from now on, besides what it may already."""

    live: Annotated[
        tuple[str, ...],
        Parameter(
            group=_GROUP, negative=(), help="Of a what-if run: a call to make from now on; '*': all that do not mutate."
        ),
    ] = ()
    mock: Annotated[
        tuple[str, ...],
        Parameter(group=_GROUP, negative=(), help="NAME=JSON: a value that answers a call from now on."),
    ] = ()
    deny: Annotated[tuple[str, ...], Parameter(group=_GROUP, negative=(), help="A call to deny from now on.")] = ()


AS_IT_IS = WiderArgs()


def mocks_of(given: tuple[str, ...]) -> dict[str, object]:
    """The values that answer calls, from NAME=JSON. Raises SettingsError."""
    found: dict[str, object] = {}
    for text in given:
        name, there, value = text.partition("=")
        if not there or not name:
            raise SettingsError(f"--mock {text!r} names no call; write NAME=JSON, such as charge='{{\"paid\": true}}'")
        found[name] = json_argument(value, f"--mock {name}")
    return found


def wider(store: str | None, run: str, args: WiderArgs, *, yes: bool) -> EffectPolicy | None:
    """What a what-if run may call once it is taken up with these options; None without any.

    Asks before calls may be made that could not be before. Raises SettingsError, RunNotFound, NotResumable.
    """
    if args == AS_IT_IS:
        return None
    more = policy_said(args.live, mocks_of(args.mock), args.deny, fresh=False)
    opened = open_store(store)
    try:
        state = recover(opened, find_run(opened, run, whole=True)).state
        policy, parent = state.run.policy, state.run.parent
        if not policy:
            raise NotResumable(run, "it is no what-if run: it makes every call anyway")
        after = widened(policy, more)
        head = None if parent is None else opened.head_of(parent.run_key)
        if more.live and head is not None and parent is not None:
            since = policy.get("recorded", {"first": parent.at + 1})["first"]
            likely = estimate(opened, {"run": head.run_key, "first": since, "last": head.version}, more)
            _ask(more, f"; {likely}", yes=yes)
        elif more.live:
            _ask(more, "", yes=yes)
    finally:
        opened.close()
    return after


def _ask(more: EffectPolicy, likely: str, *, yes: bool) -> None:
    names = ", ".join("every call that does not mutate" if one == "*" else one for one in sorted(more.live))
    said = f"The run may really call {names}{likely}."
    if yes:
        print(visible(said), file=sys.stderr)
    elif not confirm(f"{said} Go on?", yes=False):
        raise SettingsError("the run was not taken up")

"""Commands about branches: fork, the one thing replay writes to a history, and tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from eventflow.address import Address, find_run, resolve
from eventflow.cli.shell import (
    OK,
    FlowArg,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    argument,
    confirm,
    json_argument,
    open_store,
    pasteable,
    print_json,
    show,
    store_path,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.errors import SettingsError
from eventflow.log import Head, Log
from eventflow.plain import FrozenDict
from eventflow.recovery import recover
from eventflow.what_if import EffectPolicy, estimate, policy_said, source_after, told
from replay.cli.opening import opened_at
from replay.family import MAX_FAMILY, Member, family
from replay.fork import Kin, fork, lineage
from replay.path import Path, parse_path

SCHEMA, TREE = "eventflow.fork/1", "eventflow.tree/1"
SetArg = Annotated[
    tuple[str, ...], argument(name="--set", negative=(), help="PATH=JSON: a value that is another in the fork.")
]
IdArg = Annotated[str | None, argument(name="--id", help="The new run's id; a fresh one if left out.")]
RunArg = Annotated[
    bool,
    argument(name="--run", negative=(), help="Drive the new run too, as `eventflow resume` does: as a what-if run."),
]


@argument(name="*")
@dataclass(frozen=True)
class WhatIf:
    """What the new run may call: any of these makes it a what-if run."""

    what_if: Annotated[
        bool, argument(negative=(), help="Make no call: what was recorded answers, all else is denied.")
    ] = False
    live: Annotated[
        tuple[str, ...],
        argument(negative=(), help="A call that is made where no record answers; '*': all that do not mutate."),
    ] = ()
    mock: Annotated[tuple[str, ...], argument(negative=(), help="NAME=JSON: a value that answers a call.")] = ()
    deny: Annotated[
        tuple[str, ...], argument(negative=(), help="A call that is denied even where a record answers.")
    ] = ()
    fresh: Annotated[bool, argument(negative=(), help="No record answers.")] = False
    real: Annotated[bool, argument(negative=(), help="Make every call, also with --run.")] = False

    def effects(self, *, run: bool) -> EffectPolicy | Literal["real"] | None:
        """What they come to; None where nothing was said and nothing is driven. Raises SettingsError."""
        asked = self.what_if or self.live or self.mock or self.deny or self.fresh
        if self.real:
            if asked:
                raise SettingsError("--real makes every call; leave it out, or the other options about calls")
            return "real"
        if not asked and not run:
            return None
        mocks = {name: json_argument(value, f"--mock {name}") for name, value in map(_named, self.mock)}
        return policy_said(self.live, mocks, self.deny, fresh=self.fresh)


NOT_ASKED = WhatIf()


def fork_(
    address: str, /, *, sets: SetArg = (), run_id: IdArg = None, run: RunArg = False, flow: FlowArg = None,
    calls: WhatIf = NOT_ASKED, yes: YesArg = False, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Branch a run: record a new one that continues it from a version, its state changed where asked.

    Parameters
    ----------
    address
        RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z, with the run's whole id.
    """
    if flow and not run:
        raise SettingsError("--flow says what drives the new run, and --run that it is driven; give both, or neither")
    changed = [_assignment(one) for one in sets]
    effects = calls.effects(run=run)
    opened = open_store(store, write=True)
    try:
        place = resolve(opened, address, whole=True)
        if run and (code := workflow_known(opened, place.head, flow or ())) != OK:
            return code
        if (
            isinstance(effects, EffectPolicy)
            and effects.live
            and not _agreed(opened, place, effects, sets=changed, yes=yes)
        ):
            return OK
        head = fork(opened, SystemClock(), place, sets=changed, run_id=run_id, why=why, effects=effects)
        family_rows = lineage(opened, head)
        policy = recover(opened, head).state.run.policy
    finally:
        opened.close()
    if not (run and output == "json"):  # one document, which then is that of the driven run
        _tell(str(place), head, policy, family_of=family_rows, output=output, then=None if run else (store, flow or ()))
    return driven(head.run_id, flow or (), store, output) if run else OK


def _agreed(log: Log, place: Address, policy: EffectPolicy, *, sets: Sequence[tuple[Path, Any]], yes: bool) -> bool:
    """Whether calls may be made, once it was said what they are likely to cost. Raises SettingsError."""
    state = recover(log, place.head, place.version).state
    likely = estimate(log, source_after(place.head, state, changed=bool(sets)), policy)
    names = ", ".join("every call that does not mutate" if one == "*" else one for one in sorted(policy.live))
    said = f"The new run may really call {names}; {likely}."
    if yes:
        print(visible(said), file=sys.stderr)
    return confirm(f"{said} Fork it?", yes=yes)


def workflow_known(log: Log, head: Head, flows: Sequence[str]) -> int:
    """OK if what would drive a run knows its workflow, else an exit code, once it was said why: before anything is recorded."""
    entry = log.entry(head.run_key)
    argv = [head.run_id, "" if entry is None else entry.workflow, *flows]
    return subprocess.run([sys.executable, "-m", "eventflow.cli.known", *argv], check=False).returncode  # noqa: S603 - our own


def driven(run_id: str, flows: Sequence[str], store: str | None, output: str) -> int:
    """The exit code of eventflow's own command line, which drives a run in a process of its own."""
    given = [one for flow in flows for one in ("--flow", flow)]
    argv = ["resume", run_id, *given, "--store", store_path(store), "--output", output]
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "eventflow", *argv], check=False).returncode  # noqa: S603 - our own


def _tell(
    place: str, head: Head, policy: FrozenDict, *, family_of: list[Kin], output: str, then: tuple[str | None, Sequence[str]] | None
) -> None:  # fmt: skip
    """Say what was made; `then` is the store and the workflows that were typed, where somebody is to drive it."""
    run_id = head.run_id
    if output != "table":
        document = {"schema": SCHEMA, "run": run_id, "version": head.version, "parent": place, "what_if": bool(policy)}
        print_json({**document, "lineage": [_kin_row(one) for one in family_of]}, lines=output == "jsonl")
        return
    how = "" if then is None else f"; {pasteable(f'`eventflow resume {run_id}`', *then)} drives it"
    print(visible(f"run {run_id} continues {place}{how}"))
    if policy:
        print(visible(f"it is a what-if run: {told(policy)}"))
    for one in family_of:
        print(visible(_branch(one, new=one.run_id == run_id)))


def _named(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise SettingsError(f"--mock {text!r} names no call; write NAME=JSON, such as charge='{{\"paid\": true}}'")
    return name, value


def _assignment(text: str) -> tuple[Path, Any]:
    path, found, value = text.partition("=")
    if not found:
        raise SettingsError(f"{text!r} sets nothing; write PATH=JSON, such as topic='\"moons\"'")
    return parse_path(path), json_argument(value, f"--set {path}")


def _kin_row(one: Kin) -> dict[str, Any]:
    return {"run": one.run_id, "at": one.at or None, "depth": one.depth, "what_if": one.what_if}


def _branch(one: Kin, *, new: bool) -> str:
    mark = (", what-if" if one.what_if else "") + (" (new)" if new else "")
    return (
        f"{'   ' * (one.depth - 1)}└─ {one.run_id} from version {one.at}{mark}" if one.depth else f"{one.run_id}{mark}"
    )


def tree_(run: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show a run's family: what it was forked from or started by, and the forks and children of each.

    Parameters
    ----------
    run
        The run's id, or its unique beginning.
    """
    opened, run = opened_at(run, store)
    try:
        head = find_run(opened, run)
        found = family(opened, head)
    finally:
        opened.close()
    if output != "table":
        show(map(_member_row, found), output, TREE, ())
        return OK
    for one in found:
        print(visible(_member(one, here=one.head.run_key == head.run_key)))
    if len(found) == MAX_FAMILY:
        print(f"cut here, at {MAX_FAMILY} runs")
    return OK


def _member_row(one: Member) -> dict[str, Any]:
    return {
        "run": one.head.run_id, "how": one.how, "at": one.at or None, "depth": one.depth, "status": one.head.status,
        "version": one.head.version, "what_if": one.what_if,
    }  # fmt: skip


def _member(one: Member, *, here: bool) -> str:
    mark = " <" if here else ""
    stands = f"{one.head.status} at version {one.head.version}"
    if not one.depth:
        return f"{one.head.run_id} ({stands}){mark}"
    how = f"forked from version {one.at}" if one.how == "fork" else f"started at version {one.at}"
    how += ", what-if" if one.what_if else ""
    return f"{'   ' * (one.depth - 1)}└─ {one.head.run_id} {how} ({stands}){mark}"

"""The command that gives an account of a run to somebody who was not there: report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eventflow.address import find_run
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    FormatArg,
    StoreArg,
    cut,
    failure_document,
    print_json,
    print_table,
    store_path,
    time_text,
    visible,
)
from eventflow.clock import id_text
from eventflow.errors import ProofFailed
from eventflow.log import Head, Log
from eventflow.proof.note import TreeHead
from eventflow.sealing import kept_seals, origin, vouched_at
from eventflow.shapes import hide_secrets
from eventflow.what_if import document_of
from eventflow.what_if import told as told_of
from replay.cli.opening import opened_at
from replay.cli.values import value_text
from replay.export import ExportLog
from replay.history import source_text, tokens_of
from replay.proving import position_of_head
from replay.report import Account, Act, Call, Decision, Stay, account

SCHEMA = "eventflow.report/1"
MAX_ROWS = 200  # of a section: four pages of print; of a longer one its first half and its newest are shown
MAX_FIELDS = 60  # of an input or a state: a page
MAX_ERROR = 1_000  # characters of the error that ended it
MAX_TEXT = 300  # characters of a text in a row: questions and reasons are sentences, an error may hold a whole response
_TIMES = frozenset({"time", "began", "ended", "until"})  # fields that hold a time


def report_(run: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Give an account of a run: who began it, each node, call, decision and act by hand, how it ended, what proves it.

    Exit code 4 if its history does not hold.

    Parameters
    ----------
    run
        The run's id, or its unique beginning.
    """
    opened, run = opened_at(run, store)
    try:
        head = find_run(opened, run)
        inside = isinstance(opened, ExportLog)
        seal = None if inside else _seal(store, origin(opened.store_id), _last(opened, head))
        told = account(opened, head, seal=seal)
    finally:
        opened.close()
    if output != "table":
        print_json(_document(told), lines=output == "jsonl")
    else:
        _print(told)
    return DIFFERENCE if told.problems else OK


def _seal(store: str | None, of: str, position: int) -> TreeHead | None:
    """The smallest kept seal that covers a position, None if there is none that can be read."""
    try:
        heads = [one.head for one in kept_seals(Path(store_path(store)))]
    except ProofFailed:
        return None  # `replay verify` tells
    return next((head for head in heads if head.origin == of and head.size >= position), None)


# --- for programs --------------------------------------------------------------------------------------------------


def _document(told: Account) -> dict[str, Any]:
    state, head = told.state, told.head
    identity = state.run
    return {
        "schema": SCHEMA, "run": head.run_id, "run_key": head.run_key.hex(), "incarnation": head.incarnation,
        "store": id_text(identity.store_id), "workflow": identity.workflow,
        "definition_digest": identity.definition_digest.hex(), "tags": identity.tags, "subject": identity.subject,
        "what_if": document_of(identity.policy), "budget": identity.budget, "deadline": time_text(identity.deadline) if identity.deadline else None,
        "origin": _plain(told.origin), "nodes": [_plain(one) for one in told.stays],
        "calls": [_plain(one) for one in told.calls], "decisions": [_plain(one) for one in told.decisions],
        "messages": [_plain(one) for one in told.messages], "acts": [_plain(one) for one in told.acts],
        "checkpoints": [_plain(one) for one in told.checkpoints], "relatives": [_plain(one) for one in told.relatives],
        "usage": state.usage,
        "end": {
            "version": state.version, "time": time_text(state.time), "status": state.status,
            "waiting_for": state.waiting_for or None, "node": state.node, "error": failure_document(told.state), "state": state.data,
        },
        "evidence": {
            "events": told.events, "digest": head.digest.hex(), "holds": not told.problems, "problems": list(told.problems),
            "seal": None if told.seal is None else
            {"origin": told.seal.origin, "size": told.seal.size, "root": told.seal.root.hex()},
        },
    }  # fmt: skip


def _last(log: Log, head: Head) -> int:
    """The position of the last event that a run's account rests on: its own, or the one that vouches for its beginning."""
    return max(position_of_head(log, head), vouched_at(log, head))


def _plain(one: Any) -> dict[str, Any]:
    """A fact as JSON has it: its fields, times as text."""
    return {
        name: (time_text(value) if value else None) if name in _TIMES else value for name, value in asdict(one).items()
    }


# --- for people ----------------------------------------------------------------------------------------------------


def _print(told: Account) -> None:
    for line in _heading(told):
        print(visible(line))
    _table("Nodes", ("version", "time", "node", "ended", "attempts", "left", "failures"), map(_stay_row, told.stays))
    calls = ("version", "time", "node", "call", "kind", "attempts", "outcome", "unknown", "error")
    _table("Calls to the outside", calls, [_call_row(one) for one in told.calls if one.kind != "model"])
    models = ("version", "time", "node", "call", "model", "attempts", "outcome", "tokens", "cost")
    _table("Model calls", models, map(_model_row, told.model_calls))
    asked = [one for one in told.decisions if one.kind != "child"]
    by = () if _one_hand(told) else ("by",)
    waits = ("version", "time", "node", "for", "asked", "outcome", "answer", *by, "refused")
    _table("Decisions and waits", waits, map(_decision_row, asked))
    acts = ("version", "time", "what", *by, "why", "detail")
    _table("Messages that nothing asked for", ("version", "time", "what", *by), map(_act_row, told.messages))
    _table("By hand", acts, map(_act_row, told.acts))
    _table("Checkpoints and the store", acts, map(_act_row, told.checkpoints))
    _table("Forks and children", ("version", "how", "run", "status"), (
        {"version": one.at, "how": one.how, "run": one.run_id, "status": one.status} for one in told.relatives
    ))  # fmt: skip
    for line in _ending(told):
        print(visible(line))


def _heading(told: Account) -> Iterator[str]:
    identity, began = told.state.run, told.origin
    yield f"Account of run {told.head.run_id}"
    yield f"workflow {identity.workflow}, definition {identity.definition_digest.hex()[:16]}, store {id_text(identity.store_id)}"
    by = f" by {began.actor}" if began.actor else ", by whom was not recorded"
    why = f": {began.why}" if began.why else ""
    if began.parent:
        yield f"forked {time_text(began.time)}{by} from {began.parent}@{began.at}{why}"
        if _one_hand(told):
            yield f"all that was done by hand was done by {began.actor} too"
        if identity.policy:
            yield f"A WHAT-IF RUN: {told_of(identity.policy)}"
        yield from _fields(began.changed)
        return
    caller = f" for run {began.caller}" if began.caller else ""
    if began.compacted:
        yield f"compacted: begins at version {began.version}, {time_text(began.time)}; what came before can't be told any more"
    else:
        yield f"started {time_text(began.time)}{by}{caller}{why}"
    if _one_hand(told):
        yield f"all that was done by hand was done by {began.actor} too"
    if identity.tags or identity.subject:
        yield f"tags: {', '.join(identity.tags) or 'none'}; subject: {identity.subject or 'none'}"
    yield from _fields(began.input)


def _one_hand(told: Account) -> bool:
    """Whether all that somebody did to the run, its beginning too, was done by one person, who then need not be named each time."""
    decided = [one.actor for one in told.decisions if one.kind in ("human", "signal") and one.outcome == "answered"]
    hands = [*decided, *(one.actor for one in (*told.messages, *told.acts, *told.checkpoints))]
    return bool(hands) and not told.origin.compacted and told.origin.actor != "" and {*hands} == {told.origin.actor}


def _fields(values: Mapping[str, Any]) -> Iterator[str]:
    """Fields by their names, a line each; of very many the rest is counted."""
    names = sorted(values)
    yield from (f"  {name} = {value_text(values[name])}" for name in names[:MAX_FIELDS])
    if len(names) > MAX_FIELDS:
        yield f"  … and {len(names) - MAX_FIELDS:,} fields more, all with -o json"


def _table(title: str, columns: Sequence[str], rows: Any) -> None:
    """A section, nothing at all if it is empty; columns in which nothing stands are left out, and the midst of a long one."""
    listed = list(rows)
    if not listed:
        return
    left = max(len(listed) - MAX_ROWS, 0)
    if left:
        listed = [*listed[: MAX_ROWS // 2], *listed[-(MAX_ROWS // 2) :]]
        title += f" (the first and the last {MAX_ROWS // 2}; {left:,} between them left out, all with -o json)"
    print()
    used = [name for name in columns if any(row.get(name) not in ("", None, [], 0) for row in listed)]
    print_table([{name: _short(row.get(name)) for name in used} for row in listed], used, title)


def _short(cell: Any) -> Any:
    return cut(hide_secrets(cell), MAX_TEXT, cell) if isinstance(cell, str) else cell


def _left(one: Stay | Call | Decision) -> str:
    """The mark of what a rewind left behind."""
    return "" if one.on_line else " (rewound)"


def _stay_row(one: Stay) -> dict[str, Any]:
    trigger = "" if one.trigger in ("done", "") else f"on {one.trigger}"
    left = " ".join(filter(None, [f"to {one.to}" if one.to else "", trigger])) or ("the end" if one.left else "")
    return {
        "version": one.entered, "time": time_text(one.began), "node": f"{one.node}{_left(one)}",
        "ended": time_text(one.ended) if one.ended else "", "attempts": one.attempts, "left": left,
        "failures": "; ".join(one.failures),
    }  # fmt: skip


def _call_row(one: Call) -> dict[str, Any]:
    kind = f"{one.kind}, mutating" if one.mutating else one.kind
    unknown = "" if not one.unknown else f"settled by {one.settled_by}" if one.settled_by else "yes"
    why = f": {one.why}" if one.why else ""
    branch = f"{one.branch}/" if one.branch else ""
    return {
        "version": one.started, "time": time_text(one.began), "node": f"{one.node}{_left(one)}",
        "call": f"{branch}{one.name} (key {one.key})", "kind": kind, "attempts": one.attempts,
        "outcome": _outcome(one),
        "unknown": f"{unknown}{why}", "error": one.error if one.outcome == "failed" else "",
    }  # fmt: skip


def _outcome(one: Call) -> str:
    if one.source:
        return source_text(one.source)
    return f"{one.outcome}{f', that of version {one.reused}' if one.reused else ''}"


def _model_row(one: Call) -> dict[str, Any]:
    return {
        **_call_row(one), "model": one.model or "not recorded", "tokens": tokens_of(one.usage) or "",
        "cost": one.usage.get("cost", ""),
    }  # fmt: skip


def _decision_row(one: Decision) -> dict[str, Any]:
    asked = one.asked.get("prompt", one.name or "") if isinstance(one.asked, dict) else one.name
    until = f" (until {time_text(one.until)})" if one.until else ""
    branch = f" in branch {one.branch}" if one.branch else ""
    return {
        "version": one.opened, "time": time_text(one.began), "node": f"{one.node}{_left(one)}", "for": f"{one.kind}{branch}",
        "asked": f"{asked}{until}", "outcome": one.outcome + (f" {time_text(one.ended)}" if one.ended else ""),
        "answer": value_text(one.answer) if one.closed and one.answer is not None else "", "by": one.actor,
        "refused": "; ".join(one.refused),
    }  # fmt: skip


def _act_row(one: Act) -> dict[str, Any]:
    return {
        "version": one.version or "", "time": time_text(one.time), "what": one.what, "by": one.actor, "why": one.why,
        "detail": one.detail,
    }  # fmt: skip


def _ending(told: Account) -> Iterator[str]:
    state = told.state
    yield ""
    yield "How it stands" if not state.ended else "How it ended"
    waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
    yield f"{state.status}{waits} at version {state.version}, {time_text(state.time)}, node {state.node}"
    if state.error is not None:
        yield cut(f"error: {state.error.type}: {state.error.message}", MAX_ERROR, None)
    yield from _fields(state.data)
    yield ""
    yield "What proves it"
    yield f"{told.events} events, the last of digest {told.head.digest.hex()}"
    if told.problems:
        yield f"THE HISTORY DOES NOT HOLD: {told.problems[0]}" + (
            f", and {len(told.problems) - 1} more" * (len(told.problems) > 1)
        )
    else:
        yield "the chain of digests holds, and every step is one that the recorded definition has"
    if told.seal is None:
        yield "no seal that is kept here covers its end: nothing outside of this store vouches for it"
    else:
        yield f"the seal of {told.seal.size} events covers its end; `replay verify --seal` compares the store with a copy kept elsewhere"

"""Commands that ask a history: watch, when, blame, search, stats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Any

from eventflow.address import Address, resolve
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    FormatArg,
    StoreArg,
    argument,
    print_json,
    print_table,
    show,
    time_text,
    visible,
)
from eventflow.errors import NotFound, SettingsError
from eventflow.log import Log
from replay.behind import MODEL, Call
from replay.cli.opening import open_history
from replay.cli.values import value_document, value_text
from replay.history import source_text
from replay.query import Blame, Sight, Stretch, answer_text, blame, watch, when
from replay.search import Cost, Hit, Stats, search, search_all, stats

WATCH, WHEN, BLAME = "eventflow.watch/1", "eventflow.when/1", "eventflow.blame/1"
SEARCH, STATS = "eventflow.search/1", "eventflow.stats/1"
COSTS = ("node", "visits", "attempts", "calls", "failed_calls", "input_tokens", "output_tokens", "time", "models")
SHOWN = 20  # calls named in a line
AllArg = Annotated[bool, argument(name="--all", negative=(), help="Look through every run of the store.")]


def watch_(address: str, path: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """List every change of a value in the state: version, time, node, event.

    Parameters
    ----------
    address
        The run, or a point of it to look back from.
    path
        Where the value stands in the state: notes[2].title.
    """
    opened = open_history(store)
    try:
        place = resolve(opened, address)
        sights = watch(opened, place, path)
        first = next(sights, None)
        if first is None:
            raise NotFound(f"run {place} never had a value at {path!r}; `replay show {place}` shows what it has")
        rows = (_sight_row(sight, table=output == "table") for sight in chain([first], sights))
        show(rows, output, WATCH, ("version", "time", "node", "event", "value"), f"{path} of run {place}")
    finally:
        opened.close()
    return OK


def _sight_row(sight: Sight, *, table: bool = False) -> dict[str, Any]:
    value = {"value": value_text(sight.value)} if table else value_document(sight.value)
    return {
        "version": sight.version, "time": time_text(sight.time), "node": sight.node, "event": sight.event, **value,
    }  # fmt: skip


def when_(address: str, expression: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Tell at which versions an expression on the state holds, the first one first. Exit code 4 if it never does.

    Parameters
    ----------
    address
        The run, or a point of it to look back from.
    expression
        Comparisons, in, and/or/not, len(), literals, and paths into the state: score < 0.5 and len(notes) > 2.
    """
    opened = open_history(store)
    try:
        place = resolve(opened, address)
        stretches = when(opened, place, expression)
        first = next(stretches, None)
        if first is None:
            _print_never(place, expression, output)
            return DIFFERENCE
        rows = map(_stretch_row, chain([first], stretches))
        if output == "json":
            document = {"schema": WHEN, "run": place.head.run_id, "expression": expression, "first": first.first}
            print_json({**document, "rows": list(rows)})
        else:
            title = f"run {place}: {expression}"
            show(rows, output, WHEN, ("first", "last", "time", "node", "event"), title)
    finally:
        opened.close()
    return OK


def _print_never(place: Address, expression: str, output: str) -> None:
    if output == "json":
        print_json({"schema": WHEN, "run": place.head.run_id, "expression": expression, "first": None, "rows": []})
    elif output == "table":
        print(visible(f"run {place}: {expression} never holds"))


def _stretch_row(one: Stretch) -> dict[str, Any]:
    return {
        "first": one.first, "last": one.last, "time": time_text(one.time), "node": one.node, "event": one.event,
    }  # fmt: skip


# --- blame ---------------------------------------------------------------------------------------------------------


def blame_(address: str, path: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Tell which event wrote a value of the state, in which node, and the call behind it, as far as results tell.

    Parameters
    ----------
    address
        The run, or a point of it to look back from.
    path
        Where the value stands in the state: notes[2].title.
    """
    opened = open_history(store)
    try:
        found = blame(opened, resolve(opened, address), path)
    finally:
        opened.close()
    if output != "table":
        document = {"schema": BLAME, "run": found.run_id, "path": path, **_sight_row(found.written)}
        calls = [{"name": one.name, "key": one.key, "kind": one.kind, "branch": one.branch} for one in found.calls]
        print_json({**document, "call": found.call and _call(found.call), "calls": calls}, lines=output == "jsonl")
        return OK
    _print_blame(found, path)
    return OK


def _call(call: Call) -> dict[str, Any]:
    return {
        "name": call.name, "key": call.key, "kind": call.kind, "attempt": call.attempt, "branch": call.branch or None,
        "started": call.started, "finished": call.finished, "quoted": call.quoted, "sign": call.sign,
        "source": call.source or None, "settled_by": call.actor or None, "reused": call.reused or None,
        "input": call.input, "output": call.output,
    }  # fmt: skip


def _print_blame(found: Blame, path: str) -> None:
    sight, call = found.written, found.call
    print(visible(f"{path} = {value_text(sight.value)}"))
    where = f"by {sight.event} at version {sight.version} of run {found.run_id}, in node {sight.node}"
    print(visible(f"written {where}, {time_text(sight.time)}"))
    if call is None:
        _print_unsure(found)
        return
    print(visible(_call_text(call)))
    for role, text in _messages(call.input) if call.kind == MODEL else [("input", value_text(call.input))]:
        print(visible(f"  {role}: {text}"))
    answer = "answer" if call.kind == MODEL else "result"
    print(visible(f"  {answer}: {value_text(answer_text(call.output) or call.output)}"))


def _call_text(call: Call) -> str:
    """Which call it was, and what tells that it was this one."""
    what = "answer" if call.kind == MODEL else "result"
    sure = {
        "same": f"its {what} is the value", "quoted": f"its {what} stands in the value",
        "part": f"the value is a part of its {what}", "last": "the last call of that visit",
    }[call.sign]  # fmt: skip
    kind = f"{call.kind} call" if call.kind != "call" else "call"
    attempt = f", attempt {call.attempt}" if call.attempt > 1 else ""
    branch = f", branch {call.branch}" if call.branch else ""
    said = [
        f", {source_text(call.source)}" if call.source else "",
        f", as {call.actor} said" if call.actor else "",
        f", that of version {call.reused}" if call.reused else "",
    ]
    return f"{kind} {call.name} (key {call.key}){attempt}{branch}, versions {call.started} to {call.finished}: {sure}{''.join(said)}"


def _print_unsure(found: Blame) -> None:
    """What can be said where no call's result is seen in the value: which there were."""
    if not found.calls:
        return
    named = ", ".join(
        f"{one.name} (key {one.key}{f', branch {one.branch}' if one.branch else ''})" for one in found.calls[-SHOWN:]
    )
    more = f" and {len(found.calls) - SHOWN:,} before them" if len(found.calls) > SHOWN else ""
    print(visible(f"no result of that visit's calls is seen in it: {named}{more}"))


def _messages(asked: Any) -> Iterator[tuple[str, str]]:
    """What a model was asked, as (role, text); all of it where it is no list of messages."""
    if isinstance(asked, dict) and isinstance(asked.get("model"), str):
        yield "model", asked["model"]
    messages = asked.get("messages") if isinstance(asked, dict) else None
    if not isinstance(messages, list):
        yield "input", value_text(asked)
        return
    for one in messages:
        told = isinstance(one, dict)
        yield str(one.get("role", "?")) if told else "?", value_text(one.get("content") if told else one)


# --- search --------------------------------------------------------------------------------------------------------


def search_(
    address: str, text: str | None = None, /, *, everywhere: AllArg = False, store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Find a text in a run's events, with what models were asked and answered. Exit code 4 if it is nowhere.

    Parameters
    ----------
    address
        The run, or a point of it to look back from; left out with --all.
    text
        What to look for, whatever the case of its letters.
    """
    if everywhere == (text is not None):
        raise SettingsError("give a run and a text, or --all and a text alone")
    wanted = address if text is None else text
    if not wanted:
        raise SettingsError("an empty text is everywhere; say what to look for")
    opened = open_history(store)
    try:
        hits = _hits(opened, address, text)
        first = next(hits, None)
        found: Iterable[Hit] = () if first is None else chain([first], hits)
        if first is None and output == "table":
            print(visible(f"{wanted!r} is nowhere in what was recorded"))
        else:
            show(map(_hit_row, found), output, SEARCH, ("run", "version", "time", "event", "where", "excerpt"))
    finally:
        opened.close()
    return DIFFERENCE if first is None else OK


def _hits(opened: Log, address: str, text: str | None) -> Iterator[Hit]:
    return search_all(opened, address) if text is None else search(opened, resolve(opened, address), text)


def _hit_row(hit: Hit) -> dict[str, Any]:
    return {
        "run": hit.run_id, "version": hit.version, "time": time_text(hit.time), "event": hit.event, "where": hit.where,
        "excerpt": hit.excerpt, "places": hit.places, "on_line": hit.on_line,
    }  # fmt: skip


# --- stats ---------------------------------------------------------------------------------------------------------


def stats_(address: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Add up what a run took by node: visits, attempts, calls, tokens, time.

    Parameters
    ----------
    address
        The run, or a point of it to count up to.
    """
    opened = open_history(store)
    try:
        place = resolve(opened, address)
        found = stats(opened, place)
    finally:
        opened.close()
    rows = [_cost_row(one) for one in found.nodes]
    if output == "json":
        print_json({"schema": STATS, "run": place.head.run_id, "version": place.version, **_sums(found), "rows": rows})
    elif output == "jsonl":
        show(rows, output, STATS, ())
    else:
        sums = f"{found.events} events in {_span(found.time)}, {_span(found.idle)} of it driven by nobody"
        timed = [{**row, "time": _span(one.time)} for row, one in zip(rows, found.nodes, strict=True)]
        print_table(timed, COSTS, f"run {place}: {sums}")
    return OK


def _sums(found: Stats) -> dict[str, Any]:
    return {"events": found.events, "time_ms": found.time / 1e6, "idle_ms": found.idle / 1e6}


def _cost_row(one: Cost) -> dict[str, Any]:
    return {
        "node": one.node, "visits": one.visits, "attempts": one.attempts, "calls": one.calls,
        "failed_calls": one.failed_calls, "input_tokens": one.input_tokens, "output_tokens": one.output_tokens,
        "time_ms": one.time / 1e6, "models": sorted(one.models),
    }  # fmt: skip


def _span(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms" if ns < 1e9 else f"{ns / 1e9:.1f} s"

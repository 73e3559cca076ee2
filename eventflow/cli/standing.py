"""Where a run stands, for people and for programs: what it waits for, its branches, its children, what is left to undo.

From its state and the log alone; nothing of the user's code is here, nor anything that changes a run.
"""

from __future__ import annotations

import shlex
from typing import Any

from eventflow.budget import used
from eventflow.cli.keeping import kept_document, kept_lines
from eventflow.cli.pasting import options
from eventflow.cli.shell import (
    FAILED,
    OK,
    STOPPED,
    print_state,
    print_table,
    settings,
    time_text,
    visible,
    wait_document,
)
from eventflow.event import SignalRefused, WaitOpened
from eventflow.log import Head, Listed, Log
from eventflow.plain import FrozenDict
from eventflow.progress import MAX_EVENTS, parked_why
from eventflow.recovery import history, line
from eventflow.state import State, branch, branch_names, open_waits
from eventflow.workflow import MESSAGE, answer_name

SHOWN = 20  # waits, children, names of branches: what fits on a terminal; JSON has all waits and children
LOOKED_BACK = 1_000  # events in which a refused message is looked for: a few milliseconds of reading
CHILD = "child"  # the kind of a node that is a run of its own, and of the wait for its end
BRANCH_STATUSES = ("finished", "failed", "waiting", "open")


def print_standing(
    run_id: str, state: State, *, all_waits: bool = False, full: bool | None = None, store: str | None = None
) -> None:
    """Where a run stands, as a line, how it goes on, and its data as a table; `all_waits` are told elsewhere.

    `full` is what `print_state` takes, `store` what was typed for it.
    """
    waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
    print(visible(f"run {run_id}: {state.status}{waits} at version {state.version}, node {state.node}"))
    for text in _wait_lines(run_id, state, all_waits=all_waits, store=store):
        print(visible(text))
    print_state(state, full=full)


def opening_lines(run_id: str, state: State, where: str = "", *, store: str | None = None) -> list[str]:
    """What a person or a program is to be told of a wait that is open in a branch, or in the node itself, and how.

    Nothing where only time or another run ends it, or where what it waits for has come already.
    """
    wait = next((one for branch, one in open_waits(state) if branch == where), None)
    if wait is None or wait["kind"] not in ("human", "signal"):
        return []
    if _came(state, wait):
        return []
    said = f"run {run_id}: branch {where} " if where else ""
    return _lines_of(run_id, where, wait, said=said, several=bool(where), store=store)


def _came(state: State, wait: FrozenDict) -> int:
    """The number of the message that a wait for a person or a signal will take, if one has come already; 0 if not."""
    name = answer_name(wait["id"]) if wait["kind"] == "human" else wait["name"]
    return next((int(one["message"]) for one in state.signals if one["name"] == name), 0)


def driven_text(one: Listed, *, gone: bool) -> str:
    """Who drives a run, in a word for a table: somebody, nobody although it is under way, or nothing to be driven."""
    if not gone:
        return "yes"
    moves = one.head.status in ("running", "pending") or one.head.waiting_for in ("timer", "retry")  # by itself
    return "nobody" if moves and not one.entry.queue else ""


def left_alone(log: Log, head: Head, store: str | None = None) -> str:
    """What is to be done with a run that is not over and that nobody drives; empty for one that is over.

    `store` is what was typed for it.
    """
    if head.status not in ("pending", "running", "waiting", "paused"):
        return ""
    entry = log.entry(head.run_key)
    if entry is not None and entry.queue:
        return f"waits in queue {entry.queue}"
    flow = "" if settings().get("workflows") else " --flow MODULE:NAME"
    why = "it was paused" if head.status == "paused" else "nobody drives it"
    return f"{why}; go on with `eventflow resume {head.run_id}{flow}{options(store)}`"


def left_sentence(state: State, parked: str = "") -> str:
    """How a run was left by whoever drove it, without its name; an error by its type alone, for it may hold secrets.

    `parked` is why it was parked, if it was.
    """
    said = f"{state.status.replace('_', ' ')} at version {state.version}, node {state.node}"
    if state.status == "failed" and state.error is not None:
        said += f" ({state.error.type}; `eventflow show {state.run.run_id}` tells more)"
    return f"{said}: {parked}" if parked else said


def exit_code(state: State) -> int:
    """The exit code that says how a run was left."""
    if state.status == "completed":
        return OK
    return FAILED if state.ended else STOPPED


def _wait_lines(run_id: str, state: State, *, all_waits: bool, store: str | None) -> list[str]:
    """What a run stands still for, and how it goes on."""
    waits = [] if state.ended else open_waits(state)
    if not waits:
        return []
    if len(waits) > 1:
        return (
            []
            if all_waits
            else [f"waits for {len(waits)} things; `eventflow show {run_id}{options(store)}` lists them"]
        )
    lines = _lines_of(run_id, *waits[0], store=store)
    came = _came(state, waits[0][1]) if waits[0][1]["kind"] in ("human", "signal") else 0
    return [lines[0], f"message {came} has come, and is taken once somebody drives the run"] if came else lines


def _lines_of(
    run_id: str, where: str, wait: FrozenDict, *, said: str = "", several: bool = False, store: str | None = None
) -> list[str]:
    limit = f", until {time_text(wait['until'])}" if wait["until"] else ""
    what = {"human": "asks: ", "timer": "", "unknown": ""}.get(wait["kind"], "waits for ")
    lines = [f"{said}{what}{asked(wait)}{limit}"]
    return lines + [f"{how}: {command}" for how, command in goes_on(run_id, where, wait, several=several, store=store)]


def asked(wait: FrozenDict) -> str:
    """What a wait is for, in words."""
    kind, name, spec = wait["kind"], wait["name"], wait["spec"]
    if kind == "human":
        return str(spec.get("prompt", ""))
    if kind == "timer":
        return "sleeps"
    if kind == "unknown":
        return f"nobody knows what became of call {name} (key {spec.get('key', '1')})"
    return f"run {name}" if kind == CHILD else f"signal {name}"


def goes_on(
    run_id: str, where: str, wait: FrozenDict, *, several: bool = False, store: str | None = None
) -> list[tuple[str, str]]:
    """What ends a wait: pairs of words and a command; nothing where only time or another run does.

    `store` is what was typed for it.
    """
    kind, name, place = wait["kind"], wait["name"], options(store)
    if kind == "human":
        form, other = _answer_form(wait["spec"])
        which = f" --wait {wait['id']}" if several else ""
        return [("answer with", f"eventflow answer {run_id} {form}{which}{place}{other}")]
    if kind == "signal" and name == MESSAGE:
        return [("send it with", f"eventflow send {run_id} TEXT{place}")]
    if kind == "signal":
        return [("send it with", f"eventflow signal {run_id} {shlex.quote(name)} JSON{place}")]
    if kind == "unknown":
        of = f" --branch {shlex.quote(where)}" if where else ""
        command = f"eventflow settle {run_id} {shlex.quote(name)} --key {shlex.quote(wait['spec'].get('key', '1'))}{of}"
        return [("say it with", f"{command}{place} --result JSON (or --never-happened)")]
    return []


def _answer_form(spec: FrozenDict) -> tuple[str, str]:
    """How an answer to a question is written, as far as its schema tells in a word, and what else it may be."""
    schema = spec.get("schema")
    kind = schema.get("type") if isinstance(schema, dict) else None
    if "tool" in spec or kind == "boolean":
        return "true", " (or false)"
    return {"string": "'\"TEXT\"'", "integer": "NUMBER", "number": "NUMBER"}.get(str(kind), "JSON"), ""


# --- all that `show` tells -----------------------------------------------------------------------------------------


def standing_document(log: Log, head: Head, state: State, now: int) -> dict[str, Any]:
    """What stands around a state, as the stable JSON that `show` prints beside it."""
    run = state.run
    return {
        "waits": [] if state.ended else [{"branch": where or None, **wait_document(one)} for where, one in open_waits(state)],
        "branches": _branches(state),
        "children": _children(log, head, state),
        "caller": None if run.caller is None else {"run": run.caller.run_id, "status": _status(log, run.caller.run_id)},
        "undo": [{name: one[name] for name in ("name", "key", "branch", "by")} for one in reversed(state.undo)],
        "undoing": None if state.undoing is None else state.undoing["ending"],
        "budget": _budget(state, now),
        "deadline": time_text(run.deadline) if run.deadline else None,
        "parked": parked_why(log, state) or None,
        "kept": kept_document(log, head),
        "refused": _refused(log, state),
    }  # fmt: skip


def _refused(log: Log, state: State) -> dict[str, Any] | None:
    """The last message that would not do since the oldest wait opened, and why; None without one."""
    ids = [one["id"] for _, one in open_waits(state)]
    if state.ended or not ids:
        return None
    own = 1 if state.run.parent is None else state.run.parent.at + 1
    first = max(min(ids), own, state.version - LOOKED_BACK + 1)
    events = list(history(log, state.run.run_key, first, state.version, hidden=True))
    found = (one.event for one in reversed(events) if isinstance(one.event, SignalRefused))
    last = next(found, None)
    return None if last is None else {"message": last.message, "why": last.why}


def _status(log: Log, run_id: str) -> str | None:
    head = log.head(run_id)
    return None if head is None else head.status


def _branches(state: State) -> dict[str, Any] | None:
    """How many branches stand how, and the first of them by name."""
    if state.branches is None:
        return None
    of: dict[str, list[str]] = {status: [] for status in BRANCH_STATUSES}
    names = branch_names(state.branches)
    for name in names:
        of[branch(state.branches, name)["status"]].append(name)
    counts = {status: {"count": len(found), "names": found[:SHOWN]} for status, found in of.items()}
    return {"node": state.node, "count": len(names), **counts}


def _children(log: Log, head: Head, state: State) -> list[dict[str, Any]]:
    """The runs that a run has started on its line, as they stand now; of a very long history those it waits for."""
    opened = {one["name"]: (state.node, where) for where, one in open_waits(state) if one["kind"] == CHILD}
    own = [one for one in line(log, head.run_key, state.version) if one.run_key == head.run_key]
    if _has_children(state) and sum(one.last - one.first + 1 for one in own) <= MAX_EVENTS:
        events = (recorded.event for part in own for recorded in history(log, part.run_key, part.first, part.last))
        found = [one for one in events if isinstance(one, WaitOpened) and one.kind == CHILD]
        opened = {one.name: (one.node, one.branch) for one in found} | opened
    return [
        {"run": name, "status": _status(log, name), "node": node, "branch": where or None}
        for name, (node, where) in opened.items()
    ]


def _has_children(state: State) -> bool:
    definition = state.run.definition
    branches = definition.get("branches", {}).values()
    return CHILD in definition.get("nodes", {}).values() or any(CHILD in kinds.values() for kinds in branches)


def _budget(state: State, now: int) -> dict[str, Any] | None:
    have = used(state, now)
    limits = state.run.budget
    return {name: {"used": have.get(name, 0), "limit": limit} for name, limit in limits.items()} if limits else None


def print_around(run_id: str, state: State, known: dict[str, Any], *, store: str | None = None) -> None:
    """The same for people: tables of what there are several of, lines of the rest, nothing of what there is not.

    `store` is what was typed for it.
    """
    if known["parked"]:
        print(visible(f"parked: {known['parked']}"))
    _print_waits(run_id, state, store)
    if known["refused"]:
        print(visible(f"message {known['refused']['message']} would not do: {known['refused']['why']}"))
    if known["branches"]:
        _print_branches(known["branches"])
    if known["children"]:
        _print_some(known["children"], ("run", "status", "node", "branch"), "children:")
    if known["caller"]:
        print(visible(f"started by run {known['caller']['run']} ({known['caller']['status'] or 'deleted'})"))
    if known["undo"] or known["undoing"]:
        after = f", then it has {known['undoing'].replace('_', ' ')}" if known["undoing"] and not state.ended else ""
        rows = [f"{one['name']} (key {one['key']})" for one in known["undo"]]
        print(visible(f"left to undo: {', '.join(rows[:SHOWN]) or 'nothing'}{_more(rows)}{after}"))
    if known["budget"]:
        parts = [f"{one['used']:g} of {one['limit']:g} {name}" for name, one in known["budget"].items()]
        print(f"budget used: {', '.join(parts)}")
    if known["deadline"] and not state.ended:
        print(f"its time is over at {known['deadline']}")
    for said in kept_lines(known["kept"]):
        print(visible(said))


def _more(rows: list[Any]) -> str:
    return f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""


def _print_some(rows: list[dict[str, Any]], columns: tuple[str, ...], title: str) -> None:
    print_table(rows[:SHOWN], columns, title)
    if len(rows) > SHOWN:
        print(f"{_more(rows).strip()}, all with -o json")


def _print_waits(run_id: str, state: State, store: str | None) -> None:
    waits = [] if state.ended else open_waits(state)
    if not waits:
        return
    several = sum(one["kind"] == "human" for _, one in waits) > 1
    rows: list[dict[str, Any]] = [
        {
            "wait": one["id"], "branch": where, "kind": one["kind"], "for": asked(one),
            "until": time_text(one["until"]) if one["until"] else None,
        }
        for where, one in waits
    ]  # fmt: skip
    _print_some(rows, _filled(rows, ("wait", "branch", "kind", "for", "until")), "waits:")
    if len(waits) > 1:
        for where, one in waits[:SHOWN]:
            for how, command in goes_on(run_id, where, one, several=several, store=store):
                print(visible(f"wait {one['id']}: {how} {command}"))


def _filled(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(column for column in columns if any(row[column] for row in rows))


def _print_branches(known: dict[str, Any]) -> None:
    counts = ", ".join(f"{known[one]['count']:,} {one}" for one in BRANCH_STATUSES if known[one]["count"])
    print(visible(f"branches of node {known['node']}: {counts} of {known['count']:,}"))
    for status in BRANCH_STATUSES:
        names, count = known[status]["names"], known[status]["count"]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        if names:
            print(visible(f"  {status}: {', '.join(names)}{more}"))

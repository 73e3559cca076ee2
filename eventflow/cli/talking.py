"""Commands that tell a run something: signal, send, ask, answer, settle."""

from __future__ import annotations

import asyncio
import json as json_library
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import find_run
from eventflow.cli.batch import Batch, DryRunArg, Teller, WhereArg, check_many, check_one, each, many
from eventflow.cli.flows import load_flows
from eventflow.cli.limits import seconds_of
from eventflow.cli.policy import quota_of
from eventflow.cli.shell import (
    FAILED,
    OK,
    FlowArg,
    Format,
    FormatArg,
    StoreArg,
    WhyArg,
    json_argument,
    open_store,
    pasteable,
    plain_json,
    print_json,
    store_path,
    visible,
)
from eventflow.cli.standing import asked, left_alone
from eventflow.engine import Engine
from eventflow.errors import Conflict, InvalidState, NotPlainData, SettingsError
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.state import Status, open_waits
from eventflow.workflow import MESSAGE, Human, Workflow

GOING: tuple[Status, ...] = ("pending", "running", "waiting")  # not over, and not told to stand still
LISTENING: tuple[Status, ...] = (*GOING, "paused", "failed")  # read their messages, now or later

JsonArg = Annotated[bool, Parameter(name="--json", negative=(), help="TEXT is JSON.")]


# --- to one run ----------------------------------------------------------------------------------------------------


def send_to(
    store: str | None, run: str, act: Callable[[Engine], Awaitable[int]], *, ended: str = "", flows: Iterable[Workflow] = (),
) -> int:  # fmt: skip
    """Send a run a message; returns its number. Raises Conflict if the run is `ended`, for what means nothing then."""
    log = open_store(store)
    try:
        head = find_run(log, run, whole=True)
    finally:
        log.close()
    if head.status == "failed" and ended:
        raise Conflict(f"run {run} has failed already and {ended}; `eventflow resume {run}` would take it up again")

    async def work() -> int:
        async with Engine(store_path(store), workflows=flows, quota=quota_of()) as engine:
            return await act(engine)

    return asyncio.run(work())


def told(run: str, what: str, number: int, output: Format) -> int:
    """Say that a message is sent; returns the exit code for it."""
    if output == "table":
        print(f"run {run}: {what}, message {number}")
    else:
        print_json({"schema": "eventflow.message/1", "run": run, "message": number}, lines=output == "jsonl")
    return OK


def _sent(run: str, what: str, number: int, output: Format, store: str | None) -> int:
    """Say that a message is sent, and how the run goes on if nobody is there to take it; returns the exit code for it."""
    code = told(run, what, number, output)
    log = open_store(store)
    try:
        head = log.head(run)
        alone = left_alone(log, head, store) if head is not None and log.owner_gone(head.owner) else ""
    finally:
        log.close()
    if alone and output == "table":
        print(visible(alone))
    return code


def to_many(store: str | None, batch: Batch, act: Callable[[Engine, str], Awaitable[int]]) -> int:
    """Send each run that is meant a message; returns the worst exit code."""

    async def work(ids: list[str], teller: Teller) -> int:
        async with Engine(store_path(store)) as engine:

            async def one(run_id: str) -> tuple[str, int]:
                return f"{batch.done}, message {await act(engine, run_id)}", OK

            return await each(ids, teller, one)

    return many(store, batch, lambda ids, teller: asyncio.run(work(ids, teller)))


# --- the commands --------------------------------------------------------------------------------------------------


def signal(
    run: str | None = None, name: str | None = None, payload: str | None = None, /, *, key: str = "", where: WhereArg = None,
    dry_run: DryRunArg = False, store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Send a run a message; whoever drives it takes it. With --where: `eventflow signal NAME PAYLOAD --where …`.

    Parameters
    ----------
    run
        The run's whole id.
    name
        The signal's name.
    payload
        JSON, @FILE or @-; null if left out.
    key
        Of several messages with one key a run takes the first.
    """
    if where is None:
        one, (called, data) = check_one(run, dry_run=dry_run), _signal(name, payload)
        number = send_to(store, one, lambda engine: engine.signal(one, called, data, key=key))
        return _sent(one, f"signal {visible(called)} sent", number, output, store)
    meant = check_many(where, ("RUN", payload))
    called, data = _signal(run, name)  # there is one argument less
    batch = Batch(meant, f"sent signal {called}", output, dry_run, meant=LISTENING)
    return to_many(store, batch, lambda engine, each_one: engine.signal(each_one, called, data, key=key))


def _signal(name: str | None, payload: str | None) -> tuple[str, Any]:
    """A signal's name and its payload. Raises SettingsError."""
    if name is None:
        raise SettingsError("name the signal to send: `eventflow signal RUN NAME JSON`")
    return name, json_argument("null" if payload is None else payload, "the payload")


def send(run: str, text: str, /, *, json: JsonArg = False, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Say something to a run that holds a conversation; it is the next thing it takes in.

    Parameters
    ----------
    run
        The run's whole id.
    text
        The text, @FILE or @-; a text that begins with @ is written with two of them.
    """
    said = _said(text, is_json=json)
    return _sent(run, "sent", send_to(store, run, lambda engine: engine.send(run, said)), output, store)


def ask(
    run: str, text: str, /, *, name: str = MESSAGE, timeout: float | None = None, json: JsonArg = False, store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Say something to a run that another process drives, and print what it answers.

    Parameters
    ----------
    run
        The run's whole id.
    text
        The text, @FILE or @-; a text that begins with @ is written with two of them.
    name
        The signal it waits for, where that is not what `send` sends.
    timeout
        Seconds to wait for the answer.
    """
    said, limit = _said(text, is_json=json), seconds_of(timeout)
    open_store(store).close()  # a store that is not there must not be created by asking
    try:
        answer = asyncio.run(_answer(store_path(store), run, name, said, limit))
    except TimeoutError:
        sentence = (
            f"run {run} has not answered within {limit:g} s; it has the message, and `eventflow show {run}` tells more"
        )
        print(f"eventflow: {visible(pasteable(sentence, store))}", file=sys.stderr)
        return FAILED
    if output != "table":
        print_json({"schema": "eventflow.answer/1", "run": run, "answer": answer}, lines=output == "jsonl")
    elif isinstance(answer, str):
        print(visible(answer, lines=True))
    else:
        print(visible(json_library.dumps(plain_json(answer), ensure_ascii=False)))
    return OK


async def _answer(store: str, run: str, name: str, said: Any, limit: float | None) -> Any:
    """What a run answers. Raises TimeoutError, and Conflict where nobody drives it: then nothing is sent."""
    async with Engine(store) as engine:
        head = find_run(engine.log, run, whole=True)
        if head.status in LISTENING and engine.log.owner_gone(head.owner):
            raise Conflict(
                f"run {run}: nobody drives it, so nobody would answer; `eventflow resume {run}` or a worker does, and "
                f"`eventflow send` leaves it a message"
            )
        async with asyncio.timeout(limit):
            return await engine.ask(run, name, said)


def _said(text: str, *, is_json: bool) -> Any:
    """What is to be said, from the command line, a file or stdin. Raises SettingsError."""
    if is_json:
        return json_argument(text, "the text")
    try:
        if text == "@-":
            text = sys.stdin.read().removesuffix("\n")
        elif text.startswith("@@"):
            text = text[1:]
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8").removesuffix("\n")
        return freeze(text, "the text")
    except OSError as error:
        raise SettingsError(
            f"{text} can't be read: {error.strerror}; a text that begins with @ is written @@"
        ) from None
    except (NotPlainData, ValueError) as error:
        raise SettingsError(f"the text can't be used: {error}") from None


def answer(
    run: str, answer: str, /, *, wait: int | None = None, store: StoreArg = None, flow: FlowArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Answer what a run asks a person; `eventflow show RUN` tells the questions.

    Parameters
    ----------
    run
        The run's whole id.
    answer
        JSON, @FILE or @-.
    wait
        Which question, by the id of its wait, where the run asks several things at once.
    flow
        The run's workflow, so that the answer can be checked before it is sent: MODULE:NAME or path/to/file.py:NAME.
    """
    data, flows = json_argument(answer, "the answer"), load_flows(flow)
    question = _check_question(store, run, wait)
    try:
        if question is not None and question.approves:
            from eventflow.agents.approval import decided  # noqa: PLC0415 - agents take a moment to load

            decided(data)
        elif question is not None and question.workflow not in {one.name for one in flows}:
            fit_schema(question.schema, data)
        number = send_to(store, run, lambda engine: engine.answer(run, data, wait=wait), flows=flows)
    except InvalidState as error:
        where = error.path.removeprefix("payload").lstrip(".")
        said = f"the answer would not do{f' in {where}' if where not in ('', 'the answer') else ''}: {error.problem}"
        raise SettingsError(f"{said}; nothing was sent, run {run} still asks") from None
    return _sent(run, "answered", number, output, store)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is recorded of a question: whose it is, the JSON schema of its answer, and whether a call is to be approved."""

    workflow: str
    schema: Mapping[str, Any]
    approves: bool


_TYPES: dict[str, Any] = {"boolean": bool, "integer": int, "number": float, "string": str}
_SAID_ALL = frozenset({"type", "title", "description", "enum"})  # a schema with more in it says it all to its type only


def fit_schema(schema: Mapping[str, Any], data: Any) -> None:
    """Raise InvalidState if an answer can't be of a recorded type, as the workflow itself would find.

    Of types that JSON schema does not say whole it is not known here what they take; those are left to the run.
    """
    kind = _TYPES.get(schema.get("type", "")) if _SAID_ALL.issuperset(schema) else None
    if kind is None:
        return
    choices = schema.get("enum")
    if choices is not None:
        if kind is str and data not in choices:
            raise InvalidState("payload", f"Input should be one of {', '.join(map(str, choices))}")
        return
    Human(prompt="", writes="answer", type=kind).accepted(data)


def _check_question(store: str | None, run: str, wait: int | None) -> _Question | None:
    """The question that is answered, None if there is none. Raises SettingsError, with the questions there are."""
    log = open_store(store)
    try:
        state = recover(log, find_run(log, run, whole=True)).state
    finally:
        log.close()
    open_ones = [] if state.ended else [(where, one) for where, one in open_waits(state) if one["kind"] == "human"]
    if not open_ones:
        return None
    found = [one for _, one in open_ones if wait in (None, one["id"])]
    if len(found) == 1:
        spec = found[0]["spec"]
        return _Question(state.run.workflow, spec.get("schema", {}), approves="tool" in spec)
    listed = "; ".join(f"{one['id']} ({where or state.node}): {asked(one)}" for where, one in open_ones)
    what = "asks several things" if wait is None else f"asks nothing by the id {wait}"
    raise SettingsError(f"run {run} {what}; say by --wait which of these you answer: {listed}")


def settle(
    run: str, effect: str, /, *, key: str = "1", branch: str = "", result: str | None = None,
    never_happened: Annotated[bool, Parameter(negative=())] = False, why: WhyArg = "", store: StoreArg = None,
) -> int:  # fmt: skip
    """Record what became of a call whose outcome is unknown, so that the run can go on.

    Parameters
    ----------
    run
        The run's whole id.
    effect
        The effect's name.
    key
        The effect's key.
    branch
        The branch that made it, if one did.
    result
        It happened, and this is its result: JSON, @FILE or @-.
    never_happened
        It did not happen, and may be made.
    """
    if (result is None) != never_happened:
        raise SettingsError("say what became of it: --result JSON, or --never-happened")
    output = None if result is None else json_argument(result, "--result")
    open_store(store).close()  # a store that is not there must not be created by this

    async def work() -> None:
        async with Engine(store_path(store)) as engine:
            await engine.settle(run, effect, key, output=output, happened=not never_happened, branch=branch, why=why)

    asyncio.run(work())
    of = f" of branch {branch}" if branch else ""
    what = "never happened" if never_happened else "happened"
    then = pasteable(f"`eventflow resume {run}`", store)
    print(visible(f"run {run}: effect {effect} (key {key}){of} {what}; now {then}"))
    return OK

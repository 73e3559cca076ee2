"""The long-running demo's workflow: five stages of many small steps over the demos' text, each step an event of its own.

A stage is a node that goes on to itself until its last step. How long a step takes is given, and is no part of the
workflow's definition: a run may be resumed at another pace. What is shown of it is not decided here.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, TypedDict

from eventflow.change import extend, merge
from eventflow.cli.demo.flow import SECTIONS
from eventflow.workflow import Workflow

NAME = "long-running"
LINES = tuple((number, line) for number, section in enumerate(SECTIONS) for line in section.splitlines())
PAIRS = tuple(combinations(range(len(SECTIONS)), 2))
_LONG = 5  # letters of a word that says something: shorter ones are mostly articles and prepositions


class Reading(TypedDict):
    """What the stages make of the text; `steps` says how many each has made."""

    steps: Annotated[dict[str, int], merge]
    lines: Annotated[list[str], extend]
    words: Annotated[list[str], extend]
    counts: Annotated[dict[str, int], merge]
    shared: Annotated[list[int], extend]
    report: Annotated[list[str], extend]
    text: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A node of `steps` visits; `step(state, number)` is the update of one, counted from 0."""

    name: str
    steps: int
    step: Callable[[Any, int], dict[str, Any]]


def _read(_state: Any, number: int) -> dict[str, Any]:
    return {"lines": [LINES[number][1]]}


def _clean(state: Any, number: int) -> dict[str, Any]:
    return {"words": [" ".join(re.findall(r"[a-z]+", state["lines"][number].lower()))]}


def _count(state: Any, number: int) -> dict[str, Any]:
    new = Counter(state["words"][number].split())
    return {"counts": {word: state["counts"].get(word, 0) + count for word, count in new.items()}}


def _compare(state: Any, number: int) -> dict[str, Any]:
    """How many long words two sections share."""
    one, other = (_long_words(state, section) for section in PAIRS[number])
    return {"shared": [len(one & other)]}


def _long_words(state: Any, section: int) -> set[str]:
    lines = (state["words"][number] for number, (of, _) in enumerate(LINES) if of == section)
    return {word for line in lines for word in line.split() if len(word) >= _LONG}


def _report(state: Any, number: int) -> dict[str, Any]:
    return {"report": [SENTENCES[number](state)]}


def _often(state: Any) -> str:
    long = Counter({word: count for word, count in state["counts"].items() if len(word) >= _LONG})
    return "Most often: " + ", ".join(f"{word} ({count})" for word, count in _ranked(long)[:4]) + "."


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _alike(state: Any) -> str:
    most = max(range(len(PAIRS)), key=lambda number: state["shared"][number])
    one, other = PAIRS[most]
    return f"Most alike: sections {one + 1} and {other + 1}, with {state['shared'][most]} long words in common."


def _longest(state: Any) -> str:
    return f"The longest word: {max(sorted(state['counts']), key=len)}."


SENTENCES: tuple[Callable[[Any], str], ...] = (
    lambda state: f"{len(state['lines'])} lines in {len(SECTIONS)} sections.",
    lambda state: f"{sum(state['counts'].values())} words, {len(state['counts'])} of them different.",
    lambda state: f"{sum(count == 1 for count in state['counts'].values())} words stand there once.",
    _often,
    _longest,
    _alike,
)
STAGES = (
    Stage("read", len(LINES), _read),
    Stage("clean", len(LINES), _clean),
    Stage("count", len(LINES), _count),
    Stage("compare", len(PAIRS), _compare),
    Stage("report", len(SENTENCES), _report),
)
STEPS = sum(stage.steps for stage in STAGES)
_END = "finish"  # a node that goes on to itself is no end


def long_flow(pace: float) -> Workflow:
    """The workflow; a step takes `pace` seconds."""
    flow = Workflow(NAME, state=Reading).set_start(STAGES[0].name)
    for stage, after in zip(STAGES, [*(stage.name for stage in STAGES[1:]), _END], strict=True):
        flow.add_node(stage.name, _body(stage, pace))
        flow.add_edge(stage.name, stage.name, when=_unfinished(stage), label="more steps")
        flow.add_edge(stage.name, after)
    return flow.add_node(_END, lambda state: {"text": "\n".join(state["report"])})


def _body(stage: Stage, pace: float) -> Callable[[Any], Coroutine[Any, Any, dict[str, Any]]]:
    async def body(state: Any) -> dict[str, Any]:
        number = steps_made(state, stage)
        await asyncio.sleep(pace)
        return {**stage.step(state, number), "steps": {stage.name: number + 1}}

    return body


def _unfinished(stage: Stage) -> Callable[[Any], bool]:
    return lambda state: steps_made(state, stage) < stage.steps


def steps_made(data: Any, stage: Stage) -> int:
    """How many steps of a stage a run's data holds."""
    return int(data["steps"].get(stage.name, 0))


def nothing_yet() -> dict[str, Any]:
    """The run's input."""
    return {"steps": {}, "lines": [], "words": [], "counts": {}, "shared": [], "report": [], "text": ""}

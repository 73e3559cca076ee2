"""The past of a conversation: the messages in the state, what of them is sent, and the summary of the rest.

The field only grows, by the messages of each visit. A summary says how many of the first messages it is about, so that
each message is summed up once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from eventflow.agents.memory import Window, begins
from eventflow.agents.outside import without_surrogates
from eventflow.agents.talk import Talk, Terms
from eventflow.agents.turn import Message, Messages, Question
from eventflow.errors import DefinitionError, InvalidState
from eventflow.plain import thaw

SLACK = 0.5  # of the window is filled when a summary is made, so that not every visit has to make one
SUM_UP = (
    "Sum up the conversation above for yourself, as briefly as you can: what was asked, what was found out and decided, "
    "and what is still open. Keep names, numbers and quotations exact. Write the summary and nothing else."
)
BEFORE = "What was said before, in short:\n{text}"

Summary = dict[str, Any]  # text, and messages: how many of the first messages it is about


@dataclass(frozen=True, slots=True)
class Past:
    """Where an agent keeps its conversation, and how much of it is sent."""

    memory: str
    window: Window | None
    summary: str | None

    @classmethod
    def of(cls, memory: str | None, window: int | Window | None, summary: str | None) -> Self | None:
        """The past as an agent was given it. Raises DefinitionError."""
        if memory is None:
            if window is not None or summary is not None:
                raise DefinitionError(
                    "Agent(window=..., summary=...) are about a conversation: give memory=, its field"
                )
            return None
        if summary is not None and window is None:
            raise DefinitionError("Agent(summary=...) is of what a window leaves out: give window= too")
        return cls(memory, Window(messages=window) if isinstance(window, int) else window, summary)

    def fields(self) -> tuple[str, ...]:
        """The state fields it reads and writes."""
        return (self.memory,) if self.summary is None else (self.memory, self.summary)

    async def sent(self, state: Any, asked: Messages, talk: Talk, terms: Terms) -> tuple[Messages, Summary | None]:
        """What is sent before what is asked now, and the summary it begins with, if there is one."""
        history = [without_surrogates(thaw(one)) for one in _messages(state, self.memory)]
        if not history and not asked:
            raise InvalidState(self.memory, "holds no message, and the agent reads nothing else; put one in before")
        always = [*([{"role": "system", "content": terms.instructions}] if terms.instructions else []), *asked]
        if self.window is None:
            return history, None
        if self.summary is None:
            return history[_at_least_one(self.window.start(history, always), history, asked) :], None
        held = _summary(state, self.summary, len(history))
        return await self._summed_up(history, always, held, talk, terms)

    async def _summed_up(
        self, history: Messages, always: Messages, held: Summary, talk: Talk, terms: Terms
    ) -> tuple[Messages, Summary]:
        """The summary, made anew if the messages since the last one don't fit any more, and what follows it."""
        assert self.window is not None  # noqa: S101 - a summary needs a window
        done = held["messages"]
        rest = history[done:]
        if self.window.start(rest, [*_told(held), *always]) > 0:
            asked = always[1:] if terms.instructions else always
            cut = _at_least_one(self.window.start(rest, [*_told(held), *always], share=SLACK), rest, asked)
            if cut:
                question = [*_told(held), *rest[:cut], {"role": "user", "content": SUM_UP}]
                said = await talk.asked("summary", Question(terms.model, question))
                held, rest = {"text": said.text, "messages": done + cut}, rest[cut:]
        return [*_told(held), *rest], held

    def change(
        self, state: Any, new: Messages, summed_up: Summary | None, *, extends: Callable[[str], bool]
    ) -> dict[str, Any]:
        """The visit's messages at the end of the conversation, and the summary if there is one."""
        kept: dict[str, Any] = {
            self.memory: new if extends(self.memory) else [*_messages(state, self.memory), *new]
        }  # fmt: skip
        if self.summary is not None and summed_up is not None and summed_up["messages"]:
            kept[self.summary] = summed_up
        return kept


def _told(summary: Summary) -> list[Message]:
    if not summary["messages"]:
        return []
    return [{"role": "system", "content": BEFORE.format(text=summary["text"])}]


def _at_least_one(start: int, history: Messages, asked: Messages) -> int:
    """Where to begin, if nothing is asked beside the conversation: its newest message is the question then."""
    return start if asked or start < len(history) else begins(history)[-1]


def _messages(state: Any, name: str) -> list[Any]:
    found = state.get(name) if isinstance(state, dict) else getattr(state, name, None)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidState(name, "must be a list of messages, for the agent keeps its conversation in it")
    return found


def _summary(state: Any, name: str, count: int) -> Summary:
    """The summary in the state; none, if it is about messages that are not there."""
    found = state.get(name) if isinstance(state, dict) else getattr(state, name, None)
    text, upto = (found.get("text"), found.get("messages")) if isinstance(found, dict) else ("", 0)
    if isinstance(text, str) and type(upto) is int and 0 < upto <= count:
        return {"text": text, "messages": upto}
    return {"text": "", "messages": 0}

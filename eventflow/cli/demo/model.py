"""Who answers the demos' agents: the model of your own, if one is configured, else a scripted server on this machine.

The scripted server is real HTTP and speaks the OpenAI protocol, but it is no model: it picks sentences by rule. The demos
say so.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator

from eventflow.testing.model_server import Call, ModelServer, Reply

_WORD = re.compile(r"[a-z]{5,}")
_DULL = frozenset({"about", "which", "there", "their", "these", "those", "other", "moves", "first", "takes", "under"})

SCRIPTED = (
    "No OPENAI_API_KEY and no OPENAI_BASE_URL is set: a scripted server on this machine answers the agents.\n"
    "It is real HTTP and speaks the OpenAI protocol, but it is no model: it picks sentences by rule.\n"
)


@contextlib.contextmanager
def answering(environment: dict[str, str]) -> Iterator[ModelServer | None]:
    """Put what agents need into an environment; yields the scripted server, or None if there is a model of your own."""
    if os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"):
        yield None
        return
    with ModelServer(answer) as server:
        environment["OPENAI_BASE_URL"] = server.base_url
        environment["OPENAI_API_KEY"] = "none-needed"
        yield server


def who_answers(server: ModelServer | None) -> str:
    """What a demo says about it at its beginning."""
    return SCRIPTED if server is not None else "The agents ask the model you have configured.\n"


def answer(call: Call) -> Reply | str:
    """What the script says: a pure function of the request."""
    messages = call.body.get("messages", [])
    instructions = " ".join(str(one.get("content", "")) for one in messages if one.get("role") == "system")
    asked = "\n".join(str(one.get("content", "")) for one in messages if one.get("role") == "user")
    if "researcher" in instructions:
        return " ".join(_facts(asked))
    if "analyzer" in instructions:
        return _analysis(asked)
    return _report(asked)


def _sentences(text: str) -> list[str]:
    joined = " ".join(text.split())
    return [one.strip() for one in re.split(r"(?<=[.!?])\s+(?=[A-Z])", joined) if one.strip()]


def _facts(section: str) -> list[str]:
    """The two sentences with most figures in them."""
    found = _sentences(section)
    ranked = sorted(range(len(found)), key=lambda index: (-len(re.findall(r"\d", found[index])), index))
    return [found[index] for index in sorted(ranked[:2])]


def _analysis(facts: str) -> str:
    words = Counter(word for word in _WORD.findall(facts.lower()) if word not in _DULL)
    common = ", ".join(word for word, _ in words.most_common(4))
    largest = max(_sentences(facts), key=lambda one: len(re.findall(r"\d", one)), default="")
    return f"The facts turn on: {common}.\n{len(re.findall(r'[0-9][0-9.,]*', facts))} figures in all.\nWhat stands out: {largest}"


def _report(asked: str) -> str:
    facts, _, analysis = asked.partition("\n\nanalysis: ")
    sentences = _sentences(facts.removeprefix("facts: "))
    return "In short: " + " ".join(sentences[:3]) + "\n" + analysis.splitlines()[0]

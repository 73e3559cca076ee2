"""How the dictionary of format 1 was made: zstd's own training over events as workflows write them.

`python benchmarks/dictionary.py FILE` trains one. The dictionary in use, `eventflow/codec/dictionary.bin`, was made once
and is part of the format: it is never made anew, however much better another would be. `--weigh` says what the one in
use gains over none, on events of other words than it was trained on.
"""

from __future__ import annotations

import argparse
import random
import re
import string
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import cbor2
import zstandard

SIZE = 16 << 10  # bytes: larger ones were tried and gained next to nothing on such bodies
DICTIONARY_ID = 0xEF01  # in the range that RFC 8878 (section 6.1) leaves to everybody, and two bytes long
EVENTS, HELD_OUT = 20_000, 4_000
CLASSES = ((64, 128), (128, 200), (200, 400), (400, 900))  # bytes of bodies that are weighed together
FIELDS = [
    "topic",
    "note",
    "notes",
    "name",
    "title",
    "text",
    "status",
    "score",
    "result",
    "results",
    "item",
    "items",
    "id",
    "key",
    "value",
    "customer",
    "order",
    "total",
    "price",
    "quantity",
    "amount",
    "currency",
    "email",
    "address",
    "url",
    "page",
    "pages",
    "summary",
    "answer",
    "question",
    "message",
    "messages",
    "role",
    "content",
    "user",
    "assistant",
    "system",
    "tool",
    "tool_calls",
    "function",
    "arguments",
    "model",
    "choices",
    "index",
    "finish_reason",
    "stop",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "created",
    "object",
    "type",
    "data",
    "error",
    "step",
    "steps",
    "count",
    "started",
    "finished",
    "date",
    "time",
    "path",
    "file",
    "line",
]
WORDS = ("pending", "paid", "done", "failed", "open", "closed", "approved", "rejected")


class Author:
    """Writes bodies of events, with words of its own."""

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self._words, self._dice = words, random.Random(seed)

    def body(self) -> bytes:
        """One event's body, as canonical CBOR."""
        kinds: tuple[tuple[Callable[[], Any], int], ...] = (
            (self._change, 4), (self._answer, 1), (self._failure, 1), (self._call, 1), (self._start, 1),
        )  # fmt: skip
        kind = self._dice.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        return cbor2.dumps(kind(), canonical=True)

    def _say(self, least: int, most: int) -> str:
        count = self._dice.randint(least, most)
        begin = self._dice.randrange(len(self._words) - count)
        return " ".join(self._words[begin : begin + count])

    def _field(self) -> str:
        return self._dice.choice(FIELDS)

    def _value(self, depth: int = 0) -> Any:
        makers: list[Callable[[], Any]] = [
            lambda: self._say(2, 20), lambda: self._dice.randrange(100_000), lambda: self._dice.random() * 100,
            lambda: self._dice.choice((True, False, None)), lambda: self._dice.choice(WORDS),
        ]  # fmt: skip
        if depth < 2:
            makers += [
                lambda: {self._field(): self._value(depth + 1) for _ in range(self._dice.randint(1, 5))},
                lambda: [self._value(depth + 1) for _ in range(self._dice.randint(1, 3))],
            ]
        return self._dice.choice(makers)()

    def _change(self) -> Any:
        count = self._dice.randint(1, 3)
        return [[[self._dice.choice((0, 0, 0, 2, 3)), [self._field()], self._value()] for _ in range(count)], None]

    def _answer(self) -> Any:
        number = self._dice.randrange(10**9)
        message = {"role": "assistant", "content": self._say(5, 120)}
        usage = {name: self._dice.randrange(2_000) for name in ("prompt_tokens", "total_tokens", "completion_tokens")}
        return [
            {
                "id": f"chatcmpl-{number}", "model": "gpt-5-mini", "object": "chat.completion", "created": 1_790_000_000 + number,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage,
            }
        ]  # fmt: skip

    def _failure(self) -> Any:
        return [
            ["ValueError", self._say(3, 20), f"{self._field()}.py:{self._dice.randrange(400)} in {self._field()}", True]
        ]

    def _call(self) -> Any:
        asked = {"args": [self._say(1, 12)], "kwargs": {self._field(): self._value(2)}}
        return [asked, self._dice.randbytes(32), f"ef-{self._dice.randbytes(16).hex()}"]

    def _start(self) -> Any:
        one, other = self._field(), self._field()
        shape = {
            "name": self._field(), "edges": [[one, other, "done", ""], [one, other, "failed", ""]], "start": one,
            "nodes": {one: "function", other: "agent"}, "fields": sorted(self._dice.sample(FIELDS, 4)), "version": "",
            "terminals": [other],
        }  # fmt: skip
        return [shape, {self._field(): self._value()}, self._dice.randbytes(32), [], None]


def words_of(text: str) -> list[str]:
    """The words of a text in their order, without its code."""
    return re.findall(r"[A-Za-z][a-z]+[,.]?", re.sub(r"```.*?```", " ", text, flags=re.DOTALL))


def trained() -> bytes:
    """A dictionary trained on events in the words of this project's pages."""
    pages = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    author = Author(words_of(" ".join(page.read_text() for page in pages)), seed=1)
    bodies: list[Any] = [author.body() for _ in range(EVENTS)]
    return zstandard.train_dictionary(SIZE, bodies, level=3, dict_id=DICTIONARY_ID).as_bytes()


def other_words() -> list[str]:
    """Words that the dictionary has not been trained on: those that Python's own library says of itself."""
    import asyncio  # noqa: PLC0415 - only what they say of themselves is wanted
    import email  # noqa: PLC0415
    import logging  # noqa: PLC0415

    said = [str(getattr(module, name).__doc__) for module in (asyncio, email, logging, string) for name in dir(module)]
    return words_of(" ".join(said))


def weigh() -> None:
    """Print what the dictionary in use gains, by the size of bodies."""
    data = resources.files("eventflow.codec").joinpath("dictionary.bin").read_bytes()
    plain = zstandard.ZstdCompressor(level=3)
    using = zstandard.ZstdCompressor(level=3, dict_data=zstandard.ZstdCompressionDict(data))
    author = Author(other_words(), seed=2)
    bodies = [author.body() for _ in range(HELD_OUT)]
    for least, most in CLASSES:
        some = [body for body in bodies if least <= len(body) < most]
        raw = sum(map(len, some)) / len(some)
        without = sum(min(len(body), len(plain.compress(body))) for body in some) / len(some)
        with_it = sum(min(len(body), len(using.compress(body))) for body in some) / len(some)
        print(
            f"bodies of {least} to {most} bytes: {raw:.0f} bytes, zstd {without:.0f}, with the dictionary {with_it:.0f}"
        )


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("file", nargs="?", help="where to write a new dictionary")
    given.add_argument("--weigh", action="store_true", help="say what the one in use gains")
    args = given.parse_args()
    if args.weigh:
        weigh()
    elif args.file:
        Path(args.file).write_bytes(trained())
    else:
        sys.exit("name a file to write, or say --weigh")

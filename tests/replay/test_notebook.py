"""What notebooks show: HTML with no script, from logs that want to be more than data."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser

from eventflow import Workflow
from eventflow.address import resolve
from eventflow.engine import Engine
from eventflow.event import Transitioned
from eventflow.log import MemoryLog, open_log
from eventflow.markup import MAX_ROWS, cell
from eventflow.testing.author import Author
from replay.diff import diff
from replay.history import History
from replay.notebook import strip

ALLOWED = {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect", "code"}


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.names = set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


def harmless(text: str) -> bool:
    """Whether a page has only tables and marks, and no character that directs or controls."""
    found = Tags(text)
    return (
        found.tags <= ALLOWED
        and not any(name.startswith("on") for name in found.names)
        and not set("\u202e\x1b\x00") & set(text)
    )


def test_a_history_is_a_strip_and_a_table(hostile):
    """And its lines can still be read one by one afterwards."""
    log = open_log("runs.eventflow", readonly=True)
    history = History(log, hostile)
    text = history._repr_html_()
    assert harmless(text)
    assert text.count("<tr>") == hostile.version + 1
    assert "Bad&lt;i&gt;" in text
    assert len(list(history.upto(hostile))) == hostile.version
    log.close()
    assert harmless(history._repr_html_())
    assert "read to version 11" in repr(history)


def test_a_difference_is_tables(hostile):
    """Of one run its states; nothing is told where nothing differs."""
    log = open_log("runs.eventflow", readonly=True)
    text = diff(log, resolve(log, "evil@1"), resolve(log, "evil@9"))._repr_html_()
    assert harmless(text)
    assert "answer" in text
    assert "&lt;/script&gt;" in text
    assert "nothing differs" in diff(log, resolve(log, "evil@2"), resolve(log, "evil@2"))._repr_html_()
    log.close()


async def _run(text: str):
    flow = Workflow("flow", state=dict).add_node("a", lambda state: {"out": text}).set_start("a")
    async with Engine("memory", workflows=[flow]) as engine:
        run = await engine.start(flow, {"in": 1}, run_id="r")
        await run.result()
        return run, run._repr_html_()


def test_a_run_shows_where_it_stands_and_its_data():
    """While its store is open; a closed one is no error."""
    run, text = asyncio.run(_run("<img onerror=alert(1)>\u202e"))
    assert harmless(text)
    assert "completed" in text
    assert "&lt;img onerror" in text
    assert harmless(run._repr_html_())
    assert repr(run).startswith("Run('r'")


def test_a_long_history_is_cut_and_says_so():
    """The newest lines are shown; its strip has no more marks than can be seen."""
    author = Author(MemoryLog())
    head = author.start("r")
    for _ in range(MAX_ROWS + 50):
        head = author.add(head, Transitioned("a", "a"))
    text = History(author.log, head)._repr_html_()
    assert text.count("<tr>") == MAX_ROWS + 1
    assert "and 51 more" in text
    assert len(re.findall("<rect", strip(["Transitioned"] * 10_000))) <= 320
    assert "#b3382c" in strip(["Transitioned"] * 9_999 + ["RunFailed"])


def test_a_long_value_is_cut_before_it_is_escaped():
    """So that no entity is cut in two."""
    assert cell("<" * 1_000, 10) == "&lt;" * 10 + "… (1,000 characters)"

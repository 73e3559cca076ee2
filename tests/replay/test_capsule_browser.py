"""The capsule in a browser: Chromium, headless, with no network.

Skipped where playwright or Chromium is missing: `pip install playwright`, `apt-get install chromium`.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventflow.cipher.signing import new_key
from eventflow.log import open_log
from eventflow.sealing import keep, seal
from eventflow.testing.author import Author

CHROMIUM = Path(os.environ.get("EVENTFLOW_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
BAD = "a[href], img, iframe, object, embed, link, form, style:not(head > style), script:not([id]):not(:last-of-type)"

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}: apt-get install chromium"
)


class Page:
    """A capsule that is open, and what the browser said of it."""

    def __init__(self, page: Any) -> None:
        self.page, self.said, self.requests = page, list[str](), list[str]()
        page.on("console", lambda one: self.said.append(one.text))
        page.on("pageerror", lambda one: self.said.append(str(one)))
        page.on("dialog", lambda one: (self.said.append("dialog"), one.dismiss()))
        page.on("request", lambda one: self.requests.append(one.url))

    def open(self, path: Path) -> None:
        """Open a file from disk and wait until it has checked itself."""
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-checked]")

    def text(self, name: str) -> str:
        """The text of an element by its id."""
        return str(self.page.inner_text(f"#{name}"))

    def quiet(self, path: Path) -> None:
        """Nothing was said, asked for or set, and no markup of a history is there."""
        assert self.said == []
        assert self.requests == [path.as_uri()]
        assert self.page.evaluate("[window.pwned, ({}).polluted, ({}).deep]") == [None, None, None]
        assert self.page.locator(BAD).count() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of one's own."""
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page with no network at all."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 800})
    context.set_offline(True)
    context.route(re.compile("^(?!file:)"), lambda route: route.abort())
    yield Page(context.new_page())
    context.close()


def shown(run_replay: Any, address: str) -> Any:
    """What `replay show` says."""
    return run_replay("show", address, "-o", "json").json


def test_every_version_has_the_digest_that_replay_show_tells(page, hostile, desk, run_replay):
    """Scrubbed by slider, keys, clicks and number, with status and node; the page finds its own chain unbroken."""
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    page.open(desk / "evil.html")
    assert page.text("chain") == "chain holds"
    told = {version: shown(run_replay, f"evil@{version}") for version in range(1, hostile.version + 1)}
    page.page.keyboard.press("Home")
    for version in range(1, hostile.version + 1):
        assert page.text("digest") == told[version]["digest"]
        assert told[version]["status"] in page.text("stands")
        page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("End")
    assert page.text("digest") == told[hostile.version]["digest"]
    page.page.locator("#slider").fill("3")
    assert page.text("digest") == told[4]["digest"]
    page.page.locator("#jump").fill("2")
    page.page.locator("#jump").press("Enter")
    assert page.text("digest") == told[2]["digest"]
    page.page.locator("#back").click()
    assert page.text("digest") == told[1]["digest"]
    page.page.locator("#list .entry").nth(5).click()
    assert page.text("digest") == told[6]["digest"]
    page.quiet(desk / "evil.html")


def test_what_changed_is_marked(page, hostile, desk, run_replay):
    """Added, removed and other values each have their mark; a version that changes nothing has none."""
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    page.open(desk / "evil.html")
    for version, marks in ((4, [2, 1, 0]), (5, [0, 0, 0]), (9, [3, 0, 0]), (10, [0, 3, 0])):
        page.page.locator("#jump").fill(str(version))
        page.page.locator("#jump").press("Enter")
        assert [page.page.locator(f"#state .{kind}").count() for kind in ("added", "gone", "other")] == marks, version
    page.quiet(desk / "evil.html")


def test_the_node_is_lit_that_the_run_stands_on(page, hostile, desk, run_replay):
    """One node at each version, with the name that `replay show` tells."""
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    page.open(desk / "evil.html")
    for version in (1, 4, 9, 11):
        page.page.locator("#jump").fill(str(version))
        page.page.locator("#jump").press("Enter")
        lit = page.page.locator("#graph g.lit title")
        assert lit.count() == 1
        node = shown(run_replay, f"evil@{version}")["node"]
        assert lit.text_content().replace("U+202E", "\u202e").rpartition(" (")[0] == node


def test_hostile_texts_are_text(page, hostile, desk, run_replay):
    """In every part of the page, all of it opened: no dialog, no error, no request, no element, no global."""
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    page.open(desk / "evil.html")
    for part in ("event", "calls", "decisions", "proof"):
        page.page.locator(f"#sides button[data-name={part}]").click()
        for version in range(1, hostile.version + 1):
            page.page.locator("#jump").fill(str(version))
            page.page.locator("#jump").press("Enter")
            page.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            page.page.evaluate("for (const one of document.querySelectorAll('button.more')) one.click()")
        body = page.page.inner_text("body")
        assert "</script><script>window.pwned = 1" in body or part == "proof"
        assert not set(body) & set("\u202e\u2066\x1b\x00\u2028")
    page.page.locator("#jump").fill("1")
    page.page.locator("#jump").press("Enter")
    state = page.text("state")
    for wanted in (
        "4611686018427387905",
        "-4611686018427387904",
        "1.0",
        "nan",
        "AP8=",
        "__proto__",
        "U+202E",
        "U+001B",
    ):
        assert wanted in state, wanted
    page.quiet(desk / "evil.html")


def test_a_page_that_was_changed_says_so(page, hostile, desk, run_replay):
    """A digest that no event of the file has; and with a changed script, nothing runs at all."""
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    data = (desk / "evil.html").read_text()
    digest = shown(run_replay, "evil@3")["digest"]
    (desk / "forged.html").write_text(data.replace(digest, digest[::-1]))
    page.open(desk / "forged.html")
    assert page.text("chain") == "broken"
    (desk / "script.html").write_text(data.replace('"use strict";', '"use strict"; window.pwned = 1;'))
    page.page.goto((desk / "script.html").as_uri())
    assert page.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in one for one in page.said)


def test_a_page_follows_the_path_to_a_seal(page, hostile, desk, run_replay):
    """And says so where it does not lead there."""
    log = open_log("runs.eventflow")
    author = Author(log)
    for number in range(6):
        author.start(f"other-{number}")
    keep(desk / "runs.eventflow", seal(log, new_key("me")))
    log.close()
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    page.open(desk / "evil.html")
    page.page.locator("#sides button[data-name=proof]").click()
    assert f"Version {hostile.version} and all before it are among the 18 events that are sealed" in page.text("proofs")
    page.quiet(desk / "evil.html")
    data = (desk / "evil.html").read_text()
    proof = re.search(r'id="proof">([^<]*)', data)[1]
    lines = base64.b64decode(proof).decode().split("\n")
    lines[3], lines[4] = lines[4], lines[3]
    (desk / "forged.html").write_text(data.replace(proof, base64.b64encode("\n".join(lines).encode()).decode()))
    page.open(desk / "forged.html")
    page.page.locator("#sides button[data-name=proof]").click()
    assert "does not lead to what is sealed" in page.text("proofs")


def test_a_phone_shows_one_part_at_a_time(browser, hostile, desk, run_replay):
    """Nothing is wider than the screen."""
    assert run_replay("export", "evil", "evil.html", "--format", "capsule").code == 0
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 844})
    page = Page(context.new_page())
    page.open(desk / "evil.html")
    for part in ("events", "state", "graph", "event", "calls", "decisions", "proof"):
        page.page.locator(f"#tabs button[data-name={part}]").click()
        assert page.page.locator(".panel:visible").count() == 1
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.quiet(desk / "evil.html")
    context.close()


def test_a_redacted_page_holds_nothing_of_it(page, hostile, desk, run_replay):
    """Neither shown nor in its bytes; and it says that it was redacted."""
    assert run_replay("export", "evil", "red.html", "--format", "capsule", "--redact", "small").code == 0
    text = (desk / "red.html").read_text()
    assert json.loads(re.search(r'id="view">(.*?)</script>', text)[1])["redacted"] == ["small"]
    assert str(2**62) not in text
    page.open(desk / "red.html")
    assert page.text("chain") == "redacted"
    assert "redacted" in page.text("state")
    assert str(2**62) not in page.page.inner_text("body")
    page.quiet(desk / "red.html")

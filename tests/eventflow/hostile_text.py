"""Texts that want to be more than text where they are shown: on a terminal, in a page, in a label. And how one sees it."""

from __future__ import annotations

import re

VECTORS: dict[str, str] = {
    "colour": "\x1b[31mred\x1b[0m",
    "clears the screen": "\x1b[2J\x1b[H",
    "writes the clipboard (OSC 52)": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "sets the title (OSC 0)": "\x1b]0;root@host\x1b\\",
    "a link to elsewhere (OSC 8)": "\x1b]8;;https://evil.example/\x1b\\click\x1b]8;;\x1b\\",
    "asks the terminal who it is": "\x1b[c\x1b[6n\x05",
    "a device control string": "\x1bP+q544e\x1b\\",
    "the same in C1": "\x9b31mred\x9d52;c;eA==\x9c\x90\x9f",
    "moves back over what was said": "harmless\r\x1b[KFORGED",
    "backspaces": "harmless\x08\x08\x08\x08",
    "a line of its own": "x\nFORGED line\nFORGED 2",
    "a line by other means": "x\r\nFORGED\x0b\x0cFORGED\x85FORGED\u2028FORGED\u2029FORGED",
    "turned around": "abc\u202ecod.exe\u202c",
    "isolated and embedded": "\u2066a\u2067b\u2068c\u2069\u202ad\u202be\u200e\u200f\u061c",
    "without width": "pass\u200bword\u2060\ufeff\u00ad",
    "tags of Unicode": "a\U000e0001\U000e0041\U000e007f",
    "a pile of marks": "Z" + "\u0301\u0327\u0489" * 200,
    "nothing, a bell, a rubout": "\x00\x07\x7f",
    "markup of rich and textual": "[bold red]x[/bold red] [link=file:///]y[/link] [@click=app.quit]z[/]",
    "a page's markup": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "a formula": '=HYPERLINK("https://evil.example")',
    "a template": "{{7*7}} ${7*7} %s %n {0.__class__}",
}
ALL = " | ".join(VECTORS.values())
LONG = "".join(VECTORS.values()) * 40  # longer than a cell, so that it is cut
_MARKS = "[\u0300-\u036f\u0483-\u0489]"
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff\U000e0000-\U000e0fff]"
)


def obeyed(text: str) -> list[str]:
    """What of a text a terminal would obey, hide or draw elsewhere; empty if all of it is only shown."""
    found = [f"{one[0]!r} in {text[max(0, one.start() - 30) : one.end() + 10]!r}" for one in _OBEYED.finditer(text)]
    found += [f"a pile of marks: {one[0]!r}" for one in re.finditer(f"{_MARKS}{{9,}}", text)]
    return found + [f"a forged line: {line!r}" for line in text.splitlines() if line.strip().startswith("FORGED")]

"""The figures as one HTML page that needs nothing else: tables, drawings, what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from benchmarks.plots import Panel, drawn, panels
from benchmarks.report import COLUMNS, Report, day, rows

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a202c }
table { border-collapse: collapse; width: 100%; font-size: 13px } td, th { text-align: left; padding: .2rem .5rem }
tr { border-bottom: 1px solid #e2e8f0 } .met { color: #276749 } .missed { color: #c53030; font-weight: 600 }
svg { max-width: 100%; height: auto } p { max-width: 48rem } pre { background: #f7fafc; padding: .5rem }
"""


def as_html(report: Report, about: Mapping[str, str]) -> str:
    """The page. Each question has its text, its table and its drawings."""
    asked = dict.fromkeys(figure.question for figure in report.figures)
    drawings = panels(report.figures)
    where = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in report.environment.items())
    parts = [
        f"<h1>Benchmarks</h1><pre>{escape(report.command)}</pre><p>{day(report.began)}, {report.seconds:.0f} s</p>",
        f"<ul>{where}</ul>",
    ]
    for question in asked:
        parts.append(f"<h2>{escape(question)}</h2>")
        parts += [f"<p>{escape(text)}</p>" for text in about.get(question, "").strip().split("\n\n") if text]
        parts.append(_table(report, question))
        parts += [f"<h3>{escape(one.title)}</h3>{_inline(one)}" for one in drawings if one.title.startswith(question)]
    head = f'<meta charset="utf-8"><title>eventflow benchmarks</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _inline(panel: Panel) -> str:
    svg = drawn([panel], titled=False)
    return svg[svg.index("<svg") :]


def _table(report: Report, question: str) -> str:
    lines = [row[1:] for row in rows([one for one in report.figures if one.question == question])]
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS[1:])
    body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(text: str) -> str:
    kind = f' class="{text}"' if text in ("met", "missed") else ""
    return f"<td{kind}>{escape(text)}</td>"

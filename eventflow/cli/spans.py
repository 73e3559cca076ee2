"""The partitions of a log in a database, for `store vacuum` and `store info`; what they are stands with the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventflow.cli.shell import OK, Format, bytes_text, counted, print_json

VACUUM_SCHEMA = "eventflow.vacuum/1"


def vacuum_spans(log: Any, *, dry_run: bool, output: Format, say: Callable[[str], None]) -> int:
    """Write anew what of a log's partitions is worth it, or say what would be."""
    rows: list[dict[str, int]] = []
    before = sum(span.bytes for span in log.spans())
    after = before
    for one in log.rewritable():
        say(f"vacuum: positions {one.low} to {one.high - 1}")
        had, has = (one.bytes, one.bytes - one.frees) if dry_run else log.rewrite(one)
        after += has - had
        rows.append({
            "first": one.low, "last": one.high - 1, "deleted": sum(span.deleted for span in one.spans),
            "events": sum(span.events for span in one.spans), "before": had, "after": has,
        })  # fmt: skip
    if output != "table":
        document = {"schema": VACUUM_SCHEMA, "before": before, "after": after, "dry_run": dry_run, "spans": rows}
        print_json(document, lines=output == "jsonl")
        return OK
    for row in rows:
        about = "would have about" if dry_run else "has"
        print(
            f"positions {row['first']} to {row['last']}: {counted(row['deleted'], 'event')} deleted, {row['events']} left; "
            f"had {bytes_text(row['before'])}, {about} {bytes_text(row['after'])}"
        )
    print(_total(before, after, dry_run=dry_run, parts=len(rows)))
    return OK


def _total(before: int, after: int, *, dry_run: bool, parts: int) -> str:
    if not parts:
        return f"the events have {bytes_text(before)}; no part of them is worth writing anew"
    return f"the events {'have' if dry_run else 'had'} {bytes_text(before)}, and {'would have about' if dry_run else 'have'} {bytes_text(after)}"


def parts_of(log: Any) -> dict[str, int] | None:
    """How many partitions a log has, and what writing some of them anew would free; None where it has none."""
    asked = getattr(log, "spans", None)
    held = asked() if asked is not None else []
    if not held:
        return None
    return {"partitions": len(held), "frees": sum(one.frees for one in log.rewritable())}


def parts_text(parts: dict[str, int]) -> str:
    """The same for people."""
    return f"{counted(parts['partitions'], 'partition')}; `store vacuum` would free about {bytes_text(parts['frees'])}"

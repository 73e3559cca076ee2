"""Commands about a store: info, verify; those that sign stand in a file of their own."""

from __future__ import annotations

from typing import Any

from eventflow.cli.attending import attending, lines
from eventflow.cli.keeping import store_kept, store_lines
from eventflow.cli.shell import (
    OK,
    FormatArg,
    StoreArg,
    bytes_text,
    counted,
    open_store,
    print_json,
    print_table,
    store_path,
    sub_app,
    time_text,
    visible,
)
from eventflow.cli.spans import parts_of, parts_text
from eventflow.clock import SystemClock, id_text
from eventflow.growth import growth
from eventflow.log import Log, Query, Usage, store_text

app = sub_app("store", "Look at a store, verify it, back it up, copy it, clean it up, seal it.")
# Loaded when they are asked for.
app.command(
    "eventflow.cli.keys:app", name="keys", help="Encrypt what a store holds; list, rotate and destroy its keys."
)
app.command(
    "eventflow.cli.retaining:prune_", name="prune", help="Remove runs that are over, and checkpoints, by rules."
)
app.command(
    "eventflow.cli.retaining:vacuum", name="vacuum", help="Make the file as small as what it holds, while runs go on."
)
app.command(
    "eventflow.cli.sealing:keygen", name="keygen", help="Make a key that signs seals, and print its other half."
)
app.command("eventflow.cli.sealing:seal_", name="seal", help="Sign what the store holds now, to be kept elsewhere.")
app.command(
    "eventflow.cli.verifying:verify",
    name="verify",
    help="Read every byte again and compare it with all that speaks of it.",
)
app.command("eventflow.cli.copying:copy", name="copy", help="Copy a store to another place, of whatever kind.")
app.command("eventflow.cli.copying:follow", name="follow", help="Keep a copy of a store up to date.")
app.command("eventflow.cli.copying:promote_", name="promote", help="Let a copy be driven from now on.")
app.command(
    "eventflow.cli.copying:migrate_", name="migrate", help="Make or change the tables of a store in PostgreSQL."
)
app.command(
    "eventflow.cli.backing:backup_", name="backup", help="Copy the store while runs go on, whole or what has changed."
)
app.command("eventflow.cli.backing:restore_", name="restore", help="Make a store from a backup, at any point of it.")
app.command("eventflow.cli.bringing:export_", name="export", help="Write the whole store to a file that proves itself.")
app.command(
    "eventflow.cli.bringing:import_", name="import", help="Take in the runs of an export, or of somebody's store."
)
app.command(
    "eventflow.cli.bringing:repair_", name="repair", help="Save what proves itself of a damaged store in a new one."
)


@app.command
def info(*, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show what a store holds, by kind, in rows and bytes."""
    log = open_store(store)
    try:
        document = _info(log, store_text(store_path(store)))
    finally:
        log.close()
    if output != "table":
        print_json(document, lines=output == "jsonl")
        return OK
    print(f"store {visible(document['path'])} ({document['id']}), format {document['format']}")
    print(
        f"{counted(document['runs'], 'run')}, {counted(document['events'], 'event')}, {bytes_text(document['file_bytes'])} on disk"
    )
    print("by status: " + (", ".join(f"{count} {name}" for name, count in document["by_status"].items()) or "no runs"))
    rows = [
        {"table": name, "rows": count, "bytes": bytes_text(document["bytes"][name])}
        for name, count in document["rows"].items()
        if count
    ]
    rows.append({"table": "free", "rows": "", "bytes": bytes_text(document["free_bytes"])})
    print_table(rows, ("table", "rows", "bytes"))
    if document["growth"]["last"] is not None:
        print(_growth_text(document["growth"]))
    if document["partitions"] is not None:
        print(parts_text(document["partitions"]))
    for line in [*lines(document["attending"] or {}), *store_lines(document["kept"])]:
        print(visible(line))
    return OK


def _info(log: Log, path: str) -> dict[str, Any]:
    usage = log.usage()
    by_status: dict[str, int] = {}
    runs = log.runs(Query())
    for one in runs:
        by_status[one.head.status] = by_status.get(one.head.status, 0) + 1
    return {
        "schema": "eventflow.store/1", "path": path, "id": id_text(log.store_id), "format": 1, "runs": len(runs),
        "by_status": by_status, "driven": sum(not log.owner_gone(one.head.owner) for one in runs),
        "events": usage.positions, "rows": dict(usage.rows), "bytes": dict(usage.bytes), "file_bytes": usage.file_bytes,
        "free_bytes": usage.free_bytes, "growth": _growth(log, usage), "attending": attending(log), "kept": store_kept(log),
        "partitions": parts_of(log),
    }  # fmt: skip


def _growth(log: Log, usage: Usage) -> dict[str, Any]:
    """How the store grows, for programs."""
    grown = growth(log, sum(usage.bytes.values()), SystemClock().now())
    each = grown.bytes_of_event
    return {
        "first": time_text(grown.first) if grown.last else None, "last": time_text(grown.last) if grown.last else None,
        "events_per_hour": round(grown.events_per_hour, 3), "bytes_per_day": round(grown.bytes_per_day),
        "bytes_of_event": round(each), "last_hour": grown.last_hour, "last_hour_bytes": round(each * grown.last_hour),
        "last_day": grown.last_day, "last_day_bytes": round(each * grown.last_day),
    }  # fmt: skip


def _growth_text(grown: dict[str, Any]) -> str:
    def said(which: str) -> str:
        return f"{counted(grown[which], 'event')}, about {bytes_text(grown[f'{which}_bytes'])}"

    each = f"{bytes_text(grown['bytes_of_event'])} an event"
    return f"last hour: {said('last_hour')}; last day: {said('last_day')}; {each}; since {grown['first']}"

"""The command that takes histories out of a store: export."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from eventflow.address import find_run
from eventflow.cli.shell import OK, FormatArg, StoreArg, argument, open_store, plain_json, print_json, visible
from eventflow.errors import SettingsError
from eventflow.log import Head, Log, Query
from replay.cli.opening import EXPORT
from replay.export import Redaction, write_lines, write_sequence

SCHEMA, LINE = "eventflow.export/1", "eventflow.exported/1"
AllArg = Annotated[bool, argument(name="--all", negative=(), help="The whole store.")]
FormArg = Annotated[
    Literal["cborseq", "jsonl"],
    argument(name="--format", help="cborseq, which proves itself, or jsonl for other programs."),
]
RedactArg = Annotated[
    tuple[str, ...],
    argument(name="--redact", negative=(), help="Take out values under these keys, as customer.email; jsonl only."),
]


def export_(
    *names: str, everything: AllArg = False, form: FormArg = "cborseq", redact: RedactArg = (), store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Write runs, or the whole store, to a file: CBOR that proves itself, or JSON lines.

    Parameters
    ----------
    names
        The runs, and last the new file; with --all the file alone.
    """
    runs, path = _asked(names, everything=everything, form=form)
    if redact and form == "cborseq":
        raise SettingsError(
            "what is taken out of an event changes its digest; redact with --format jsonl, which proves nothing"
        )
    redaction = Redaction(redact)
    opened = open_store(store)
    try:
        heads = None if everything else [find_run(opened, run) for run in runs]
        events = _written(opened, path, heads, form, redaction)
    finally:
        opened.close()
    if output != "table":
        document = {
            "schema": SCHEMA,
            "file": str(path),
            "format": form,
            "events": events,
            "redactions": redaction.count,
        }
        print_json(document, lines=output == "jsonl")
        return OK
    print(visible(f"{events} events written to {path}"))
    if redact:
        print(
            f"{redaction.count} values were taken out; the file proves nothing but its digests, and texts elsewhere may repeat them"
        )
    return OK


def _asked(names: Sequence[str], *, everything: bool, form: str) -> tuple[Sequence[str], Path]:
    if not names or (len(names) > 1) is everything:
        raise SettingsError(
            "say what to export, and last the file: `replay export RUN FILE`, or `replay export --all FILE`"
        )
    if form == "cborseq" and not names[-1].endswith(EXPORT):
        raise SettingsError(f"{names[-1]!r} is no name of an export; end it in {EXPORT}, by which replay knows one")
    return names[:-1], Path(names[-1])


def _written(log: Log, path: Path, heads: list[Head] | None, form: str, redaction: Redaction) -> int:
    """Write a new file that only its owner reads, and nothing of it if it can't be finished; how many events."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be written ({error.strerror}); give another place") from None
    try:
        with os.fdopen(fd, "wb") as file:
            if form == "cborseq":
                return write_sequence(log, file, heads)
            every = [one.head for one in log.runs(Query())] if heads is None else heads
            return sum(
                file.write(_line(one)) > 0 and one["kind"] == "event" for one in write_lines(log, every, redaction)
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _line(document: dict[str, Any]) -> bytes:
    return (json.dumps({"schema": LINE, **plain_json(document)}, allow_nan=False) + "\n").encode()

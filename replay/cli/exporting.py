"""The command that takes histories out of a store: export."""

from __future__ import annotations

import io
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from eventflow.address import Address, find_run
from eventflow.cli.shell import (
    OK,
    FormatArg,
    StoreArg,
    argument,
    open_store,
    plain_json,
    print_json,
    store_path,
    visible,
)
from eventflow.errors import SettingsError
from eventflow.exchange import key_of
from eventflow.log import Head, Log, Query
from eventflow.sealing import kept_seals
from replay.cli.opening import CAPSULE, EXPORT
from replay.export import Redaction, write_lines, write_sequence, write_spans
from replay.export.capsule.page import capsule_page
from replay.export.capsule.view import capsule_view
from replay.family import first_version
from replay.proving import position_of, prove_event

SCHEMA, LINE = "eventflow.export/1", "eventflow.exported/1"
AllArg = Annotated[bool, argument(name="--all", negative=(), help="The whole store.")]
Form = Literal["cborseq", "jsonl", "capsule", "otel"]
FormArg = Annotated[
    Form,
    argument(
        name="--format",
        help="cborseq, which proves itself, jsonl for other programs, capsule: one run as a page that opens from disk, "
        "or otel: spans for a tracing system.",
    ),
]
RedactArg = Annotated[
    tuple[str, ...],
    argument(name="--redact", negative=(), help="Take out values under these keys, as customer.email; not in cborseq."),
]


def export_(
    *names: str, everything: AllArg = False, form: FormArg = "cborseq", redact: RedactArg = (), store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Write runs, or the whole store, to a file: CBOR that proves itself, JSON lines, a page that opens from disk, or spans.

    Parameters
    ----------
    names
        The runs, and last the new file; with --all the file alone.
    """
    runs, path = _asked(names, everything=everything, form=form)
    if redact and form == "cborseq":
        raise SettingsError(
            "what is taken out of an event changes its digest; redact with --format jsonl or capsule, which then prove nothing"
        )
    redaction = Redaction(redact)
    opened = open_store(store)
    try:
        heads = None if everything else [find_run(opened, run) for run in runs]
        if form == "capsule":
            events = _new_file(path, lambda file: _capsule(opened, file, heads or [], redaction, store))
        else:
            events = _new_file(path, lambda file: _written(opened, file, heads, form, redaction))
        every = heads or [one.head for one in opened.runs(Query())]
        sealed = form == "cborseq" and any(key_of(opened, head) for head in every)
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
    if sealed:
        print("what is encrypted stays so in it, and no key is; --format jsonl has values in the open")
    if redact:
        print(
            f"{redaction.count} values were taken out; the file proves nothing but its digests, and texts elsewhere may repeat them"
        )
    return OK


_MEANT: dict[str, Form] = {CAPSULE: "capsule", ".jsonl": "jsonl", ".json": "otel"}  # by the end of a file's name


def _asked(names: Sequence[str], *, everything: bool, form: Form) -> tuple[Sequence[str], Path]:
    if not names or (len(names) > 1) is everything:
        raise SettingsError(
            "say what to export, and last the file: `replay export RUN FILE`, or `replay export --all FILE`"
        )
    if form == "cborseq" and not names[-1].endswith(EXPORT):
        other = next((f" {one}" for end, one in _MEANT.items() if names[-1].endswith(end)), "")
        raise SettingsError(
            f"{names[-1]!r} is no name of an export; end it in {EXPORT}, by which replay knows one, or say another form with "
            f"--format{other}"
        )
    if form == "capsule" and not names[-1].endswith(CAPSULE):
        raise SettingsError(f"{names[-1]!r} is no name of a page; end it in {CAPSULE}, by which browsers know one")
    if form == "capsule" and len(names) != 2:
        raise SettingsError("a capsule is of one run: `replay export RUN FILE.html --format capsule`")
    return names[:-1], Path(names[-1])


def _new_file(path: Path, write: Callable[[IO[bytes]], int]) -> int:
    """Write a new file that only its owner reads, and nothing of it if it can't be finished; how many events."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise SettingsError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be written ({error.strerror}); give another place") from None
    try:
        with os.fdopen(fd, "wb") as file:
            return write(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _written(log: Log, file: IO[bytes], heads: list[Head] | None, form: Form, redaction: Redaction) -> int:
    if form == "cborseq":
        return write_sequence(log, file, heads)
    every = [one.head for one in log.runs(Query())] if heads is None else heads
    if form == "otel":
        return write_spans(log, file, every, redaction)
    return sum(file.write(_line(one)) > 0 and one["kind"] == "event" for one in write_lines(log, every, redaction))


def _capsule(log: Log, file: IO[bytes], heads: Sequence[Head], redaction: Redaction, store: str | None) -> int:
    """Write one run as a page; what was redacted is nowhere in it, so then it holds no history's bytes and no proof."""
    head = heads[0]
    _check_whole(log, head)
    view = capsule_view(log, head, redaction=redaction)
    sequence, proof = io.BytesIO(), ""
    if not redaction.paths:
        if any(key_of(log, one) for one in heads):
            raise SettingsError(
                f"run {head.run_id} is encrypted, and a page holds its history for everybody to check, which can't be read without "
                f"its key; export it as {EXPORT}, which stays encrypted, as jsonl, which does not, or take values out with --redact"
            )
        write_sequence(log, sequence, heads)
        proof = _proof(log, head, store)
    file.write(capsule_page(view, sequence.getvalue(), proof))
    return int(head.version)


def _check_whole(log: Log, head: Head) -> None:
    """Refuse a run whose history does not prove itself from its start. Raises SettingsError."""
    key = head.run_key
    while (entry := log.entry(key)) is not None:
        if entry.origin:
            raise SettingsError(
                f"run {head.run_id} was compacted, or the run it goes on from; a capsule is of a whole history, `replay report` tells of what is left"
            )
        if entry.parent_id is None:
            return
        key = entry.parent_key


def _proof(log: Log, head: Head, store: str | None) -> str:
    """Proof that the newest sealed event of a run is in what the newest seal is of; empty if there is none."""
    kept = kept_seals(Path(store_path(store)))
    if not kept:
        return ""
    seal = max(kept, key=lambda one: one.head.size)
    first = first_version(log, head.run_key)
    sealed = bisect_right(
        range(first, head.version + 1), seal.head.size, key=lambda version: position_of(log, Address(head, version))
    )
    return str(prove_event(log, position_of(log, Address(head, first + sealed - 1)), seal)) if sealed else ""


def _line(document: dict[str, Any]) -> bytes:
    return (json.dumps({"schema": LINE, **plain_json(document)}, allow_nan=False) + "\n").encode()

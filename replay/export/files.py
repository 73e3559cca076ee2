"""The file of a history, whichever it is: an export as CBOR, or the page of a capsule with one in it. From anybody."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eventflow.errors import ProofFailed, SettingsError
from eventflow.exchange import MAX_EXPORT, ExportLog, export_from
from replay.export.capsule.page import MAX_CAPSULE, Capsule, is_capsule, open_capsule

_MAPS = {bytes([first]) for first in range(0xA0, 0xC0)}  # how CBOR begins a map, and no text in UTF-8 begins


@dataclass(frozen=True, slots=True)
class Opened:
    """What a file holds: its kind (`export` or `capsule`), its bytes, the history in it, and a proof that came with it."""

    kind: str
    data: bytes
    capsule: Capsule


def read_file(path: Path) -> Opened:
    """A file taken apart, as far as it can be without reading its history. Raises Corrupt, ProofFailed, SettingsError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_EXPORT + 1)
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read ({error.strerror}); give the file of an export or a capsule"
        ) from None
    if is_capsule(data):
        if len(data) > MAX_CAPSULE:
            raise ProofFailed("the capsule", f"is larger than {MAX_CAPSULE:,} bytes")
        return Opened("capsule", data, open_capsule(data))
    if data[:1] not in _MAPS:
        raise SettingsError(f"{path} is no export and no capsule; give a file that `replay export` has written")
    return Opened("export", data, Capsule(data, ""))


def read_history(path: Path, *, check: bool = True) -> ExportLog:
    """The log that a file holds, verified unless `check` is off. Raises ProofFailed, Corrupt, SettingsError."""
    return export_from(read_file(path).capsule.sequence, check=check)

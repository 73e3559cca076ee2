"""Seals: the head of the Merkle tree over all events of a store, signed, kept beside the log and wherever else.

The leaves are the digests of the events in order of position. A deleted event keeps its digest, so a deletion does not
change the tree. One pass over the store makes a seal or compares it with any number of older ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from eventflow.cipher.signing import SigningKey
from eventflow.clock import id_text
from eventflow.codec import TOMBSTONE, Stored
from eventflow.durable import sync_directory
from eventflow.errors import ProofFailed, SealNotFound, SettingsError
from eventflow.log import STORE_RUN, STORE_VOUCH, Head, Log, Query
from eventflow.proof import DIGEST_SIZE, digest
from eventflow.proof.merkle import Span, Survey, survey
from eventflow.proof.note import MAX_NOTE, Note, TreeHead, parse_head, parse_note

DIRECTORY = "seals"  # beside the log
MAX_KEPT = 10_000  # seals of a store that are compared: one a day for a working life
_PAGE = 1_000  # events read at a time: a few MB
_NAME = re.compile(r"([1-9][0-9]{0,18})\.note", re.ASCII)


@dataclass(frozen=True, slots=True)
class Seal:
    """A signed head, what it says, and the file it came from."""

    note: Note
    head: TreeHead
    path: Path


def origin(store_id: bytes) -> str:
    """The first line of a store's seals."""
    return f"eventflow/store/{id_text(store_id)}"


def leaf(stored: Stored) -> bytes:
    """An event's digest, whether or not the event is still there."""
    data = stored.data
    if data[:1] == TOMBSTONE and len(data) == 1 + DIGEST_SIZE:
        return data[1:]
    return digest(data)


def leaves(log: Log) -> Iterator[bytes]:
    """The digests of all events of a store, in order of position. Raises ProofFailed where a position is missing."""
    position = 0
    while page := log.feed(position, _PAGE):
        for stored in page:
            position += 1
            if stored.position != position:
                raise ProofFailed("the store", f"lacks the event at position {position}")
            yield leaf(stored)


def surveyed(log: Log, upto: int, *, sizes: Iterable[int] = (), spans: Iterable[Span] = ()) -> Survey:
    """Roots and subtrees of a store's tree, as far as its first `upto` events go. Raises ProofFailed."""
    return survey(islice(leaves(log), upto), sizes=sizes, spans=spans)


# --- making --------------------------------------------------------------------------------------------------------


def seal(log: Log, key: SigningKey, kept: Sequence[Seal] = ()) -> Note:
    """A signed head of a store as it is now, which continues all seals that are kept.

    Raises ProofFailed, and signs nothing, if the store is not what one of them says.
    """
    size = log.position()
    found = surveyed(log, size, sizes=[size, *(one.head.size for one in kept)])
    for _, problem in differences(log.store_id, found, kept):
        raise ProofFailed("the store", f"is not sealed: {problem}")
    if found.size != size:
        raise ProofFailed("the store", f"ends at position {found.size} and says {size}")
    return key.signed(str(TreeHead(origin(log.store_id), size, found.roots[size])))


def differences(store_id: bytes, found: Survey, seals: Iterable[Seal]) -> Iterator[tuple[Seal, str]]:
    """Each seal that a store does not fit, with what is wrong; the survey must have looked at the seals' sizes."""
    for one in seals:
        head = one.head
        if head.origin != origin(store_id):
            yield one, f"{one.path.name} is the seal of another store, {head.origin}"
        elif head.size > found.size:
            missing = head.size - found.size
            yield (
                one,
                f"its last {missing} of {head.size} sealed events are gone: a tail was cut off, or this is an old copy",
            )
        elif found.roots.get(head.size) != head.root:
            yield one, f"its first {head.size} events are not those that {one.path.name} seals: they were changed since"


def unsealed(log: Log, size: int) -> list[str]:
    """The ids of runs that were compacted to a state for which none of a store's first `size` events vouches.

    The tree holds the digests of what a compaction took, and nothing of what it put in its place: that stands on the word
    of one event, which a seal must be of too.
    """
    begun = [one for one in log.runs(Query()) if one.entry.origin]
    return [one.head.run_id for one in begun if not 0 < vouched_at(log, one.head) <= size]


def vouched_at(log: Log, head: Head) -> int:
    """The position of the event that vouches for what a run was compacted to, 0 if it was not or there is none."""
    entry = log.entry(head.run_key)
    if entry is None or not entry.origin:
        return 0
    by = dict(log.snapshots(head.run_key, entry.origin, limit=1)).get(entry.origin, 0)
    key, version = (STORE_RUN, by ^ STORE_VOUCH) if by & STORE_VOUCH else (head.run_key, by)
    stored = log.read(key, version, version) if version else []
    return stored[0].position if stored else 0


# --- keeping -------------------------------------------------------------------------------------------------------


def keep(store: Path, note: Note) -> Path:
    """Write a seal beside the log, durably, in a file of mode 0600; returns its place. Raises SettingsError."""
    directory = store / DIRECTORY
    path = directory / f"{parse_head(note.text).size}.note"
    fresh = directory / f"{path.name}.{os.getpid()}.new"  # two may seal at once
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)  # whatever the umask is
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o600)
            file.write(str(note))
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
        sync_directory(directory)
    except OSError as error:
        raise SettingsError(f"{path} can't be written ({error.strerror}); check the store's owner and mode") from None
    return path


def read_seal(path: Path) -> Seal:
    """A seal from its file; its signature is not looked at. Raises ProofFailed, SettingsError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_NOTE + 1).decode()
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); give the file of a seal") from None
    except UnicodeDecodeError:
        raise ProofFailed(str(path), "is not the text of a seal") from None
    note = parse_note(text)
    return Seal(note, parse_head(note.text), path)


def kept_seals(store: Path) -> list[Seal]:
    """The seals that lie beside a log, the smallest first. Raises ProofFailed."""
    directory = store / DIRECTORY
    if not directory.is_dir():
        return []
    named = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    if len(named) > MAX_KEPT:
        raise ProofFailed("the store", f"keeps more than {MAX_KEPT:,} seals")
    found = [read_seal(path) for _, path in sorted(named)]
    for (size, path), one in zip(sorted(named), found, strict=True):
        if one.head.size != size:
            raise ProofFailed(str(path), f"seals {one.head.size} events, its name says {size}")
    return found


def covering(seals: Sequence[Seal], size: int) -> Seal:
    """The newest of some seals, which must be of at least so many events. Raises SealNotFound."""
    if not seals or seals[-1].head.size < size:
        raise SealNotFound(f"that covers position {size}")
    return seals[-1]

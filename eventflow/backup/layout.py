"""What a backup is made of: a whole copy of a store and, beside it, what has changed from one backup to the next.

`BACKUP` says what the copy is; each file in `increments/` holds the blocks of the LMDB file that are others than at the
backup before. Each names the digest of the one before it and of the file that it leads to, so that a chain with a part
missing, changed or from elsewhere is refused. docs/format.md tells it byte by byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from eventflow.codec import decode, encode, pack_blob, unpack_blob
from eventflow.errors import Corrupt, NotFound, SettingsError, WrittenByNewer
from eventflow.log.lmdb.files import BACKUP
from eventflow.proof import digest

FORMAT = 1
KIND, KIND_INCREMENT = "eventflow backup", "eventflow increment"
INCREMENTS, SUFFIX = "increments", ".efinc"
BLOCK = 4096  # bytes: a page of LMDB, what one commit writes at least
MAX_WORD = 1 << 16  # bytes of a map about a backup: it has a dozen fields
_U32, _BLOCK = struct.Struct(">I"), struct.Struct(">QI")
_END = 2**64 - 1  # in the place of a block's number: no more blocks
_NAME = re.compile(r"([0-9]{6,12})\.efinc", re.ASCII)
_POINT = {"number": int, "position": int, "digest": bytes, "time": int, "size": int, "image": bytes}
_WHOLE = {"eventflow": str, "format": int, "store": bytes, "source": str, "keys": bool, **_POINT}
_HEADER = {"eventflow": str, "format": int, "store": bytes, "number": int, "previous": bytes}
_FOOTER = {"blocks": int, **_POINT}


@dataclass(frozen=True, slots=True)
class Point:
    """A backup that can be restored: its number, its last event's position and digest, when it was made (ns, UTC).

    `size` and `image` are the bytes and the SHA-256 of the LMDB file as it was then.
    """

    number: int
    position: int
    digest: bytes
    time: int
    size: int
    image: bytes

    def plain(self) -> dict[str, Any]:
        """Its fields, as they are written."""
        return {name: getattr(self, name) for name in _POINT}


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup as it lies there: whose it is, and its points, oldest first; each can be restored."""

    path: Path
    store_id: bytes
    source: str
    keys: bool
    points: tuple[Point, ...]
    last_file: bytes  # the SHA-256 of the newest increment, or of BACKUP

    @property
    def last(self) -> Point:
        """The newest point."""
        return self.points[-1]

    def image(self, number: int) -> Iterator[bytes]:
        """The LMDB file as it was at a point, a block at a time. Raises Corrupt if it is not what the point says."""
        point = next(one for one in self.points if one.number == number)
        hashed = hashlib.sha256()
        with closing(_Changed()) as changed, copied_file(self.path).open("rb") as base:
            for one in self.points:
                if 1 < one.number <= number:
                    changed.add(self.path / INCREMENTS / increment_name(one.number))
            for index in range(-(-point.size // BLOCK)):
                data = changed.block(index) if index in changed.where else _block_of(base, index)
                hashed.update(data)
                yield data
        if hashed.digest() != point.image:
            raise Corrupt(str(self.path), f"does not give the file of backup {number} as it was: something was changed")


def copied_file(path: Path) -> Path:
    """The LMDB file of the whole copy."""
    return path / "data.1" / "data.mdb"


def _block_of(file: IO[bytes], index: int) -> bytes:
    file.seek(index * BLOCK)
    return file.read(BLOCK)


# --- BACKUP --------------------------------------------------------------------------------------------------------


def whole_word(store_id: bytes, source: str, point: Point, *, keys: bool) -> bytes:
    """What BACKUP says."""
    return encode(
        {"eventflow": KIND, "format": FORMAT, "store": store_id, "source": source, "keys": keys, **point.plain()}
    )


def read_backup(path: Path) -> Backup:
    """The backup at a path, its chain checked. Raises NotFound, Corrupt, WrittenByNewer, SettingsError."""
    try:
        data = _small(path / BACKUP)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no backup at {path}; `eventflow store backup {path}` makes one") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); give the directory of a backup") from None
    word = _word(data, _WHOLE, KIND, str(path / BACKUP))
    points = [_point(word)]
    last = digest(data)
    for number, file in increments(path):
        if number != points[-1].number + 1:
            raise Corrupt(
                str(file), f"is there, and the increment before it is not: {points[-1].number + 1} is missing"
            )
        point, last = _read_increment(file, word["store"], number, last)
        points.append(point)
    return Backup(path, word["store"], word["source"], word["keys"], tuple(points), last)


def increments(path: Path) -> list[tuple[int, Path]]:
    """The increments of a backup by number, rising."""
    directory = path / INCREMENTS
    if not directory.is_dir():
        return []
    return sorted((int(match[1]), file) for file in directory.iterdir() if (match := _NAME.fullmatch(file.name)))


def increment_name(number: int) -> str:
    """The file name of an increment."""
    return f"{number:06}{SUFFIX}"


def _small(file: Path) -> bytes:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as opened:
        return opened.read(MAX_WORD + 1)


def _word(data: bytes, form: dict[str, type], kind: str, where: str) -> dict[str, Any]:
    value = decode(data, where, strict=True) if len(data) <= MAX_WORD else None
    if not isinstance(value, dict) or value.get("eventflow", kind) != kind:
        raise Corrupt(where, f"is not that of an {kind}")
    if value.get("format", FORMAT) != FORMAT:
        raise WrittenByNewer(where, f"backup format {value['format']}")
    if {name: type(item) for name, item in value.items()} != form:
        raise Corrupt(where, "has something in it that no backup has")
    return value


def _point(word: dict[str, Any]) -> Point:
    return Point(**{name: word[name] for name in _POINT})


# --- increments ----------------------------------------------------------------------------------------------------


class IncrementWriter:
    """Writes an increment: a header, blocks, a footer; `put` takes the blocks that changed."""

    def __init__(self, file: IO[bytes], store_id: bytes, number: int, previous: bytes) -> None:
        self._file, self._hashed = file, hashlib.sha256()
        self.blocks = 0
        self._word({
            "eventflow": KIND_INCREMENT, "format": FORMAT, "store": store_id, "number": number, "previous": previous,
        })  # fmt: skip

    def put(self, index: int, data: bytes) -> None:
        """One block, by its number in the file."""
        packed = digest(data) + pack_blob(data)
        self._write(_BLOCK.pack(index, len(packed)) + packed)
        self.blocks += 1

    def finish(self, point: Point) -> None:
        """The end of the file."""
        self._write(_BLOCK.pack(_END, 0))
        self._word({"blocks": self.blocks, **point.plain()})
        self._file.write(self._hashed.digest())

    def _word(self, word: dict[str, Any]) -> None:
        data = encode(word)
        self._write(_U32.pack(len(data)) + data)

    def _write(self, data: bytes) -> None:
        self._hashed.update(data)
        self._file.write(data)


class _Hashing:
    """A file that is read from its beginning to its end, with the digest of what was read."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where = file, where
        self.hashed = hashlib.sha256()
        self.at = 0

    def take(self, size: int) -> bytes:
        """So many bytes. Raises Corrupt at the end of the file."""
        data = self._file.read(size)
        if len(data) != size:
            raise Corrupt(self._where, "ends in the middle of something: it was cut")
        self.hashed.update(data)
        self.at += size
        return data

    def word(self, form: dict[str, type], kind: str) -> dict[str, Any]:
        """A map, with its length before it."""
        size = _U32.unpack(self.take(4))[0]
        if size > MAX_WORD:
            raise Corrupt(self._where, "is not an increment of a backup")
        return _word(self.take(size), form, kind, self._where)

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Number of each block, where its bytes begin in the file, how many they are."""
        while True:
            index, size = _BLOCK.unpack(self.take(_BLOCK.size))
            if index == _END:
                return
            if size > BLOCK + 64:
                raise Corrupt(self._where, "has a block that is longer than a block")
            at = self.at
            self.take(size)
            yield index, at, size


def _read_increment(file: Path, store_id: bytes, number: int, previous: bytes) -> tuple[Point, bytes]:
    """An increment's point, and the file's digest; every byte of it is looked at."""
    where = str(file)
    with open_plain(file) as opened:
        reading = _Hashing(opened, where)
        header = reading.word(_HEADER, KIND_INCREMENT)
        if (header["store"], header["number"], header["previous"]) != (store_id, number, previous):
            raise Corrupt(where, "does not follow the backup before it: one was changed, or is another store's")
        count = sum(1 for _ in reading.blocks())
        footer = reading.word(_FOOTER, KIND_INCREMENT)
        told = opened.read(33)
    if told != reading.hashed.digest() or footer["blocks"] != count or footer["number"] != number:
        raise Corrupt(where, "is not what its end says it is: something was changed or left out")
    return _point(footer), told


class _Changed:
    """Where the newest bytes of changed blocks lie: block -> file, place, length."""

    def __init__(self) -> None:
        self.where: dict[int, tuple[IO[bytes], int, int]] = {}
        self._files: list[IO[bytes]] = []

    def add(self, file: Path) -> None:
        """Take in an increment, newer than those before."""
        opened = open_plain(file)
        self._files.append(opened)
        reading = _Hashing(opened, str(file))
        reading.word(_HEADER, KIND_INCREMENT)
        for index, at, size in reading.blocks():
            self.where[index] = opened, at, size

    def block(self, index: int) -> bytes:
        """A block's bytes. Raises Corrupt."""
        file, at, size = self.where[index]
        file.seek(at)
        packed = file.read(size)
        return unpack_blob(packed[32:], packed[:32])

    def close(self) -> None:
        """Let go of the files."""
        for one in self._files:
            one.close()


def open_plain(file: Path) -> IO[bytes]:
    """A file opened to be read, which is no link."""
    return os.fdopen(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")

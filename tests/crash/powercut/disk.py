"""A disk that keeps what was synced, and of the rest whatever it pleases: calls go in, states that a power cut may leave come out.

What is taken for true of a disk: a call that syncs has its file's bytes (or a directory's names) there when it returns. Until
then each 4 KiB block of a file may be there in any of its versions since, in any order; a block may be torn between 512-byte
sectors; a file may have grown without its bytes; a name may be there or not, apart from the bytes it names. A sector is
whole. The high-water mark is memory: each of its two halves may be any that it ever was since the last sync.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from powercut.trace import Call

BLOCK, SECTOR, SLOT = 4_096, 512, 64
_LAST = re.compile(r", (\d+)(?:\)| <unf)")
Tree = dict[str, bytes | None]  # path below the store -> content, None for a directory
Pick = Callable[[int], int]  # how many of a block's versions have come to the disk


@dataclass
class File:
    """Bytes as programs see them, as the disk has them, and the versions of each block in between."""

    block: int = BLOCK
    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.live):
            self.live.extend(bytes(end - len(self.live)))
        self.live[offset:end] = data
        for number in range(offset // self.block, (end + self.block - 1) // self.block):
            here = self.live[number * self.block : (number + 1) * self.block]
            self.versions.setdefault(number, []).append(bytes(here))

    def resize(self, size: int) -> None:
        del self.live[size:]
        self.live.extend(bytes(size - len(self.live)))

    def sync(self, offset: int = 0, length: int | None = None) -> None:
        """Some bytes, or all, with the file's length."""
        if length is None:
            self.durable, self.versions = bytearray(self.live), {}
            return
        for number in range(offset // self.block, (offset + length + self.block - 1) // self.block):
            if number in self.versions:
                _put(self.durable, number * self.block, self.versions.pop(number)[-1])

    def pending(self) -> int:
        return len(self.versions) + (len(self.live) != len(self.durable))

    def left(self, pick: Pick, torn: random.Random | None, *, grown: bool) -> bytes:
        """What may lie on the disk."""
        found = bytearray(self.durable)
        if grown:
            found.extend(bytes(max(0, len(self.live) - len(found))))
        for number, versions in self.versions.items():
            taken = pick(len(versions))
            if torn is not None and len(versions[-1]) > SECTOR:
                self._tear(found, number, torn)
            elif taken:
                _put(found, number * self.block, versions[taken - 1])
        return bytes(found)

    def _tear(self, found: bytearray, number: int, chance: random.Random) -> None:
        """Each sector of a block by itself: the last version's, or what was there."""
        last = self.versions[number][-1]
        for start in range(0, len(last), SECTOR):
            if chance.random() < 0.5:
                _put(found, number * self.block + start, last[start : start + SECTOR])


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


@dataclass
class Directory:
    """Names as programs see them, as the disk has them, and what was done in between."""

    live: dict[str, Any] = field(default_factory=dict)
    durable: dict[str, Any] = field(default_factory=dict)
    done: list[tuple[str, Any]] = field(default_factory=list)  # a name, and what it names from then on or None

    def set(self, name: str, what: Any) -> None:
        if what is None:
            self.live.pop(name, None)
        else:
            self.live[name] = what
        self.done.append((name, what))

    def sync(self, *_: int) -> None:
        self.durable, self.done = dict(self.live), []

    def pending(self) -> int:
        return len(self.done)

    def left(self, keep: Callable[[], bool]) -> dict[str, Any]:
        found = dict(self.durable)
        for name, what in self.done:
            if keep():
                if what is None:
                    found.pop(name, None)
                else:
                    found[name] = what
        return found


@dataclass
class _Handle:
    what: File | Directory | None  # None: the witness
    synced: bool
    place: int = 0


@dataclass
class Known:
    """What the witness had been told: runs' versions that were begun and acknowledged, runs that go or are gone."""

    begun: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def hear(self, line: dict[str, Any]) -> None:
        for run, version in line.get("begun", ()):
            self.begun[run] = max(version, self.begun.get(run, 0))
        for run, version, _ in line.get("told", ()):
            self.told[run] = max(version, self.told.get(run, 0))
        self.going |= set(line.get("going", ()))
        self.gone |= set(line.get("gone", ()))


class Disk:
    """A disk, and the calls of one process on it; only what concerns a store, and the file that witnesses it."""

    def __init__(self, store: Path, witness: Path) -> None:
        self._store, self._witness = str(store), str(witness)
        self._above = Directory()  # of the directory that the store lies in, only the store's name
        self._handles: dict[int, _Handle] = {}
        self.known = Known()

    # --- where things are

    def _parts(self, path: str) -> list[str] | None:
        if path == str(Path(self._store).parent):
            return []
        if path != self._store and not path.startswith(self._store + "/"):
            return None
        return ["store", *[part for part in path[len(self._store) :].split("/") if part]]

    def _at(self, path: str) -> File | Directory | None:
        here: Any = self._above
        for part in self._parts(path) or ():
            here = here.live.get(part) if isinstance(here, Directory) else None
        return here

    def _holder(self, path: str) -> tuple[Directory, str]:
        here: Any = self._above
        *way, name = self._parts(path) or [""]
        for part in way:
            here = here.live[part]
        return here, name

    # --- calls

    def changes(self, call: Call) -> bool:
        """Whether a call changes what a power cut may leave, or what it must."""
        if call.name in (
            "write",
            "pwrite64",
            "writev",
            "pwritev",
            "pwritev2",
            "ftruncate",
            "fallocate",
            "fsync",
            "fdatasync",
        ):
            handle = self._handles.get(call.number(0))
            return handle is not None
        return call.name in ("openat", "creat", "rename", "mkdir", "unlink", "truncate") and self._concerns(call)

    def _concerns(self, call: Call) -> bool:
        return any(self._parts(one.decode(errors="replace")) for one in call.strings)

    def apply(self, call: Call) -> None:
        """Take a call; what it writes from its beginning on, what it syncs at its end."""
        name = call.name
        if call.ends and call.result < 0:
            return
        if name in ("openat", "creat"):
            if call.ends:
                self._open(call)
        elif name == "close" and call.ends:
            self._handles.pop(call.number(0), None)
        elif name in ("dup", "dup2", "dup3", "pwritev2", "sync_file_range", "renameat", "renameat2"):
            assert call.number(0) not in self._handles, f"{name} is not modelled"
        elif name in ("rename", "mkdir", "unlink", "rmdir", "truncate"):
            if call.begins and self._concerns(call):
                self._name(call)
        else:
            self._on_handle(call)

    def _open(self, call: Call) -> None:
        path = call.strings[0].decode(errors="replace")
        if path == self._witness:
            self._handles[call.result] = _Handle(None, synced=False)
            return
        if self._parts(path) is None:
            return
        found = self._at(path)
        if found is None:
            found = File(SLOT if path.endswith("/mark") else BLOCK)
            holder, name = self._holder(path)
            holder.set(name, found)
        elif "O_TRUNC" in call.text and isinstance(found, File):
            found.resize(0)
        self._handles[call.result] = _Handle(found, synced="O_DSYNC" in call.text or "O_SYNC" in call.text)

    def _name(self, call: Call) -> None:
        path = call.strings[0].decode()
        holder, name = self._holder(path)
        if call.name == "mkdir":
            if name not in holder.live:
                holder.set(name, Directory())
        elif call.name == "truncate":
            file = holder.live[name]
            file.resize(call.number(1))
        elif call.name == "rename":
            to, new = self._holder(call.strings[1].decode())
            what = holder.live[name]
            assert to is holder, "a move between directories is not modelled"
            holder.live.pop(name)
            holder.live[new] = what
            holder.done += [(new, what), (name, None)]
        elif name in holder.live:
            holder.set(name, None)

    def _on_handle(self, call: Call) -> None:
        handle = self._handles.get(call.number(0)) if call.name != "msync" else None
        if handle is None:
            return
        what = handle.what
        if what is None:
            if call.name == "write" and call.begins:
                self._hear(json.loads(call.strings[0]))
        elif call.name == "lseek":
            handle.place = call.result
        elif call.name in ("fsync", "fdatasync"):
            if call.ends:
                what.sync()
        elif isinstance(what, File):
            if call.name == "fallocate":  # room, and nothing in it
                what.resize(max(len(what.live), call.number(2) + call.number(3)))
            elif call.name == "ftruncate":
                what.resize(call.number(1))
            else:
                self._write(call, handle, what)

    def _write(self, call: Call, handle: _Handle, file: File) -> None:
        data = b"".join(call.strings)
        placed = call.name in ("pwrite64", "pwritev")
        offset = int(_LAST.findall(call.text)[-1]) if placed else handle.place
        if call.begins:
            file.write(offset, data)
        if call.ends:
            handle.place += 0 if placed else len(data)
            if handle.synced:
                file.sync(offset, len(data))

    def _hear(self, line: dict[str, Any]) -> None:
        self.known.hear(line)
        for name, content in line["marks"].items():
            mark = self._at(f"{self._store}/{name}")
            assert isinstance(mark, File)
            data = bytes.fromhex(content)
            for start in range(0, len(data), SLOT):
                if mark.live[start : start + SLOT] != data[start : start + SLOT]:
                    mark.write(start, data[start : start + SLOT])

    # --- what a cut leaves

    def pending(self) -> int:
        """How many things may be there or not."""
        return sum(one.pending() for one in self._all(self._above))

    def _all(self, here: Directory) -> Iterator[File | Directory]:
        yield here
        for one in {id(what): what for what in [*here.live.values(), *here.durable.values()]}.values():
            if isinstance(one, Directory):
                yield from self._all(one)
            else:
                yield one

    def left(self, kind: str, seed: int) -> Tree:
        """A state that a cut may leave now; `kind` is one of KINDS, `seed` says which of many."""
        chance = random.Random(seed)  # noqa: S311 - a seed that can be repeated
        share = chance.random()
        names, bytes_ = KINDS[kind]

        def chosen(how: str, most: int) -> int:
            if how == "none":
                return 0
            if how == "all":
                return most
            return chance.randint(1, most) if chance.random() < share else 0

        found: Tree = {}
        torn = chance if kind == "torn" else None
        grown = bytes_ == "all" or kind == "grown" or (bytes_ == "some" and chance.random() < 0.5)

        def walk(here: Directory, path: str) -> None:
            for name, what in sorted(here.left(lambda: chosen(names, 1) > 0).items()):
                below = f"{path}/{name}" if path else name
                if isinstance(what, Directory):
                    found[below] = None
                    walk(what, below)
                else:
                    found[below] = what.left(lambda most: chosen(bytes_, most), torn, grown=grown)

        walk(self._above, "")
        return found


# What a cut leaves: of the names that were not synced, and of the bytes that were not.
KINDS = {
    "none": ("none", "none"),
    "all": ("all", "all"),
    "bytes": ("none", "all"),
    "names": ("all", "none"),
    "grown": ("all", "none"),
    "torn": ("all", "all"),
    "some": ("all", "some"),
    "any": ("some", "some"),
}

"""Values that are kept once: long texts and bytes leave their event or snapshot and are referred to by digest.

A *blob* is such a value's bytes, named by their SHA-256. A *ref* says where in the decoded value it belongs: (path,
digest, kind). What a blob is stored as (as it is, zstd, or base64 text packed to its bytes) is not part of its name.
"""

from __future__ import annotations

import binascii
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from eventflow.codec.cbor import decode, encode
from eventflow.errors import Corrupt, WrittenByNewer
from eventflow.plain import MAX_DEPTH, MAX_TEXT, FrozenDict, FrozenList, Rope
from eventflow.proof import DIGEST_SIZE, digest

LOCKED_BLOB = b"\x03"  # the first byte of the row of a blob that is encrypted
BLOB_FROM = 1_000  # characters or bytes; shorter values cost more as a blob (row, index, reference) than in place
TEXT, BYTES, VALUE = 0, 1, 2  # what a ref's blob is: UTF-8 text, bytes, or plain data as canonical CBOR
RAW, ZSTD, BASE64, ENCRYPTED = 0, 1, 2, 3  # how a blob is stored: first byte of its row
_PACKED_FROM = 64  # bytes; below, base64 packing and zstd gain nothing worth a look
_SHARED_FROM = 128  # bytes of a Shared value; below, its reference would be as long as itself
MAX_EXPANDED = MAX_TEXT * 4  # bytes a zstd frame may grow to: the longest text, at up to four bytes a character
_LEVEL = 3  # zstd's own default: 4 us a KB here, higher levels gain a few per cent for several times that
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)

Ref = list[Any]  # [path, digest, kind]
Fetch = Callable[[Iterable[bytes]], Mapping[bytes, bytes]]  # digests -> their bytes, all of them or Corrupt


@dataclass(frozen=True, slots=True)
class Blob:
    """A value's bytes as they will be stored, under the digest of what they are; `size` is that of the value."""

    digest: bytes
    stored: bytes
    size: int


class Shared:
    """Plain data that is stored by reference whatever its size: the messages of a conversation, sent again each turn."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def lift(value: Any, refs: list[Ref], blobs: list[Blob], path: tuple[str | int, ...] = ()) -> Any:
    """The value with each long text and bytes replaced by None; what was taken out is added to refs and blobs."""
    kind = type(value)
    if kind is str or kind is bytes:
        return value if len(value) < BLOB_FROM else _taken(value, refs, blobs, path)
    if kind is FrozenDict or kind is dict:
        return {key: lift(item, refs, blobs, (*path, key)) for key, item in dict.items(value)}
    if kind is FrozenList or kind is list or kind is tuple:
        return [lift(item, refs, blobs, (*path, index)) for index, item in enumerate(value)]
    if kind is Rope:
        return lift(value.items(), refs, blobs, path)
    if kind is Shared:
        return _shared(value.value, refs, blobs, path)
    return value


def _taken(value: str | bytes, refs: list[Ref], blobs: list[Blob], path: tuple[str | int, ...]) -> None:
    if isinstance(value, str):
        data, kind = value.encode(), TEXT
        stored = pack_blob(data, text=value)
    else:
        data, kind = value, BYTES
        stored = pack_blob(data)
    name = digest(data)
    refs.append([list(path), name, kind])
    blobs.append(Blob(name, stored, len(data)))


def _shared(value: Any, refs: list[Ref], blobs: list[Blob], path: tuple[str | int, ...]) -> Any:
    data = encode(value)
    if len(data) < _SHARED_FROM:
        return value
    name = digest(data)
    refs.append([list(path), name, VALUE])
    blobs.append(Blob(name, pack_blob(data), len(data)))
    return None


def unshared(value: Any) -> Any:
    """The value itself where it is Shared."""
    return value.value if type(value) is Shared else value


# --- how a blob is stored ------------------------------------------------------------------------------------------


def pack_blob(data: bytes, *, text: str | None = None, compress: bool = True) -> bytes:
    """The bytes of a blob's row: one byte that says how, then the rest; the shortest of what is worth trying."""
    if compress and _PACKED_FROM <= len(data) <= MAX_EXPANDED:
        packed = _base64_packed(text) if text is not None else None
        if packed is not None:
            return packed
        squeezed = squeeze(data)
        if len(squeezed) < len(data):
            return b"\x01" + squeezed
    return b"\x00" + data


def _base64_packed(text: str) -> bytes | None:
    """Base64 text (RFC 4648, canonical) as the bytes it stands for, if it is nothing else and gains over zstd."""
    if len(text) % 4 or not _BASE64.fullmatch(text):
        return None
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    if binascii.b2a_base64(data, newline=False).decode() != text:
        return None
    squeezed = squeeze(data)
    if len(squeezed) < len(data):  # what compresses below its bytes does so at least as well as text
        return None
    return b"\x02" + data


def unpack_blob(stored: bytes, name: bytes) -> bytes:
    """A blob's bytes from its row, checked against its digest; a LockedBlob if it is encrypted. Raises Corrupt."""
    if stored[:1] == LOCKED_BLOB:  # its name is a keyed one, which only the key can check
        return LockedBlob(stored[1:])
    data = expanded_blob(stored, name)
    if digest(data) != name:
        raise Corrupt(f"blob {name.hex()[:12]}", "does not have the digest it is named by")
    return data


class LockedBlob(bytes):
    """A blob's row that is encrypted, without its first byte; it stands where a blob's bytes would."""


def expanded_blob(stored: bytes, name: bytes) -> bytes:
    """A blob's bytes from its row, not checked; the name is for the error. Raises Corrupt."""
    where = f"blob {name.hex()[:12]}"
    how, rest = stored[:1], stored[1:]
    if how == b"\x00":
        data = rest
    elif how == b"\x01":
        data = expand(rest, where)
    elif how == b"\x02":
        data = binascii.b2a_base64(rest, newline=False)
    else:
        raise Corrupt(where, "is stored in a way that this eventflow does not know")
    return data


class _Zstd(threading.local):
    """A thread's own compressors and decompressors: making one costs ten times what using it on a small value does.

    Those of small values, the bodies of events, know the dictionary of format 1, which is part of the format.
    """

    def __init__(self) -> None:
        self.squeeze = zstandard.ZstdCompressor(level=_LEVEL).compress
        self.expand = zstandard.ZstdDecompressor().decompress
        words = zstandard.ZstdCompressionDict(_DICTIONARY, dict_type=zstandard.DICT_TYPE_FULLDICT)
        self.squeeze_small = zstandard.ZstdCompressor(level=_LEVEL, dict_data=words).compress
        self.expand_small = zstandard.ZstdDecompressor(dict_data=words).decompress


_DICTIONARY = Path(__file__).with_name("dictionary.bin").read_bytes()
_zstd = _Zstd()


def squeeze(data: bytes) -> bytes:
    """zstd-compressed bytes, with their size in the frame."""
    return _zstd.squeeze(data)


def squeeze_small(data: bytes) -> bytes:
    """The same, with the dictionary of format 1: an event's body of 100 bytes becomes a quarter shorter, not longer."""
    return _zstd.squeeze_small(data)


def expand(data: bytes, where: str, *, limit: int = MAX_EXPANDED) -> bytes:
    """Bytes from one zstd frame (RFC 8878) of known size, at most `limit`. Raises Corrupt."""
    return _expanded(_zstd.expand, data, where, limit)


def expand_small(data: bytes, where: str, *, limit: int) -> bytes:
    """The same for a frame that may need the dictionary of format 1. Raises Corrupt, WrittenByNewer for another one."""
    return _expanded(_zstd.expand_small, data, where, limit)


def _expanded(expander: Callable[..., bytes], data: bytes, where: str, limit: int) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= limit:
            raise Corrupt(where, "is compressed and does not say a size within limits")
        return expander(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        if "ictionary mismatch" in str(error):
            raise WrittenByNewer(where, "a compression dictionary") from None
        raise Corrupt(where, f"can't be decompressed ({error})") from None


# --- putting values back -------------------------------------------------------------------------------------------


def checked_refs(value: Any, where: str) -> list[Ref]:
    """Decoded references whose form is as it must be. Raises Corrupt."""
    if isinstance(value, list) and all(map(_is_ref, value)):
        return value
    raise Corrupt(where, "refers to values in a way that can't be read")


def _is_ref(ref: Any) -> bool:
    if type(ref) is not list or len(ref) != 3:
        return False
    path, name, kind = ref
    if (
        type(path) is not list
        or not path
        or type(name) is not bytes
        or len(name) != DIGEST_SIZE
        or type(kind) is not int
    ):
        return False
    if len(path) == 1 and type(path[0]) is int:  # a state of a MB has a thousand such
        return bool(path[0] >= 0)
    return all(type(step) is str or (type(step) is int and step >= 0) for step in path)


def fill(value: Any, refs: Iterable[Ref], blobs: Mapping[bytes, bytes], where: str) -> None:
    """Put each referred value into its empty place in a decoded value, a list or a dict. Raises Corrupt.

    A value that is referred to more than once is there once.
    """
    made: dict[tuple[bytes, int], Any] = {}
    for path, name, kind in refs:
        if (name, kind) not in made:
            made[name, kind] = _blob_value(blobs[name], kind, where)
        holder, last = value, path[-1]
        try:
            if len(path) > 1:
                for step in path[:-1]:
                    holder = holder[step]
            empty = holder[last] is None
        except (LookupError, TypeError):
            empty = False
        if not empty or (type(holder) is not list and type(holder) is not dict):
            raise Corrupt(where, "refers to a value at a place that is not there")
        holder[last] = made[name, kind]


def _blob_value(data: bytes, kind: int, where: str) -> Any:
    if kind == TEXT:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Corrupt(where, "refers to text that is not UTF-8") from None
    if kind == BYTES:
        return data
    if kind == VALUE:
        return frozen(decode(data, where), where)
    raise Corrupt(where, f"refers to a value of unknown kind {kind!r}")


SCALARS = frozenset({str, int, float, bool, bytes, type(None)})
_TEXT = frozenset({str})


def frozen(value: Any, where: str, *, depth: int = 0) -> Any:
    """A decoded value as frozen plain data; keys stay in the order of canonical CBOR, in which they were written.

    `depth` says how deep it stands in the state. Raises Corrupt for what is not plain, or deeper than a writer makes.
    """
    return value if type(value) in SCALARS else _frozen(value, where, MAX_DEPTH - depth)


def _frozen(value: Any, where: str, room: int) -> Any:
    kind = type(value)
    if kind in SCALARS or kind is FrozenDict or kind is FrozenList:
        return value
    if room <= 0:
        raise Corrupt(where, "is nested deeper than any writer makes it")
    if kind is list:
        if SCALARS.issuperset(map(type, value)):
            return FrozenList(value)
        return FrozenList([_frozen(item, where, room - 1) for item in value])
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            raise Corrupt(where, "has a map key that is not text")
        return FrozenDict({key: _frozen(item, where, room - 1) for key, item in value.items()})
    raise Corrupt(where, f"holds a {kind.__name__}, which is not plain data")

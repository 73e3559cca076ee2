"""Plain data: what a user's state may be made of, and its frozen form.

Plain data is None, bool, 64-bit int, float, text, bytes, list, and dict with text keys, to a bounded depth and size.
`freeze` checks a value and copies it into `FrozenDict` and `FrozenList`, which are real dicts and lists whose mutators
raise. A long list that grows is held as a `Rope`, which shares its items between versions, so that growing it costs the
new items; a `FrozenDict` shows a rope as a `FrozenList` when somebody looks. Nothing here knows about events or bytes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Never, cast

from eventflow.errors import NotPlainData, StateIsReadOnly

MAX_DEPTH = 64  # decoding refuses deeper (strict CBOR profile), and Python's own recursion stays far away
MAX_INT = 2**64 - 1  # CBOR's unsigned range; larger needs a tag, and tags are refused
MIN_INT = -(2**63)  # a 64-bit reader in any language can hold it
MAX_TEXT = 64 << 20  # 64 MiB: one value must fit into memory several times over while it is checked and compressed
ROPE_FROM = 512  # items; below, copying a list costs less than a rope's detour (12 ns an item)
_PATH_SHOWN = 120  # characters of a path in an error


def _refuse(name: str) -> Callable[..., Never]:
    def mutator(*_: object, **__: object) -> Never:
        raise StateIsReadOnly(name)

    mutator.__name__ = name
    return mutator


class FrozenList(list[Any]):
    """A list that can be read by many threads and changed by none; `list(x)` gives one that can be changed."""

    __slots__ = ()
    append, extend, insert = _refuse("append"), _refuse("extend"), _refuse("insert")
    remove, pop, clear = _refuse("remove"), _refuse("pop"), _refuse("clear")
    sort, reverse = _refuse("sort"), _refuse("reverse")
    __setitem__, __delitem__ = _refuse("item assignment"), _refuse("del")
    __iadd__, __imul__ = _refuse("+="), _refuse("*=")

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __copy__(self) -> FrozenList:
        return self

    def __deepcopy__(self, memo: object) -> list[Any]:
        return cast("list[Any]", thaw(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (list, (thaw(self),))


class FrozenDict(dict[str, Any]):
    """A dict that can be read by many threads and changed by none; `dict(x)` gives one that can be changed.

    Made by `freeze`, `ordered` or the codec, its keys stand in the order in which they are stored.
    """

    __slots__ = ()
    pop, popitem, clear = _refuse("pop"), _refuse("popitem"), _refuse("clear")
    update, setdefault = _refuse("update"), _refuse("setdefault")
    __setitem__, __delitem__, __ior__ = _refuse("item assignment"), _refuse("del"), _refuse("|=")

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        return value.items() if type(value) is Rope else value

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default."""
        value = dict.get(self, key, default)
        return value.items() if type(value) is Rope else value

    def items(self) -> Any:
        """Pairs of key and value, as a list if the dict holds a long list."""
        if not _has_rope(self):
            return dict.items(self)
        return [(key, self[key]) for key in dict.keys(self)]

    def values(self) -> Any:
        """The values, as a list if the dict holds a long list."""
        if not _has_rope(self):
            return dict.values(self)
        return [self[key] for key in dict.keys(self)]

    # An own __iter__ keeps C code (dict(x), {**x}) on the path that asks __getitem__, where ropes become lists.
    def __iter__(self) -> Iterator[str]:
        return iter(dict.keys(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict):
            return NotImplemented
        if len(self) != len(other):
            return False
        return all(key in other and _equal(self[key], other[key]) for key in dict.keys(self))

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        return {**self, **other}

    def __repr__(self) -> str:
        return repr(dict(self))

    def copy(self) -> dict[str, Any]:
        """A dict that can be changed, one level deep."""
        return dict(self)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return cast("dict[str, Any]", thaw(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (thaw(self),))


class Rope:
    """The first `length` items of a list that only grows and that several versions share.

    Growing the newest version appends to the shared list; growing an older one (a fork, a rewind) copies first, unless
    it grows by the very items that are there already (the same change worked out twice).
    `pieces` holds what the codec knows of encoded prefixes: (end, digest, size in bytes), valid for every version.
    """

    __slots__ = ("_backing", "_view", "length", "pieces")

    def __init__(self, backing: list[Any], length: int, pieces: list[tuple[int, bytes, int]]) -> None:
        self._backing, self.length, self.pieces = backing, length, pieces
        self._view: FrozenList | None = None

    @classmethod
    def of(cls, items: Iterable[Any]) -> Rope:
        """A rope over items that are frozen already."""
        backing = list(items)
        return cls(backing, len(backing), [])

    def __len__(self) -> int:
        return self.length

    def items(self) -> FrozenList:
        """The items as a frozen list, made when first asked for."""
        if self._view is None:
            self._view = FrozenList(self._backing[: self.length])
        return self._view

    def slice(self, start: int, end: int) -> list[Any]:
        """The items from start to end, which must not pass the length."""
        return self._backing[start : min(end, self.length)]

    def grown(self, items: list[Any]) -> Rope:
        """A longer rope; costs the new items unless another version has grown by other ones already."""
        end = self.length + len(items)
        if len(self._backing) == self.length:
            self._backing.extend(items)
            return Rope(self._backing, end, self.pieces)
        there = self._backing[self.length : end]
        if len(there) == len(items) and all(map(operator.is_, there, items)):
            return Rope(self._backing, end, self.pieces)
        kept = [piece for piece in self.pieces if piece[0] <= self.length]
        backing = self._backing[: self.length] + items
        return Rope(backing, len(backing), kept)


def raw(mapping: dict[str, Any], key: str) -> Any:
    """The value of a key as it is held: a Rope stays a Rope. Raises KeyError."""
    return dict.__getitem__(mapping, key)


def raw_items(mapping: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Pairs of key and value as they are held: a Rope stays a Rope."""
    return dict.items(mapping)


def _equal(one: Any, other: Any) -> bool:
    return one is other or bool(one == other)  # what is identical is equal, NaN too, as in every list and dict


def _has_rope(mapping: dict[str, Any]) -> bool:
    return any(type(value) is Rope for value in dict.values(mapping))


def ordered(values: dict[str, Any]) -> FrozenDict:
    """A frozen dict of frozen values, its keys as canonical CBOR has them: shorter UTF-8 first, then byte by byte.

    So a state looks the same, whether it was lived through or read back (RFC 8949, section 4.2.3).
    """
    if len(values) < 2:
        return FrozenDict(values)
    keys = sorted(values)  # text sorts by code point, which is the order of its UTF-8 bytes
    keys.sort(key=len if "".join(keys).isascii() else _utf8_size)
    if keys == [*values]:
        return FrozenDict(values)
    return FrozenDict({key: raw(values, key) for key in keys})


def reordered(values: dict[str, Any], old: dict[str, Any]) -> FrozenDict:
    """`ordered`, at the cost of a comparison where the keys are still those of an ordered dict."""
    return FrozenDict(values) if list(values) == list(old) else ordered(values)


def _utf8_size(text: str) -> int:
    return len(text.encode())


EMPTY = FrozenDict()
NOTHING = FrozenList()
_FROZEN = frozenset({FrozenDict, FrozenList, Rope})
_FLAT = frozenset({str, int, float, bool, bytes, type(None)})


def grown(value: Any, items: list[Any]) -> FrozenList | Rope:
    """A frozen list or rope with more items at its end; `items` must be frozen already."""
    if type(value) is Rope:
        return value.grown(items)
    if len(value) + len(items) < ROPE_FROM:
        return FrozenList([*value, *items])
    return Rope.of(value).grown(items)


def freeze(value: Any, path: str = "", *, depth: int = 0) -> Any:
    """Check that a value is plain data and return its frozen copy; what is frozen already is returned as it is.

    `path` names the value in errors, `depth` says how deep it will stand in the state. Tuples become lists, keys are
    put in order.
    Raises NotPlainData with the path of the first offending value.
    """
    return _freeze(value, path, depth)


def _freeze(value: Any, path: str, depth: int) -> Any:  # noqa: PLR0911 - one line a kind, the frequent ones first
    kind = type(value)
    if kind is str:
        return _checked_text(value, path)
    if kind is bool or value is None or kind is float:
        return value
    if kind is int:
        return _checked_int(value, path)
    if kind is bytes:
        return _checked_size(value, path)
    if kind in _FROZEN:
        return _checked_depth(value, path, depth)
    if depth >= MAX_DEPTH:
        raise _too_deep(path)
    if isinstance(value, dict):
        return _frozen_dict(value, path, depth)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return FrozenList([_freeze(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)])
    return _frozen_odd(value, path, depth)


def _frozen_dict(value: dict[Any, Any], path: str, depth: int) -> FrozenDict:
    frozen: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            raise NotPlainData(_shown(path), f"has the key {key!r}, which is not text; use text keys")
        _checked_text(key, f"a key of {path or 'the value'}")
        frozen[key] = _freeze(item, f"{path}.{key}" if path else key, depth + 1)
    return ordered(frozen)


# How a subclass's value is read without asking its own methods, which may answer with the subclass again.
_EXACT: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__), (float, float.__float__), (str, str.__str__), (bytes, bytes.__bytes__),
)  # fmt: skip


def _frozen_odd(value: Any, path: str, depth: int) -> Any:
    """Subclasses of plain types lose their class here, and say so by having no other place to go."""
    for kind, exact in _EXACT:
        if isinstance(value, kind) and not hasattr(value, "_value_"):  # an enum's member has one
            return _freeze(exact(value), path, depth)
    if isinstance(value, bytearray | memoryview):
        return _checked_size(bytes(value), path)
    raise NotPlainData(
        _shown(path),
        f"is a {type(value).__module__}.{type(value).__qualname__}, which is not plain data; declare the field's type "
        f"in the workflow's state, or convert it to text, a number, a list or a dict",
    )


def _checked_depth(value: Any, path: str, depth: int) -> Any:
    if not fits(value, MAX_DEPTH - depth):
        raise _too_deep(path)
    return value


def fits(value: Any, room: int) -> bool:
    """Whether a frozen value is at most that many levels high; what is frozen may be put deeper than it stood."""
    if type(value) not in _FROZEN:
        return True
    if room <= 0:
        return False
    items = dict.values(value) if type(value) is FrozenDict else value
    if type(value) is Rope:
        items = value.slice(0, len(value))
    if _FLAT.issuperset(map(type, items)):
        return True
    return all(fits(item, room - 1) for item in items)


def _too_deep(path: str) -> NotPlainData:
    return NotPlainData(_shown(path), f"is nested deeper than {MAX_DEPTH} levels")


def _checked_text(value: str, path: str) -> str:
    if len(value) > MAX_TEXT:
        raise NotPlainData(_shown(path), f"is a text of {len(value):,} characters; the limit is {MAX_TEXT:,}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotPlainData(
                _shown(path), "holds a lone surrogate, which no text file can hold; clean it with eventflow.clean_text"
            ) from None
    return value


def _checked_int(value: int, path: str) -> int:
    if MIN_INT <= value <= MAX_INT:
        return value
    raise NotPlainData(_shown(path), "is an integer of more than 64 bits; keep it as text")


def _checked_size(value: bytes, path: str) -> bytes:
    if len(value) > MAX_TEXT:
        raise NotPlainData(_shown(path), f"is {len(value):,} bytes long; the limit is {MAX_TEXT:,}")
    return value


def _shown(path: str) -> str:
    return path if len(path) <= _PATH_SHOWN else f"{path[:_PATH_SHOWN]}…"


def clean_text(value: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; the same object if there is none."""
    if value.isascii():
        return value
    cleaned = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value if cleaned == value else cleaned


def thaw(value: Any) -> Any:
    """An ordinary copy that can be changed: dicts and lists all the way down."""
    if isinstance(value, dict):
        return {key: thaw(item) for key, item in dict.items(value)}
    if isinstance(value, list):
        return [thaw(item) for item in value]
    if type(value) is Rope:
        return [thaw(item) for item in value.items()]
    return value


def same(old: Any, new: Any) -> bool:
    """Whether two values are the same plain data, type for type: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if old is new:
        return True
    if isinstance(old, dict):
        return isinstance(new, dict) and len(old) == len(new) and all(k in new and same(old[k], new[k]) for k in old)
    if isinstance(old, list | tuple):
        return isinstance(new, list | tuple) and len(old) == len(new) and all(map(same, old, new))
    if type(old) is not type(new):
        return False
    if type(old) is float and type(new) is float:
        both_nan = math.isnan(old) and math.isnan(new)
        return both_nan or (old == new and math.copysign(1.0, old) == math.copysign(1.0, new))
    return bool(old == new)

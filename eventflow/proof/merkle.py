"""The Merkle tree of RFC 9162, section 2.1 (the same as in RFC 6962): its root, and proofs of what is in it.

One pass over the leaves is enough for any number of roots and for one proof, with as many digests in memory as the tree is
deep. The leaves are bytes; what they stand for is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

EMPTY_ROOT = hashlib.sha256(b"").digest()


class Span(NamedTuple):
    """`size` leaves from number `first` (from 0) on, whose subtree is a part of a proof."""

    first: int
    size: int


def leaf_hash(leaf: bytes) -> bytes:
    """The digest of a leaf; the byte before it keeps a leaf from passing for a node."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The digest of a node from those of its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows leaf by leaf and holds only the roots of its full subtrees, the largest first."""

    __slots__ = ("_full", "size")

    def __init__(self) -> None:
        self._full: list[bytes] = []
        self.size = 0

    def add(self, hashed: bytes) -> None:
        """One more leaf, by its `leaf_hash`."""
        number = self.size
        while number & 1:
            hashed = node_hash(self._full.pop(), hashed)
            number >>= 1
        self._full.append(hashed)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        if not self._full:
            return EMPTY_ROOT
        root = self._full[-1]
        for left in self._full[-2::-1]:
            root = node_hash(left, root)
        return root


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over the leaves found: roots by size, roots of subtrees by their span, and how many leaves there were.

    Sizes and spans that go beyond the leaves are not there.
    """

    size: int
    roots: dict[int, bytes] = field(default_factory=dict)
    parts: dict[Span, bytes] = field(default_factory=dict)


def survey(leaves: Iterable[bytes], *, sizes: Iterable[int] = (), spans: Iterable[Span] = ()) -> Survey:
    """Roots of the tree at several sizes, and of subtrees whose spans don't overlap, in one pass."""
    whole, part = Tree(), Tree()
    wanted = set(sizes)
    roots = {0: EMPTY_ROOT} if 0 in wanted else {}
    parts: dict[Span, bytes] = {}
    waiting = sorted(spans, reverse=True)
    for number, leaf in enumerate(leaves):
        hashed = leaf_hash(leaf)
        whole.add(hashed)
        if whole.size in wanted:
            roots[whole.size] = whole.root()
        if waiting and number >= waiting[-1].first:
            part.add(hashed)
            if part.size == waiting[-1].size:
                parts[waiting.pop()] = part.root()
                part = Tree()
    return Survey(whole.size, roots, parts)


# --- proofs --------------------------------------------------------------------------------------------------------


def inclusion_spans(index: int, size: int) -> list[Span]:
    """The subtrees whose roots prove that leaf `index` is in the tree of `size`, from the leaf up (RFC 9162, 2.1.3.1)."""
    found: list[Span] = []
    first = 0
    while size > 1:
        half = _half(size)
        if index < half:
            found.append(Span(first + half, size - half))
            size = half
        else:
            found.append(Span(first, half))
            first, index, size = first + half, index - half, size - half
    return found[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """The subtrees whose roots prove that the tree of `old` begins the tree of `new` (RFC 9162, 2.1.4.1)."""
    found: list[Span] = []
    first, begins = 0, True
    if not old:
        return found
    while old != new:
        half = _half(new)
        if old <= half:
            found.append(Span(first + half, new - half))
            new = half
        else:
            found.append(Span(first, half))
            first, old, new, begins = first + half, old - half, new - half, False
    if not begins:
        found.append(Span(first, old))
    return found[::-1]


def _half(size: int) -> int:
    """The largest power of two below a size of two or more."""
    return 1 << ((size - 1).bit_length() - 1)


def includes(root: bytes, size: int, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path proves that a leaf has number `index` in the tree of that root and size (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    number, last, reached = index, size - 1, leaf_hash(leaf)
    for one in path:
        if not last:
            return False
        if number & 1 or number == last:
            reached = node_hash(one, reached)
            number, last = _past_zeros(number, last)
        else:
            reached = node_hash(reached, one)
        number, last = number >> 1, last >> 1
    return not last and reached == root


def is_consistent(old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]) -> bool:
    """Whether a path proves that the tree of an old size and root begins that of a new one (RFC 9162, 2.1.4.2)."""
    (old_size, old_root), (new_size, new_root) = old, new
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if not old_size:  # the empty tree begins every other
        return not path and old_root == EMPTY_ROOT
    if old_size & (old_size - 1) == 0:
        path = [old_root, *path]
    if not path:
        return False
    number, last = old_size - 1, new_size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    before = after = path[0]
    for one in path[1:]:
        if not last:
            return False
        if number & 1 or number == last:
            before, after = node_hash(one, before), node_hash(one, after)
            number, last = _past_zeros(number, last)
        else:
            after = node_hash(after, one)
        number, last = number >> 1, last >> 1
    return not last and (before, after) == (old_root, new_root)


def _past_zeros(number: int, last: int) -> tuple[int, int]:
    """Both shifted until the first ends in a one, or is zero: levels at which a subtree has no sibling."""
    while number and not number & 1:
        number, last = number >> 1, last >> 1
    return number, last

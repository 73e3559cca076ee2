"""Every proof of every tree up to a size, as the recursion of the book makes it; and proofs with one thing wrong.

The prover here is not ours: RFC 6962, section 2.1, written down once more. Only the verifier is.
"""

from __future__ import annotations

import hashlib
import os
import random
from functools import cache

import pytest

from eventflow.proof.merkle import includes, is_consistent, leaf_hash, node_hash

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
SIZE = 256 if FULL else 64  # leaves of the largest tree
MUTANTS = 20_000 if FULL else 2_000


def leaf(number: int) -> bytes:
    """A leaf like no other."""
    return hashlib.sha256(b"leaf %d" % number).digest()


@cache
def root(first: int, last: int) -> bytes:
    """MTH of the leaves from one to before another."""
    if first == last:
        return hashlib.sha256().digest()
    if last - first == 1:
        return hashlib.sha256(b"\x00" + leaf(first)).digest()
    middle = split(first, last)
    return hashlib.sha256(b"\x01" + root(first, middle) + root(middle, last)).digest()


def split(first: int, last: int) -> int:
    """Where a tree is parted: after the largest power of two below its size."""
    return first + (1 << (last - first - 1).bit_length() - 1)


def audit_path(number: int, first: int, last: int) -> list[bytes]:
    """PATH."""
    if last - first == 1:
        return []
    middle = split(first, last)
    if number < middle:
        return [*audit_path(number, first, middle), root(middle, last)]
    return [*audit_path(number, middle, last), root(first, middle)]


def subproof(old: int, first: int, last: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF: that the leaves before `old` are the first."""
    if old == last:
        return [] if whole else [root(first, last)]
    middle = split(first, last)
    if old <= middle:
        return [*subproof(old, first, middle, whole=whole), root(middle, last)]
    return [*subproof(old, middle, last, whole=False), root(first, middle)]


@pytest.mark.slow
def test_every_right_proof_holds() -> None:
    """Each leaf in each tree, each tree in each later one."""
    for size in range(1, SIZE + 1):
        top = root(0, size)
        for index in range(size):
            assert includes(top, size, index, leaf(index), audit_path(index, 0, size))
        for old in range(1, size + 1):
            assert is_consistent((old, root(0, old)), (size, top), subproof(old, 0, size, whole=True))


def mutated(path: list[bytes], dice: random.Random) -> list[bytes]:
    """A path with a bit turned, a digest dropped, doubled, exchanged with another, or one too many."""
    changed = list(path)
    move = dice.randrange(5)
    if move == 0 and changed:
        at = dice.randrange(len(changed))
        digest = bytearray(changed[at])
        digest[dice.randrange(32)] ^= 1 << dice.randrange(8)
        changed[at] = bytes(digest)
    elif move == 1 and changed:
        del changed[dice.randrange(len(changed))]
    elif move == 2 and changed:
        changed.insert(dice.randrange(len(changed)), dice.choice(changed))
    elif move == 3 and len(changed) > 1:
        one, two = dice.sample(range(len(changed)), 2)
        changed[one], changed[two] = changed[two], changed[one]
    else:
        changed.insert(
            dice.randrange(len(changed) + 1), dice.choice([bytes(32), leaf(0), root(0, 1), dice.randbytes(32), b""])
        )
    return changed


@pytest.mark.slow
def test_no_proof_with_one_thing_wrong_holds() -> None:
    """Its path, its index, its leaf, its sizes or its roots: what is right for something else proves nothing."""
    dice = random.Random(16)  # noqa: S311 - a seed that can be repeated
    for _ in range(MUTANTS):
        size = dice.randint(2, SIZE)
        index, old = dice.randrange(size), dice.randint(1, size - 1)
        top, path, more = root(0, size), audit_path(index, 0, size), subproof(old, 0, size, whole=True)
        spoiled = mutated(path, dice)
        if spoiled != path:
            assert not includes(top, size, index, leaf(index), spoiled)
        other = dice.choice([one for one in range(size) if one != index])
        assert not includes(top, size, other, leaf(index), path)
        assert not includes(top, size, index, leaf(other), path)
        assert not includes(root(0, size - 1), size, index, leaf(index), path)
        spoiled = mutated(more, dice)
        if spoiled != more:
            assert not is_consistent((old, root(0, old)), (size, top), spoiled)
        assert not is_consistent((old, leaf(old)), (size, top), more)
        assert not is_consistent((old, root(0, old)), (size, leaf(old)), more)


def test_a_verifier_that_skips_a_part_is_found() -> None:
    """The control: one that looks at the first half of a path believes what is wrong in the other."""

    def careless(top: bytes, size: int, index: int, one: bytes, path: list[bytes]) -> bool:
        reached, number, last = leaf_hash(one), index, size - 1
        for part in path[: max(1, len(path) // 2)]:
            reached = node_hash(part, reached) if number & 1 or number == last else node_hash(reached, part)
            number, last = number >> 1, last >> 1
        return bool(reached) and bool(top)

    path = audit_path(5, 0, 64)
    forged = [*path[:-1], bytes(32)]
    assert careless(root(0, 64), 64, 5, leaf(5), forged)
    assert not includes(root(0, 64), 64, 5, leaf(5), forged)

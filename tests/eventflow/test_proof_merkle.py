"""The Merkle tree: the public test values, and everything an implementation by the book's recursion gives."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.proof.merkle import (
    EMPTY_ROOT,
    Span,
    Tree,
    consistency_spans,
    includes,
    inclusion_spans,
    is_consistent,
    leaf_hash,
    survey,
)

# The leaves, roots and paths that Certificate Transparency's own implementations are tested with.
LEAVES = [bytes.fromhex(one) for one in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = {(0, 1): [], (0, 8): [A, B, C], (5, 8): [D, E, ROOTS[3]], (2, 3): [ROOTS[1]], (1, 5): [ROOTS[0], B, D]}
CONSISTENCY = {(1, 1): [], (1, 8): [A, B, C], (6, 8): [F, E, ROOTS[3]], (2, 5): [B, D]}


# --- the book's recursion, written from RFC 6962, section 2.1, without a look at the other -------------------------


def split(count):
    """The largest power of two smaller than a count."""
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def mth(leaves):
    """The Merkle tree hash."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def audit_path(m, leaves):
    """PATH(m, D[n])."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), mth(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, complete):
    """SUBPROOF(m, D[n], b)."""
    if m == len(leaves):
        return [] if complete else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], complete), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


# --- ours ----------------------------------------------------------------------------------------------------------


def path(leaves, spans):
    """The roots of subtrees, found in one pass, in the order of a proof."""
    parts = survey(leaves, spans=spans).parts
    return [parts[span] for span in spans]


def numbers(count):
    """So many different leaves."""
    return [str(number).encode() for number in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_the_public_roots_come_out(size):
    """For the empty tree and each of the first eight sizes, all in one pass too."""
    tree = Tree()
    for one in LEAVES[:size]:
        tree.add(leaf_hash(one))
    root = bytes.fromhex(ROOTS[size - 1]) if size else EMPTY_ROOT
    assert (tree.size, tree.root()) == (size, root)
    assert survey(LEAVES, sizes=range(9)).roots[size] == root


@pytest.mark.parametrize(("place", "known"), INCLUSION.items())
def test_the_public_inclusion_proofs_come_out_and_hold(place, known):
    """Made and checked."""
    index, size = place
    proof = path(LEAVES[:size], inclusion_spans(index, size))
    assert [one.hex() for one in proof] == known
    assert includes(bytes.fromhex(ROOTS[size - 1]), size, index, LEAVES[index], proof)


@pytest.mark.parametrize(("sizes", "known"), CONSISTENCY.items())
def test_the_public_consistency_proofs_come_out_and_hold(sizes, known):
    """Made and checked."""
    old, new = sizes
    proof = path(LEAVES[:new], consistency_spans(old, new))
    assert [one.hex() for one in proof] == known
    assert is_consistent((old, bytes.fromhex(ROOTS[old - 1])), (new, bytes.fromhex(ROOTS[new - 1])), proof)


@given(st.data(), st.integers(1, 300))
def test_all_is_as_the_recursion_of_the_book_gives_it(data, size):
    """Roots, inclusion and consistency proofs of trees of any size."""
    leaves = numbers(size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    roots = survey(leaves, sizes=(old, size)).roots
    assert (roots[old], roots[size]) == (mth(leaves[:old]), mth(leaves))
    inclusion = path(leaves, inclusion_spans(index, size))
    assert inclusion == audit_path(index, leaves)
    assert includes(roots[size], size, index, leaves[index], inclusion)
    consistency = path(leaves, consistency_spans(old, size))
    assert consistency == subproof(old, leaves, complete=True)
    assert is_consistent((old, roots[old]), (size, roots[size]), consistency)


@given(st.data(), st.integers(1, 64))
def test_a_proof_of_inclusion_holds_for_nothing_else(data, size):
    """Another leaf, number, size, root, or a path that is longer, shorter or changed."""
    leaves = numbers(size)
    index = data.draw(st.integers(0, size - 1))
    root, proof = mth(leaves), audit_path(index, leaves)
    leaf = leaves[index]
    assert not includes(root, size, index, b"another", proof)
    assert not includes(mth([*leaves, b"x"]), size, index, leaf, proof)
    assert not includes(root, size, index, leaf, [*proof, bytes(32)])
    assert not includes(root, size, size, leaf, proof)
    assert not includes(root, size, -1, leaf, proof)
    for other in range(size):
        assert includes(root, size, other, leaf, proof) == (other == index)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert not includes(root, size, index, leaf, proof[:-1])
        assert not includes(root, size, index, leaf, [*proof[:place], bytes(32), *proof[place + 1 :]])


@given(st.data(), st.integers(2, 64))
def test_a_proof_of_consistency_holds_for_nothing_else(data, size):
    """An older tree with another leaf, of another size, or a path that is longer, shorter or changed."""
    leaves = numbers(size)
    old = data.draw(st.integers(1, size - 1))
    before, after, proof = (old, mth(leaves[:old])), (size, mth(leaves)), subproof(old, leaves, complete=True)
    changed = [*leaves[:old]]
    changed[data.draw(st.integers(0, old - 1))] = b"another"
    assert not is_consistent((old, mth(changed)), after, proof)
    assert not is_consistent(before, (size, mth([*changed, *leaves[old:]])), proof)
    assert not is_consistent(before, after, [*proof, bytes(32)])
    assert not is_consistent(before, after, proof[:-1])
    assert not is_consistent(after, before, proof)
    place = data.draw(st.integers(0, len(proof) - 1))
    assert not is_consistent(before, after, [*proof[:place], bytes(32), *proof[place + 1 :]])


def test_a_tree_begins_itself_and_the_empty_tree_begins_all():
    """With nothing to prove it, and only with the right root."""
    root = mth(numbers(5))
    assert is_consistent((5, root), (5, root), [])
    assert not is_consistent((5, root), (5, mth(numbers(6))), [])
    assert not is_consistent((5, root), (5, root), [bytes(32)])
    assert is_consistent((0, EMPTY_ROOT), (5, root), [])
    assert not is_consistent((0, bytes(32)), (5, root), [])
    assert consistency_spans(0, 5) == consistency_spans(5, 5) == []


def test_a_leaf_can_not_pass_for_a_node():
    """The two children of a root, written as one leaf, give another root."""
    leaves = numbers(2)
    assert mth([leaf_hash(leaves[0]) + leaf_hash(leaves[1])]) != mth(leaves)


@given(st.integers(1, 5_000))
def test_a_tree_holds_no_more_than_its_depth(size):
    """One digest a full subtree."""
    tree = Tree()
    for _ in range(size):
        tree.add(bytes(32))
    assert len(tree._full) == size.bit_count()


def test_what_lies_beyond_the_leaves_is_not_told():
    """Of sizes and spans."""
    found = survey(numbers(5), sizes=(3, 6), spans=[Span(0, 4), Span(4, 4)])
    assert (found.size, set(found.roots), set(found.parts)) == (5, {3}, {(0, 4)})

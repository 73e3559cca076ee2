"""Sealing: what is bound to what, nonces that do not repeat, and the container as its standard has it."""

from __future__ import annotations

import struct

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from eventflow.cipher.cose import Sealer, bound, derived
from eventflow.cipher.locks import BlobLock, DataKey, RunLock
from eventflow.codec import Spot, pack_blob
from eventflow.errors import Corrupt
from eventflow.proof import digest

SECRET, STORE, RUN = b"k" * 32, b"s" * 16, b"r" * 16
SPOT = Spot(1, 7, 2, 4)


def key(secret=SECRET, store=STORE, key_id=b"i" * 10):
    """A data key."""
    return DataKey(key_id, store, "run", "r", RUN, 0, secret)


def lock(one=None, run=RUN):
    """The lock of a run."""
    one = one or key()
    return RunLock(one, run, BlobLock(one))


@given(st.binary(max_size=300), st.integers(0, 2**63 - 1))
def test_what_was_sealed_comes_back(data, version):
    """Events, roots and messages, of any size and at any version."""
    spot = SPOT._replace(version=version)
    assert lock().open_event(spot, lock().seal_event(spot, data), "e") == data
    assert lock().open_root(version, lock().seal_root(version, data), "r") == data
    assert lock().open_message(lock().seal_message(data), "m") == data


OTHERS = {
    "version": (lock(), SPOT._replace(version=8)),
    "a version 2^48 later": (lock(), SPOT._replace(version=7 + 2**48)),
    "incarnation": (lock(), SPOT._replace(incarnation=2)),
    "kind of fact": (lock(), SPOT._replace(code=3)),
    "flags": (lock(), SPOT._replace(flags=5)),
    "run": (lock(run=b"q" * 16), SPOT),
    "store": (lock(key(store=b"t" * 16)), SPOT),
    "key id": (lock(key(key_id=b"j" * 10)), SPOT),
    "key": (lock(key(secret=b"l" * 32)), SPOT),
}


@pytest.mark.parametrize("what", OTHERS)
def test_an_event_opens_at_its_own_place_alone(what):
    """Another version, incarnation, kind, run, store or key refuses it with a typed error."""
    other, spot = OTHERS[what]
    with pytest.raises(Corrupt, match="does not open with its key"):
        other.open_event(spot, lock().seal_event(SPOT, b"a body"), "the event")


def test_one_text_at_two_places_has_two_nonces():
    """Under one nonce two tags over different associated data would tell the key that makes tags."""
    events = [lock().seal_event(SPOT._replace(**{name: 1}), b"a body")[:6] for name in ("incarnation", "code", "flags")]
    roots = [lock().seal_root(version, b"a root") for version in (7, 8)]
    assert len(set(events)) == 3
    assert roots[0][-22:] != roots[1][-22:]


def test_a_flipped_bit_anywhere_is_refused():
    """In the nonce, the text and the tag; and so is every shorter and every longer form."""
    sealed = lock().seal_event(SPOT, b"a body of some bytes")
    for index in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[index // 8] ^= 1 << index % 8
        with pytest.raises(Corrupt):
            lock().open_event(SPOT, bytes(flipped), "e")
    for forged in (*(sealed[:end] for end in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(Corrupt):
            lock().open_event(SPOT, forged, "e")


@pytest.mark.parametrize("what", ["root", "message", "blob"])
def test_a_changed_container_is_refused(what):
    """Each bit of a root, a message and a blob, their heads and key ids included."""
    name = lock().name(digest(b"x" * 50))
    sealed, opened = {
        "root": (lock().seal_root(3, b"the root"), lambda data: lock().open_root(3, data, "r")),
        "message": (lock().seal_message(b"hello"), lambda data: lock().open_message(data, "m")),
        "blob": (lock().seal_blob(name, pack_blob(b"x" * 50))[1:], lambda data: BlobLock(key()).open(name, data)),
    }[what]
    first = 8 if what == "root" else 0  # the first byte of a root's row says how it is stored
    for index in range(first, len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[index // 8] ^= 1 << index % 8
        with pytest.raises(Corrupt):
            opened(bytes(flipped))


def test_the_same_place_sealed_twice_with_other_content_has_another_nonce():
    """A refused append that is sealed again must not use a nonce twice; the same content gives the same bytes."""
    one, same, other = (lock().seal_event(SPOT, body) for body in (b"first", b"first", b"other"))
    assert one == same
    assert one[:6] != other[:6]


def test_no_nonce_repeats_in_a_hundred_thousand_seals_of_one_version():
    """Far more than will ever be tried at one version of one run."""
    sealer = Sealer(SECRET)
    nonces = {sealer.small(number.to_bytes(4, "big"), b"", bytes(6))[:6] for number in range(100_000)}
    assert len(nonces) == 100_000


def test_a_message_sent_twice_is_not_seen_to_be_the_same():
    """Its nonce covers random bytes."""
    assert lock().seal_message(b"hello") != lock().seal_message(b"hello")


def test_a_root_is_a_cose_encrypt0_that_others_can_open():
    """With nothing but the page about the format: the array, its headers, and the structure that the tag covers."""
    row = lock().seal_root(7, b"the root")
    protected, unprotected, text = cbor2.loads(row[1:])
    assert cbor2.loads(protected) == {1: 3}
    assert unprotected[4] == b"i" * 10
    about = STORE + b"i" * 10 + RUN + struct.pack(">BQQHH", 2, 0, 7, 0, 0)
    structure = cbor2.dumps(["Encrypt0", protected, about])
    nonce = (7).to_bytes(6, "big") + unprotected[6]
    seal_key = derived(derived(SECRET, b"run " + RUN), b"seal")
    assert AESGCM(seal_key).decrypt(nonce, text, structure) == b"the root"
    assert bound(about) == structure


def test_the_name_of_a_blob_takes_the_key():
    """The same text under two keys has two names, neither of them its digest."""
    name = digest(b"a text")
    assert len({name, lock().name(name), lock(key(secret=b"l" * 32)).name(name)}) == 3
    assert lock().name(name) == lock(run=b"q" * 16).name(name)


def test_a_blob_does_not_open_under_another_name():
    """Nor does one whose content is not what its name says."""
    blobs, names = BlobLock(key()), [BlobLock(key()).name(digest(text)) for text in (b"one", b"two")]
    row = blobs.seal(names[0], pack_blob(b"one"))[1:]
    with pytest.raises(Corrupt, match="does not open"):
        blobs.open(names[1], row)
    with pytest.raises(Corrupt, match="digest"):
        blobs.open(names[1], blobs.seal(names[1], pack_blob(b"one"))[1:])

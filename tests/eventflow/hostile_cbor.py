"""CBOR that no writer of ours makes, by name; and every place where CBOR is read, into which each piece of it is put.

`FORMS` are refused wherever they stand. `LONG_FORMS` say something plain in another way than canonical bytes do: who reads
strictly refuses them, who compares a digest first may take them, and gets plain data.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eventflow.backup import read_backup
from eventflow.backup.layout import Point, whole_word
from eventflow.cipher.keyring import DataKey, Wrapped, read_wrapped
from eventflow.codec import (
    Place,
    Stored,
    decode,
    encode,
    pack,
    pack_blob,
    pack_state,
    read_events,
    seal,
    unpack_blob,
    unpack_state,
)
from eventflow.event import Recorded, RunStarted, SignalReceived
from eventflow.exchange import export_from
from eventflow.plain import freeze
from eventflow.proof import digest
from eventflow.run import facts, message
from eventflow.state import evolve


def tagged(number: int, inner: bytes) -> bytes:
    """A tag (RFC 8949, 3.4) around an item."""
    return head(6, number) + inner


def head(major: int, value: int) -> bytes:
    """The head of an item in its shortest form."""
    if value < 24:
        return bytes([major << 5 | value])
    size = 1 if value < 2**8 else 2 if value < 2**16 else 4 if value < 2**32 else 8
    return bytes([major << 5 | 24 + size.bit_length() - 1]) + value.to_bytes(size, "big")


def _shared() -> bytes:
    """Eight lists of ten references to the one before: 3.6 GB of JSON in 278 bytes."""
    levels = [tagged(28, head(4, 10) + b"\x61x" * 10)]
    levels += [tagged(28, head(4, 10) + tagged(29, head(0, number)) * 10) for number in range(7)]
    return head(4, 8) + b"".join(levels)


_COLLIDING = head(5, 20_000) + b"".join(
    tagged(2, head(2, 12) + ((2**61 - 1) * (n + 1)).to_bytes(12, "big")) + b"\x00" for n in range(20_000)
)
TAGS: dict[str, bytes] = {
    "tag 0: a date as text": tagged(0, b"\x742013-03-21T20:04:00Z"),
    "tag 1: a time": tagged(1, b"\x1a\x51\x4b\x67\xb0"),
    "tag 1: a time of not a number": tagged(1, b"\xf9\x7e\x00"),
    "tag 2: a bignum": tagged(2, b"\x49\x01" + bytes(8)),
    "tag 2: a bignum of a megabyte": tagged(2, head(2, 1 << 20) + b"\xff" * (1 << 20)),
    "tag 3: a negative bignum": tagged(3, b"\x49\x01" + bytes(8)),
    "tag 4: ten to the thousand millionth": tagged(4, b"\x82\x1a\x3b\x9a\xca\x00\x01"),
    "tag 5: a bigfloat without end": tagged(5, b"\x82\x1b\x7f" + b"\xff" * 7 + b"\x01"),
    "tag 21: to be shown as base64url": tagged(21, b"\x41a"),
    "tag 24: CBOR in CBOR": tagged(24, b"\x41\x00"),
    "tag 25: a reference to a text": tagged(256, b"\x82\x63abc" + tagged(25, b"\x00")),
    "tag 28: a list that holds itself": tagged(28, b"\x81" + tagged(29, b"\x00")),
    "tag 28: lists of lists, shared": _shared(),
    "tag 29: a reference to nothing": tagged(29, b"\x18\x63"),
    "tag 30: a fraction by zero": tagged(30, b"\x82\x01\x00"),
    "tag 32: an address": tagged(32, b"\x68file:///"),
    "tag 35: a regular expression that hangs": tagged(35, b"\x66(a+)+$"),
    "tag 36: a mail": tagged(36, b"\x6aFrom: a\n\nb"),
    "tag 37: a UUID": tagged(37, b"\x50" + bytes(16)),
    "tag 52: an IPv4 address": tagged(52, b"\x44" + bytes(4)),
    "tag 54: an IPv6 address": tagged(54, b"\x50" + bytes(16)),
    "tag 100: a day": tagged(100, b"\x1a\x7f\xff\xff\xff"),
    "tag 258: a set": tagged(258, b"\x82\x01\x01"),
    "tag 260: an address of a network": tagged(260, b"\x44" + bytes(4)),
    "tag 261: a network": tagged(261, b"\xa1\x44" + bytes(4) + b"\x18\x20"),
    "tag 1004: a date": tagged(1004, b"\x6a2013-03-21"),
    "tag 43000: a complex number": tagged(43_000, b"\x82\x01\x02"),
    "tag 55799: CBOR that says so": tagged(55_799, b"\x00"),
    "tag 1234: one that nobody knows": tagged(1_234, b"\x00"),
    "tag 2^64-1": tagged(2**64 - 1, b"\x00"),
    "tags in tags": b"\xc1" * 100_000 + b"\x00",
    "keys that collide": _COLLIDING,
}
LENGTHS: dict[str, bytes] = {
    "a list without a length": b"\x9f\x01\xff",
    "a map without a length": b"\xbf\x61a\x01\xff",
    "bytes without a length": b"\x5f\x41a\xff",
    "a text without a length": b"\x7f\x61a\xff",
    "a list without an end": b"\x9f" * 50_000,
    "a list of 2^31": b"\x9a\x80\x00\x00\x00",
    "a list of 2^63": b"\x9b\x80" + bytes(7),
    "a list of a hundred million, cut": b"\x9a\x05\xf5\xe1\x00" + b"\xf6" * 1_000,
    "a map of 2^64-1": b"\xbb" + b"\xff" * 8,
    "bytes of 2^31-1": b"\x5a\x7f\xff\xff\xff",
    "bytes of 2^63-1": b"\x5b\x7f" + b"\xff" * 7,
    "a text of 2^63": b"\x7b\x80" + bytes(7),
    "a million lists in lists": b"\x81" * 1_000_000 + b"\x00",
    "129 lists in lists": b"\x81" * 129 + b"\x00",
    "a hundred thousand maps in maps": b"\xa1\x61a" * 100_000 + b"\x00",
    "nothing": b"",
    "half a number": b"\x1b\x00\x00",
    "half a float": b"\xfb\x00",
}
VALUES: dict[str, bytes] = {
    "undefined": b"\xf7",
    "simple value 0": b"\xe0",
    "simple value 32": b"\xf8\x20",
    "simple value 255": b"\xf8\xff",
    "true in two bytes": b"\xf8\x15",
    "reserved: 28": b"\x1c",
    "reserved: 30 of bytes": b"\x5e",
    "reserved: 29 of a list": b"\x9d",
    "reserved: 28 of a float": b"\xfc",
    "a break": b"\xff",
    "a break in a list": b"\x82\x01\xff",
    "a break for a key": b"\xa1\xff\x01",
    "a key twice": b"\xa2\x61a\x01\x61a\x02",
    "a number for a key": b"\xa1\x01\x02",
    "null for a key": b"\xa1\xf6\x02",
    "not a number for a key": b"\xa1\xf9\x7e\x00\x01",
    "a list for a key": b"\xa1\x81\x01\x01",
    "a map for a key": b"\xa1\xa0\x01",
    "bytes for a key": b"\xa1\x41a\x01",
    "a text that is no UTF-8": b"\x62\xc3\x28",
    "a text with a lone surrogate": b"\x63\xed\xa0\x80",
    "a text with two surrogates": b"\x66\xed\xa0\xbd\xed\xb8\x80",
    "a text in overlong UTF-8": b"\x62\xc0\x80",
    "a text above Unicode": b"\x64\xf4\x90\x80\x80",
    "a key with a lone surrogate": b"\xa1\x63\xed\xbf\xbf\x01",
}
FORMS: dict[str, bytes] = {**TAGS, **LENGTHS, **VALUES}
LONG_FORMS: dict[str, bytes] = {
    "zero in two bytes": b"\x18\x00",
    "one in nine bytes": b"\x1b" + bytes(7) + b"\x01",
    "a list whose length takes two bytes": b"\x98\x01\x01",
    "a text whose length takes three bytes": b"\x79\x00\x01a",
    "keys out of order": b"\xa2\x61b\x01\x61a\x02",
    "a long key before a short one": b"\xa2\x62aa\x01\x61b\x02",
    "a float that fits two bytes in eight": b"\xfb" + struct.pack(">d", 1.5),
    "not a number with a payload": b"\xfb" + struct.pack(">Q", 0x7FF8_0000_0000_0001),
    "not a number that signals": b"\xfb" + struct.pack(">Q", 0x7FF0_0000_0000_0001),
    "not a number below zero": b"\xf9\xfe\x00",
    "infinity in eight bytes": b"\xfb" + struct.pack(">Q", 0x7FF0 << 48),
}
TRAILING = {"something after the end": b"\x00\x00", "a break after the end": b"\x00\xff"}
BELOW = {"minus 2^64": b"\x3b" + b"\xff" * 8, "minus 2^63 - 1": b"\x3b\x80" + bytes(7)}  # of 65 bits: see plain.MIN_INT

# --- where it is read ----------------------------------------------------------------------------------------------

HERE = b"a place for something else"  # what is exchanged for something hostile in the bytes of something sound
_HERE = encode(HERE)
KEY = b"k" * 16
PLACE = Place(KEY, 1, 1, 1, 1_767_225_600_000_000_000, b"b" * 32)
Read = Callable[[bytes], Any]


def _put(whole: bytes, item: bytes) -> bytes:
    assert whole.count(_HERE) == 1
    return whole.replace(_HERE, item)


def _nothing(names: Any) -> dict[bytes, bytes]:
    return dict.fromkeys(names, b"")


def _started() -> Any:
    event = RunStarted("r", b"s" * 16, "flow", b"d" * 32, freeze({}), "a", freeze({"x": HERE}), b"i" * 32)
    return evolve(None, Recorded(event, KEY, 1, 1, 1, 1, 1, b"d" * 32, b"b" * 32))


STATE = _started()
SNAPSHOT = pack_state(STATE, compress=False).root
EVENT = seal(pack(SignalReceived("go", None, 1)), PLACE)
MESSAGE = message("signal", name="go", payload=HERE)
WRAPPED = Wrapped(DataKey(b"i" * 26, b"s" * 16, "subject", "n", b"", 1, b""), "m", b"w" * 60).packed()
BACKUP = whole_word(b"s" * 16, "here", Point(1, 1, b"d" * 32, 1, 4096, b"i" * 32), keys=False)
EXPORT_HEAD = encode({"eventflow": "eventflow export", "format": 1, "store": b"s" * 16, "whole": True, "run": ""})


def event_with(item: bytes) -> bytes:
    """A stored event whose body holds an item as the payload of a signal."""
    array = decode(EVENT, "a test")
    array[1], array[9] = 0, b"\x81" + item
    return encode(array)


def _export(events: bytes, count: int) -> bytes:
    whole = EXPORT_HEAD + events
    import hashlib  # noqa: PLC0415 - nothing else here hashes

    return whole + encode({"blobs": 0, "events": count, "sha256": hashlib.sha256(whole).digest()})


def read_event(data: bytes) -> Any:
    """An event, as a verification reads it."""
    return read_events([Stored(1, data)], _nothing, strict=True)


def read_snapshot(data: bytes) -> Any:
    """A snapshot's root."""
    return unpack_state(data, _nothing, "a snapshot")


def _in_header(item: bytes) -> bytes:
    array = decode(EVENT, "a test")
    array[8] = {**array[8], "name": HERE}
    return _put(encode(array), item)


def _in_backup(item: bytes) -> Any:
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        (Path(place) / "BACKUP").write_bytes(item)
        return read_backup(Path(place))


def _in_increment(item: bytes) -> Any:
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        (Path(place) / "BACKUP").write_bytes(BACKUP)
        (Path(place) / "increments").mkdir()
        (Path(place) / "increments" / "000002.efinc").write_bytes(struct.pack(">I", len(item)) + item)
        return read_backup(Path(place))


def read_blob_value(data: bytes) -> Any:
    """A value that an event refers to, as CBOR in a blob."""
    array = decode(EVENT, "a test")
    name = digest(data)
    array[1], array[9] = 2, encode([[None], [[[0], name, 2]]])
    shelf = {name: unpack_blob(pack_blob(data), name)}
    return read_events([Stored(1, encode(array))], lambda names: {one: shelf[one] for one in names}, strict=True)


# Every place where bytes of others are decoded: what puts an item there and reads it. The second says whether the place is
# read strictly; where it is not, the bytes' digest was compared before.
PLACES: dict[str, tuple[Read, bool]] = {
    "an event": (read_event, True),
    "an event's header": (lambda item: read_event(_in_header(item)), True),
    "an event's body": (lambda item: read_event(event_with(item)), True),
    "a value an event refers to": (read_blob_value, False),
    "a snapshot": (lambda item: read_snapshot(b"\x00" + item), False),
    "a value in a snapshot": (lambda item: read_snapshot(_put(SNAPSHOT, item)), False),
    "a message": (lambda item: facts(STATE, 1, item, driven=False), True),
    "a message's payload": (lambda item: facts(STATE, 1, _put(MESSAGE, item), driven=False), True),
    "an export": (export_from, True),
    "an export's item": (lambda item: export_from(_export(item, 1)), True),
    "an export's event": (lambda item: export_from(_export(event_with(item), 1)), True),
    "the file of a key": (lambda item: read_wrapped(item, "keys/x.key"), True),
    "a field of a key's file": (lambda item: read_wrapped(WRAPPED.replace(encode("n"), item), "keys/x.key"), True),
    "what a backup says": (_in_backup, True),
    "what an increment says": (_in_increment, True),
}


def mutants(count: int, dice: Any) -> Iterator[tuple[str, bytes]]:
    """Sound bytes spoiled, and where they are to be read."""
    whole = {
        "an event": EVENT, "an event's body": encode({"a": [1, "x", 0.5, None, b"y"]}), "a value in a snapshot": encode([1, {"a": "x"}]),
        "a snapshot": SNAPSHOT[1:], "a message": MESSAGE, "the file of a key": WRAPPED, "what a backup says": BACKUP,
        "an export": _export(event_with(b"\x01"), 1), "an export's event": encode({"a": 1}), "a value an event refers to": encode(["x", 5]),
    }  # fmt: skip
    names = [
        name for name in whole if name != "what a backup says"
    ]  # which takes a file, and is read by one of the others
    for number in range(count):
        name = "what a backup says" if number % 50 == 0 else dice.choice(names)
        yield name, spoiled(whole[name], dice)


_SPICE = [
    b"\xc1",
    b"\xd8\x1c",
    b"\x9f",
    b"\xff",
    b"\x1b",
    b"\xbb",
    b"\xf7",
    b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x81" * 200,
]


def spoiled(data: bytes, dice: Any) -> bytes:
    """Bytes with a few changed, dropped, doubled, cut, or something hostile put between them."""
    array = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, move = dice.randrange(len(array) + 1), dice.randrange(6)
        if move == 0 and array:
            array[min(at, len(array) - 1)] ^= 1 << dice.randrange(8)
        elif move == 1:
            del array[at : at + dice.randint(1, 9)]
        elif move == 2:
            array[at:at] = dice.randbytes(dice.randint(1, 9))
        elif move == 3:
            array[at:at] = array[at : at + 20]
        elif move == 4:
            array[at : at + 1] = dice.choice(_SPICE)
        else:
            del array[at:]
    return bytes(array)

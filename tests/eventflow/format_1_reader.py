"""`python format_1_reader.py STORE DICTIONARY`: every state of a store as CBOR, read by docs/format.md; nothing of eventflow is here."""

import base64
import hashlib
import struct
import sys
from functools import reduce
from operator import getitem
from pathlib import Path

import cbor2
import lmdb
import zstandard

store, words = map(Path, sys.argv[1:])
small = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(words.read_bytes()))
env = lmdb.open(str(store / (store / "CURRENT").read_text().strip()), readonly=True, max_dbs=20)
log, runs, names, info, blobs, places = (
    env.open_db(name, create=False) for name in (b"log", b"runs", b"names", b"info", b"blobs", b"places")
)
txn = env.begin()
CHANGE = {2: 0, 3: 0, 6: 2, 15: 0}  # where a body says what changes, by type


def _sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def _value_of(digest, kind):
    stored = txn.get(txn.get(digest, db=places), db=blobs)
    data = {0: bytes, 1: zstandard.decompress, 2: base64.b64encode}[stored[0]](stored[1:])
    assert _sha(data) == digest
    return {0: bytes.decode, 1: bytes, 2: cbor2.loads}[kind](data)


def _event(key, version):
    data = txn.get(txn.get(key + struct.pack(">Q", version), db=runs), db=log)
    array = cbor2.loads(data)
    assert (array[0], array[1] & ~3, array[2], array[4]) == (1, 0, key, version)
    body = cbor2.loads(small.decompress(array[9]) if array[1] & 1 else array[9])
    body, refs = body if array[1] & 2 else (body, [])
    for (*path, last), digest, kind in refs:
        reduce(getitem, path, body)[last] = _value_of(digest, kind)
    return array, body, _sha(data)


found, states = [], {}  # (run key, version) -> the user's data
heads = [(name, *struct.unpack(">16sIQ32s", row[:60])) for name, row in txn.cursor(db=names)]
for name, key, incarnation, version, digest in sorted(heads, key=lambda head: head[1]):  # parents before forks
    parent, start = cbor2.loads(entry)[6:8] if (entry := txn.get(key, db=info)) else (key, 0)
    states |= {(key, number): states[parent, number] for number in range(1, start + 1)}
    found += [[name.decode(), number, states[key, number]] for number in range(1, start + 1)]
    before = _event(parent, start)[2] if start else None
    for number in range(start + 1, version + 1):
        array, body, own = _event(key, number)
        if number == 1:
            fields = array[8]["store_id"], struct.pack(">Q", incarnation), array[8].get("definition_digest", bytes(32))
            before = _sha(b"eventflow/1 genesis\0", *fields, name)
        assert array[10] == before
        data = body[1] if array[7] == 1 else states.get((key, array[8]["to"] if array[7] == 14 else number - 1))
        data = cbor2.loads(cbor2.dumps(data))
        for op, (*path, last), value in (body[CHANGE.get(array[7], 99) :] or [[]])[0]:
            held = reduce(getitem, path, data)
            if op == 1:
                held.pop(last, None)
            else:
                held[last] = value if op == 0 else {**held[last], **value} if op == 3 else held[last] + value
        states[key, number], before = data, own
        found.append([name.decode(), number, data])
    assert digest == before or not version
sys.stdout.buffer.write(cbor2.dumps(found))

"""Events and states as bytes. One folder, the only one that imports cbor2; see docs/format.md for the layout."""

from eventflow.codec.blobs import Blob, Fetch, Shared, pack_blob, unpack_blob, unshared
from eventflow.codec.cbor import decode, encode
from eventflow.codec.events import (
    FORKED,
    FORMAT,
    REWOUND,
    TOMBSTONE,
    Packed,
    Place,
    Stored,
    blob_names,
    pack,
    read_events,
    seal,
)
from eventflow.codec.snapshots import PackedState, pack_state, piece_names, root_digest, state_digest, unpack_state

__all__ = [
    "FORKED",
    "FORMAT",
    "REWOUND",
    "TOMBSTONE",
    "Blob",
    "Fetch",
    "Packed",
    "PackedState",
    "Place",
    "Shared",
    "Stored",
    "blob_names",
    "decode",
    "encode",
    "pack",
    "pack_blob",
    "pack_state",
    "piece_names",
    "read_events",
    "root_digest",
    "seal",
    "state_digest",
    "unpack_blob",
    "unpack_state",
    "unshared",
]

"""Histories that leave their store as a file that proves itself, and are read where there is none.

`write_sequence` writes one, `read_export` reads one from anybody: every byte is checked before anything of it is shown.
"""

from eventflow.exchange.beside import Origin, Told
from eventflow.exchange.reading import MAX_EXPORT, ExportLog, export_from, read_export, verified
from eventflow.exchange.sequence import items
from eventflow.exchange.writing import (
    Sealing,
    Stretch,
    key_id_in,
    key_of,
    origin_of,
    sealed_blobs,
    stored_events,
    stretches,
    write_items,
    write_sequence,
)

__all__ = [
    "MAX_EXPORT",
    "ExportLog",
    "Origin",
    "Sealing",
    "Stretch",
    "Told",
    "export_from",
    "items",
    "key_id_in",
    "key_of",
    "origin_of",
    "read_export",
    "sealed_blobs",
    "stored_events",
    "stretches",
    "verified",
    "write_items",
    "write_sequence",
]

"""Histories that leave their store as a file that proves itself, and are read where there is none.

`write_sequence` writes one, `read_export` reads one from anybody: every byte is checked before anything of it is shown.
"""

from eventflow.exchange.reading import MAX_EXPORT, ExportLog, export_from, read_export, verified
from eventflow.exchange.sequence import items
from eventflow.exchange.writing import Stretch, stored_events, stretches, write_items, write_sequence

__all__ = [
    "MAX_EXPORT",
    "ExportLog",
    "Stretch",
    "export_from",
    "items",
    "read_export",
    "stored_events",
    "stretches",
    "verified",
    "write_items",
    "write_sequence",
]

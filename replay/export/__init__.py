"""Histories that leave their store, and are read where there is none: as CBOR that proves itself, or as JSON lines."""

from eventflow.exchange import ExportLog, read_export, write_sequence
from replay.export.files import read_file, read_history
from replay.export.redaction import Redaction
from replay.export.tracing import write_spans
from replay.export.writing import write_lines

__all__ = [
    "ExportLog",
    "Redaction",
    "read_export",
    "read_file",
    "read_history",
    "write_lines",
    "write_sequence",
    "write_spans",
]

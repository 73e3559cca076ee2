"""Files and directories made durable: what was written, and that it is there at all, outlives a power cut.

What the files hold is not this file's business, and neither is in which order they become durable.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable: that of a new file is not, however often the file itself is synced."""
    _synced(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def sync_file(path: Path) -> None:
    """Make a file's content durable; a link is not followed."""
    _synced(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))


def _synced(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

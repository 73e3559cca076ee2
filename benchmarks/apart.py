"""Measurements in processes of their own: what memory holds, and what several processes do to one another.

A fresh process has nothing that was freed before and is used anew, so its memory is that of the thing measured.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MB = 1 << 20


def alone(work: Callable[..., T], *arguments: Any) -> T:
    """What a function of a module returns when a fresh process calls it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(work, *arguments).result()


def status(field: str) -> int:
    """Bytes that this process's status gives for a field (`RssAnon`, `VmHWM`), 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), 0)


def written() -> int:
    """Bytes that this process has had written to disks so far, 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), 0)

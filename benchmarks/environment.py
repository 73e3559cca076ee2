"""What a measurement depends on besides the code: interpreter, libraries, kernel, processors, file system."""

from __future__ import annotations

import gc
import os
import platform
import sysconfig
from importlib.metadata import version
from pathlib import Path

import lmdb


def environment(place: Path) -> dict[str, str]:
    """What to write beside figures that were measured with stores at `place`."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}, {_build()}",
        "lmdb": f"{version('lmdb')} (library {'.'.join(map(str, lmdb.version()))})",
        "cbor2": version("cbor2"),
        "zstandard": version("zstandard"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "garbage collector": f"thresholds {', '.join(map(str, gc.get_threshold()))}",
        "file system": file_system(place),
    }


def _build() -> str:
    """Whether the interpreter was built with profile-guided optimization, which is worth a fifth of its speed."""
    flags = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return "optimized build" if "--enable-optimizations" in flags else "build without --enable-optimizations"


def file_system(place: Path) -> str:
    """The type of the file system a path lies on, where the system tells."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    real = str(place.resolve())
    under = [(len(point), kind) for _, point, kind, *_ in mounts if f"{real}/".startswith(f"{point.rstrip('/')}/")]
    return max(under, default=(0, "unknown"))[1]

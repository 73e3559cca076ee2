"""`python -m eventflow.untrusted`: reads jobs from stdin, a line of JSON each, and does each in a process of its own.

The process that reads the jobs opens nothing, so it outlives whatever a store does to the one that does. Its answers are
lines of JSON too. For `eventflow.untrusted` alone.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventflow.untrusted.examining import examine

_LOOK = 0.002  # seconds between looks at whether a job is done
_KIB = 1 if sys.platform == "darwin" else 1024  # bytes in the unit in which a system tells the memory a process took


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job's process ended: what ended it (empty if it ended in order), and what it took."""

    problem: str
    seconds: float
    peak: int


def serve() -> None:
    """Answer each job with one last line, which tells how its process ended; before it come progress and what it found."""
    gc.freeze()  # what is here already would be looked through, and so copied, in each process
    for line in sys.stdin.buffer:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            _perform(job)
        ended = wait(pid, job["seconds"])
        _say({"ended": ended.problem, "seconds": ended.seconds, "peak": ended.peak})


def _perform(job: dict[str, Any]) -> None:
    """Do a job, say what came of it, and end this process without a word more."""
    code = 1
    try:
        _say(examine(Path(job["store"]), job["job"], job["goal"], _say))
        code = 0
    finally:
        os._exit(code)


def wait(pid: int, seconds: float) -> Ended:
    """Wait for the end of a job's process, and end it when its time is over."""
    waited, late = 0.0, False
    while True:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            return Ended(_told(status, seconds if late else 0), used.ru_utime + used.ru_stime, _peak(used))
        if waited > seconds and not late:
            os.kill(pid, signal.SIGKILL)
            late = True
        time.sleep(_LOOK)
        waited += _LOOK


def _told(status: int, late: float) -> str:
    if late:
        return f"took longer than {late:g} s"
    if os.WIFSIGNALED(status):
        return f"ended the process that read it ({signal.Signals(os.WTERMSIG(status)).name})"
    return "" if os.WEXITSTATUS(status) == 0 else "ended the process that read it with an error"


def _peak(used: resource.struct_rusage) -> int:
    return used.ru_maxrss * _KIB


def _say(word: dict[str, Any]) -> None:
    os.write(1, json.dumps(word).encode() + b"\n")


if __name__ == "__main__":
    serve()

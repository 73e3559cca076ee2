"""`python -m eventflow.untrusted`: reads jobs from stdin, a line of JSON each, and does each in a process of its own.

The process that reads the jobs opens nothing, so it outlives whatever a store does to the one that does. Its answers are
lines of JSON too. For `eventflow.untrusted` alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from eventflow.untrusted.examining import examine

_LOOK = 0.002  # seconds between looks at whether a job is done


def serve() -> None:
    """Answer each job with one last line; what is said before it is progress."""
    for line in sys.stdin.buffer:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            _perform(job)
        ended = _wait(pid, job["seconds"])
        if ended is not None:
            _say({"crashed": ended})


def _perform(job: dict[str, Any]) -> None:
    """Do a job, say what came of it, and end this process without a word more."""
    code = 1
    try:
        _say(examine(Path(job["store"]), job["job"], job["goal"], _say))
        code = 0
    finally:
        os._exit(code)


def _wait(pid: int, seconds: float) -> str | None:
    """Wait for a job's end; what ended it, None if it ended in order."""
    waited = 0.0
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        if waited > seconds:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"took longer than {seconds:g} s"
        time.sleep(_LOOK)
        waited += _LOOK
    if os.WIFSIGNALED(status):
        return f"ended the process that read it ({signal.Signals(os.WTERMSIG(status)).name})"
    return None if os.WEXITSTATUS(status) == 0 else "ended the process that read it with an error"


def _say(word: dict[str, Any]) -> None:
    os.write(1, json.dumps(word).encode() + b"\n")


if __name__ == "__main__":
    serve()

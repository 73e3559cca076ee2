"""Stores from anybody: looked at without following a link, examined in a child process on a copy at rest.

A file that was made to hurt ends that child, takes its memory or its time, and nothing else. A store that is not one's own
is never opened for writing: what it holds can be exported by the child, and then be taken into a store of one's own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eventflow.errors import Corrupt, EventflowError, NotFound, ProofFailed, StoreFull, StoreUnusable
from eventflow.untrusted.examining import seconds_for
from eventflow.untrusted.shape import copy_store, other_owner
from eventflow.verification import Finding, Report
from eventflow.verification.report import said

WALL = 3  # seconds of waiting for each second of processor time: another process may want the processor too
MAX_LINE = 64 << 20  # bytes of an answer: some 100,000 findings
Progress = Callable[[int, int], None]  # runs and events read


@dataclass(frozen=True, slots=True)
class Took:
    """What an examination took: seconds of processor time, and bytes of memory at its most."""

    seconds: float
    peak: int


class Examiner:
    """A block with a child process that examines stores, each in a process of its own. Nothing of a store is opened here.

    `took` is what the last examination took.
    """

    took = Took(0.0, 0)

    def __enter__(self) -> Self:
        own = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH", "")]))
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "eventflow.untrusted"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path}, process_group=0,  # Ctrl-C is for this process, which ends those
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)  # the process that does the job too
        with suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child.wait()

    def verify(self, path: str | os.PathLike[str], *, own: bool = False, progress: Progress | None = None) -> Report:
        """Verify a store from anybody on a private copy; never raises for damage.

        With `own`, and if all of it is one's own, it is read where it lies, with the keys there are, while it may be in use;
        then one that can't be opened raises, as opening it does.
        """
        root = Path(path).absolute()
        if not own or other_owner(root):
            return self._on_copy(root, "verify", "", progress)
        return self._ask(root, "own", "", sum(one.stat().st_size for one in root.glob("data.*/data.mdb")), progress)

    def export(self, path: str | os.PathLike[str], goal: Path, *, progress: Progress | None = None) -> Report:
        """Verify a store on a private copy, and write all of it as an export to a new file if everything holds."""
        return self._on_copy(Path(path), "export", str(goal), progress)

    def _on_copy(self, root: Path, job: str, goal: str, progress: Progress | None) -> Report:
        try:
            with tempfile.TemporaryDirectory(prefix="eventflow-") as place:
                Path(place).chmod(0o700)  # whatever the umask is
                copy = Path(place) / "store"
                file = copy_store(root, copy)
                return _renamed(self._ask(copy, job, goal, file.stat().st_size, progress), copy, root)
        except Corrupt as error:
            return _report_of(error)
        except OSError as error:
            raise StoreFull(
                f"no copy of {root} could be made ({error.strerror}); make room in {tempfile.gettempdir()}"
            ) from error

    def _ask(self, root: Path, job: str, goal: str, size: int, progress: Progress | None) -> Report:
        word = {"store": str(root), "job": job, "goal": goal, "seconds": seconds_for(size) * WALL}
        try:
            assert self._child.stdin is not None  # noqa: S101 - opened as a pipe
            self._child.stdin.write(json.dumps(word).encode() + b"\n")
            self._child.stdin.flush()
            last: dict[str, Any] = {}
            while "ended" not in (answer := self._answer()):
                if "runs" not in answer:
                    last = answer
                elif progress is not None:
                    progress(answer["runs"], answer["events"])
            self.took = Took(answer["seconds"], answer["peak"])
            if answer["ended"]:
                return Report(findings=[Finding("the store", 0, f"{answer['ended']}; nothing of it was believed")])
            if "refused" in last:
                raise _refusal(last["refused"], last["code"])
            return _report(last["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreUnusable(f"the process that examines stores is gone ({error}); try again") from error

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None  # noqa: S101 - opened as a pipe
        line = self._child.stdout.readline(MAX_LINE)
        found: dict[str, Any] = json.loads(line)
        return found


def verify_untrusted(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Report:
    """What a verification finds in a store from anybody; made to hurt, it ends a child process and not this one.

    Nothing at the path is changed, opened by LMDB, or followed if it is a link: a private copy is read, in a process with
    bounds on memory and time. Raises StoreNotFound where there is no store, StoreFull where there is no room for the copy.
    """
    with Examiner() as examiner:
        return examiner.verify(path, progress=progress)


def export_untrusted(path: str | os.PathLike[str], goal: Path, *, progress: Progress | None = None) -> None:
    """Write all of a store from anybody as an export, if everything in it holds. Raises ProofFailed."""
    with Examiner() as examiner:
        report = examiner.export(path, goal, progress=progress)
    if report.findings:
        goal.unlink(missing_ok=True)
        raise ProofFailed(f"the store {path}", f"does not hold: {report.findings[0]}")


def _refusal(text: str, code: int) -> EventflowError:
    return NotFound(text) if code == NotFound.exit_code else StoreUnusable(text)


def _report(word: dict[str, Any]) -> Report:
    findings = [Finding(str(one["run"]), int(one["version"]), str(one["problem"])) for one in word["findings"]]
    numbers = {name: int(value) for name, value in word.items() if name != "findings"}
    return Report(**numbers, findings=findings)


def _renamed(report: Report, copy: Path, root: Path) -> Report:
    """What was found in a copy, told of what it is a copy of."""
    report.findings = [replace(one, problem=one.problem.replace(str(copy), str(root))) for one in report.findings]
    return report


def _report_of(error: EventflowError) -> Report:
    return Report(findings=[Finding("the store", 0, said(error))])

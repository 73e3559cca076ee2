"""Bodies that run elsewhere: in another process, or wherever an executor of the user's takes them.

What goes there is the function and the state as plain data or its declared type; what comes back is recorded here, like any
other result. No fact is written from there, so a body of this kind gets no run. Nothing here knows about runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import TYPE_CHECKING, Any

from eventflow.errors import DefinitionError, ExecutorLost
from eventflow.plain import FrozenDict, FrozenList, Rope, thaw

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

PROCESS = "process"  # the name of the pool of processes that every engine can have
THREAD = "thread"  # the name of where bodies run anyway


class Executors:
    """The executors of one engine by name; its own pool of processes is made when it is first asked for."""

    def __init__(self, named: Mapping[str, Executor] | None = None, *, processes: int | None = None) -> None:
        self._named = dict(named or {})
        for name in self._named:
            if not name or name in (PROCESS, THREAD):
                raise DefinitionError(f"an executor can't be named {name!r}; that name is taken")
        self._processes = processes or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    def check(self, wanted: str | Executor) -> None:
        """Raise DefinitionError for a name that nothing here goes by."""
        if isinstance(wanted, str) and wanted not in (PROCESS, THREAD) and wanted not in self._named:
            raise DefinitionError(
                f"there is no executor {wanted!r} here; give it as Engine(..., executors={{{wanted!r}: ...}})"
            )

    def submit(self, wanted: str | Executor, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call a function there, with plain copies of its arguments.

        Raises DefinitionError for a name that is not known here, or a function that can't be sent.
        """
        self.check(wanted)
        given = tuple(_sendable(one) for one in args)
        if wanted == PROCESS:
            _check_sendable(function)
            return self._submit_to_own(function, given)
        executor = self._named[wanted] if isinstance(wanted, str) else wanted
        return executor.submit(function, *given)

    def _submit_to_own(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        for again in (True, False):
            if self._pool is None:  # spawned, not forked: a fork would inherit the open store
                self._pool = _new_pool(self._processes)
            try:
                return self._pool.submit(function, *args)
            except BrokenExecutor:
                self._pool = None
                if not again:
                    raise
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def close(self) -> None:
        """End the pool of processes, with what still runs in it; executors that were given are their owner's."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        workers = list((getattr(pool, "_processes", None) or {}).values())  # public only from Python 3.14 on
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            with contextlib.suppress(OSError, ValueError):
                worker.terminate()


def lost(error: BaseException, node: str, where: str | Executor) -> BaseException:
    """What a body's error means: a process that died under it is named, any other error is the body's own."""
    if isinstance(error, BrokenExecutor):
        name = where if isinstance(where, str) else type(where).__name__
        return ExecutorLost(f"node {node!r}: the executor {name!r} ended while its body ran there ({error})")
    return error


def _new_pool(processes: int) -> ProcessPoolExecutor:
    import multiprocessing  # noqa: PLC0415 - few engines have a pool, and all commands load this file
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - the same

    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """In a process of the pool: Ctrl-C is for the process that drives the run, which ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _sendable(value: Any) -> Any:
    return thaw(value) if isinstance(value, FrozenDict | FrozenList | Rope) else value


@functools.lru_cache(maxsize=1_024)  # functions are few and live as long as their workflow
def _check_sendable(function: Callable[..., Any]) -> None:
    from multiprocessing.reduction import ForkingPickler  # noqa: PLC0415 - few bodies are sent elsewhere

    try:
        ForkingPickler.dumps(function)  # how multiprocessing will send it, by its name
    except Exception as error:  # noqa: BLE001 - a function may be unsendable in any way
        raise DefinitionError(
            f"{getattr(function, '__qualname__', function)!r} can't be sent to another process ({error}); define it at the "
            f"top level of a module"
        ) from None

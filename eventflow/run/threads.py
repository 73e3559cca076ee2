"""Threads for plain functions: as many as are needed up to a limit, none of which keeps the process from ending.

A body that was given up goes on in its thread until it returns; a process that is told to stop must not wait for it, so
these threads are daemons (those of `concurrent.futures` are joined at exit). Nothing here knows about runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any


class Threads:
    """A pool of daemon threads."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._changed = threading.Condition()
        self._todo: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._started = self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function on a thread, in the caller's context variables; the future is its result."""
        done: Future[Any] = Future()
        here = copy_context()
        with self._changed:
            self._todo.append((done, lambda: here.run(function, *args, **kwargs)))
            if len(self._todo) <= self._idle:
                self._changed.notify()
            elif self._started < self._limit:
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return done

    def close(self) -> None:
        """Begin nothing new; what runs goes on until it returns."""
        with self._changed:
            self._closed = True
            waiting = list(self._todo)
            self._todo.clear()
            self._changed.notify_all()
        for done, _ in waiting:
            done.cancel()

    def _work(self) -> None:
        while (one := self._next()) is not None:
            done, work = one
            if done.set_running_or_notify_cancel():
                _settle(done, work)
            del one, done, work  # else an idle thread keeps the last result alive

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while not self._todo:
                if self._closed:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return self._todo.popleft()


def _settle(done: Future[Any], work: Callable[[], Any]) -> None:
    try:
        value = work()
    except StopIteration as error:  # no future of asyncio can hold one: who waits would wait for ever
        wrapped = RuntimeError("the function raised StopIteration")
        wrapped.__cause__ = error
        done.set_exception(wrapped)
    except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
        done.set_exception(error)
    else:
        done.set_result(value)

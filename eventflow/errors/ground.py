"""The one class of all errors of this package.

One base class, one child for each case a caller may want to tell apart. Each error is one sentence that says what
happened and what to do next, and carries its values as attributes. `exit_code` is what the command line returns for it
(0 ok, 1 the run failed, 2 usage, 3 not found, 4 verification failed, 5 conflict, 6 the store can't be used, 7 stopped
and resumable). Nothing may be imported here: this is the ground.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EventflowError(Exception):
    """Every error this package raises on purpose is one of these.

    They can be pickled, so that they survive the way out of a worker process.
    """

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.args, self.__dict__)


def _revived(kind: type[EventflowError], args: tuple[Any, ...], values: dict[str, Any]) -> EventflowError:
    """An error from its parts, past an `__init__` that takes others than `args`."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error

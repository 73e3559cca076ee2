"""What users test their own workflows with: crashes everywhere, a clock that skips, golden histories, a scripted model.

The names are loaded when they are first asked for: pytest imports this package at every start, for its plugin, and who
does not use it shall pay nothing, nor have modules imported before coverage looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventflow.clock import ManualClock
    from eventflow.testing.contract import LogContract
    from eventflow.testing.crash import Crash, SweepReport, crash_sweep
    from eventflow.testing.histories import golden, normalised
    from eventflow.testing.model_server import Call, ModelServer, Reply, Script
    from eventflow.testing.skipping import SkippingClock

__all__ = [
    "Call",
    "Crash",
    "LogContract",
    "ManualClock",
    "ModelServer",
    "Reply",
    "Script",
    "SkippingClock",
    "SweepReport",
    "crash_sweep",
    "golden",
    "normalised",
]


def __getattr__(name: str) -> Any:
    match name:
        case "ManualClock":
            from eventflow.clock import ManualClock  # noqa: PLC0415 - see the docstring

            return ManualClock
        case "LogContract":
            from eventflow.testing.contract import LogContract  # noqa: PLC0415 - see the docstring

            return LogContract
        case "SkippingClock":
            from eventflow.testing.skipping import SkippingClock  # noqa: PLC0415 - see the docstring

            return SkippingClock
        case "Crash" | "SweepReport" | "crash_sweep":
            from eventflow.testing import crash  # noqa: PLC0415 - see the docstring

            return getattr(crash, name)
        case "golden" | "normalised":
            from eventflow.testing import histories  # noqa: PLC0415 - see the docstring

            return getattr(histories, name)
        case "Call" | "ModelServer" | "Reply" | "Script":
            from eventflow.testing import model_server  # noqa: PLC0415 - see the docstring

            return getattr(model_server, name)
    raise AttributeError(f"module 'eventflow.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

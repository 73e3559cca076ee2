"""Crashes at every durable boundary of a workflow: the sweep, one file a part of it.

`sweep` plans and gathers, `life` drives a run once, `boundary` is the log that dies, `witness` what the outside saw,
`examination` compares, `report` says it, `processes` and `child` do the same with real processes, `faults` are bugs
planted on purpose.
"""

from eventflow.testing.crash.faults import Fault
from eventflow.testing.crash.report import Crash, SweepReport
from eventflow.testing.crash.sweep import crash_sweep

__all__ = ["Crash", "Fault", "SweepReport", "crash_sweep"]

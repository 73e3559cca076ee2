"""Rehearsal: today's code asked about recorded histories, without a step being taken or anything outside being called.

`routes` asks guards, `stage` also runs bodies with recorded calls served to them, `apart` does either in a process of its
own behind a `fence`. The one place where replay decides anew.
"""

from replay.rehearse.apart import Limits, RehearsalFailed, Source, rehearse_apart
from replay.rehearse.migration import migration
from replay.rehearse.report import Finding, Receipt, Rehearsal, RunReport, together
from replay.rehearse.routes import Bodies, Outcome, chosen, rehearse, rehearse_run

__all__ = [
    "Bodies",
    "Finding",
    "Limits",
    "Outcome",
    "Receipt",
    "Rehearsal",
    "RehearsalFailed",
    "RunReport",
    "Source",
    "chosen",
    "migration",
    "rehearse",
    "rehearse_apart",
    "rehearse_run",
    "together",
]

"""eventflow beside other systems that keep a program's steps: the same work, on the same disk, in one run.

The workers of other systems import this package in environments without eventflow, so nothing is imported here at first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.figures import Figure, Size
    from benchmarks.progress import Progress

ABOUT = """
The same work in LangGraph, DBOS, eventsourcing, Burr and Restate, each in an environment of its own that the first run makes
under `~/.cache/eventflow/peers` (or `XDG_CACHE_HOME`), with the versions and settings of `benchmarks/peers/systems.py`; so this
question is only asked by name: `python -m benchmarks peers`. One program (`benchmarks/peers/wire.py`) asks all of them and
eventflow, each turn in a process of its own, in rounds that begin with another one each time. Each system is
quoted with its best turn, eventflow as the baseline of the others, and the ratio is how many times eventflow's figure the
peer's is; where a peer is ahead, the note says so.

*a step* is all from the end of one step's body to the begin of the next, durable in between; a state of two small fields.
*syncs* are calls of fsync, fdatasync, msync and sync_file_range a step, as `strace` counts them; LMDB's meta page, written once a
commit through a file opened with O_DSYNC, is not among them. *runs* start, take their steps and end, all
at once; a peer that can do that in several ways is quoted with its best. Steps that *add 1 KB* add a text of 1,024 random
base64 characters to a list; *on disk* is what they have added to the store's files when it is closed. *latest* is the
newest state read from the store, *asked again* the same by who has asked before (eventflow's handle looks whether the run has
moved; to the others it makes no difference, so their figure is that of *latest*), *any state* that after a random step, *history*
all entries, each after a first reading that is not counted; a system that does not offer one has no line for it. docs/performance.md has the figures side by
side, and says what is compared and what the others do better.
"""


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Each system by turns; what can't be installed is skipped and named."""
    from benchmarks.peers import measuring  # noqa: PLC0415 - see above

    return measuring.measure(size, place, progress)

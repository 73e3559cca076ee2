"""What an operation must pass that removes something, or that is about what was removed; shared by all backends.

The rules themselves stand in `eventflow.log.removal`; here is what they say of an append and of an act.
"""

from __future__ import annotations

from eventflow.errors import Conflict
from eventflow.log.protocol import Act, Append
from eventflow.log.removal import check_above, rewind_target


def check_origin(act: Act) -> None:
    """Refuse a compaction without the snapshot that its run shall begin with, vouched for by the same event. Raises Conflict."""
    compact, upkeep = act.compact, act.upkeep
    packed = upkeep.snapshot if upkeep is not None else None
    if compact is None:
        return
    named = act.event.header.get("snapshot")
    if upkeep is None or packed is None or [packed.version, packed.digest] != named or packed.version != compact.at:
        raise Conflict("a compaction comes with the snapshot at its version, which its event names")
    if upkeep.run_key != compact.run_key:
        raise Conflict("a compaction comes with a snapshot of the same run")


def check_rewinds(append: Append, origin: int) -> None:
    """Refuse a rewind to before the run's origin: it was decided before the run was compacted. Raises VersionCompacted."""
    for packed in append.events:
        to = rewind_target(packed)
        if to is not None:
            check_above(append.run_id, to, origin, append.expected)

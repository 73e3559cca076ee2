"""What is kept and what goes: pruning by rules, pins and legal holds, compaction, and blobs given back.

Everything here works in small steps, each a transaction of its own, and may be killed and repeated. What somebody needs (a
fork's parent, an open run, a held one) is refused by the log itself, in the transaction that would remove it.
"""

from eventflow.retention.compacting import Compacted, compact_run
from eventflow.retention.guarding import hold, pin, release, unpin
from eventflow.retention.policy import OVER, RetentionPolicy
from eventflow.retention.pruning import Plan, Pruned, Stays, planned, prune
from eventflow.retention.sweeping import Freed, blobs_of, sweep, tidy

__all__ = [
    "OVER",
    "Compacted",
    "Freed",
    "Plan",
    "Pruned",
    "RetentionPolicy",
    "Stays",
    "blobs_of",
    "compact_run",
    "hold",
    "pin",
    "planned",
    "prune",
    "release",
    "sweep",
    "tidy",
    "unpin",
]

"""Does a history hold? Every byte of it is read again, strictly, and compared with everything that speaks of it.

Chain, density, decoding, legality of each event, snapshots and checkpoints against folds, blobs against their digests,
heads, lists, positions. Reading only; needs none of the user's code. What is not seen here: a tail cut off together with
its head, or a store rewritten whole by somebody who can write to it; that takes a digest kept elsewhere.
"""

from eventflow.verification.one_run import verify_run
from eventflow.verification.report import Finding, Report
from eventflow.verification.store import verify_store

__all__ = ["Finding", "Report", "verify_run", "verify_store"]

"""What makes a history provable: digests, the Merkle tree over a store, signed heads, proofs as files.

Bytes in, bytes out: nothing here reads a log or makes a signature.
"""

from eventflow.proof.digests import DIGEST_SIZE, digest, genesis

__all__ = ["DIGEST_SIZE", "digest", "genesis"]

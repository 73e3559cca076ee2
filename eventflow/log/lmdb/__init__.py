"""The log in an LMDB file: a directory, an environment, and the tables in it. The only folder that imports lmdb."""

from eventflow.log.lmdb.store import LmdbLog

__all__ = ["LmdbLog"]

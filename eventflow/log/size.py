"""How large a log is, asked in a way that costs little, whatever it holds, and making it less; `usage` counts rows and may take long."""

from __future__ import annotations

from eventflow.log.protocol import Log


def held_bytes(log: Log) -> int:
    """Bytes of all that a log holds, without pages that are free: asked by `held_bytes()` of its own, if it brings one."""
    own = getattr(log, "held_bytes", None)
    return int(own()) if own is not None else sum(log.usage().bytes.values())


def shrink(log: Log) -> int:
    """Give back the room of what was deleted in one part of a log, if it is kept in parts and that is worth it; bytes."""
    worth = getattr(log, "rewritable", None)
    chosen = worth() if worth is not None else []
    if not chosen:
        return 0
    before, after = log.rewrite(chosen[0])  # type: ignore[attr-defined] # whoever has the one has the other
    return int(before - after)

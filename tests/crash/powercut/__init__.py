"""Power cuts without cutting power: what a store asked the disk for, and every state in which the disk may have been left.

`load` is what is recorded, `trace` reads the record, `disk` is a disk that may lose what was not synced, `judge` opens what
is left with the real recovery. The tests stand in `test_power_cuts.py`.
"""

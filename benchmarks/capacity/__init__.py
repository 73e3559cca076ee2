"""How large it may become: a small store is measured, a load is simulated on those numbers, and what breaks first is computed.

`python -m benchmarks.capacity` is a program of its own; its tables stand in docs/scale.md.
"""

"""Simulations: the real engine on one thread, with time, chance and storage from a seed. `python -m` runs many.

A simulation that fails prints its seed; the same seed fails again in the same way.
"""

from __future__ import annotations

from eventflow.testing.simulation.running import Simulated, simulate
from eventflow.testing.simulation.storage import PLANTS, Odds, Plant

__all__ = ["PLANTS", "Odds", "Plant", "Simulated", "simulate"]

"""Fixtures that any test may ask for; nothing here knows about one module."""

from __future__ import annotations

import pytest

from eventflow.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()

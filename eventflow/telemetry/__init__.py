"""Recorded events told to others: as log lines, as spans, as counters. Listeners, all of them.

A listener is called after the commit, so nothing here can delay or undo a fact. Names, numbers and times leave the
process this way; what users wrote never does. OpenTelemetry and the Prometheus client are loaded when they are asked for.
"""

from eventflow.telemetry.lines import EVENT_NAMES, log_lines, to_stderr
from eventflow.telemetry.meters import meters
from eventflow.telemetry.prometheus import Metrics, Served
from eventflow.telemetry.spans import spans

__all__ = ["EVENT_NAMES", "Metrics", "Served", "log_lines", "meters", "spans", "to_stderr"]

"""The same counts and durations as a page that Prometheus reads. The only file that imports the Prometheus client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventflow.errors import MissingExtra, SettingsError
from eventflow.run import Notice
from eventflow.state import State
from eventflow.telemetry.measures import INSTRUMENTS, Instrument, Measuring

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram

_UNITS = {"s": "_seconds", "By": "_bytes"}  # what Prometheus wants at the end of a name; counts have no unit there


@dataclass(frozen=True, slots=True)
class Served:
    """Where metrics are served, and what ends it."""

    host: str
    port: int
    close: Callable[[], None]


class Metrics:
    """A listener that counts and times, and gives it out in Prometheus's text format.

    Give it to an engine as it is: `Engine(..., listeners=[metrics])`. It keeps a registry of its own. Raises MissingExtra
    where the Prometheus client is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry  # noqa: PLC0415 - an extra
        except ImportError:
            raise MissingExtra("prometheus_client", "metrics") from None
        self.registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
        self._made = {one: _made(self.registry, one) for one in INSTRUMENTS}
        self._measuring = Measuring()

    def __call__(self, state: State, notice: Notice) -> None:
        """Count and time what a notice tells of."""
        for instrument, value, labels in self._measuring.of(state, notice):
            made = self._made[instrument]
            if instrument.buckets:
                made.labels(*labels).observe(value)  # type: ignore[union-attr]
            else:
                made.labels(*labels).inc(value)  # type: ignore[union-attr]

    def text(self) -> str:
        """All of it in the text exposition format, as it stands now."""
        from prometheus_client import generate_latest  # noqa: PLC0415 - an extra

        return generate_latest(self.registry).decode()

    def serve(self, port: int, host: str = "127.0.0.1") -> Served:
        """Serve the text over HTTP from a thread of its own; port 0 takes any that is free.

        Nothing guards it: bind it to an address that only those reach who may read it. Raises SettingsError where that
        address can't be had.
        """
        from prometheus_client import start_http_server  # noqa: PLC0415 - an extra

        try:
            server, thread = start_http_server(port, addr=host, registry=self.registry)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise SettingsError(f"metrics can't be served at {host}:{port} ({why}); choose another address") from None

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return Served(host, server.server_port, close)


def _made(registry: CollectorRegistry, one: Instrument) -> Counter | Histogram:
    from prometheus_client import Counter, Histogram  # noqa: PLC0415 - an extra

    name = one.name.replace(".", "_") + _UNITS.get(one.unit, "")
    labels = [label.rpartition(".")[2] for label in one.labels]
    if one.buckets:
        return Histogram(name, one.text, labels, registry=registry, buckets=one.buckets)
    return Counter(name, one.text, labels, registry=registry)

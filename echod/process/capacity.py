"""How the open-file limit is shared between connections, the metrics port and a margin."""

from __future__ import annotations

from dataclasses import dataclass

from echod.config.options import Config
from echod.errors import SystemRefused

METRICS_CLIENTS = 100
"""Concurrent clients of the metrics port, if the open-file limit is high enough."""
MARGIN = 64
"""File descriptors for brief uses: reading /proc for a scrape, notifying systemd, loading a
library, accepting a connection in order to reject it. If the limit is high enough."""
SHARE = 3
"""The two above together get at most one free descriptor in this many."""
LEAST_METRICS_CLIENTS, LEAST_MARGIN = 4, 8
"""But at least these."""
RAISE_IT = "raise it: ulimit -Hn, or LimitNOFILE= of a unit"


@dataclass(frozen=True)
class Capacity:
    """The limits that fit: connections on all ports together, and clients of the metrics port."""

    open_files: int  # the limit
    connections: int
    metrics_clients: int

    def lowered(self, config: Config) -> bool:
        """Whether it is lower than the user's setting or the default."""
        clients = self.metrics_clients
        return self.connections < config.max_connections or 0 < clients < METRICS_CLIENTS


def capacity(config: Config, limit: int, taken: int, *, metrics: bool) -> Capacity:
    """Share ``limit`` file descriptors, of which an idle process needs ``taken``.

    ``metrics``: whether there is a metrics port. Raises SystemRefused if not even one connection
    fits, or if the user's connection limit does not.
    """
    free = limit - taken
    most = METRICS_CLIENTS + MARGIN
    both = min(max(free // SHARE, LEAST_METRICS_CLIENTS + LEAST_MARGIN), most)
    margin = max(both * MARGIN // most, LEAST_MARGIN)
    clients = (both - margin) * metrics
    room = free - margin - clients
    if room < 1:
        raise SystemRefused(
            f"the open-file limit of {limit} leaves no connection: echod itself needs"
            f" {limit - room} file descriptors ({RAISE_IT})"
        )
    wanted = config.max_connections
    if wanted > room and "max_connections" in config.given:
        raise SystemRefused(
            f"--max-connections {wanted}: the open-file limit of {limit}"
            f" allows {room} at most ({RAISE_IT})"
        )
    unused = max(room - wanted, 0)  # not needed by connections, so the metrics port may use it
    return Capacity(limit, min(wanted, room), min(clients + unused, METRICS_CLIENTS * metrics))

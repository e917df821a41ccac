"""How the open-file limit is shared between connections, the metrics port and a margin."""

from __future__ import annotations

from dataclasses import dataclass

from echod.config.options import Config
from echod.errors import SystemRefused

METRICS_CLIENTS = 100
"""Clients of the metrics port at a time, where the open-file limit is large enough."""
MARGIN = 64
"""File descriptors for short uses: reading /proc for a scrape, notifying systemd, loading a
library, a connection that is accepted to be rejected. Where the limit is large enough."""
SHARE = 3
"""Both together get one in so many of the descriptors that are free, if that is less."""
LEAST_METRICS_CLIENTS, LEAST_MARGIN = 4, 8
"""But not fewer than these."""
RAISE_IT = "raise it: ulimit -Hn, or LimitNOFILE= of a unit"


@dataclass(frozen=True)
class Capacity:
    """What fits: connections on all ports together, and clients of the metrics port."""

    open_files: int  # the limit
    connections: int
    metrics_clients: int

    def lowered(self, config: Config) -> bool:
        """Whether it is less than the user has set, or than the default."""
        clients = self.metrics_clients
        return self.connections < config.max_connections or 0 < clients < METRICS_CLIENTS


def capacity(config: Config, limit: int, taken: int, *, metrics: bool) -> Capacity:
    """Share ``limit`` file descriptors, of which the process itself needs ``taken`` at rest.

    ``metrics``: whether there is a metrics port. Raises SystemRefused if nothing fits, or if
    a connection limit that the user has set does not.
    """
    free = limit - taken
    most = METRICS_CLIENTS + MARGIN
    both = min(max(free // SHARE, LEAST_METRICS_CLIENTS + LEAST_MARGIN), most)
    margin = max(both * MARGIN // most, LEAST_MARGIN)
    clients = (both - margin) * metrics
    room = free - margin - clients
    if room < 1:
        raise SystemRefused(
            f"the open-file limit of {limit} has no room for a connection: echod itself needs"
            f" {limit - room} file descriptors ({RAISE_IT})"
        )
    wanted = config.max_connections
    if wanted > room and "max_connections" in config.given:
        raise SystemRefused(
            f"--max-connections {wanted}: the open-file limit of {limit}"
            f" holds {room} at most ({RAISE_IT})"
        )
    unused = max(room - wanted, 0)  # by connections: the metrics port may have it
    return Capacity(limit, min(wanted, room), min(clients + unused, METRICS_CLIENTS * metrics))

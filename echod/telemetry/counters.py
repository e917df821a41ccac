"""The counters of one thread for one port: plain integers with a single writer and no lock."""

from bisect import bisect_left

CLOSE_REASONS = (
    "eof",
    "reset",
    "timeout",
    "idle",
    "max_age",
    "line_too_long",
    "buffer_limit",
    "write_timeout",
    "drain",
    "drain_timeout",
    "error",
    "unused",  # the client closed it without sending a byte
)
REJECT_REASONS = ("limit",)
ACCEPT_ERROR_REASONS = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "other")

DURATION_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the connection duration histogram, in seconds; +Inf follows."""


class Counters:
    """Counters of one thread for one port. Only that thread writes; every thread may read."""

    __slots__ = (
        "accept_errors",
        "ends",
        "opened",
        "received",
        "rejected",
        "requests",
        "seconds",
        "sent",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.requests = 0
        self.received = 0  # bytes, client to server
        self.sent = 0  # bytes, server to client
        # One table by reason and duration: a scrape could see two tables in different states.
        self.ends = {reason: [0] * (len(DURATION_BUCKETS) + 1) for reason in CLOSE_REASONS}
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)
        self.accept_errors = dict.fromkeys(ACCEPT_ERROR_REASONS, 0)
        self.seconds = 0.0

    def count_closed(self, reason: str, seconds: float) -> None:
        """Count the close of a connection: one of CLOSE_REASONS, and its duration in seconds."""
        total = self.seconds + seconds  # first: if memory runs out here, nothing is counted
        self.ends[reason][bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.seconds = total

    def count_dropped(self, size: int) -> None:
        """Count bytes received after the close of a connection, which get no reply."""
        self.received += size

    @property
    def closed(self) -> dict[str, int]:
        """Closed connections by reason."""
        return {reason: sum(counts) for reason, counts in self.ends.items()}

    @property
    def durations(self) -> list[int]:
        """Closed connections by bucket of DURATION_BUCKETS, not cumulative."""
        return [sum(counts) for counts in zip(*self.ends.values(), strict=True)]


class PortCounters:
    """All the counters of one port, summed at scrape time."""

    def __init__(self, port: int, parts: list[Counters]) -> None:
        self.port = port
        self._parts = parts

    def total(self) -> Counters:
        """The sum over all threads. In it, closed connections never exceed opened ones, and the
        durations are those of the closed connections.

        Closes are read first. A connection that opens and closes during the sum can then count as
        opened only.
        """
        total = Counters()
        for part in self._parts:
            for reason, counts in part.ends.items():
                for bucket, count in enumerate(counts):
                    total.ends[reason][bucket] += count
            total.seconds += part.seconds
        for part in self._parts:
            total.opened += part.opened
            total.sent += part.sent
            total.requests += part.requests
            total.received += part.received
            for name, count in part.rejected.items():
                total.rejected[name] += count
            for name, count in part.accept_errors.items():
                total.accept_errors[name] += count
        return total
